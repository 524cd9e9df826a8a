"""Every kind of position a stream can stand at, and an ``_id`` of every type: what a store has to keep exactly."""

from __future__ import annotations

import datetime as dt
from dataclasses import replace

import bson
from bson import Binary, Code, Decimal128, Int64, ObjectId, Timestamp

from docdb_stream.position import Namespace, Position, ResumeToken, SnapshotProgress, SnapshotRange

_HEX = "8269A2B3C4000000012B022C0100296E5A1004A0B1C2D3E4F5061728394A5B6C7D8E9F04"


def _key(type_number: int, value: bytes) -> bytes:
    """The BSON of ``{_id: value}``, which PyMongo would not encode for all that servers hold."""
    body = bytes([type_number]) + b"_id\0" + value + b"\0"
    return (len(body) + 4).to_bytes(4, "little") + body


KEYS: dict[str, bytes] = {
    "MinKey": _key(0xFF, b""),
    "null": _key(0x0A, b""),
    "int": bson.encode({"_id": 1}),
    "long": bson.encode({"_id": Int64(1)}),
    "double": bson.encode({"_id": 1.0}),
    "negative zero": bson.encode({"_id": -0.0}),
    "NaN with a payload": _key(0x01, bytes.fromhex("0100000000fcffff")),
    "decimal NaN": _key(0x13, bytes.fromhex("0100000000000000000000000000007c")),
    "decimal of another exponent": bson.encode({"_id": Decimal128("1.00")}),
    "symbol": _key(0x0E, b"\x02\0\0\0s\0"),
    "text": bson.encode({"_id": "Ü\0"}),
    "text that is no UTF-8": _key(0x02, b"\x02\0\0\0\xff\0"),
    "document": bson.encode({"_id": {"b.c": 1, "$a": {"": None}}}),
    "document with a key twice": _key(0x03, b"\x13\0\0\0" + b"\x10a\0\1\0\0\0" * 2 + b"\0"),
    "DBRef in another order": bson.encode({"_id": {"$id": 1, "$ref": "orders"}}),
    "binary of an old subtype": bson.encode({"_id": Binary(b"ab", 2)}),
    "UUID of the old subtype": bson.encode({"_id": Binary(bytes(16), 3)}),
    "ObjectId": bson.encode({"_id": ObjectId(bytes(12))}),
    "boolean": bson.encode({"_id": True}),
    "date before Python's": _key(0x09, (-(2**63)).to_bytes(8, "little", signed=True)),
    "date after Python's": _key(0x09, (2**63 - 1).to_bytes(8, "little", signed=True)),
    "timestamp": bson.encode({"_id": Timestamp(2**32 - 1, 2**32 - 1)}),
    "undefined": _key(0x06, b""),
    "DBPointer": _key(0x0C, b"\x02\0\0\0n\0" + bytes(12)),
    "code": bson.encode({"_id": Code("f()")}),
    "code with scope": bson.encode({"_id": Code("f()", {"x": 1})}),
    "MaxKey": _key(0x7F, b""),
}
"""An ``_id`` of every type, as exact as a server has it."""

POSITIONS: dict[str, Position] = {
    "operation time": Position(operation_time=Timestamp(1769860800, 2**32 - 1)),
    "operation time, first second": Position(operation_time=Timestamp(1, 0)),
    "MongoDB token": Position.at_token(ResumeToken({"_data": _HEX})),
    "DocumentDB token": Position.at_token(ResumeToken({"_data": "0167c8cbe600000001010000000100005c17"})),
    "DocumentDB post-batch token": Position.at_token(ResumeToken({"_data": "0167c8cbe60000000004"})),
    "token with its event's time": Position.at_token(ResumeToken({"_data": _HEX}), time=Timestamp(1769860800, 7)),
    "token of an unknown encoding": Position(ResumeToken({"_data": "not even hex"})),
    "token after invalidate": Position.at_token(ResumeToken({"_data": _HEX}), after_invalidate=True),
    "binary token of MongoDB 4.0": Position.at_token(ResumeToken({"_data": b"\x82\x00\xff", "_typeBits": b"\x40"})),
    "token of several fields": Position.at_token(
        ResumeToken({"z": 1, "_data": _HEX, "a": {"y": None, "b": [Int64(1), True, 1.5, {}]}, "Ü ": ""})
    ),
    "token without _data": Position(ResumeToken({"ns": "shop.orders", "ts": Timestamp(3, 4)})),
    "operation time beside a snapshot": Position(operation_time=Timestamp(1, 0), snapshot=SnapshotProgress("first")),
    "token beside a snapshot that began": replace(
        Position.at_token(ResumeToken({"_data": _HEX})),
        snapshot=SnapshotProgress(
            "third",
            (SnapshotRange(Namespace("shop", "orders"), KEYS["ObjectId"], documents=2**40),),
            time=Timestamp(1769860800, 7),
            match='{"a": 1}',
            targets=("s3",),
            is_paused=True,
            began_at=dt.datetime(2026, 1, 31, 12, tzinfo=dt.UTC),
            estimate=0,
        ),
    ),
    "token beside a snapshot": replace(
        Position.at_token(ResumeToken({"_data": _HEX})),
        snapshot=SnapshotProgress(
            "second",
            (
                SnapshotRange(Namespace("shop", "$cmd.x"), done=True),
                SnapshotRange(Namespace("shop", "orders"), until=KEYS["long"]),
                SnapshotRange(Namespace("shop", "orders"), KEYS["long"], KEYS["ObjectId"], done=True),
                SnapshotRange(Namespace("shop", "orders"), KEYS["ObjectId"]),
            ),
        ),
    ),
}
"""Every kind of position a stream can stand at."""
