from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from bson import Timestamp
from pymongo import MongoClient

from docdb_stream.checkpoint import CheckpointStore, LedgerEntry
from docdb_stream.connection import Connection
from docdb_stream.events import Position, ResumeToken
from docdb_stream.local import ReplicaSet
from docdb_stream.settings import Settings
from docdb_stream.stores.mongodb import MongoCheckpointStore
from docdb_stream.testing.store_contract import CheckpointStoreContract


@pytest.mark.integration
class TestMongoCheckpointStore(CheckpointStoreContract):
    """Against a real replica set. With a fake and a clock: tests/unit/test_mongodb_store_logic."""

    @pytest.fixture(autouse=True)
    def place(self, replica_set: ReplicaSet, mongo: MongoClient[dict[str, Any]], db_name: str) -> Iterator[None]:
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
