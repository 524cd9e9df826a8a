"""What a run gives to everybody who works for it: how long there is, whether to stop, and whether it may still act.

Owns the waiting for an answer within that time. What is worth asking again is ``retry``'s.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar, copy_context
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from docdb_stream.position import Namespace, SnapshotProgress
    from docdb_stream.schema.columns import Column

T = TypeVar("T")

DEFAULT_PATIENCE_S = 30.0
"""How long to go on without any success when the run has no nearer deadline: longer than a failover of DocumentDB
("typically less than 30 seconds", its developer guide) is not bridged by retrying but by the next run."""

STOP_PATIENCE_S = 4.0
"""How long one operation may still take once a stop was asked for: enough for a last flush and checkpoint with a
service that works, and short of the 10 s after which Docker kills what it has asked to stop."""

CLEANUP_LEAST_S = 0.1
"""What is tidied up at the end of a run gets this much time even then: healthy services need less."""

STOP_NOTICED_S = 0.1
"""How soon one that waits for an answer notices a stop."""


@dataclass(slots=True)
class Deadline:
    """The moment (on the monotonic clock, in seconds) by which a run must be over, and a way to be told to stop.

    Attributes:
        at_s: The moment.
        patience_s: How long one operation is retried without success even when the deadline is far.
        stop: Set to ask for a clean end.
        clock: The monotonic clock.
        stopped_at_s: When the stop was noticed; see ``stopping``.
    """

    at_s: float = float("inf")
    patience_s: float = DEFAULT_PATIENCE_S
    stop: threading.Event = field(default_factory=threading.Event)
    clock: Callable[[], float] = time.monotonic
    stopped_at_s: float | None = None

    @classmethod
    def after(cls, seconds: float | None, **options: object) -> Deadline:
        """The deadline ``seconds`` from now; None means never."""
        at_s = float("inf") if seconds is None else time.monotonic() + seconds
        return cls(at_s, **options)  # type: ignore[arg-type]

    @property
    def remaining_s(self) -> float:
        """Seconds left; negative when it is over."""
        return self.at_s - self.clock()

    @property
    def stopping(self) -> bool:
        """Whether a stop was asked for."""
        if self.stop.is_set() and self.stopped_at_s is None:
            self.stopped_at_s = self.clock()
        return self.stopped_at_s is not None

    def give_up_at_s(self, since_s: float) -> float:
        """The moment by which to give up what was begun at ``since_s``: the deadline, or soon after a stop."""
        if not self.stopping:
            return self.at_s
        return min(self.at_s, max(since_s, self.stopped_at_s or since_s) + STOP_PATIENCE_S)

    def cleanup_s(self, at_most_s: float) -> float:
        """How long what only tidies up may take: up to ``at_most_s``, nearly nothing once all else is given up."""
        return max(CLEANUP_LEAST_S, min(at_most_s, self.give_up_at_s(float("-inf")) - self.clock()))

    def pause(self, delay_s: float) -> None:
        """Sleep; a stop that is asked for meanwhile ends it."""
        if self.stop.is_set():
            time.sleep(delay_s)
        else:
            self.stop.wait(delay_s)


def _no_lease() -> None:
    """The check of what needs no lease: a command, an alert, a run that has not got its own yet."""


def _no_epoch() -> None:
    """The epoch of what has no lease."""


def _no_columns(namespace: Namespace) -> None:
    """The columns of what keeps no ledger."""


@dataclass(slots=True)
class RunContext:
    """What all that works for one run shares: there is one for each run, and every thread of the run sees it.

    Attributes:
        deadline: When the run has to be over, and the stop.
        lease_check: Raises when the run may no longer act; set once the run has its lease, and never taken back: what
            still works when the run is over must hear so.
        lease_epoch: The epoch of the run's lease, which grows with each holder; None without a lease. By it, what is
            written to can refuse a run that another one has taken over from.
        is_sharded: Whether what the run delivers is a part of a stream, beside others who deliver its other parts: of a
            table's, which is not dropped or renamed.
        retries: Attempts repeated for this run so far, by whomever.
        checkpoint: Names the saved checkpoint after which comes what is delivered now: another one after each save, and
            after a reset. Empty where there is none.
        next_checkpoint: Names the one that is saved as soon as all targets are flushed; empty where it is not known.
        next_order: A text by which the names of a stream's checkpoints are in their order, of the next one.
        snapshot: How far the snapshot beside the stream has come in the saved checkpoint; None where it has none.
        next_snapshot: The same for the next checkpoint.
        columns_of: Gives the columns of a collection's tables, where the run keeps a schema ledger; else None.
        schema_version_of: The same for the version of its ledger.
    """

    deadline: Deadline = field(default_factory=Deadline)
    lease_check: Callable[[], None] = _no_lease
    lease_epoch: Callable[[], int | None] = _no_epoch
    is_sharded: bool = False
    retries: int = 0
    checkpoint: str = ""
    next_checkpoint: str = ""
    next_order: str = ""
    snapshot: SnapshotProgress | None = None
    next_snapshot: SnapshotProgress | None = None
    columns_of: Callable[[Namespace], Sequence[Column] | None] = _no_columns
    schema_version_of: Callable[[Namespace], int | None] = _no_columns

    def check_lease(self) -> None:
        """Call before each request that changes something outside.

        Raises:
            CheckpointConflictError: The run slept through its lease, or is over; another may be further already.
        """
        self.lease_check()


_current: ContextVar[RunContext | None] = ContextVar("docdb_stream_run", default=None)


def current_run() -> RunContext:
    """The context of the run this code works for; outside a run one without end and without a lease.

    Threads that a target starts do not inherit it: run their work in ``contextvars.copy_context()``.
    """
    return _current.get() or RunContext()


def current_deadline() -> Deadline:
    """The deadline of the run this code works for; one that is far away outside a run. See ``current_run``."""
    return current_run().deadline


def check_lease() -> None:
    """Check the lease of the run this code works for; see ``RunContext.check_lease``."""
    current_run().check_lease()


@contextmanager
def running(context: RunContext) -> Iterator[RunContext]:
    """Work for the run of ``context`` within the block."""
    before = _current.set(context)
    try:
        yield context
    finally:
        _current.reset(before)


@contextmanager
def deadline(limit: Deadline) -> Iterator[Deadline]:
    """Work by ``limit`` within the block, and without a lease: for what is no run, or outlives one (an alert)."""
    with running(RunContext(limit)):
        yield limit


class NoAnswerError(Exception):
    """What was asked had not answered by the end of the run's time."""


def in_background(work: Callable[[], object], name: str) -> None:
    """Run ``work`` in a thread of its own, within this context. A daemon, unlike the threads of a pool: the process
    does not wait at its end for a request that gets no answer."""
    threading.Thread(target=copy_context().run, args=(work,), name=name, daemon=True).start()


def answer_in_time(
    work: Callable[[], T],
    *,
    since_s: float | None = None,
    within_s: float = float("inf"),
    at_most_s: float | None = None,
) -> T:
    """Run ``work`` and wait for its answer as long as the run has time: until the deadline, or soon after a stop.

    For calls that can block for longer than that and cannot be interrupted, such as one that waits for a server which
    has stopped answering. ``work`` runs in a thread of its own, within this context. One that is given up is left
    behind, so what it does later must be harmless.

    Args:
        work: What to do; its errors are raised here.
        since_s: When it was begun, by the deadline's clock, where that was an earlier attempt.
        within_s: And no longer than so many seconds.
        at_most_s: Instead of all this, wait for so many seconds.

    Raises:
        NoAnswerError: It was given up.
    """
    limit = current_deadline()
    answers: list[T] = []
    errors: list[BaseException] = []
    done = threading.Event()

    def ask() -> None:
        try:
            answers.append(work())
        except BaseException as error:  # noqa: BLE001 - whatever it is, it is the caller's
            errors.append(error)
        done.set()

    in_background(ask, "call")
    began_s = limit.clock()
    while not done.is_set():
        if at_most_s is not None:
            give_up_at_s = began_s + at_most_s
        else:
            give_up_at_s = min(limit.give_up_at_s(since_s or began_s), began_s + within_s)
        left_s = give_up_at_s - limit.clock()
        if not done.wait(min(STOP_NOTICED_S, max(0.0, left_s))) and left_s <= 0:
            raise NoAnswerError
    if errors:
        raise errors.pop()
    return answers.pop()
