"""How far a snapshot's documents are committed: stretches of collections, in the order of ``_id``.

Owns what is sure of that order without the server, since a wrong answer would lose a document, and how far each range
of a snapshot has come after a checkpoint. Where that is kept is ``receipt``'s.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Final

from bson import Int64

from docdb_stream.errors import UnrenderableError
from docdb_stream.events import ChangeEvent
from docdb_stream.formats import rawbson
from docdb_stream.position import Namespace, SnapshotProgress, SnapshotRange
from docdb_stream.query.compare import compare
from docdb_stream.query.values import BINARY, BOOLEAN, DATE, NUMBER, OBJECT_ID, STRING, TIMESTAMP, bracket, read
from docdb_stream.snapshot_event import PREFIX, id_element, is_of

_SURE: Final = frozenset({NUMBER, BINARY, OBJECT_ID, BOOLEAN, DATE, TIMESTAMP})
"""Types whose values every collection has in one order. Strings, and documents, which can hold some, are ordered by the
collection's collation, of which events tell nothing."""
_INTEGERS: Final = frozenset({b"\x10", b"\x12"})
_FIRST: Final[Rank] = (-2, None)
_LAST: Final[Rank] = (128, None)
"""Before and after every key's rank."""
_ENDINGS_MOST: Final = 8


def order(left: bytes, right: bytes) -> int | None:
    """Below 0, 0 or above 0, as the server has a key (the BSON of ``{_id: value}``) before another one, takes them for
    the same, or has it after; None where that is not sure."""
    if left == right:
        return 0
    own_rank, other_rank = _rank(left), _rank(right)
    if own_rank and other_rank:
        return (own_rank > other_rank) - (own_rank < other_rank)
    try:
        own, other = _value(left), _value(right)
        brackets = bracket(own), bracket(other)
    except UnrenderableError:
        return None
    if brackets[0] != brackets[1]:
        return brackets[0] - brackets[1]
    return compare(own, other) if brackets[0] in _SURE else None


@lru_cache(64)
def _value(key: bytes) -> Any:
    return read(key)["_id"]


Rank = tuple[int, Any]
"""Bracket and value of an ObjectId or an integer: the commonest keys, whose ranks are in their order."""


def _rank(key: bytes) -> Rank | None:
    kind = key[4:5]
    if kind == b"\x07":
        return OBJECT_ID, key[9:21].hex()
    return (NUMBER, int.from_bytes(key[9:-1], "little", signed=True)) if kind in _INTEGERS else None


def _rank_of(event: ChangeEvent) -> Rank | None:
    """The rank of its key, without reading its bytes; that of any string is one before all others of them."""
    if event.object_id:
        return OBJECT_ID, event.object_id
    try:
        value = event.exact_id
    except UnrenderableError:
        return None
    if type(value) is str:
        return STRING, ""
    return (NUMBER, int(value)) if type(value) in (int, Int64) else None


def _is_hidden(rank: Rank, later: Rank) -> bool:
    """Whether what has this rank says nothing once it is known that what has the other one has come after it."""
    return rank < later or (rank == later and rank[0] == STRING)


def _is_after(key: bytes, other: bytes | None) -> bool:
    """Whether it surely is; None is before every key."""
    return other is None or (order(key, other) or 0) > 0


def _is_up_to(key: bytes, other: bytes | None) -> bool:
    """Whether it surely is; None is after every key."""
    if other is None:
        return True
    found = order(key, other)
    return found is not None and found <= 0


@dataclass(frozen=True, slots=True)
class Stretch:
    """Says that of a collection's documents in a snapshot all from one key to another are committed, or are the
    stream's, because they have changed since they were read.

    Attributes:
        namespace: The collection.
        after: The key that it begins after; None: at the collection's beginning.
        last: The last key, which belongs to it.
        endings: Of what was made of the last one's event: how the ids end of those that are committed. It has none
            itself.
    """

    namespace: Namespace
    after: bytes | None
    last: bytes
    endings: tuple[str, ...] = ("",)

    def has(self, key: bytes, ending: str) -> bool:
        """Whether what has this key and ending surely belongs to it."""
        if not (_is_after(key, self.after) and _is_up_to(key, self.last)):
            return False
        return ending in self.endings or order(key, self.last) != 0

    def concerns(self, range: SnapshotRange) -> bool:
        """Whether some of it may still come of a range."""
        if range.done or range.namespace != self.namespace:
            return False
        is_passed = range.after is not None and _is_up_to(self.last, range.after)
        is_later = range.until is not None and self.after is not None and _is_up_to(range.until, self.after)
        return not (is_passed or is_later)

    def parts(self) -> list[Any]:
        """It as values of JSON."""
        after = None if self.after is None else _text(self.after)
        return [*self.namespace, after, _text(self.last), *self.endings]

    @classmethod
    def of(cls, parts: Sequence[Any]) -> Stretch:
        """It, of what ``parts`` gave. Raises ValueError or TypeError."""
        db, coll, after, last, *endings = parts
        return cls(Namespace(db, coll), None if after is None else _key(after), _key(last), tuple(endings))


def _text(key: bytes) -> str:
    return b64encode(key[4:5] + key[len(_BEFORE_VALUE) + 5 : -1]).decode().rstrip("=")


def _key(text: str) -> bytes:
    data = b64decode(text + "=" * (-len(text) % 4))
    return rawbson.joined([data[:1] + _BEFORE_VALUE + data[1:]])


_BEFORE_VALUE: Final = b"_id\0"


def joined(older: Iterable[Stretch], newer: Sequence[Stretch]) -> list[Stretch]:
    """Stretches, without the older ones whose end is within a newer one: the newer begins where its range stands."""
    found = [*newer]
    for one in older:
        for index, other in enumerate(found):
            if other.namespace == one.namespace and _is_after(one.last, other.after):
                by_end = order(one.last, other.last)
                if by_end == 0:
                    found[index] = replace(other, endings=(*dict.fromkeys((*one.endings, *other.endings)),))
                if by_end is not None and by_end <= 0:
                    break
        else:
            found.append(one)
    return found


class Reached:
    """How far the ranges of a snapshot have come since a checkpoint.

    Args:
        progress: The snapshot's, as the checkpoint has it; None: it has none.
    """

    def __init__(self, progress: SnapshotProgress | None) -> None:
        self._progress = progress
        self._stretches: dict[int, Stretch] = {}  # by the range's index
        self._recent = -1
        self._ranks: dict[Namespace, list[tuple[int, Rank, Rank]]] = {}  # of ranges whose keys have some
        for index, each in enumerate(progress.ranges if progress else ()):
            after = _FIRST if each.after is None else _rank(each.after)
            until = _LAST if each.until is None else _rank(each.until)
            if not each.done and after and until:
                self._ranks.setdefault(each.namespace, []).append((index, after, until))

    @property
    def snapshot(self) -> str:
        """The snapshot's id; empty: there is none."""
        return self._progress.id if self._progress else ""

    @property
    def stretches(self) -> list[Stretch]:
        """One for each range of which something has come."""
        return [*self._stretches.values()]

    def add(self, events: Sequence[ChangeEvent]) -> None:
        """Know that these events have come, after all others of their ranges. One of which it is not sure to which
        range it belongs, as when a step has given it another key, counts for nothing."""
        if self._progress is None:
            return
        prefix = f"{PREFIX}{self._progress.id}/"
        found = []
        furthest: dict[int, Rank] = {}  # by the range's index
        for event in reversed(events):
            if not event.event_id.startswith(prefix):
                continue
            rank = _rank_of(event)
            index = None if rank is None else self._quick_index(event.namespace, rank)
            if index is not None and rank is not None:
                if index in furthest and _is_hidden(rank, furthest[index]):
                    continue  # nearly all, of which so nothing more has to be found out
                if key_of(event) is not None:
                    furthest[index] = max(rank, furthest.get(index, _FIRST))
            found.append(event)
        for event in reversed(found):
            self._add(event)

    def _add(self, event: ChangeEvent) -> None:
        key = key_of(event)
        index = None if key is None else self._index_of(event.namespace, key)
        if key is None or index is None or self._progress is None:
            return
        self._recent = index
        ending = ending_of(event)
        known = self._stretches.get(index)
        by_end = 1 if known is None else order(key, known.last)
        if known is None or by_end is None or by_end > 0:
            range_ = self._progress.ranges[index]
            self._stretches[index] = Stretch(range_.namespace, range_.after, key, (ending,))
        elif by_end == 0 and len(known.endings) < _ENDINGS_MOST:
            self._stretches[index] = replace(known, endings=(*known.endings, ending))

    def _quick_index(self, namespace: Namespace, rank: Rank) -> int | None:
        for index, after, until in self._ranks.get(namespace, ()):
            if after < rank <= until:
                return index
        return None

    def _index_of(self, namespace: Namespace, key: bytes) -> int | None:
        assert self._progress is not None
        ranges = self._progress.ranges
        if self._recent >= 0 and _holds(ranges[self._recent], namespace, key):
            return self._recent
        return next((index for index, each in enumerate(ranges) if _holds(each, namespace, key)), None)


def _holds(range: SnapshotRange, namespace: Namespace, key: bytes) -> bool:
    if range.done or range.namespace != namespace:
        return False
    return _is_after(key, range.after) and _is_up_to(key, range.until)


def key_of(event: ChangeEvent) -> bytes | None:
    """The key of a snapshot's document; None where the event does not have that of the document it was made of."""
    try:
        document_key = rawbson.element(event.raw or b"", "documentKey")
        element = id_element((document_key or b"")[len(b"\x03documentKey\0") :])
    except UnrenderableError:
        return None
    return rawbson.joined([element]) if is_of(event.event_id, event.namespace, element) else None


def ending_of(event: ChangeEvent) -> str:
    """How the id ends of what a step has made of an event: ``#1``, ``#2``, ..."""
    _, sign, number = event.event_id.partition("#")
    return sign + number
