"""A target for tests that look at what was delivered."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from docdb_stream.events import ChangeEvent
from docdb_stream.target import Rejection


class ListTarget:
    """Keeps what it is given, in order; durable at once.

    Attributes:
        events: Every event so far, replays included.
    """

    name = "list"

    def __init__(self) -> None:
        self.events: list[ChangeEvent] = []

    def write(self, events: Sequence[ChangeEvent]) -> Sequence[Rejection]:
        """See Target."""
        self.events += events
        return ()

    def flush(self) -> Sequence[Rejection]:
        """See Target."""
        return ()

    def close(self) -> None:
        """See Target."""

    def take(self) -> list[ChangeEvent]:
        """The events since the last call."""
        found, self.events = self.events, []
        return found

    @property
    def ids(self) -> list[Any]:
        """The ``_id`` of each event about a document."""
        return [event.document["documentKey"]["_id"] for event in self.events if "documentKey" in event.document]

    @property
    def operations(self) -> list[str]:
        """The operation of each event."""
        return [event.operation for event in self.events]
