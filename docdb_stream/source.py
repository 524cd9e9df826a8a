"""The contract between docdb-stream and where change events come from.

Owns the protocols. Does not read (``mongodb.change_stream``) and does not deliver.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from bson import Timestamp

from docdb_stream.events import Batch
from docdb_stream.position import Position
from docdb_stream.settings.types import StartAt

SOURCE = "source"
"""The name under which events are rejected that the cluster cannot send: the letter says which, and no more."""

BATCH_BYTES = 2 * 1024 * 1024
"""BSON bytes of one batch that are aimed at, whatever BATCH_SIZE says: each target has up to four batches before it, as
BSON and rendered, so this is what bounds a run's memory. A batch of the usual small events is far below."""

SLOW_OPEN_HINT = (
    "the server goes through all its log since then in one step, however few of the changes are this stream's: raise "
    "the timeout (--timeout, the function's timeout_seconds) and whatever cuts long requests off (a load balancer, the "
    "server's own limits), or run this stream more often"
)


class ChangeStream(Protocol):
    """Change events from one position on. It belongs to one run; what it knows ends with it. One thread reads."""

    @property
    def filtered_on_server(self) -> Sequence[str]:
        """The settings' rules by which the server leaves events out, so far: nobody counts these. From any thread."""
        ...

    def read(self, wait_s: float) -> Batch:
        """The next events, after waiting at most about ``wait_s`` for the first; the batch may be empty.

        Raises:
            HistoryLostError: The position is no longer in the change log.
            SourceUnavailableError: The cluster stayed away for longer than the deadline allows.
        """
        ...

    def close(self) -> None:
        """Stop reading; a ``read`` under way in another thread ends early. Safe to call twice, from any thread."""
        ...


class ChangeSource(Protocol):
    """Where change events are read from. It keeps nothing of a stream: any number of them may be open at a time."""

    def operation_time(self) -> Timestamp:
        """The cluster's operation time now: every change committed so far has a cluster time up to it."""
        ...

    def start_position(self, start_at: StartAt) -> Position:
        """The position of a stream that has no checkpoint yet."""
        ...

    def open(self, position: Position) -> ChangeStream:
        """The stream after ``position``. Can take minutes, in which the server goes through its log.

        Raises:
            HistoryLostError: The position is no longer in the change log.
            SourceUnavailableError: As ``ChangeStream.read``.
        """
        ...
