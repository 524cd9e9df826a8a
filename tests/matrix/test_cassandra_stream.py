"""A stream into Cassandra itself: what verify says of it, a server that is killed and comes back, a snapshot shared."""

from __future__ import annotations

import itertools
import json
import random
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from cassandra.cluster import Cluster, Session
from integration import test_verify
from integration.test_verify import Make, Mongo, Stream, count_of
from matrix.servers.cassandra import Cassandra

from docdb_stream.local import ReplicaSet

pytestmark = pytest.mark.matrix

_keyspaces = itertools.count()
_BODY = "(id text = _id, document text = ., PRIMARY KEY (id))"
_MOVING = "(n varint, id text = _id, document text = ., PRIMARY KEY ((n), id))"


class Tables(Stream):
    def __init__(
        self, uri: str, mongo: Mongo, db_name: str, server: Cassandra, session: Session, **values: Any
    ) -> None:
        self.keyspace = f"verify_{next(_keyspaces)}"
        self._session = session
        replication = "{'class': 'SimpleStrategy', 'replication_factor': 1}"
        self.ask(f"CREATE KEYSPACE {self.keyspace} WITH replication = {replication}")
        tables = [f"{coll}: {coll} {_BODY}" for coll in ("orders", "other", "ticks", "renamed", "archive")]
        own = {
            "cassandra_hosts": f"127.0.0.1:{server.port}",
            "cassandra_keyspace": self.keyspace,
            "cassandra_tables": ", ".join([*tables, f"orders: orders_by_n {_MOVING}"]),
            "cassandra_create": "true",
            **values,
        }
        super().__init__(uri, mongo, db_name, **own)

    def ask(self, statement: str, *values: Any) -> list[Any]:
        return list(self._session.execute(statement, values) or ())

    def spoil(self, coll: str, key: Any) -> None:
        self.ask(f"UPDATE {self.keyspace}.{coll} SET document = 'spoilt' WHERE id = %s", str(key))

    def lose(self, coll: str, key: Any) -> None:
        self.ask(f"DELETE FROM {self.keyspace}.{coll} WHERE id = %s", str(key))

    def keys(self, coll: str) -> set[str]:
        return {row.id for row in self.ask(f"SELECT id FROM {self.keyspace}.{coll}")}


@pytest.fixture(scope="module")
def session(cassandra: Cassandra) -> Iterator[Session]:
    with Cluster(["127.0.0.1"], port=cassandra.port, connect_timeout=60) as cluster:
        made = cluster.connect()
        made.default_timeout = 60
        yield made


@pytest.fixture
def make(replica_set: ReplicaSet, mongo: Mongo, db_name: str, cassandra: Cassandra, session: Session) -> Make:
    return lambda **values: Tables(replica_set.uri, mongo, db_name, cassandra, session, **values)


test_what_is_equal_needs_no_run_beside_it = test_verify.test_what_is_equal_needs_no_run_beside_it
test_a_sample_says_how_much_it_proves = test_verify.test_a_sample_says_how_much_it_proves
test_what_was_deleted_while_the_history_was_lost = test_verify.test_what_was_deleted_while_the_history_was_lost_is_found
test_a_collection_that_was_dropped_unseen = test_verify.test_a_collection_that_was_dropped_unseen


def test_rows_that_move_while_they_are_compared(make: Make) -> None:
    stream = make()
    stream.run()
    stream.db.orders.insert_many([{"_id": number, "n": number % 7} for number in range(300)])
    stream.run()
    stop = threading.Event()

    def write(seed: int) -> None:
        chance = random.Random(seed)
        while not stop.wait(0.005):
            key, kind = chance.randrange(250), chance.random()
            if kind < 0.2:
                stream.db.orders.delete_one({"_id": key})
            elif kind < 0.3:
                stream.db.orders.replace_one({"_id": key}, {"other": 1}, upsert=True)
            else:
                stream.db.orders.replace_one({"_id": key}, {"n": chance.randrange(7)}, upsert=True)

    writers = [threading.Thread(target=write, args=(seed,), daemon=True) for seed in range(2)]
    with stream.running():
        for thread in writers:
            thread.start()
        try:
            assert set(count_of(stream.verify())) <= {"changing"}
            stream.spoil("orders", 270)
            stream.lose("orders", 271)
            found = count_of(stream.verify())
            found.pop("changing", None)
            assert found == {"differing": 2}  # of each, another table has a row
        finally:
            stop.set()
            for thread in writers:
                thread.join(30)
        assert stream.verify(repair=True).is_equal
        expected = {str(each["_id"]): each for each in stream.db.orders.find()}
        assert stream.keys("orders") == set(expected)
        rows = stream.ask(f"SELECT id, n, document FROM {stream.keyspace}.orders_by_n")  # type: ignore[attr-defined]
        assert {row.id: row.n for row in rows} == {key: each["n"] for key, each in expected.items() if "n" in each}
        assert all(json.loads(row.document)["n"] == row.n for row in rows)


def test_a_server_that_is_killed_and_comes_back(
    replica_set: ReplicaSet, mongo: Mongo, db_name: str, entered: Callable[[Any], Any]
) -> None:
    server = entered(Cassandra())
    with Cluster(["127.0.0.1"], port=server.port, connect_timeout=60) as cluster:
        stream = Tables(replica_set.uri, mongo, db_name, server, cluster.connect())
        stream.run()
    stream.db.orders.insert_many([{"_id": number, "n": number % 7} for number in range(2000)])
    killed = threading.Timer(0.5, lambda: (server.kill(), server.restart()))
    killed.start()
    result = stream.run()
    killed.join()
    assert result.rejections == 0
    stream.db.orders.update_many({"_id": {"$lt": 500}}, {"$inc": {"n": 1}})
    stream.db.orders.delete_many({"_id": {"$gte": 1900}})
    stream.run()
    result = stream.verify()
    assert (result.documents, result.is_equal) == (1900, True)
