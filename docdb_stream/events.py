"""The change event, and the batch in which events are read.

Owns how an event is looked at and rendered (once per format, shared by all targets). Does not read, deliver or save.
"""

from __future__ import annotations

import contextlib
import datetime as dt
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Literal, TypeVar

import bson
import orjson
from bson import Code, DBRef, ObjectId, Timestamp
from bson.raw_bson import RawBSONDocument

from docdb_stream import encoding, rawbson, sample_payload
from docdb_stream.chunk import Chunk, chunks
from docdb_stream.envelope import Envelope
from docdb_stream.position import Namespace, Position, ResumeToken, scope_name

__all__ = [
    "Batch",
    "ChangeEvent",
    "Namespace",
    "PayloadFormat",
    "Position",
    "Rejection",
    "ResumeToken",
    "fitting",
    "scope_name",
]

T = TypeVar("T")

PayloadFormat = Literal["extended", "document"]
"""How an event is written for a target: the whole change event as Extended JSON, or the AWS sample's flat document."""


class ChangeEvent:
    """One change event, as the server sent it.

    Rendering is done at most once per format and shared by every target. An event that came with others (``all_of``)
    is looked at and rendered from its bytes together with them (``docdb_stream.chunk``); it is decoded as a whole only
    when somebody asks for ``document``, or when it holds something unusual.

    Args:
        raw: The event's BSON bytes as the server sent them. Rendering uses them to be exact where decoding is not.
        document: The decoded event, for events that did not come as BSON.
    """

    __slots__ = ("_chunk", "_document", "_key", "_place", "_problem", "_rendered", "raw")

    def __init__(self, raw: bytes | None = None, *, document: Mapping[str, Any] | None = None) -> None:
        if raw is None and document is None:
            raise ValueError("an event needs its BSON bytes or its document")
        self.raw = raw
        self._chunk: Chunk | None = None
        self._place = 0
        self._document = document
        self._problem: str | None = None
        self._key: str | None = None
        self._rendered: dict[str, bytes] | None = None

    @classmethod
    def all_of(cls, raws: Sequence[bytes]) -> list[ChangeEvent]:
        """The events with these bytes, in order: looked at and rendered together, which takes less time."""
        events = []
        for chunk in chunks(raws):
            for place, raw in enumerate(chunk.raws):
                event = cls.__new__(cls)
                event.raw, event._chunk, event._place = raw, chunk, place
                event._document = event._problem = event._key = event._rendered = None
                events.append(event)
        return events

    def __repr__(self) -> str:
        return f"<ChangeEvent {self.operation} {self.namespace} {self.event_id}>"

    @property
    def document(self) -> Mapping[str, Any]:
        """The decoded change event.

        Where the bytes cannot be decoded faithfully (text that is not UTF-8) it is an approximation, good enough to
        say which event it is, and every rendering raises UnrenderableError.
        """
        document = self._document
        if document is None:
            assert self.raw is not None
            try:
                document = encoding.decode(self.raw)
            except encoding.UnrenderableError as error:
                self._problem = str(error)
                document = encoding.decode_lossy(self.raw)
            self._document = document
        return document

    @property
    def token(self) -> ResumeToken:
        """The event's resume token."""
        envelope = self._envelope
        return ResumeToken(self.document["_id"] if envelope is None else {"_data": envelope.event_id})

    @property
    def event_id(self) -> str:
        """The token's ``_data``: the same for every delivery of the same event, different for different events."""
        envelope = self._envelope
        if envelope is not None:
            return envelope.event_id
        data = self.document["_id"].get("_data")
        return data if isinstance(data, str) else self.token.data

    @property
    def operation(self) -> str:
        """MongoDB's ``operationType``: insert, update, replace, delete, drop, rename, dropDatabase, invalidate, ..."""
        envelope = self._envelope
        return str(self.document["operationType"]) if envelope is None else envelope.operation

    @property
    def namespace(self) -> Namespace:
        """The namespace; an ``invalidate`` has none and gives an empty database name."""
        envelope = self._envelope
        if envelope is not None:
            return _namespace(envelope.ns)
        ns = self.document.get("ns") or {}
        return Namespace(ns.get("db", ""), ns.get("coll"))

    @property
    def document_key(self) -> Mapping[str, Any] | None:
        """``{"_id": ...}`` and, on sharded collections, the shard key; None for events about no single document."""
        envelope = self._envelope
        if envelope is not None and envelope.object_id:
            return {"_id": ObjectId(envelope.object_id)}
        return self._field("documentKey")

    @property
    def object_id(self) -> str:
        """The document key's ``_id`` in hexadecimal where that takes no decoding: where it is an ObjectId, usually.

        Empty where it is something else, or would have to be looked for.
        """
        envelope = self._envelope
        return "" if envelope is None else envelope.object_id

    @property
    def exact_id(self) -> Any:
        """The document key's ``_id``, with all that decoding gives up in what holds other values (see ``rawbson``).

        Raises:
            UnrenderableError: It is not valid BSON.
        """
        key = self.document_key
        found = None if key is None else key["_id"]
        if isinstance(found, dict | DBRef | Code):
            raw = self._raw_field("documentKey")
            if raw is not None and not encoding.is_whole(key or {}, raw):
                found = dict(rawbson.read(raw))["_id"]
        return found

    @property
    def full_document(self) -> Mapping[str, Any] | None:
        """The document after the change, or None: for deletes, or when it was gone before it could be looked up."""
        return self._field("fullDocument")

    @property
    def update_description(self) -> Mapping[str, Any] | None:
        """What an update changed."""
        return self._field("updateDescription")

    @property
    def cluster_time(self) -> Timestamp:
        """When the change was committed; taken from the token where the server leaves the field out."""
        envelope = self._envelope
        if envelope is not None and envelope.time is not None:
            return Timestamp(*envelope.time)
        time = self.document.get("clusterTime") if envelope is None else None
        return time if isinstance(time, Timestamp) else (self.token.cluster_time or Timestamp(0, 0))

    @property
    def cluster_time_parts(self) -> tuple[int, int]:
        """The cluster time's seconds and increment."""
        envelope = self._envelope
        if envelope is not None and envelope.time is not None:
            return envelope.time
        time = self.cluster_time
        return time.time, time.inc

    @property
    def wall_time(self) -> dt.datetime | None:
        """The server's wall clock at the change, aware (MongoDB 6.0 and later)."""
        found = self.document.get("wallTime")
        return found.replace(tzinfo=dt.UTC) if isinstance(found, dt.datetime) else None

    @property
    def key(self) -> str | None:
        """The document key as text, for partitioning: equal exactly for events of one document of one collection.

        Only ``_id`` counts, because a document keeps it when its shard key changes. None for events about no single
        document.

        Raises:
            UnrenderableError: Extended JSON cannot say it.
        """
        if self._key is None:
            if object_id := self.object_id:
                self._key = encoding.object_id_key(object_id)
            elif self.document_key is not None:
                self._key = _surely(lambda: encoding.key_json(self.exact_id))
        return self._key

    @property
    def ordering_key(self) -> str:
        """The text that events have in common which keep their order: the namespace and the document key.

        For an event about no single document the namespace alone, and for one without a namespace (invalidate) an
        underscore. Raises UnrenderableError as ``key`` does.
        """
        key = self.key
        text = _namespace_text(self.namespace)
        return text if key is None else f"{text}/{key}"

    @property
    def size_bytes(self) -> int:
        """The event's size as BSON where known, else as rendered."""
        return len(self.raw) if self.raw is not None else len(self.extended_json())

    def render(self, payload_format: PayloadFormat) -> bytes:
        """The event as ``payload_format`` asks for it, without a final newline.

        Raises:
            UnrenderableError: The event holds something that the format cannot say without altering it.
        """
        return self.document_json() if payload_format == "document" else self.extended_json()

    def extended_json(self) -> bytes:
        """The whole change event as relaxed MongoDB Extended JSON v2. Raises UnrenderableError as ``render`` does."""
        chunk = self._chunk
        together = None if chunk is None else chunk.extended_json[self._place]
        if together is not None:
            return together
        return self._once("extended", lambda: encoding.extended_json(self.document, self.raw))

    def document_json(self) -> bytes:
        """The AWS sample's payload. Raises UnrenderableError as ``render`` does."""
        chunk = self._chunk
        together = None if chunk is None else chunk.document_json[self._place]
        if together is not None:
            return together
        return self._once("document", lambda: sample_payload.document_json(self.document))

    def full_document_json(self) -> bytes | None:
        """The full document as plain JSON (see ``encoding.plain_json``), or None where there is no full document."""
        chunk = self._chunk
        together = None if chunk is None else chunk.full_document_json[self._place]
        if together is not None:
            return together
        full = self.full_document
        return (
            None
            if full is None
            else self._once("plain", lambda: encoding.plain_json(full, self._raw_field("fullDocument")))
        )

    @property
    def _envelope(self) -> Envelope | None:
        chunk = self._chunk
        return None if chunk is None else chunk.envelopes[self._place]

    def _field(self, name: str) -> Mapping[str, Any] | None:
        """A field that is a document, decoded alone where that can be."""
        envelope = self._envelope
        raw = None if envelope is None or self._document is not None else envelope.document(name)
        if raw is not None:
            with contextlib.suppress(encoding.UnrenderableError):
                return encoding.decode(raw)
        found: Mapping[str, Any] | None = self.document.get(name)
        return found

    def _raw_field(self, name: str) -> bytes | None:
        """The bytes of a field that is a document, where they are known."""
        envelope = self._envelope
        if envelope is not None and (raw := envelope.document(name)) is not None:
            return raw
        if self.raw is None:
            return None
        found = bson.decode(self.raw, encoding.RAW_OPTIONS)[name]
        return bytes(found.raw) if isinstance(found, RawBSONDocument) else None

    def _once(self, name: str, make: Callable[[], bytes]) -> bytes:
        # Two threads may both render; they make the same bytes, so the loser's work is only wasted.
        rendered = self._rendered
        if rendered is None:
            rendered = self._rendered = {}
        done = rendered.get(name)
        if done is None:
            if self.document and self._problem is not None:
                raise encoding.UnrenderableError(self._problem)
            done = rendered[name] = _surely(make)
        return done


def _surely(make: Callable[[], T]) -> T:
    """What ``make`` makes of an event. Whatever it raises, it would raise at every attempt: the event is rejected then,
    where any other error would have its stream end here for ever."""
    try:
        return make()
    except (encoding.UnrenderableError, MemoryError):
        raise
    except Exception as error:
        raise encoding.UnrenderableError(f"cannot be rendered: {type(error).__name__}") from error


@lru_cache(1024)
def _namespace(ns: bytes) -> Namespace:
    """The namespace of an ``ns`` in Extended JSON."""
    found = orjson.loads(ns or b"{}")
    return Namespace(found.get("db", ""), found.get("coll"))


@lru_cache(1024)
def _namespace_text(namespace: Namespace) -> str:
    return str(namespace) or "_"


@dataclass(frozen=True, slots=True)
class Rejection:
    """An event that somebody will never take, however often it is sent.

    Attributes:
        event: The event itself; it goes to the dead letters.
        target: Who refused it: the target's name, a step's name, or ``source`` for what the cluster cannot send.
        reason: The verdict in one line (size and limit, or the service's error), without the document's content.
    """

    event: ChangeEvent
    target: str
    reason: str


@dataclass(frozen=True, slots=True)
class Batch:
    """Up to BATCH_SIZE change events in the server's order, fewer when they are large, and the position after them.

    A batch may be empty and still move the position: the server said that nothing happened until then.

    Attributes:
        events: The events, possibly none.
        position: Where the stream stands once they are delivered.
        size_bytes: Their size as BSON.
        quiet: The server had nothing to say for several full waits in a row.
        rejected: Events before the position whose content the server cannot send: what can be known of them, for the
            dead letters.
        gap: What is missing before the position, and why; for the ledger. None when nothing is.
        drained: The server has looked for more up to the position, and there was none.
    """

    events: Sequence[ChangeEvent]
    position: Position
    size_bytes: int = 0
    quiet: bool = False
    rejected: Sequence[Rejection] = ()
    gap: str | None = None
    drained: bool = False

    def split(self, limit_bytes: int | None) -> tuple[Batch, Batch | None]:
        """The first events, so many as have ``limit_bytes`` together and one at least, and what is left, or None."""
        if limit_bytes is None or self.size_bytes <= limit_bytes:
            return self, None
        count = fitting(self.events, limit_bytes)
        if count >= len(self.events):
            return self, None
        first, last = self.events[:count], self.events[count - 1]
        ended = last.operation == "invalidate"
        position = Position.at_token(last.token, time=last.cluster_time, after_invalidate=ended)
        size_bytes = sum(event.size_bytes for event in first)
        rest = replace(self, events=self.events[count:], size_bytes=self.size_bytes - size_bytes)
        return Batch(first, position, size_bytes), rest


def fitting(events: Sequence[ChangeEvent], limit_bytes: int) -> int:
    """How many of the first events have ``limit_bytes`` together: one at least, where there is one."""
    size_bytes = 0
    for count, event in enumerate(events):
        size_bytes += event.size_bytes
        if count and size_bytes > limit_bytes:
            return count
    return len(events)
