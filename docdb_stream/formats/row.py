"""What a row of a table is made of: an event's BSON, and the whole of it as Extended JSON. For file formats of columns,
which make a file's rows once all of its events are there."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import repeat
from struct import Struct
from typing import Final, NamedTuple

import bson

from docdb_stream.errors import UnrenderableError
from docdb_stream.formats.decoded import DECODE_OPTIONS, Decoded
from docdb_stream.formats.extended import EXTENDED

_LENGTH: Final = Struct("<i")


class Row(NamedTuple):
    """One event.

    Attributes:
        raw: Its BSON.
        text: The same as Extended JSON, with all that it holds.
    """

    raw: bytes
    text: bytes


class RowFormat:
    """An event's BSON, which says how long it is, and its Extended JSON after it."""

    name = "row"

    def render(self, decoded: Decoded) -> Sequence[bytes | UnrenderableError]:
        """See ``Format``; what ``extended`` refuses is refused here."""
        raws: Iterable[bytes | None] = decoded.raws or repeat(None)
        return [
            (raw or bson.encode(document, codec_options=DECODE_OPTIONS)) + text if isinstance(text, bytes) else text
            for raw, document, text in zip(raws, decoded.documents, EXTENDED.render(decoded), strict=False)
        ]

    def event_id(self, payload: bytes) -> str | None:
        """See ``Identified``."""
        return EXTENDED.event_id(row_of(payload).text)


ROW: Final = RowFormat()


def row_of(payload: bytes) -> Row:
    """The row that was rendered so."""
    length = _LENGTH.unpack_from(payload)[0]
    return Row(payload[:length], payload[length:])


def rows_in(payloads: Iterable[bytes]) -> Iterator[Row]:
    """Each of them."""
    return map(row_of, payloads)
