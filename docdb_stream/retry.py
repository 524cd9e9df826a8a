"""Retrying what is worth retrying: full jitter, bounded by the run's deadline.

Owns the waits between attempts. What is worth retrying is for the caller to know.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from docdb_stream.context import Deadline, RunContext, current_deadline, current_run

__all__ = ["Backoff", "Deadline", "current_deadline"]
# The author of a target, which has to wait by the deadline, finds all that is needed for it here.

BASE_DELAY_S = 0.05
MAX_DELAY_S = 5.0
"""Full jitter between 0 and min(MAX, BASE * 2^attempt), as the AWS Architecture Blog's "Exponential Backoff And Jitter"
found best under contention."""

OVER_NOTICED_S = 1.0
"""How soon a sleep that is no longer needed ends."""


class Backoff:
    """The waits between attempts at one operation.

    ``while True: try: ...; except Throttled: if not backoff.wait(): raise TargetError(...)``.
    ``progress()`` starts anew after a partial success, so that a slow but moving operation is not given up.
    """

    def __init__(self, limit: Deadline | None = None, rng: Callable[[], float] = random.random) -> None:
        self._run = current_run() if limit is None else RunContext(limit)
        self._deadline = self._run.deadline
        self._rng = rng
        self.attempts = 0
        self._since_s = self._give_up_at_s = 0.0
        self.progress()

    def progress(self) -> None:
        """Something succeeded: the patience counts from now, and the delays start small again."""
        self.attempts = 0
        self._since_s = self._deadline.clock()
        self._give_up_at_s = min(self._deadline.at_s, self._since_s + self._deadline.patience_s)

    def wait(self, at_least_s: float = 0.0, *, is_over: Callable[[], bool] | None = None) -> bool:
        """Sleep before the next attempt; False, at once, when there is no time for one.

        Args:
            at_least_s: What the service itself asked for (Retry-After).
            is_over: Whether nobody waits for the attempt any more, which ends a long sleep within OVER_NOTICED_S.
        """
        delay_s = max(at_least_s, self._rng() * min(MAX_DELAY_S, BASE_DELAY_S * 2**self.attempts))
        self.attempts += 1
        self._run.retries += 1
        # A stop asks for a clean end, which still needs its last flush to succeed: some patience is left for that.
        give_up_at_s = min(self._give_up_at_s, self._deadline.give_up_at_s(self._since_s))
        if self._deadline.clock() + delay_s >= give_up_at_s:
            return False
        if is_over is None:
            self._deadline.pause(delay_s)
        else:
            self._pause(delay_s, is_over)
        return True

    def _pause(self, delay_s: float, is_over: Callable[[], bool]) -> None:
        was_stopped = self._deadline.stop.is_set()
        while delay_s > 0 and not is_over():
            self._deadline.pause(min(delay_s, OVER_NOTICED_S))
            delay_s -= OVER_NOTICED_S
            if self._deadline.stop.is_set() and not was_stopped:
                return
