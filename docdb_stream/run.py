"""The run: reads batches, sends them through the steps to the targets, saves checkpoints, knows when to stop.

Owns the order of things on which the guarantees rest: a position is saved only once everything before it is settled
(``Delivery.settle``). Nothing else saves checkpoints.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from bson import Timestamp

from docdb_stream import step
from docdb_stream.beginning import Beginning
from docdb_stream.checkpoint import CheckpointStore, LedgerEntry
from docdb_stream.context import current_run
from docdb_stream.delivery import Delivery
from docdb_stream.errors import OUT_OF_TIME, DocdbStreamError, HistoryLostError, SourceUnavailableError
from docdb_stream.events import Batch, ChangeEvent, Position
from docdb_stream.lease import LeaseKeeper, held_lease
from docdb_stream.mongodb.readahead import ReadAhead
from docdb_stream.owner import owner_name
from docdb_stream.pace import Pace
from docdb_stream.result import RunResult
from docdb_stream.schemas import Schemas
from docdb_stream.settings import Settings
from docdb_stream.snapshot.beside import Snapshot, told_of
from docdb_stream.snapshot.pages import is_past
from docdb_stream.source import SLOW_OPEN_HINT, ChangeSource
from docdb_stream.step import Step
from docdb_stream.tally import Tally

logger = logging.getLogger(__name__)

FOLLOW_LEASE_S = 10.0
"""How long the lease of a run that follows lasts at most. It is renewed all the time, and what stands by should not
have to wait longer after a crash of the machine than for other tools to come back (8 to 11 s were measured)."""

RESTARTS = 3
"""How often one run starts again after a lost position (ON_HISTORY_LOST): the log may move on once more meanwhile."""

TAKE_WAIT_S = 0.25
"""How soon a run notices that it is asked to stop, or that its deadline is near, while nothing arrives."""


class Run:
    """One run's state: the lease, the position, and what is not saved yet. Used once, within ``context.running``.

    Args:
        settings: The stream.
        source: Where events come from.
        store: Where checkpoints are.
        steps: What events go through on the way.
        delivery: Where they go.
        snapshot: Beside the stream.
        schemas: What is known of what is delivered.
        beginning: Where it goes on.
        progress: Called after every loop and checkpoint with the result so far.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        source: ChangeSource,
        store: CheckpointStore,
        steps: Sequence[Step],
        delivery: Delivery,
        snapshot: Snapshot,
        schemas: Schemas,
        beginning: Beginning,
        progress: Callable[[RunResult], None],
    ) -> None:
        self._settings = settings
        self._source = source
        self._store = store
        self._steps = steps
        self._delivery = delivery
        self._snapshot = snapshot
        self._schemas = schemas
        self._beginning = beginning
        self._progress = progress
        self._context = current_run()
        self._limit = self._context.deadline
        self._pace = Pace(self._limit)
        self._result = RunResult(settings.stream_name)
        self._unsaved_events = self._unsaved_loops = 0
        self._tally = Tally(settings.scope)
        self._saved: Position | None = None
        self._is_open = self._is_drained = False
        self._gaps: list[LedgerEntry] = []

    @property
    def _position(self) -> Position:
        assert self._result.position is not None
        return self._result.position

    def run(self, follow: bool) -> RunResult:
        """Take the lease, read and deliver, give the lease back. Called once; see Poller.run."""
        settings, result = self._settings, self._result
        try:
            duration_s = min(settings.lease_seconds, FOLLOW_LEASE_S) if follow else settings.lease_seconds
            with held_lease(self._store, settings.stream_name, settings.scope, owner_name(), duration_s) as keeper:
                self._context.lease_check, self._context.lease_epoch = keeper.check, keeper.epoch
                until = self._source.operation_time()
                result.position = self._schemas.begin(self._beginning.at_start(keeper))
                result.began_at, result.verified = self._beginning.began_at, self._beginning.verified
                self._saved = keeper.saved
                self._answer()
                until = max(until, self._snapshot.done_at or until)
                losses = 0
                while not result.stopped_by:
                    try:
                        self._stream(keeper, until, follow)
                    except HistoryLostError as error:
                        losses += 1
                        if losses > RESTARTS:
                            raise
                        result.position = self._beginning.after_loss(error, self._saved)
                        self._forget_unsaved()
                result.retries = self._context.retries
        except DocdbStreamError as error:
            error.position_time = self._saved.time if self._saved else None
            raise
        result.conclude(until, self._pace.taken_s)
        return result

    def _stream(self, keeper: LeaseKeeper, until: Timestamp, follow: bool) -> None:
        """Read and deliver from the position on until the run is over."""
        position = self._position
        self._is_open = self._is_drained = False
        began_s = self._limit.clock()
        # With a snapshot beside it a stream goes on after it has caught up, see _is_caught_up.
        ends_by_itself = not follow and not self._snapshot.is_active
        with (
            self._delivery as delivery,
            ReadAhead(
                self._source,
                position,
                until=until if ends_by_itself else None,
                batch_size=self._settings.batch_size,
                max_bytes=self._settings.read_ahead_bytes,
            ) as ahead,
            self._snapshot.reading(ahead.wake),
        ):
            self._result.targets = delivery.figures
            try:
                try:
                    self._loop(ahead, delivery, keeper, None if follow else until)
                except HistoryLostError:
                    if self._is_open:  # what was read before is here all the same, and nobody can read it again
                        self._sync(delivery, keeper)
                    raise
                if self._is_open:
                    self._sync(delivery, keeper)
            except OUT_OF_TIME as error:
                self._out_of_time(error)
        self._result.filtered_on_server = [*ahead.filtered_on_server]
        waited_s = self._limit.clock() - began_s
        if not self._is_open and self._result.stopped_by == "deadline" and waited_s > TAKE_WAIT_S:
            raise SourceUnavailableError(
                f"the server had not opened the stream at {position.time} after {waited_s:.0f} s, when the run's time "
                "was over",
                hint=SLOW_OPEN_HINT,
            )

    def _opened(self, keeper: LeaseKeeper) -> None:
        """The server has opened the stream: now its position is worth saving, where it is a new one."""
        self._is_open = True
        self._beginning.opened(self._position)
        if self._position != self._saved:
            self._save(keeper, self._position)

    def _answer(self) -> None:
        """Do what operators have asked for since; it is saved with the position."""
        self._pace.looked()
        if not self._schemas.has_stops:
            self._snapshot.answer(self._store.asked(self._result.stream))
        self._result.position = self._beside(self._position)
        self._result.snapshot = self._snapshot.progress

    def _loop(self, ahead: ReadAhead, delivery: Delivery, keeper: LeaseKeeper, until: Timestamp | None) -> None:
        """Hand over batches, and pages of the snapshot between them, until the run is over; ``until`` is None where it
        follows."""
        result = self._result
        rest: Batch | None = None
        while not self._over(until is None):
            keeper.check()
            ahead.hurry(self._snapshot.is_active)
            batch = rest or ahead.take(TAKE_WAIT_S)
            if ahead.is_open and not self._is_open:
                self._opened(keeper)
            if batch is not None:
                batch, rest = batch.split(delivery.takes_bytes)
                self._deliver(batch, delivery)
                if batch.events and rest is None:
                    result.loops += 1
                    self._unsaved_loops += 1
                self._is_drained = rest is None and (batch.drained or batch.quiet)
                self._progress(result)
            if self._is_open and not self._schemas.is_over:
                self._deliver_page(delivery)
                if until is not None and rest is None and self._is_caught_up(ahead, until):
                    result.stopped_by = "caught-up"
                    return
                is_due = self._unsaved_loops >= self._settings.state_sync_count or delivery.wants_flush
                if is_due or self._pace.is_checkpoint_due:
                    if looks := self._pace.is_look_due:
                        self._answer()
                    self._sync(delivery, keeper)
                    if looks and (back := self._schemas.accepted(self._position)) is not None:
                        result.position = back
                        return  # and the stream is opened there

    def _is_caught_up(self, ahead: ReadAhead, until: Timestamp) -> bool:
        """Whether all that there was at the run's beginning is handed over."""
        if ahead.ends:
            return ahead.caught_up
        return not self._snapshot.is_active and is_past(self._position, until, is_drained=self._is_drained)

    def _deliver_page(self, delivery: Delivery) -> None:
        """Send the next page of the snapshot through the steps to its targets, if the stream has come past it."""
        result, snapshot = self._result, self._snapshot
        page = snapshot.due(self._position, is_drained=self._is_drained)
        if page is not None and page.events:
            self._hand_over(page.events, page.size_bytes, delivery, page.targets, is_of_stream=False)
            result.loops += 1
            self._unsaved_loops += 1
            result.snapshot_documents += len(page.events)
        done = snapshot.ended(self._position, is_drained=self._is_drained)
        if done is not None:
            self._gaps += told_of(done, self._store.ledger(result.stream), result.stream, self._position)
        if page is not None or done is not None:
            result.position = self._beside(self._position)
            result.snapshot = snapshot.progress
            self._progress(result)

    def _deliver(self, batch: Batch, delivery: Delivery) -> None:
        """Send a batch through the steps to the targets; the position reached is the one after it, not yet saved."""
        result = self._result
        read, (batch, left) = batch, self._schemas.left(batch)
        result.took(sum(left.values()), left)
        made = self._hand_over(batch.events, batch.size_bytes, delivery) if batch.events else ()
        self._snapshot.saw(batch, made)
        delivery.reject(step.redacted(self._steps, batch.rejected))
        if batch.gap is not None:
            self._gaps.append(LedgerEntry(result.stream, "stepped-past", result.position, batch.gap, batch.position))
        after = self._schemas.after(read, self._position, is_snapshot_active=self._snapshot.is_active)
        result.position, result.stopped = self._beside(after), self._schemas.stopped

    def _beside(self, position: Position) -> Position:
        """The position in the change log, and what is known beside it: the snapshot, and who has stopped."""
        return self._schemas.beside(self._snapshot.beside(position))

    def _hand_over(
        self,
        events: Sequence[ChangeEvent],
        size_bytes: int,
        delivery: Delivery,
        only: Sequence[str] = (),
        *,
        is_of_stream: bool = True,
    ) -> Sequence[ChangeEvent]:
        """Send events through the steps to the targets; returns what the steps have left of them."""
        with self._pace.writing():
            made = step.apply(self._steps, events)
            admitted = self._schemas.admit(made.events, events if is_of_stream else ())
            if admitted:
                size_bytes = size_bytes if admitted is events else made.size_bytes
                delivery.write(admitted, size_bytes, only)
                self._tally.took(admitted, size_bytes)
            delivery.reject(made.rejected)
        self._result.took(len(events), made.filtered)
        self._unsaved_events += len(admitted)
        return admitted

    def _over(self, follow: bool) -> bool:
        """Whether the run has to end now, and why."""
        result, max_loop = self._result, self._settings.max_loop
        if self._limit.stopping:
            result.stopped_by = "signal"
        elif self._pace.is_over:
            result.stopped_by = "deadline"
        elif not follow and max_loop and result.loops >= max_loop:
            result.stopped_by = "max-loop"
        elif self._schemas.is_over:
            result.stopped_by = "schema"
        return bool(result.stopped_by)

    def _sync(self, delivery: Delivery, keeper: LeaseKeeper) -> None:
        """Make everything durable, then save the position. The one place where a position passes events."""
        result, position = self._result, self._position
        if position == self._saved and not result.unsaved and not self._gaps and not self._snapshot.answered:
            self._pace.saved()
            return
        with self._pace.saving():
            keeper.announce(position, self._unsaved_events)
            refused = delivery.settle()
            result.rejections += len(refused)
            self._tally.refused(refused)
            for entry in self._gaps:
                self._store.record(entry)
            self._gaps.clear()
            keeper.check()
            self._save(keeper, position)
        logger.info("checkpoint: stream=%s position=%s events=%d", result.stream, position.time, result.events)

    def _save(self, keeper: LeaseKeeper, position: Position) -> None:
        self._schemas.save()
        keeper.save(position, self._unsaved_events)
        if self._snapshot.answered:
            self._store.answered(keeper.lease, self._snapshot.answered)
        self._snapshot.saved()
        self._saved = position
        self._pace.saved()
        self._result.checkpoints += 1
        self._result.events += self._unsaved_events
        self._tally.save(self._result.collections)
        self._forget_unsaved()

    def _forget_unsaved(self) -> None:
        self._unsaved_events = self._unsaved_loops = self._result.unsaved = 0
        self._tally.forget()

    def _out_of_time(self, error: DocdbStreamError) -> None:
        """The deadline, or a stop, came before everything read was durable: what is saved stands, the next run reads
        the rest. Raises ``error`` where nothing at all was saved past an event by the deadline: the next run would fare
        no better."""
        is_stopped = self._limit.stop.is_set()
        if not (self._result.read > self._result.unsaved or is_stopped):
            raise error
        at = self._saved.time if self._saved else None
        logger.warning("stream %s: %s; the next run goes on from %s", self._result.stream, error, at)
        self._result.stopped_by = "signal" if is_stopped else "deadline"
        self._result.position = self._saved
