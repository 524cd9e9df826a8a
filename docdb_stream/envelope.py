"""What surrounds the documents in change events, read from their bytes without decoding them.

More than half of a usual event is its token, times, names and key, and looks the same in every event of a stream. So a
layout (which fields an event has, in which order) is learnt from the first event that has it, and later ones are taken
apart by its patterns, many at a time and field by field, at a fraction of what decoding costs. It does not matter which
server wrote them. An event that fits no layout loses nothing but time: it is decoded as a whole.
"""

from __future__ import annotations

import re
from binascii import hexlify
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache, partial
from struct import Struct
from struct import error as StructError
from typing import Final, NamedTuple

import bson
from bson import Timestamp
from bson.codec_options import CodecOptions
from bson.errors import BSONError
from bson.raw_bson import RawBSONDocument

from docdb_stream import encoding

MAX_LAYOUTS: Final = 32
"""Layouts remembered. A server has about four (with and without a document, with what an update changed), and as many
inside transactions."""
_REMEMBERED: Final = 1024
"""Namespaces, operations and wall-clock times whose JSON is remembered."""

Column = Sequence[bytes]
"""The values of one field, event by event."""

_RAW: Final = CodecOptions(RawBSONDocument)
_LENGTH: Final = Struct("<i").unpack_from
_INT64: Final[Callable[[bytes], tuple[int]]] = Struct("<q").unpack
_TIMESTAMP: Final[Callable[[bytes], tuple[int, int]]] = Struct("<II").unpack  # increment, then seconds
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
    times = map(_TIMESTAMP, column)
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
    "wallTime": _Field(rb"\x09wallTime\0(.{8})", partial(_values, _DATE)),
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
        for name, value in bson.decode(raw, _RAW).items():
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

    def rows(self, raws: Iterable[bytes]) -> Iterator[list[bytes] | None]:
        """The values of each event, as BSON; None for one of another layout. A document's may be invalid."""
        for raw in raws:
            try:
                yield self._values(raw)
            except StructError:  # it is cut off
                yield None

    def _values(self, raw: bytes) -> list[bytes] | None:
        values: list[bytes] = []
        at = 4
        for before_document in self._before_documents:
            found = before_document(raw, at)
            if found is None:
                return None
            values += found.groups()
            start = found.end()
            at = start + _LENGTH(raw, start)[0]
            if at < start + _EMPTY_DOCUMENT_BYTES:
                return None
            values.append(raw[start:at])
        found = self._end(raw, at)
        if found is None or _LENGTH(raw)[0] != len(raw):
            return None
        values += found.groups()
        return values


class Envelopes:
    """Events of one layout, out of many.

    Attributes:
        layout: What they have.
        places: Where they are among the many.
        columns: For each value, those of the events: documents of any content as BSON, everything else as text.
        times: Their cluster times, increment and seconds; None where they have none.

    Args:
        layout: What they have.
        places: Where they are.
        rows: What ``Layout.values`` gave for each.

    Raises:
        UnrenderableError: One of them is not what it looks like.
    """

    __slots__ = ("columns", "layout", "places", "times")

    def __init__(self, layout: Layout, places: Sequence[int], rows: Sequence[Sequence[bytes]]) -> None:
        self.layout = layout
        self.places = places
        columns: list[Column] = list(zip(*rows, strict=True))
        time = layout.places.get("clusterTime")
        self.times = None if time is None else [*map(_TIMESTAMP, columns[time])]
        self.columns = [
            column if field is None else field.render(column)
            for field, column in zip(layout.fields, columns, strict=True)
        ]

    @property
    def documents(self) -> list[bytes]:
        """The documents of any content: all of one field, then those of the next."""
        return [document for index in self.layout.documents for document in self.columns[index]]

    @property
    def full_documents(self) -> Column:
        """The full documents, if these events have some."""
        place = self.layout.places.get("fullDocument")
        return () if place is None else self.columns[place]

    def extended_json(self, documents: Sequence[bytes | None]) -> list[bytes | None]:
        """The events as Extended JSON; ``documents`` are ``self.documents``, as Extended JSON too or None."""
        columns: list[Sequence[bytes | None]] = [*self.columns]
        count = len(self.places)
        for number, index in enumerate(self.layout.documents):
            columns[index] = documents[number * count : (number + 1) * count]
        is_whole = None not in documents
        template = self.layout.template
        return [template % row if is_whole or None not in row else None for row in zip(*columns, strict=True)]


class Envelope(NamedTuple):
    """One of them."""

    events: Envelopes
    row: int

    @property
    def event_id(self) -> str:
        """The token's ``_data``."""
        return self._text("_id").decode()

    @property
    def operation(self) -> str:
        """The ``operationType``."""
        return self._text("operationType")[1:-1].decode()

    @property
    def ns(self) -> bytes:
        """The ``ns`` as JSON; empty where there is none."""
        return self._text("ns")

    @property
    def cluster_time(self) -> Timestamp | None:
        """The ``clusterTime``, where there is one."""
        if self.events.times is None:
            return None
        increment, seconds = self.events.times[self.row]
        return Timestamp(seconds, increment)

    @property
    def cluster_time_s(self) -> int | None:
        """The seconds of the ``clusterTime``, where there is one."""
        return None if self.events.times is None else self.events.times[self.row][1]

    @property
    def object_id(self) -> str:
        """The ``_id`` in the ``documentKey``, where that is nothing but an ObjectId; else empty."""
        return self._text("documentKey").decode()

    def document(self, name: str) -> bytes | None:
        """The BSON of a field that is a document of any content; None where there is none."""
        place = self.events.layout.places.get(name)
        return None if place is None or self.events.layout.fields[place] else self.events.columns[place][self.row]

    def _text(self, name: str) -> bytes:
        layout = self.events.layout
        place = layout.places.get(name)
        return b"" if place is None or layout.fields[place] is None else self.events.columns[place][self.row]


_layouts: tuple[Layout, ...] = ()
"""The one that fitted last comes first."""


def open_envelopes(raws: Sequence[bytes]) -> list[Envelopes]:
    """Take events apart, without those that fit no layout: neither one that is known nor one that can be learnt."""
    opened: list[Envelopes] = []
    left: Sequence[int] = range(len(raws))
    for layout in _layouts:
        if not left:
            break
        left = _open_alike(layout, raws, left, opened)
    while left:
        learnt = _learn(raws[left[0]])
        left = left[1:] if learnt is None else _open_alike(learnt, raws, left, opened)
    return opened


def _open_alike(layout: Layout, raws: Sequence[bytes], places: Sequence[int], opened: list[Envelopes]) -> Sequence[int]:
    """Open those that have the layout; returns the places of the others."""
    global _layouts
    rows = [*layout.rows([raws[place] for place in places])]
    if None not in rows:
        others: list[int] = []
    else:
        others = [place for place, row in zip(places, rows, strict=True) if row is None]
        places = [place for place, row in zip(places, rows, strict=True) if row is not None]
    found = [row for row in rows if row is not None]
    if found:
        opened += _proven(layout, places, found)
        if layout is not _layouts[0]:
            _layouts = (layout, *(other for other in _layouts if other is not layout))
    return others


def _proven(layout: Layout, places: Sequence[int], rows: Sequence[list[bytes]]) -> Iterator[Envelopes]:
    try:
        yield Envelopes(layout, places, rows)
    except encoding.UnrenderableError:
        if len(rows) > 1:
            for place, row in zip(places, rows, strict=True):
                yield from _proven(layout, [place], [row])


def _learn(raw: bytes) -> Layout | None:
    global _layouts
    try:
        layout = Layout(raw)
        if None in layout.rows([raw]):
            return None
    except (encoding.UnrenderableError, BSONError):
        return None
    _layouts = (layout, *_layouts[: MAX_LAYOUTS - 1])
    return layout
