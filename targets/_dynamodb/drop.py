"""What becomes of the items of a collection that was dropped, or renamed: they are written as its documents are.

A dropped collection's items become tombstones of the drop's version, so that no replay brings one back.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from docdb_stream.targets._aws.attributes import Attribute
from docdb_stream.targets._dynamodb.item import DELETED, SOURCE, VERSION, Item, document_of
from docdb_stream.targets._dynamodb.tables import Tables

_OLDER: Final = "#s = :s AND #v < :v AND attribute_not_exists(#d)"
"""What was written at the version itself is what another attempt at the same has moved."""


def older(tables: Tables, old: Item) -> Iterator[list[dict[str, Attribute]]]:
    """The documents of a collection that are older, some at a time: all of the table is read for that. Raises
    TargetError.

    Args:
        tables: Where they are.
        old: As ``dropped`` has it.
    """
    options: dict[str, Any] = {
        "FilterExpression": _OLDER,
        "ExpressionAttributeNames": {"#s": SOURCE, "#v": VERSION, "#d": DELETED},
        "ExpressionAttributeValues": {":s": {"S": old.source}, ":v": {"N": str(old.version)}},
    }
    return tables.pages(old.table, **options)


def dropped(item: dict[str, Attribute], old: Item) -> Item:
    """The tombstone of a document whose collection is gone.

    Args:
        item: What is there.
        old: Of the event, the table, the collection and the version of the drop; without an id.
    """
    return Item(old.event, old.table, old.key, item[old.key]["S"], old.version, old.source, None, old.expires_s)


def moved(item: dict[str, Attribute], new: Item) -> Item:
    """A document in its collection's new place. Arguments as those of ``dropped``."""
    document = document_of(item, new.key)
    return Item(new.event, new.table, new.key, item[new.key]["S"], new.version, new.source, document, 0)
