"""Checkpoints and leases: what is saved, and who may save it.

Owns the types and the store's contract. The stores themselves are in ``stores``.
"""

from __future__ import annotations

import datetime as dt
import logging
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from docdb_stream.errors import CheckpointConflictError, DocdbStreamError, LeaseHeldError, StateStoreError
from docdb_stream.events import Namespace, Position
from docdb_stream.retry import Deadline, current_deadline, deadline

logger = logging.getLogger(__name__)

RELEASE_PATIENCE_S = 2.0
"""How long to try to give the lease back, and to wait for a renewal under way, at most."""

LOST_HINT = (
    "nothing is lost: the next run goes on from the checkpoint. If this happens often, something stops this process "
    "for longer than its lease lasts (LEASE_SECONDS; 10 s at most when following)"
)

FORMAT_VERSION = 1
"""Version of the stored checkpoint. A store reads every earlier one and refuses later ones."""


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to move one stream's checkpoint.

    Attributes:
        stream: The stream's name.
        owner: Names the run that holds it, unique per run.
        epoch: Grows by one with each holder; a save under an older epoch is refused.
        duration_s: Seconds from the last renewal or save until another run may take it.
    """

    stream: str
    owner: str
    epoch: int
    duration_s: float


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The saved position of a stream, and who works on it.

    Attributes:
        stream: The stream's name.
        scope: What the stream watches; None is the whole deployment.
        position: Where it stands; None as long as nothing was saved.
        epoch: The epoch of the last holder.
        updated_at: When the position was saved, by the store's clock.
        owner: The run that holds the lease, or None.
        expires_at: When its lease runs out.
        events: Events delivered since the checkpoint was made first.
    """

    stream: str
    scope: Namespace | None = None
    position: Position | None = None
    epoch: int = 0
    updated_at: dt.datetime | None = None
    owner: str | None = None
    expires_at: dt.datetime | None = None
    events: int = 0


@dataclass(frozen=True, slots=True)
class LedgerEntry:
    """Something about a stream's history that an operator has to be able to find later.

    Attributes:
        stream: The stream's name.
        kind: ``history-lost`` (the position left the change log), ``reset`` (an operator moved the position) or
            ``stepped-past`` (one event could not be read).
        before: The position until then, or None where there was none.
        reason: What happened, in one line.
        after: Where the stream goes on; None as long as nobody decided.
        found_at: When it was found first.
    """

    stream: str
    kind: str
    before: Position | None
    reason: str
    after: Position | None = None
    found_at: dt.datetime | None = None


class CheckpointStore(Protocol):
    """Keeps checkpoints. Every method may be called from any thread.

    Each raises StateStoreError when the store cannot be reached or refuses.
    """

    def load(self, stream: str) -> Checkpoint | None:
        """The stream's checkpoint, or None when there is none."""
        ...

    def list(self) -> Sequence[Checkpoint]:
        """Every checkpoint of this store, by stream name."""
        ...

    def acquire(self, stream: str, scope: Namespace | None, owner: str, duration_s: float) -> Lease:
        """Take the stream's lease, creating the checkpoint (without a position) when there is none.

        Raises:
            LeaseHeldError: Another owner holds it and it has not run out. Nothing was changed.
        """
        ...

    def renew(self, lease: Lease) -> None:
        """Make the lease last ``duration_s`` from now.

        Raises:
            CheckpointConflictError: It ran out, or another owner took it.
        """
        ...

    def save(self, lease: Lease, position: Position, events: int = 0) -> None:
        """Save the position durably, add ``events`` to the count, and renew the lease.

        Raises:
            CheckpointConflictError: The lease ran out, or another owner took it. Nothing was saved.
        """
        ...

    def record(self, entry: LedgerEntry) -> None:
        """Write the entry into the ledger, durably. The same stream, kind and ``before`` again completes the entry
        that is there (``after``), so a run that fails every two minutes leaves one."""
        ...

    def ledger(self, stream: str | None = None) -> Sequence[LedgerEntry]:
        """The ledger's entries, of one stream or of all, oldest first."""
        ...

    def inherited_position(self, scope: Namespace | None) -> Position | None:
        """Where another system that kept its state here stopped on ``scope``, for a stream without a position."""
        ...

    def release(self, lease: Lease) -> None:
        """Give the lease back, so that the next run need not wait for it to run out. No error if it is lost."""
        ...


if sys.platform == "linux":

    def elapsed_s() -> float:
        """Seconds that only grow, by a clock that nobody sets and that goes on while the machine is suspended."""
        return time.clock_gettime(time.CLOCK_BOOTTIME)
elif sys.platform == "darwin":

    def elapsed_s() -> float:
        """See above; ``time.monotonic`` stands still there while the machine sleeps."""
        return time.clock_gettime(time.CLOCK_MONOTONIC)
else:
    elapsed_s = time.monotonic


class LeaseKeeper:
    """Renews a lease in a thread while a run works, and knows when it is lost.

    A lease that ran out because the store could not be reached in time (an election) is taken again if nobody had it
    meanwhile: then the run goes on as if nothing had been. Until that is known, ``check`` waits.

    Use as a context manager.

    Args:
        store: Where the lease is.
        lease: Just acquired.
        clock: Seconds that only grow.
        asked_at_s: When the lease was asked for, by that clock. It may have begun then: the answer can take its time,
            as in an election.

    Attributes:
        lease: As it is held now.
        is_unknown: Whether ``check`` gave the lease up without an answer of the store.
    """

    def __init__(
        self,
        store: CheckpointStore,
        lease: Lease,
        clock: Callable[[], float] = elapsed_s,
        asked_at_s: float | None = None,
    ) -> None:
        self.lease = lease
        self.is_unknown = False
        self._store = store
        self._clock = clock
        self._over = threading.Event()
        self._taking = threading.Lock()
        self._lost: CheckpointConflictError | None = None
        self._held_until_s = (clock() if asked_at_s is None else asked_at_s) + lease.duration_s
        self._thread = threading.Thread(target=self._renew, name=f"lease {lease.stream}", daemon=True)

    def __enter__(self) -> LeaseKeeper:
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._over.set()
        self._thread.join(timeout=current_deadline().cleanup_s(RELEASE_PATIENCE_S))

    def check(self) -> None:
        """Raise CheckpointConflictError when the lease is lost, or may be: a process that was stopped for longer than
        the lease lasts finds that out here, before it sends anything stale. Also once the run is over: a target that
        still works on something then must not send it after the next run has begun."""
        if self._may_be_lost():
            self._await_answer()
        if self._over.is_set():
            raise CheckpointConflictError(f"the run of stream {self.lease.stream} is over")
        if self._may_be_lost():
            self.is_unknown = True
            self._lost = CheckpointConflictError(
                f"the lease on stream {self.lease.stream} ran out before it could be renewed", hint=LOST_HINT
            )
        if self._lost is not None:
            raise self._lost

    def save(self, position: Position, events: int) -> None:
        """Save the position under the lease, which that renews. Raises as CheckpointStore.save does."""
        self._keep(lambda lease: self._store.save(lease, position, events))

    def _may_be_lost(self) -> bool:
        return self._lost is None and self._clock() >= self._held_until_s

    def _await_answer(self) -> None:
        """Wait until the thread has renewed the lease or found it lost, for as long as trouble is waited for."""
        limit = current_deadline()
        began_s = limit.clock()
        while self._may_be_lost() and self._thread.is_alive():
            give_up_at_s = min(began_s + limit.patience_s, limit.give_up_at_s(began_s))
            if limit.clock() >= give_up_at_s or self._over.wait(_LOOK_EVERY_S):
                return

    def _renew(self) -> None:
        # A third of the duration leaves room for two failed attempts before the lease runs out. While the store cannot
        # be reached the lease may run out; check() then says so, therefore the error itself is not one yet.
        while not self._over.wait(self.lease.duration_s / 3):
            try:
                self._keep(self._store.renew)
            except CheckpointConflictError as error:
                self._lost = error
                return
            except DocdbStreamError:  # the state database's trouble, or that of the secret and the names on the way
                continue

    def _keep(self, renew: Callable[[Lease], None]) -> None:
        """Do what renews the lease; where it had run out, take it again first.

        Raises:
            CheckpointConflictError: Another run took it.
        """
        lease, asked_at_s = self.lease, self._clock()
        try:
            renew(lease)
        except CheckpointConflictError as error:
            self._take_again(lease, error)
            asked_at_s = self._clock()
            renew(self.lease)
        self._held_until_s = max(self._held_until_s, asked_at_s + lease.duration_s)

    def _take_again(self, ran_out: Lease, error: CheckpointConflictError) -> None:
        """Take a lease that ran out, under the next epoch: that it is the next one proves that nobody was between.

        Raises:
            CheckpointConflictError: ``error``: somebody was.
        """
        with self._taking:
            if self.lease is not ran_out:  # another thread just did
                return
            if self._over.is_set():  # nobody works on the stream any more: the lease is the next run's
                raise error
            known = self._store.load(ran_out.stream)
            if known is None or (known.owner, known.epoch) != (ran_out.owner, ran_out.epoch):
                raise error
            try:
                again = self._store.acquire(ran_out.stream, known.scope, ran_out.owner, ran_out.duration_s)
            except LeaseHeldError:
                raise error from None
            if again.epoch > ran_out.epoch + 1:
                self._store.release(again)
                raise error
            logger.info("stream %s: the lease had run out and was taken again", again.stream)
            self.lease = again


_LOOK_EVERY_S = 0.05


@contextmanager
def held_lease(
    store: CheckpointStore, stream: str, scope: Namespace | None, owner: str, duration_s: float
) -> Iterator[LeaseKeeper]:
    """Take a stream's lease, keep it within the block, and give it back after.

    Raises:
        LeaseHeldError: Another owner holds it; the block is not entered.
        StateStoreError: The lease ran out while the store could not be reached, which ended the block.
    """
    asked_at_s = elapsed_s()
    lease = store.acquire(stream, scope, owner, duration_s)
    keeper = LeaseKeeper(store, lease, asked_at_s=asked_at_s)
    try:
        with keeper:
            yield keeper
    except CheckpointConflictError as error:
        if not keeper.is_unknown:
            raise
        raise StateStoreError(
            f"{error}: the state database did not answer",
            hint="nothing is lost: the next run goes on from the checkpoint, once the cluster can be reached",
        ) from error
    finally:
        _give_back(store, keeper.lease)


def _give_back(store: CheckpointStore, lease: Lease) -> None:
    """Give the lease back if that is quickly done; it runs out by itself, and no error of the block is worth hiding."""
    patience_s = current_deadline().cleanup_s(RELEASE_PATIENCE_S)
    try:
        with deadline(Deadline.after(patience_s, patience_s=patience_s)):
            store.release(lease)
    except DocdbStreamError as error:
        logger.warning("stream %s: the lease was not given back, it will run out: %s", lease.stream, error)
