"""The change event: its bytes, and what they say.

Owns what is known of an event. That it is decoded once, with others, is the matter of ``formats.part``; how it is
written, that of the formats.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import bson
from bson import ObjectId, Timestamp

from docdb_stream.errors import UnrenderableError
from docdb_stream.formats import format_of
from docdb_stream.formats.decoded import DECODE_OPTIONS, decode_all
from docdb_stream.formats.facts import FACTS, UNKNOWN, Facts, exact_id, key_of
from docdb_stream.formats.key import object_id_key
from docdb_stream.formats.part import Part
from docdb_stream.position import Namespace, ResumeToken
from docdb_stream.snapshot_event import snapshot_of

if TYPE_CHECKING:
    from docdb_stream.format import Format


class ChangeEvent:
    """One change event, as the server sent it: its bytes, and what they say.

    An event that came with others (see ``Events``) is decoded and rendered together with them. What is found is kept,
    at most once per format, and shared by every target; nothing decoded is, unless ``document`` is asked for.

    Attributes:
        raw: The event's BSON bytes; None for one that did not come as BSON.
        part: What it is decoded together with.
        index: Its place there.

    Args:
        raw: The event's BSON bytes as the server sent them. Rendering uses them to be exact where decoding is not.
        document: The decoded event, for events that did not come as BSON.
    """

    __slots__ = ("_document", "_facts", "index", "part", "raw")

    _document: Mapping[str, Any]
    _facts: Facts

    def __init__(self, raw: bytes | None = None, *, document: Mapping[str, Any] | None = None) -> None:
        if raw is None and document is None:
            raise ValueError("an event needs its BSON bytes or its document")
        self.raw = raw
        self.part = Part(() if raw is None else (raw,), document if raw is None else None)
        self.index = 0
        if document is not None:
            self._document = document

    @classmethod
    def all_in(cls, part: Part) -> list[ChangeEvent]:
        """The events of a part."""
        events = []
        new = cls.__new__
        for index, raw in enumerate(part.raws):
            event = new(cls)
            event.raw, event.part, event.index = raw, part, index
            events.append(event)
        for event, facts in zip(events, part.facts or (), strict=False):
            if type(facts) is Facts:
                event._facts = facts
        return events

    def __repr__(self) -> str:
        return f"<ChangeEvent {self.operation} {self.namespace} {self.event_id}>"

    @property
    def document(self) -> Mapping[str, Any]:
        """The decoded change event; where its bytes cannot be decoded faithfully (text that is not UTF-8), an
        approximation, good enough to say which event it is. Every rendering raises UnrenderableError then."""
        try:
            return self._document
        except AttributeError:
            [found] = decode_all([self.raw or b""])
            if found.problem and not found.documents[0]:
                raise UnrenderableError(found.problem) from None
            self._document = found.documents[0]
            return self._document

    @property
    def facts(self) -> Facts:
        """What every target asks of an event, at once. Raises UnrenderableError where it is no change event."""
        try:
            return self._facts
        except AttributeError:
            found = (self.part.facts or self.part.find(FACTS))[self.index]
            if not isinstance(found, Facts):
                raise UnrenderableError(*found.args) from None  # a new one: an error keeps the frames it is raised in
            self._facts = found
            return found

    @property
    def token(self) -> ResumeToken:
        """The event's resume token."""
        return ResumeToken(self.document["_id"])

    @property
    def event_id(self) -> str:
        """The token's ``_data``: the same for every delivery of the same event, different for different events."""
        return self.facts.event_id

    @property
    def snapshot_id(self) -> str | None:
        """Names the snapshot in which the document was read; None for a change, which is what most events are."""
        return snapshot_of(self.facts.event_id)

    @property
    def operation(self) -> str:
        """MongoDB's ``operationType``: insert, update, replace, delete, drop, rename, dropDatabase, invalidate, ..."""
        return self.facts.operation

    @property
    def namespace(self) -> Namespace:
        """The namespace; an ``invalidate`` has none and gives an empty database name."""
        return self.facts.namespace

    @property
    def document_key(self) -> Mapping[str, Any] | None:
        """``{"_id": ...}`` and, on sharded collections, the shard key; None for events about no single document."""
        return self.document.get("documentKey")

    @property
    def has_document_key(self) -> bool:
        """Whether the event is about a single document."""
        return self.facts.has_key

    @property
    def object_id(self) -> str:
        """The document key's ``_id`` in hexadecimal where it is an ObjectId, as it is usually; else empty."""
        return self.facts.object_id

    @property
    def exact_id(self) -> Any:
        """The document key's ``_id``, with all that decoding gives up in what holds other values (see ``rawbson``).
        Raises UnrenderableError where it is not valid BSON."""
        facts = self.facts
        if facts.object_id:
            return ObjectId(facts.object_id)
        if facts.id is not UNKNOWN:
            return facts.id
        return exact_id(self.document_key, self.raw)

    @property
    def full_document(self) -> Mapping[str, Any] | None:
        """The document after the change, or None: for deletes, or when it was gone before it could be looked up."""
        return self.document.get("fullDocument")

    @property
    def update_description(self) -> Mapping[str, Any] | None:
        """What an update changed."""
        return self.document.get("updateDescription")

    @property
    def cluster_time(self) -> Timestamp:
        """When the change was committed; taken from the token where the server leaves the field out."""
        return self.facts.cluster_time

    @property
    def cluster_time_parts(self) -> tuple[int, int]:
        """The cluster time's seconds and increment."""
        time = self.facts.cluster_time
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
        document. Raises UnrenderableError where Extended JSON cannot say it.
        """
        facts = self.facts
        if facts.object_id:
            return object_id_key(facts.object_id)
        return facts.key if facts.key is not None or not facts.has_key else key_of(facts, self.document, self.raw)

    @property
    def ordering_key(self) -> str:
        """The text that events have in common which keep their order: the namespace and the document key; without a
        key the namespace alone, and without a namespace an underscore. Raises UnrenderableError as ``key`` does."""
        facts = self.facts
        key = object_id_key(facts.object_id) if facts.object_id else self.key
        text = _namespace_text(facts.namespace)
        return text if key is None else f"{text}/{key}"

    @property
    def size_bytes(self) -> int:
        """The event's size as BSON where known, else as rendered."""
        return len(self.raw) if self.raw is not None else len(self.render("extended"))

    def render(self, payload_format: Format | str) -> bytes:
        """The event in a format, or in the format of a name (see ``format_named``), without a final newline.

        Raises:
            UnrenderableError: The event holds something that the format cannot say without altering it.
        """
        found = self.part.find(format_of(payload_format))[self.index]
        if isinstance(found, bytes):
            return found
        raise UnrenderableError(*found.args)  # a new one: an error keeps the frames that it is raised in

    def replace(self, **fields: Any) -> ChangeEvent:
        """A change event like this one, with other values in some of its fields; None takes a field out.

        What it is made of is the decoded document: keys that occur twice, and types that MongoDB has given up, are in
        the new one as decoding leaves them.

        Args:
            fields: By MongoDB's names: ``fullDocument``, ``operationType``, ``updateDescription``, ...
        """
        document = {name: value for name, value in {**self.document, **fields}.items() if value is not None}
        return ChangeEvent(bson.encode(document, codec_options=DECODE_OPTIONS))


@lru_cache(1024)
def _namespace_text(namespace: Namespace) -> str:
    return str(namespace) or "_"
