"""Hands batches to every target, side by side.

Owns one worker thread per target and run, the barrier before a checkpoint, and the per-target figures. Knows nothing of
positions.
"""

from __future__ import annotations

import contextlib
import contextvars
import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from docdb_stream.errors import DocdbStreamError, TargetError
from docdb_stream.events import ChangeEvent
from docdb_stream.retry import current_deadline
from docdb_stream.source import BATCH_BYTES
from docdb_stream.target import Buffering, Paced, Rejection, Target

logger = logging.getLogger(__name__)

QUEUED_BATCHES = 2
"""Batches waiting before one target: enough to hide the others' pace from it, few enough to bound memory."""

LARGE_BATCH_BYTES = 2 * BATCH_BYTES
"""A batch above this (a few events of many megabytes) is waited for before the next one is queued."""
REJECTED_BYTES = 8 * 1024 * 1024
"""Rejected events held before a checkpoint is asked for, which puts them into the dead letters."""

CLOSE_WAIT_S = 2.0
"""How long closing waits for targets that are still at work."""

_WAIT_STEP_S = 0.25
"""How soon a wait notices a stop."""


@dataclass(slots=True)
class TargetFigures:
    """What one target did in a run.

    Attributes:
        events: Events it has made durable.
        rejections: Events among the delivered ones that it refused for good.
        writes: Batches written.
        write_s: Seconds spent writing.
        flush_s: Seconds spent flushing.
    """

    events: int = 0
    rejections: int = 0
    writes: int = 0
    write_s: float = 0.0
    flush_s: float = 0.0


class OutOfTimeError(TargetError):
    """A target works, but not fast enough for the run's deadline."""


@dataclass(slots=True)
class _Barrier:
    """A place in every worker's queue, at which it flushes or not: done when every worker has arrived."""

    expected: int
    flushes: bool
    arrived: list[str] = field(default_factory=list)
    done: threading.Event = field(default_factory=threading.Event)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def arrive(self, name: str) -> None:
        with self.lock:
            self.arrived.append(name)
            if len(self.arrived) >= self.expected:
                self.done.set()


class _Worker:
    """The thread of one target in one run: everything the target is asked to do happens there, in order.

    Args:
        target: Whose it is.
        after: The worker of the run before, which may still be held up in the target: this one begins when it is gone.
        anew: Whether to close the target first, with all that it holds and that is to be delivered again.
    """

    thread: threading.Thread

    def __init__(self, target: Target, after: _Worker | None, anew: bool) -> None:
        self.target = target
        self.buffering = target if isinstance(target, Buffering) else None
        self.paced = target if isinstance(target, Paced) else None
        self.figures = TargetFigures()
        self.error: DocdbStreamError | None = None
        self.rejections: list[Rejection] = []
        self.rejected_bytes = 0
        self._unflushed = 0
        self._tasks: queue.Queue[Sequence[ChangeEvent] | _Barrier | None] = queue.Queue(QUEUED_BATCHES)
        context = contextvars.copy_context()
        before = None if after is None else after.thread
        arguments = (self._work, before, anew)
        self.thread = threading.Thread(target=context.run, args=arguments, name=target.name, daemon=True)
        self.thread.start()

    def offer(self, task: Sequence[ChangeEvent] | _Barrier, patience: _Patience, meanwhile: Callable[[], None]) -> None:
        """Queue a task. Raises OutOfTimeError when the target stays busy for too long, or what ``meanwhile`` does."""
        while True:
            try:
                self._tasks.put(task, timeout=patience.step_s)
                return
            except queue.Full:
                meanwhile()
                patience.check(self.target.name, "still busy")

    def is_behind(self, barrier: _Barrier) -> bool:
        """Whether this worker has not come to the barrier yet."""
        return self.target.name not in barrier.arrived

    def stop(self) -> None:
        """Have the thread end after what it is doing, and drop what is queued."""
        self.error = self.error or TargetError(self.target.name, "stopped")
        with contextlib.suppress(queue.Empty):
            while True:
                self._tasks.get_nowait()
        self._tasks.put(None)

    def _work(self, before: threading.Thread | None, anew: bool) -> None:
        if before is not None:
            before.join()
        if anew:
            _close(self.target)
        while (task := self._tasks.get()) is not None:
            if isinstance(task, _Barrier):
                if self.error is None and task.flushes:
                    self._guarded(self._flush)
                task.arrive(self.target.name)
            elif self.error is None:
                events = task
                self._guarded(lambda events=events: self._write(events))  # type: ignore[misc]

    def _write(self, events: Sequence[ChangeEvent]) -> None:
        current_deadline().check()
        started = time.monotonic()
        rejected = self.target.write(events)
        self.figures.write_s += time.monotonic() - started
        self.figures.writes += 1
        self._unflushed += len(events)
        self._refused(rejected)

    def _flush(self) -> None:
        current_deadline().check()
        started = time.monotonic()
        rejected = self.target.flush()
        self.figures.flush_s += time.monotonic() - started
        self._refused(rejected)
        self.figures.events += self._unflushed
        self._unflushed = 0

    def _refused(self, rejections: Sequence[Rejection] | None) -> None:
        if rejections:
            self.rejections += rejections
            self.rejected_bytes += sum(rejection.event.size_bytes for rejection in rejections)
            self.figures.rejections += len(rejections)
            self._unflushed -= len(rejections)

    def _guarded(self, step: Callable[[], None]) -> None:
        try:
            step()
        except DocdbStreamError as error:
            self.error = error
        # A target may raise anything, also what means the end of a thread or task elsewhere (SystemExit,
        # asyncio.CancelledError); the operator sees which and what, and whoever waits at the barrier goes on.
        except BaseException as error:  # noqa: BLE001
            self.error = TargetError(self.target.name, f"{type(error).__name__}: {error}")
            self.error.__cause__ = error


class _Patience:
    """How long targets are waited for: until the run's deadline, or soon after a stop was asked for."""

    def __init__(self) -> None:
        self._limit = current_deadline()
        self._began_s = self._limit.clock()

    @property
    def step_s(self) -> float:
        """How long to wait before ``check`` is called again."""
        return min(_WAIT_STEP_S, max(0.01, self._limit.remaining_s))

    def check(self, who: str, trouble: str) -> None:
        """Raise OutOfTimeError when ``who`` was waited for long enough."""
        if self._limit.clock() < self._limit.give_up_at_s(self._began_s):
            return
        if self._limit.remaining_s > 0:
            hint = "nothing is lost: the next run delivers again"
            raise OutOfTimeError(who, f"{trouble} when it was time to stop", hint=hint)
        hint = "nothing is lost: the next run delivers again; raise the timeout or lower BATCH_SIZE"
        raise OutOfTimeError(who, f"{trouble} by the run's deadline", hint=hint)


class Delivery:
    """Writes batches to all targets at once. Kept for several runs, each within a ``with`` block; ``close()`` ends it.

    A target is used by one thread at a time: one that is still held up in a target when its run is over is waited for
    by the next run, which then has the target start anew.

    A block is entered within the run's deadline (see ``retry.deadline``), which the workers inherit.

    Args:
        targets: Where events go.
    """

    def __init__(self, targets: Sequence[Target]) -> None:
        self._targets = list(targets)
        self._workers: list[_Worker] = []
        self._holds_nothing = True

    def __enter__(self) -> Delivery:
        self._begin()
        self._patience = _Patience()
        return self

    def __exit__(self, *exc_info: object) -> None:
        for worker in self._workers:
            worker.stop()
        # What is not flushed comes again anyhow: whoever still works on it is not waited for.
        self._join(CLOSE_WAIT_S if self._holds_nothing else 0.0)

    def close(self) -> None:
        """Close the targets; one that is still at work after CLOSE_WAIT_S closes when it has done. Safe to call
        twice."""
        self._holds_nothing = False
        self._begin()
        for worker in self._workers:
            worker.stop()
        self._join(current_deadline().cleanup_s(CLOSE_WAIT_S))
        self._holds_nothing = True

    @property
    def figures(self) -> dict[str, TargetFigures]:
        """Per target, by name, of this run."""
        return {worker.target.name: worker.figures for worker in self._workers}

    @property
    def wants_flush(self) -> bool:
        """Whether a target holds as much as it wants to hold, or rejected events take much room."""
        if sum(worker.rejected_bytes for worker in self._workers) > REJECTED_BYTES:
            return True
        return any(worker.buffering is not None and worker.buffering.wants_flush for worker in self._workers)

    @property
    def takes_bytes(self) -> int | None:
        """How much to hand over at a time: the least that a target takes (see ``Paced``), or None."""
        limits = (worker.paced.takes_bytes for worker in self._workers if worker.paced is not None)
        return min((limit for limit in limits if limit is not None), default=None)

    def write(self, events: Sequence[ChangeEvent], size_bytes: int = 0) -> None:
        """Give ``events`` to every target; returns once each has them queued, not when they are durable.

        Args:
            events: The events.
            size_bytes: Their size; beyond LARGE_BATCH_BYTES, and where a target takes only so much at a time, every
                target has written them on return.

        Raises:
            TargetError: A target failed, now or since the last call.
        """
        self._holds_nothing = False
        self._raise_failure()
        for worker in self._workers:
            worker.offer(events, self._patience, self._raise_failure)
        if size_bytes > LARGE_BATCH_BYTES or self.takes_bytes is not None:
            self._wait(_Barrier(len(self._workers), flushes=False), "still busy")
            self._raise_failure()

    def flush(self) -> list[Rejection]:
        """Wait until everything written so far is durable in every target; returns the rejections since the last call.

        Raises:
            TargetError: Something is not durable. Every target has been waited for, so the others' work is done too.
        """
        self._wait(_Barrier(len(self._workers), flushes=True), "not durable")
        self._raise_failure()
        rejections = [rejection for worker in self._workers for rejection in worker.rejections]
        for worker in self._workers:
            worker.rejections = []
            worker.rejected_bytes = 0
        self._holds_nothing = True
        return rejections

    def _begin(self) -> None:
        """A worker for each target; after that of the last run, and anew where the target holds something of it."""
        last: Sequence[_Worker | None] = self._workers or [None] * len(self._targets)
        anew = not self._holds_nothing
        self._workers = [_Worker(target, before, anew) for target, before in zip(self._targets, last, strict=True)]
        self._holds_nothing = True

    def _join(self, wait_s: float) -> None:
        """Wait for the threads; one that hangs in its target is left behind, it is a daemon."""
        until_s = time.monotonic() + wait_s
        for worker in self._workers:
            worker.thread.join(timeout=max(0.0, until_s - time.monotonic()))

    def _wait(self, barrier: _Barrier, trouble: str) -> None:
        """Wait until every worker has come to the barrier."""
        for worker in self._workers:
            worker.offer(barrier, self._patience, lambda: None)
        while self._workers and not barrier.done.wait(timeout=self._patience.step_s):
            slow = ", ".join(worker.target.name for worker in self._workers if worker.is_behind(barrier))
            self._patience.check(slow, trouble)

    def _raise_failure(self) -> None:
        for worker in self._workers:
            if worker.error is not None:
                raise worker.error


def _close(target: Target) -> None:
    try:
        target.close()
    except BaseException as error:  # noqa: BLE001 - what was flushed is durable, and the rest comes again
        logger.warning("target %s could not be closed: %s", target.name, type(error).__name__)
