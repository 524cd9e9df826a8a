from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import bson
import pytest
from bson import DatetimeMS, Timestamp
from pymongo import MongoClient

from docdb_stream.checkpoint import CheckpointStore, LedgerEntry
from docdb_stream.errors import StateStoreError
from docdb_stream.local import ReplicaSet
from docdb_stream.mongodb.connection import Connection
from docdb_stream.position import Namespace, Position, ResumeToken, SnapshotProgress, SnapshotRange
from docdb_stream.settings import Settings
from docdb_stream.stores.mongodb import MongoCheckpointStore
from docdb_stream.testing.store_contract import CheckpointStoreContract


@pytest.mark.integration
class TestMongoCheckpointStore(CheckpointStoreContract):
    """Against a real replica set. With a fake and a clock: tests/unit/test_mongodb_store_logic."""

    @pytest.fixture(autouse=True)
    def state_of_this_test(
        self, replica_set: ReplicaSet, mongo: MongoClient[dict[str, Any]], db_name: str
    ) -> Iterator[None]:
        self.settings = Settings(documentdb_uri=replica_set.uri, state_db=db_name)
        self.connections: list[Connection] = []
        yield
        for connection in self.connections:
            connection.close()
        mongo.drop_database(db_name)

    def make_store(self) -> CheckpointStore:
        self.connections.append(Connection(self.settings))
        return MongoCheckpointStore(self.settings, self.connections[-1])

    def test_an_entry_of_two_positions_as_large_as_tokens_get_fits_the_ledger(self) -> None:
        store = self.make_store()
        before, after = (Position(ResumeToken({"_data": digit * 8_388_000}), Timestamp(1, 1)) for digit in "AB")
        store.record(LedgerEntry("orders", "stepped-past", before, "too large", after=after))
        [found] = store.ledger()
        assert (found.before, found.after) == (Position(operation_time=Timestamp(1, 1)),) * 2

    @pytest.mark.parametrize("size_bytes", [9 << 20, 17 << 20, 1 << 24], ids=["with the token", "alone", "by little"])
    def test_a_position_that_no_checkpoint_holds_is_said_so_and_changes_nothing(self, size_bytes: int) -> None:
        """A document of 16 MB is the servers' limit; a token can be of 8, a key of a snapshot of 16."""
        token = ResumeToken({"_data": "A" * 8_000_000})
        key = bson.encode({"_id": "k" * size_bytes})
        too_large = Position(
            token if size_bytes == 9 << 20 else ResumeToken({"_data": "A"}),
            Timestamp(1, 1),
            snapshot=SnapshotProgress("s", (SnapshotRange(Namespace("shop", "orders"), after=key),)),
        )
        store = self.make_store()
        lease = store.acquire("orders", None, "me", 60)
        large = bson.encode({"_id": "k" * (15 << 20)})
        fits = Position(
            operation_time=Timestamp(1, 0),
            snapshot=SnapshotProgress("s", (SnapshotRange(Namespace("shop", "orders"), after=large),)),
        )
        store.save(lease, fits)
        before = store.load("orders")
        assert before is not None
        assert before.position == fits
        with pytest.raises(StateStoreError) as caught:
            store.save(lease, too_large, 1)
        assert "docdb-stream reset" in caught.value.hint
        assert "kkk" not in str(caught.value)
        assert store.load("orders") == before
        store.save(lease, Position(operation_time=Timestamp(2, 0)), 1)

    def test_a_date_that_python_has_not_is_said_so(self, mongo: MongoClient[dict[str, Any]]) -> None:
        store = self.make_store()
        store.release(store.acquire("orders", None, "me", 60))
        state = mongo[self.settings.state_db][self.settings.state_collection]
        state.update_one({"_id": "orders"}, {"$set": {"updated_at": DatetimeMS(2**60)}})
        for attempt in (lambda: store.load("orders"), store.all, lambda: store.acquire("orders", None, "me", 60)):
            with pytest.raises(StateStoreError) as caught:
                attempt()
            assert "docdb-stream reset" in caught.value.hint

    def test_the_ledger_holds_positions_of_any_size(self) -> None:
        """A token holds its document's ``_id``; two of them can be more than a document of the ledger holds."""
        before, after = (
            Position.at_token(ResumeToken({"_data": f"82{1_769_860_800 + number:08X}{1:08X}" + "6B" * 4_500_000}))
            for number in range(2)
        )
        store = self.make_store()
        store.record(LedgerEntry("s", "stepped-past", before, "too large", after=after))
        store.record(LedgerEntry("s", "stepped-past", after, "too large", after=after))
        times = [(entry.before.time, entry.after.time) for entry in store.ledger("s") if entry.before and entry.after]
        assert times == [(before.time, after.time), (after.time, after.time)]
