"""Holds a stream's lease while a run works on it: takes it, renews it, knows when it is lost, gives it back.

Owns the clock by which a holder judges that. What a lease is, and who may take one, is ``checkpoint``'s.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

from docdb_stream.checkpoint import Checkpoint, CheckpointStore, Lease
from docdb_stream.context import Deadline, current_deadline, current_run, deadline
from docdb_stream.errors import CheckpointConflictError, DocdbStreamError, LeaseHeldError, StateStoreError
from docdb_stream.position import Namespace, Position

logger = logging.getLogger(__name__)

RELEASE_PATIENCE_S = 2.0
"""How long to try to give the lease back, and to wait for a renewal under way, at most."""

_LOOK_EVERY_S = 0.05


if sys.platform == "linux":

    def elapsed_s() -> float:
        """Seconds that only grow, by a clock that nobody sets and that goes on while the machine is suspended."""
        return time.clock_gettime(time.CLOCK_BOOTTIME)
elif sys.platform == "darwin":

    def elapsed_s() -> float:
        """Seconds that only grow, as on Linux; ``time.monotonic`` stands still on macOS while the machine sleeps."""
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
        self._checkpoint = Checkpoint(lease.stream)
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
            self._lost = self.lease.lost("ran out before it could be renewed")
        if self._lost is not None:
            raise self._lost

    def epoch(self) -> int:
        """The epoch of the lease, as it is held now."""
        return self.lease.epoch

    @property
    def saved(self) -> Position | None:
        """The position as it was saved last."""
        return self._checkpoint.position

    def load(self) -> Checkpoint | None:
        """The checkpoint, from which the run goes on. Raises as CheckpointStore.load does."""
        found = self._store.load(self.lease.stream)
        self._goes_on_from(found or self._checkpoint)
        return found

    def save(self, position: Position, events: int) -> None:
        """Save the position under the lease, which that renews. Raises as CheckpointStore.save does."""
        self._keep(lambda lease: self._store.save(lease, position, events))
        self._goes_on_from(self._moved(position, events))

    def announce(self, position: Position, events: int) -> None:
        """Let targets know what will be saved once they are flushed."""
        moved = self._moved(position, events)
        current_run().next_checkpoint, current_run().next_order = moved.name, moved.order
        current_run().next_snapshot = position.snapshot

    def _moved(self, position: Position, events: int) -> Checkpoint:
        return replace(self._checkpoint, position=position, events=self._checkpoint.events + events)

    def _goes_on_from(self, checkpoint: Checkpoint) -> None:
        self._checkpoint = checkpoint
        run = current_run()
        run.checkpoint, run.next_checkpoint, run.next_order = checkpoint.name, "", ""
        run.snapshot, run.next_snapshot = checkpoint.position.snapshot if checkpoint.position else None, None

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
