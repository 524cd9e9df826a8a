"""Exact reader of raw BSON.

It keeps what pymongo's decoder gives up without a word: undefined (read there as null), symbol (as a string), DBPointer
(as a DBRef), unknown options of a regular expression, the key order of a DBRef, and keys that occur twice. It renders
nothing: the formats do, and come here only for the few documents that need it, so clarity goes before speed.

Type numbers and layouts: https://bsonspec.org/spec.html (version 1.1).
"""

import struct
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final, NamedTuple

from bson.binary import OLD_BINARY_SUBTYPE, Binary
from bson.code import Code
from bson.datetime_ms import DatetimeMS
from bson.decimal128 import Decimal128
from bson.int64 import Int64
from bson.max_key import MaxKey
from bson.min_key import MinKey
from bson.objectid import ObjectId
from bson.timestamp import Timestamp

from docdb_stream.errors import UnrenderableError

_INT32: Final = struct.Struct("<i")
_INT64: Final = struct.Struct("<q")
_DOUBLE: Final = struct.Struct("<d")
_TIMESTAMP: Final = struct.Struct("<II")  # increment, then seconds


class Document(list[tuple[str, Any]]):
    """The elements of a document in their order, keys that occur twice included."""


class Undefined(NamedTuple):
    """The deprecated undefined value (type 0x06)."""


class Symbol(NamedTuple):
    """A deprecated symbol (type 0x0E)."""

    text: str


class DBPointer(NamedTuple):
    """A deprecated DBPointer (type 0x0C)."""

    namespace: str
    id: ObjectId


class RegularExpression(NamedTuple):
    """A regular expression (type 0x0B) with its options as they are stored."""

    pattern: str
    options: str


class CodeWithScope(NamedTuple):
    """JavaScript code with the variables it sees (type 0x0F)."""

    code: str
    scope: Document


def read(raw: bytes) -> Document:
    """Read one BSON document exactly.

    Returns:
        The document: subdocuments as `Document`, arrays as lists, dates as `DatetimeMS`, the types above as the classes
        above, and everything else as pymongo decodes it.

    Raises:
        UnrenderableError: the bytes are not valid BSON, a string is not valid UTF-8, or the nesting is too deep.
    """
    reader = _Reader(raw)
    try:
        document = reader.document("")
    except RecursionError:
        raise UnrenderableError("nested too deeply") from None
    if reader.at != len(raw):
        raise _corrupt("", "bytes after the end of the document")
    return document


def elements(raw: bytes) -> dict[str, tuple[int, int]]:
    """Where the values of a document's own keys begin and end, without reading them.

    Raises:
        UnrenderableError: as `read`.
    """
    return {key: (start, end) for key, _, start, end in _spans(raw)}


def parts(raw: bytes) -> dict[str, bytes]:
    """A document's own keys, each with the bytes of its whole element (type, key and value), without reading them.

    Raises:
        UnrenderableError: as `read`.
    """
    return {key: raw[at:end] for key, at, _, end in _spans(raw)}


def first(raw: bytes) -> bytes:
    """The whole first element of a document that is not empty, without reading the others.

    Raises:
        UnrenderableError: as `read`.
    """
    _, at, _, end = next(_spans(raw))
    return raw[at:end]


def element(raw: bytes, key: str) -> bytes | None:
    """The whole first element of this key, without reading what comes after it; None where there is none.

    Raises:
        UnrenderableError: as `read`.
    """
    try:
        return next((raw[at:end] for found, at, _, end in _spans(raw) if found == key), None)
    except struct.error:  # a length that is cut off
        raise _corrupt(key, "a length beyond the data") from None


def joined(parts: Iterable[bytes]) -> bytes:
    """The document made of these whole elements, in their order: what `parts` took apart."""
    body = b"".join(parts)
    return _INT32.pack(len(body) + 5) + body + b"\0"


def _spans(raw: bytes) -> Iterator[tuple[str, int, int, int]]:
    """Key, begin of the element, begin of its value, and end of both, for each of a document's own keys."""
    reader = _Reader(raw)
    reader.int32("")
    while type_number := reader.take(1, "")[0]:
        at = reader.at - 1
        key = reader.cstring("")
        start = reader.at
        reader.skip(type_number, key)
        yield key, at, start, reader.at


def documents(array: bytes) -> list[bytes]:
    """The elements of an array of documents, given the array's bytes. Fast: a change stream's events come this way."""
    found: list[bytes] = []
    end_of_name, length = array.index, _INT32.unpack_from
    at, last = 4, len(array) - 1
    while at < last:
        start = end_of_name(0, at + 1) + 1  # after type and name, whatever the server calls its elements
        at = start + length(array, start)[0]
        found.append(array[start:at])
    return found


def _corrupt(path: str, what: str) -> UnrenderableError:
    return UnrenderableError(f"{path or 'document'}: not valid BSON: {what}")


class _Reader:
    """A cursor over the bytes. Each method reads one value at the cursor, moves past it, and blames `path`."""

    def __init__(self, raw: bytes) -> None:
        self.raw = raw
        self.at = 0

    def document(self, path: str) -> Document:
        end = self.at + self.int32(path)
        elements = Document()
        while type_number := self.take(1, path)[0]:
            key = self.cstring(path)
            inner = f"{path}.{key}" if path else key
            if type_number not in _READERS:
                raise _corrupt(inner, f"unknown type {type_number:#04x}")
            elements.append((key, _READERS[type_number](self, inner)))
        self.expect(end, path)
        return elements

    def skip(self, type_number: int, path: str) -> None:
        if type_number in (0x03, 0x04):
            (size,) = _INT32.unpack_from(self.raw, self.at)
            self.take(size, path)
        elif type_number in _READERS:
            _READERS[type_number](self, path)
        else:
            raise _corrupt(path, f"unknown type {type_number:#04x}")

    def array(self, path: str) -> list[Any]:
        return [value for _, value in self.document(path)]

    def take(self, size: int, path: str) -> bytes:
        start, self.at = self.at, self.at + size
        if size < 0 or self.at > len(self.raw):
            raise _corrupt(path, "a length beyond the data")
        return self.raw[start : self.at]

    def expect(self, end: int, path: str) -> None:
        if self.at != end:
            raise _corrupt(path, "a length that does not match its content")

    def int32(self, path: str) -> int:
        return int(_INT32.unpack(self.take(4, path))[0])

    def int64(self, path: str) -> int:
        return int(_INT64.unpack(self.take(8, path))[0])

    def double(self, path: str) -> float:
        return float(_DOUBLE.unpack(self.take(8, path))[0])

    def boolean(self, path: str) -> bool:
        byte = self.take(1, path)[0]
        if byte > 1:
            raise _corrupt(path, "a boolean that is neither true nor false")
        return byte == 1

    def cstring(self, path: str) -> str:
        end = self.raw.find(0, self.at)
        return self.text(end - self.at, path)

    def string(self, path: str) -> str:
        return self.text(self.int32(path) - 1, path)

    def text(self, size: int, path: str) -> str:
        text = self.take(size, path)
        if self.take(1, path) != b"\0":
            raise _corrupt(path, "a string without its end")
        try:
            return text.decode()
        except UnicodeDecodeError:
            raise UnrenderableError(f"{path or 'document'}: not valid UTF-8") from None

    def binary(self, path: str) -> bytes:
        size, subtype = self.int32(path), self.take(1, path)[0]
        end = self.at + size
        if subtype == OLD_BINARY_SUBTYPE:  # it repeats the length inside
            size = self.int32(path)
        data = self.take(size, path)
        self.expect(end, path)
        return Binary(data, subtype) if subtype else data

    def object_id(self, path: str) -> ObjectId:
        return ObjectId(self.take(12, path))

    def timestamp(self, path: str) -> Timestamp:
        increment, seconds = _TIMESTAMP.unpack(self.take(8, path))
        return Timestamp(seconds, increment)

    def code_with_scope(self, path: str) -> CodeWithScope:
        end = self.at + self.int32(path)
        code = CodeWithScope(self.string(path), self.document(f"{path}.$scope"))
        self.expect(end, path)
        return code


_READERS: Final[dict[int, Callable[[_Reader, str], Any]]] = {
    0x01: _Reader.double,
    0x02: _Reader.string,
    0x03: _Reader.document,
    0x04: _Reader.array,
    0x05: _Reader.binary,
    0x06: lambda _reader, _path: Undefined(),
    0x07: _Reader.object_id,
    0x08: _Reader.boolean,
    0x09: lambda reader, path: DatetimeMS(reader.int64(path)),
    0x0A: lambda _reader, _path: None,
    0x0B: lambda reader, path: RegularExpression(reader.cstring(path), reader.cstring(path)),
    0x0C: lambda reader, path: DBPointer(reader.string(path), reader.object_id(path)),
    0x0D: lambda reader, path: Code(reader.string(path)),
    0x0E: lambda reader, path: Symbol(reader.string(path)),
    0x0F: _Reader.code_with_scope,
    0x10: _Reader.int32,
    0x11: _Reader.timestamp,
    0x12: lambda reader, path: Int64(reader.int64(path)),
    0x13: lambda reader, path: Decimal128.from_bid(reader.take(16, path)),
    0x7F: lambda _reader, _path: MaxKey(),
    0xFF: lambda _reader, _path: MinKey(),
}
