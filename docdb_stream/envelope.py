"""What surrounds the documents in change events, read from their bytes without decoding them.

More than half of a usual event is its token, times, names and key, and looks the same in every event of a stream. So a
layout (which fields an event has, in which order) is learnt from the first event that has it, and later ones are taken
apart by its patterns, many at a time and field by field, at a fraction of what decoding costs. It does not matter which
server wrote them. An event that fits no layout loses nothing but time: it is decoded as a whole.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache, partial
from itertools import repeat
from typing import Any, Final, NamedTuple

from bson.errors import BSONError

from docdb_stream import encoding, sample_payload
from docdb_stream.layout import TIMESTAMP, Column, Layout, Row

MAX_LAYOUTS: Final = 32
"""Layouts remembered. A server has about four (with and without a document, with what an update changed), and as many
inside transactions."""


class Envelopes:
    """Events of one layout, out of many.

    Attributes:
        layout: What they have.
        places: Where they are among the many.
        columns: For each value, those of the events, as text; of documents of any content, where they are.
        times: Their cluster times, seconds and increment; None where they have none.

    Args:
        layout: What they have.
        places: Where they are.
        raws: Their BSON.
        rows: What ``Layout.rows`` gave for each.

    Raises:
        UnrenderableError: One of them is not what it looks like.
    """

    __slots__ = ("columns", "layout", "places", "raws", "times")

    def __init__(self, layout: Layout, places: Sequence[int], raws: Sequence[bytes], rows: Sequence[Row]) -> None:
        self.layout = layout
        self.places = places
        self.raws = raws
        columns: list[Any] = list(zip(*rows, strict=True))
        time = layout.places.get("clusterTime")
        self.times = None if time is None else [(s, increment) for increment, s in map(TIMESTAMP, columns[time])]
        self.columns: list[Sequence[Any]] = [
            column if field is None else field.render(column)
            for field, column in zip(layout.fields, columns, strict=True)
        ]

    @property
    def documents(self) -> list[bytes]:
        """The documents of any content: all of one field, then those of the next."""
        return [document for index in self.layout.documents for document in self._documents(index)]

    @property
    def full_documents(self) -> Column:
        """The full documents, if these events have some."""
        place = self.layout.places.get("fullDocument")
        return () if place is None else self._documents(place)

    def envelopes(self) -> Iterator[Envelope]:
        """Each event's own, in order."""
        return map(
            _envelope,
            zip(
                self._texts("_id"),
                map(_unquoted, self.columns[self.layout.places["operationType"]]),
                self._column("ns") or repeat(b""),
                self.times or repeat(None),
                self._texts("documentKey") or repeat(""),
                repeat(self),
                range(len(self.places)),
                strict=False,
            ),
        )

    def extended_json(self, documents: Sequence[bytes | None]) -> list[bytes | None]:
        """The events as Extended JSON; ``documents`` are ``self.documents``, as Extended JSON too or None."""
        columns = [*self.columns]
        count = len(self.places)
        for number, index in enumerate(self.layout.documents):
            columns[index] = documents[number * count : (number + 1) * count]
        is_whole = None not in documents
        template = self.layout.template
        return [template % row if is_whole or None not in row else None for row in zip(*columns, strict=True)]

    def document_json(self) -> list[bytes | None]:
        """The events as the AWS sample's payload; none where that takes the events as a whole."""
        documents = self.full_documents
        if not documents or self.times is None:
            return []
        operations = map(_unquoted, self.columns[self.layout.places["operationType"]])
        return sample_payload.document_json_all(documents, operations, [seconds for seconds, _ in self.times])

    def _documents(self, index: int) -> list[bytes]:
        # Cut out when asked for, so that there are not two of each all the time.
        return [raw[where] for raw, where in zip(self.raws, self.columns[index], strict=True)]

    def _column(self, name: str) -> Column:
        """The texts of a field; none where these events do not have it, or it is a document of any content."""
        place = self.layout.places.get(name)
        return () if place is None or self.layout.fields[place] is None else self.columns[place]

    def _texts(self, name: str) -> list[str]:
        """The same, where they are hexadecimal digits, as str."""
        column = self._column(name)
        return b" ".join(column).decode().split(" ") if column else []


class Envelope(NamedTuple):
    """One of them: what every target asks of an event.

    Attributes:
        event_id: The token's ``_data``.
        operation: The ``operationType``.
        ns: The ``ns`` as JSON; empty where there is none.
        time: The ``clusterTime``, seconds and increment, where there is one.
        object_id: The ``_id`` in the ``documentKey``, where that is nothing but an ObjectId; else empty.
        events: Where it is.
        row: Which of them it is.
    """

    event_id: str
    operation: str
    ns: bytes
    time: tuple[int, int] | None
    object_id: str
    events: Envelopes
    row: int

    def document(self, name: str) -> bytes | None:
        """The BSON of a field that is a document of any content; None where there is none."""
        place = self.events.layout.places.get(name)
        if place is None or self.events.layout.fields[place]:
            return None
        where: slice = self.events.columns[place][self.row]
        return self.events.raws[self.row][where]


_envelope: Final = partial(tuple.__new__, Envelope)
"""An envelope of a tuple, without the function that a named tuple's own constructor is."""


@lru_cache(1024)
def _unquoted(operation: bytes) -> str:
    """The text of a JSON string of letters."""
    return operation[1:-1].decode()


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
    rows = layout.rows([raws[place] for place in places])
    if None not in rows:
        others: list[int] = []
    else:
        others = [place for place, row in zip(places, rows, strict=True) if row is None]
        places = [place for place, row in zip(places, rows, strict=True) if row is not None]
    found = [row for row in rows if row is not None]
    if found:
        opened += _proven(layout, places, [raws[place] for place in places], found)
        if layout is not _layouts[0]:
            _layouts = (layout, *(other for other in _layouts if other is not layout))
    return others


def _proven(layout: Layout, places: Sequence[int], raws: Sequence[bytes], rows: Sequence[Row]) -> Iterator[Envelopes]:
    try:
        yield Envelopes(layout, places, raws, rows)
    except encoding.UnrenderableError:
        if len(rows) > 1:
            for place, raw, row in zip(places, raws, rows, strict=True):
                yield from _proven(layout, [place], [raw], [row])


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
