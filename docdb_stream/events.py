"""Events that came together, the batch in which they are read, and the rejection of one.

Owns that events stay together on their way, so that they are decoded once, whatever is asked of them. Does not read,
deliver or save.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import compress, groupby
from typing import TYPE_CHECKING, Any, TypeVar, overload

from bson import Timestamp

from docdb_stream.errors import UnrenderableError
from docdb_stream.event import ChangeEvent
from docdb_stream.formats.part import Part, Reading, parts
from docdb_stream.position import Namespace, Position, ResumeToken, scope_name

if TYPE_CHECKING:
    from docdb_stream.format import Format

__all__ = [
    "Batch",
    "ChangeEvent",
    "Events",
    "Namespace",
    "Position",
    "Rejection",
    "ResumeToken",
    "fitting",
    "scope_name",
]

T = TypeVar("T")

_looking = threading.Lock()


class Events(Sequence[ChangeEvent]):
    """Events in their order. Those made by ``of`` are decoded and rendered together, a part of them at a time.

    Args:
        events: The events; those that are together already stay so.
    """

    __slots__ = ("_events", "_parts", "_size")

    def __init__(self, events: Iterable[ChangeEvent] = ()) -> None:
        self._events: list[ChangeEvent] | None = [*events]
        self._parts: list[Part] | None = None
        self._size = len(self._events)

    @classmethod
    def of(cls, raws: Sequence[bytes]) -> Events:
        """The events with these bytes. Nothing is decoded before it is asked for."""
        return cls._of([*parts(raws)])

    @classmethod
    def _of(cls, together: list[Part]) -> Events:
        events = cls.__new__(cls)
        events._events, events._parts = None, together
        events._size = sum(len(part.raws) for part in together)
        return events

    @property
    def are_as_read(self) -> bool:
        """Whether all of them are known to be as they were read: none was made by a step."""
        return self._parts is not None

    @property
    def _each(self) -> list[ChangeEvent]:
        if self._events is None:
            with _looking:  # there is one of each event, whichever target looks first
                self._events = self._events or [
                    event for part in self._parts or () for event in ChangeEvent.all_in(part)
                ]
        return self._events

    @overload
    def __getitem__(self, index: int) -> ChangeEvent: ...
    @overload
    def __getitem__(self, index: slice) -> Events: ...
    def __getitem__(self, index: int | slice) -> ChangeEvent | Events:
        return Events(self._each[index]) if isinstance(index, slice) else self._each[index]

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[ChangeEvent]:
        return iter(self._each)

    def __eq__(self, other: object) -> bool:
        return self._each == [*other] if isinstance(other, Sequence) else NotImplemented

    __hash__ = None  # type: ignore[assignment]

    @property
    def raws(self) -> list[bytes]:
        """The BSON of all that came as BSON; nothing is looked at one by one for it."""
        if self._parts is not None:
            return [raw for part in self._parts for raw in part.raws]
        return [event.raw for event in self._each if event.raw is not None]

    def want(self, formats: Sequence[Reading[Any]]) -> None:
        """Say which formats will be asked for, ``FACTS`` among them: one decoding does for all of them then."""
        for part in self._parts or dict.fromkeys(event.part for event in self._each):
            part.want(formats)

    def render(self, payload_format: Format) -> list[bytes | UnrenderableError]:
        """Each event in a format, or why the format cannot say it."""
        return self.find(payload_format)

    def find(self, reading: Reading[T]) -> list[T | UnrenderableError]:
        """What a reading finds in each event, or why it finds nothing."""
        if self._parts is not None:
            return [one for part in self._parts for one in part.find(reading)]
        return [event.part.find(reading)[event.index] for event in self._each]

    def only(self, kept: Sequence[bool]) -> Events:
        """Those of the events that are to stay: the same object where all are. What was decoded for the others is not
        rendered any more, and what was found for these is not looked for again."""
        if all(kept):
            return self
        if self._parts is None and any(event.raw is None for event in self._each):
            return Events(compress(self._each, kept))
        together, start = [], 0
        for part, places in self._places():
            stay = [*compress(places, kept[start : start + len(places)])]
            start += len(places)
            if stay:
                together.append(part.only(stay))
        return Events._of(together)

    def _places(self) -> Iterator[tuple[Part, Sequence[int]]]:
        """The parts in order, and which of their events these are."""
        if self._parts is not None:
            yield from ((part, range(len(part.raws))) for part in self._parts)
            return
        for _, events in groupby(self._each, lambda event: id(event.part)):
            together = [*events]
            yield together[0].part, [event.index for event in together]


@dataclass(frozen=True, slots=True)
class Rejection:
    """An event that somebody will never take, however often it is sent.

    Attributes:
        event: The event itself; it goes to the dead letters.
        target: Who refused it: the target's name, a step's name, or ``source`` for what the cluster cannot send.
        reason: The verdict in one line (size and limit, or the service's error), without the document's content.
    """

    event: ChangeEvent
    target: str
    reason: str


@dataclass(frozen=True, slots=True)
class Batch:
    """Up to BATCH_SIZE change events in the server's order, fewer when they are large, and the position after them.

    A batch may be empty and still move the position: the server said that nothing happened until then.

    Attributes:
        events: The events, possibly none.
        position: Where the stream stands once they are delivered.
        size_bytes: Their size as BSON.
        quiet: The server had nothing to say for several full waits in a row.
        rejected: Events before the position whose content the server cannot send: what can be known of them, for the
            dead letters.
        gap: What is missing before the position, and why; for the ledger. None when nothing is.
        drained: The server has looked for more up to the position, and there was none.
        read_at: The cluster's operation time of the answer: documents that were looked up for these events are no newer
            than that. None: the server did not say.
    """

    events: Sequence[ChangeEvent]
    position: Position
    size_bytes: int = 0
    quiet: bool = False
    rejected: Sequence[Rejection] = ()
    gap: str | None = None
    drained: bool = False
    read_at: Timestamp | None = None

    def split(self, limit_bytes: int | None) -> tuple[Batch, Batch | None]:
        """The first events, so many as have ``limit_bytes`` together and one at least, and what is left, or None."""
        if limit_bytes is None or self.size_bytes <= limit_bytes:
            return self, None
        count = fitting(self.events, limit_bytes)
        if count >= len(self.events):
            return self, None
        first, last = self.events[:count], self.events[count - 1]
        # Alone: those it came with are decoded once it is known what is asked of them.
        last = ChangeEvent(last.raw, document=last.document)
        ended = last.operation == "invalidate"
        position = Position.at_token(last.token, time=last.cluster_time, after_invalidate=ended)
        size_bytes = sum(event.size_bytes for event in first)
        rest = replace(self, events=self.events[count:], size_bytes=self.size_bytes - size_bytes)
        return Batch(first, position, size_bytes, read_at=self.read_at), rest


def fitting(events: Sequence[ChangeEvent], limit_bytes: int) -> int:
    """How many of the first events have ``limit_bytes`` together: one at least, where there is one."""
    size_bytes = 0
    for count, event in enumerate(events):
        size_bytes += event.size_bytes
        if count and size_bytes > limit_bytes:
            return count
    return len(events)
