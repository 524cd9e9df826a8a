"""Events to a local file, one JSON object a line."""

from __future__ import annotations

import errno
import json
import logging
import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Self

from pydantic import Field

from docdb_stream.appending import lock, make_entry_durable, write_all
from docdb_stream.errors import TargetError
from docdb_stream.events import ChangeEvent
from docdb_stream.format import Format
from docdb_stream.formats import format_of
from docdb_stream.formats.jsonl import JSONL
from docdb_stream.settings import Settings, TargetSettings
from docdb_stream.settings.types import OwnFormat
from docdb_stream.target import Rejection
from docdb_stream.targets._payload import payloads

logger = logging.getLogger(__name__)

_BLOCK_BYTES = 64 * 1024
"""How much is read at a time to find the last newline: a usual pipe and read-ahead size; any would do."""


class FileSettings(TargetSettings):
    """What can be set about the target file."""

    switch = "file_path"

    file_path: str | None = Field(
        default=None,
        description="File that events are appended to as JSON Lines: switches the target on. Absent: off.",
        examples=["changes.jsonl"],
    )
    file_payload_format: OwnFormat = None


class FileTarget:
    """Appends every event, of every operation, as one line (JSON Lines) to a file, which it creates if need be.

    A crash can leave the last line torn. It is not in any checkpoint, since ``flush`` had not returned, so its event
    comes again: the torn line is cut off when the file is opened, and every line of the file stays a JSON object. A
    last line that is whole and lacks only its newline gets one.

    One stream per file, since another's line in the making would look torn: a file that another target has open, in
    this process or another one, is refused.

    A path that is no regular file (/dev/stdout, /dev/null, a named pipe) is written to as it is: nothing in it could be
    mended or put on a disk, so durable is what it took.

    Args:
        path: The file; its folder must exist.
        payload_format: The format in which an event is written, or its name.
    """

    name = "file"
    settings_model = FileSettings

    def __init__(self, path: str | Path, *, payload_format: Format | str = "extended") -> None:
        self._path = Path(path)
        self._format = format_of(payload_format)
        self.formats = (self._format,)
        self._descriptor: int | None = None
        self._is_regular = True

    @classmethod
    def from_settings(cls, settings: Settings) -> Self:
        """The target of a stream that has it switched on."""
        own = settings.of(FileSettings)
        return cls(own.where, payload_format=settings.format_for(own.file_payload_format))

    def write(self, events: Sequence[ChangeEvent]) -> Sequence[Rejection]:
        """Append the events' lines; the first call opens the file.

        Raises:
            TargetError: The file cannot be opened or written. The next write opens it anew and mends it.
        """
        lines, rejections = payloads(events, self._format, self.name)
        if lines:
            try:
                if self._descriptor is None:
                    self._descriptor = self._open()
                JSONL.writer(partial(write_all, self._descriptor)).append(lines)
            except OSError as error:
                self.close()
                raise self._error(error) from error
        return rejections

    def flush(self) -> Sequence[Rejection]:
        """Have the operating system put everything on the disk (fsync).

        Raises:
            TargetError: It could not.
        """
        if self._descriptor is not None and self._is_regular:
            try:
                os.fsync(self._descriptor)
            except OSError as error:
                self.close()
                raise self._error(error) from error
        return ()

    def close(self) -> None:
        """Close the file."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)

    def check(self) -> None:
        """See that the file, or the folder it will be in, can be written; creates nothing.

        Raises:
            TargetError: It cannot.
        """
        there = self._path if self._path.exists() else self._path.parent
        if not there.exists():
            raise self._error(FileNotFoundError(2, f"no folder {there}"))
        if self._path.is_dir() or not os.access(there, os.W_OK):
            raise self._error(PermissionError(13, f"cannot write {there}"))

    def _open(self) -> int:
        self._is_regular = not self._path.exists() or self._path.is_file()
        if not self._is_regular:
            # Not to wait for a reader of a pipe that may never come: without one it cannot be opened.
            descriptor = os.open(self._path, os.O_WRONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
            os.set_blocking(descriptor, True)
            return descriptor
        descriptor = os.open(self._path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            lock(descriptor)
            self._mend(descriptor)
            make_entry_durable(self._path)
        except OSError:
            os.close(descriptor)
            raise
        return descriptor

    def _mend(self, descriptor: int) -> None:
        """Make the file end with a whole line."""
        size = start = os.fstat(descriptor).st_size
        tail = b""
        while start and b"\n" not in tail:
            length = min(_BLOCK_BYTES, start)
            start -= length
            tail = os.pread(descriptor, length, start) + tail
        torn = tail[tail.rfind(b"\n") + 1 :]
        if not torn:
            return
        try:
            json.loads(torn)
        except ValueError:
            os.ftruncate(descriptor, size - len(torn))
            logger.warning("cut a torn last line off the file", extra={"path": str(self._path), "bytes": len(torn)})
        else:
            os.write(descriptor, b"\n")

    def _error(self, error: OSError) -> TargetError:
        if isinstance(error, BlockingIOError):
            return TargetError(
                self.name,
                f"{self._path} is being written by another stream or process",
                hint="give each stream a FILE_PATH of its own",
            )
        hint = "see that the folder exists, may be written to, and has room; it is not created"
        if error.errno in (errno.ENXIO, errno.EPIPE):
            hint = "nobody reads from it: start what reads it first, or set STDOUT=true for standard output"
        return TargetError(self.name, f"cannot write {self._path}: {error.strerror}", hint=hint)
