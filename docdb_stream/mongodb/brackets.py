"""What of a collection comes after a key: the queries that say it, one for each part of the order of ``_id``.

MongoDB sorts values of all types (its manual, "Comparison/Sort Order"), but compares only those of one kind: ``$gt: 5``
matches no text. So what comes after a key is what is greater within its bracket, and then all of the later brackets.
Works on every version of MongoDB and DocumentDB. Keys are never decoded and encoded again: a server compares the very
bytes that it stores.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator, Sequence
from typing import Final

import bson
from bson.decimal128 import Decimal128
from bson.raw_bson import RawBSONDocument

from docdb_stream.formats import rawbson
from docdb_stream.position import SnapshotRange
from docdb_stream.snapshot_event import id_element

_NUMBERS: Final = (0x01, 0x10, 0x12, 0x13)
_MIN_KEY, _MAX_KEY = 0xFF, 0x7F

BRACKETS: Final[Sequence[Sequence[int]]] = (
    (_MIN_KEY,),
    (0x06,),  # undefined
    (0x0A,),  # null
    _NUMBERS,
    (0x02, 0x0E),  # string, symbol
    (0x03,),  # document
    (0x04,),  # array: no _id, but what is there must not be passed over
    (0x05,),  # binary
    (0x07,),  # ObjectId
    (0x08,),  # boolean
    (0x09,),  # date
    (0x11,),  # timestamp
    (0x0B,),  # regular expression
    (0x0C,),  # DBPointer
    (0x0D,),  # code
    (0x0F,),  # code with scope
    (_MAX_KEY,),
)
"""The types that are compared with each other, in the order of the brackets (the server's canonicalizeBSONType)."""

_SINGLE: Final = frozenset({_MIN_KEY, 0x06, 0x0A, _MAX_KEY})
"""Types of one value; that of the first and the last compare with all others, as no others do."""

_BRACKET_OF: Final = {kind: place for place, bracket in enumerate(BRACKETS) for kind in bracket}


def segments(part: SnapshotRange) -> Iterator[RawBSONDocument]:
    """The queries for what is left of a range: all that one finds comes before all that the next one does.

    Raises:
        UnrenderableError: A key of the range is no document with an ``_id``.
    """
    after = None if part.after is None else id_element(part.after)
    until = None if part.until is None else id_element(part.until)
    first = -1 if after is None else _BRACKET_OF[after[0]]
    last = len(BRACKETS) if until is None else _BRACKET_OF[until[0]]
    if after is not None and after[0] not in _SINGLE:
        yield _condition(*_greater(after), *(_up_to(until) if until is not None and first == last else ()))
    if between := [kind for bracket in BRACKETS[first + 1 : last] for kind in bracket]:
        yield _condition(_of_types(between))
    if until is not None and first < last:
        if until[0] in _NUMBERS and not _is_nan(until):
            yield _condition(_NAN)  # the least number, and less than none of them
        yield _condition(*_up_to(until))


def _greater(after: bytes) -> Iterator[bytes]:
    yield _LEAST if _is_nan(after) else _named("$gt", after)


def _up_to(until: bytes) -> Iterator[bytes]:
    if until[0] in _SINGLE:
        yield _of_types([until[0]])
    elif _is_nan(until):
        yield _NAN
    else:
        yield _named("$lte", until)


def _named(name: str, element: bytes) -> bytes:
    """The element with this name and the value of an ``_id``."""
    return element[:1] + name.encode() + b"\0" + element[5:]


def _of_types(kinds: Sequence[int]) -> bytes:
    numbers = [-1 if kind == _MIN_KEY else kind for kind in kinds]
    return rawbson.first(bson.encode({"$type": numbers if len(numbers) > 1 else numbers[0]}))


def _condition(*elements: bytes) -> RawBSONDocument:
    return RawBSONDocument(rawbson.joined([b"\x03_id\0" + rawbson.joined(elements)]))


def _is_nan(element: bytes) -> bool:
    if element[0] == 0x01:
        return math.isnan(struct.unpack_from("<d", element, 5)[0])
    return element[0] == 0x13 and Decimal128.from_bid(element[5:21]).to_decimal().is_nan()


_NAN: Final = rawbson.first(bson.encode({"$eq": math.nan}))
_LEAST: Final = rawbson.first(bson.encode({"$gte": -math.inf}))
"""All numbers but NaN."""
