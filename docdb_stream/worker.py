"""The worker: the thread in which one target is asked to do everything, in order.

Owns what becomes of a target's errors, and how long a busy target is waited for. Which events come, and when they have
to be durable, is ``delivery``'s.
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

from docdb_stream.context import check_lease, current_deadline
from docdb_stream.errors import DocdbStreamError, HistoryLostError, OutOfTimeError, TargetError
from docdb_stream.events import ChangeEvent
from docdb_stream.result import TargetFigures
from docdb_stream.target import Buffering, Paced, Rejection, Target

logger = logging.getLogger(__name__)

QUEUED_BATCHES = 2
"""Batches waiting before one target: enough to hide the others' pace from it, few enough to bound memory."""

_WAIT_STEP_S = 0.25
"""How soon a wait notices a stop."""


class Patience:
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
        is_stop = self._limit.remaining_s > 0
        when = "when it was time to stop" if is_stop else "by the run's deadline"
        advice = "" if is_stop else "; raise the timeout or lower BATCH_SIZE"
        raise OutOfTimeError(who, f"{trouble} {when}", hint=f"nothing is lost: the next run delivers again{advice}")


@dataclass(slots=True)
class Mark:
    """Stands in a worker's queue behind what was written, and is done when the worker has come to it.

    Attributes:
        flushes: Whether the target is flushed there.
    """

    flushes: bool
    done: threading.Event = field(default_factory=threading.Event)


class Worker:
    """The thread of one target in one run: everything the target is asked to do happens there, in order.

    Args:
        target: Whose it is.
        after: The worker of the run before, which may still be held up in the target: this one begins when it is gone.
        anew: Whether to close the target first, with all that it holds and that is to be delivered again.
    """

    thread: threading.Thread

    def __init__(self, target: Target, after: Worker | None, anew: bool) -> None:
        self.target = target
        self.buffering = target if isinstance(target, Buffering) else None
        self.paced = target if isinstance(target, Paced) else None
        self.figures = TargetFigures()
        self.error: DocdbStreamError | None = None
        self.rejections: list[Rejection] = []
        self.rejected_bytes = 0
        self._unflushed = 0
        self._tasks: queue.Queue[Sequence[ChangeEvent] | Mark | None] = queue.Queue(QUEUED_BATCHES)
        context = contextvars.copy_context()
        before = None if after is None else after.thread
        arguments = (self._work, before, anew)
        self.thread = threading.Thread(target=context.run, args=arguments, name=target.name, daemon=True)
        self.thread.start()

    def offer(self, task: Sequence[ChangeEvent] | Mark, patience: Patience, meanwhile: Callable[[], None]) -> None:
        """Queue a task. Raises OutOfTimeError when the target stays busy for too long, or what ``meanwhile`` does."""
        while True:
            try:
                self._tasks.put(task, timeout=patience.step_s)
                return
            except queue.Full:
                meanwhile()
                patience.check(self.target.name, "still busy")

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
            if self.error is None:
                self._do(task)
            if isinstance(task, Mark):
                task.done.set()

    def _do(self, task: Sequence[ChangeEvent] | Mark) -> None:
        try:
            if not isinstance(task, Mark):
                self._write(task)
            elif task.flushes:
                self._flush()
        # A target may raise anything, also what means the end of a thread or task elsewhere (SystemExit,
        # asyncio.CancelledError); the operator sees which and what, and whoever waits for the mark goes on.
        except BaseException as error:  # noqa: BLE001
            # Lost history moves the position, so the source alone can tell of it.
            if isinstance(error, DocdbStreamError) and not isinstance(error, HistoryLostError):
                self.error = error
                return
            self.error = TargetError(self.target.name, f"{type(error).__name__}: {error}")
            self.error.__cause__ = error

    def _write(self, events: Sequence[ChangeEvent]) -> None:
        check_lease()
        started = time.monotonic()
        rejected = self.target.write(events)
        self.figures.write_s += time.monotonic() - started
        self.figures.writes += 1
        self._unflushed += len(events)
        self._refused(rejected)

    def _flush(self) -> None:
        check_lease()
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


def _close(target: Target) -> None:
    try:
        target.close()
    except BaseException as error:  # noqa: BLE001 - what was flushed is durable, and the rest comes again
        logger.warning("target %s could not be closed: %s", target.name, type(error).__name__)
