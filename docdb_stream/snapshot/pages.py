"""The pages of a snapshot, from their reading to their delivery: which documents of them no change has named.

Owns the order between a snapshot and its stream. A page is read at a position: everything up to there has been handed
over. What it shows is as old as its ``read_at`` at most. So it is delivered once the stream has come past that, without
the documents that a change after the position names: those are the stream's. What comes after is later than all of the
page. Asks no server and has no thread. See docs/snapshot.md.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from bson import Timestamp

from docdb_stream.errors import UnrenderableError
from docdb_stream.events import ChangeEvent, Events
from docdb_stream.formats import rawbson
from docdb_stream.position import Namespace, Position, SnapshotProgress, SnapshotRange
from docdb_stream.snapshot.keys import Key, keys_of, told_by
from docdb_stream.snapshot_event import SnapshotEvents, id_elements
from docdb_stream.source import Page

PAGE_BYTES: Final = 1024 * 1024
"""BSON bytes of one page that are aimed at: a page holds the stream up for as long as its targets take to accept it."""

LAG_SHARE: Final = 0.1
"""No page is read while the stream is further behind than this share of the change log's retention."""


_OF_COLLECTIONS: Final = frozenset({"drop", "dropDatabase", "rename"})


@dataclass(slots=True, eq=False)
class Reading:
    """A page that is being read, or waits for the stream.

    Attributes:
        range: What is read of.
        since: Everything up to here has been handed over, and no document that was looked up for it is newer.
        limit: How many documents are asked for.
    """

    range: SnapshotRange
    since: Timestamp | None
    limit: int
    _part: _Part
    _named: set[Key] = field(default_factory=set)
    _unsettled: set[Key] = field(default_factory=set)
    _read_at: Timestamp | None = None
    _rest: SnapshotRange | None = None
    _elements: Sequence[bytes] = ()
    _keys: Sequence[Key] = ()
    _raws: Sequence[bytes] = ()
    _size_bytes: int = 0


@dataclass(slots=True, eq=False)
class _Part:
    """A range: as it is delivered, and what is on its way."""

    range: SnapshotRange
    readings: deque[Reading] = field(default_factory=deque)
    mean_bytes: float = 1024.0

    @property
    def ahead(self) -> SnapshotRange:
        """The range as it is once everything that was read is delivered."""
        last = self.readings[-1]._rest if self.readings else None
        return self.range if last is None else last

    @property
    def is_being_read(self) -> bool:
        return bool(self.readings) and self.readings[-1]._rest is None


@dataclass(frozen=True, slots=True)
class Delivered:
    """A page that may be delivered now.

    Attributes:
        events: What is left of it.
        size_bytes: Their size.
        targets: The names of those that get them; empty: all.
    """

    events: Events
    size_bytes: int
    targets: tuple[str, ...]


class Pages:
    """The pages of one snapshot in one run. Every method may be called from any thread.

    Args:
        progress: How far the snapshot has come.
        watches: Whether the stream delivers changes of a collection.
        page_documents: How many documents a page has at most.
        max_bytes: Read no further while more BSON bytes than this wait; one page at least is read.
        max_lag_s: Nor while the stream is further behind what was read.
    """

    def __init__(
        self,
        progress: SnapshotProgress,
        watches: Callable[[Namespace], bool],
        *,
        page_documents: int,
        max_bytes: int,
        max_lag_s: float,
    ) -> None:
        assert progress.time is not None
        self._progress = progress
        self._time: Timestamp = progress.time
        self._watches = watches
        self._page_documents = page_documents
        self._max_bytes = max_bytes
        self._max_lag_s = max_lag_s
        self._parts = [*map(_Part, progress.ranges)]
        self._waiting_bytes = 0
        self._position: Position | None = None
        self._newest: Timestamp | None = None
        self._looked_up: Timestamp | None = None
        self._lock = threading.Lock()

    @property
    def progress(self) -> SnapshotProgress:
        """How far it has come by what was delivered, and by what the stream told of its collections."""
        with self._lock:
            return replace(self._progress, ranges=tuple(part.range for part in self._parts))

    def advance(self, ranges: Sequence[SnapshotRange]) -> None:
        """Take over how far workers have come with the ranges."""
        with self._lock:
            for part, found in zip(self._parts, ranges, strict=True):
                part.range = found

    def begin(self) -> Reading | None:
        """The next page to read; None while none may be read. Given back by ``came``."""
        with self._lock:
            if self._position is None or self._waiting_bytes > self._max_bytes or self._lag_s > self._max_lag_s:
                return None
            free = (part for part in self._parts if not (part.is_being_read or part.range.done or part.ahead.done))
            part = next(free, None)
            if part is None:
                return None
            limit = max(1, min(self._page_documents, int(PAGE_BYTES / part.mean_bytes)))
            times = [time for time in (self._position.operation_time, self._looked_up) if time is not None]
            reading = Reading(part.ahead, max(times, default=None), limit, part)
            part.readings.append(reading)
            return reading

    def came(self, reading: Reading, page: Page) -> None:
        """A page is read: what comes after it may be read as well. ``prepare`` has to follow."""
        with self._lock:
            reading._rest = page.rest

    def prepare(self, reading: Reading, page: Page) -> None:
        """Make a page's events; from now on it waits for the stream. Nothing becomes of it where the collection was
        dropped or renamed meanwhile."""
        elements = id_elements(page.documents)
        time = self._progress.time_of(page.rest) or self._time
        raws = SnapshotEvents(self._progress.id, time, page.rest.namespace).all_of(page.documents, elements)
        size_bytes = sum(map(len, raws))
        keys = keys_of(elements)
        with self._lock:
            if reading not in reading._part.readings:
                return
            reading._elements, reading._keys, reading._raws = elements, keys, raws
            reading._size_bytes, reading._read_at = size_bytes, page.read_at
            self._waiting_bytes += size_bytes
            self._newest = max(self._newest or page.read_at, page.read_at)
            if keys:
                reading._part.mean_bytes = size_bytes / len(keys)

    def failed(self, reading: Reading) -> None:
        """It was not read; it may be again."""
        with self._lock:
            if reading in reading._part.readings:
                reading._part.readings.remove(reading)

    def saw(
        self,
        events: Iterable[ChangeEvent],
        position: Position,
        passed: Collection[str] | None = None,
        *,
        read_at: Timestamp | None = None,
    ) -> None:
        """These events are handed over, after which the stream stands at ``position``.

        Args:
            events: As they were read.
            position: After them.
            passed: The ids of those of which the steps have left something; None: all. What they leave out is no news
                to anybody: the page's document is all that a target gets.
            read_at: See ``Batch``. A page that another member of the cluster answers later, but as it was before, would
                show documents older than targets have them.
        """
        with self._lock:
            self._position = position
            if read_at is not None:
                self._looked_up = max(read_at, self._looked_up or read_at)
            # Of ranges that workers have done, too: a rename has them begin again.
            if any(part.readings or not part.range.done or part.range.identity is not None for part in self._parts):
                for event in events:
                    self._see(event, passed)

    def due(self, position: Position, *, is_drained: bool) -> Delivered | None:
        """The next page that may be delivered, where everything up to ``position`` has been handed over; its range goes
        on with the next save. None where there is none.

        Args:
            position: Where the stream stands.
            is_drained: Whether everything of the position's own time has been handed over, too.
        """
        with self._lock:
            self._position = position
            for part in self._parts:
                first = part.readings[0] if part.readings else None
                read_at = first._read_at if first else None
                if read_at is not None and is_past(position, read_at, is_drained=is_drained):
                    return self._taken(part)
            return None

    def _taken(self, part: _Part) -> Delivered:
        reading = part.readings.popleft()
        assert reading._rest is not None
        self._waiting_bytes -= reading._size_bytes
        part.range = replace(reading._rest, documents=part.range.documents + len(reading._raws))
        if part.range.done:
            self._end(part)
        if not reading._unsettled.isdisjoint(reading._keys):
            self._take_back(part, reading)
        if reading._named.isdisjoint(reading._keys):
            return Delivered(Events.of(reading._raws), reading._size_bytes, self._progress.targets)
        raws = [raw for raw, key in zip(reading._raws, reading._keys, strict=True) if key not in reading._named]
        return Delivered(Events.of(raws), sum(map(len, raws)), self._progress.targets)

    def _take_back(self, part: _Part, reading: Reading) -> None:
        """Have a page end before the first document whose change did not say what it is since: it is read again."""
        first = next(place for place, key in enumerate(reading._keys) if key in reading._unsettled)
        self._forget(part)
        after = reading.range.after if not first else rawbson.joined([reading._elements[first - 1]])
        part.range = replace(part.range, after=after, documents=part.range.documents - len(reading._raws) + first)
        part.mean_bytes = float(PAGE_BYTES)  # by itself: so little changes meanwhile
        reading._keys, reading._raws = reading._keys[:first], reading._raws[:first]
        reading._size_bytes = sum(map(len, reading._raws))

    @property
    def _lag_s(self) -> float:
        time = self._position.operation_time if self._position else None
        return 0.0 if time is None or self._newest is None else float(self._newest.time - time.time)

    def _see(self, event: ChangeEvent, passed: Collection[str] | None) -> None:
        try:
            operation, namespace = event.operation, event.namespace
        except UnrenderableError:
            return  # no change event: it says nothing of any document
        if operation in _OF_COLLECTIONS and event.cluster_time <= self._time:
            return  # the snapshot's collections are those that there were after it
        if operation in ("drop", "dropDatabase"):
            for part in self._parts_in(namespace):
                self._end(part)
        elif operation == "rename":
            self._rename(event, namespace)
        elif event.has_document_key and (passed is None or event.event_id in passed):
            self._name(event, namespace)

    def _parts_in(self, namespace: Namespace) -> list[_Part]:
        return [
            part
            for part in self._parts
            if part.range.namespace.db == namespace.db and namespace.coll in (None, part.range.namespace.coll)
        ]

    def _name(self, event: ChangeEvent, namespace: Namespace) -> None:
        parts = [part for part in self._parts_in(namespace) if part.readings]
        if not parts:
            return
        try:
            key, says_all = told_by(event)
        except UnrenderableError:  # it may be any of them
            for part in parts:
                self._forget(part)
            return
        for reading in (reading for part in parts for reading in part.readings):
            (reading._named if says_all else reading._unsettled).add(key)

    def _end(self, part: _Part) -> None:
        self._forget(part)
        part.range = replace(part.range, after=None, until=None, done=True, identity=None)

    def _rename(self, event: ChangeEvent, namespace: Namespace) -> None:
        to = event.document.get("to") or {}
        renamed = Namespace(str(to.get("db")), str(to.get("coll")))
        for part in self._parts_in(renamed):  # what had the name before is dropped
            self._end(part)
        for part in self._parts_in(namespace):
            self._forget(part)
            if self._watches(renamed):
                part.range = replace(part.range, namespace=renamed, renamed_at=event.cluster_time)
                if part.range.identity is not None:
                    # Workers may have read what had the name meanwhile, and what they delivered before may be refused.
                    part.range = replace(part.range, after=part.range.first, done=False, documents=0)
            else:
                self._end(part)

    def _forget(self, part: _Part) -> None:
        """What was read is no more what there is; the range is read again from where it is delivered."""
        self._waiting_bytes -= sum(reading._size_bytes for reading in part.readings)
        part.readings.clear()


def is_past(position: Position, time: Timestamp, *, is_drained: bool) -> bool:
    """Whether everything up to ``time`` comes before the position. Several events can have one cluster time."""
    reached = position.operation_time
    return reached is not None and (reached > time or (reached == time and is_drained))
