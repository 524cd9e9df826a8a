"""Changes on their way to the server: the last of each document, many at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from docdb_stream.event import ChangeEvent
from docdb_stream.target import Rejection
from docdb_stream.targets._redis.client import Client, Command, script
from docdb_stream.targets._redis.errors import NAME, RefusedError
from docdb_stream.targets._redis.keys import SOURCES, Place, field_of, version_key
from docdb_stream.targets._redis.script import WRITE, version_text
from docdb_stream.targets._redis.values import Form

PIPELINE_COMMANDS: Final = 1_000
PIPELINE_BYTES: Final = 4 * 1024 * 1024
"""At most so much is sent before answers are read, one change at least: a server holds the answers meanwhile."""


@dataclass(slots=True)
class Write:
    """What one change does.

    Attributes:
        event: The change.
        key: The document's key.
        place: The keys of its collection.
        source: Its collection, ``db.coll``.
        version: See ``document_version``.
        value: What is stored, see ``value_of``; None: the document is gone.
        expires_ms: When it ends by itself, in milliseconds since 1970.
        forgotten_ms: When its version may be forgotten; None: never.
    """

    event: ChangeEvent
    key: str
    place: Place
    source: str
    version: int
    value: Sequence[bytes] | None
    expires_ms: int | None = None
    forgotten_ms: int | None = None

    @property
    def field(self) -> bytes:
        """Of its collection, see ``field_of``."""
        return field_of(self.place, self.source)

    @property
    def size_bytes(self) -> int:
        """Of what is stored."""
        return sum(map(len, self.value or ()))

    def command(self, form: Form) -> Command:
        """What does it."""
        return script(
            WRITE,
            [self.key, version_key(self.key)],
            version_text(self.version),
            self.source,
            "gone" if self.value is None else form,
            "" if self.expires_ms is None else self.expires_ms,
            "" if self.forgotten_ms is None else self.forgotten_ms,
            *(self.value or ()),
        )


class Pending:
    """Changes in their order, on their way.

    Args:
        client: To the server.
        form: How documents are stored.

    Attributes:
        rejections: Of what the server does not take; complete after ``settle``.
    """

    def __init__(self, client: Client, form: Form) -> None:
        self.rejections: list[Rejection] = []
        self._client = client
        self._form = form
        self._writes: dict[str, Write] = {}
        self._size_bytes = 0
        self._floors: dict[bytes, int] | None = None

    def add(self, write: Write) -> None:
        """Take a change; where there is enough to send, that is done before. Raises TargetError."""
        is_full = len(self._writes) >= PIPELINE_COMMANDS or self._size_bytes + write.size_bytes > PIPELINE_BYTES
        if self._writes and is_full:
            self.settle()
        before = self._writes.get(write.key)
        # Of one document in one batch the last is as new as any before it; what is read again can be older.
        if before is None or before.version <= write.version:
            self._writes[write.key] = write
            self._size_bytes += write.size_bytes

    def settle(self) -> None:
        """Have all of it written, or refused. Raises TargetError."""
        writes, self._writes, self._size_bytes = [*self._writes.values()], {}, 0
        if not writes:
            return
        floors = self._known_floors({write.field for write in writes})
        writes = [write for write in writes if write.version >= floors.get(write.field, 0)]
        answers = self._client.do([write.command(self._form) for write in writes])
        self.rejections += [
            Rejection(write.event, NAME, f"refused: {answer}")
            for write, answer in zip(writes, answers, strict=True)
            if isinstance(answer, RefusedError)
        ]

    def forget_floors(self) -> None:
        """Ask again for them: one has been raised. Raises TargetError."""
        self._floors = None

    def _known_floors(self, fields: set[bytes]) -> dict[bytes, int]:
        """Of each collection the version below which nothing is taken; asked for once a batch."""
        if self._floors is None:
            [stored] = self._client.do([("HGETALL", SOURCES)], writes=False)
            self._floors = {field: int(floor or b"0") for field, floor in stored.items()}
        if new := fields - self._floors.keys():
            self._client.do([("HSETNX", SOURCES, field, "") for field in new])
            self._floors |= dict.fromkeys(new, 0)
        return self._floors
