"""Dead letters in a file, as JSON Lines."""

from __future__ import annotations

import datetime as dt
import json
import logging
import math
import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from docdb_stream.appending import lock, make_entry_durable, write_all
from docdb_stream.dead_letters import Letter, letter, letter_from_json
from docdb_stream.errors import StateStoreError
from docdb_stream.retry import Backoff
from docdb_stream.target import Rejection

logger = logging.getLogger(__name__)

T = TypeVar("T")


class FileDeadLetters:
    """Dead letters appended to a file as JSON Lines. A letter that was delivered after all stays, with a line after it
    that says so: nothing is ever rewritten, so a run may add letters meanwhile, and a crash loses none. Several
    processes may write to one file.

    Args:
        path: The file; its folder must exist. It may be a pipe or a device, which nothing can be read from again.
    """

    def __init__(self, path: str) -> None:
        self._path = Path(path)

    def write(self, stream: str, rejections: Sequence[Rejection]) -> None:
        """See DeadLetters."""
        if rejections:
            self._append([letter(stream, each, content_bytes=math.inf) for each in rejections])

    def letters(self, stream: str | None = None) -> Iterator[Letter]:
        """See DeadLetters. A line that a crash has torn is passed over: what it was of, is written again."""
        kept: dict[str, Letter] = {}
        for line in self._lines():
            found = letter_from_json(line)
            if found is not None:
                kept[found["id"]] = found
            elif (removed := _removed(line)) is not None:
                kept.pop(removed, None)
            elif line.strip():
                logger.warning("dead letters: a line of %s is torn", self._path)
        yield from (found for found in kept.values() if stream in (None, found["stream"]))

    def remove(self, letter: Letter) -> None:
        """See DeadLetters."""
        self._append([{"removed": letter["id"], "removed_at": dt.datetime.now(dt.UTC).isoformat()}])

    def _lines(self) -> Iterator[bytes]:
        try:
            if self._path.is_file() or self._path.is_dir():  # reading a pipe or a terminal would wait for ever
                with self._path.open("rb") as file:
                    yield from file
        except OSError as error:
            raise self._trouble(error) from error

    def _append(self, lines: Sequence[Mapping[str, Any]]) -> None:
        text = b"".join(json.dumps(line).encode() + b"\n" for line in lines)
        try:
            is_new = not self._path.exists()
            with open(os.open(self._path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o666), "wb", buffering=0) as file:
                if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                    write_all(file.fileno(), text)
                    return
                _lock_patiently(file.fileno())  # another process's line in the making would look torn
                size_bytes = os.fstat(file.fileno()).st_size
                if size_bytes and os.pread(file.fileno(), 1, size_bytes - 1) != b"\n":
                    text = b"\n" + text  # a crash tore the last line; it must not spoil the next one
                write_all(file.fileno(), text)
                os.fsync(file.fileno())
            if is_new:
                make_entry_durable(self._path)
        except (OSError, ValueError) as error:  # ValueError: the path holds a NUL
            raise self._trouble(error) from error

    def _trouble(self, error: OSError | ValueError) -> StateStoreError:
        return StateStoreError(
            f"dead letters: {self._path}: {getattr(error, 'strerror', None) or error}",
            hint="check DEAD_LETTERS: its folder must exist, may be written to, and has room",
        )


def _removed(line: bytes) -> str | None:
    """The id of the letter that a line says is removed; None where it says something else."""
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return found["removed"] if isinstance(found, dict) and isinstance(found.get("removed"), str) else None


def _lock_patiently(descriptor: int) -> None:
    """Wait for whoever has the file, as long as trouble is waited for."""
    backoff = Backoff()
    while True:
        try:
            lock(descriptor)
            return
        except BlockingIOError:
            if not backoff.wait():
                raise
