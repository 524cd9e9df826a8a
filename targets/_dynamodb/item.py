"""An item as a change leaves it, and the request that writes it, unless something newer is there.

Owns the attributes that the target adds, and the condition.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import bson

from docdb_stream.errors import UnrenderableError
from docdb_stream.events import ChangeEvent
from docdb_stream.formats import rawbson
from docdb_stream.formats.decoded import DECODE_OPTIONS
from docdb_stream.targets._aws.attributes import Attribute, attribute_map, size_bytes
from docdb_stream.targets._aws.sender import Limits, Record

ITEM_BYTES: Final = 400 * 1024
"""DynamoDB developer guide, "Constraints": an item with the names of its attributes."""
LIMITS: Final = Limits(1, ITEM_BYTES, ITEM_BYTES)
"""PutItem takes one item; requests of several take no conditions, or cost twice as much (TransactWriteItems)."""

VERSION, SOURCE, DELETED, EXPIRES = "_version", "_source", "_deleted", "_expires"
PREFIX: Final = "docdb-stream:"
"""How ids begin that are the target's own."""
OWN: Final = frozenset({VERSION, SOURCE, DELETED, EXPIRES})
"""The attributes that the target adds beside the key."""


@dataclass(frozen=True, slots=True)
class Item:
    """A document as a change has left it.

    Attributes:
        event: The event that says so.
        table: The table.
        key: The name of the table's key.
        id: The document's ``_id`` as text.
        version: When it changed, see ``document_version``.
        source: The collection, as ``db.coll``.
        attributes: What it is since; None where it was deleted.
        expires_s: Until when its tombstone stays, in seconds since 1970; of no account where there is a document.
    """

    event: ChangeEvent
    table: str
    key: str
    id: str
    version: int
    source: str
    attributes: Mapping[str, Attribute] | None
    expires_s: int

    @property
    def record(self) -> Record:
        """What a sender sends. Items of one key are written one after the other."""
        whole: dict[str, Attribute] = {
            **(self.attributes or {}),
            self.key: {"S": self.id},
            VERSION: {"N": str(self.version)},
            SOURCE: {"S": self.source},
        }
        if self.attributes is None:
            whole[DELETED] = {"BOOL": True}
            whole[EXPIRES] = {"N": str(self.expires_s)}
        request: dict[str, Any] = {
            "TableName": self.table,
            "Item": whole,
            # Of an equal version the later in order wins. What has no version is nobody's, or not there.
            "ConditionExpression": "attribute_not_exists(#v) OR NOT attribute_type(#v, :n) OR #v <= :v",
            "ExpressionAttributeNames": {"#v": VERSION},
            "ExpressionAttributeValues": {":v": whole[VERSION], ":n": {"S": "N"}},
        }
        return Record(self.event, f"{self.table}/{self.id}", size_bytes(whole), request)


def floor_id(source: str) -> str:
    """The id of what says since when a collection is another one, or gone: a tombstone among its documents."""
    return f"{PREFIX}since:{source}"


def floors_of(items: Iterable[Item]) -> dict[str, list[str]]:
    """By tables, the ids of ``floor_id`` of all collections that items are of."""
    found: dict[str, dict[str, None]] = {}
    for each in items:
        found.setdefault(each.table, {})[floor_id(each.source)] = None
    return {table: [*ids] for table, ids in found.items()}


def version_of(item: Mapping[str, Attribute]) -> int:
    """The version of what is there; 0 where it has none."""
    text = item.get(VERSION, {}).get("N", "")
    return int(text) if text.isdecimal() else 0


def newest(items: Iterable[Item]) -> list[Item]:
    """Of each document the last, in the order of these. A snapshot's is older than a change before it."""
    found: dict[tuple[str, str], Item] = {}
    for each in items:
        place = each.table, each.id
        before = found.get(place)
        if before is None or each.version >= before.version:
            found.pop(place, None)
            found[place] = each
    return [*found.values()]


def attributes_of(event: ChangeEvent, key: str) -> dict[str, Attribute] | None:
    """The attributes of the event's full document, without an ``_id`` whose text is the table's key; None where there
    is no full document.

    Raises:
        UnrenderableError: It cannot be told exactly, DynamoDB has no place for it, or it has an attribute of the
            target's own. The reason does not say a value.
    """
    raw = event.raw or bson.encode(event.document, codec_options=DECODE_OPTIONS)
    span = rawbson.elements(raw).get("fullDocument")
    if span is None or span[0] == span[1]:  # null
        return None
    found = attribute_map(rawbson.read(raw[slice(*span)]))
    if key == "_id":
        found.pop(key, None)
    taken = sorted(found.keys() & (OWN | {key}))
    if taken:
        raise UnrenderableError(
            f"{taken[0]}: an attribute of the target's own has this name; let the step fields leave it out or rename it"
        )
    return found


def document_of(item: Mapping[str, Attribute], key: str) -> dict[str, Attribute]:
    """What of an item is the document's: the opposite of ``Item.record``."""
    return {name: value for name, value in item.items() if name != key and name not in OWN}
