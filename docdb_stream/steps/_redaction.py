"""Change events rewritten by rules about fields, as BSON: what no rule is about stays the bytes that it was.

Owns where in an event the values of documents are, and how values are masked and hashed. What a path means is
``_paths``'. Events must have been decoded before: damaged bytes are not told apart here.

Fields of an event: https://www.mongodb.com/docs/manual/reference/change-events/. Layouts:
https://bsonspec.org/spec.html (version 1.1).
"""

from __future__ import annotations

import hmac
import struct
from collections.abc import Callable, Iterator
from decimal import Context, Decimal
from typing import Final

from bson.decimal128 import Decimal128

from docdb_stream.errors import UnrenderableError
from docdb_stream.formats import rawbson
from docdb_stream.formats.decoded import decode
from docdb_stream.formats.extended import extended_json
from docdb_stream.steps._paths import Action, Level

_PLAIN: Final = frozenset(
    b"_id operationType clusterTime wallTime ns nsType to lsid txnNumber collectionUUID operationDescription "
    b"splitEvent snapshot".split()
)
"""Fields of an event without values of documents. One that is not known is taken for a document where it is one."""

_STRING, _DOCUMENT, _ARRAY, _UNDEFINED, _NULL, _SYMBOL = 0x02, 0x03, 0x04, 0x06, 0x0A, 0x0E
_SIZES: Final = {0x01: 8, 0x06: 0, 0x07: 12, 0x08: 1, 0x09: 8, 0x0A: 0, 0x10: 4, 0x11: 8, 0x12: 8, 0x13: 16} | {
    0x7F: 0,
    0xFF: 0,
}
_LENGTH_AND_MORE: Final = {0x02: 4, 0x03: 0, 0x04: 0, 0x05: 5, 0x0C: 16, 0x0D: 4, 0x0E: 4, 0x0F: 0}
"""Types whose values begin with a length; what else there is that it does not count."""
_REGEX: Final = 0x0B

_int32: Final = struct.Struct("<i").unpack_from

MASK: Final = "***"

Element = tuple[int, int, int]
"""Where an element begins, where its value does, and where both end."""


def _string(text: bytes) -> bytes:
    return struct.pack("<i", len(text) + 1) + text + b"\0"


_MASKED: Final = _string(MASK.encode())
_PASS: Final = Action.PASS
_DROP: Final = Action.DROP
_HASH: Final = Action.HASH
"""Members of an enumeration take their time to be looked up."""


class Redaction:
    """Applies rules to the BSON of events.

    Args:
        top: The rules.
        key: With which values are hashed. Without one, they are masked.
    """

    def __init__(self, top: Level, key: bytes | None = None) -> None:
        self._top = top
        self._key = key

    def event(self, raw: bytes) -> bytes:
        """The event without what the rules take away; the same object where that is nothing.

        Raises:
            UnrenderableError, ValueError, IndexError, struct.error, RecursionError: It is not valid BSON.
        """
        end, pieces, copied, at = len(raw) - 1, list[bytes](), 4, 4
        while at < end:
            kind = raw[at]
            value = raw.index(0, at + 1) + 1
            after = value + _SIZES[kind] if kind in _SIZES else _end(raw, kind, value)
            if kind in (_DOCUMENT, _ARRAY) and (name := raw[at + 1 : value - 1]) not in _PLAIN:
                new = self._field(raw, at, value, name)
                if new is not None:
                    pieces += (raw[copied:at], new)
                    copied = after
            at = after
        if at != end:
            raise UnrenderableError("not valid BSON")
        return rawbson.joined((*pieces, raw[copied:end])) if pieces else raw

    def _field(self, raw: bytes, at: int, value: int, name: bytes) -> bytes | None:
        """A field of the event anew, which is a document or an array; None where it stays as it is."""
        if raw[at] == _ARRAY:  # none is one, and nobody can say what it would hold
            return b""
        new = self._update(raw, value) if name == b"updateDescription" else self._document(raw, value, self._top)
        return None if new is None else raw[at:value] + new

    def _update(self, raw: bytes, start: int) -> bytes | None:
        """What an update changed. What is not known there is left out, as nobody can say what it holds."""

        def of(element: Element) -> bytes | None:
            at, value, _ = element
            kind, name, new = raw[at], raw[at + 1 : value - 1], None
            if kind == _NULL:
                return None
            if kind == _DOCUMENT and name == b"updatedFields":
                new = self._document(raw, value, self._top)
            elif kind == _ARRAY and name == b"removedFields":
                new = _filtered(raw, value, lambda each: self._may_name(_text(raw, each)))
            elif kind == _ARRAY and name == b"truncatedArrays":
                new = _filtered(raw, value, lambda each: self._may_truncate(_field_of(raw, each)))
            elif kind == _DOCUMENT and name == b"disambiguatedPaths":
                new = _rewritten(
                    raw, value, lambda each: None if self._may_name(raw[each[0] + 1 : each[1] - 1]) else b""
                )
            else:
                return b""
            return None if new is None else raw[at:value] + new

        return _rewritten(raw, start, of)

    def _may_name(self, path: bytes | None) -> bool:
        """Whether it may be told that this path is there no more: not of what is dropped, nor within what is masked or
        hashed, whose names are a part of the value."""
        if path is None:
            return False
        fate, cut = self._top.of(path)
        return fate is not Action.DROP and cut is None

    def _may_truncate(self, path: bytes | None) -> bool:
        """Whether the array at this path is still one, and its length is told."""
        return path is not None and self._may_name(path) and self._top.of(path)[0] is not Action.MASK

    def _document(self, raw: bytes, start: int, level: Level, in_array: bool = False) -> bytes | None:
        """A document or an array anew; None where it stays as it is."""
        names, other, passes, sizes, int32, end_of_name = level.names, level.other, _PASS, _SIZES, _int32, raw.index
        end = start + int32(raw, start)[0] - 1
        at = copied = start + 4
        pieces: list[bytes] = []
        cuts: set[bytes] = set()
        position = -1
        while at < end:
            kind = raw[at]
            value = end_of_name(0, at + 1) + 1
            if kind == _STRING:  # by far the commonest
                after = value + 4 + int32(raw, value)[0]
            elif kind in sizes:
                after = value + sizes[kind]
            else:
                after = _end(raw, kind, value)
            cut = None
            if in_array:
                position += 1
                fate = level.at(position)
            else:
                name = raw[at + 1 : value - 1]
                if name in names:
                    fate = names[name]
                elif b"." in name or name[:1].isdigit():
                    fate, cut = level.of(name)
                else:
                    fate = other
            if fate is not passes:
                if cut is None:
                    new = self._element(raw, at, value, after, fate, in_array)
                else:  # several may lead to one
                    new = b"" if cut in cuts else b"\x02" + cut + b"\0" + _MASKED
                    cuts.add(cut)
                if new is not None:
                    pieces += (raw[copied:at], new)
                    copied = after
            at = after
        if at != end:
            raise UnrenderableError("not valid BSON")
        return rawbson.joined((*pieces, raw[copied:end])) if pieces else None

    def _element(
        self, raw: bytes, at: int, value: int, after: int, fate: Action | Level, in_array: bool
    ) -> bytes | None:
        """An element anew, empty where it goes; None where it stays as it is. What leaves an array leaves null there,
        as MongoDB's $unset does: updates name the others by their places."""
        kind, name = raw[at], raw[at + 1 : value]
        if isinstance(fate, Level):
            if kind in (_DOCUMENT, _ARRAY):
                new = self._document(raw, value, fate, kind == _ARRAY)
                return None if new is None else raw[at:value] + new
            if fate.keeps_scalars:
                return None
        elif fate is _HASH and self._key is not None:
            return self._hashed(raw, at, value, after)
        elif fate is not _DROP:
            return b"\x02" + name + _MASKED
        return b"\x0a" + name if in_array else b""

    def _hashed(self, raw: bytes, at: int, value: int, after: int) -> bytes | None:
        kind = raw[at]
        if kind in (_NULL, _UNDEFINED):
            return None
        if kind == _ARRAY:
            new = _rewritten(raw, value, lambda each: self._hashed(raw, *each))
            return None if new is None else raw[at:value] + new
        assert self._key is not None
        digest = hmac.digest(self._key, hashed_text(kind, raw[value:after]), "sha256")
        return b"\x02" + raw[at + 1 : value] + _string(digest.hex().encode())


def hashed_text(kind: int, value: bytes) -> bytes:
    """What is hashed of a value: the text itself; a number's decimal digits, the same for equal numbers of every type;
    and what else there is as the format ``extended`` writes it. Where that cannot say it, type and bytes.

    Args:
        kind: The value's BSON type; no null or undefined.
        value: Its bytes.
    """
    if kind in (_STRING, _SYMBOL):
        return value[4:-1]
    if kind in _NUMBERS:
        return _NUMBERS[kind](value).encode()
    try:
        alone = rawbson.joined((bytes((kind, 0)), value))
        return extended_json(decode(alone), alone)[len('{"":') : -1]
    except UnrenderableError:
        return bytes((kind,)) + value


_EXACT: Final = Context(prec=34)
"""Decimal128 has 34 digits, a double's shortest text 17."""


def _decimal(value: Decimal) -> str:
    if not value.is_finite():
        return "NaN" if value.is_nan() else "Infinity" if value > 0 else "-Infinity"
    return format(_EXACT.normalize(value), "f") if value else "0"


def _double(value: bytes) -> str:
    (number,) = struct.unpack("<d", value)
    return str(int(number)) if number.is_integer() else _decimal(Decimal(repr(number)))


_NUMBERS: Final[dict[int, Callable[[bytes], str]]] = {
    0x01: _double,
    0x10: lambda value: str(int.from_bytes(value, "little", signed=True)),
    0x12: lambda value: str(int.from_bytes(value, "little", signed=True)),
    0x13: lambda value: _decimal(Decimal128.from_bid(value).to_decimal()),
}


def _elements(raw: bytes, start: int) -> Iterator[Element]:
    """The elements of the document that begins there."""
    end = start + _int32(raw, start)[0] - 1
    at = start + 4
    while at < end:
        value = raw.index(0, at + 1) + 1
        after = _end(raw, raw[at], value)
        yield at, value, after
        at = after
    if at != end:
        raise UnrenderableError("not valid BSON")


def _end(raw: bytes, kind: int, value: int) -> int:
    """Where a value ends."""
    if kind in _SIZES:
        return value + _SIZES[kind]
    if kind in _LENGTH_AND_MORE:
        (length,) = _int32(raw, value)
        if length >= 0:
            return int(value + length + _LENGTH_AND_MORE[kind])
    if kind == _REGEX:
        return raw.index(0, raw.index(0, value) + 1) + 1
    raise UnrenderableError("not valid BSON")


def _rewritten(raw: bytes, start: int, of: Callable[[Element], bytes | None]) -> bytes | None:
    """The document there with other elements: what ``of`` gives, where that is not None."""
    pieces: list[bytes] = []
    copied = after = start + 4
    for element in _elements(raw, start):
        at, _, after = element
        new = of(element)
        if new is not None:
            pieces += (raw[copied:at], new)
            copied = after
    return rawbson.joined((*pieces, raw[copied:after])) if pieces else None


def _filtered(raw: bytes, start: int, stays: Callable[[Element], bool]) -> bytes | None:
    """The array there without the elements that do not stay; None where all do."""
    elements = [*_elements(raw, start)]
    left = [each for each in elements if stays(each)]
    if len(left) == len(elements):
        return None
    return rawbson.joined(
        raw[at : at + 1] + b"%d\0" % place + raw[value:after] for place, (at, value, after) in enumerate(left)
    )


def _text(raw: bytes, element: Element) -> bytes | None:
    """The text that an element is; None where it is something else."""
    at, value, after = element
    return raw[value + 4 : after - 1] if raw[at] == _STRING else None


def _field_of(raw: bytes, element: Element) -> bytes | None:
    """The ``field`` of an entry of truncatedArrays, where there is one and no other."""
    at, value, _ = element
    if raw[at] != _DOCUMENT:
        return None
    found = [_text(raw, each) for each in _elements(raw, value) if raw[each[0] + 1 : each[1] - 1] == b"field"]
    return found[0] if len(found) == 1 else None
