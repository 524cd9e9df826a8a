"""MongoDB's wire protocol, as far as a proxy has to understand it: messages in, messages out, nothing else."""

from __future__ import annotations

import socket
import struct
from dataclasses import dataclass, field
from typing import Any

import bson
from bson.codec_options import CodecOptions, DatetimeConversion

OP_REPLY, OP_QUERY, OP_MSG = 1, 2004, 2013
CHECKSUM_PRESENT, MORE_TO_COME, EXHAUST_ALLOWED = 1, 2, 1 << 16

_HEADER = struct.Struct("<iiii")
_CODEC: CodecOptions[dict[str, Any]] = CodecOptions(datetime_conversion=DatetimeConversion.DATETIME_MS)

Document = dict[str, Any]


@dataclass
class Message:
    """One message, a request or a reply.

    Attributes:
        request_id: The sender's number of it.
        response_to: The number of the request that it answers.
        opcode: OP_MSG; OP_QUERY and OP_REPLY for the first hello of a connection.
        body: The command or the reply.
        flags: OP_MSG's flags.
        sequences: Document sequences beside the body, such as the updates of an update, as BSON.
        prefix: What an OP_QUERY has before the body.
    """

    request_id: int
    response_to: int
    opcode: int
    body: Document
    flags: int = 0
    sequences: dict[str, list[bytes]] = field(default_factory=dict)
    prefix: bytes = b""

    @property
    def command(self) -> str:
        """The command's name."""
        return next(iter(self.body), "")

    @property
    def wants_reply(self) -> bool:
        """False for unacknowledged writes."""
        return not self.flags & MORE_TO_COME

    def documents(self, name: str) -> list[Document]:
        """The documents of a field that may be in the body or in a sequence."""
        return [bson.decode(raw, _CODEC) for raw in self.sequences.get(name, ())] + list(self.body.get(name, ()))

    def reply(self, body: Document) -> Message:
        """An answer to this request that does not come from the server."""
        return Message(0, self.request_id, OP_REPLY if self.opcode == OP_QUERY else OP_MSG, body)


def read(connection: socket.socket) -> Message | None:
    """The next message; None at the end of the connection."""
    header = _exactly(connection, _HEADER.size)
    if header is None:
        return None
    length, request_id, response_to, opcode = _HEADER.unpack(header)
    payload = _exactly(connection, length - _HEADER.size)
    if payload is None:
        return None
    message = Message(request_id, response_to, opcode, {})
    if opcode == OP_MSG:
        _read_sections(message, payload)
    elif opcode == OP_QUERY:  # flags, the collection's name, skip, limit, the query
        start = payload.index(0, 4) + 1 + 8
        message.prefix, message.body = payload[:start], _decode_at(payload, start)
    elif opcode == OP_REPLY:  # flags, cursor id, start, count, the documents
        message.body = _decode_at(payload, 20)
    else:
        raise ValueError(f"opcode {opcode} is not one that this proxy offers")
    return message


def write(connection: socket.socket, message: Message) -> None:
    """Send a message."""
    body = bson.encode(message.body, codec_options=_CODEC)
    if message.opcode == OP_MSG:
        parts = [struct.pack("<I", message.flags), b"\0", body]
        for name, documents in message.sequences.items():
            content = name.encode() + b"\0" + b"".join(documents)
            parts += [b"\1", struct.pack("<i", len(content) + 4), content]
        payload = b"".join(parts)
    elif message.opcode == OP_REPLY:
        payload = struct.pack("<iqii", 8, 0, 0, 1) + body
    else:
        payload = message.prefix + body
    header = _HEADER.pack(len(payload) + _HEADER.size, message.request_id, message.response_to, message.opcode)
    connection.sendall(header + payload)


def _read_sections(message: Message, payload: bytes) -> None:
    (flags,) = struct.unpack_from("<I", payload)
    end = len(payload) - (4 if flags & CHECKSUM_PRESENT else 0)
    # The checksum would be wrong for a changed message, and this proxy answers each request once.
    message.flags = flags & ~(CHECKSUM_PRESENT | EXHAUST_ALLOWED)
    at = 4
    while at < end:
        kind = payload[at]
        (size,) = struct.unpack_from("<i", payload, at + 1)
        if kind == 0:
            message.body = _decode_at(payload, at + 1)
        else:
            start = payload.index(0, at + 5) + 1
            name = payload[at + 5 : start - 1].decode()
            message.sequences[name] = _split(payload[start : at + 1 + size])
        at += 1 + size


def _decode_at(payload: bytes, at: int) -> Document:
    (size,) = struct.unpack_from("<i", payload, at)
    return bson.decode(payload[at : at + size], _CODEC)


def _split(documents: bytes) -> list[bytes]:
    found, at = [], 0
    while at < len(documents):
        (size,) = struct.unpack_from("<i", documents, at)
        found.append(documents[at : at + size])
        at += size
    return found


def _exactly(connection: socket.socket, count: int) -> bytes | None:
    chunks = bytearray()
    while len(chunks) < count:
        chunk = connection.recv(count - len(chunks))
        if not chunk:
            return None
        chunks += chunk
    return bytes(chunks)
