"""Retrying what is worth retrying: full jitter, bounded by the run's deadline.

Owns the waiting, for the next attempt and for an answer. What is worth retrying is for the caller to know.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar, copy_context
from dataclasses import dataclass, field
from typing import TypeVar

T = TypeVar("T")

BASE_DELAY_S = 0.05
MAX_DELAY_S = 5.0
"""Full jitter between 0 and min(MAX, BASE * 2^attempt), as the AWS Architecture Blog's "Exponential Backoff And Jitter"
found best under contention."""

DEFAULT_PATIENCE_S = 30.0
"""How long to go on without any success when the run has no nearer deadline: longer than a failover of DocumentDB
("typically less than 30 seconds", its developer guide) is not bridged by retrying but by the next run."""

STOP_PATIENCE_S = 4.0
"""How long one operation may still take once a stop was asked for: enough for a last flush and checkpoint with a
service that works, and short of the 10 s after which Docker kills what it has asked to stop."""

CLEANUP_LEAST_S = 0.1
"""What is tidied up at the end of a run gets this much time even then: healthy services need less."""

STOP_NOTICED_S = 0.1
"""How soon one that waits for an answer notices a stop."""


@dataclass(slots=True)
class Deadline:
    """The moment (on the monotonic clock, in seconds) by which a run must be over, and a way to be told to stop.

    Attributes:
        at_s: The moment.
        patience_s: How long one operation is retried without success even when the deadline is far.
        stop: Set to ask for a clean end.
        clock: The monotonic clock.
        guard: Raises when the run may no longer act; set by the poller to the lease's check.
        retries: Attempts repeated under this deadline so far, by whomever.
        stopped_at_s: When the stop was noticed; see ``stopping``.
    """

    at_s: float = float("inf")
    patience_s: float = DEFAULT_PATIENCE_S
    stop: threading.Event = field(default_factory=threading.Event)
    clock: Callable[[], float] = time.monotonic
    guard: Callable[[], None] = lambda: None
    retries: int = 0
    stopped_at_s: float | None = None

    @classmethod
    def after(cls, seconds: float | None, **options: object) -> Deadline:
        """The deadline ``seconds`` from now; None means never."""
        at_s = float("inf") if seconds is None else time.monotonic() + seconds
        return cls(at_s, **options)  # type: ignore[arg-type]

    @property
    def remaining_s(self) -> float:
        """Seconds left; negative when it is over."""
        return self.at_s - self.clock()

    @property
    def stopping(self) -> bool:
        """Whether a stop was asked for."""
        if self.stop.is_set() and self.stopped_at_s is None:
            self.stopped_at_s = self.clock()
        return self.stopped_at_s is not None

    def give_up_at_s(self, since_s: float) -> float:
        """The moment by which to give up what was begun at ``since_s``: the deadline, or soon after a stop."""
        if not self.stopping:
            return self.at_s
        return min(self.at_s, max(since_s, self.stopped_at_s or since_s) + STOP_PATIENCE_S)

    def cleanup_s(self, at_most_s: float) -> float:
        """How long what only tidies up may take: up to ``at_most_s``, nearly nothing once all else is given up."""
        return max(CLEANUP_LEAST_S, min(at_most_s, self.give_up_at_s(float("-inf")) - self.clock()))

    def pause(self, delay_s: float) -> None:
        """Sleep; a stop that is asked for meanwhile ends it."""
        if self.stop.is_set():
            time.sleep(delay_s)
        else:
            self.stop.wait(delay_s)

    def check(self) -> None:
        """Call before each request that changes something outside.

        Raises:
            CheckpointConflictError: The run slept through its lease; another may be further already.
        """
        self.guard()


_current: ContextVar[Deadline | None] = ContextVar("docdb_stream_deadline", default=None)


def current_deadline() -> Deadline:
    """The deadline of the run this code works for; one that is far away outside a run.

    A target's own threads do not inherit it: run their work in ``contextvars.copy_context()``.
    """
    return _current.get() or Deadline()


@contextmanager
def deadline(limit: Deadline) -> Iterator[Deadline]:
    """Make ``limit`` the current deadline within the block."""
    before = _current.set(limit)
    try:
        yield limit
    finally:
        _current.reset(before)


class Backoff:
    """The waits between attempts at one operation.

    ``while True: try: ...; except Throttled: if not backoff.wait(): raise TargetError(...)``.
    ``progress()`` starts anew after a partial success, so that a slow but moving operation is not given up.
    """

    def __init__(self, limit: Deadline | None = None, rng: Callable[[], float] = random.random) -> None:
        self._deadline = limit or current_deadline()
        self._rng = rng
        self.attempts = 0
        self._since_s = self._give_up_at_s = 0.0
        self.progress()

    def progress(self) -> None:
        """Something succeeded: the patience counts from now, and the delays start small again."""
        self.attempts = 0
        self._since_s = self._deadline.clock()
        self._give_up_at_s = min(self._deadline.at_s, self._since_s + self._deadline.patience_s)

    def wait(self, at_least_s: float = 0.0) -> bool:
        """Sleep before the next attempt; False, at once, when there is no time for one.

        Args:
            at_least_s: What the service itself asked for (Retry-After).
        """
        delay_s = max(at_least_s, self._rng() * min(MAX_DELAY_S, BASE_DELAY_S * 2**self.attempts))
        self.attempts += 1
        self._deadline.retries += 1
        # A stop asks for a clean end, which still needs its last flush to succeed: some patience is left for that.
        give_up_at_s = min(self._give_up_at_s, self._deadline.give_up_at_s(self._since_s))
        if self._deadline.clock() + delay_s >= give_up_at_s:
            return False
        self._deadline.pause(delay_s)
        return True


class NoAnswerError(Exception):
    """What was asked had not answered by the end of the run's time."""


def in_background(work: Callable[[], object], name: str) -> None:
    """Run ``work`` in a thread of its own, within this context. A daemon, unlike the threads of a pool: the process
    does not wait at its end for a request that gets no answer."""
    threading.Thread(target=copy_context().run, args=(work,), name=name, daemon=True).start()


def answer_in_time(work: Callable[[], T], *, since_s: float | None = None, at_most_s: float | None = None) -> T:
    """Run ``work`` and wait for its answer as long as the run has time: until the deadline, or soon after a stop.

    For calls that can block for longer than that and cannot be interrupted, such as one that waits for a server which
    has stopped answering. ``work`` runs in a thread of its own, within this context. One that is given up is left
    behind, so what it does later must be harmless.

    Args:
        work: What to do; its errors are raised here.
        since_s: When it was begun, by the deadline's clock, where that was an earlier attempt.
        at_most_s: Instead, wait for so many seconds.

    Raises:
        NoAnswerError: It was given up.
    """
    limit = current_deadline()
    answers: list[T] = []
    errors: list[BaseException] = []
    done = threading.Event()

    def ask() -> None:
        try:
            answers.append(work())
        except BaseException as error:  # noqa: BLE001 - whatever it is, it is the caller's
            errors.append(error)
        done.set()

    in_background(ask, "call")
    began_s = limit.clock()
    while not done.is_set():
        give_up_at_s = limit.give_up_at_s(since_s or began_s) if at_most_s is None else began_s + at_most_s
        left_s = give_up_at_s - limit.clock()
        if not done.wait(min(STOP_NOTICED_S, max(0.0, left_s))) and left_s <= 0:
            raise NoAnswerError
    if errors:
        raise errors.pop()
    return answers.pop()
