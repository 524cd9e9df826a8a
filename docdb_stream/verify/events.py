"""Compares a log with the source: whether each event of a window is there, by its id.

The window ends where the stream's saved position is: all before it is durable, so nothing has to be waited for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from typing import Final

from bson import Timestamp

from docdb_stream import step
from docdb_stream.context import current_deadline
from docdb_stream.derived_update import is_derived
from docdb_stream.errors import ConfigError, HistoryLostError
from docdb_stream.events import Batch, ChangeEvent, Events, Position
from docdb_stream.held import Held
from docdb_stream.recorded import Record
from docdb_stream.source import ChangeSource
from docdb_stream.step import Step, origin_of
from docdb_stream.target import Target, announced
from docdb_stream.verify.changes import READ_WAIT_S, check_time
from docdb_stream.verify.claims import Claim, Judged, Verdict
from docdb_stream.verify.result import Progress, VerifyResult

EVENTS_MOST: Final = 1_000_000
"""Of a window: their ids are kept, some 150 bytes each."""


class EventsVerification:
    """One log, compared once.

    Args:
        stream: The stream's name.
        changes: The source's change log, as the stream reads it.
        steps: The stream's steps.
        target: The target.
        record: What it tells.
        since: The window is of what happened after this,
        until: and before this.
        is_sure: Whether an event, as it is before the steps, was to be delivered if it is to be today. Others are not
            missing where they are not there.
        progress: Told how far it is.
    """

    def __init__(
        self,
        stream: str,
        changes: ChangeSource,
        steps: Sequence[Step],
        target: Target,
        record: Record,
        *,
        since: Timestamp,
        until: Timestamp,
        is_sure: Callable[[ChangeEvent], bool],
        progress: Progress = lambda *_: None,
    ) -> None:
        self._changes = changes
        self._steps = steps
        self._target = target
        self._record = record
        self._since, self._until = since, until
        self._is_sure = is_sure
        self._progress = progress
        self._expected: dict[str, _Expected] = {}
        self._result = VerifyResult(stream, target.name, until, counted="events")

    def run(self) -> VerifyResult:
        """Compare.

        Raises:
            UnequalError: The time was over before.
            ConfigError: The window has too many events, or begins before what the change log still has.
            SourceUnavailableError, TargetError, StepError: As for a run.
        """
        clock = current_deadline().clock
        began_s = clock()
        self._expect_all()
        if self._expected:
            self._find_all()
        missing = [self._judged(event_id, found) for event_id, found in self._expected.items() if not found.times]
        self._result.take(missing)
        self._result.duration_s = clock() - began_s
        return self._result

    def _expect_all(self) -> None:
        """Read the window from the change log."""
        try:
            with closing(self._changes.open(Position(operation_time=self._since))) as stream:
                reached: Timestamp | None = None
                while reached is None or reached < self._until:
                    check_time()
                    batch = stream.read(READ_WAIT_S)
                    self._expect(batch)
                    self._progress("reading the change log", len(self._expected), None)
                    reached = batch.position.operation_time
        except HistoryLostError as error:
            raise ConfigError(
                f"the change log does not reach back to {self._since.as_datetime()}, where the window begins",
                hint="give a shorter --window",
            ) from error

    def _expect(self, batch: Batch) -> None:
        events = [event for event in batch.events if event.cluster_time < self._until]
        self._result.rejected += sum(each.event.cluster_time < self._until for each in batch.rejected)
        unsure = {event.event_id for event in events if not self._is_sure(event)}
        made = step.apply(self._steps, events)
        self._result.rejected += len(made.rejected)
        delivered = Events(event for event in made.events if not is_derived(event))
        delivered.want(announced([self._target]))
        for event, place in zip(delivered, self._record.places(delivered), strict=True):
            if place is None:
                self._result.rejected += 1
                continue
            self._expected[event.event_id] = _Expected(place, origin_of(event) not in unsure)
            self._result.place(place).documents += 1
        if len(self._expected) > EVENTS_MOST:
            raise ConfigError(f"the window has more than {EVENTS_MOST:,} events", hint="give a shorter --window")

    def _find_all(self) -> None:
        """Look for them in the log."""
        places = dict.fromkeys(each.place for each in self._expected.values())
        count = 0
        for event_ids in self._record.told([*places], self._since.as_datetime()):
            check_time()
            for event_id in event_ids:
                if (found := self._expected.get(event_id)) is not None:
                    found.times += 1
                    self._result.again += found.times > 1
            count += len(event_ids)
            self._progress("reading the target", count, None)

    def _judged(self, event_id: str, expected: _Expected) -> Judged:
        held = Held(expected.place, event_id.encode(), None)
        verdict: Verdict = "missing" if expected.is_sure else "unsure"
        return Judged(Claim(held, ()), verdict, held)


class _Expected:
    """An event that should be there."""

    __slots__ = ("is_sure", "place", "times")

    def __init__(self, place: str, is_sure: bool) -> None:
        self.place = place
        self.is_sure = is_sure
        self.times = 0
