"""Reads MongoDB Extended JSON v2 back to the BSON it was made of: the one reader, of events that Lambda's event source
mapping sends (canonical) and of those in dead letters (relaxed).

Exact where json_util is not: symbols, undefined, DBPointers, the key order of a DBRef and ``$regex`` operators stay
what they are. What has a wrapper's keys but no such value (``{"$oid": "none"}``) is a stored document, and stays one.
Relaxed text says less than BSON: an integer comes back as the smaller of the two types it fits in.

Type numbers and layouts: https://bsonspec.org/spec.html (version 1.1).
"""

from __future__ import annotations

import base64
import datetime as dt
import re
import struct
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

import bson
from bson.decimal128 import Decimal128
from bson.errors import BSONError
from bson.objectid import ObjectId

_NUMBER: Final = re.compile(r"[-+]?[0-9A-Za-z.+-]+", re.ASCII)
_EPOCH: Final = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)

Element = tuple[int, bytes]
"""A value's BSON type and its bytes."""


def to_bson(document: Mapping[str, Any]) -> bytes:
    """The BSON of a parsed Extended JSON document.

    Raises:
        ValueError, TypeError, ArithmeticError, BSONError: There is no such BSON.
    """
    return _document(document.items())


def _document(items: Iterable[tuple[str, Any]]) -> bytes:
    parts = []
    for key, value in items:
        number, payload = _element(value)
        parts += [bytes((number,)), _c_string(key), payload]
    body = b"".join(parts)
    return struct.pack("<i", len(body) + 5) + body + b"\0"


def _element(value: Any) -> Element:
    if isinstance(value, Mapping):
        read = _WRAPPERS.get(" ".join(value)) if len(value) <= 2 else None
        if read is not None:
            try:
                return read(value)
            except (ValueError, TypeError, KeyError, AttributeError, ArithmeticError, struct.error, BSONError):
                pass  # a stored document that only looks like a wrapper
        return 0x03, _document(value.items())
    if isinstance(value, (list, tuple)):
        return 0x04, _document((str(index), each) for index, each in enumerate(value))
    encoded = bson.encode({"": value})  # length, type, empty key, value, end
    return encoded[4], encoded[6:-1]


def _c_string(text: str) -> bytes:
    if "\0" in text:
        raise ValueError("a NUL where BSON has none")
    return text.encode() + b"\0"


def _string(text: str) -> bytes:
    encoded = text.encode()
    return struct.pack("<i", len(encoded) + 1) + encoded + b"\0"


def _only(value: Mapping[str, Any], *keys: str) -> list[Any]:
    if sorted(value) != sorted(keys):
        raise ValueError("other keys than the wrapper has")
    return [value[key] for key in keys]


def _binary(value: Mapping[str, Any]) -> Element:
    encoded, subtype_text = _only(value["$binary"], "base64", "subType")
    data, subtype = base64.b64decode(encoded, validate=True), int(_number(subtype_text), 16)
    if subtype == 2:  # it repeats the length inside
        data = struct.pack("<i", len(data)) + data
    return 0x05, struct.pack("<iB", len(data), subtype) + data


def _date(value: Mapping[str, Any]) -> Element:
    date = value["$date"]
    if isinstance(date, str):
        milliseconds = (dt.datetime.fromisoformat(date) - _EPOCH) // dt.timedelta(milliseconds=1)
    else:
        milliseconds = int(_number(_only(date, "$numberLong")[0]))
    return 0x09, struct.pack("<q", milliseconds)


def _number(value: Any) -> str:
    """A number's text; Python's own are read more generously, with underscores and blanks."""
    if not isinstance(value, str) or not _NUMBER.fullmatch(value):
        raise TypeError("no number as the wrapper has it")
    return value


def _timestamp(value: Mapping[str, Any]) -> Element:
    seconds, increment = _only(value["$timestamp"], "t", "i")
    if type(seconds) is not int or type(increment) is not int:
        raise TypeError("no numbers as the wrapper has them")
    return 0x11, struct.pack("<II", increment, seconds)


def _regular_expression(value: Mapping[str, Any]) -> Element:
    pattern, options = _only(value["$regularExpression"], "pattern", "options")
    return 0x0B, _c_string(pattern) + _c_string(options)


def _db_pointer(value: Mapping[str, Any]) -> Element:
    namespace, id_ = _only(value["$dbPointer"], "$ref", "$id")
    return 0x0C, _string(namespace) + ObjectId(_only(id_, "$oid")[0]).binary


def _scoped_code(value: Mapping[str, Any]) -> Element:
    body = _string(value["$code"]) + _document(value["$scope"].items())
    return 0x0F, struct.pack("<i", len(body) + 4) + body


def _constant(key: str, expected: Any, number: int) -> Callable[[Mapping[str, Any]], Element]:
    def read(value: Mapping[str, Any]) -> Element:
        if type(value[key]) is not type(expected) or value[key] != expected:
            raise ValueError("another value than the wrapper has")
        return number, b""

    return read


_WRAPPERS: Final[dict[str, Callable[[Mapping[str, Any]], Element]]] = {
    "$oid": lambda value: (0x07, ObjectId(value["$oid"]).binary),
    "$numberInt": lambda value: (0x10, struct.pack("<i", int(_number(value["$numberInt"])))),
    "$numberLong": lambda value: (0x12, struct.pack("<q", int(_number(value["$numberLong"])))),
    "$numberDouble": lambda value: (0x01, struct.pack("<d", float(_number(value["$numberDouble"])))),
    "$numberDecimal": lambda value: (0x13, Decimal128(_number(value["$numberDecimal"])).bid),
    "$binary": _binary,
    "$date": _date,
    "$timestamp": _timestamp,
    "$regularExpression": _regular_expression,
    "$dbPointer": _db_pointer,
    "$code": lambda value: (0x0D, _string(value["$code"])),
    "$code $scope": _scoped_code,
    "$symbol": lambda value: (0x0E, _string(value["$symbol"])),
    "$undefined": _constant("$undefined", True, 0x06),
    "$minKey": _constant("$minKey", 1, 0xFF),
    "$maxKey": _constant("$maxKey", 1, 0x7F),
}
"""A wrapper's keys, in the order the specification has them -> how to read it."""
