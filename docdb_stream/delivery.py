"""Hands batches to every target, side by side, and makes durable what becomes of them.

Owns ``settle``: every flush, then the dead letters. A target's thread is ``worker``'s. Knows nothing of positions.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Sequence

from docdb_stream.context import current_deadline
from docdb_stream.derived_update import derived_in
from docdb_stream.errors import ConfigError
from docdb_stream.events import ChangeEvent, Events, Rejection, fitting
from docdb_stream.result import TargetFigures
from docdb_stream.source import BATCH_BYTES
from docdb_stream.target import Target, announced, takes_derived
from docdb_stream.worker import Mark, Patience, Worker

logger = logging.getLogger(__name__)

LARGE_BATCH_BYTES = 2 * BATCH_BYTES
"""A batch above this (a few events of many megabytes) is waited for before the next one is queued."""
REJECTED_BYTES = 8 * 1024 * 1024
"""Rejected events held before a checkpoint is asked for, which puts them into the dead letters."""

CLOSE_WAIT_S = 2.0
"""How long closing waits for targets that are still at work."""

LOGGED_ID_DIGITS = 200
"""Of an event id in the log: it holds the document key, which can be of megabytes."""


class Delivery:
    """Writes batches to all targets at once, and makes what becomes of them durable. Kept for several runs, each within
    a ``with`` block; ``close()`` ends it.

    A target is used by one thread at a time: one that is still held up in a target when its run is over is waited for
    by the next run, which then has the target start anew.

    A block is entered within the run's context (see ``context.running``), which the workers inherit.

    Args:
        targets: Where events go.
        stream: The stream's name, for dead letters and the log.
        write_letters: Makes the rejections of a stream durable, or raises; ``DeadLetters.write``. Called by ``settle``
            alone, and not without rejections.
    """

    def __init__(
        self,
        targets: Sequence[Target],
        *,
        stream: str,
        write_letters: Callable[[str, Sequence[Rejection]], None],
    ) -> None:
        self._targets = list(targets)
        self._stream = stream
        self._write_letters = write_letters
        self._workers: list[Worker] = []
        self._rejections: list[Rejection] = []
        self._rejected_bytes = 0
        self._formats = announced(self._targets)
        self._holds_nothing = True

    def __enter__(self) -> Delivery:
        self._begin()
        self._patience = Patience()
        return self

    def __exit__(self, *exc_info: object) -> None:
        for worker in self._workers:
            worker.stop()
        # What is not flushed comes again anyhow: whoever still works on it is not waited for.
        self._join(CLOSE_WAIT_S if self._holds_nothing else 0.0)

    def close(self) -> None:
        """Close the targets; one that is still at work after CLOSE_WAIT_S closes when it has done. Safe to call
        twice."""
        self._holds_nothing = False
        self._begin()
        for worker in self._workers:
            worker.stop()
        self._join(current_deadline().cleanup_s(CLOSE_WAIT_S))
        self._holds_nothing = True

    @property
    def figures(self) -> dict[str, TargetFigures]:
        """Per target, by name, of this run."""
        return {worker.target.name: worker.figures for worker in self._workers}

    @property
    def wants_flush(self) -> bool:
        """Whether a target holds as much as it wants to hold, or rejected events take much room."""
        if self._rejected_bytes + sum(worker.rejected_bytes for worker in self._workers) > REJECTED_BYTES:
            return True
        return any(worker.buffering is not None and worker.buffering.wants_flush for worker in self._workers)

    @property
    def takes_bytes(self) -> int | None:
        """How much to hand over at a time: the least that a target takes (see ``Paced``), or None."""
        limits = (worker.paced.takes_bytes for worker in self._workers if worker.paced is not None)
        return min((limit for limit in limits if limit is not None), default=None)

    def write(self, events: Sequence[ChangeEvent], size_bytes: int = 0, only: Collection[str] = ()) -> None:
        """Give ``events`` to every target, or to those named; returns once each has them queued, not when they are
        durable.

        Args:
            events: The events.
            only: The targets' names; empty: all.
            size_bytes: Their size; beyond LARGE_BATCH_BYTES, and where a target takes only so much at a time, every
                target has written them on return. That target gets them in parts where they are more.

        Raises:
            TargetError: A target failed, now or since the last call.
            ConfigError: There are derived updates, and no target takes them.
        """
        while (limit := self.takes_bytes) is not None and size_bytes > limit:
            count = fitting(events, limit)
            if count >= len(events):
                break
            first_bytes = sum(event.size_bytes for event in events[:count])
            self._hand_over(events[:count], first_bytes, only)
            events, size_bytes = events[count:], size_bytes - first_bytes
        self._hand_over(events, size_bytes, only)

    def _hand_over(self, events: Sequence[ChangeEvent], size_bytes: int, only: Collection[str]) -> None:
        self._holds_nothing = False
        self._raise_failure()
        derived = derived_in(events)
        together = events if isinstance(events, Events) else Events(events)
        together.want(self._formats)
        others = self._without(derived, together) if derived else together
        for worker in self._workers:
            offered = together if others is together or takes_derived(worker.target) else others
            if offered and (not only or worker.target.name in only):
                worker.offer(offered, self._patience, self._raise_failure)
        if size_bytes > LARGE_BATCH_BYTES or self.takes_bytes is not None:
            self._wait("still busy", flushes=False)
            self._raise_failure()

    def _without(self, derived: Sequence[ChangeEvent], events: Events) -> Events:
        """The events for targets that take no derived updates.

        Raises:
            ConfigError: No target takes them.
        """
        if not any(takes_derived(target) for target in self._targets):
            raise ConfigError(
                f"there are derived updates, as of {derived[0].namespace}, and no target that takes them",
                hint="set MONGODB_TARGET_URI (and MONGODB_TARGET_MIRROR = false, to write nothing else there); the "
                "checkpoint stands before them",
            )
        left_out = {id(event) for event in derived}
        return Events(event for event in events if id(event) not in left_out)

    def reject(self, rejections: Sequence[Rejection]) -> None:
        """Have ``settle`` put these into the dead letters, too: what is rejected before it comes to a target."""
        self._rejections += rejections
        self._rejected_bytes += sum(rejection.event.size_bytes for rejection in rejections)

    def settle(self) -> Sequence[Rejection]:
        """Make everything so far durable: first what was written, in every target, then all rejections, in the dead
        letters. After it returned, and not before, a position may pass the events; returns the rejections.

        Called before each checkpoint, and where there is none before the answer to who pushed the events. Calling it
        again after an error goes on with what is not durable; that a target failed is final in this block.

        Raises:
            TargetError: Something is not durable in a target. Every target has been waited for.
            StateStoreError: The rejections are not in the dead letters.
        """
        self._rejections += self.flush()
        settled = self._rejections
        if settled:
            self._write_letters(self._stream, settled)
        self._rejections, self._rejected_bytes = [], 0
        for rejection in settled:
            logger.warning(
                "event rejected: stream=%s target=%s event_id=%.300s reason=%.300s",
                self._stream,
                rejection.target,
                rejection.event.event_id[:LOGGED_ID_DIGITS],
                rejection.reason,
            )
        return settled

    def flush(self) -> list[Rejection]:
        """Wait until everything written so far is durable in every target; returns the targets' rejections since the
        last call, which nobody but the caller has from then on: see ``settle``.

        Raises:
            TargetError: Something is not durable. Every target has been waited for, so the others' work is done too.
        """
        self._wait("not durable", flushes=True)
        self._raise_failure()
        rejections = [rejection for worker in self._workers for rejection in worker.rejections]
        for worker in self._workers:
            worker.rejections = []
            worker.rejected_bytes = 0
        self._holds_nothing = True
        return rejections

    def _begin(self) -> None:
        """A worker for each target; after that of the last run, and anew where the target holds something of it."""
        last: Sequence[Worker | None] = self._workers or [None] * len(self._targets)
        anew = not self._holds_nothing
        self._workers = [Worker(target, before, anew) for target, before in zip(self._targets, last, strict=True)]
        self._rejections, self._rejected_bytes = [], 0
        self._holds_nothing = True

    def _join(self, wait_s: float) -> None:
        """Wait for the threads; one that hangs in its target is left behind, it is a daemon."""
        until_s = time.monotonic() + wait_s
        for worker in self._workers:
            worker.thread.join(timeout=max(0.0, until_s - time.monotonic()))

    def _wait(self, trouble: str, *, flushes: bool) -> None:
        """Wait until every worker has done what was queued so far, and has flushed its target if it should."""
        marks = [(worker, Mark(flushes)) for worker in self._workers]
        for worker, mark in marks:
            worker.offer(mark, self._patience, lambda: None)
        for _, mark in marks:
            while not mark.done.wait(timeout=self._patience.step_s):
                slow = ", ".join(worker.target.name for worker, each in marks if not each.done.is_set())
                self._patience.check(slow, trouble)

    def _raise_failure(self) -> None:
        for worker in self._workers:
            if worker.error is not None:
                raise worker.error
