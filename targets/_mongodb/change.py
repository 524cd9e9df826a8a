"""What an event changes on the target: a document as a whole, or one by update operators. In BSON as it came.

Owns how that is taken out of an event without being decoded: what the cluster stores is what the target gets, with
types, order and repeated keys.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import sha256
from typing import Final, NamedTuple

import bson
from bson import Timestamp
from bson.codec_options import CodecOptions, DatetimeConversion
from bson.raw_bson import RawBSONDocument

from docdb_stream.derived_update import check, is_in_any_order
from docdb_stream.errors import UnrenderableError
from docdb_stream.events import ChangeEvent
from docdb_stream.formats import rawbson
from docdb_stream.formats.decoded import DECODE_OPTIONS

WRITING = frozenset({"insert", "update", "replace", "delete"})
"""Operations about one document that a mirror follows."""

MARK_BYTES = 12
"""Of the SHA-256 of an event's id: enough to tell the events of one cluster time apart."""


RAW: Final[CodecOptions[RawBSONDocument]] = CodecOptions(
    RawBSONDocument,
    datetime_conversion=DatetimeConversion.DATETIME_AUTO,
    unicode_decode_error_handler="replace",
)
"""Documents as they are."""


class Opaque(RawBSONDocument):
    """A document that PyMongo sends without looking into it. It would, to see that there is something in it, and some
    of its versions cannot read what a server stores (before 4.20 a UUID of another length)."""

    def __len__(self) -> int:
        return 1


class Value(NamedTuple):
    """A BSON value.

    Attributes:
        type: Its type's byte.
        raw: Its bytes.
    """

    type: bytes
    raw: bytes

    def named(self, name: str) -> bytes:
        """The element with this name and value."""
        return self.type + name.encode() + b"\0" + self.raw

    @property
    def query(self) -> RawBSONDocument:
        """The documents whose ``_id`` it is: one, or none. ``$eq`` takes it for a value, whatever it is."""
        condition = rawbson.joined([self.named("$eq")])
        return document(b"\x03_id\0" + condition)

    @classmethod
    def of(cls, element: bytes) -> Value:
        """The value of a whole element."""
        return cls(element[:1], element[element.index(b"\0", 1) + 1 :])


@dataclass(frozen=True, slots=True)
class Write:
    """A document as a change has left it.

    Attributes:
        event: The event that says so.
        target: The collection, as ``db.coll``.
        source: The collection in which it changed.
        key: The document's ``_id``.
        version: When it changed.
        document: What it is since; None where it was deleted.
    """

    event: ChangeEvent
    target: str
    source: str
    key: Value
    version: Timestamp
    document: RawBSONDocument | None


@dataclass(frozen=True, slots=True)
class Update:
    """A derived update.

    Attributes:
        event: The event that says so.
        target: The collection, as ``db.coll``.
        query: Which document.
        operators: What becomes of it.
        time: When the change was that it is derived from.
        mark: Tells it from the others of that time.
        is_ordered: Whether time and mark tell that it was applied before; otherwise it is applied each time.
    """

    event: ChangeEvent
    target: str
    query: RawBSONDocument
    operators: RawBSONDocument
    time: Timestamp
    mark: bytes
    is_ordered: bool = True


Change = Write | Update


def document(*elements: bytes) -> RawBSONDocument:
    """The document of these elements."""
    return Opaque(rawbson.joined(elements), RAW)


def write_of(event: ChangeEvent, target: str) -> Write | None:
    """What an event of WRITING leaves of its document; None where that is not known and does not matter: the document
    of an update that was gone when it was looked up is deleted by what follows.

    Raises:
        UnrenderableError: The event does not say it.
    """
    fields = _fields(event)
    key = _key(fields.get("documentKey"))
    found: RawBSONDocument | None = None
    if event.operation != "delete":
        full = fields.get("fullDocument")
        if full is None:
            raise UnrenderableError(
                "the event has no fullDocument, and a mirror takes whole documents: set FULL_DOCUMENT = update_lookup, "
                "or UpdateLookup in the event source mapping"
            )
        if full.type != b"\x03":
            return None
        found = _with_id_first(full.raw, key)
    return Write(event, target, str(event.namespace), key, event.cluster_time, found)


def update_of(event: ChangeEvent) -> Update:
    """What a derived update asks for.

    Raises:
        UnrenderableError: It cannot be applied, see ``derived_update.check``.
    """
    check(event)
    time = event.cluster_time
    if not time.time:
        raise UnrenderableError("derived update: it has no cluster time, by which it would be known again")
    if event.snapshot_id is not None:
        raise UnrenderableError(
            "derived update: it is made of a snapshot's document, whose cluster time tells nothing of whether it was "
            "applied before; let the function make none where event.snapshot_id is not None"
        )
    fields = _fields(event)
    conditions = rawbson.parts(fields["documentKey"].raw)
    query = document(
        *(Value(b"\x03", rawbson.joined([Value.of(one).named("$eq")])).named(name) for name, one in conditions.items())
    )
    mark = sha256(event.event_id.encode()).digest()[:MARK_BYTES]
    operators = RawBSONDocument(fields["update"].raw, RAW)
    return Update(event, str(event.namespace), query, operators, time, mark, not is_in_any_order(event))


def _fields(event: ChangeEvent) -> dict[str, Value]:
    raw = event.raw
    if raw is None:
        raw = bson.encode(event.document, codec_options=DECODE_OPTIONS)
    try:
        return {name: Value.of(element) for name, element in rawbson.parts(raw).items()}
    except struct.error:
        raise UnrenderableError("document: not valid BSON") from None


def _key(document_key: Value | None) -> Value:
    if document_key is None or document_key.type != b"\x03" or "_id" not in (parts := rawbson.parts(document_key.raw)):
        raise UnrenderableError("documentKey: not what a change event has there")
    return Value.of(parts["_id"])


def _with_id_first(raw: bytes, key: Value) -> RawBSONDocument:
    """The document, its ``_id`` first, as servers have it: what begins with ``$`` would be taken for operators."""
    first = key.named("_id")
    if raw.startswith(first, 4):
        return Opaque(raw, RAW)
    others = (element for name, element in rawbson.parts(raw).items() if name != "_id")
    return document(first, *others)


def with_id_in(values: Iterable[Value]) -> RawBSONDocument:
    """The query for the documents whose ``_id`` is one of these."""
    array = rawbson.joined(value.named(str(place)) for place, value in enumerate(values))
    return document(b"\x03_id\0" + rawbson.joined([b"\x04$in\0" + array]))
