"""How many events to ask a server for in one reply."""

from __future__ import annotations

from docdb_stream.mongodb.cursor import Reply
from docdb_stream.source import BATCH_BYTES

FIRST_REPLY_EVENTS = 128
REPLY_GROWTH = 4
"""A reply is asked for by a number of events, and should have BATCH_BYTES at most (the server itself stops at 16 MiB
only). So the first is small, and the size of its events says how many to ask for next, which is at most four times as
many as came."""


class ReplySize:
    """The number of events to ask for next, by the size of those that came.

    Args:
        batch_size: BATCH_SIZE, the most to ask for.
    """

    def __init__(self, batch_size: int) -> None:
        self._batch_size = batch_size
        self._fitting = FIRST_REPLY_EVENTS
        self._one_by_one = 0  # so many events are still to be read each in a reply of its own

    @property
    def events(self) -> int:
        """How many to ask for."""
        return 1 if self._one_by_one else min(self._batch_size, self._fitting)

    def came(self, reply: Reply) -> None:
        """Learn from a reply."""
        count = len(reply.events)
        if count:
            self._one_by_one = max(0, self._one_by_one - count)
            self._fitting = max(1, min(BATCH_BYTES * count // reply.size_bytes, REPLY_GROWTH * count))

    def failed(self) -> None:
        """The reply was too large. Read its events one by one: those before the large one have to be read first, and
        only small replies leave it out."""
        self._one_by_one = self.events

    def passed(self) -> None:
        """The large event is behind: read many at a time again."""
        self._one_by_one = 0
