"""Changes on their way into transactions, and which of them the server refuses.

Owns how they are put together: as many as a transaction carries, and where one is refused, without it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from docdb_stream.target import Rejection
from docdb_stream.targets._postgresql.errors import NAME, UNIQUE_VIOLATION, RefusedError
from docdb_stream.targets._postgresql.writer import Write, Writer

TRANSACTION_ROWS: Final = 1_000
TRANSACTION_BYTES: Final = 8 * 1024 * 1024
"""At most so much in one transaction, one change at least: a second or so, and little memory on either side."""


class Pending:
    """Changes in their order, on their way.

    Args:
        writer: Writes them.

    Attributes:
        rejections: Of what the server does not take; complete after ``settle``.
    """

    def __init__(self, writer: Writer) -> None:
        self.rejections: list[Rejection] = []
        self._writer = writer
        self._writes: list[Write] = []
        self._size_bytes = 0
        self._taken: list[tuple[Write, RefusedError]] = []  # their value in a unique index is another's as yet
        self._tables: dict[str, None] = {}

    def add(self, write: Write) -> None:
        """Take a change; where there is enough for a transaction, that is done before. Raises TargetError."""
        size_bytes = write.event.size_bytes
        is_full = len(self._writes) >= TRANSACTION_ROWS or self._size_bytes + size_bytes > TRANSACTION_BYTES
        if self._writes and is_full:
            self._write_all()
        self._writes.append(write)
        self._size_bytes += size_bytes

    def settle(self) -> None:
        """Have all of it written, or refused. Raises TargetError."""
        self._write_all()
        is_progress = True
        while self._taken and is_progress:  # what has the value may have another by now
            taken, self._taken = self._taken, []
            for write, _ in taken:
                self._write([write])
            is_progress = len(self._taken) < len(taken)
        for write, error in self._taken:
            self.rejections.append(Rejection(write.event, NAME, str(error)))
        self._taken = []
        self._writer.purge(self._tables)

    def _write_all(self) -> None:
        writes, self._writes, self._size_bytes = self._writes, [], 0
        if writes:
            self._write(writes)

    def _write(self, writes: Sequence[Write]) -> None:
        """Write changes; where one is refused, in halves, until that one is alone."""
        try:
            self._writer.write(writes)
        except RefusedError as error:
            if len(writes) > 1:
                half = len(writes) // 2
                self._write(writes[:half])
                self._write(writes[half:])
            elif error.code == UNIQUE_VIOLATION:
                self._taken.append((writes[0], error))
            else:
                self.rejections.append(Rejection(writes[0].event, NAME, str(error)))
        else:
            self._tables.update(dict.fromkeys(each.table for each in writes))
