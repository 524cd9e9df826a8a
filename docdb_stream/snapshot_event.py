"""The event of a snapshot: a document that was read, in the form of a change.

Owns what it looks like and what it is called. It is an insert with the field ``snapshot``, so that everything that
takes changes takes it. Who reads the documents, and when they may be delivered, is ``snapshot``'s.
"""

from __future__ import annotations

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

_ID_DIGITS: Final = 32


class SnapshotEvents:
    """Makes the events of one collection in one snapshot.

    The same document of the same snapshot has the same id and cluster time each time it is read, whatever is in it.

    Args:
        snapshot: The snapshot's id.
        time: The cluster time of its events, see ``SnapshotProgress``.
        namespace: The collection; it is a collection, no whole database.
    """

    def __init__(self, snapshot: str, time: Timestamp, namespace: Namespace) -> None:
        self._id = f"{PREFIX}{snapshot}/"
        self._digest = sha256(f"{namespace.db}\0{namespace.coll}\0".encode())
        self._middle = bson.encode(
            {"operationType": "insert", "clusterTime": time, "ns": {"db": namespace.db, "coll": namespace.coll}}
        )[4:-1]
        self._end = bson.encode({"snapshot": {"id": snapshot}})[4:-1]

    def of(self, document: bytes) -> bytes:
        """The event of a document, as BSON, with the very bytes of the document.

        Raises:
            UnrenderableError: It has no ``_id``, or is no BSON.
        """
        element = id_element(document)
        digest = self._digest.copy()
        digest.update(element)
        event_id = f"{self._id}{digest.hexdigest()[:_ID_DIGITS]}"
        return rawbson.joined(
            (
                b"\x03_id\0" + rawbson.joined((_text("_data", event_id),)),
                self._middle,
                b"\x03documentKey\0" + rawbson.joined((element,)),
                b"\x03fullDocument\0" + document,
                self._end,
            )
        )


def id_element(document: bytes) -> bytes:
    """The element ``_id`` of a document: type, name and value. Raises UnrenderableError where there is none."""
    if document[5:9] == b"_id\0":  # servers store it first
        return rawbson.first(document)
    try:
        return rawbson.parts(document)["_id"]
    except KeyError:
        raise UnrenderableError("_id: missing in the document") from None


def _text(name: str, text: str) -> bytes:
    encoded = text.encode()
    return b"\x02%b\0%b%b\0" % (name.encode(), (len(encoded) + 1).to_bytes(4, "little"), encoded)
