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

ASKED_FOR_S = 900.0
"""The most that a service's own word makes the patience longer: a Lambda has no more (AWS Lambda quotas, "Timeout")."""

OVER_NOTICED_S = 1.0
"""How soon a sleep that is no longer needed ends."""


class Backoff:
    """The waits between attempts at one operation.

    ``while True: try: ...; except Throttled: if not backoff.wait(): raise TargetError(...)``.
    ``progress()`` starts anew after a partial success, so that a slow but moving operation is not given up.

    Args:
        limit: By which the attempts end; the run's by default.
        rng: Between 0 and 1.
        is_over: Whether nobody waits for another attempt any more: ``wait`` returns False then, within OVER_NOTICED_S.
    """

    def __init__(
        self,
        limit: Deadline | None = None,
        rng: Callable[[], float] = random.random,
        is_over: Callable[[], bool] | None = None,
    ) -> None:
        self._run = current_run() if limit is None else RunContext(limit)
        self._deadline = self._run.deadline
        self._rng = rng
        self._is_over = is_over
        self.attempts = 0
        self._since_s = self._give_up_at_s = 0.0
        self._was_asked = False
        self.progress()

    def progress(self) -> None:
        """Something succeeded: the patience counts from now, and the delays start small again."""
        self.attempts = 0
        self._was_asked = False
        self._since_s = self._deadline.clock()
        self._give_up_at_s = min(self._deadline.at_s, self._since_s + self._deadline.patience_s)

    def wait(self, at_least_s: float = 0.0) -> bool:
        """Sleep before the next attempt; False, at once, when there is no time for one.

        Args:
            at_least_s: What the service itself asked for (Retry-After). The patience is longer by the first of these.
        """
        if at_least_s > 0 and not self._was_asked:  # once: who asks again and again is not waited for without end
            self._was_asked = True
            self._give_up_at_s = min(self._deadline.at_s, self._give_up_at_s + min(at_least_s, ASKED_FOR_S))
        delay_s = max(at_least_s, self._rng() * min(MAX_DELAY_S, BASE_DELAY_S * 2**self.attempts))
        self.attempts += 1
        self._run.retries += 1
        # A stop asks for a clean end, which still needs its last flush to succeed: some patience is left for that.
        give_up_at_s = min(self._give_up_at_s, self._deadline.give_up_at_s(self._since_s))
        if self._deadline.clock() + delay_s >= give_up_at_s:
            return False
        if self._is_over is None:
            self._deadline.pause(delay_s)
            return True
        was_stopped = self._deadline.stop.is_set()
        while not self._is_over():
            self._deadline.pause(min(delay_s, OVER_NOTICED_S))
            delay_s -= OVER_NOTICED_S
            if delay_s <= 0 or (self._deadline.stop.is_set() and not was_stopped):
                return not self._is_over()
        return False
