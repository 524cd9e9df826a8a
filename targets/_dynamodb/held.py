"""What tables hold of a stream, for comparing: see ``held.Holdings``."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

from docdb_stream.errors import UnrenderableError
from docdb_stream.event import ChangeEvent
from docdb_stream.held import Held
from docdb_stream.position import Namespace
from docdb_stream.settings import Settings
from docdb_stream.targets._aws.attributes import Attribute, digest_of
from docdb_stream.targets._dynamodb.item import DELETED, ITEM_BYTES, SOURCE, Item, document_of, version_of
from docdb_stream.targets._dynamodb.tables import Tables
from docdb_stream.targets._versioned import document_key, version_time

_ALL_ITEMS: Final = 100_000
"""Of so many items a sample looks at each."""
_SEGMENT_ITEMS: Final = 100
_MOST_SEGMENTS: Final = 1_000_000
"""API reference, Scan: TotalSegments."""
_LIVE: Final[dict[str, Any]] = {
    "FilterExpression": "attribute_not_exists(#d)",
    "ExpressionAttributeNames": {"#d": DELETED},
}


class DynamoHoldings:
    """See ``Holdings``. Reading takes dynamodb:Scan and dynamodb:BatchGetItem, and costs what reading all of a table
    consistently costs.

    Args:
        settings: The stream.
        tables: The tables.
        item_of: What an event writes.
        table_of: The table of a collection.
        is_own: What is said of what the stream has written; None where it may be there on purpose, after a drop.
    """

    def __init__(
        self,
        settings: Settings,
        tables: Tables,
        *,
        item_of: Callable[[ChangeEvent], Item | None],
        table_of: Callable[[Namespace], str],
        is_own: bool | None,
    ) -> None:
        self._settings = settings
        self._tables = tables
        self._item_of = item_of
        self._table_of = table_of
        self._is_own = is_own

    def expected(self, event: ChangeEvent) -> Held | None:
        """See Holdings."""
        item = self._item_of(event)
        if item is None:
            return None
        if item.record.size_bytes > ITEM_BYTES:
            raise UnrenderableError("larger than an item can be")
        digest = None if item.attributes is None else digest_of(item.attributes)
        return Held(item.table, item.id.encode(), digest, event.cluster_time)

    def place_of(self, namespace: Namespace) -> str | None:
        """See Holdings."""
        return self._table_of(namespace)

    def places(self) -> Mapping[str, Sequence[Namespace]]:
        """See Holdings: none is known of collections that are gone."""
        return {}

    def held(self, place: str) -> Iterator[Held]:
        """See Holdings."""
        for page in self._tables.pages(place, **_LIVE):
            for item in page:
                yield self._held(place, item)

    def sample(self, place: str, count: int) -> Sequence[Held]:
        """See Holdings. Of a large table by chance whole segments, as reading all of it would take long."""
        about = (self._tables.describe(place) or {}).get("ItemCount", 0)  # some hours old
        segments = 1 if about <= _ALL_ITEMS else min(_MOST_SEGMENTS, about // _SEGMENT_ITEMS)
        found: list[Held] = []
        for segment in random.sample(range(segments), min(segments, 1 + count)):
            for page in self._tables.pages(place, Segment=segment, TotalSegments=segments, **_LIVE):
                found += [self._held(place, item) for item in page]
            if len(found) >= count:
                break
        return random.sample(found, min(count, len(found)))

    def look(self, wanted: Sequence[Held]) -> Sequence[Held]:
        """See Holdings."""
        found: dict[tuple[str, bytes], Held] = {}
        for place in dict.fromkeys(each.place for each in wanted):
            ids = list(dict.fromkeys(each.key.decode() for each in wanted if each.place == place))
            for item in self._tables.get(place, ids):
                held = self._held(place, item)
                found[place, held.key] = held
        return [
            found.get((each.place, each.key)) or Held(each.place, each.key, None, None, is_own=False) for each in wanted
        ]

    def id_of(self, held: Held) -> bytes | None:
        """See Holdings."""
        return document_key(held.key.decode())

    def _held(self, place: str, item: Mapping[str, Attribute]) -> Held:
        key = self._tables.key
        is_there = DELETED not in item
        version, source = version_of(item), item.get(SOURCE, {}).get("S", "")
        is_ours = is_there and version and self._settings.watches(Namespace(*source.split(".", 1)))
        return Held(
            place,
            item[key]["S"].encode(),
            digest_of(document_of(item, key)) if is_there else None,
            version_time(version) if version else None,
            self._is_own if is_ours else False,
        )
