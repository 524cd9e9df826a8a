"""How far workers have come with the ranges of a snapshot that they share.

A range in a worker's hands has a checkpoint of its own: a lease, and as its position how far the range is delivered.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

from docdb_stream.checkpoint import Checkpoint, CheckpointStore
from docdb_stream.position import Position, SnapshotProgress, SnapshotRange


class ShareStore(CheckpointStore, Protocol):
    """Keeps the checkpoints of ranges."""

    def forget(self, streams: Sequence[str]) -> None:
        """Take away the checkpoints of these names, whoever holds them. Raises StateStoreError."""
        ...


class Shares:
    """The shared ranges of one stream's snapshots.

    Args:
        store: Where their checkpoints are.
        stream: The stream's name.
    """

    def __init__(self, store: ShareStore, stream: str) -> None:
        self.store = store
        self._stream = stream

    def name(self, progress: SnapshotProgress, index: int) -> str:
        """What the checkpoint of a range is called."""
        # With its time: what was delivered with another one is not what the range is of now.
        time = progress.time_of(progress.ranges[index])
        at = "" if time is None else f"{time.time}.{time.inc}"
        return f"{self._prefix}{progress.id}/{index}/{at}"

    def position(self, progress: SnapshotProgress, range: SnapshotRange) -> Position:
        """The position of a range's checkpoint."""
        return Position(operation_time=progress.time, snapshot=SnapshotProgress(progress.id, (range,)))

    def known(self, progress: SnapshotProgress) -> dict[int, Checkpoint]:
        """The checkpoints of the ranges that workers have begun, by their place among the snapshot's. Raises
        StateStoreError."""
        found = {each.stream: each for each in self.store.all()}
        names = ((index, self.name(progress, index)) for index in range(len(progress.ranges)))
        return {index: found[name] for index, name in names if name in found}

    def ranges(self, progress: SnapshotProgress) -> list[SnapshotRange]:
        """The ranges, as far as workers have delivered them. Raises StateStoreError."""
        ranges = [*progress.ranges]
        for index, checkpoint in self.known(progress).items():
            ranges[index] = delivered(ranges[index], checkpoint.position)
        return ranges

    def forget(self, kept: SnapshotProgress | None) -> None:
        """Take away what is kept of the stream's other snapshots. Raises StateStoreError."""
        left = "" if kept is None else f"{self._prefix}{kept.id}/"
        names = [each.stream for each in self.store.all() if each.stream.startswith(self._prefix)]
        self.store.forget([name for name in names if not (left and name.startswith(left))])

    @property
    def _prefix(self) -> str:
        return f"{self._stream}/snapshot/"


def delivered(range: SnapshotRange, saved: Position | None) -> SnapshotRange:
    """A range of a snapshot, with what its checkpoint says of it; what the snapshot knows of the collection stands."""
    if range.done or saved is None or saved.snapshot is None:
        return range
    (found,) = saved.snapshot.ranges
    return replace(range, after=found.after, done=found.done, documents=found.documents)
