"""The suite that every checkpoint store must pass. Needs pytest.

Subclass ``CheckpointStoreContract`` in a test module and say how a store is made; pytest runs the rest::

    class TestMyStore(CheckpointStoreContract):
        @pytest.fixture(autouse=True)
        def table(self, my_server):              # a fresh, empty one for each test
            self.table = my_server.create_table()

        def make_store(self):
            return MyStore(self.table)
"""

# The names of the tests say what is asked of a store.
# ruff: noqa: D102

from __future__ import annotations

import datetime as dt
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar

import pytest
from bson import Timestamp

from docdb_stream.checkpoint import Checkpoint, CheckpointStore, Lease, LedgerEntry
from docdb_stream.errors import CheckpointConflictError, LeaseHeldError
from docdb_stream.position import Namespace, Position, SnapshotProgress, SnapshotRange
from docdb_stream.testing.positions import KEYS, POSITIONS


class CheckpointStoreContract:
    """What the poller relies on. A subclass named ``Test...`` supplies ``make_store``.

    Attributes:
        short_lease_s: The duration of leases that are meant to run out: long enough for one call, short enough to wait.
    """

    short_lease_s: ClassVar[float] = 0.2

    # What a subclass supplies

    def make_store(self) -> CheckpointStore:
        """A new store on what this test keeps its state in; called several times in a test, to stand for other
        processes."""
        raise NotImplementedError

    def let_expire(self, lease: Lease) -> None:
        """Return once the lease has run out by the store's clock. Stores with a clock to turn replace the waiting."""
        found = self.make_store().load(lease.stream)
        assert found is not None
        assert found.expires_at is not None
        # The store's clock is only known to be near this one, so some time is added.
        while dt.datetime.now(dt.UTC) < found.expires_at + dt.timedelta(milliseconds=50):
            time.sleep(0.01)

    # Fixtures

    @pytest.fixture
    def store(self) -> CheckpointStore:
        """A store."""
        return self.make_store()

    @pytest.fixture
    def other(self) -> CheckpointStore:
        """Another process's store on the same state."""
        return self.make_store()

    # Checkpoints

    def test_missing_is_none(self, store: CheckpointStore) -> None:
        assert store.load("shop.orders") is None
        assert list(store.all()) == []
        assert store.inherited_position(Namespace("shop", "orders")) is None

    @pytest.mark.parametrize(
        "scope", [Namespace("shop", "orders"), Namespace("shop"), None], ids=["collection", "database", "deployment"]
    )
    def test_acquire_creates_without_a_position(
        self, store: CheckpointStore, other: CheckpointStore, scope: Namespace | None
    ) -> None:
        lease = store.acquire("s", scope, "me", 60)
        assert lease == Lease("s", "me", lease.epoch, 60)
        found = _loaded(other, "s")
        assert (found.stream, found.scope, found.position, found.events) == ("s", scope, None, 0)
        assert (found.owner, found.epoch, found.updated_at) == ("me", lease.epoch, None)
        assert found.created_at is not None
        assert found.created_at.tzinfo is not None
        assert found.expires_at is not None
        assert found.expires_at.tzinfo is not None

    @pytest.mark.parametrize("kind", POSITIONS)
    def test_a_position_is_loaded_as_it_was_saved(
        self, store: CheckpointStore, other: CheckpointStore, kind: str
    ) -> None:
        position = POSITIONS[kind]
        store.save(store.acquire("s", None, "me", 60), position)
        found = _loaded(other, "s").position
        assert found == position
        assert found is not None
        assert found.after_invalidate is position.after_invalidate
        if position.token is not None:
            assert found.token is not None
            assert _exactly(found.token.value) == _exactly(position.token.value)

    @pytest.mark.parametrize("kind", KEYS)
    def test_a_snapshots_key_is_loaded_as_it_was_saved(
        self, store: CheckpointStore, other: CheckpointStore, kind: str
    ) -> None:
        reached = SnapshotRange(Namespace("shop", "orders"), after=KEYS[kind])
        position = Position(operation_time=Timestamp(1, 0), snapshot=SnapshotProgress("s", (reached,)))
        store.save(store.acquire("s", None, "me", 60), position)
        assert _loaded(other, "s").position == position

    def test_a_snapshot_is_dropped_by_a_position_without_one(
        self, store: CheckpointStore, other: CheckpointStore
    ) -> None:
        lease = store.acquire("s", None, "me", 60)
        store.save(lease, POSITIONS["token beside a snapshot"])
        store.renew(lease)
        store.release(lease)
        assert _loaded(other, "s").position == POSITIONS["token beside a snapshot"]
        store.save(other.acquire("s", None, "you", 60), POSITIONS["MongoDB token"])
        assert _loaded(other, "s").position == POSITIONS["MongoDB token"]

    def test_a_save_replaces_the_whole_position(self, store: CheckpointStore, other: CheckpointStore) -> None:
        lease = store.acquire("s", None, "me", 60)
        for position in (POSITIONS["token after invalidate"], *POSITIONS.values()):
            store.save(lease, position)
            assert _loaded(other, "s").position == position

    def test_a_save_says_when(self, store: CheckpointStore) -> None:
        lease = store.acquire("s", None, "me", 60)
        store.save(lease, POSITIONS["MongoDB token"])
        saved_at = _loaded(store, "s").updated_at
        assert saved_at is not None
        assert saved_at.tzinfo is not None

    def test_events_are_counted(self, store: CheckpointStore, other: CheckpointStore) -> None:
        lease = store.acquire("s", None, "me", 60)
        store.save(lease, POSITIONS["operation time"])
        store.save(lease, POSITIONS["MongoDB token"], 3)
        store.save(lease, POSITIONS["MongoDB token"], 4)
        store.release(lease)
        assert _loaded(other, "s").events == 7
        other.save(other.acquire("s", None, "you", 60), POSITIONS["MongoDB token"], 1)
        assert _loaded(store, "s").events == 8

    def test_the_list_is_sorted_and_complete(self, store: CheckpointStore, other: CheckpointStore) -> None:
        names = ["shop.orders", "*", "ünicode", "shop.*", "a", "Z"]
        for name in names:
            store.acquire(name, None, "me", 60)
        found = list(other.all())
        assert [each.stream for each in found] == sorted(names)
        assert found == [store.load(name) for name in sorted(names)]

    def test_streams_do_not_touch_each_other(self, store: CheckpointStore, other: CheckpointStore) -> None:
        one = store.acquire("one", None, "me", 60)
        two = other.acquire("two", None, "you", 60)
        store.save(one, POSITIONS["MongoDB token"], 1)
        other.save(two, POSITIONS["operation time"], 2)
        store.release(one)
        assert _loaded(store, "one").position == POSITIONS["MongoDB token"]
        found = _loaded(store, "two")
        assert (found.position, found.events, found.owner) == (POSITIONS["operation time"], 2, "you")

    # Leases

    def test_a_held_lease_is_refused_without_side_effects(self, store: CheckpointStore, other: CheckpointStore) -> None:
        lease = store.acquire("s", None, "me", 60)
        store.save(lease, POSITIONS["MongoDB token"], 2)
        before = store.load("s")
        with pytest.raises(LeaseHeldError, match="me") as caught:
            other.acquire("s", None, "you", 600)
        assert caught.value.hint
        assert store.load("s") == before
        store.save(lease, POSITIONS["operation time"])

    def test_a_released_lease_is_free_at_once(self, store: CheckpointStore, other: CheckpointStore) -> None:
        first = store.acquire("s", None, "me", 60)
        store.save(first, POSITIONS["MongoDB token"], 2)
        store.release(first)
        released = _loaded(other, "s")
        assert (released.owner, released.expires_at) == (None, None)
        second = other.acquire("s", None, "you", 60)
        assert second.epoch == first.epoch + 1
        assert _loaded(store, "s").position == POSITIONS["MongoDB token"]

    def test_a_lease_that_ran_out_is_free(self, store: CheckpointStore, other: CheckpointStore) -> None:
        first = store.acquire("s", None, "me", self.short_lease_s)
        self.let_expire(first)
        second = other.acquire("s", None, "you", 60)
        assert second.epoch == first.epoch + 1
        assert _loaded(store, "s").owner == "you"

    def test_its_holder_takes_a_lease_that_ran_out_under_the_next_epoch(self, store: CheckpointStore) -> None:
        first = store.acquire("s", None, "me", self.short_lease_s)
        self.let_expire(first)
        second = store.acquire("s", None, "me", 60)
        assert second.epoch == first.epoch + 1, "that it is the next one proves that nobody was between"
        store.save(second, POSITIONS["MongoDB token"])
        with pytest.raises(CheckpointConflictError):
            store.save(first, POSITIONS["operation time"])
        assert _loaded(store, "s").position == POSITIONS["MongoDB token"]

    def test_a_stale_holder_saves_nothing(self, store: CheckpointStore, other: CheckpointStore) -> None:
        stale = store.acquire("s", None, "me", self.short_lease_s)
        self.let_expire(stale)
        other.save(other.acquire("s", None, "you", 60), POSITIONS["MongoDB token"], 5)
        before = other.load("s")
        with pytest.raises(CheckpointConflictError) as caught:
            store.save(stale, POSITIONS["operation time"], 9)
        assert caught.value.hint
        with pytest.raises(CheckpointConflictError):
            store.renew(stale)
        assert other.load("s") == before

    def test_a_stale_holder_of_the_same_name_saves_nothing(self, store: CheckpointStore) -> None:
        stale = store.acquire("s", None, "me", 60)
        store.release(stale)
        store.release(store.acquire("s", None, "you", 60))
        store.save(store.acquire("s", None, "me", 60), POSITIONS["MongoDB token"])
        before = store.load("s")
        with pytest.raises(CheckpointConflictError):
            store.save(stale, POSITIONS["operation time"])
        assert store.load("s") == before

    def test_a_holder_whose_lease_ran_out_saves_nothing(self, store: CheckpointStore, other: CheckpointStore) -> None:
        lease = store.acquire("s", None, "me", self.short_lease_s)
        self.let_expire(lease)
        before = other.load("s")
        with pytest.raises(CheckpointConflictError):
            store.save(lease, POSITIONS["MongoDB token"], 1)
        with pytest.raises(CheckpointConflictError):
            store.renew(lease)
        assert other.load("s") == before

    def test_a_released_lease_saves_nothing(self, store: CheckpointStore) -> None:
        lease = store.acquire("s", None, "me", 60)
        store.release(lease)
        before = store.load("s")
        with pytest.raises(CheckpointConflictError):
            store.save(lease, POSITIONS["MongoDB token"])
        with pytest.raises(CheckpointConflictError):
            store.renew(lease)
        assert store.load("s") == before

    def test_renew_and_save_prolong_the_lease(self, store: CheckpointStore) -> None:
        short = store.acquire("s", None, "me", 30)
        longer = Lease(short.stream, short.owner, short.epoch, 600)
        first = _loaded(store, "s").expires_at
        store.renew(longer)
        second = _loaded(store, "s").expires_at
        store.save(Lease(short.stream, short.owner, short.epoch, 6000), POSITIONS["MongoDB token"])
        third = _loaded(store, "s").expires_at
        assert first is not None
        assert second is not None
        assert third is not None
        assert first + dt.timedelta(seconds=500) < second
        assert second + dt.timedelta(seconds=5000) < third

    def test_renew_keeps_the_position(self, store: CheckpointStore) -> None:
        lease = store.acquire("s", None, "me", 60)
        store.save(lease, POSITIONS["MongoDB token"], 3)
        before = _loaded(store, "s")
        store.renew(lease)
        after = _loaded(store, "s")
        assert (after.position, after.events, after.updated_at) == (before.position, 3, before.updated_at)

    def test_release_by_a_stale_holder_changes_nothing(self, store: CheckpointStore, other: CheckpointStore) -> None:
        stale = store.acquire("s", None, "me", self.short_lease_s)
        self.let_expire(stale)
        lease = other.acquire("s", None, "you", 60)
        before = other.load("s")
        store.release(stale)
        assert other.load("s") == before
        other.save(lease, POSITIONS["MongoDB token"])

    def test_release_of_what_is_not_held_is_no_error(self, store: CheckpointStore) -> None:
        store.release(Lease("never made", "me", 1, 60))
        assert store.load("never made") is None
        lease = store.acquire("s", None, "me", 60)
        store.release(lease)
        before = store.load("s")
        store.release(lease)
        assert store.load("s") == before

    # The ledger

    def test_the_ledger_keeps_what_happened(self, store: CheckpointStore, other: CheckpointStore) -> None:
        assert list(store.ledger()) == []
        lost = LedgerEntry("s", "history-lost", POSITIONS["MongoDB token"], "too old", POSITIONS["operation time"])
        reset = LedgerEntry("t", "reset", None, "by hand", POSITIONS["token after invalidate"])
        for entry in (lost, reset):
            store.record(entry)
        assert [replace(entry, found_at=None) for entry in other.ledger("s")] == [lost]
        assert [replace(entry, found_at=None) for entry in other.ledger("t")] == [reset]
        assert {entry.stream for entry in other.ledger()} == {"s", "t"}
        assert all(entry.found_at is not None and entry.found_at.tzinfo is not None for entry in other.ledger())
        assert list(other.all()) == [], "the ledger makes no checkpoints"

    def test_the_ledger_holds_one_entry_of_one_thing(self, store: CheckpointStore, other: CheckpointStore) -> None:
        open_ = LedgerEntry("s", "history-lost", POSITIONS["MongoDB token"], "too old")
        for _ in range(3):
            store.record(open_)
        [first] = other.ledger()
        assert first.after is None
        store.record(replace(open_, after=POSITIONS["operation time"]))
        store.record(open_)
        [completed] = other.ledger()
        assert (completed.after, completed.found_at) == (POSITIONS["operation time"], first.found_at)
        store.record(replace(open_, before=POSITIONS["operation time"]))
        store.record(replace(open_, kind="reset"))
        assert len(other.ledger()) == 3

    def test_the_ledger_keeps_no_snapshot(self, store: CheckpointStore, other: CheckpointStore) -> None:
        with_one, without = POSITIONS["token beside a snapshot"], POSITIONS["MongoDB token"]
        store.record(LedgerEntry("s", "history-lost", with_one, "too old"))
        store.record(LedgerEntry("s", "history-lost", without, "too old", after=with_one))
        assert [(entry.before, entry.after) for entry in other.ledger()] == [(without, without)]

    def test_the_ledger_is_oldest_first(self, store: CheckpointStore) -> None:
        start = dt.datetime(2026, 1, 31, 12, tzinfo=dt.UTC)
        for minutes in (2, 0, 1):
            store.record(
                LedgerEntry(
                    "s",
                    "reset",
                    Position(operation_time=Timestamp(minutes + 1, 0)),
                    "by hand",
                    found_at=start + dt.timedelta(minutes=minutes),
                )
            )
        found = [entry.found_at for entry in store.ledger("s")]
        assert found == [start + dt.timedelta(minutes=minutes) for minutes in range(3)]

    # At the same time

    @pytest.mark.parametrize("state", ["missing", "released", "expired"])
    def test_of_concurrent_acquires_exactly_one_wins(self, store: CheckpointStore, state: str) -> None:
        if state == "released":
            store.release(store.acquire("s", None, "before", 60))
        elif state == "expired":
            self.let_expire(store.acquire("s", None, "before", self.short_lease_s))
        stores = [self.make_store() for _ in range(6)]
        outcomes = _at_once([partial(each.acquire, "s", None, f"run {n}", 60) for n, each in enumerate(stores)])
        [winner] = [outcome for outcome in outcomes if isinstance(outcome, Lease)]
        assert sum(isinstance(outcome, LeaseHeldError) for outcome in outcomes) == len(stores) - 1
        found = _loaded(store, "s")
        assert (found.owner, found.epoch) == (winner.owner, winner.epoch)
        store.save(winner, POSITIONS["MongoDB token"])

    def test_of_concurrent_saves_the_holders_wins(self, store: CheckpointStore, other: CheckpointStore) -> None:
        stale = store.acquire("s", None, "me", self.short_lease_s)
        self.let_expire(stale)
        lease = other.acquire("s", None, "you", 60)
        old, new = POSITIONS["operation time"], POSITIONS["MongoDB token"]
        for round_ in range(1, 6):
            outcomes = _at_once([lambda: store.save(stale, old, 100), lambda: other.save(lease, new, 1)])
            assert isinstance(outcomes[0], CheckpointConflictError)
            assert outcomes[1] is None
            found = _loaded(store, "s")
            assert (found.position, found.events) == (new, round_)

    def test_save_and_takeover_at_once_leave_one_of_two_histories(
        self, store: CheckpointStore, other: CheckpointStore
    ) -> None:
        stale = store.acquire("s", None, "me", self.short_lease_s)
        store.save(stale, POSITIONS["operation time"], 1)
        self.let_expire(stale)
        saved, taken = _at_once(
            [lambda: store.save(stale, POSITIONS["MongoDB token"], 1), lambda: other.acquire("s", None, "you", 60)]
        )
        assert isinstance(saved, CheckpointConflictError)
        assert isinstance(taken, Lease)
        assert _loaded(store, "s").position == POSITIONS["operation time"]

    def test_any_thread_may_renew_while_another_saves(self, store: CheckpointStore) -> None:
        lease = store.acquire("s", None, "me", 60)

        def renew() -> None:
            for _ in range(20):
                store.renew(lease)

        def save() -> None:
            for _ in range(20):
                store.save(lease, POSITIONS["MongoDB token"], 1)

        assert _at_once([renew, save, renew]) == [None, None, None]
        assert _loaded(store, "s").events == 20


def _loaded(store: CheckpointStore, stream: str) -> Checkpoint:
    found = store.load(stream)
    assert found is not None
    return found


def _exactly(value: Any) -> Any:
    """A value that is equal only to one with the same types and the same order of keys."""
    if isinstance(value, dict):
        return [(key, _exactly(inner)) for key, inner in value.items()]
    if isinstance(value, list):
        return [_exactly(inner) for inner in value]
    return (type(value), value)


def _at_once(steps: Sequence[Callable[[], object]]) -> list[object]:
    """Run each step in a thread of its own, all let go together; their results, or the errors of the contract."""
    start = threading.Barrier(len(steps))

    def run(step: Callable[[], object]) -> object:
        start.wait(timeout=10)
        try:
            return step()
        except (LeaseHeldError, CheckpointConflictError) as error:
            return error

    with ThreadPoolExecutor(len(steps)) as pool:
        return list(pool.map(run, steps))
