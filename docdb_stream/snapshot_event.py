"""The event of a snapshot: a document that was read, in the form of a change.

Owns what it looks like and what it is called. It is an insert with the field ``snapshot``, so that everything that
takes changes takes it. Who reads the documents, and when they may be delivered, is ``snapshot``'s.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from hashlib import sha256
from typing import Final

import bson
from bson import Timestamp

from docdb_stream.errors import UnrenderableError
from docdb_stream.formats import rawbson
from docdb_stream.position import Namespace

PREFIX: Final = "snapshot/"
"""Of the ids of these events: ``snapshot/<the snapshot's id>/<digest of namespace and _id>``. No server's token begins
so: they are hexadecimal digits."""

_DIGITS: Final = 32
_INT32: Final = struct.Struct("<i")
_ID: Final = b"_id\0"
_VALUE_AT: Final = 4 + 1 + len(_ID)
_FIXED_BYTES: Final = {0x01: 8, 0x07: 12, 0x08: 1, 0x09: 8, 0x10: 4, 0x11: 8, 0x12: 8, 0x13: 16}
_TEXT: Final = 0x02
"""Types of BSON, and how long values are of those that have one length (bsonspec.org, version 1.1)."""


class SnapshotEvents:
    """Makes the events of one collection in one snapshot.

    The same document of the same snapshot has the same id and cluster time each time it is read, whatever is in it.

    Args:
        snapshot: The snapshot's id.
        time: The cluster time of its events, see ``SnapshotProgress``.
        namespace: The collection; it is a collection, no whole database.
    """

    def __init__(self, snapshot: str, time: Timestamp, namespace: Namespace) -> None:
        # All but the digits, the key and the document is the same in each, and at the same place.
        self._salt = _salt(namespace)
        token = bson.encode({"_id": {"_data": f"{PREFIX}{snapshot}/" + "0" * _DIGITS}})[4:-1]
        after = b"\0\0"  # the ends of text and token
        change = {"operationType": "insert", "clusterTime": time, "ns": {"db": namespace.db, "coll": namespace.coll}}
        self._head = token[: -_DIGITS - len(after)]
        self._middle = after + bson.encode(change)[4:-1] + b"\x03documentKey\0"
        self._end = bson.encode({"snapshot": {"id": snapshot}})[4:]
        self._fixed_bytes = 4 + len(token) + len(self._middle) - len(after) + 4 + len(_FULL_DOCUMENT) + len(self._end)

    def of(self, document: bytes) -> bytes:
        """The event of a document, as BSON, with the very bytes of the document.

        Raises:
            UnrenderableError: It has no ``_id``, or is no BSON.
        """
        return self.all_of([document], [id_element(document)])[0]

    def all_of(self, documents: Iterable[bytes], elements: Iterable[bytes]) -> list[bytes]:
        """The events of documents with these elements ``_id``."""
        salt, head, middle, end, fixed_bytes = self._salt, self._head, self._middle, self._end, self._fixed_bytes
        pack, join = _INT32.pack, b"".join
        return [
            join(
                (
                    pack(fixed_bytes + len(element) + len(document)),
                    head,
                    sha256(salt + element).hexdigest()[:_DIGITS].encode(),
                    middle,
                    pack(len(element) + 5),
                    element,
                    _FULL_DOCUMENT,
                    document,
                    end,
                )
            )
            for document, element in zip(documents, elements, strict=True)
        ]


_FULL_DOCUMENT: Final = b"\0\x03fullDocument\0"
"""After the key's last element."""


def delete_event(snapshot: str, namespace: Namespace, element: bytes, time: Timestamp) -> bytes:
    """The delete of a document with this element ``_id`` at a cluster time, as a server sends it.

    Args:
        snapshot: In whose name: its own id, or that of a repair.
        namespace: The document's collection.
        element: Its ``_id``.
        time: Whatever is newer stays.
    """
    token = {"_data": f"{PREFIX}{snapshot}/{sha256(element).hexdigest()[:_DIGITS]}"}
    ns = {"db": namespace.db, "coll": namespace.coll}
    head = bson.encode({"_id": token, "operationType": "delete", "clusterTime": time, "ns": ns})[4:-1]
    return rawbson.joined([head, b"\x03documentKey\0" + rawbson.joined([element])])


def snapshot_of(event_id: str) -> str | None:
    """The snapshot's id in the id of an event; None where that is a change's."""
    return event_id.split("/")[1] if event_id.startswith(PREFIX) else None


def is_of(event_id: str, namespace: Namespace, element: bytes) -> bool:
    """Whether it is the id of the event of a document with this element ``_id``, of this collection, in a snapshot; or
    of what a step has made of that event, with the same key (see ``step``)."""
    digest = sha256(_salt(namespace) + element).hexdigest()[:_DIGITS]
    return event_id.startswith(PREFIX) and event_id.rpartition("/")[2].partition("#")[0] == digest


def id_elements(documents: Sequence[bytes]) -> list[bytes]:
    """``id_element`` of each; fast where all have the same kind of ``_id``, which stands first."""
    end = _VALUE_AT + _FIXED_BYTES.get(documents[0][4], 0) if documents else 0
    heads = {document[4:_VALUE_AT] for document in documents}
    if end > _VALUE_AT and len(heads) == 1 and heads.pop()[1:] == _ID:
        return [document[4:end] for document in documents]
    return [*map(id_element, documents)]


def id_element(document: bytes) -> bytes:
    """The element ``_id`` of a document: type, name and value; the first, where there are several.

    Raises:
        UnrenderableError: There is none, or it is no BSON.
    """
    if len(document) < 5 or document[:4] != _INT32.pack(len(document)):
        raise UnrenderableError("document: not valid BSON: a length that does not match its content")
    if document.startswith(_ID, 5) and (end := _end_of_id(document)):
        return document[4:end]
    found = rawbson.element(document, "_id")
    if found is None:
        raise UnrenderableError("_id: missing in the document")
    return found


def _end_of_id(document: bytes) -> int:
    """Where an ``_id`` ends that is the first field, as servers store it; 0 where that takes a closer look."""
    kind = document[4]
    size_bytes = _FIXED_BYTES.get(kind, 0)
    if kind == _TEXT and len(document) > _VALUE_AT + 4:
        size_bytes = 4 + max(0, *_INT32.unpack_from(document, _VALUE_AT))
    end = _VALUE_AT + size_bytes
    return end if size_bytes and end < len(document) else 0


def _salt(namespace: Namespace) -> bytes:
    return f"{namespace.db}\0{namespace.coll}\0".encode()
