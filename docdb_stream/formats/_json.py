"""What the JSON formats have in common: BSON values as JSON, quickly where it is proven exact, else exactly.

The fast way is orjson over what pymongo decoded. Its result is used only where it is known that nothing was lost, so no
value is ever altered silently: it arrives, or `UnrenderableError` says which key cannot.
"""

from __future__ import annotations

import json
import math
import re
from base64 import b64encode
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import orjson
from bson.code import Code
from bson.datetime_ms import DatetimeMS
from bson.dbref import DBRef
from bson.decimal128 import Decimal128
from bson.int64 import Int64
from bson.objectid import ObjectId
from bson.regex import Regex
from bson.timestamp import Timestamp

from docdb_stream.errors import UnrenderableError
from docdb_stream.formats import rawbson
from docdb_stream.formats.decoded import Decoded, field_of, is_whole

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

EPOCH: Final = datetime(1970, 1, 1)  # naive, as pymongo decodes dates
MILLISECOND: Final = timedelta(milliseconds=1)
_MIN_DATE_MS: Final = (datetime.min - EPOCH) // MILLISECOND
_MAX_DATE_MS: Final = (datetime.max - EPOCH) // MILLISECOND

# Rendered alike on both paths: nothing to look into. Not float (NaN), nor what holds documents.
_ATOMS: Final = frozenset({str, int, bool, type(None), Int64, ObjectId, datetime, DatetimeMS, Decimal128, Timestamp})

_OPTIONS: Final = orjson.OPT_PASSTHROUGH_DATETIME | orjson.OPT_PASSTHROUGH_SUBCLASS  # Code is a str subclass
_LINE: Final = orjson.Fragment(b"\n")


@dataclass(frozen=True, slots=True)
class JsonRenderer:
    """Renders documents as JSON.

    Attributes:
        default: What a value that JSON has not is written as.
        non_finite: The same for NaN and the infinities, by their names.
        has_wrappers: Values are written with keys that Extended JSON reserves, so a stored document may not have these.
    """

    default: Callable[[Any], Any]
    non_finite: Callable[[str], Any]
    has_wrappers: bool

    def together(self, documents: Sequence[Any], joined: bytes) -> list[bytes] | None:
        """Render documents that were decoded from `joined` without a loss; None where they take a closer look."""
        if self.has_wrappers and b"$" in joined and _WRAPPER_KEY_BYTES.search(joined):
            return None
        # One call, with a line between two documents: JSON has its own line feeds escaped. A call for each would also
        # leave room for some thousand bytes behind each result, which orjson does not give back.
        lines: list[Any] = [_LINE] * (2 * len(documents))
        lines[::2] = documents
        try:
            rendered = orjson.dumps(lines, self.default, _OPTIONS)
        except (RecursionError, orjson.JSONEncodeError):
            return None
        # orjson writes NaN and the infinities as null.
        if b"null" in rendered and _NON_FINITE_BYTES.search(joined):
            return None
        return rendered[1:-3].split(b",\n,")

    def each(self, values: Sequence[Any]) -> list[bytes]:
        """Render values that were decoded, of any type. Raises UnrenderableError as `alone` does."""
        lines: list[Any] = [_LINE] * (2 * len(values))
        lines[::2] = values
        try:
            found = orjson.dumps(lines, self.default, _OPTIONS)[1:-3].split(b",\n,") if values else []
        except (RecursionError, orjson.JSONEncodeError):
            found = [b"null"] * len(values)
        # What orjson writes as null may be NaN or an infinity.
        return [
            self.exactly({"": value})[4:-1] if b"null" in one else one for value, one in zip(values, found, strict=True)
        ]

    def alone(self, document: Mapping[str, Any], raw: bytes | None) -> bytes:
        """Render one document, given the bytes it was decoded from. Without them, what the decoder drops is unknown.

        Raises:
            UnrenderableError: it cannot be said without altering it.
        """
        if raw is None:
            return self.exactly(document)
        if is_whole(document, raw) and (together := self.together([document], raw)) is not None:
            return together[0]
        return self.exactly(rawbson.read(raw))

    def column(self, decoded: Decoded, *way: str) -> Sequence[bytes | UnrenderableError | None]:
        """Of each event the document at a way of keys: rendered, or why it cannot be; None where there is none."""
        documents = [_at(event, way) for event in decoded.documents]
        there = [document for document in documents if document is not None]
        if not there:
            return documents
        together = self.together(there, decoded.joined) if decoded.is_whole else None
        if together is not None:
            rendered = iter(together)
            return [None if document is None else next(rendered) for document in documents]
        return [
            None if document is None else self._one(one.raw, document, way)
            for one, document in zip(decoded.each, documents, strict=True)
        ]

    def _one(self, raw: bytes | None, document: Any, way: Iterable[str]) -> bytes | UnrenderableError:
        for name in way:
            raw = raw and field_of(raw, name)
        try:
            return self.alone(document, raw)
        except UnrenderableError as error:
            return error

    def exactly(self, document: Mapping[str, Any] | rawbson.Document) -> bytes:
        """Render one document value by value. Raises UnrenderableError as `alone` does."""
        try:
            return orjson.dumps(self._exact(document, ""), self.default, _OPTIONS)
        except RecursionError:
            raise UnrenderableError("nested too deeply") from None
        except orjson.JSONEncodeError as error:
            raise UnrenderableError(str(error)) from error

    def _exact(self, value: Any, path: str) -> Any:
        """Copy a value into one that orjson renders whole, or raise for what has no rendering."""
        match value:
            case rawbson.Document():
                return self._exact_document(value, path)
            case dict():
                return self._exact_document(value.items(), path)
            case list():
                return [
                    item if type(item) in _ATOMS else self._exact(item, f"{path}.{index}")
                    for index, item in enumerate(value)
                ]
            case float() if not math.isfinite(value):
                return self.non_finite(non_finite_name(value))
            case DBRef():
                return self._exact_document(value.as_doc().items(), path)
            case rawbson.CodeWithScope():
                return rawbson.CodeWithScope(value.code, self._exact(value.scope, f"{path}.$scope"))
            case Code() if value.scope is not None:
                return rawbson.CodeWithScope(str(value), self._exact(value.scope, f"{path}.$scope"))
        return value

    def _exact_document(self, elements: Iterable[tuple[str, Any]], path: str) -> Any:
        pairs = []
        prefix = f"{path}." if path else ""
        for key, value in elements:
            if self.has_wrappers and (key in _WRAPPER_KEYS or (key == "$regex" and type(value) is str)):
                raise UnrenderableError(f"{prefix}{key}: a stored key that Extended JSON reserves for type wrappers")
            pairs.append((key, value if type(value) in _ATOMS else self._exact(value, prefix + key)))
        document = dict(pairs)
        if len(document) == len(pairs):
            return document
        members = (orjson.dumps(key) + b":" + orjson.dumps(value, self.default, _OPTIONS) for key, value in pairs)
        return orjson.Fragment(b"{%b}" % b",".join(members))


def _at(document: Any, way: Iterable[str]) -> Any:
    for name in way:
        document = document.get(name) if isinstance(document, dict) else None
    return document


def non_finite_name(value: float) -> str:
    """What JSON's readers call a number that it has not: NaN, Infinity or -Infinity."""
    return {math.inf: "Infinity", -math.inf: "-Infinity"}.get(value, "NaN")


def decimal_text(value: Decimal128) -> str:
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


def utc(value: datetime) -> datetime:
    """A date without a zone, in UTC."""
    return value.astimezone(UTC).replace(tzinfo=None) if value.tzinfo else value


def from_ms(value: DatetimeMS) -> datetime | None:
    """The date, where a datetime holds it."""
    milliseconds = int(value)
    return EPOCH + milliseconds * MILLISECOND if _MIN_DATE_MS <= milliseconds <= _MAX_DATE_MS else None


def base64_text(value: bytes) -> str:
    """The bytes in Base64."""
    return b64encode(value).decode()


def escaped(character: str) -> str:
    r"""A character as JSON writes any of them: ``\\u`` and four digits, twice beyond U+FFFF."""
    units = character.encode("utf-16-be").hex()
    return "".join(f"\\u{units[place : place + 4]}" for place in range(0, len(units), 4))


def regex_options(value: Regex[Any]) -> str:
    """The letters of a regular expression's options."""
    letters = {re.I: "i", re.L: "l", re.M: "m", re.S: "s", re.U: "u", re.X: "x"}
    return "".join(letter for flag, letter in letters.items() if value.flags & flag)


_ID_FIRST: Final = re.compile(rb'\{\s*"_id"\s*:\s*\{\s*"_data"\s*:\s*"([^"\\]*)"')


def token_data(payload: bytes) -> str | None:
    """The ``_id._data`` of a change event in JSON; None where it has none."""
    first = _ID_FIRST.match(payload)  # where every event has it that no function made anew
    return text_at(payload, "_id", "_data") if first is None else first[1].decode(errors="replace")


def text_at(payload: bytes, *path: str | int) -> str | None:
    """The text at a path of keys and places in JSON; None where there is none."""
    try:
        found = json.loads(payload)
        for each in path:
            found = found[each]
    except (ValueError, LookupError, TypeError, RecursionError):
        return None
    return found if isinstance(found, str) else None
