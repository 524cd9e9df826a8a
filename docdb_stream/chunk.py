"""Events that arrived together, taken apart and rendered together.

Decoding and proving many documents in one call costs up to a third less than one call for each. Chunks are small, so
that what is rendered before somebody asks for it stays small too. Bytes come in, bytes go out: nothing decoded is kept.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence

from docdb_stream import encoding
from docdb_stream.envelope import Envelope, Envelopes, open_envelopes

CHUNK_EVENTS = 64
"""Measured: 256 gain no more than 64 (bench/NOTES.md)."""
CHUNK_BYTES = 64 * 1024
"""BSON bytes of a chunk with more than one event: decoded, they are several times as large for a moment."""


class Chunk:
    """Some events, by their places.

    Args:
        raws: Their BSON.
    """

    __slots__ = ("_envelopes", "_extended", "_lock", "_opened", "_plain", "raws")

    def __init__(self, raws: Sequence[bytes]) -> None:
        self.raws = raws
        self._lock = threading.Lock()
        self._opened: list[Envelopes] | None = None
        self._envelopes: list[Envelope | None] | None = None
        self._extended: list[bytes | None] | None = None
        self._plain: list[bytes | None] | None = None

    def envelope(self, place: int) -> Envelope | None:
        """What surrounds the documents of an event; None where that could not be told."""
        if self._envelopes is None:
            with self._lock:
                self._envelopes = self._envelopes or self._find_envelopes()
        return self._envelopes[place]

    def extended_json(self, place: int) -> bytes | None:
        """An event as Extended JSON; None where that takes a closer look at it."""
        if self._extended is None:
            with self._lock:  # targets ask at the same time, and each would do all of it
                self._extended = self._extended or self._render_extended()
        return self._extended[place]

    def full_document_json(self, place: int) -> bytes | None:
        """The full document of an event as plain JSON; None where there is none, or it takes a closer look."""
        if self._plain is None:
            with self._lock:
                self._plain = self._plain or self._render_plain()
        return self._plain[place]

    def _open(self) -> list[Envelopes]:
        if self._opened is None:
            self._opened = open_envelopes(self.raws)
        return self._opened

    def _find_envelopes(self) -> list[Envelope | None]:
        found: list[Envelope | None] = [None] * len(self.raws)
        for events in self._open():
            for place, envelope in zip(events.places, events.envelopes(), strict=True):
                found[place] = envelope
        return found

    def _render_extended(self) -> list[bytes | None]:
        found: list[bytes | None] = [None] * len(self.raws)
        for events in self._open():
            rendered = encoding.extended_json_all(events.documents)
            for place, json in zip(events.places, events.extended_json(rendered), strict=True):
                found[place] = json
        return found

    def _render_plain(self) -> list[bytes | None]:
        found: list[bytes | None] = [None] * len(self.raws)
        for events in self._open():
            rendered = encoding.plain_json_all(events.full_documents)
            for place, json in zip(events.places, rendered, strict=False):
                found[place] = json
        return found


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
