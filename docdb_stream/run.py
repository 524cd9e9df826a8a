"""The run: reads batches, sends them through the steps to the targets, saves checkpoints, knows when to stop.

Owns the order of things on which the guarantees rest: a position is saved only once everything before it is settled
(``Delivery.settle``). Nothing else saves checkpoints.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace

from bson import Timestamp

from docdb_stream import step
from docdb_stream.checkpoint import CheckpointStore, LedgerEntry
from docdb_stream.context import current_run
from docdb_stream.delivery import Delivery
from docdb_stream.errors import OUT_OF_TIME, DocdbStreamError, HistoryLostError, SourceUnavailableError
from docdb_stream.events import Batch, Position
from docdb_stream.lease import LeaseKeeper, held_lease
from docdb_stream.mongodb.readahead import ReadAhead
from docdb_stream.owner import owner_name
from docdb_stream.position import SnapshotProgress
from docdb_stream.result import RunResult
from docdb_stream.settings import Settings
from docdb_stream.source import SLOW_OPEN_HINT, ChangeSource
from docdb_stream.step import Step

logger = logging.getLogger(__name__)

SYNC_INTERVAL_S = 10.0
"""A checkpoint is made at least this often when something moved, whatever STATE_SYNC_COUNT says: an idle stream stays
fresh, what a target buffers gets out, and little is delivered again after a crash of a slow stream. Where the run has
less than four times this, after a quarter of its time: a slow target must get a checkpoint done before the deadline."""

FOLLOW_LEASE_S = 10.0
"""How long the lease of a run that follows lasts at most. It is renewed all the time, and what stands by should not
have to wait longer after a crash of the machine than for other tools to come back (8 to 11 s were measured)."""

RESTARTS = 3
"""How often one run starts again after a lost position (ON_HISTORY_LOST): the log may move on once more meanwhile."""

TAKE_WAIT_S = 0.25
"""How soon a run notices that it is asked to stop, or that its deadline is near, while nothing arrives."""

MIN_DEADLINE_MARGIN_S = 1.0
"""Kept free before the deadline besides what flushing and saving have been measured to take."""


class Run:
    """One run's state: the lease, the position, and what is not saved yet. Used once, within ``context.running``.

    Args:
        settings: The stream.
        source: Where events come from.
        store: Where checkpoints are.
        steps: What events go through on the way.
        delivery: Where they go.
        progress: Called after every loop and checkpoint with the result so far.
        alert: Told of lost history that is passed over, as ON_HISTORY_LOST says.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        source: ChangeSource,
        store: CheckpointStore,
        steps: Sequence[Step],
        delivery: Delivery,
        progress: Callable[[RunResult], None],
        alert: Callable[[Exception], object],
    ) -> None:
        self._settings = settings
        self._source = source
        self._store = store
        self._steps = steps
        self._delivery = delivery
        self._progress = progress
        self._alert = alert
        self._context = current_run()
        self._limit = self._context.deadline
        self._started_s = self._saved_at_s = self._limit.clock()
        self._result = RunResult(settings.stream_name)
        self._unsaved_events = self._unsaved_loops = 0
        self._saved: Position | None = None
        self._snapshot: SnapshotProgress | None = None
        self._is_open = False
        self._lost: LedgerEntry | None = None
        self._longest_sync_s = self._last_write_s = 0.0
        self._gaps: list[LedgerEntry] = []
        self._total_s = self._limit.at_s - self._started_s

    def run(self, follow: bool) -> RunResult:
        """Take the lease, read and deliver, give the lease back. Called once; see Poller.run."""
        settings, result = self._settings, self._result
        try:
            duration_s = min(settings.lease_seconds, FOLLOW_LEASE_S) if follow else settings.lease_seconds
            with held_lease(self._store, settings.stream_name, settings.scope, owner_name(), duration_s) as keeper:
                self._context.lease_check, self._context.lease_epoch = keeper.check, keeper.epoch
                until = self._source.operation_time()
                result.position = self._start(keeper)
                for attempt in range(RESTARTS + 1):
                    try:
                        self._stream(keeper, until, follow)
                        break
                    except HistoryLostError as error:
                        if attempt == RESTARTS:
                            raise
                        result.position = self._start_again(error)
                result.retries = self._context.retries
        except DocdbStreamError as error:
            error.position_time = self._saved.time if self._saved else None
            raise
        result.conclude(until, self._limit.clock() - self._started_s)
        return result

    def _stream(self, keeper: LeaseKeeper, until: Timestamp, follow: bool) -> None:
        """Read and deliver from the position on until the run is over."""
        position = self._result.position
        assert position is not None
        self._is_open, began_s = False, self._limit.clock()
        with (
            self._delivery as delivery,
            ReadAhead(
                self._source,
                position,
                until=None if follow else until,
                batch_size=self._settings.batch_size,
                max_bytes=self._settings.read_ahead_bytes,
            ) as ahead,
        ):
            self._result.targets = delivery.figures
            try:
                try:
                    self._loop(ahead, delivery, keeper, follow)
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
        position = self._result.position
        assert position is not None
        if self._lost is not None:
            self._store.record(replace(self._lost, after=position))
            self._lost = None
        if position != self._saved:
            self._save(keeper, position)

    def _start_again(self, error: HistoryLostError) -> Position:
        """After a lost position: into the ledger it goes, and on as ON_HISTORY_LOST says. The new one is saved once the
        server has opened the stream there.

        Raises:
            HistoryLostError: ON_HISTORY_LOST is fail; the checkpoint stays as it is.
        """
        name, choice = self._settings.stream_name, self._settings.on_history_lost
        entry = LedgerEntry(name, "history-lost", self._saved, str(error))
        self._store.record(entry)
        if choice == "fail":
            raise error
        position = replace(
            self._source.start_position("now" if choice == "snapshot" else choice), snapshot=self._snapshot
        )
        logger.error("%s; ON_HISTORY_LOST=%s: going on at %s", error, choice, position.time)
        error.position_time = self._saved.time if self._saved else None
        self._alert(error)
        self._lost = entry
        self._unsaved_events = self._unsaved_loops = self._result.unsaved = 0
        self._gaps.clear()
        return position

    def _start(self, keeper: LeaseKeeper) -> Position:
        """The position to go on from; a new stream's is saved before anything is delivered."""
        name = self._settings.stream_name
        checkpoint = keeper.load()
        if checkpoint is not None and checkpoint.position is not None:
            self._saved, self._snapshot = checkpoint.position, checkpoint.position.snapshot
            self._result.began_at = "checkpoint"
            return checkpoint.position
        position = self._store.inherited_position(self._settings.scope)
        if position is not None:
            self._result.began_at = "sample"
            logger.info("stream %s goes on where the AWS sample stopped, at %s", name, position.time)
        else:
            start_at = self._settings.start_at
            position = self._source.start_position("now" if start_at == "snapshot" else start_at)
            self._result.began_at = "start-at"
            logger.info("stream %s is new and starts at %s", name, position.time)
        return position

    def _loop(self, ahead: ReadAhead, delivery: Delivery, keeper: LeaseKeeper, follow: bool) -> None:
        result = self._result
        rest: Batch | None = None
        while not self._over(follow):
            keeper.check()
            batch = rest or ahead.take(TAKE_WAIT_S)
            if ahead.is_open and not self._is_open:
                self._opened(keeper)
            if batch is None:
                if ahead.caught_up:
                    result.stopped_by = "caught-up"
                    return
            else:
                batch, rest = batch.split(delivery.takes_bytes)
                self._deliver(batch, delivery)
                if batch.events and rest is None:
                    result.loops += 1
                    self._unsaved_loops += 1
                self._progress(result)
            if self._is_open and self._is_sync_due(delivery):
                self._sync(delivery, keeper)

    def _deliver(self, batch: Batch, delivery: Delivery) -> None:
        """Send a batch through the steps to the targets; the position reached is the one after it, not yet saved."""
        result = self._result
        if batch.events:
            started_s = self._limit.clock()
            made = step.apply(self._steps, batch.events)
            if made.events:
                delivery.write(made.events, batch.size_bytes if made.events is batch.events else made.size_bytes)
            delivery.reject(made.rejected)
            self._last_write_s = self._limit.clock() - started_s
            result.took(len(batch.events), made.filtered)
            self._unsaved_events += len(made.events)
        delivery.reject(step.redacted(self._steps, batch.rejected))
        if batch.gap is not None:
            self._gaps.append(LedgerEntry(result.stream, "stepped-past", result.position, batch.gap, batch.position))
        # What is read of the stream says nothing of a snapshot beside it, whose progress no save may drop.
        result.position = replace(batch.position, snapshot=self._snapshot)

    def _over(self, follow: bool) -> bool:
        """Whether the run has to end now, and why."""
        result, max_loop = self._result, self._settings.max_loop
        if self._limit.stopping:
            result.stopped_by = "signal"
        elif self._limit.remaining_s < self._margin_s():
            result.stopped_by = "deadline"
        elif not follow and max_loop and result.loops >= max_loop:
            result.stopped_by = "max-loop"
        return bool(result.stopped_by)

    def _margin_s(self) -> float:
        """How long before the deadline to stop: twice the longest checkpoint, the last handing over, and a bit."""
        return min(MIN_DEADLINE_MARGIN_S, 0.2 * self._total_s) + 2 * self._longest_sync_s + self._last_write_s

    def _is_sync_due(self, delivery: Delivery) -> bool:
        is_long_ago = self._limit.clock() - self._saved_at_s >= min(SYNC_INTERVAL_S, self._total_s / 4)
        return is_long_ago or delivery.wants_flush or self._unsaved_loops >= self._settings.state_sync_count

    def _sync(self, delivery: Delivery, keeper: LeaseKeeper) -> None:
        """Make everything durable, then save the position. The one place where a position passes events."""
        result, position = self._result, self._result.position
        assert position is not None
        if position == self._saved and not result.unsaved and not self._gaps:
            self._saved_at_s = self._limit.clock()
            return
        started_s = self._limit.clock()
        keeper.announce(position, self._unsaved_events)
        result.rejections += len(delivery.settle())
        for entry in self._gaps:
            self._store.record(entry)
        self._gaps.clear()
        keeper.check()
        self._save(keeper, position)
        self._longest_sync_s = max(self._longest_sync_s, self._limit.clock() - started_s)
        logger.info("checkpoint: stream=%s position=%s events=%d", result.stream, position.time, result.events)

    def _save(self, keeper: LeaseKeeper, position: Position) -> None:
        keeper.save(position, self._unsaved_events)
        self._saved, self._saved_at_s = position, self._limit.clock()
        self._result.checkpoints += 1
        self._result.events += self._unsaved_events
        self._unsaved_events = self._unsaved_loops = self._result.unsaved = 0

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
