"""By what documents of a page and changes are known to be of one document: the ``_id``, as the server compares it."""

from __future__ import annotations

import re
import struct
from collections.abc import Sequence
from typing import Final

from docdb_stream.errors import UnrenderableError
from docdb_stream.events import ChangeEvent
from docdb_stream.formats import rawbson
from docdb_stream.formats.key import key_json
from docdb_stream.snapshot_event import id_element

Key = bytes | str | int
"""Equal for what the server takes for one ``_id``; it says nothing of the order."""

_AS_IT_IS: Final = frozenset(b"\x02\x05\x07\x08\x09\x0a\x11\x7f\xff")
"""Types of which a value is equal to another by its bytes alone: string, binary, ObjectId, boolean, date, null,
timestamp, MaxKey, MinKey. Numbers are equal across their types, also within documents."""


_INTEGERS: Final = frozenset(b"\x10\x12")
_DOUBLE: Final = 0x01
_EXACT: Final = 2.0**63
_DECIMAL: Final = 0x13
_DOUBLES: Final = struct.Struct("<d")
_INTEGER: Final = re.compile(r'\{"_id":-?[0-9]+\}')
"""A whole number of 64 bits, as ``key_json`` writes it, of whatever type."""


def keys_of(elements: Sequence[bytes]) -> Sequence[Key]:
    """Of each ``_id``: equal for what the server takes for one ``_id``."""
    return elements if {element[0] for element in elements} <= _AS_IT_IS else [*map(_key, elements)]


def told_by(event: ChangeEvent) -> tuple[Key, bool]:
    """Which document an event is about, and whether the event says what it is since."""
    raw = event.raw
    if raw is None or (fields := rawbson.elements(raw)).get("documentKey") is None:
        return event.key or "", event.operation != "update" or event.full_document is not None
    start, end = fields.get("fullDocument", (0, 0))
    says_all = end > start or event.operation != "update"  # null has no bytes
    return _key(id_element(raw[slice(*fields["documentKey"])])), says_all


def _key(element: bytes) -> Key:
    kind = element[0]
    if kind in _AS_IT_IS:
        return element
    if kind in _INTEGERS:
        return int.from_bytes(element[5:], "little", signed=True)
    if kind == _DOUBLE and abs(number := _DOUBLES.unpack_from(element, 5)[0]) < _EXACT and number.is_integer():
        return int(number)
    try:
        found = key_json(dict(rawbson.read(rawbson.joined((element,))))["_id"])
    except UnrenderableError:
        return element
    return int(found[7:-1]) if kind == _DECIMAL and _INTEGER.fullmatch(found) else found
