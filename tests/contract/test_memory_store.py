import datetime as dt

import pytest

from docdb_stream.checkpoint import CheckpointStore, Lease
from docdb_stream.stores.memory import MemoryCheckpointStore
from docdb_stream.testing.store_contract import CheckpointStoreContract


class TestMemoryCheckpointStore(CheckpointStoreContract):
    @pytest.fixture(autouse=True)
    def place(self) -> None:
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
