"""The schema ledger of a collection: each path that its documents have had, of which types, since when.

Owns what is known, and what is new. Where it is kept is a store's matter, and what becomes of documents that have
something new is ``book``'s.
"""

from __future__ import annotations

import datetime as dt
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, NamedTuple

from bson import Timestamp

from docdb_stream.position import Namespace
from docdb_stream.schema.columns import COLUMNS_MOST, Column, column_name, type_of
from docdb_stream.schema.nested import Nested, nested_columns
from docdb_stream.schema.shape import Shape, key_of, paths_in

logger = logging.getLogger(__name__)

PATHS_MOST: Final = 5_000
"""Paths of one collection that are kept, each counted as often as it has types: with up to a kilobyte each, the ledger
is far below the 16 MB of a document. Documents whose keys are data would have more of them without end."""
HISTORY_MOST: Final = 100
"""Changes of a schema that are kept, the newest."""
ADDED_MOST: Final = 50
"""Paths that are named of one change."""
EVENT_ID_DIGITS: Final = 200
"""Of an event's id that are kept: it can be of megabytes."""
_SHAPES_MOST: Final = 10_000
"""Shapes that are remembered; documents without two of one shape are looked at path by path."""


class Moment(NamedTuple):
    """An event, as far as it is kept: its id, cut, and its cluster time."""

    event_id: str
    time: Timestamp

    @classmethod
    def of(cls, event_id: str, time: Timestamp) -> Moment:
        """The moment of an event."""
        return cls(event_id[:EVENT_ID_DIGITS], time)


@dataclass(slots=True)
class TypeSeen:
    """A type that a path has had.

    Attributes:
        count: In how many documents. After a crash some are counted twice: what is counted need not be exact.
        first: The first of them.
        last: The last of them.
    """

    count: int
    first: Moment
    last: Moment


@dataclass(frozen=True, slots=True)
class SchemaChange:
    """Paths and types that came to a ledger together.

    Attributes:
        version: The ledger's from then on.
        added: Pairs of a path and a type; ADDED_MOST of them at most.
        event: The event that had them first.
        how: ``learned`` by itself, or ``accepted`` by an operator.
        at: When an operator did; else the event's time.
    """

    version: int
    added: tuple[tuple[str, str], ...]
    event: Moment
    how: str = "learned"
    at: dt.datetime | None = None


@dataclass(slots=True)
class Ledger:
    """What is known of one collection's documents. Used by one thread at a time.

    Attributes:
        namespace: The collection.
        version: Grows by one with each change; 0 is a collection of which nothing is known.
        documents: How many were looked at.
        paths: Path -> type -> what is known of it, in the order in which they came first.
        names: Top-level field -> its column's name. One that has none is in ``_raw`` alone.
        history: The changes, oldest first.
        is_full: Whether there were more paths than PATHS_MOST.
    """

    namespace: Namespace
    version: int = 0
    documents: int = 0
    paths: dict[str, dict[str, TypeSeen]] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)
    history: list[SchemaChange] = field(default_factory=list)
    is_full: bool = False
    _known: dict[Shape, tuple[tuple[str, str], ...]] = field(default_factory=dict, repr=False)

    def news(self, shape: Shape) -> Sequence[tuple[str, str]]:
        """The paths and types of a shape that are not known, in its order. A null is never news, nor is a path that
        there is no room for."""
        if shape in self._known:
            return ()
        found = [
            (path, kind)
            for path, kind in dict.fromkeys(paths_in(shape))
            if kind != "null" and kind not in self.paths.get(path, ())
        ]
        return found[: self._room] if found else found

    def learn(self, shape: Shape, event: Moment, *, how: str = "learned", at: dt.datetime | None = None) -> bool:
        """Count a document, and know what it has from now on; whether that is a new version."""
        pairs = self._known.get(shape)
        if pairs is not None:
            self._count(pairs, 1, event, event)
            return False
        pairs = tuple(dict.fromkeys(paths_in(shape)))
        added = self.add(self.news(shape), event, how=how, at=at)
        self._count(pairs, 1, event, event)
        if len(self._known) >= _SHAPES_MOST:
            self._known.clear()
        self._known[shape] = pairs
        return added

    def count(self, shape: Shape, documents: int, first: Moment, last: Moment) -> None:
        """Count documents of a shape of which nothing is new."""
        pairs = self._known.get(shape)
        if pairs is None:
            self.learn(shape, first)
            documents, pairs = documents - 1, self._known[shape]
        if documents:
            self._count(pairs, documents, first, last)

    def add(
        self, pairs: Iterable[tuple[str, str]], event: Moment, *, how: str = "learned", at: dt.datetime | None = None
    ) -> bool:
        """Know these paths and types, and count nothing; whether that is a new version."""
        added: list[tuple[str, str]] = []
        room = self._room
        for path, kind in pairs:
            kinds = self.paths.get(path, {})
            if kind not in kinds and len(added) < room:
                self.paths[path] = kinds
                kinds[kind] = TypeSeen(0, event, event)
                added.append((path, kind))
        if not added:
            return False
        self.version += 1
        self.history.append(SchemaChange(self.version, tuple(added[:ADDED_MOST]), event, how, at))
        del self.history[:-HISTORY_MOST]
        return True

    def columns(self) -> Sequence[Column]:
        """The columns of the collection's tables, in the order in which their fields came first."""
        found = []
        nested = nested_columns(self.paths)
        taken = {name.lower() for name in self.names.values()}
        for path, kinds in self.paths.items():
            name, kind = key_of(path), type_of(kinds)
            if name is None or kind is None:
                continue
            if name not in self.names:
                if len(self.names) >= COLUMNS_MOST:
                    continue
                self.names[name] = column_name(name, taken)
                taken.add(self.names[name].lower())
            found.append(Column(self.names[name], name, *kind, nested=_called(self.names[name], nested.get(name))))
        return found

    def _count(self, pairs: Iterable[tuple[str, str]], documents: int, first: Moment, last: Moment) -> None:
        self.documents += documents
        for path, kind in pairs:
            seen = self.paths.get(path, {}).get(kind)
            if seen is not None:
                seen.count += documents
                seen.last = last
            elif self._room:
                self.paths.setdefault(path, {})[kind] = TypeSeen(documents, first, last)
            else:
                self._is_full_now()

    @property
    def _room(self) -> int:
        """How many more paths, or types of some, are kept."""
        return 0 if self.is_full else max(0, PATHS_MOST - sum(map(len, self.paths.values())))

    def _is_full_now(self) -> None:
        if not self.is_full:
            self.is_full = True
            logger.warning(
                "schema of %s: more than %d paths; those that come now are not told apart, and have no columns. Are "
                "keys of its documents data? FIELDS_KEEP or a TRANSFORM can leave them out",
                self.namespace,
                PATHS_MOST,
            )


def _called(name: str, nested: Nested | None) -> Nested | None:
    return None if nested is None else replace(nested, name=name)
