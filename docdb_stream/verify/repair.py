"""Makes equal what is not: what the source holds is sent once more, and what it does not hold is deleted.

Through the stream's own steps, to the one target, with the cluster time T that the cluster had before the source was
read: what is sent is the state of T or a later one, so it wins over all that was before T, and every change after T
wins over it. That is what makes it safe beside a run, when it is done twice, and when it dies half way.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field

from bson import Timestamp

from docdb_stream.delivery import Delivery
from docdb_stream.events import ChangeEvent, Events
from docdb_stream.held import Held, Holdings
from docdb_stream.position import Namespace
from docdb_stream.snapshot_event import delete_event
from docdb_stream.source import ChangeSource, LookupSource
from docdb_stream.target import Rejection
from docdb_stream.verify.changes import check_time, name_of
from docdb_stream.verify.claims import LOOKED_UP_AT_ONCE, Judged, Origin
from docdb_stream.verify.expected import Expectations

ExpectationsAt = Callable[[str, Timestamp], Expectations]
"""Makes expectations whose events have this id and time."""
OriginsOf = Callable[[Held], Sequence[Origin]]


class Repair:
    """Repairs claims that are proven.

    Args:
        documents: The source's documents.
        changes: Its clock.
        holdings: The target's.
        delivery: To the target alone; what is rejected is told, and comes to no dead letters.
        expectations: What the target should have.
        origins_of: The documents of the source that one of the target comes of where no step changes keys.
        keeps_exits: See ``Judge``.
        keeps_deleted: See ``Judge``.
    """

    def __init__(
        self,
        documents: LookupSource,
        changes: ChangeSource,
        holdings: Holdings,
        delivery: Delivery,
        expectations: ExpectationsAt,
        origins_of: OriginsOf,
        *,
        keeps_exits: bool,
        keeps_deleted: bool,
    ) -> None:
        self._documents = documents
        self._changes = changes
        self._holdings = holdings
        self._delivery = delivery
        self._expectations = expectations
        self._origins_of = origins_of
        self._keeps_exits = keeps_exits
        self._keeps_deleted = keeps_deleted

    def repair(self, judged: Sequence[Judged]) -> Sequence[Rejection]:
        """Send what makes them equal; returns what the target does not take. Durable on return.

        Raises:
            SourceUnavailableError, TargetError, StepError, UnequalError: Some of it may have been sent; the rest is
                found again.
        """
        time = self._changes.operation_time()
        expectations = self._expectations(f"repair-{uuid.uuid4().hex[:12]}", time)
        origins = {each.claim.held[:2]: each.claim.origins or self._origins_of(each.held) for each in judged}
        with self._delivery as delivery:
            sent = self._send(expectations, {one for some in origins.values() for one in some}, time)
            may_go = {each.claim.held[:2] for each in judged if self._may_go(each, origins[each.claim.held[:2]], sent)}
            for each in judged:
                if each.claim.held[:2] in may_go:
                    self._delete(expectations, each.claim.held[:2], origins[each.claim.held[:2]], time, may_go)
            return delivery.flush()

    def _send(self, expectations: Expectations, origins: Iterable[Origin], time: Timestamp) -> _Sent:
        """Send what there is of these documents."""
        sent = _Sent()
        by_namespace: dict[Namespace, list[bytes]] = {}
        for namespace, id in origins:
            by_namespace.setdefault(namespace, []).append(id)
        for namespace, ids in by_namespace.items():
            for start in range(0, len(ids), LOOKED_UP_AT_ONCE):
                check_time()
                for page in self._documents.find(namespace, ids[start : start + LOOKED_UP_AT_ONCE], since=time):
                    outcomes = expectations.outcomes(namespace, page.documents) if page.documents else ()
                    sent.held.update(held[:2] for outcome in outcomes for held in outcome.held)
                    sent.found |= {name_of(namespace, outcome.id): outcome.is_rejected for outcome in outcomes}
                    self._write([event for outcome in outcomes for event in outcome.events])
        return sent

    def _may_go(self, judged: Judged, origins: Sequence[Origin], sent: _Sent) -> bool:
        """Whether a document of the target is the stream's, and neither the source nor a setting has it stay."""
        found = [sent.found[name] for name in (name_of(*origin) for origin in origins) if name in sent.found]
        is_kept = self._keeps_exits if found else self._keeps_deleted
        is_there = judged.held.digest is not None and judged.held.is_own is True
        return is_there and not is_kept and not any(found) and judged.claim.held[:2] not in sent.held

    def _delete(
        self,
        expectations: Expectations,
        key: tuple[str, bytes],
        origins: Sequence[Origin],
        time: Timestamp,
        may_go: Collection[tuple[str, bytes]],
    ) -> None:
        """Send the delete of a document of the target: that of the first document of the source whose delete the steps
        make into a delete of this one, and of none that is to stay."""
        for namespace, id in origins:
            made = expectations.passed(
                Events.of([delete_event(f"repair-{uuid.uuid4().hex[:12]}", namespace, id, time)])
            )
            becomes = [one for one in (self._holdings.expected(event) for event in made) if one is not None]
            keys = {one[:2] for one in becomes if one.digest is None and one[:2] in may_go}
            if key in keys and len(keys) == len(becomes):
                self._write(made)
                return

    def _write(self, events: Sequence[ChangeEvent]) -> None:
        if events:
            self._delivery.write(events, sum(event.size_bytes for event in events))


@dataclass(slots=True)
class _Sent:
    """What was sent.

    Attributes:
        held: What the target has of it.
        found: The names of the documents that there were; of each, whether a step or the target rejects it.
    """

    held: set[tuple[str, bytes]] = field(default_factory=set)
    found: dict[str, bool] = field(default_factory=dict)
