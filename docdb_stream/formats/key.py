"""Document keys as text: equal exactly for what the server takes for one `_id`."""

from __future__ import annotations

import math
from decimal import Decimal
from typing import Any, Final

import orjson
from bson.code import Code
from bson.dbref import DBRef
from bson.decimal128 import Decimal128
from bson.objectid import ObjectId

from docdb_stream.errors import UnrenderableError
from docdb_stream.formats import rawbson
from docdb_stream.formats.extended import RENDERER

_INT64_LIMIT: Final = 1 << 63
_OBJECT_ID: Final = 0x07
_VALUE_AT: Final = len(b"\x07_id\0")


def key_json(value: Any) -> str:
    """Render a document key's `_id` for partitioning: relaxed Extended JSON of `{"_id": canonical_id(value)}`.

    Equal exactly for what the server takes for one `_id`: a replacement may turn one into the other.

    Args:
        value: the `_id`, decoded, or as `rawbson.read` has it.

    Raises:
        UnrenderableError: as `extended_json`.
    """
    if type(value) is ObjectId:  # by far the commonest, and every target asks
        return object_id_key(str(value))
    return RENDERER.exactly({"_id": canonical_id(value)}).decode()


def object_id_key(hexadecimal: str) -> str:
    """`key_json` of an ObjectId."""
    return f'{{"_id":{{"$oid":"{hexadecimal}"}}}}'


def element_key(element: bytes) -> str:
    """`key_json` of the value of an element `_id`, given the element's BSON: of type, name and value.

    Raises:
        UnrenderableError: as `key_json`, or it is not valid BSON.
    """
    if element[0] == _OBJECT_ID:
        return object_id_key(element[_VALUE_AT:].hex())
    return key_json(dict(rawbson.read(rawbson.joined([element])))["_id"])


def canonical_id(value: Any) -> Any:
    """The one form of all values that are the same `_id` to the server, at any depth.

    Numbers are equal by their value, whatever their types, as are a symbol and a string of the same text. Everything
    else differs by its type, and documents by the order of their fields.

    Args:
        value: the `_id`, decoded, or as `rawbson.read` has it: decoding takes undefined for null, and a key that occurs
            twice for one.

    Returns:
        A number as an int where it is whole and has 64 bits, else as a float where one is exactly it, else as a
        fragment of Extended JSON; containers of such values; and what is neither, as it is.

    Raises:
        UnrenderableError: it is nested too deeply.
    """
    try:
        return _canonical(value)
    except RecursionError:
        raise UnrenderableError("nested too deeply") from None


def _canonical(value: Any) -> Any:
    match value:
        case bool():
            return value
        case int():
            return int(value)
        case float():
            return _canonical_number(Decimal(value))
        case Decimal128():
            return _canonical_number(value.to_decimal())
        case rawbson.Symbol():
            return value.text
        case rawbson.RegularExpression():  # the server compares options as they are stored, and not sorted
            return orjson.Fragment(orjson.dumps({"$regularExpression": value._asdict()}))
        case DBRef():
            return _canonical(dict(value.as_doc()))
        case dict():
            return {key: _canonical(inner) for key, inner in value.items()}
        case rawbson.Document():
            return rawbson.Document((key, _canonical(inner)) for key, inner in value)
        case list():
            return [_canonical(inner) for inner in value]
        case rawbson.CodeWithScope():
            return rawbson.CodeWithScope(value.code, _canonical(value.scope))
        case Code() if value.scope is not None:
            return Code(str(value), _canonical(dict(value.scope)))
    return value


def _canonical_number(number: Decimal) -> Any:
    if number.is_nan():
        return math.nan
    if -_INT64_LIMIT <= number < _INT64_LIMIT and number == int(number):
        return int(number)
    if float(number) == number:  # an exact comparison
        return float(number)
    sign, digits, exponent = number.as_tuple()
    coefficient = "".join(map(str, digits))
    shortest = coefficient.rstrip("0")
    exponent = int(exponent) + len(coefficient) - len(shortest)
    return orjson.Fragment(f'{{"$numberDecimal":"{"-" * sign}{shortest}E{exponent}"}}')
