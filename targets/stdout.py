"""Events to standard output, one JSON object a line. The smallest target: the one to read first."""

from __future__ import annotations

import errno
import sys
from collections.abc import Sequence
from typing import BinaryIO, Self

from pydantic import Field

from docdb_stream.errors import TargetGoneError
from docdb_stream.events import ChangeEvent
from docdb_stream.format import Format
from docdb_stream.formats import format_of
from docdb_stream.formats.jsonl import JSONL
from docdb_stream.settings import Settings, TargetSettings
from docdb_stream.settings.types import OwnFormat
from docdb_stream.target import Rejection
from docdb_stream.targets._payload import payloads


class StdoutSettings(TargetSettings):
    """What can be set about the target stdout."""

    switch = "stdout"

    stdout: bool = Field(
        default=False, description="Events to standard output as JSON Lines: true or false.", examples=["true"]
    )
    stdout_payload_format: OwnFormat = None


class StdoutTarget:
    """Writes every event, of every operation, as one line (JSON Lines).

    Durable means here: handed to whatever reads standard output.

    Args:
        stream: Where to write; standard output by default.
        payload_format: The format in which an event is written, or its name.

    Raises:
        TargetGoneError: Standard output is closed.
    """

    name = "stdout"
    settings_model = StdoutSettings

    def __init__(self, stream: BinaryIO | None = None, *, payload_format: Format | str = "extended") -> None:
        if stream is None and sys.stdout is None:
            raise self._gone(OSError("standard output is closed"))
        self._stream = stream or sys.stdout.buffer
        self._format = format_of(payload_format)
        self.formats = (self._format,)

    @classmethod
    def from_settings(cls, settings: Settings) -> Self:
        """The target of a stream that has it switched on."""
        return cls(payload_format=settings.format_for(settings.of(StdoutSettings).stdout_payload_format))

    def write(self, events: Sequence[ChangeEvent]) -> Sequence[Rejection]:
        """Write the events' lines, and hand them over: whoever reads them sees them now, not at the next checkpoint.

        Raises:
            TargetGoneError: The stream takes nothing more, as when the program it is piped into has ended.
        """
        lines, rejections = payloads(events, self._format, self.name)
        try:
            JSONL.writer(self._write_all).append(lines)
            self._stream.flush()
        except (OSError, ValueError) as error:
            raise self._gone(error) from error
        return rejections

    def flush(self) -> Sequence[Rejection]:
        """Nothing: ``write`` has handed everything over."""
        return ()

    def close(self) -> None:
        """Nothing: the stream belongs to the process."""

    def _write_all(self, text: bytes) -> None:
        rest = memoryview(text)
        while rest:  # without a buffer (python -u) a write may take a part only
            taken = self._stream.write(rest)
            if taken is None:  # it does not wait (O_NONBLOCK), and is full
                raise BlockingIOError(errno.EAGAIN, "standard output takes nothing more at the moment")
            rest = rest[taken:]

    def _gone(self, error: Exception) -> TargetGoneError:
        # ValueError is what a stream raises that this process itself has closed.
        reason = (isinstance(error, OSError) and error.strerror) or str(error)
        return TargetGoneError(
            self.name, reason, hint="see that the program which reads the output keeps running, and its disk has room"
        )
