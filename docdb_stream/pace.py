"""What the parts of a run take, and what follows: when a checkpoint is due, and when there is no time for more."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from docdb_stream.context import Deadline

SYNC_INTERVAL_S = 10.0
"""A checkpoint is made at least this often when something moved, whatever STATE_SYNC_COUNT says: an idle stream stays
fresh, what a target buffers gets out, and little is delivered again after a crash of a slow stream. Where the run has
less than four times this, after a quarter of its time: a slow target must get a checkpoint done before the deadline."""

LOOK_INTERVAL_S = 1.0
"""Requests are looked for with a checkpoint, but not more often: it is a read of the state database, and a busy stream
makes checkpoints all the time."""

MIN_DEADLINE_MARGIN_S = 1.0
"""Kept free before the deadline besides what flushing and saving have been measured to take."""


class Pace:
    """Of one run, which begins now.

    Args:
        limit: When it has to be over.
    """

    def __init__(self, limit: Deadline) -> None:
        self._limit = limit
        self._started_s = self._saved_at_s = self._looked_at_s = limit.clock()
        self._total_s = limit.at_s - self._started_s
        self._longest_sync_s = self._last_write_s = 0.0

    @property
    def taken_s(self) -> float:
        """How long the run has lasted."""
        return self._limit.clock() - self._started_s

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Around handing events over."""
        began_s = self._limit.clock()
        yield
        self._last_write_s = self._limit.clock() - began_s

    @contextmanager
    def saving(self) -> Iterator[None]:
        """Around a checkpoint."""
        began_s = self._limit.clock()
        yield
        self._longest_sync_s = max(self._longest_sync_s, self._limit.clock() - began_s)

    def saved(self) -> None:
        """A checkpoint is made, or there is nothing to save."""
        self._saved_at_s = self._limit.clock()

    def looked(self) -> None:
        """It was looked for requests."""
        self._looked_at_s = self._limit.clock()

    @property
    def is_look_due(self) -> bool:
        """Whether it was some time ago that it was looked for requests."""
        return self._limit.clock() - self._looked_at_s >= LOOK_INTERVAL_S

    @property
    def is_checkpoint_due(self) -> bool:
        """Whether the last one is long ago."""
        return self._limit.clock() - self._saved_at_s >= min(SYNC_INTERVAL_S, self._total_s / 4)

    @property
    def is_over(self) -> bool:
        """Whether so little time is left as is kept for the end: twice the longest checkpoint, the last handing over,
        and a bit."""
        margin_s = min(MIN_DEADLINE_MARGIN_S, 0.2 * self._total_s) + 2 * self._longest_sync_s + self._last_write_s
        return self._limit.remaining_s < margin_s
