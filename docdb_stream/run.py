"""The run: reads batches, hands them to the targets, saves checkpoints, knows when to stop.

Owns the order of things on which the guarantees rest: a position is saved only after every target's flush returned and
every rejection is durable. Nothing else saves checkpoints.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import asdict, astuple, dataclass, field, replace
from typing import Any

from bson import Timestamp

from docdb_stream.checkpoint import CheckpointStore, LedgerEntry
from docdb_stream.dead_letters import DeadLetters
from docdb_stream.delivery import Delivery, OutOfTimeError, TargetFigures
from docdb_stream.errors import DocdbStreamError, HistoryLostError, SourceUnavailableError
from docdb_stream.events import Batch, Position
from docdb_stream.lease import LeaseKeeper, held_lease
from docdb_stream.mongodb.readahead import ReadAhead
from docdb_stream.owner import owner_name
from docdb_stream.position import SnapshotProgress
from docdb_stream.retry import Deadline, deadline
from docdb_stream.settings import Settings
from docdb_stream.source import SLOW_OPEN_HINT, ChangeSource
from docdb_stream.target import Rejection

logger = logging.getLogger(__name__)

SYNC_INTERVAL_S = 10.0
"""A checkpoint is made at least this often when something moved, whatever STATE_SYNC_COUNT says: an idle stream stays
fresh, what a buffering target holds gets out, and little is delivered again after a crash of a slow stream. With a
deadline nearer than four times this, a quarter of it: a slow target must get a checkpoint done before the deadline."""

FOLLOW_LEASE_S = 10.0
"""How long the lease of a run that follows lasts at most. It is renewed all the time, and what stands by should not
have to wait longer after a crash of the machine than for other tools to come back (8 to 11 s were measured)."""

RESTARTS = 3
"""How often one run starts again after a lost position (ON_HISTORY_LOST): the log may move on once more meanwhile."""

TAKE_WAIT_S = 0.25
"""How soon a run notices that it is asked to stop, or that its deadline is near, while nothing arrives."""

LOGGED_ID_DIGITS = 200
"""Of an event id in the log: it holds the document key, which can be of megabytes."""

MIN_DEADLINE_MARGIN_S = 1.0
"""Kept free before the deadline besides what flushing and saving have been measured to take."""


@dataclass(slots=True)
class RunResult:
    """What a run did.

    Attributes:
        stream: The stream's name.
        events: Events delivered to every target and covered by the last checkpoint.
        read: Events read, delivered or not.
        loops: Batches that held events.
        checkpoints: Checkpoints saved.
        caught_up: Everything that was committed when the run began has been delivered: proven, not assumed.
        lag_s: Seconds of cluster time from the position to the operation time the run aimed at; 0 when caught up.
        rejections: Events that a target refused and that are in the dead letters.
        retries: Attempts that were repeated because the cluster or a target was in trouble.
        stopped_by: Why the run ended: caught-up, max-loop, deadline or signal.
        duration_s: Seconds the run took.
        targets: Figures per target.
        position: Where the stream stands.
        began_at: What it went on from: ``checkpoint``, ``start-at`` (a new stream) or ``sample`` (a new stream too, but
            the AWS sample has left a position); empty when it did not come to that.
    """

    stream: str
    events: int = 0
    read: int = 0
    loops: int = 0
    checkpoints: int = 0
    caught_up: bool = False
    lag_s: float | None = None
    rejections: int = 0
    retries: int = 0
    stopped_by: str = ""
    duration_s: float = 0.0
    targets: dict[str, TargetFigures] = field(default_factory=dict)
    position: Position | None = None
    began_at: str = ""

    def after(self, earlier: RunResult) -> RunResult:
        """What both runs did, of which this one came later."""
        counts = {name: getattr(earlier, name) + getattr(self, name) for name in _COUNTS}
        targets = {
            name: TargetFigures(
                *map(
                    sum,
                    zip(*(astuple(run.targets[name]) for run in (earlier, self) if name in run.targets), strict=True),
                )
            )
            for name in {**earlier.targets, **self.targets}
        }
        return replace(self, **counts, targets=targets, began_at=earlier.began_at or self.began_at)

    def as_dict(self) -> dict[str, Any]:
        """The result as plain values, ready for JSON."""
        values: dict[str, Any] = {name: getattr(self, name) for name in self.__dataclass_fields__}
        values["targets"] = {name: asdict(figures) for name, figures in self.targets.items()}
        time_ = self.position.time if self.position else None
        values["position"] = {
            "token": None if not self.position or self.position.token is None else self.position.token.data,
            "time": None if time_ is None else time_.isoformat(),
        }
        return values


_COUNTS = ("events", "read", "loops", "checkpoints", "rejections", "retries")


class Run:
    """One run's state: the lease, the position reached, and what is not saved yet."""

    def __init__(
        self,
        settings: Settings,
        source: ChangeSource,
        store: CheckpointStore,
        delivery: Delivery,
        dead_letters: DeadLetters,
        limit: Deadline,
    ) -> None:
        self._settings = settings
        self._source = source
        self._store = store
        self._delivery = delivery
        self._dead_letters = dead_letters
        self._limit = limit
        self._started_s = limit.clock()
        self._result = RunResult(settings.stream_name)
        self._unsaved_events = 0
        self._unsaved_loops = 0
        self._saved: Position | None = None
        self._snapshot: SnapshotProgress | None = None
        self._is_open = False
        self._gap: LedgerEntry | None = None
        self._saved_at_s = self._started_s
        self._longest_sync_s = 0.0
        self._last_write_s = 0.0
        self._passed_over: list[tuple[Position | None, Batch]] = []
        self._total_s = limit.at_s - self._started_s
        self.progress: Callable[[RunResult], None] = lambda result: None
        self.alert: Callable[[Exception], object] = lambda error: None

    def run(self, follow: bool) -> RunResult:
        """Take the lease, read and deliver, give the lease back. Called once; see Poller.run."""
        settings, result = self._settings, self._result
        try:
            duration_s = min(settings.lease_seconds, FOLLOW_LEASE_S) if follow else settings.lease_seconds
            with (
                held_lease(self._store, settings.stream_name, settings.scope, owner_name(), duration_s) as keeper,
                deadline(replace(self._limit, guard=keeper.check)) as limit,
            ):
                until = self._source.operation_time()
                result.position = self._start()
                for attempt in range(RESTARTS + 1):
                    try:
                        self._stream(keeper, until, follow)
                        break
                    except HistoryLostError as error:
                        if attempt == RESTARTS:
                            raise
                        result.position = self._start_again(error)
                result.retries = limit.retries
        except DocdbStreamError as error:
            error.position_time = self._saved.time if self._saved else None
            raise
        self._finish(until)
        return result

    def _stream(self, keeper: LeaseKeeper, until: Timestamp, follow: bool) -> None:
        """Read and deliver from the position on until the run is over."""
        position = self._result.position
        assert position is not None
        self._is_open = False
        began_s = self._limit.clock()
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
            lost: HistoryLostError | None = None
            try:
                try:
                    self._loop(ahead, delivery, keeper, follow)
                except HistoryLostError as error:
                    lost = error  # what was read before is here all the same, and nobody can read it again
                if self._is_open:
                    self._sync(delivery, keeper)
                if lost is not None:
                    raise lost
            except OutOfTimeError as error:
                self._out_of_time(error)
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
        if self._gap is not None:
            self._store.record(replace(self._gap, after=position))
            self._gap = None
        if position != self._saved:
            self._save(keeper, position)

    def _start_again(self, error: HistoryLostError) -> Position:
        """After a lost position: into the ledger it goes, and on as ON_HISTORY_LOST says. The new one is saved once the
        server has opened the stream there.

        Raises:
            HistoryLostError: ON_HISTORY_LOST is fail; the checkpoint stays as it is.
        """
        name, choice = self._settings.stream_name, self._settings.on_history_lost
        gap = LedgerEntry(name, "history-lost", self._saved, str(error))
        self._store.record(gap)
        if choice == "fail":
            raise error
        position = replace(self._source.start_position(choice), snapshot=self._snapshot)
        logger.error("%s; ON_HISTORY_LOST=%s: going on at %s", error, choice, position.time)
        error.position_time = self._saved.time if self._saved else None
        self.alert(error)
        self._gap = gap
        self._unsaved_events = self._unsaved_loops = 0
        self._passed_over.clear()
        return position

    def _start(self) -> Position:
        """The position to go on from; a new stream's is saved before anything is delivered."""
        name = self._settings.stream_name
        checkpoint = self._store.load(name)
        if checkpoint is not None and checkpoint.position is not None:
            self._saved, self._snapshot = checkpoint.position, checkpoint.position.snapshot
            self._result.began_at = "checkpoint"
            return checkpoint.position
        position = self._store.inherited_position(self._settings.scope)
        if position is not None:
            self._result.began_at = "sample"
            logger.info("stream %s goes on where the AWS sample stopped, at %s", name, position.time)
        else:
            position = self._source.start_position(self._settings.start_at)
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
                if batch.events:
                    started_s = self._limit.clock()
                    delivery.write(batch.events, batch.size_bytes)
                    self._last_write_s = self._limit.clock() - started_s
                    result.read += len(batch.events)
                    self._unsaved_events += len(batch.events)
                    if rest is None:
                        result.loops += 1
                        self._unsaved_loops += 1
                if batch.problem:
                    self._passed_over.append((result.position, batch))
                # What is read of the stream says nothing of a snapshot beside it, whose progress no save may drop.
                result.position = replace(batch.position, snapshot=self._snapshot)
                self.progress(result)
            if self._is_open and self._is_sync_due(delivery):
                self._sync(delivery, keeper)

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
        """How long before the deadline to stop: twice what making a checkpoint has taken so far, what handing over took
        last, and a bit."""
        return min(MIN_DEADLINE_MARGIN_S, 0.2 * self._total_s) + 2 * self._longest_sync_s + self._last_write_s

    def _is_sync_due(self, delivery: Delivery) -> bool:
        if self._unsaved_loops >= self._settings.state_sync_count or delivery.wants_flush:
            return True
        return self._limit.clock() - self._saved_at_s >= min(SYNC_INTERVAL_S, self._total_s / 4)

    def _sync(self, delivery: Delivery, keeper: LeaseKeeper) -> None:
        """Make everything durable, then save the position. The one place where a position passes events."""
        position = self._result.position
        assert position is not None
        if position == self._saved and not self._unsaved_events and not self._passed_over:
            self._saved_at_s = self._limit.clock()
            return
        started_s = self._limit.clock()
        rejections = delivery.flush()
        self._bury(rejections)
        keeper.check()
        self._save(keeper, position)
        self._longest_sync_s = max(self._longest_sync_s, self._limit.clock() - started_s)
        logger.info(
            "checkpoint: stream=%s position=%s events=%d", self._result.stream, position.time, self._result.events
        )

    def _bury(self, rejections: list[Rejection]) -> None:
        """Put into the dead letters what targets refused and what could not be read; the latter into the ledger too."""
        name = self._result.stream
        for before, batch in self._passed_over:
            self._store.record(LedgerEntry(name, "stepped-past", before, batch.problem, after=batch.position))
            rejections += [Rejection(event, "source", batch.problem) for event in batch.unreadable]
        if rejections:
            self._dead_letters.write(name, rejections)
            self._result.rejections += len(rejections)
        self._passed_over.clear()
        for each in rejections:
            logger.warning(
                "event rejected: stream=%s target=%s event_id=%.300s reason=%.300s",
                name,
                each.target,
                each.event.event_id[:LOGGED_ID_DIGITS],
                each.reason,
            )

    def _save(self, keeper: LeaseKeeper, position: Position) -> None:
        keeper.save(position, self._unsaved_events)
        self._saved, self._saved_at_s = position, self._limit.clock()
        self._result.checkpoints += 1
        self._result.events += self._unsaved_events
        self._unsaved_events = self._unsaved_loops = 0

    def _out_of_time(self, error: OutOfTimeError) -> None:
        """The deadline, or a stop, came before everything read was durable: what is saved stands, the next run reads
        the rest.

        Raises:
            OutOfTimeError: Nothing at all was saved past an event by the deadline, so the next run would fare no
                better.
        """
        is_stopped = self._limit.stop.is_set()
        if not (self._result.events or is_stopped):
            raise error
        time_ = self._saved.time if self._saved else None
        logger.warning("stream %s: %s; the next run goes on from %s", self._result.stream, error, time_)
        self._result.stopped_by = "signal" if is_stopped else "deadline"
        self._result.position = self._saved

    def _finish(self, until: Timestamp) -> None:
        result = self._result
        reached = result.position.operation_time if result.position else None
        # At that very time there may be more: all events of a transaction have one cluster time.
        result.caught_up = result.stopped_by == "caught-up" or (reached is not None and reached > until)
        if result.caught_up:
            result.lag_s = 0.0
        elif reached is not None:
            result.lag_s = float(max(0, until.time - reached.time))
        result.duration_s = round(self._limit.clock() - self._started_s, 3)
