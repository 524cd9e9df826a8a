"""BSON as DynamoDB's attribute values: how each type is written, what a value weighs, and when two are the same.

Source of what DynamoDB takes: its developer guide, "Supported data types and naming rules", "Constraints" and
"DynamoDB item sizes and formats".
"""

from __future__ import annotations

import math
import uuid
from collections.abc import Mapping
from decimal import Context, Decimal, InvalidOperation
from hashlib import blake2b
from typing import Any, Final

import orjson
from bson.binary import UUID_SUBTYPE, Binary
from bson.decimal128 import Decimal128
from bson.timestamp import Timestamp

from docdb_stream.errors import UnrenderableError
from docdb_stream.formats import rawbson
from docdb_stream.formats.plain import RENDERER

Attribute = dict[str, Any]
"""A value as DynamoDB's API has it: its type's letter, and the value."""

NAME_BYTES: Final = 65_535
"""Of an attribute's name, at most."""
LEVELS: Final = 32
"""Lists and maps within each other, at most."""
_DIGITS: Final = 38
_LEAST_EXPONENT, _MOST_EXPONENT = -130, 125
"""Of a number's first digit: 1E-130 to 9.99..E+125, with 38 digits."""
_CONTAINER_BYTES: Final = 3
_ELEMENT_BYTES: Final = 1
_NUMBERS: Final = Context(prec=_DIGITS)
_UUID_BYTES: Final = 16
_DIGEST_BYTES: Final = 16


def attribute_map(document: rawbson.Document, path: str = "", level: int = 0) -> dict[str, Attribute]:
    """The attributes of a document, as ``rawbson.read`` has it.

    Text, booleans, null and documents are S, BOOL, NULL and M, arrays L; binary is B, without its subtype, and a UUID
    its text. Numbers are N by their value; those that N cannot hold (NaN, the infinities, what is beyond 1E-130 and
    9.99E+125) are S. A timestamp is M of ``t`` and ``i``, code with a scope M of ``code`` and ``scope``. All others are
    as plain JSON has them (see ``formats.plain``): ObjectIds and dates are S.

    Raises:
        UnrenderableError: DynamoDB has no place for it: names that are empty, too long or occur twice, or more than 32
            levels. The message has the path, and no value.
    """
    found: dict[str, Attribute] = {}
    for name, value in document:
        inner = f"{path}.{name}" if path else name
        if not name:
            raise UnrenderableError(f"{path or 'document'}: a name is empty, which DynamoDB does not take")
        if len(name.encode()) > NAME_BYTES:
            raise UnrenderableError(f"{path or 'document'}: a name is longer than DynamoDB's {NAME_BYTES} bytes")
        if name in found:
            raise UnrenderableError(f"{inner}: the name occurs twice, and DynamoDB has one of each")
        found[name] = attribute(value, inner, level)
    return found


def attribute(value: Any, path: str, level: int = 0) -> Attribute:
    """One value, see ``attribute_map``.

    Args:
        value: As ``rawbson.read`` has it.
        path: Where it is in the document, for errors.
        level: How many lists and maps it is in.

    Raises:
        UnrenderableError: As there.
    """
    if isinstance(value, Timestamp):
        value = rawbson.Document([("t", value.time), ("i", value.inc)])
    elif isinstance(value, rawbson.CodeWithScope):
        value = rawbson.Document([("code", value.code), ("scope", value.scope)])
    if isinstance(value, list):
        if level == LEVELS:
            raise UnrenderableError(f"{path}: nested deeper than DynamoDB's {LEVELS} levels")
        if isinstance(value, rawbson.Document):
            return {"M": attribute_map(value, path, level + 1)}
        return {"L": [attribute(each, f"{path}.{place}", level + 1) for place, each in enumerate(value)]}
    if value is None:
        return {"NULL": True}
    if isinstance(value, bool):
        return {"BOOL": value}
    if isinstance(value, bytes):
        is_uuid = isinstance(value, Binary) and value.subtype == UUID_SUBTYPE and len(value) == _UUID_BYTES
        return {"S": str(uuid.UUID(bytes=bytes(value)))} if is_uuid else {"B": bytes(value)}
    if isinstance(value, (int, float, Decimal128)):
        return _number(value)
    if type(value) is str:
        return {"S": value}
    if isinstance(value, rawbson.DBPointer):
        value = rawbson.Document([("$ref", value.namespace), ("$id", value.id)])
    else:
        value = RENDERER.default(value)
    return attribute(value, path, level)


def _number(value: float | Decimal128) -> Attribute:
    if isinstance(value, float) and not math.isfinite(value):
        return {"S": "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"}
    if isinstance(value, Decimal128):
        text = str(value)
        if not value.to_decimal().is_finite():
            return {"S": text.removeprefix("-") if value.to_decimal().is_nan() else text}
    else:
        text = repr(value) if isinstance(value, float) else str(int(value))
    number = Decimal(text)
    if number and not _LEAST_EXPONENT <= number.adjusted() <= _MOST_EXPONENT:
        return {"S": text}
    return {"N": _number_text(text)}


def _number_text(text: str) -> str:
    """One text for each number: no zeros at its ends, and no negative zero, neither of which DynamoDB keeps."""
    number = _NUMBERS.normalize(Decimal(text))
    return str(number) if number else "0"


def size_bytes(attributes: Mapping[str, Attribute]) -> int:
    """What an item of these attributes weighs: names and values in UTF-8, numbers by their digits."""
    return sum(len(name.encode()) + _size_of(value) for name, value in attributes.items())


def _size_of(value: Attribute) -> int:
    [(kind, inner)] = value.items()
    if kind in ("S", "B"):
        return len(inner.encode() if isinstance(inner, str) else inner)
    if kind == "N":
        digits = len(Decimal(inner).as_tuple().digits)
        return (digits + 1) // 2 + 1 + int(inner.startswith("-"))
    if kind == "M":
        return _CONTAINER_BYTES + size_bytes(inner) + _ELEMENT_BYTES * len(inner)
    if kind == "L":
        return _CONTAINER_BYTES + sum(map(_size_of, inner)) + _ELEMENT_BYTES * len(inner)
    return 1


def digest_of(attributes: Mapping[str, Attribute]) -> bytes:
    """Of attributes: equal for what DynamoDB keeps as equal, whether it is to be written or was read."""
    return blake2b(orjson.dumps(_form_of({"M": attributes})), digest_size=_DIGEST_BYTES).digest()


def _form_of(value: Mapping[str, Any]) -> Any:
    [(kind, inner)] = value.items()
    if kind == "M":
        return [kind, [[name, _form_of(inner[name])] for name in sorted(inner)]]
    if kind == "L":
        return [kind, [_form_of(each) for each in inner]]
    if kind == "N":
        try:
            return [kind, _number_text(inner)]
        except InvalidOperation:  # none of ours
            return [kind, inner]
    if kind in ("B", "BS"):
        return [kind, sorted(bytes(each).hex() for each in inner) if kind == "BS" else bytes(inner).hex()]
    return [kind, sorted(inner) if isinstance(inner, list) else inner]
