"""How much the brokers are given before it is waited for.

A broker with a quota takes what it is given, and lets the next request wait: the longer, the more it took before its
quota. So little is handed over at first and twice as much each time, until it takes about as long as it may.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from docdb_stream.targets._kafka.producer import IN_FLIGHT_BYTES, Record

FIRST_BYTES = 64 * 1024
"""What a new producer is given: 100 usual events. A broker with a quota of 2 KB/s takes more again within a run of a
minute; without a quota, the limit is at ``IN_FLIGHT_BYTES`` after eight round trips."""
GOAL_S = 1.0
"""How long what is handed over may take until all of it is confirmed, and the broker takes more. From GOAL_S to twice
as much, the limit stays: what takes less is too little for a broker that is far away."""


class Pace:
    """Finds how much to hand over at a time, by how long it took so far.

    Args:
        clock: The monotonic clock, in seconds.

    Attributes:
        limit_bytes: Hand over so much, and wait for it. At ``IN_FLIGHT_BYTES`` nothing needs to be waited for but what
            the producer itself waits for.
        is_slow: What was waited for last took longer than ``GOAL_S``.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self.start_again()

    def start_again(self) -> None:
        """Forget what was found: the producer was let go, with all that it held."""
        self.limit_bytes = FIRST_BYTES
        self.is_slow = False
        self._handed_bytes = 0
        self._took_s = 0.0
        self._free_at_s = float("-inf")

    @property
    def is_due(self) -> bool:
        """Whether what was handed over has to be waited for now."""
        return self._handed_bytes >= self.limit_bytes and self.limit_bytes < IN_FLIGHT_BYTES

    def parts(self, records: Sequence[Record]) -> Iterator[Sequence[Record]]:
        """The records, in parts of what may be handed over until it is due; each has one record at least, and a
        tombstone stays with the record before it: what is committed of an event is all of it."""
        start = end = 0
        while end < len(records):
            room_bytes = self.limit_bytes - self._handed_bytes
            while end < len(records) and (
                end == start or room_bytes > 0 or self.limit_bytes >= IN_FLIGHT_BYTES or records[end].value is None
            ):
                size_bytes = records[end].size_bytes
                room_bytes -= size_bytes
                self._handed_bytes += size_bytes
                end += 1
            yield records[start:end]
            start = end

    @contextmanager
    def timed(self) -> Iterator[None]:
        """Around everything that sends and waits. What a broker was known to let wait before is not counted again."""
        started_s = max(self._clock(), self._free_at_s)
        yield
        self._took_s += max(0.0, self._clock() - started_s)

    def settled(self, throttled_s: float) -> None:
        """All that was handed over is confirmed.

        Args:
            throttled_s: How long the brokers take nothing more from now on, as they said.
        """
        self._free_at_s = self._clock() + throttled_s
        if not self._handed_bytes:
            return
        took_s = self._took_s + throttled_s
        if took_s > 2 * GOAL_S:
            self.limit_bytes = max(1, int(min(self.limit_bytes, self._handed_bytes) * GOAL_S / took_s))
        elif took_s < GOAL_S and 2 * self._handed_bytes >= self.limit_bytes:
            self.limit_bytes = min(2 * self.limit_bytes, IN_FLIGHT_BYTES)
        self.is_slow = took_s > GOAL_S
        self._handed_bytes = 0
        self._took_s = 0.0
