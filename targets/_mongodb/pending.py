"""Changes on their way into transactions, and which of them the server refuses.

Owns how they are put together: as many as a transaction carries, and where one is refused, without it.
"""

from __future__ import annotations

from collections.abc import Sequence

from docdb_stream.target import Rejection
from docdb_stream.targets._mongodb.change import Change, Update, Write
from docdb_stream.targets._mongodb.errors import DUPLICATE_KEY, RefusedError
from docdb_stream.targets._mongodb.writer import TRANSACTION_BYTES, TRANSACTION_CHANGES, Writer


class Pending:
    """Changes in their order, on their way.

    Args:
        writer: Writes them.
        target: The target's name, for rejections.

    Attributes:
        rejections: Of what the server does not take; complete after ``settle``.
    """

    def __init__(self, writer: Writer, target: str) -> None:
        self.rejections: list[Rejection] = []
        self._writer = writer
        self._target = target
        self._changes: list[Change] = []
        self._size_bytes = 0
        self._taken: list[tuple[Write, RefusedError]] = []  # their value in a unique index is another's as yet

    def add(self, change: Change) -> None:
        """Take a change; where there is enough for a transaction, that is done before. Raises TargetError."""
        size_bytes = change.event.size_bytes
        is_full = len(self._changes) >= TRANSACTION_CHANGES or self._size_bytes + size_bytes > TRANSACTION_BYTES
        if self._changes and is_full:
            self._write_all()
        self._changes.append(change)
        self._size_bytes += size_bytes

    def refuse(self, update: Update, reason: str) -> None:
        """Go past a derived update that must not be applied, in its order. Raises TargetError."""
        self._write_all()
        self._refuse(update, reason)

    def settle(self) -> None:
        """Have all of it written, or refused. Raises TargetError."""
        self._write_all()
        self._write_taken()

    def _write_all(self) -> None:
        changes, self._changes, self._size_bytes = self._changes, [], 0
        if changes:
            self._write(changes)

    def _write(self, changes: Sequence[Change]) -> None:
        """Write changes; where one is refused, in halves, until that one is alone."""
        try:
            self._writer.write(changes)
        except RefusedError as error:
            if len(changes) > 1:
                half = len(changes) // 2
                self._write(changes[:half])
                self._write(changes[half:])
            elif isinstance(change := changes[0], Write) and error.code == DUPLICATE_KEY:
                self._taken.append((change, error))
            else:
                self._refuse(change, str(error))

    def _write_taken(self) -> None:
        """Try once more what needs a unique value that another document had: by now that may have changed, too. What
        stands in an event can be later than its place in the stream."""
        is_progress = True
        while self._taken and is_progress:
            taken, self._taken = self._taken, []
            for change, _ in taken:
                self._write([change])
            is_progress = len(self._taken) < len(taken)
        for change, error in self._taken:
            self._refuse(change, str(error))
        self._taken = []

    def _refuse(self, change: Change, reason: str) -> None:
        if isinstance(change, Update):
            self._writer.refuse(change)
        self.rejections.append(Rejection(change.event, self._target, reason))
