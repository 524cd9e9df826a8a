"""JSON Lines: a file of events, one JSON object a line (https://jsonlines.org)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final


class JsonLines:
    """Events whose format is JSON of one line, each followed by a newline. Such files can be put one after another."""

    name = "jsonl"
    suffix = ".jsonl"

    def writer(self, write: Callable[[bytes], object]) -> JsonLinesWriter:
        """See ``FileFormat``."""
        return JsonLinesWriter(write)


class JsonLinesWriter:
    """Writes whole lines, as many at a time as it is given."""

    def __init__(self, write: Callable[[bytes], object]) -> None:
        self._write = write

    def append(self, payloads: Sequence[bytes]) -> None:
        """See ``FileWriter``."""
        if payloads:
            self._write(b"\n".join([*payloads, b""]))

    def finish(self) -> None:
        """Nothing: a file of lines has no end of its own."""


JSONL: Final = JsonLines()
