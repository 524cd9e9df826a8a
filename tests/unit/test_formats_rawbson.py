"""The exact reader: every BSON type, what pymongo drops, and damaged bytes."""

import math
import struct

import bson
import pytest
from bson.binary import Binary
from bson.code import Code
from bson.datetime_ms import DatetimeMS
from bson.decimal128 import Decimal128
from bson.int64 import Int64
from bson.max_key import MaxKey
from bson.min_key import MinKey
from bson.objectid import ObjectId
from bson.timestamp import Timestamp

from docdb_stream.errors import UnrenderableError
from docdb_stream.formats import rawbson

OID = ObjectId("65a1f0c2d4e5f60718293a4b")


def document(*elements: bytes) -> bytes:
    body = b"".join(elements)
    return struct.pack("<i", len(body) + 5) + body + b"\0"


def string(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<i", len(data) + 1) + data + b"\0"


@pytest.mark.parametrize(
    ("type_number", "data", "value"),
    [
        (0x01, struct.pack("<d", -2.5), -2.5),
        (0x01, struct.pack("<d", math.inf), math.inf),
        (0x02, string("grün\0"), "grün\0"),
        (0x02, string(""), ""),
        (0x03, document(), rawbson.Document()),
        (0x03, document(b"\x0ab\0"), rawbson.Document([("b", None)])),
        (0x04, document(b"\x0a0\0", b"\x080\0\x01"), [None, True]),
        (0x05, b"\2\0\0\0\0\xca\xfe", b"\xca\xfe"),
        (0x05, b"\2\0\0\0\x80\xca\xfe", Binary(b"\xca\xfe", 0x80)),
        (0x05, b"\6\0\0\0\2\2\0\0\0\xca\xfe", Binary(b"\xca\xfe", 2)),
        (0x06, b"", rawbson.Undefined()),
        (0x07, OID.binary, OID),
        (0x08, b"\0", False),
        (0x09, struct.pack("<q", -1), DatetimeMS(-1)),
        (0x0A, b"", None),
        (0x0B, b"^a\0xzi\0", rawbson.RegularExpression("^a", "xzi")),
        (0x0C, string("shop.orders") + OID.binary, rawbson.DBPointer("shop.orders", OID)),
        (0x0D, string("f()"), Code("f()")),
        (0x0E, string("sym"), rawbson.Symbol("sym")),
        (0x10, struct.pack("<i", -(2**31)), -(2**31)),
        (0x11, struct.pack("<II", 7, 2**32 - 1), Timestamp(2**32 - 1, 7)),
        (0x12, struct.pack("<q", 2**63 - 1), Int64(2**63 - 1)),
        (0x13, Decimal128("-1.50E+3").bid, Decimal128("-1.50E+3")),
        (0x7F, b"", MaxKey()),
        (0xFF, b"", MinKey()),
    ],
)
def test_reads_every_type(type_number: int, data: bytes, value: object) -> None:
    ((key, read),) = rawbson.read(document(bytes([type_number]) + b"a\0" + data))
    assert key == "a"
    assert read == value
    assert type(read) is type(value)


def test_reads_code_with_scope() -> None:
    inner = string("f()") + document(b"\x10x\0\1\0\0\0")
    raw = document(b"\x0fa\0" + struct.pack("<i", len(inner) + 4) + inner)
    assert rawbson.read(raw) == [("a", rawbson.CodeWithScope("f()", rawbson.Document([("x", 1)])))]


def test_keeps_keys_that_occur_twice_and_their_order() -> None:
    raw = document(b"\x10b\0\1\0\0\0", b"\x0aa\0", b"\x10b\0\2\0\0\0")
    assert rawbson.read(raw) == [("b", 1), ("a", None), ("b", 2)]


@pytest.mark.parametrize("wrap", [lambda inner: {"a": inner}, lambda inner: [inner]], ids=["documents", "arrays"])
def test_reads_two_hundred_levels(wrap) -> None:
    value: object = 1
    for _ in range(200):
        value = wrap(value)
    read = rawbson.read(bson.encode({"a": value}))
    depth = 0
    while isinstance(read, list):
        read = read[0][1] if isinstance(read, rawbson.Document) else read[0]
        depth += 1
    assert (depth, read) == (201, 1)


def test_refuses_endless_nesting() -> None:
    raw = document()
    for _ in range(5000):
        raw = document(b"\x03a\0" + raw)
    with pytest.raises(UnrenderableError, match=r"^nested too deeply$"):
        rawbson.read(raw)


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"", "document: not valid BSON: a length beyond the data"),
        (b"\5\0\0\0", "document: not valid BSON: a length beyond the data"),
        (document() + b"\0", "document: not valid BSON: bytes after the end of the document"),
        (b"\6\0\0\0\0", "document: not valid BSON: a length that does not match its content"),
        (b"\7\0\0\0\x02ab", "document: not valid BSON: a length beyond the data"),
        (document(b"\x14a\0"), "a: not valid BSON: unknown type 0x14"),
        (
            document(b"\x03a\0" + document(b"\x08b\0\2")),
            "a.b: not valid BSON: a boolean that is neither true nor false",
        ),
        (document(b"\x03a\0" + document(b"\x02b\0\2\0\0\0\xe9\0")), "a.b: not valid UTF-8"),
        (document(b"\x04a\0" + document(b"\x0b0\0\xff\0\0")), "a.0: not valid UTF-8"),
        (document(b"\x0a\xff\0"), "document: not valid UTF-8"),
        (document(b"\x02a\0\2\0\0\0xx"), "a: not valid BSON: a string without its end"),
        (document(b"\x02a\0\0\0\0\0\0"), "a: not valid BSON: a length beyond the data"),
        (document(b"\x02a\0\xff\xff\xff\x7f\0"), "a: not valid BSON: a length beyond the data"),
        (document(b"\x05a\0\xff\xff\xff\xff\0"), "a: not valid BSON: a length beyond the data"),
        (document(b"\x05a\0\6\0\0\0\2\1\0\0\0\xca\xfe"), "a: not valid BSON: a length that does not match its content"),
    ],
)
def test_refuses_damage_and_names_the_place(raw: bytes, reason: str) -> None:
    with pytest.raises(UnrenderableError) as refused:
        rawbson.read(raw)
    assert str(refused.value) == reason
