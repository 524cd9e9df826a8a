"""The full document as plain JSON, for search engines and readers that know nothing of BSON."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Final

from bson.binary import UUID_SUBTYPE, Binary
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
from docdb_stream.formats._json import EPOCH, JsonRenderer, base64_text, decimal_text, from_ms, regex_options, utc
from docdb_stream.formats.decoded import Decoded


class PlainJson:
    """The full document alone; ``null`` where an event has none: a delete, or an update whose document was gone."""

    name = "plain"

    def render(self, decoded: Decoded) -> Sequence[bytes | UnrenderableError]:
        """See ``Format``, and `plain_json` for how values are written."""
        return [b"null" if each is None else each for each in RENDERER.column(decoded, "fullDocument")]


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
    return RENDERER.alone(document, raw)


def _plain_date(value: datetime) -> str:
    return utc(value).isoformat(timespec="milliseconds") + "Z"


def _plain_date_ms(value: DatetimeMS) -> str | int:
    date = from_ms(value)
    return int(value) if date is None else _plain_date(date)


def _plain_binary(value: Binary) -> str:
    return str(uuid.UUID(bytes=value)) if value.subtype == UUID_SUBTYPE and len(value) == 16 else base64_text(value)


_RENDERERS: Final[dict[type, Callable[[Any], Any]]] = {
    ObjectId: str,
    datetime: _plain_date,
    DatetimeMS: _plain_date_ms,
    Int64: int,
    Decimal128: decimal_text,
    Binary: _plain_binary,
    bytes: base64_text,
    Timestamp: lambda value: _plain_date(EPOCH + timedelta(seconds=value.time)),
    Regex: lambda value: f"/{value.pattern}/{regex_options(value)}",
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
RENDERER: Final = JsonRenderer(lambda value: _RENDERERS[type(value)](value), non_finite=str, has_wrappers=False)
PLAIN: Final = PlainJson()
