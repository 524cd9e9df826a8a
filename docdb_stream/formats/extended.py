"""The whole change event as relaxed MongoDB Extended JSON v2.

https://github.com/mongodb/specifications/blob/master/source/extended-json/extended-json.md
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any, Final

import orjson
from bson.binary import Binary
from bson.code import Code
from bson.datetime_ms import DatetimeMS
from bson.dbref import DBRef
from bson.decimal128 import Decimal128
from bson.int64 import Int64
from bson.max_key import MaxKey
from bson.min_key import MinKey
from bson.objectid import ObjectId
from bson.regex import Regex
from bson.timestamp import Timestamp

from docdb_stream.errors import UnrenderableError
from docdb_stream.formats import rawbson
from docdb_stream.formats._json import (
    EPOCH,
    MILLISECOND,
    JsonRenderer,
    base64_text,
    decimal_text,
    from_ms,
    regex_options,
    token_data,
    utc,
)
from docdb_stream.formats.decoded import Decoded


class ExtendedJson:
    """Every type arrives as the specification's table has it, the deprecated ones and keys that occur twice included.
    It is compact, in the event's key order."""

    name = "extended"

    def render(self, decoded: Decoded) -> Sequence[bytes | UnrenderableError]:
        """See ``Format``, and `extended_json` for what is refused."""
        together = RENDERER.together(decoded.documents, decoded.joined) if decoded.is_whole else None
        return together or [_alone(one) for one in decoded.each]

    def event_id(self, payload: bytes) -> str | None:
        """See ``Identified``."""
        return token_data(payload)


def _alone(one: Decoded) -> bytes | UnrenderableError:
    try:
        return RENDERER.alone(one.documents[0], one.raw)
    except UnrenderableError as error:
        return error


def extended_json(document: Mapping[str, Any], raw: bytes | None = None) -> bytes:
    """Render a document as relaxed MongoDB Extended JSON v2, compact, in the document's key order.

    Every BSON type arrives as the specification's table has it, the deprecated ones and keys that occur twice included.

    Args:
        document: a document as `decode` returns it.
        raw: the bytes it was decoded from. Without them (an event that came as JSON) what the decoder drops is unknown.

    Raises:
        UnrenderableError: a stored document has a key by which a parser would take it for a type wrapper, such as
            `{"$oid": ...}` (Extended JSON has no escape for it), or is nested more than 254 levels deep. Parsers also
            read the legacy `{"$regex": "text"}`, so that one is refused too; the query operator around a real regular
            expression is not.
    """
    return RENDERER.alone(document, raw)


_ORJSON_UTC: Final = orjson.OPT_NAIVE_UTC | orjson.OPT_UTC_Z


@lru_cache(1024)
def _date(value: datetime) -> Any:
    if value.tzinfo:
        value = utc(value)
    if value.year < 1970:
        return {"$date": {"$numberLong": str((value - EPOCH) // MILLISECOND)}}
    # orjson writes microseconds, "...123000Z"; the specification wants milliseconds. Both leave out a zero fraction.
    text = orjson.dumps(value, option=_ORJSON_UTC)
    return orjson.Fragment(b'{"$date":%bZ"}' % text[:-5] if value.microsecond else b'{"$date":%b}' % text)


def _extended_date_ms(value: DatetimeMS) -> Any:
    date = from_ms(value)
    return {"$date": {"$numberLong": str(int(value))}} if date is None else _date(date)


def _extended_binary(value: bytes, subtype: int = 0) -> Any:
    return {"$binary": {"base64": base64_text(value), "subType": f"{subtype:02x}"}}


def _extended_regex(pattern: str, options: str) -> Any:
    return {"$regularExpression": {"pattern": pattern, "options": "".join(sorted(options))}}


_RENDERERS: Final[dict[type, Callable[[Any], Any]]] = {
    DatetimeMS: _extended_date_ms,
    Int64: int,
    Decimal128: lambda value: {"$numberDecimal": decimal_text(value)},
    Binary: lambda value: _extended_binary(value, value.subtype),
    bytes: _extended_binary,
    Regex: lambda value: _extended_regex(value.pattern, regex_options(value)),
    Code: lambda value: {"$code": str(value)} | ({} if value.scope is None else {"$scope": value.scope}),
    DBRef: lambda value: dict(value.as_doc()),
    MinKey: lambda _: {"$minKey": 1},
    MaxKey: lambda _: {"$maxKey": 1},
    rawbson.Undefined: lambda _: {"$undefined": True},
    rawbson.Symbol: lambda value: {"$symbol": value.text},
    rawbson.DBPointer: lambda value: {"$dbPointer": {"$ref": value.namespace, "$id": value.id}},
    rawbson.RegularExpression: lambda value: _extended_regex(value.pattern, value.options),
    rawbson.CodeWithScope: lambda value: {"$code": value.code, "$scope": value.scope},
}


def json_value(value: Any) -> Any:
    """What a value that JSON has not is written as."""
    kind = type(value)
    # By far the commonest: not by way of the table, which would be one call more for each.
    if kind is ObjectId:
        return {"$oid": str(value)}
    if kind is datetime:
        return _date(value)
    if kind is Timestamp:
        return {"$timestamp": {"t": value.time, "i": value.inc}}
    return _RENDERERS[kind](value)


RENDERER: Final = JsonRenderer(json_value, non_finite=lambda name: {"$numberDouble": name}, has_wrappers=True)
EXTENDED: Final = ExtendedJson()
