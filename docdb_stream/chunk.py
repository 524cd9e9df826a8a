"""Events that arrived together, taken apart and rendered together.

Decoding and proving many documents in one call costs up to a third less than one call for each. Chunks are small, so
that what is rendered before somebody asks for it stays small too. Bytes come in, bytes go out: nothing decoded is kept.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Final

from docdb_stream import encoding
from docdb_stream.envelope import Envelope, Envelopes, open_envelopes

CHUNK_EVENTS = 64
"""Measured: 256 gain no more than 64 (bench/NOTES.md)."""
CHUNK_BYTES = 64 * 1024
"""BSON bytes of a chunk with more than one event: decoded, they are several times as large for a moment."""


class Chunk:
    """Some events, by their places.

    Attributes:
        raws: Their BSON.
        envelopes: What surrounds the documents of each event; None where that could not be told.
        extended_json: Each event as Extended JSON; None where that takes a closer look at it.
        document_json: Each event as the AWS sample's payload; None where there is no full document, or it takes a
            closer look.
        full_document_json: The full document of each event as plain JSON; None where there is none, or it takes a
            closer look.

    Args:
        raws: Their BSON.
    """

    __slots__ = ("_lock", "_opened", "document_json", "envelopes", "extended_json", "full_document_json", "raws")

    envelopes: list[Envelope | None]
    extended_json: list[bytes | None]
    document_json: list[bytes | None]
    full_document_json: list[bytes | None]

    def __init__(self, raws: Sequence[bytes]) -> None:
        self.raws = raws
        self._opened: list[Envelopes] | None = None
        self._lock = threading.Lock()

    def __getattr__(self, name: str) -> Any:
        """Find out, for all events, what is asked for the first time."""
        find = _FIND.get(name)
        if find is None:
            raise AttributeError(name)
        with self._lock:  # targets ask at the same time, and each would do all of it
            try:
                return object.__getattribute__(self, name)
            except AttributeError:
                found: list[Any] = [None] * len(self.raws)
                for events in self._open():
                    for place, one in zip(events.places, find(events), strict=False):
                        found[place] = one
                setattr(self, name, found)
                return found

    def _open(self) -> list[Envelopes]:
        if self._opened is None:
            self._opened = open_envelopes(self.raws)
        return self._opened


_FIND: Final[dict[str, Callable[[Envelopes], Iterable[Any]]]] = {
    "envelopes": Envelopes.envelopes,
    "extended_json": lambda events: events.extended_json(encoding.extended_json_all(events.documents)),
    "document_json": Envelopes.document_json,
    "full_document_json": lambda events: encoding.plain_json_all(events.full_documents),
}


def chunks(raws: Sequence[bytes]) -> Iterator[Chunk]:
    """The events in chunks, in order."""
    start = size = 0
    for place, raw in enumerate(raws):
        if place > start and (place - start >= CHUNK_EVENTS or size + len(raw) > CHUNK_BYTES):
            yield Chunk(raws[start:place])
            start, size = place, 0
        size += len(raw)
    if start < len(raws):
        yield Chunk(raws[start:])
