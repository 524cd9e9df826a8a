"""Retrying what is worth retrying: full jitter, bounded by the run's deadline.

Owns the waiting. What is worth retrying is for the caller to know.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

BASE_DELAY_S = 0.05
MAX_DELAY_S = 5.0
"""Full jitter between 0 and min(MAX, BASE * 2^attempt), as the AWS Architecture Blog's "Exponential Backoff And Jitter"
found best under contention."""

DEFAULT_PATIENCE_S = 30.0
"""How long to go on without any success when the run has no nearer deadline: longer than a failover of DocumentDB
("typically less than 30 seconds", its developer guide) is not bridged by retrying but by the next run."""


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
    """

    at_s: float = float("inf")
    patience_s: float = DEFAULT_PATIENCE_S
    stop: threading.Event = field(default_factory=threading.Event)
    clock: Callable[[], float] = time.monotonic
    guard: Callable[[], None] = lambda: None
    retries: int = 0

    @classmethod
    def after(cls, seconds: float | None, **options: object) -> Deadline:
        """The deadline ``seconds`` from now; None means never."""
        at_s = float("inf") if seconds is None else time.monotonic() + seconds
        return cls(at_s, **options)  # type: ignore[arg-type]

    @property
    def remaining_s(self) -> float:
        """Seconds left; negative when it is over."""
        return self.at_s - self.clock()

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
        self._give_up_at_s = 0.0
        self.progress()

    def progress(self) -> None:
        """Something succeeded: the patience counts from now, and the delays start small again."""
        self.attempts = 0
        now = self._deadline.clock()
        self._give_up_at_s = min(self._deadline.at_s, now + self._deadline.patience_s)

    def wait(self, at_least_s: float = 0.0) -> bool:
        """Sleep before the next attempt; False, at once, when there is no time for one.

        Args:
            at_least_s: What the service itself asked for (Retry-After).
        """
        delay_s = max(at_least_s, self._rng() * min(MAX_DELAY_S, BASE_DELAY_S * 2**self.attempts))
        self.attempts += 1
        self._deadline.retries += 1
        if self._deadline.clock() + delay_s >= self._give_up_at_s:
            return False
        # A stop asks for a clean end, which still needs its last flush to succeed: it shortens waits, not attempts.
        time.sleep(delay_s)
        return True
