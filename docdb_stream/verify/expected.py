"""What a target should have of documents: the stream's own steps, and the target's own word."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bson import Timestamp

from docdb_stream import step
from docdb_stream.derived_update import is_derived
from docdb_stream.errors import UnrenderableError
from docdb_stream.events import ChangeEvent, Events
from docdb_stream.formats.part import Reading
from docdb_stream.held import AsTheyAre, Held, Holdings
from docdb_stream.position import Namespace
from docdb_stream.snapshot_event import SnapshotEvents, id_elements
from docdb_stream.step import Step, origin_of


@dataclass(frozen=True, slots=True)
class Outcome:
    """What should become of one document of the source.

    Attributes:
        namespace: Its collection.
        id: Its element ``_id``.
        held: What the target should have of it; empty where the steps leave it out.
        is_rejected: A step or the target rejects it, so that it is in the dead letters.
        events: What the steps leave of it for targets of documents.
    """

    namespace: Namespace
    id: bytes
    held: Sequence[Held]
    is_rejected: bool
    events: Sequence[ChangeEvent] = ()


class Expectations:
    """Asks steps and target.

    Args:
        steps: The stream's.
        holdings: The target's.
        formats: What the target asks of events, see ``target.announced``.
        id: Names the events that are made of documents, as a snapshot's.
        time: Their cluster time.
    """

    def __init__(
        self, steps: Sequence[Step], holdings: Holdings, formats: Sequence[Reading[object]], id: str, time: Timestamp
    ) -> None:
        self._steps = steps
        self._holdings = holdings
        self._formats = formats
        self._id = id
        self._time = time

    def of(self, namespace: Namespace, documents: Sequence[bytes]) -> tuple[Sequence[Held], int]:
        """What the target should have of documents of a collection, whichever document it comes of; and how many
        events a step or the target rejects.

        Raises:
            StepError: As a run.
        """
        if not self._steps and isinstance(self._holdings, AsTheyAre):
            return self._holdings.as_they_are(namespace, documents), 0
        made = step.apply(self._steps, self.events(namespace, documents))
        found: dict[tuple[str, bytes], Held] = {}
        rejected = len(made.rejected)
        for event in self._together(made.events):
            held, is_rejected = self._expected(event)
            rejected += is_rejected
            if held is not None:
                found[held.place, held.key] = held
        return [held for held in found.values() if held.digest is not None], rejected

    def outcomes(self, namespace: Namespace, documents: Sequence[bytes]) -> Sequence[Outcome]:
        """The same for each document. Raises as ``of``."""
        events = self.events(namespace, documents)
        names = [event.event_id for event in events]
        made = step.apply(self._steps, events)
        held: dict[str, dict[tuple[str, bytes], Held]] = {name: {} for name in names}
        left: dict[str, list[ChangeEvent]] = {name: [] for name in names}
        rejected = {origin_of(rejection.event) for rejection in made.rejected}
        for event in self._together(made.events):
            origin = origin_of(event)
            left[origin].append(event)
            one, is_rejected = self._expected(event)
            if is_rejected:
                rejected.add(origin)
            if one is not None:
                held[origin][one.place, one.key] = one
        return [
            Outcome(
                namespace,
                id,
                [one for one in held[name].values() if one.digest is not None],
                name in rejected,
                left[name],
            )
            for id, name in zip(id_elements(documents), names, strict=True)
        ]

    def events(self, namespace: Namespace, documents: Sequence[bytes]) -> Events:
        """The events of documents, before the steps."""
        return Events.of(SnapshotEvents(self._id, self._time, namespace).all_of(documents, id_elements(documents)))

    def passed(self, events: Sequence[ChangeEvent]) -> Sequence[ChangeEvent]:
        """What the steps leave of events that targets of documents get. Raises as ``of``."""
        return self._together(step.apply(self._steps, events).events)

    def _together(self, events: Sequence[ChangeEvent]) -> Sequence[ChangeEvent]:
        together = events if isinstance(events, Events) else Events(events)
        together.want(self._formats)
        return [event for event in together if not is_derived(event)]

    def _expected(self, event: ChangeEvent) -> tuple[Held | None, bool]:
        """What the target has after the event, and whether it would reject it."""
        try:
            return self._holdings.expected(event), False
        except UnrenderableError:
            return None, True
