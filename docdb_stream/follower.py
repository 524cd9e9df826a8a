"""Keeps a stream going through trouble that passes: waits, and runs it again from its checkpoint.

Owns which trouble is waited for, and how long. The waits within a run, between the attempts at one operation, are
``retry``'s.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from docdb_stream.context import Deadline
from docdb_stream.errors import (
    CheckpointConflictError,
    ConfigError,
    DocdbStreamError,
    HistoryLostError,
    LeaseHeldError,
    SourceUnavailableError,
    StateStoreError,
    TargetError,
    TargetGoneError,
)
from docdb_stream.mongodb.connection import SERVER_SELECTION_TIMEOUT_MS
from docdb_stream.result import RunResult

FIRST_WAIT_S = 1.0
MAX_WAIT_S = 30.0
"""Between the runs of a stream in trouble, doubled each time. A run has retried by itself for half a minute before
(``context.DEFAULT_PATIENCE_S``), so nothing is gained by asking more often, and little time is lost when it passes."""

LEASE_WAIT_S = 1.0
"""Between two looks at a lease that another run holds: one small read."""

MAX_LOOK_S = SERVER_SELECTION_TIMEOUT_MS / 1000
"""A run that only finds the cluster still away takes no longer. Where it took longer the last time it did more than
that: it found something, and retried."""

Progress = Callable[[RunResult], None]


@dataclass(frozen=True, slots=True)
class Patience:
    """What is waited for.

    Attributes:
        trouble: Whatever may pass: a cluster, a state database or a target that is away, a lease that was lost.
        lease: A lease that another run holds from the start on.
        give_up_after_s: Seconds without a sign of life after which it is not waited any longer. A run that is under way
            by then is not broken off, and none is begun that would likely not be over by then.
    """

    trouble: bool = False
    lease: bool = False
    give_up_after_s: float = float("inf")


class Watcher(Protocol):
    """Is told how a stream fares."""

    def progress(self, result: RunResult) -> None:
        """Called after every loop with everything done so far, earlier runs included."""
        ...

    def waiting(self, error: DocdbStreamError, for_s: float) -> None:
        """Called once per kind of trouble, as the stream begins to wait; the last sign of life was ``for_s`` ago."""
        ...

    def goes_on(self, after_s: float) -> None:
        """Called once when the trouble is over."""
        ...


class Unwatched:
    """A watcher for whom nobody looks."""

    def progress(self, result: RunResult) -> None:
        """See Watcher."""

    def waiting(self, error: DocdbStreamError, for_s: float) -> None:
        """See Watcher."""

    def goes_on(self, after_s: float) -> None:
        """See Watcher."""


class Follower:
    """Runs one stream until it ends without trouble, or with trouble that does not pass.

    Args:
        attempt: One run, with a callback for its progress; raises as ``Poller.run``. Begins anew each time.
        limit: The deadline and the stop; both end every wait.
        patience: What is waited for.
        watcher: Is told.
    """

    def __init__(
        self, attempt: Callable[[Progress], RunResult], limit: Deadline, patience: Patience, watcher: Watcher
    ) -> None:
        self._attempt = attempt
        self._limit = limit
        self._patience = patience
        self._watcher = watcher
        self._started_s = self._begun_at_s = self._alive_at_s = self._troubled_at_s = limit.clock()
        self._has_worked = False
        self._trouble: DocdbStreamError | None = None
        self._wait_s = FIRST_WAIT_S
        self._earlier: RunResult | None = None
        self._latest: RunResult | None = None

    def run(self) -> RunResult:
        """Run, wait, run again; returns the sum of all runs.

        Raises:
            DocdbStreamError: Trouble that does not pass, or was not over when a stop was asked for, the deadline came,
                or the patience ended.
        """
        while True:
            self._begun_at_s = self._limit.clock()
            try:
                result = self._summed(self._attempt(self._progress))
                result.duration_s = round(self._limit.clock() - self._started_s, 3)
                return result
            except DocdbStreamError as error:
                if not self._may_pass(error) or not self._wait(error):
                    raise
            if self._latest is not None:
                self._earlier, self._latest = self._summed(self._latest), None

    def _progress(self, result: RunResult) -> None:
        self._latest = result
        self._has_worked = True
        self._alive_at_s = self._limit.clock()
        # Reading shows that the cluster is back. Whether a target is, only a checkpoint does.
        if self._trouble is not None and (_is_shown_by_reading(self._trouble) or result.checkpoints):
            self._watcher.goes_on(self._alive_at_s - self._troubled_at_s)
            self._trouble, self._wait_s = None, FIRST_WAIT_S
        self._watcher.progress(self._summed(result))

    def _may_pass(self, error: DocdbStreamError) -> bool:
        if isinstance(error, HistoryLostError | TargetGoneError):
            return False
        if isinstance(error, LeaseHeldError):
            return self._patience.lease or (self._patience.trouble and self._has_worked)
        if isinstance(error, ConfigError) or error.refused:
            # What never worked needs an operator; what did, as a password while it is rotated, may work again.
            return self._patience.trouble and self._has_worked
        passing = SourceUnavailableError | StateStoreError | TargetError | CheckpointConflictError
        return self._patience.trouble and isinstance(error, passing)

    def _wait(self, error: DocdbStreamError) -> bool:
        """Wait before the next run; False when there is to be none."""
        if self._trouble is None:
            self._troubled_at_s = self._alive_at_s
        now_s = self._limit.clock()
        patience_s = self._troubled_at_s + self._patience.give_up_after_s - now_s
        left_s = min(self._limit.remaining_s, patience_s)
        if left_s <= 0 or self._limit.stop.is_set():
            return False
        # By exit code, so that one outage is told once, on whichever of its calls it is noticed.
        if self._trouble is None or self._trouble.exit_code != error.exit_code:
            self._watcher.waiting(error, now_s - self._troubled_at_s)
        self._trouble = error
        wait_s = LEASE_WAIT_S if isinstance(error, LeaseHeldError) else self._wait_s
        self._wait_s = min(MAX_WAIT_S, 2 * self._wait_s)
        # The last look is taken when there is just time for it, judged by this one. The deadline ends one by itself.
        patience_s -= min(MAX_LOOK_S, now_s - max(self._begun_at_s, self._alive_at_s))
        if patience_s < 0:
            self._limit.stop.wait(left_s)
            return False
        return not self._limit.stop.wait(min(wait_s, left_s, patience_s)) and self._limit.remaining_s > 0

    def _summed(self, result: RunResult) -> RunResult:
        return result if self._earlier is None else result.after(self._earlier)


def _is_shown_by_reading(trouble: DocdbStreamError) -> bool:
    return not isinstance(trouble, TargetError | StateStoreError)
