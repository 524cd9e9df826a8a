"""Change events as a server would send them: realistic ones, and hostile ones.

Each is encoded to BSON and decoded the way production decodes it. Tokens and cluster times increase like MongoDB's.
"""

from __future__ import annotations

import datetime as dt
import struct
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import bson
from bson import DBRef, Decimal128, Int64, MaxKey, MinKey, ObjectId, Regex, Timestamp
from bson.binary import Binary, UuidRepresentation
from bson.code import Code
from bson.codec_options import CodecOptions
from bson.datetime_ms import DatetimeMS
from bson.raw_bson import RawBSONDocument

from docdb_stream.events import ChangeEvent, Namespace
from docdb_stream.snapshot_event import SnapshotEvents

_START = Timestamp(int(dt.datetime(2026, 1, 31, 12, tzinfo=dt.UTC).timestamp()), 1)
_CODEC: CodecOptions[dict[str, Any]] = CodecOptions(uuid_representation=UuidRepresentation.STANDARD)


def change_event(document: Mapping[str, Any]) -> ChangeEvent:
    """The event of this change-event document, encoded and decoded as if it had come from a server."""
    return ChangeEvent(bson.encode(document, codec_options=_CODEC))


class ChangeLog:
    """Makes the change events of one namespace, each later than the one before.

    Two logs made with the same arguments make the same events for the same calls.

    Args:
        db: Database of the events.
        coll: Collection of the events.
        start: Cluster time of the first event.
    """

    def __init__(self, db: str = "shop", coll: str = "orders", start: Timestamp = _START) -> None:
        self.namespace = Namespace(db, coll)
        self._time = start
        self._in_transaction: int | None = None
        self._collection_id = uuid.uuid5(uuid.NAMESPACE_OID, str(self.namespace)).hex.upper()

    def insert(self, document: Mapping[str, Any]) -> ChangeEvent:
        """An insert of ``document``, which has an ``_id``."""
        return self.event("insert", document["_id"], fullDocument=document)

    def inserts(self, count: int, size_bytes: int = 0, first_id: int = 0) -> list[ChangeEvent]:
        """``count`` inserts of different documents, each padded with ``size_bytes`` characters."""
        ids = range(first_id, first_id + count)
        return [self.insert({"_id": number, "price": number / 4, "note": "x" * size_bytes}) for number in ids]

    def snapshot(self, *documents: Mapping[str, Any], time: Timestamp | None = None) -> list[ChangeEvent]:
        """The events of documents, each with an ``_id``, in a snapshot that began at this cluster time; by default
        between the events so far and those to come."""
        events = SnapshotEvents("a1b2c3d4e5f6", time or self._time, self.namespace)
        if time is None:
            self._tick()
        return [ChangeEvent(events.of(bson.encode(document, codec_options=_CODEC))) for document in documents]

    def update(
        self, document: Mapping[str, Any], fields: Mapping[str, Any] | None = None, *, gone: bool = False
    ) -> ChangeEvent:
        """An update that made ``document`` what it is.

        Args:
            document: The document after the update.
            fields: The updated fields; by default all but ``_id``.
            gone: The document was deleted before the server could look it up: ``fullDocument`` is null.
        """
        changed = {key: value for key, value in document.items() if key != "_id"} if fields is None else fields
        description = {"updatedFields": changed, "removedFields": [], "truncatedArrays": []}
        full = None if gone else document
        return self.event("update", document["_id"], fullDocument=full, updateDescription=description)

    def replace(self, document: Mapping[str, Any]) -> ChangeEvent:
        """A replacement by ``document``."""
        return self.event("replace", document["_id"], fullDocument=document)

    def delete(self, _id: Any) -> ChangeEvent:
        """A delete of the document with this ``_id``."""
        return self.event("delete", _id)

    def drop(self) -> ChangeEvent:
        """The collection was dropped."""
        return self._event("drop", {"ns": self._ns})

    def rename(self, to: str) -> ChangeEvent:
        """The collection was renamed."""
        return self._event("rename", {"ns": self._ns, "to": {"db": self.namespace.db, "coll": to}})

    def drop_database(self) -> ChangeEvent:
        """The database was dropped: an event with a database and no collection."""
        return self._event("dropDatabase", {"ns": {"db": self.namespace.db}})

    def invalidate(self) -> ChangeEvent:
        """The stream ended: an event with no namespace at all."""
        return self._event("invalidate", {})

    def unknown(self, operation: str = "futureOperation") -> ChangeEvent:
        """An operation that this version of docdb-stream has never heard of."""
        return self._event(operation, {"ns": self._ns, "operationDescription": {"anything": 1}})

    def event(self, operation: str, _id: Any, **fields: Any) -> ChangeEvent:
        """An event about one document, with these further fields."""
        return self._event(operation, {**fields, "ns": self._ns, "documentKey": {"_id": _id}})

    def every_operation(self) -> list[ChangeEvent]:
        """One event of every operation there is, two of an update (with and without its document), one unknown."""
        document = {"_id": ObjectId("65b9f0000000000000000001"), "status": "new", "total": Decimal128("19.90")}
        changed = {**document, "status": "paid"}
        return [
            self.insert(document),
            self.update(changed, {"status": "paid"}),
            self.replace({"_id": document["_id"], "status": "sent"}),
            self.update(changed, {"status": "lost"}, gone=True),
            self.delete(document["_id"]),
            self.rename("archive"),
            self.drop(),
            self.unknown(),
            self.drop_database(),
            self.invalidate(),
        ]

    def hostile(self) -> dict[str, ChangeEvent]:
        """An insert of each of ``hostile_documents()``, by its name."""
        return {name: self.insert(document) for name, document in hostile_documents().items()}

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Events made within share one cluster time, as those of a transaction do; their tokens still differ."""
        self._in_transaction = 0
        yield
        self._in_transaction = None
        self._tick()

    @property
    def _ns(self) -> dict[str, Any]:
        return {"db": self.namespace.db, "coll": self.namespace.coll}

    def _tick(self) -> None:
        # Ten events a second, so that tokens differ in the seconds too.
        inc = self._time.inc % 10 + 1
        self._time = Timestamp(self._time.time + (inc == 1), inc)

    def _event(self, operation: str, fields: Mapping[str, Any]) -> ChangeEvent:
        index = self._in_transaction or 0
        # A KeyString as MongoDB makes it: timestamp (82), then the index in the transaction (2B, doubled), then the
        # collection's UUID (5A10 04) and the end. Opaque to everyone but the server; only its order and start matter.
        data = f"82{self._time.time:08X}{self._time.inc:08X}2B{index * 2:02X}2C0100296E5A1004{self._collection_id}04"
        document = {
            "_id": {"_data": data},
            "operationType": operation,
            "clusterTime": self._time,
            "wallTime": self._time.as_datetime(),
            **fields,
        }
        if self._in_transaction is None:
            self._tick()
        else:
            self._in_transaction += 1
        return change_event(document)


def hostile_documents() -> Mapping[str, Mapping[str, Any]]:
    """Documents that a server stores and a careless target breaks on, by name; each ``_id`` is different."""
    documents: dict[str, Any] = {
        "numbers": {
            "int64_max": Int64(2**63 - 1),
            "int64_min": Int64(-(2**63)),
            "beyond_double": Int64(2**53 + 1),
            "small_int64": Int64(1),
            "nan": float("nan"),
            "infinities": [float("inf"), float("-inf")],
            "negative_zero": -0.0,
            "tiny": 5e-324,
            "huge": 1.7976931348623157e308,
            "decimals": [
                Decimal128(text) for text in ("NaN", "Infinity", "-0", "9.999999999999999999999999999999999E+6144")
            ],
        },
        "dates": {
            "before_1970": dt.datetime(1901, 1, 1, tzinfo=dt.UTC),
            "before_year_1": DatetimeMS(-(2**62)),
            "after_9999": DatetimeMS(253402300800000),
            "int64_max": DatetimeMS(2**63 - 1),
            "with_ms": DatetimeMS(1769860800123),
        },
        "types": {
            "oid": ObjectId("65b9f0000000000000000002"),
            "binary": Binary(b"\x00\xff", 0x80),
            "empty_binary": b"",
            "uuid": uuid.UUID(int=7),
            "broken_uuid": Binary(b"short", 3),
            "regex": Regex('^a/b"\\', "imx"),
            "timestamp": Timestamp(2**32 - 1, 2**32 - 1),
            "min_key": MinKey(),
            "max_key": MaxKey(),
            "code": Code("function () { return '</script>' }"),
            "scoped_code": Code("x", {"x": 1}),
            "db_ref": DBRef("coll", ObjectId("65b9f0000000000000000003"), "db", extra=1),
            "null": None,
            "bools": [True, False],
            "empty": {},
            "empty_array": [],
        },
        "old_types": RawBSONDocument(
            _raw_document(
                b"\x10_id\x00" + struct.pack("<i", -1),
                b"\x06undefined\x00",
                b"\x0esymbol\x00" + _raw_string(b"sym"),
                b"\x0cpointer\x00" + _raw_string(b"db.coll") + bytes(range(12)),
            )
        ),
        "keys": {
            "": "empty",
            "a.b": "dot",
            "$set": "dollar",
            "$": "only a dollar",
            "ключ 🔑": "unicode",
            '\n\t"\\': "escapes",
            "k" * 20_000: "long",
            "__proto__": "prototype",
            "operation": "a name that payloads use too",
            "timestamp": "another",
        },
        "looks_like_extended_json": {
            "oid": {"$oid": "not an id"},
            "date": {"$date": {"$numberLong": "soon"}},
            "ref": {"$ref": "x", "$id": 1},
            "number": {"$numberInt": "1"},
        },
        "text": {
            "nul": "a\x00b",
            "controls": "".join(map(chr, range(32))) + "\x7f\x80\x9f",
            "not_xml": "\ufffe\uffff",
            "separators": "\u2028\u2029\r\n",
            "astral": "\U0001f600\U0010ffff\U0001fffe",
            "bom": "\ufeff",
            "combining": "e\u0301\u200d",
        },
        "invalid_utf8": RawBSONDocument(
            _raw_document(b"\x10_id\x00" + struct.pack("<i", -2), b"\x02s\x00" + _raw_string(b"\xff\xfe\xed\xa0\x80")),
            CodecOptions(RawBSONDocument, unicode_decode_error_handler="replace"),
        ),
        "duplicate_keys": RawBSONDocument(
            _raw_document(
                b"\x10_id\x00" + struct.pack("<i", -3),
                b"\x10twice\x00" + struct.pack("<i", 1),
                b"\x10twice\x00" + struct.pack("<i", 2),
            )
        ),
        "deep": {"nested": _nested(90)},
        "wide": {f"field_{number}": number for number in range(2_000)},
        "mixed_array": {"array": [1, "a", {"b": [None]}, [[]], ObjectId("65b9f0000000000000000004")]},
        "schema_conflict": {"price": {"amount": 1, "currency": "EUR"}},
    }
    return {
        name: document if isinstance(document, RawBSONDocument) else {"_id": f"hostile {name}", **document}
        for name, document in documents.items()
    } | {
        f"id_{name}": {"_id": value}
        for name, value in {
            "document": {"b": 1, "a": "x"},
            "binary": Binary(b"\x00\x01", 4),
            "empty_text": "",
            "slashes": "a/b?c#d%e f\"'\\\x00\ufffe",
            "long": "i" * 600,
            "null": None,
            "nan": float("nan"),
            "int": 1,
            "int64": Int64(2**63 - 1),
            "double": 1.5,
            "date": DatetimeMS(-1),
            "decimal": Decimal128("1.10"),
            "min_key": MinKey(),
        }.items()
    }


def _nested(depth: int) -> dict[str, Any]:
    """MongoDB allows 100 levels; the change event and the document take some of them."""
    document: dict[str, Any] = {}
    for _ in range(depth):
        document = {"d": document}
    return document


def _raw_document(*elements: bytes) -> bytes:
    body = b"".join(elements) + b"\x00"
    return struct.pack("<i", len(body) + 4) + body


def _raw_string(text: bytes) -> bytes:
    return struct.pack("<i", len(text) + 1) + text + b"\x00"
