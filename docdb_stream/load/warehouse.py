"""The contract of a warehouse: tables that hold what collections hold, loaded manifest by manifest."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import IO, Protocol

from docdb_stream.load.manifest import DataFile, Manifest


@dataclass(slots=True)
class Loaded:
    """What one manifest has changed.

    Attributes:
        rows: Events in its files.
        written: Documents that were written to a table.
        deleted: Documents that were taken from one.
        stale: Documents of which a table had a newer state already.
    """

    rows: int = 0
    written: int = 0
    deleted: int = 0
    stale: int = 0

    def add(self, other: Loaded) -> None:
        """Add what another one has."""
        self.rows += other.rows
        self.written += other.written
        self.deleted += other.deleted
        self.stale += other.stale


class Warehouse(Protocol):
    """Where tables are. Used by one thread."""

    def loaded(self, stream: str) -> Collection[str]:
        """The keys of the manifests of a stream that are loaded.

        Raises:
            TargetError: It cannot be reached, or refuses.
        """
        ...

    def load(self, stream: str, manifest: Manifest, open_file: Callable[[DataFile], IO[bytes]]) -> Loaded | None:
        """Load a manifest, all of it or nothing: its tables are made and widened, of each document the newest state
        wins, deletes take it away, and the manifest is noted. None: it was loaded already, and nothing is changed.

        Raises:
            TargetError: It cannot be reached, or refuses; nothing of it is loaded.
        """
        ...

    def close(self) -> None:
        """Let go of connections."""
        ...
