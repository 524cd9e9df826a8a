"""A source that plays a script: for tests of pollers and targets, without a server.

Owns the script's words. The events come from ``testing.events``.
"""

from __future__ import annotations

import datetime as dt
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import bson
from bson import Timestamp

from docdb_stream.errors import HistoryLostError, SourceUnavailableError
from docdb_stream.events import Batch, ChangeEvent, Namespace, Position
from docdb_stream.position import SnapshotRange
from docdb_stream.settings.types import StartAt
from docdb_stream.source import Page


class ABORT(Exception):
    """In a script: the read raises SourceUnavailableError here, once."""


class EMPTY(Exception):
    """In a script: the read returns an empty batch here, once, without moving the position."""


Step = ChangeEvent | type[ABORT] | type[EMPTY]


class ScriptedSource:
    """A ChangeSource over a fixed script of events: what a change log is, in memory.

    Reading starts after the position it is opened at, so it can be opened again and again as a crash would have it.
    Once the script is at its end, reads are empty and the position moves to ``operation_time``, as with a server that
    gives post-batch tokens, unless ``post_batch`` is False.

    Args:
        script: Events in order, with ABORT and EMPTY between them.
        batch_size: Events in one read, at most.
        post_batch: Whether the end of the script proves that the reader has caught up.
        lost_before: Positions before this time are no longer in the log.
    """

    def __init__(
        self,
        script: Sequence[Step],
        *,
        batch_size: int = 10,
        post_batch: bool = True,
        lost_before: Timestamp | None = None,
    ) -> None:
        self._script = list(script)
        self._batch_size = batch_size
        self._post_batch = post_batch
        self._lost_before = lost_before
        self.opened: list[Position] = []

    def append(self, *steps: Step) -> None:
        """Let more happen on the server."""
        self._script += steps

    def operation_time(self) -> Timestamp:
        """See ChangeSource: the time of the script's last event."""
        return max(
            (step.cluster_time for step in self._script if isinstance(step, ChangeEvent)), default=Timestamp(1, 1)
        )

    def start_position(self, start_at: StartAt) -> Position:
        """See ChangeSource."""
        if start_at == "now":
            return Position(operation_time=self.operation_time())
        if isinstance(start_at, dt.datetime):
            return Position(operation_time=Timestamp(int(start_at.timestamp()), 0))
        return Position(operation_time=self._lost_before or Timestamp(1, 0))

    def open(self, position: Position) -> ScriptedStream:
        """See ChangeSource. Raises HistoryLostError for a position before ``lost_before``."""
        time = position.operation_time
        if self._lost_before is not None and time is not None and time < self._lost_before:
            raise HistoryLostError("the position is no longer in the script", hint="scripted")
        self.opened.append(position)
        return ScriptedStream(self, position, self._index_after(position))

    def read(self, first: int, position: Position) -> tuple[int, Batch]:
        """The batch that begins with this step of the script, after this position; and the step after it."""
        events: list[ChangeEvent] = []
        following = first
        while following < len(self._script) and len(events) < self._batch_size:
            step = self._script[following]
            if isinstance(step, ChangeEvent):
                events.append(step)
                following += 1
                continue
            if events:
                break
            del self._script[following]
            if step is ABORT:
                raise SourceUnavailableError("scripted abort")
            return following, Batch([], position)
        if events:
            position = Position.at_token(events[-1].token, time=events[-1].cluster_time)
        elif self._post_batch:
            position = Position(position.token, self.operation_time())
        drained = self._post_batch and not events
        size_bytes = sum(event.size_bytes for event in events)
        return following, Batch(events, position, size_bytes, drained=drained)

    def _index_after(self, position: Position) -> int:
        for index, step in enumerate(self._script):
            if not isinstance(step, ChangeEvent):
                continue
            if position.token is not None and step.event_id == position.token.data:
                return index + 1
            if position.token is None and step.cluster_time > (position.operation_time or Timestamp(0, 0)):
                return index
        return 0 if position.token is not None else len(self._script)


class ScriptedStream:
    """A ChangeStream over a script. Made by ``ScriptedSource.open``."""

    filtered_on_server = ()

    def __init__(self, source: ScriptedSource, position: Position, first: int) -> None:
        self._source = source
        self._position = position
        self._next = first
        self._closed = threading.Event()

    def read(self, wait_s: float) -> Batch:
        """See ChangeStream; at the end of the script it waits like a server, until closed."""
        self._next, batch = self._source.read(self._next, self._position)
        self._position = batch.position
        if batch.drained:
            self._closed.wait(min(wait_s, 0.01))
        return batch

    def close(self) -> None:
        """See ChangeStream."""
        self._closed.set()


class ScriptedDocuments:
    """A DocumentSource over documents in memory, whose ``_id`` are of one type that Python compares.

    Args:
        contents: The documents of each collection.
        operation_time: The cluster's.
    """

    def __init__(
        self, contents: Mapping[Namespace, Sequence[Mapping[str, Any]]], operation_time: Callable[[], Timestamp]
    ) -> None:
        self.contents = {name: {each["_id"]: each for each in documents} for name, documents in contents.items()}
        self.reads: list[SnapshotRange] = []
        self._operation_time = operation_time

    def collections(self) -> Sequence[Namespace]:
        """See DocumentSource."""
        return [*self.contents]

    def ranges(self, namespace: Namespace, count: int) -> Sequence[SnapshotRange]:
        """See DocumentSource."""
        keys = sorted(self.contents[namespace])
        ends = [bson.encode({"_id": keys[len(keys) * part // count]}) for part in range(1, count) if keys]
        return [
            SnapshotRange(namespace, after, until) for after, until in zip([None, *ends], [*ends, None], strict=True)
        ]

    def estimate(self, namespace: Namespace) -> int | None:
        """See DocumentSource."""
        return len(self.contents[namespace])

    def identity(self, namespace: Namespace) -> bytes | None:
        """See DocumentSource: that of the dictionary in ``contents``."""
        return str(id(self.contents[namespace])).encode() if namespace in self.contents else None

    def read(self, range: SnapshotRange, *, since: Timestamp | None, match: str | None, limit: int) -> Page:
        """See DocumentSource. Knows no ``match``."""
        self.reads.append(range)
        after = None if range.after is None else bson.decode(range.after)["_id"]
        until = None if range.until is None else bson.decode(range.until)["_id"]
        found = self.contents.get(range.namespace, {})
        keys = [key for key in sorted(found) if (after is None or key > after) and (until is None or key <= until)]
        documents = [bson.encode(found[key]) for key in keys[:limit]]
        if not documents:
            return Page((), replace(range, done=True), self._operation_time())
        return Page(documents, replace(range, after=bson.encode({"_id": keys[:limit][-1]})), self._operation_time())
