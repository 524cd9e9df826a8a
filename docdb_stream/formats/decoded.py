"""BSON documents decoded, some at a time, and the proof that nothing was lost on the way.

What decoding gives up without a word (deprecated types, keys that occur twice) shows when the documents are encoded
again: bytes that come out as they went in have lost nothing. Where they do not, `rawbson` reads them exactly.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property, lru_cache
from struct import Struct
from struct import error as StructError
from typing import Any, Final

import bson
from bson.binary import UuidRepresentation
from bson.codec_options import CodecOptions, DatetimeConversion
from bson.errors import BSONError, InvalidBSON
from bson.raw_bson import RawBSONDocument

from docdb_stream.errors import UnrenderableError
from docdb_stream.formats import rawbson

Document = dict[str, Any]

DECODE_OPTIONS: Final[CodecOptions[Document]] = CodecOptions(
    document_class=dict,
    tz_aware=False,
    uuid_representation=UuidRepresentation.UNSPECIFIED,
    unicode_decode_error_handler="strict",
    datetime_conversion=DatetimeConversion.DATETIME_AUTO,  # DatetimeMS where a datetime cannot hold the date
)
_RAW_OPTIONS: Final[CodecOptions[RawBSONDocument]] = CodecOptions(
    RawBSONDocument, datetime_conversion=DatetimeConversion.DATETIME_AUTO
)
"""One level is decoded, documents in it stay as they are."""
_LOSSY_OPTIONS: Final = DECODE_OPTIONS.with_options(unicode_decode_error_handler="replace")

_LENGTH: Final = Struct("<i").unpack_from


def decode(raw: bytes) -> Document:
    """Decode one BSON document with `DECODE_OPTIONS`.

    Raises:
        UnrenderableError: the bytes are not valid BSON, or hold a string that is not valid UTF-8.
    """
    try:
        return bson.decode(raw, DECODE_OPTIONS)
    except (InvalidBSON, RecursionError) as error:
        rawbson.read(raw)  # raises with the path of the key
        raise UnrenderableError("document: not valid BSON") from error


def decode_lossy(raw: bytes) -> Document:
    """Decode what can be read of a change event that `decode` refuses, to identify it for the dead letters.

    Returns:
        The event with invalid UTF-8 replaced by U+FFFD, without those of its fields that are not valid BSON. Enough for
        the token, the namespace and the document key; never to be delivered as the event.

    Raises:
        UnrenderableError: not even the event's own fields can be told apart.
    """
    try:
        fields = bson.decode(raw, _RAW_OPTIONS.with_options(unicode_decode_error_handler="replace")).items()
    except InvalidBSON as error:
        raise UnrenderableError("document: not valid BSON") from error
    event = {}
    for key, value in fields:
        try:
            event[key] = bson.decode(value.raw, _LOSSY_OPTIONS) if isinstance(value, RawBSONDocument) else value
        except (InvalidBSON, RecursionError):
            continue
    return event


class Decoded:
    """Documents that were decoded together: what a format renders.

    Attributes:
        raws: Their BSON; one that is known only decoded has none, and is alone.
        documents: The documents, by `DECODE_OPTIONS`.
        joined: All their BSON, one document after the other.
        problem: Why the bytes cannot be decoded faithfully; empty where they can. Such a document is alone, and what
            `documents` has of it only tells which it is: it is never rendered.
    """

    def __init__(
        self, raws: Sequence[bytes], documents: Sequence[Document], problem: str = "", *, joined: bytes | None = None
    ) -> None:
        self.raws = raws
        self.documents = documents
        self.problem = problem
        self.joined = b"".join(raws) if joined is None else joined

    @cached_property
    def is_whole(self) -> bool:
        """Whether the documents are known to have lost nothing by being decoded. A false no costs time only."""
        return bool(self.raws) and not self.problem and _encodes_to(self.documents, self.raws)

    @property
    def raw(self) -> bytes | None:
        """The BSON of a document that is alone, where there is some."""
        return self.raws[0] if self.raws else None

    @cached_property
    def each(self) -> Sequence[Decoded]:
        """The documents one by one."""
        if len(self.documents) == 1:
            return [self]
        return [Decoded((raw,), (document,)) for raw, document in zip(self.raws, self.documents, strict=True)]


def decode_all(raws: Sequence[bytes]) -> list[Decoded]:
    """Decode BSON documents: together, or one by one where that fails. Never raises for what they hold.

    Of bytes that are not even a document's, `documents` has an empty one, and `problem` says what is wrong.
    """
    if len(raws) > 1 and _are_apart(raws):
        joined = b"".join(raws)
        try:
            documents = bson.decode_all(joined, DECODE_OPTIONS)
        except (BSONError, RecursionError, SystemError):
            documents = []
        if len(documents) == len(raws):
            return [Decoded(raws, documents, joined=joined)]
    return [_decoded_alone(raw) for raw in raws]


def _are_apart(raws: Sequence[bytes]) -> bool:
    """Whether each is as long as it says, so that put together they are taken apart again where they were joined."""
    try:
        return [size for raw in raws for size in _LENGTH(raw)] == [*map(len, raws)]
    except StructError:
        return False


def _decoded_alone(raw: bytes) -> Decoded:
    try:
        return Decoded((raw,), (decode(raw),))
    except UnrenderableError as error:
        try:
            return Decoded((raw,), (decode_lossy(raw),), str(error))
        except UnrenderableError:
            return Decoded((raw,), ({},), str(error))


def field_of(raw: bytes, name: str) -> bytes | None:
    """The BSON of a document's own field that is a document itself; None where it is something else, or not there."""
    found = bson.decode(raw, _RAW_OPTIONS).get(name)
    return bytes(found.raw) if isinstance(found, RawBSONDocument) else None


def is_whole(document: Mapping[str, Any], raw: bytes) -> bool:
    """Whether a document that was decoded from `raw` is known to have lost nothing. A false no costs time only."""
    return _encodes_to((document,), (raw,))


def _encodes_to(documents: Sequence[Mapping[str, Any]], raws: Sequence[bytes]) -> bool:
    """Whether documents encode to the very bytes they came from: then these kept all, types, order, repeated keys."""
    # An array's elements are named after their places. Length, type, empty name and length come before the first, and
    # two ends after the last.
    array: list[bytes] = [b""] * (2 * len(raws))
    array[::2] = _array_heads(len(raws))
    array[1::2] = raws
    expected = b"".join(array)
    try:
        encoded = bson.encode({"": documents}, codec_options=DECODE_OPTIONS)
    except (BSONError, RecursionError, SystemError):  # PyMongo 4.9 cannot encode Binary of subtype 255
        return False
    return len(encoded) == 10 + len(expected) + 2 and encoded.startswith(expected, 10)


@lru_cache(256)
def _array_heads(count: int) -> Sequence[bytes]:
    """Type and name of the first elements of an array of documents."""
    return tuple(b"\x03%d\0" % index for index in range(count))
