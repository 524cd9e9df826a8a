import datetime as dt
from types import SimpleNamespace

import pytest

from docdb_stream.checkpoint import CheckpointStore, Lease
from docdb_stream.errors import LeaseHeldError
from docdb_stream.stores import memory
from docdb_stream.stores.memory import MemoryCheckpointStore
from docdb_stream.testing.store_contract import CheckpointStoreContract


class TestMemoryCheckpointStore(CheckpointStoreContract):
    @pytest.fixture(autouse=True)
    def state_of_this_test(self) -> None:
        self.now = dt.datetime(2026, 1, 31, 12, tzinfo=dt.UTC)
        self.store = MemoryCheckpointStore(clock=lambda: self.now)

    def make_store(self) -> CheckpointStore:
        return self.store

    def let_expire(self, lease: Lease) -> None:
        self.now += dt.timedelta(seconds=lease.duration_s)

    def test_a_lease_lasts_until_its_last_moment(self) -> None:
        lease = self.store.acquire("s", None, "me", 60)
        self.now += dt.timedelta(seconds=59.999)
        self.store.renew(lease)
        self.now += dt.timedelta(seconds=59.999)
        self.store.renew(lease)
        found = self.store.load("s")
        assert found is not None
        assert found.expires_at == self.now + dt.timedelta(seconds=60)


class Stepped(dt.datetime):
    """The machine's clock, set 90 s ahead."""

    @classmethod
    def now(cls, tz: dt.tzinfo | None = None) -> dt.datetime:  # type: ignore[override]
        return dt.datetime.now(tz) + dt.timedelta(seconds=90)


def test_a_step_of_the_machines_clock_takes_no_live_lease(monkeypatch: pytest.MonkeyPatch) -> None:
    store = MemoryCheckpointStore()
    lease = store.acquire("s", None, "me", 60)
    monkeypatch.setattr(memory, "dt", SimpleNamespace(datetime=Stepped, timedelta=dt.timedelta, UTC=dt.UTC))
    with pytest.raises(LeaseHeldError):
        store.acquire("s", None, "you", 60)
    store.renew(lease)
