"""Hands batches to every target, side by side.

Owns one worker thread per target, the barrier before a checkpoint, and the per-target figures. Knows nothing of
positions.
"""

from __future__ import annotations

import contextlib
import contextvars
import queue
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from docdb_stream.errors import DocdbStreamError, TargetError
from docdb_stream.events import BATCH_BYTES, ChangeEvent
from docdb_stream.retry import Deadline, current_deadline
from docdb_stream.target import Buffering, Paced, Rejection, Target

QUEUED_BATCHES = 2
"""Batches waiting before one target: enough to hide the others' pace from it, few enough to bound memory."""

LARGE_BATCH_BYTES = 2 * BATCH_BYTES
"""A batch above this (a few events of many megabytes) is waited for before the next one is queued."""
REJECTED_BYTES = 8 * 1024 * 1024
"""Rejected events held before a checkpoint is asked for, which puts them into the dead letters."""


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
    """The thread of one target: everything it is asked to do happens there, in order."""

    def __init__(self, target: Target) -> None:
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
        self._thread = threading.Thread(target=context.run, args=(self._work,), name=target.name, daemon=True)
        self._thread.start()

    def offer(self, task: Sequence[ChangeEvent] | _Barrier | None, deadline: Deadline) -> None:
        """Queue a task; raises TargetError when the target stays busy past the deadline."""
        while True:
            try:
                self._tasks.put(task, timeout=min(1.0, max(0.01, deadline.remaining_s)))
                return
            except queue.Full:
                if self.error is not None:
                    raise self.error from None
                if deadline.remaining_s <= 0:
                    raise OutOfTimeError(
                        self.target.name,
                        "still busy at the run's deadline",
                        hint="nothing is lost: the next run delivers again; raise the timeout or lower BATCH_SIZE",
                    ) from None

    def is_behind(self, barrier: _Barrier) -> bool:
        """Whether this worker has not come to the barrier yet."""
        return self.target.name not in barrier.arrived

    def stop(self, wait_s: float) -> None:
        """End the thread and drop what is queued; one that hangs in its target is left behind, it is a daemon."""
        self.error = self.error or TargetError(self.target.name, "stopped")
        with contextlib.suppress(queue.Empty):
            while True:
                self._tasks.get_nowait()
        self._tasks.put(None)
        self._thread.join(timeout=wait_s)

    def _work(self) -> None:
        while (task := self._tasks.get()) is not None:
            if isinstance(task, _Barrier):
                if self.error is None and task.flushes:
                    self._guarded(self._flush)
                task.arrive(self.target.name)
            elif self.error is None:
                events = task
                self._guarded(lambda events=events: self._write(events))

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

    def _guarded(self, step: object) -> None:
        try:
            step()  # type: ignore[operator]
        except DocdbStreamError as error:
            self.error = error
        except Exception as error:  # noqa: BLE001 - a target may raise anything; the operator sees which and what
            self.error = TargetError(self.target.name, f"{type(error).__name__}: {error}")
            self.error.__cause__ = error


class Delivery:
    """Writes batches to all targets at once. A context manager; leaving it ends the threads and closes nothing.

    Created within the run's deadline (see ``retry.deadline``), which its workers inherit.
    """

    def __init__(self, targets: Sequence[Target]) -> None:
        self._workers = [_Worker(target) for target in targets]

    def __enter__(self) -> Delivery:
        return self

    def __exit__(self, *exc_info: object) -> None:
        failed = exc_info[0] is not None
        for worker in self._workers:
            worker.stop(wait_s=0.0 if failed else 5.0)

    @property
    def figures(self) -> dict[str, TargetFigures]:
        """Per target, by name."""
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
        self._raise_failure()
        for worker in self._workers:
            worker.offer(events, current_deadline())
        if size_bytes > LARGE_BATCH_BYTES or self.takes_bytes is not None:
            self._wait(_Barrier(len(self._workers), flushes=False), "still busy at the run's deadline")
            self._raise_failure()

    def flush(self) -> list[Rejection]:
        """Wait until everything written so far is durable in every target; returns the rejections since the last call.

        Raises:
            TargetError: Something is not durable. Every target has been waited for, so the others' work is done too.
        """
        self._wait(_Barrier(len(self._workers), flushes=True), "not durable by the run's deadline")
        self._raise_failure()
        rejections = [rejection for worker in self._workers for rejection in worker.rejections]
        for worker in self._workers:
            worker.rejections = []
            worker.rejected_bytes = 0
        return rejections

    def _wait(self, barrier: _Barrier, trouble: str) -> None:
        """Wait until every worker has come to the barrier."""
        limit = current_deadline()
        for worker in self._workers:
            worker.offer(barrier, limit)
        while self._workers and not barrier.done.wait(timeout=min(1.0, max(0.01, limit.remaining_s))):
            if limit.remaining_s <= 0:
                slow = ", ".join(worker.target.name for worker in self._workers if worker.is_behind(barrier))
                raise OutOfTimeError(
                    slow,
                    trouble,
                    hint="nothing is lost: the next run delivers again; raise the timeout or lower BATCH_SIZE",
                )

    def _raise_failure(self) -> None:
        for worker in self._workers:
            if worker.error is not None:
                raise worker.error
