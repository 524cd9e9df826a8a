"""The keeper of a lease: what becomes of a run whose lease ran out while the store was away."""

# A lease is lost by several steps.
# ruff: noqa: PT012, SIM117

from __future__ import annotations

import datetime as dt
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from bson import Timestamp

from docdb_stream.checkpoint import Lease
from docdb_stream.context import Deadline, deadline
from docdb_stream.errors import CheckpointConflictError, ConfigError, StateStoreError
from docdb_stream.events import Namespace, Position
from docdb_stream.lease import LeaseKeeper, held_lease
from docdb_stream.stores.memory import MemoryCheckpointStore

POSITION = Position(operation_time=Timestamp(7, 1))


class Store(MemoryCheckpointStore):
    """A store that can be away; its clock is turned by hand."""

    def __init__(self) -> None:
        self.now = dt.datetime(2026, 1, 31, tzinfo=dt.UTC)
        super().__init__(lambda: self.now)
        self.back = threading.Event()
        self.back.set()

    def _reached(self) -> None:
        if not self.back.wait(20):
            raise StateStoreError("away")

    def renew(self, lease: Lease) -> None:
        self._reached()
        super().renew(lease)

    def save(self, lease: Lease, position: Position, events: int = 0) -> None:
        self._reached()
        super().save(lease, position, events)

    def acquire(self, stream: str, scope: Namespace | None, owner: str, duration_s: float) -> Lease:
        self._reached()
        return super().acquire(stream, scope, owner, duration_s)

    def pass_by(self, seconds: float) -> None:
        self.now += dt.timedelta(seconds=seconds)


@pytest.fixture
def store() -> Store:
    return Store()


def until(condition: Callable[[], Any]) -> None:
    give_up_at_s = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < give_up_at_s
        time.sleep(0.005)


def epoch(store: Store) -> int:
    found = store.load("s")
    assert found is not None
    return found.epoch


def test_a_lease_that_ran_out_and_nobody_took_is_taken_again(store: Store) -> None:
    with held_lease(store, "s", None, "me", 0.3) as keeper:
        store.back.clear()
        until(keeper._may_be_lost)
        store.pass_by(1)
        timer = threading.Timer(0.3, store.back.set)
        timer.start()
        keeper.check()  # waits until the store is back
        assert keeper.lease.epoch == epoch(store) == 2
        keeper.save(POSITION, 3)
    found = store.load("s")
    assert found is not None
    assert (found.position, found.events, found.owner) == (POSITION, 3, None)


def test_a_save_that_came_too_late_takes_it_again_as_well(store: Store) -> None:
    with held_lease(store, "s", None, "me", 60) as keeper:
        store.pass_by(61)
        keeper.save(POSITION, 3)
        assert keeper.lease.epoch == 2
        keeper.check()
    found = store.load("s")
    assert found is not None
    assert (found.position, found.events, found.owner) == (POSITION, 3, None)


@pytest.mark.parametrize("still_held", [True, False])
def test_a_lease_that_another_run_had_meanwhile_is_lost(store: Store, still_held: bool) -> None:
    with pytest.raises(CheckpointConflictError), held_lease(store, "s", None, "me", 60) as keeper:
        store.pass_by(61)
        other = store.acquire("s", None, "you", 60)
        if not still_held:
            store.release(other)
        before = store.load("s")
        try:
            keeper.save(POSITION, 3)
        finally:
            assert store.load("s") == before, "the loser changes nothing"


def test_another_run_that_comes_between_the_look_and_the_taking_wins(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = store.load

    def look_too_early(stream: str) -> Any:
        found = load(stream)
        store.release(store.acquire("s", None, "you", 60))
        return found

    with pytest.raises(CheckpointConflictError), held_lease(store, "s", None, "me", 60) as keeper:
        store.pass_by(61)
        monkeypatch.setattr(store, "load", look_too_early)
        keeper.save(POSITION, 3)
    found = load("s")
    assert found is not None
    assert (found.position, found.owner) == (None, None)


def test_a_store_that_stays_away_is_the_error_of_the_run(store: Store) -> None:
    store.back = threading.Event()
    store.back.set()
    limit = Deadline(patience_s=0.2)
    with deadline(limit), pytest.raises(StateStoreError, match="did not answer") as caught:
        with held_lease(store, "s", None, "me", 0.2) as keeper:
            store.back.clear()
            until(keeper._may_be_lost)
            try:
                keeper.check()
            finally:
                store.back.set()
    assert caught.value.hint


def test_a_stop_ends_the_wait_for_the_store(store: Store) -> None:
    limit = Deadline()
    with deadline(limit), pytest.raises(StateStoreError):
        with held_lease(store, "s", None, "me", 0.2) as keeper:
            store.back.clear()
            until(keeper._may_be_lost)
            limit.stop.set()
            started_s = time.monotonic()
            try:
                keeper.check()
            finally:
                store.back.set()
                assert time.monotonic() - started_s < 10


def test_nothing_is_sent_once_the_run_is_over(store: Store) -> None:
    with held_lease(store, "s", None, "me", 60) as keeper:
        keeper.check()
    with pytest.raises(CheckpointConflictError, match="is over"):
        keeper.check()


def test_of_threads_that_find_it_run_out_one_takes_it_again(store: Store) -> None:
    with held_lease(store, "s", None, "me", 60) as keeper:
        assert isinstance(keeper, LeaseKeeper)
        store.pass_by(61)
        threads = [threading.Thread(target=lambda: keeper.save(POSITION, 1)) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
        assert epoch(store) == 2
    found = store.load("s")
    assert found is not None
    assert found.events == 8


def test_a_secret_that_cannot_be_read_for_a_moment_does_not_end_the_renewals() -> None:
    store = MemoryCheckpointStore()
    renew, renewed, failed = store.renew, threading.Event(), []

    def sometimes(lease: Lease) -> None:
        if not failed:
            failed.append(True)
            raise ConfigError("cannot read the secret: ThrottlingException")
        renew(lease)
        renewed.set()

    store.renew = sometimes  # type: ignore[method-assign]
    with held_lease(store, "s", None, "me", 0.9) as keeper:
        assert renewed.wait(30)
        keeper.check()


def test_a_renewal_that_is_answered_after_its_run_leaves_the_lease_alone() -> None:
    store, begun, answered, done = MemoryCheckpointStore(), threading.Event(), threading.Event(), threading.Event()
    renew = store.renew

    def slowly(lease: Lease) -> None:
        begun.set()
        answered.wait(30)
        try:
            renew(lease)
        finally:
            done.set()

    def is_away(lease: Lease) -> None:
        raise StateStoreError("the state database is away")

    store.renew, store.release = slowly, is_away  # type: ignore[method-assign]
    with deadline(Deadline.after(0.5)), held_lease(store, "s", None, "me", 0.3):
        assert begun.wait(30)
    time.sleep(0.5)  # the lease runs out
    threads = [thread for thread in threading.enumerate() if thread.name == "lease s"]
    answered.set()
    assert done.wait(30)
    for thread in threads:
        thread.join(30)
    assert store.acquire("s", None, "the next run", 60)
