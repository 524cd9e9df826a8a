"""Avro, by one schema for all events: what every event has in fields, documents as texts of Extended JSON.

Made for consumers whose tools read a schema registry. The schema never depends on documents, so it stays compatible
whatever is stored. Binary encoding: https://avro.apache.org/docs/1.12.0/specification/#binary-encoding
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

from docdb_stream.errors import UnrenderableError
from docdb_stream.formats import rawbson
from docdb_stream.formats._json import EPOCH, MILLISECOND, utc
from docdb_stream.formats.decoded import Decoded
from docdb_stream.formats.extended import RENDERER
from docdb_stream.formats.facts import FACTS, Facts

_TIME: Final = {"type": "long", "logicalType": "timestamp-millis"}
_EXTENDED_JSON: Final = "as relaxed MongoDB Extended JSON v2"


def _field(name: str, kind: Any, doc: str) -> dict[str, Any]:
    return {"name": name, "type": kind, "doc": doc}


def _optional(name: str, kind: Any, doc: str) -> dict[str, Any]:
    return {"name": name, "type": ["null", kind], "default": None, "doc": doc}


_SCHEMA: Final = {
    "type": "record",
    "name": "ChangeEvent",
    "namespace": "io.docdb_stream",
    "doc": "A change event of MongoDB or Amazon DocumentDB",
    "fields": [
        _field("event_id", "string", "The same for every delivery of the event"),
        _field("operation", "string", "MongoDB's operationType"),
        _optional("db", "string", "The database"),
        _optional("coll", "string", "The collection"),
        _field("cluster_time", _TIME, "When the change was committed, in whole seconds"),
        _field("increment", "long", "Orders the changes of one second; the same for those of a transaction"),
        _optional("wall_time", _TIME, "The server's clock at the change, from MongoDB 6.0 on"),
        _optional("key", "string", f"The document key, {_EXTENDED_JSON}"),
        _optional("document", "string", f"The document after the change, {_EXTENDED_JSON}"),
        _optional("before", "string", f"The document before the change, {_EXTENDED_JSON}"),
        _optional("update_description", "string", f"What an update changed, {_EXTENDED_JSON}"),
        _optional("other", "string", f"What else the event says, {_EXTENDED_JSON}"),
    ],
}

_IN_FIELDS: Final = frozenset(
    {
        *("_id", "operationType", "ns", "clusterTime", "wallTime"),
        *("documentKey", "fullDocument", "fullDocumentBeforeChange", "updateDescription"),
    }
)


class Avro:
    """The event in Avro's binary encoding, without a header that says by which schema."""

    name = "avro"
    schema_type = "AVRO"
    schema = json.dumps(_SCHEMA, separators=(",", ":"))

    def render(self, decoded: Decoded) -> Sequence[bytes | UnrenderableError]:
        """See ``Format``, and ``extended_json`` for what is refused."""
        columns = zip(
            FACTS.render(decoded),
            [_milliseconds(event.get("wallTime")) for event in decoded.documents],
            RENDERER.column(decoded, "documentKey"),
            RENDERER.column(decoded, "fullDocument"),
            RENDERER.column(decoded, "fullDocumentBeforeChange"),
            RENDERER.column(decoded, "updateDescription"),
            _others(decoded),
            strict=True,
        )
        return [
            next((each for each in column if isinstance(each, UnrenderableError)), None) or _encoded(*column)
            for column in columns
        ]


def _others(decoded: Decoded) -> Sequence[bytes | UnrenderableError | None]:
    if _IN_FIELDS.issuperset(name for event in decoded.documents for name in event):
        return [None] * len(decoded.documents)
    return [_other(one) for one in decoded.each]


def _other(one: Decoded) -> bytes | UnrenderableError | None:
    elements = one.documents[0].items() if one.raw is None else rawbson.read(one.raw)
    found = rawbson.Document((name, value) for name, value in elements if name not in _IN_FIELDS)
    try:
        return RENDERER.exactly(found) if found else None
    except UnrenderableError as error:
        return error


def _encoded(facts: Facts, wall_ms: int | None, *texts: bytes | None) -> bytes:
    db, coll = facts.namespace
    return b"".join(
        [
            _text(facts.event_id.encode()),
            _text(facts.operation.encode()),
            _optional_text(db.encode() if db else None),
            _optional_text(None if coll is None else coll.encode()),
            _long(facts.cluster_time.time * 1000),
            _long(facts.cluster_time.inc),
            _NULL if wall_ms is None else _SOME + _long(wall_ms),
            *map(_optional_text, texts),
        ]
    )


_NULL: Final = b"\x00"
_SOME: Final = b"\x02"
"""Which of a union's two types comes: a long, 0 or 1."""


def _long(number: int) -> bytes:
    """Zig-zag, then seven bits a byte, the last ones first."""
    rest = number << 1 if number >= 0 else (-number << 1) - 1
    if rest < 0x80:
        return bytes((rest,))
    encoded = bytearray()
    while rest >= 0x80:
        encoded.append(rest & 0x7F | 0x80)
        rest >>= 7
    encoded.append(rest)
    return bytes(encoded)


def _text(text: bytes) -> bytes:
    return _long(len(text)) + text


def _optional_text(text: bytes | None) -> bytes:
    return _NULL if text is None else _SOME + _text(text)


def _milliseconds(value: Any) -> int | None:
    return (utc(value) - EPOCH) // MILLISECOND if isinstance(value, datetime) else None


AVRO: Final = Avro()
