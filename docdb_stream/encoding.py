"""Decoding of BSON change events, and their rendering as JSON.

Rendering has a fast path (orjson over the document that pymongo decoded) and an exact one (`docdb_stream.rawbson`).
The fast path's result is used only where it is proven that nothing was lost on the way, so no value is ever altered
silently: it arrives, or `UnrenderableError` says which key cannot.

Extended JSON v2: https://github.com/mongodb/specifications/blob/master/source/extended-json/extended-json.md
"""

import math
import re
import uuid
from base64 import b64encode
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import lru_cache
from typing import Any, Final, NamedTuple

import bson
import orjson
from bson.binary import UUID_SUBTYPE, Binary, UuidRepresentation
from bson.code import Code
from bson.codec_options import CodecOptions, DatetimeConversion
from bson.datetime_ms import DatetimeMS
from bson.dbref import DBRef
from bson.decimal128 import Decimal128
from bson.errors import BSONError, InvalidBSON
from bson.int64 import Int64
from bson.max_key import MaxKey
from bson.min_key import MinKey
from bson.objectid import ObjectId
from bson.raw_bson import RawBSONDocument
from bson.regex import Regex
from bson.timestamp import Timestamp

from docdb_stream import rawbson
from docdb_stream.rawbson import UnrenderableError

__all__ = [
    "DECODE_OPTIONS",
    "RAW_OPTIONS",
    "UnrenderableError",
    "canonical_id",
    "decode",
    "decode_lossy",
    "extended_json",
    "extended_json_all",
    "is_whole",
    "key_json",
    "plain_json",
    "plain_json_all",
]

DECODE_OPTIONS: Final[CodecOptions[dict[str, Any]]] = CodecOptions(
    document_class=dict,
    tz_aware=False,
    uuid_representation=UuidRepresentation.UNSPECIFIED,
    unicode_decode_error_handler="strict",
    datetime_conversion=DatetimeConversion.DATETIME_AUTO,  # DatetimeMS where a datetime cannot hold the date
)
RAW_OPTIONS: Final[CodecOptions[RawBSONDocument]] = CodecOptions(
    RawBSONDocument, datetime_conversion=DatetimeConversion.DATETIME_AUTO
)
"""One level is decoded, documents in it stay as they are."""
_LOSSY_OPTIONS: Final = DECODE_OPTIONS.with_options(unicode_decode_error_handler="replace")

# The keys of the specification's conversion table, which a parser must not leave as they are. Missing on purpose: $ref,
# $id and $db (a DBRef *is* a document with these keys).
_WRAPPER_NAMES: Final = (
    "oid|symbol|numberInt|numberLong|numberDouble|numberDecimal|binary|uuid|code|scope|timestamp|regularExpression"
    "|dbPointer|date|minKey|maxKey|undefined"
)
_WRAPPER_KEYS: Final = frozenset("$" + name for name in _WRAPPER_NAMES.split("|"))
_WRAPPER_KEY_BYTES: Final = re.compile(rb"\$(?:regex|%b)\0" % _WRAPPER_NAMES.encode())
# A double (type 1) whose exponent is all ones: an infinity or NaN. What follows the 0x01 holds no other, which would do
# for a start just as well, so that the search stays linear.
_NON_FINITE_BYTES: Final = re.compile(rb"\x01[^\0\x01]*\0.{6}[\xf0-\xff][\x7f\xff]", re.DOTALL)

_INT64_LIMIT: Final = 1 << 63

EPOCH: Final = datetime(1970, 1, 1)  # naive, as pymongo decodes dates
_MILLISECOND: Final = timedelta(milliseconds=1)
_MIN_DATE_MS: Final = (datetime.min - EPOCH) // _MILLISECOND
MAX_DATE_MS: Final = (datetime.max - EPOCH) // _MILLISECOND

# Rendered alike on both paths: nothing to look into. Not float (NaN), nor what holds documents.
_ATOMS: Final = frozenset({str, int, bool, type(None), Int64, ObjectId, datetime, DatetimeMS, Decimal128, Timestamp})

_ORJSON_OPTIONS: Final = orjson.OPT_PASSTHROUGH_DATETIME | orjson.OPT_PASSTHROUGH_SUBCLASS  # Code is a str subclass
_LINE: Final = orjson.Fragment(b"\n")
_ORJSON_UTC: Final = orjson.OPT_NAIVE_UTC | orjson.OPT_UTC_Z


def decode(raw: bytes) -> dict[str, Any]:
    """Decode one BSON document with `DECODE_OPTIONS`.

    Raises:
        UnrenderableError: the bytes are not valid BSON, or hold a string that is not valid UTF-8.
    """
    try:
        return bson.decode(raw, DECODE_OPTIONS)
    except (InvalidBSON, RecursionError) as error:
        rawbson.read(raw)  # raises with the path of the key
        raise UnrenderableError("document: not valid BSON") from error


def decode_lossy(raw: bytes) -> dict[str, Any]:
    """Decode what can be read of a change event that `decode` refuses, to identify it for the dead letters.

    Returns:
        The event with invalid UTF-8 replaced by U+FFFD, without those of its fields that are not valid BSON. Enough for
        the token, the namespace and the document key; never to be delivered as the event.

    Raises:
        UnrenderableError: not even the event's own fields can be told apart.
    """
    try:
        fields = bson.decode(raw, RAW_OPTIONS.with_options(unicode_decode_error_handler="replace")).items()
    except InvalidBSON as error:
        raise UnrenderableError("document: not valid BSON") from error
    event = {}
    for key, value in fields:
        try:
            event[key] = bson.decode(value.raw, _LOSSY_OPTIONS) if isinstance(value, RawBSONDocument) else value
        except (InvalidBSON, RecursionError):
            continue
    return event


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
    return _render(_EXTENDED, document, raw)


def plain_json(document: Mapping[str, Any], raw: bytes | None = None) -> bytes:
    """Render a document as plain JSON, for search engines and readers that know nothing of BSON.

    - ObjectId: its 24 hexadecimal digits. DBRef: an object with `$ref`, `$id` and perhaps `$db`; DBPointer likewise.
    - Date: ISO 8601 in UTC with milliseconds; outside the years 1 to 9999, which ISO 8601 lacks, integer epoch
      milliseconds. Timestamp: its seconds as such a date; the increment only orders events within a second.
    - Int64: a number, whole, though some readers are exact only to 2^53. Decimal128: a string, which keeps every digit.
    - NaN and the infinities: the strings "NaN", "Infinity", "-Infinity", because JSON has no such numbers.
    - Binary: base64; a UUID (subtype 4) its canonical text. The older UUIDs of subtype 3 stay base64: drivers disagree
      about their byte order.
    - Regular expression: "/pattern/options". Code: its text, without the scope. Symbol: its text. Undefined: null.
    - MinKey and MaxKey: the strings "MinKey" and "MaxKey".
    - Keys with `$` and keys that occur twice: as they are.

    Args:
        document: a document as `decode` returns it.
        raw: the bytes it was decoded from, when known.

    Raises:
        UnrenderableError: the document is nested more than 254 levels deep.
    """
    return _render(_PLAIN, document, raw)


def extended_json_all(raws: Sequence[bytes]) -> list[bytes | None]:
    """Render BSON documents as `extended_json` does, together: fast, and None for each that takes the exact way."""
    return _render_all(_EXTENDED, raws)


def plain_json_all(raws: Sequence[bytes]) -> list[bytes | None]:
    """Render BSON documents as `plain_json` does, together: fast, and None for each that takes the exact way."""
    return _render_all(_PLAIN, raws)


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
    return _render_exact(_EXTENDED, {"_id": canonical_id(value)}).decode()


def object_id_key(hexadecimal: str) -> str:
    """`key_json` of an ObjectId."""
    return f'{{"_id":{{"$oid":"{hexadecimal}"}}}}'


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


class _Format(NamedTuple):
    """What tells extended from plain rendering."""

    default: Callable[[Any], Any]
    non_finite: Callable[[str], Any]
    has_wrappers: bool


def _render(form: _Format, document: Mapping[str, Any], raw: bytes | None) -> bytes:
    try:
        rendered = orjson.dumps(document, form.default, _ORJSON_OPTIONS)
        if _is_proven(form, document, raw, rendered):
            return rendered
    except RecursionError:
        raise UnrenderableError("nested too deeply") from None
    except orjson.JSONEncodeError as error:
        raise UnrenderableError(str(error)) from error
    return _render_exact(form, document if raw is None else rawbson.read(raw))


def _render_exact(form: _Format, document: Mapping[str, Any] | rawbson.Document) -> bytes:
    try:
        return orjson.dumps(_exact(form, document, ""), form.default, _ORJSON_OPTIONS)
    except RecursionError:
        raise UnrenderableError("nested too deeply") from None
    except orjson.JSONEncodeError as error:
        raise UnrenderableError(str(error)) from error


def _is_proven(form: _Format, document: Mapping[str, Any], raw: bytes | None, rendered: bytes) -> bool:
    """Whether `rendered` is known to be exact. A false no costs time only."""
    if form.has_wrappers and (raw is None or _WRAPPER_KEY_BYTES.search(raw)):
        return False
    # orjson writes NaN and the infinities as null.
    if b"null" in rendered and (raw is None or _NON_FINITE_BYTES.search(raw)):
        return False
    return raw is None or is_whole(document, raw)


def is_whole(document: Mapping[str, Any], raw: bytes) -> bool:
    """Whether a document that was decoded from `raw` is known to have lost nothing. A false no costs time only."""
    # What encodes to the very bytes it came from has kept them all: types, order and repeated keys.
    try:
        return bson.encode(document, codec_options=DECODE_OPTIONS) == raw
    except (BSONError, SystemError):  # PyMongo 4.9 cannot encode all that it decodes: Binary of subtype 255
        return False


def _render_all(form: _Format, raws: Sequence[bytes]) -> list[bytes | None]:
    if not raws:
        return []
    joined = b"".join(raws)
    try:
        documents = bson.decode_all(joined, DECODE_OPTIONS)
        # One call, with a line between two documents: JSON has its own line feeds escaped. A call for each would also
        # leave room for some thousand bytes behind each result, which orjson does not give back.
        lines: list[Any] = [_LINE] * (2 * len(documents))
        lines[::2] = documents
        rendered = orjson.dumps(lines, form.default, _ORJSON_OPTIONS)
        if _are_proven(form, documents, raws, joined, rendered):
            return [*rendered[1:-3].split(b",\n,")]
    except (BSONError, RecursionError, SystemError, orjson.JSONEncodeError):
        pass
    return [None] if len(raws) == 1 else [one for raw in raws for one in _render_all(form, [raw])]


def _are_proven(form: _Format, documents: Sequence[Any], raws: Sequence[bytes], joined: bytes, rendered: bytes) -> bool:
    """`_is_proven` for all of them, decoded from `joined`."""
    if form.has_wrappers and b"$" in joined and _WRAPPER_KEY_BYTES.search(joined):
        return False
    if b"null" in rendered and _NON_FINITE_BYTES.search(joined):
        return False
    # An array's elements are named after their places. Length, type, empty name and length come before the first.
    array: list[bytes] = [b""] * (2 * len(raws))
    array[::2] = _array_heads(len(raws))
    array[1::2] = raws
    return bson.encode({"": documents}, codec_options=DECODE_OPTIONS)[10:-2] == b"".join(array)


@lru_cache(256)
def _array_heads(count: int) -> Sequence[bytes]:
    """Type and name of the first elements of an array of documents."""
    return tuple(b"\x03%d\0" % place for place in range(count))


def _exact(form: _Format, value: Any, path: str) -> Any:
    """Copy a value into one that orjson renders whole, or raise for what has no rendering."""
    match value:
        case rawbson.Document():
            return _exact_document(form, value, path)
        case dict():
            return _exact_document(form, value.items(), path)
        case list():
            return [
                item if type(item) in _ATOMS else _exact(form, item, f"{path}.{index}")
                for index, item in enumerate(value)
            ]
        case float() if not math.isfinite(value):
            return form.non_finite(non_finite_name(value))
        case DBRef():
            return _exact_document(form, value.as_doc().items(), path)
        case rawbson.CodeWithScope():
            return rawbson.CodeWithScope(value.code, _exact(form, value.scope, f"{path}.$scope"))
        case Code() if value.scope is not None:
            return rawbson.CodeWithScope(str(value), _exact(form, value.scope, f"{path}.$scope"))
    return value


def _exact_document(form: _Format, elements: Iterable[tuple[str, Any]], path: str) -> Any:
    pairs = []
    prefix = f"{path}." if path else ""
    for key, value in elements:
        if form.has_wrappers and (key in _WRAPPER_KEYS or (key == "$regex" and type(value) is str)):
            raise UnrenderableError(f"{prefix}{key}: a stored key that Extended JSON reserves for type wrappers")
        pairs.append((key, value if type(value) in _ATOMS else _exact(form, value, prefix + key)))
    document = dict(pairs)
    if len(document) == len(pairs):
        return document
    members = (orjson.dumps(key) + b":" + orjson.dumps(value, form.default, _ORJSON_OPTIONS) for key, value in pairs)
    return orjson.Fragment(b"{%b}" % b",".join(members))


def non_finite_name(value: float) -> str:
    """What JSON's readers call a number that it has not: NaN, Infinity or -Infinity."""
    return {math.inf: "Infinity", -math.inf: "-Infinity"}.get(value, "NaN")


def _decimal_text(value: Decimal128) -> str:
    """`str(value)` for the common range at a fifth of the time, which would else be a third of rendering an event.

    Layout and text: https://github.com/mongodb/specifications/blob/master/source/bson-decimal128/decimal128.md
    """
    bits = int.from_bytes(value.bid, "little")
    coefficient = bits & (1 << 113) - 1
    exponent = (bits >> 113 & 0x3FFF) - 6176
    digits = str(coefficient)
    point = len(digits) + exponent
    # Infinity and NaN, coefficients that mean zero, and whatever is written with an exponent.
    if bits >> 125 & 3 == 3 or len(digits) > 34 or exponent > 0 or point < -5:
        return str(value)
    if exponent:
        digits = f"{digits[:point]}.{digits[point:]}" if point > 0 else "0." + "0" * -point + digits
    return "-" + digits if bits >> 127 else digits


def _utc(value: datetime) -> datetime:
    return value.astimezone(UTC).replace(tzinfo=None) if value.tzinfo else value


def _from_ms(value: DatetimeMS) -> datetime | None:
    milliseconds = int(value)
    return EPOCH + milliseconds * _MILLISECOND if _MIN_DATE_MS <= milliseconds <= MAX_DATE_MS else None


def _base64(value: bytes) -> str:
    return b64encode(value).decode()


def _extended_date(value: datetime) -> Any:
    value = _utc(value)
    if value.year < 1970:
        return {"$date": {"$numberLong": str((value - EPOCH) // _MILLISECOND)}}
    # orjson writes microseconds, "...123000Z"; the specification wants milliseconds. Both leave out a zero fraction.
    text = orjson.dumps(value, option=_ORJSON_UTC)
    return orjson.Fragment(b'{"$date":%bZ"}' % text[:-5] if value.microsecond else b'{"$date":%b}' % text)


def _extended_date_ms(value: DatetimeMS) -> Any:
    date = _from_ms(value)
    return {"$date": {"$numberLong": str(int(value))}} if date is None else _extended_date(date)


def _extended_binary(value: bytes, subtype: int = 0) -> Any:
    return {"$binary": {"base64": _base64(value), "subType": f"{subtype:02x}"}}


def _extended_regex(pattern: str, options: str) -> Any:
    return {"$regularExpression": {"pattern": pattern, "options": "".join(sorted(options))}}


def _regex_options(value: Regex[Any]) -> str:
    letters = {re.I: "i", re.L: "l", re.M: "m", re.S: "s", re.U: "u", re.X: "x"}
    return "".join(letter for flag, letter in letters.items() if value.flags & flag)


def _plain_date(value: datetime) -> str:
    return _utc(value).isoformat(timespec="milliseconds") + "Z"


def _plain_date_ms(value: DatetimeMS) -> str | int:
    date = _from_ms(value)
    return int(value) if date is None else _plain_date(date)


def _plain_binary(value: Binary) -> str:
    return str(uuid.UUID(bytes=value)) if value.subtype == UUID_SUBTYPE and len(value) == 16 else _base64(value)


_EXTENDED_RENDERERS: Final[dict[type, Callable[[Any], Any]]] = {
    datetime: _extended_date,
    DatetimeMS: _extended_date_ms,
    Int64: int,
    Decimal128: lambda value: {"$numberDecimal": _decimal_text(value)},
    Binary: lambda value: _extended_binary(value, value.subtype),
    bytes: _extended_binary,
    Timestamp: lambda value: {"$timestamp": {"t": value.time, "i": value.inc}},
    Regex: lambda value: _extended_regex(value.pattern, _regex_options(value)),
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
_PLAIN_RENDERERS: Final[dict[type, Callable[[Any], Any]]] = {
    ObjectId: str,
    datetime: _plain_date,
    DatetimeMS: _plain_date_ms,
    Int64: int,
    Decimal128: _decimal_text,
    Binary: _plain_binary,
    bytes: _base64,
    Timestamp: lambda value: _plain_date(EPOCH + timedelta(seconds=value.time)),
    Regex: lambda value: f"/{value.pattern}/{_regex_options(value)}",
    Code: lambda value: str(value),
    DBRef: lambda value: dict(value.as_doc()),
    MinKey: lambda _: "MinKey",
    MaxKey: lambda _: "MaxKey",
    rawbson.Undefined: lambda _: None,
    rawbson.Symbol: lambda value: value.text,
    rawbson.DBPointer: lambda value: {"$ref": value.namespace, "$id": value.id},
    rawbson.RegularExpression: lambda value: f"/{value.pattern}/{''.join(sorted(value.options))}",
    rawbson.CodeWithScope: lambda value: value.code,
}


def _extended_default(value: Any) -> Any:
    kind = type(value)
    # By far the commonest: not by way of the table, which would be one call more for each.
    return {"$oid": str(value)} if kind is ObjectId else _EXTENDED_RENDERERS[kind](value)


_EXTENDED: Final = _Format(
    default=_extended_default,
    non_finite=lambda name: {"$numberDouble": name},
    has_wrappers=True,
)
_PLAIN: Final = _Format(
    default=lambda value: _PLAIN_RENDERERS[type(value)](value),
    non_finite=str,
    has_wrappers=False,
)
