"""Decoding: what is refused, and what is still known of it."""

import struct

import bson
import pytest
from bson.raw_bson import RawBSONDocument
from decoded_events import event

from docdb_stream.errors import UnrenderableError
from docdb_stream.formats.decoded import decode, decode_lossy

UUID_BYTES = bytes(range(16))
UUID_TEXT = "00010203-0405-0607-0809-0a0b0c0d0e0f"


def raw_document(*elements: bytes) -> bytes:
    body = b"".join(elements)
    return struct.pack("<i", len(body) + 5) + body + b"\0"


def test_undecodable_events_are_refused_but_identified() -> None:
    full = raw_document(b"\x02ok\0\2\0\0\0k\0", b"\x02bad\0\2\0\0\0\xe9\0")
    raw = bson.encode(event(fullDocument=RawBSONDocument(full)))
    with pytest.raises(UnrenderableError, match=r"^fullDocument\.bad: not valid UTF-8$"):
        decode(raw)
    assert decode_lossy(raw) == event(fullDocument={"ok": "k", "bad": "\ufffd"})


def test_events_with_an_unknown_type_are_refused_but_identified() -> None:
    full = raw_document(b"\x1aa\0")
    raw = bson.encode(event(fullDocument={})).replace(b"fullDocument\0" + raw_document(), b"fullDocument\0" + full)
    raw = struct.pack("<i", len(raw)) + raw[4:]
    with pytest.raises(UnrenderableError, match=r"^fullDocument\.a: not valid BSON: unknown type 0x1a$"):
        decode(raw)
    assert decode_lossy(raw) == event()


@pytest.mark.parametrize("raw", [b"", b"\5\0\0\0\1", raw_document(b"\x1aa\0")])
def test_broken_bytes_are_refused(raw: bytes) -> None:
    for read in (decode, decode_lossy):
        with pytest.raises(UnrenderableError, match=r"^\w+: not valid BSON"):
            read(raw)
