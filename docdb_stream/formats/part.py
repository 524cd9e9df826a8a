"""A part of a batch: some events that are decoded once, together, whatever is asked of them.

Decoding, proving and rendering many events in one call each costs a good part less than a call for each of them. Parts
are small, so that what is decoded for a moment stays small, too. What is kept is what was found: facts, and bytes.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, Protocol, TypeVar

from docdb_stream.errors import UnrenderableError, surely
from docdb_stream.formats.decoded import Decoded, decode_all
from docdb_stream.formats.facts import FACTS, Facts

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class Reading(Protocol[T_co]):
    """What can be found in decoded events: a ``Format``, or what says by ``finds`` that it finds something else than
    bytes, as ``FACTS`` does, and a step that judges events."""

    def render(self, decoded: Decoded) -> Sequence[T_co | UnrenderableError]:
        """One result for each event; see ``Format``."""
        ...


PART_EVENTS: Final = 64
"""Measured: 256 gain no more than 64 (bench/NOTES.md)."""
PART_BYTES: Final = 64 * 1024
"""BSON bytes of a part with more than one event: decoded, they are several times as large for a moment."""


class Part:
    """Some events, by their places.

    Attributes:
        raws: Their BSON.
        facts: What ``FACTS`` finds, once it was asked for.

    Args:
        raws: Their BSON.
        document: Instead, the one event where it is known only decoded.
    """

    __slots__ = ("_document", "_found", "_lock", "_wanted", "facts", "raws")

    def __init__(self, raws: Sequence[bytes], document: Mapping[str, Any] | None = None) -> None:
        self.raws = raws
        self._document = document
        self._lock = threading.Lock()
        self._wanted: Iterable[Reading[Any]] = ()
        self._found: dict[Reading[Any], Sequence[Any]] = {}
        self.facts: Sequence[Facts | UnrenderableError] | None = None

    def want(self, readings: Iterable[Reading[Any]]) -> None:
        """Say what will be asked for: it is all found when the first of it is, from one decoding."""
        self._wanted = readings

    def find(self, reading: Reading[T]) -> Sequence[T | UnrenderableError]:
        """What a format, or ``FACTS``, makes of each event, or why it makes nothing."""
        found = self._found.get(reading)
        if found is None:
            with self._lock:  # targets ask at the same time, and each would do all of it
                if reading not in self._found:
                    self._decode((reading, *self._wanted))
            found = self._found[reading]
        return found

    def only(self, places: Sequence[int]) -> Part:
        """The part with the events of these places alone; what was found for them is kept. Itself where it has no
        others."""
        if [*places] == [*range(len(self.raws))]:
            return self
        part = Part([self.raws[place] for place in places])
        with self._lock:
            part._wanted = self._wanted
            part._found = {reading: [found[place] for place in places] for reading, found in self._found.items()}
        part.facts = part._found.get(FACTS)
        return part

    def _decode(self, readings: Iterable[Reading[Any]]) -> None:
        decoded = decode_all(self.raws) if self._document is None else [Decoded((), (dict(self._document),))]
        for reading in readings:
            if reading not in self._found:
                self._found[reading] = [one for events in decoded for one in _find(reading, events)]
        self.facts = self._found.get(FACTS)


def parts(raws: Sequence[bytes]) -> Iterator[Part]:
    """The events in parts, in order."""
    start = size = 0
    for place, raw in enumerate(raws):
        if place > start and (place - start >= PART_EVENTS or size + len(raw) > PART_BYTES):
            yield Part(raws[start:place])
            start, size = place, 0
        size += len(raw)
    if start < len(raws):
        yield Part(raws[start:])


def _find(reading: Reading[T], decoded: Decoded) -> Sequence[T | UnrenderableError]:
    """What a reading makes of each event; what goes wrong with many is looked for in each alone."""
    is_format = reading is not FACTS  # type: ignore[comparison-overlap]
    if decoded.problem and is_format:
        return [UnrenderableError(decoded.problem)]
    try:
        found = surely(lambda: [*reading.render(decoded)])
        finds: type = getattr(reading, "finds", bytes)
        if len(found) == len(decoded.documents) and {finds, UnrenderableError}.issuperset(map(type, found)):
            return found
        error = UnrenderableError(
            f"cannot be rendered: its format gives something else than {finds.__name__} for each event"
        )
    except UnrenderableError as raised:
        error = raised.with_traceback(None)
    if len(decoded.documents) == 1:
        return [error]
    return [one for alone in decoded.each for one in _find(reading, alone)]
