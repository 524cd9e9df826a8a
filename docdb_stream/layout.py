"""Layouts of change events: which fields an event has, in which order, and how its bytes say so.

A layout is learnt from an event; it does not matter which server wrote it. Knows one event's bytes only; what events of
one layout are made into is ``envelope``'s.
"""

from __future__ import annotations

import re
from binascii import hexlify
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from struct import Struct
from struct import error as StructError
from typing import Final, NamedTuple

import bson
from bson.raw_bson import RawBSONDocument

from docdb_stream import encoding

_REMEMBERED: Final = 1024
"""Namespaces, operations and wall-clock times whose JSON is remembered."""

Column = Sequence[bytes]
"""The values of one field, event by event."""
Row = Sequence[bytes | slice]
"""The values of one event, as BSON; of a document of any content, where it is."""

_LENGTH: Final = Struct("<i").unpack_from
_INT64: Final[Callable[[bytes], tuple[int]]] = Struct("<q").unpack
TIMESTAMP: Final[Callable[[bytes], tuple[int, int]]] = Struct("<II").unpack
"""A timestamp's increment, then its seconds."""
_EMPTY_DOCUMENT_BYTES: Final = 5

# BSON type and empty name of an element: https://bsonspec.org/spec.html (version 1.1).
_STRING: Final = b"\x02\0"
_DOCUMENT: Final = b"\x03\0"
_DATE: Final = b"\x09\0"


@lru_cache(_REMEMBERED)
def _value_json(type_and_name: bytes, value: bytes) -> bytes:
    """A value as Extended JSON. Raises UnrenderableError."""
    raw = (len(type_and_name) + len(value) + _EMPTY_DOCUMENT_BYTES).to_bytes(4, "little")
    raw += type_and_name + value + b"\0"
    return encoding.extended_json(encoding.decode(raw), raw).removeprefix(b'{"":').removesuffix(b"}")


@lru_cache(_REMEMBERED)
def _date_json(value: bytes) -> bytes:
    """A date as Extended JSON: that of its second, which takes long to render, with its milliseconds put in."""
    (time_ms,) = _INT64(value)
    fraction_ms = time_ms % 1000
    if not fraction_ms or not 0 <= time_ms <= encoding.MAX_DATE_MS:
        return _value_json(_DATE, value)
    second = _value_json(_DATE, (time_ms - fraction_ms).to_bytes(8, "little"))
    return b'%b.%03dZ"}' % (second.removesuffix(b'Z"}'), fraction_ms)


def _values(type_and_name: bytes, column: Column) -> Column:
    return [_value_json(type_and_name, value) for value in column]


@lru_cache(_REMEMBERED)
def _token_head(size: int) -> bytes:
    """How the BSON of ``{_data: text}`` begins when it has this size: with two lengths, and the name between them."""
    return size.to_bytes(4, "little") + b"\x02_data\0" + (size - 16).to_bytes(4, "little")


def _tokens(column: Column) -> Column:
    if not all(map(bytes.startswith, column, map(_token_head, map(len, column)))):
        raise encoding.UnrenderableError("_id: not valid BSON")
    return [value[15:-2] for value in column]


def _timestamps(column: Column) -> Column:
    times = map(TIMESTAMP, column)
    return [b'{"$timestamp":{"t":%d,"i":%d}}' % (seconds, increment) for increment, seconds in times]


class _Field(NamedTuple):
    """A field whose bytes are known but for a value.

    Attributes:
        pattern: Its element, with one group around the value.
        render: Makes text of the values. Raises UnrenderableError for bytes that only look like some.
        template: That text as Extended JSON.
    """

    pattern: bytes
    render: Callable[[Column], Column]
    template: bytes = b"%b"


_FIELDS: Final = {
    "_id": _Field(rb"\x03_id\0(.{4}\x02_data\0.{4}[0-9A-Fa-f]+\0\0)", _tokens, b'{"_data":"%b"}'),
    "operationType": _Field(rb"\x02operationType\0(.{4}[A-Za-z]+\0)", partial(_values, _STRING)),
    "clusterTime": _Field(rb"\x11clusterTime\0(.{8})", _timestamps),
    "wallTime": _Field(rb"\x09wallTime\0(.{8})", lambda column: [*map(_date_json, column)]),
    "txnNumber": _Field(
        rb"\x12txnNumber\0(.{8})", lambda column: [b"%d" % number for (number,) in map(_INT64, column)]
    ),
    "ns": _Field(
        rb"\x03ns\0(.{4}\x02db\0.{4}[^\0]+\0(?:\x02coll\0.{4}[^\0]+\0)?\0)",
        partial(_values, _DOCUMENT),
    ),
    # With an ObjectId. Any other key is a document like others.
    "documentKey": _Field(
        rb"\x03documentKey\0\x16\0\0\0\x07_id\0(.{12})\0",
        lambda column: [hexlify(value) for value in column],
        b'{"_id":{"$oid":"%b"}}',
    ),
}
_NAME: Final = re.compile("[A-Za-z]+|_id")


class Layout:
    """The fields of an event in their order, of which some have values: all but those that are null.

    Attributes:
        template: The event as Extended JSON, with a place for each value.
        fields: Each value's field; None for a document of any content.
        documents: Which of the values are such documents.
        places: The place of each field among the values, by its name.
    """

    def __init__(self, raw: bytes) -> None:
        """Learn the layout of this event.

        Raises:
            UnrenderableError: It has a field of which nothing is known.
            BSONError: The bytes are not valid BSON.
        """
        names: list[str] = []
        members = []
        patterns = [b""]
        self.fields: list[_Field | None] = []
        for name, value in bson.decode(raw, encoding.RAW_OPTIONS).items():
            text = name.encode()
            if not _NAME.fullmatch(name):
                raise encoding.UnrenderableError(name)
            if value is None:
                members.append(b'"%b":null' % text)
                patterns[-1] += rb"\x0a%b\0" % text
                continue
            field = _FIELDS.get(name)
            if field is not None and re.search(field.pattern, raw, re.DOTALL):
                patterns[-1] += field.pattern
            elif isinstance(value, RawBSONDocument) and (field is None or name == "documentKey"):
                field = None
                patterns[-1] += rb"\x03%b\0" % text
                patterns.append(b"")
            else:
                raise encoding.UnrenderableError(name)
            members.append(b'"' + text + b'":' + (b"%b" if field is None else field.template))
            names.append(name)
            self.fields.append(field)
        if "_id" not in names or "operationType" not in names:
            raise encoding.UnrenderableError("not a change event")

        self.places = {name: place for place, name in enumerate(names)}
        self.template = b"{" + b",".join(members) + b"}"
        self.documents = [place for place, field in enumerate(self.fields) if field is None]
        *before, last = patterns
        self._before_documents = [re.compile(pattern, re.DOTALL).match for pattern in before]
        self._end = re.compile(last + rb"\0", re.DOTALL).fullmatch

    def rows(self, raws: Sequence[bytes]) -> Sequence[Row | None]:
        """The values of each event; None for one of another layout. A document may be invalid."""
        try:
            return [*map(self._values, raws)]
        except StructError:  # one is cut off
            return [None] if len(raws) == 1 else [row for raw in raws for row in self.rows([raw])]

    def _values(self, raw: bytes) -> Row | None:
        values: list[bytes | slice] = []
        at = 4
        for before_document in self._before_documents:
            found = before_document(raw, at)
            if found is None:
                return None
            start = found.end()
            at = start + _LENGTH(raw, start)[0]
            if at < start + _EMPTY_DOCUMENT_BYTES:
                return None
            values += (*found.groups(), slice(start, at))
        found = self._end(raw, at)
        if found is None or _LENGTH(raw)[0] != len(raw):
            return None
        return (*values, *found.groups())
