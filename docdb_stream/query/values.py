"""The values of a document as a query sees them: what decoding gave up is there where it matters.

Owns which types there are, in the order in which BSON has them. Two values are compared in ``compare``.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Mapping
from typing import Any, Final

from bson import Binary, Code, DBRef, Decimal128, Int64, MaxKey, MinKey, ObjectId, Regex, Timestamp
from bson.datetime_ms import DatetimeMS

from docdb_stream.errors import UnrenderableError
from docdb_stream.formats import rawbson


class Missing:
    """The type of ``MISSING``."""

    def __repr__(self) -> str:
        return "MISSING"


MISSING: Final = Missing()
"""What a path finds that leads nowhere."""


class Repeated(dict[str, Any]):
    """A document in which a key occurs twice. A path sees the first one; comparing sees all.

    Attributes:
        pairs: All keys and values, in order.
    """

    pairs: list[tuple[str, Any]]


def read(raw: bytes) -> dict[str, Any]:
    """A document of its BSON, with all that decoding gives up.

    Raises:
        UnrenderableError: The bytes are not valid BSON.
    """
    found: dict[str, Any] = _plain(rawbson.read(raw))
    return found


def _plain(value: Any) -> Any:
    if isinstance(value, rawbson.Document):
        pairs = [(key, _plain(each)) for key, each in value]
        document = dict(reversed(pairs))
        if len(document) == len(pairs):
            return dict(pairs)
        repeated = Repeated(document)
        repeated.pairs = pairs
        return repeated
    if isinstance(value, rawbson.CodeWithScope):
        return Code(value.code, _plain(value.scope))
    return [*map(_plain, value)] if type(value) is list else value


def as_document(value: Any) -> Mapping[str, Any] | None:
    """An embedded document, also one that was decoded as a reference; None where the value is none."""
    if type(value) is dict or isinstance(value, Repeated):
        return value
    if isinstance(value, DBRef):
        found: Mapping[str, Any] = value.as_doc()
        return found
    return value if isinstance(value, Mapping) else None


def pairs(document: Mapping[str, Any]) -> Iterable[tuple[str, Any]]:
    """The keys and values of a document, repeated ones, too."""
    return document.pairs if isinstance(document, Repeated) else document.items()


NULL: Final = 5
NUMBER: Final = 10
STRING: Final = 15
DOCUMENT: Final = 20
ARRAY: Final = 25
BINARY: Final = 30
OBJECT_ID: Final = 35
BOOLEAN: Final = 40
DATE: Final = 45
TIMESTAMP: Final = 47
REGEX: Final = 50
CODE: Final = 60
SCOPED_CODE: Final = 65
"""Brackets: values of different ones are never equal, and ordered by them (MongoDB manual, "Comparison/Sort Order")."""

BRACKETS: Final[Mapping[type, int]] = {
    MinKey: -1,
    Missing: 0,
    type(None): NULL,
    int: NUMBER,
    Int64: NUMBER,
    float: NUMBER,
    Decimal128: NUMBER,
    str: STRING,
    rawbson.Symbol: STRING,
    dict: DOCUMENT,
    Repeated: DOCUMENT,
    DBRef: DOCUMENT,
    list: ARRAY,
    bytes: BINARY,
    Binary: BINARY,
    ObjectId: OBJECT_ID,
    bool: BOOLEAN,
    dt.datetime: DATE,
    DatetimeMS: DATE,
    Timestamp: TIMESTAMP,
    Regex: REGEX,
    rawbson.RegularExpression: REGEX,
    Code: CODE,
    MaxKey: 127,
}


def bracket(value: Any) -> int:
    """Which values this one can be compared with.

    Raises:
        UnrenderableError: Versions of the server do not agree (undefined), or nobody stores it any more (DBPointer).
    """
    found = BRACKETS.get(type(value))
    if found is None:
        raise UnrenderableError(f"MATCH cannot judge a value of type {type(value).__name__} as the server does")
    return SCOPED_CODE if found == CODE and value.scope is not None else found


def is_other(value: Any) -> bool:
    """False; for the end of a test that none of its own types has passed. Raises as ``bracket`` does."""
    if type(value) not in BRACKETS:
        bracket(value)
    return False


TYPES: Final[Mapping[type, int]] = {
    float: 1,
    str: 2,
    dict: 3,
    Repeated: 3,
    DBRef: 3,
    list: 4,
    bytes: 5,
    Binary: 5,
    rawbson.Undefined: 6,
    ObjectId: 7,
    bool: 8,
    dt.datetime: 9,
    DatetimeMS: 9,
    type(None): 10,
    Regex: 11,
    rawbson.RegularExpression: 11,
    rawbson.DBPointer: 12,
    rawbson.Symbol: 14,
    int: 16,
    Timestamp: 17,
    Int64: 18,
    Decimal128: 19,
    MinKey: -1,
    MaxKey: 127,
}
"""BSON's type numbers (https://bsonspec.org/spec.html); code has two, see ``type_number``."""

TYPE_NAMES: Final[Mapping[str, frozenset[int]]] = {
    "double": frozenset({1}),
    "string": frozenset({2}),
    "object": frozenset({3}),
    "array": frozenset({4}),
    "binData": frozenset({5}),
    "undefined": frozenset({6}),
    "objectId": frozenset({7}),
    "bool": frozenset({8}),
    "date": frozenset({9}),
    "null": frozenset({10}),
    "regex": frozenset({11}),
    "dbPointer": frozenset({12}),
    "javascript": frozenset({13}),
    "symbol": frozenset({14}),
    "javascriptWithScope": frozenset({15}),
    "int": frozenset({16}),
    "timestamp": frozenset({17}),
    "long": frozenset({18}),
    "decimal": frozenset({19}),
    "minKey": frozenset({-1}),
    "maxKey": frozenset({127}),
    "number": frozenset({1, 16, 18, 19}),
}
"""What ``$type`` calls them (MongoDB manual, "$type")."""


def type_number(value: Any) -> int | None:
    """The BSON type of a value; None for ``MISSING``."""
    if type(value) is Code:
        return 13 if value.scope is None else 15
    return TYPES.get(type(value))
