"""The payload of the AWS sample."""

import math
from datetime import datetime
from typing import Any

import bson
import pytest
from bson.binary import Binary
from bson.code import Code
from bson.datetime_ms import DatetimeMS
from bson.dbref import DBRef
from bson.decimal128 import Decimal128
from bson.int64 import Int64
from bson.regex import Regex
from bson.timestamp import Timestamp
from decoded_events import OID, event

from docdb_stream.errors import UnrenderableError
from docdb_stream.formats.decoded import decode
from docdb_stream.formats.document import document_json

UUID_BYTES = bytes(range(16))
UUID_TEXT = "00010203-0405-0607-0809-0a0b0c0d0e0f"


def test_document_json_is_the_payload_of_the_sample() -> None:
    document = {
        "operation": "mine",
        "z": 1,
        "_id": OID,
        "when": datetime(1950, 1, 1, 0, 0, 0, 1000),
        "bin": b"abc",
        "uuid": Binary(UUID_BYTES, 4),
        "old": Binary(UUID_BYTES, 3),
        "user": Binary(b"abc", 0x80),
        "re": Regex("a.*", "imsx"),
        "code": Code("f()", {"x": Int64(1)}),
        "ref": DBRef("c", Binary(UUID_BYTES, 4), "d"),
        "dec": Decimal128("1.10"),
        "ts": Timestamp(1, 2),
        "é": ["ü", None, 1e300],
    }
    # As PyMongo 3.10.1 printed it: json_util.dumps({"_id": ..., **document, **metadata}).
    expected = (
        '{"_id": "65a1f0c2d4e5f60718293a4b", "operation": "replace", "z": 1, "when": {"$date": -631151999999}, '
        '"bin": {"$binary": "YWJj", "$type": "00"}, "uuid": {"$uuid": "000102030405060708090a0b0c0d0e0f"}, '
        '"old": {"$uuid": "000102030405060708090a0b0c0d0e0f"}, "user": {"$binary": "YWJj", "$type": "80"}, '
        '"re": {"$regex": "a.*", "$options": "imsx"}, "code": {"$code": "f()", "$scope": {"x": 1}}, '
        '"ref": {"$ref": "c", "$id": {"$uuid": "000102030405060708090a0b0c0d0e0f"}, "$db": "d"}, '
        '"dec": {"$numberDecimal": "1.10"}, "ts": {"$timestamp": {"t": 1, "i": 2}}, '
        '"\\u00e9": ["\\u00fc", null, 1e+300], "timestamp": "1700000000", "timestampReadable": "2023-11-14T22:13:20"}'
    )
    raw = bson.encode(event("replace", fullDocument=document))
    assert document_json(decode(raw)).decode() == expected
    assert "_id" in document  # the caller's document is not touched


METADATA = '"timestamp": "1700000000", "timestampReadable": "2023-11-14T22:13:20"'


@pytest.mark.parametrize(
    ("change", "payload"),
    [
        (event("delete"), f'{{"_id": "{OID}", "operation": "delete", {METADATA}}}'),
        (event("update", fullDocument=None), f'{{"_id": "{OID}", "operation": "update", {METADATA}}}'),
        (event("drop"), f'{{"operation": "drop", {METADATA}, "db": "shop", "coll": "orders"}}'),
        (event("dropDatabase", ns={"db": "shop"}), f'{{"operation": "dropDatabase", {METADATA}, "db": "shop"}}'),
        (
            {"operationType": "invalidate", "clusterTime": Timestamp(1700000000, 1)},
            f'{{"operation": "invalidate", {METADATA}}}',
        ),
        (
            event("delete", documentKey={"_id": Binary(UUID_BYTES, 4)}),
            f'{{"_id": "{UUID_TEXT}", "operation": "delete", {METADATA}}}',
        ),
        (
            event(fullDocument={"_id": 1, "a": [math.nan, {"b": -math.inf}], "c": Code("f()", {"x": math.inf})}),
            '{"_id": "1", "a": [{"$numberDouble": "NaN"}, {"b": {"$numberDouble": "-Infinity"}}], '
            '"c": {"$code": "f()", "$scope": {"x": {"$numberDouble": "Infinity"}}}, '
            f'"operation": "insert", {METADATA}}}',
        ),
        (
            event(fullDocument={"_id": math.nan, "far": DatetimeMS(2**53)}),
            f'{{"_id": "nan", "far": {{"$date": 9007199254740992}}, "operation": "insert", {METADATA}}}',
        ),
    ],
)
def test_document_json_of_other_events(change: dict[str, Any], payload: str) -> None:
    assert document_json(change).decode() == payload


@pytest.mark.parametrize("missing", ["operationType", "clusterTime", "documentKey"])
def test_document_json_needs_its_fields(missing: str) -> None:
    change = event("delete")
    del change[missing]
    with pytest.raises(UnrenderableError, match=f"^{missing}: missing in the event$"):
        document_json(change)


def test_document_json_refuses_endless_nesting() -> None:
    value: Any = 1
    for _ in range(5000):
        value = [value]
    with pytest.raises(UnrenderableError, match=r"^nested too deeply$"):
        document_json(event(fullDocument={"_id": 1, "a": value}))
