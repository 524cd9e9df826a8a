"""The contract between docdb-stream and where change events, and the documents of a snapshot, come from.

Owns the protocols. Does not read (``mongodb.change_stream``, ``mongodb.documents``) and does not deliver.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from bson import Timestamp

from docdb_stream.events import Batch
from docdb_stream.position import Namespace, Position, SnapshotRange
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


@dataclass(frozen=True, slots=True)
class Page:
    """Documents that were read at once.

    Attributes:
        documents: Their BSON, in the order of ``_id``; none where the range holds no more.
        rest: The range as it is once they are delivered: it begins after the last of them, and is done where there
            was none. Its count of documents is the caller's.
        read_at: The cluster's operation time of the answer: each document is as it was at some moment up to then.
    """

    documents: Sequence[bytes]
    rest: SnapshotRange
    read_at: Timestamp


class DocumentSource(Protocol):
    """Where the documents of a snapshot are read from. Every method may be called from any thread, and raises
    SourceUnavailableError as ``ChangeStream.read`` does."""

    def collections(self) -> Sequence[Namespace]:
        """The collections there are now of which the stream would deliver changes: no views, no time-series
        collections, nobody's state."""
        ...

    def ranges(self, namespace: Namespace, count: int) -> Sequence[SnapshotRange]:
        """The collection in up to ``count`` ranges of about the same size, in order; one where it is small."""
        ...

    def estimate(self, namespace: Namespace) -> int | None:
        """About how many documents it holds; None where the server does not say."""
        ...

    def identity(self, namespace: Namespace) -> bytes | None:
        """What a collection is known by, under whatever name: after a drop or a rename the name stands for another one,
        or for none (None). Empty where the server does not tell, or not to this user."""
        ...

    def read(self, range: SnapshotRange, *, since: Timestamp | None, match: str | None, limit: int) -> Page:
        """The next documents of a range.

        Args:
            range: Which; what of it comes first is read.
            since: What was committed up to this cluster time is seen; None: whatever the server shows.
            match: A query, as JSON; documents that it does not match are passed over.
            limit: How many documents at most. The server gives fewer where they are large (16 MiB together, one at
                least).

        Raises:
            ConfigError: The server refuses ``match``.
        """
        ...


class LookupSource(DocumentSource, Protocol):
    """A source in which single documents can be looked up, as a comparison does."""

    def find(self, namespace: Namespace, keys: Sequence[bytes], *, since: Timestamp | None) -> Iterator[Page]:
        """The documents with these ``_id``, given as elements, as far as there are any: one page for each reply, so
        that not all of them have to be held at once. At least one page; ``since`` as in ``read``."""
        ...

    def sample(self, namespace: Namespace, count: int) -> Sequence[bytes]:
        """The elements ``_id`` of up to so many documents, by chance; none where the server gives none."""
        ...
