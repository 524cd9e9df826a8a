"""One `_id` is one key and one OpenSearch document exactly where MongoDB takes it for one."""

from __future__ import annotations

import itertools
import struct
from collections.abc import Iterator
from typing import Any

import pymongo
import pytest
from bson import Code, Decimal128, Int64, Regex
from bson.raw_bson import RawBSONDocument
from pymongo import MongoClient
from pymongo.collation import Collation
from pymongo.errors import DuplicateKeyError, WriteError

from docdb_stream.events import ChangeEvent, Events
from docdb_stream.formats.reader import to_bson
from docdb_stream.targets._versioned import document_id

pytestmark = pytest.mark.integration

INT, LONG, DOUBLE, DECIMAL = "$numberInt", "$numberLong", "$numberDouble", "$numberDecimal"
OID = "65b9f0000000000000000001"
NUMBERS = [
    *({kind: "1"} for kind in (INT, LONG, DOUBLE, DECIMAL)),
    *({DECIMAL: text} for text in ("1.0", "1E0", "10E-1", "0.1", "0.10", "1E-1", "1E3", "1000", "NaN", "-NaN", "sNaN")),
    *(
        {DOUBLE: text}
        for text in ("0.0", "-0.0", "0.1", "0.5", "1000", "NaN", "Infinity", "-Infinity", "1e300", "5e-324")
    ),
    *({DECIMAL: text} for text in ("0", "-0", "0E10", "0.5", "0.50", "Infinity", "-Infinity", "1E300", "9.99E6144")),
    {DECIMAL: "0.1000000000000000055511151231257827"},  # the double 0.1 to 34 digits, yet not it
    *({LONG: str(number)} for number in (2**53, 2**53 + 1, 2**63 - 1, -(2**63), -(2**63) + 1)),
    *({DOUBLE: repr(float(number))} for number in (2**53, 2**53 + 2, 2**63, -(2**63), 2**64)),
    *({DECIMAL: str(number)} for number in (2**53 + 1, 2**63 - 1, 2**63, -(2**63), -(2**63) - 1, 2**64)),
    {DECIMAL: "12345678901234567890123"},
    {DECIMAL: "12345678901234567890123.0"},
    {INT: "0"},
]
OTHERS = [
    *("", "1", "a", "A", "é", "e\u0301", "null", "true", "NaN", "Infinity", "1.5", "1e+300", OID, '{"a":1}', "é" * 300),
    *({"$symbol": text} for text in ("1", "a", OID)),
    *(True, False, None, {"$oid": OID}, {"$minKey": 1}, {"$maxKey": 1}),
    *({"$binary": {"base64": "YWJj", "subType": subtype}} for subtype in ("00", "02", "80")),
    # A UUID that is too short: no PyMongo before 4.20 can read it.
    *({"$binary": {"base64": "YWJj", "subType": uuid}} for uuid in ("03", "04") if pymongo.version_tuple >= (4, 20)),
    {"$binary": {"base64": "AAECAwQFBgcICQoLDA0ODw==", "subType": "04"}},
    {"$binary": {"base64": "AAECAwQFBgcICQoLDA0ODw==", "subType": "03"}},
    *({"$date": {LONG: str(ms)}} for ms in (0, 1, -1, 1_700_000_000_000, 2**62)),
    *({"$timestamp": {"t": t, "i": i}} for t, i in ((0, 1), (1, 0), (1_700_000_000, 0))),
    *({"$code": text} for text in ("1", "a")),
    {"$code": "a", "$scope": {}},
    {"$code": "a", "$scope": {"x": {INT: "1"}}},
    {"$code": "a", "$scope": {"x": {DOUBLE: "1"}}},
    {"$dbPointer": {"$ref": "a", "$id": {"$oid": OID}}},
    {"$ref": "a", "$id": {"$oid": OID}},
    *({}, {"a": {}}, {"b": {}}),
]
INNER_ONLY = [
    *([], [{INT: "1"}], [{DOUBLE: "1"}], {"0": {INT: "1"}}, [{INT: "1"}, {INT: "2"}], [{INT: "2"}, {INT: "1"}]),
    {"$undefined": True},
    *({"$regularExpression": {"pattern": "a", "options": options}} for options in ("", "i", "im", "mi")),
]
DOCUMENTS = [
    {"a": {INT: "1"}, "b": {INT: "2"}},
    {"b": {INT: "2"}, "a": {INT: "1"}},
    {"a": {DOUBLE: "1"}, "b": {DECIMAL: "2.0"}},
    {"a": {INT: "1"}, "b": {INT: "3"}},
    {"a": {INT: "1"}, "c": {INT: "2"}},
]
IDS: list[Any] = [*NUMBERS, *OTHERS, *({"a": value} for value in [*NUMBERS, *OTHERS, *INNER_ONLY]), *DOCUMENTS]
IDS += [{"a": {"b": [{"c": value}]}} for value in NUMBERS[:8]]


def twice(name: str, *values: int) -> bytes:
    """The BSON of a document that has a key several times."""
    body = b"".join(b"\x10" + name.encode() + b"\0" + struct.pack("<i", value) for value in values)
    return struct.pack("<i", len(body) + 5) + body + b"\0"


def raw_ids() -> Iterator[bytes]:
    """The BSON of a document with nothing but each `_id`."""
    yield from (to_bson({"_id": value}) for value in IDS)
    for inner in (twice("a", 1), twice("a", 1, 1), twice("a", 1, 2), twice("a", 2, 1)):
        body = b"\x03_id\0" + inner
        yield struct.pack("<i", len(body) + 5) + body + b"\0"


def event_of(document_key: bytes) -> ChangeEvent:
    """A delete of this document, as its bytes come from a server."""
    head = to_bson({"_id": {"_data": "8201"}, "operationType": "delete", "ns": {"db": "shop", "coll": "orders"}})
    body = head[4:-1] + b"\x03documentKey\0" + document_key
    [event] = Events.of([struct.pack("<i", len(body) + 5) + body + b"\0"])
    return event


def test_ids_are_one_exactly_where_mongodb_takes_them_for_one(mongo: MongoClient[Any], db_name: str) -> None:
    collection = mongo[db_name].ids
    one_to_mongodb: dict[int, list[bytes]] = {}
    for number, raw in enumerate(raw_ids()):
        mark = b"\x10n\0" + struct.pack("<i", number)
        try:
            collection.insert_one(RawBSONDocument(struct.pack("<i", len(raw) + len(mark)) + raw[4:-1] + mark + b"\0"))
            one_to_mongodb[number] = [raw]
        except DuplicateKeyError:
            found = collection.find_one(RawBSONDocument(raw))
            assert found is not None
            one_to_mongodb[found["n"]].append(raw)
    classes = sorted(one_to_mongodb.values())
    assert max(map(len, classes)) > 4
    for text_of in (lambda event: event.ordering_key, lambda event: document_id(event.exact_id)):
        found_by_text: dict[str, list[bytes]] = {}
        for same in classes:
            for raw in same:
                found_by_text.setdefault(text_of(event_of(raw)), []).append(raw)
        assert sorted(found_by_text.values()) == classes


def test_a_replacement_by_another_form_of_the_id_keeps_its_key(mongo: MongoClient[Any], db_name: str) -> None:
    collection = mongo[db_name].orders
    same = [
        {"a": one, "code": Code("x", {"y": one}), "pattern": Regex("a", "i")}
        for one in (1, 1.0, Int64(1), Decimal128("1.0"))
    ]
    with collection.watch() as changes:
        collection.insert_one({"_id": same[0]})
        for before, after in itertools.pairwise(same):
            assert collection.replace_one({"_id": before}, {"_id": after}).matched_count == 1
        collection.delete_one({"_id": same[0]})
        events = [ChangeEvent(document=next(changes)) for _ in range(len(same) + 1)]
    assert [event.operation for event in events] == ["insert", "replace", "replace", "replace", "delete"]
    assert len({event.ordering_key for event in events}) == 1
    assert len({document_id(event.exact_id) for event in events}) == 1


def test_a_collation_makes_no_two_ids_one_document(mongo: MongoClient[Any], db_name: str) -> None:
    collection = mongo[db_name].create_collection("orders", collation=Collation("en", strength=1))
    collection.insert_one({"_id": "a"})
    with pytest.raises(DuplicateKeyError):
        collection.insert_one({"_id": "A"})
    with pytest.raises(WriteError, match="immutable"):
        collection.replace_one({"_id": "A"}, {"_id": "A", "v": 1})
    with collection.watch() as changes:
        collection.update_one({"_id": "A"}, {"$set": {"v": 2}})
        collection.delete_one({"_id": "A"})
        events = [ChangeEvent(document=next(changes)) for _ in range(2)]
    assert [event.exact_id for event in events] == ["a", "a"]
