"""Comparing graphs with the source: the tests of test_verify.py that are about documents, and what only graphs have."""

from __future__ import annotations

import datetime as dt
import itertools
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import neo4j
import pytest
from bson import Decimal128, Int64
from contract.neptune_server import NeptuneServer
from integration import test_verify
from integration.test_verify import Make, Mongo, Stream, count_of, delete_unseen

from docdb_stream.held import Held
from docdb_stream.local import ArcadeServer, ReplicaSet
from docdb_stream.local.arcadedb import PASSWORD
from docdb_stream.position import Namespace
from docdb_stream.targets import build_targets

pytestmark = pytest.mark.integration

_numbers = itertools.count()
NODES = "orders: Order{0}(id=_id, total=total, at=at, list=list, document=.), other: Other{0}(id=_id)"
EDGES = "orders: (Order{0} id=_id)-[HAS count=items[].count]->(Thing{0} sku=items[].sku)"


class Nodes(Stream):
    pause_s = 0.05  # the local server takes some hundred a second

    def __init__(
        self, uri: str, mongo: Mongo, db_name: str, driver: neo4j.Driver, database: str, **values: Any
    ) -> None:
        self.mark = f"V{next(_numbers)}"
        self._driver, self._database = driver, database
        super().__init__(uri, mongo, db_name, **values)

    def ask(self, statement: str, **parameters: Any) -> list[dict[str, Any]]:
        rows = self._driver.execute_query(statement, parameters, database_=self._database).records
        return [row.data() for row in rows]

    def label(self, coll: str) -> str:
        return {"orders": "Order", "other": "Other"}[coll] + self.mark

    def spoil(self, coll: str, key: Any) -> None:
        self.ask(f"MATCH (n:{self.label(coll)} {{id: $id}}) SET n.document = 'spoilt'", id=str(key))

    def lose(self, coll: str, key: Any) -> None:
        """Its guard too: else it is there, and differs."""
        name = f"{self.db.name}.{coll}/{key}"
        self.ask(f"MATCH (n:{self.label(coll)} {{id: $id}}) DETACH DELETE n", id=str(key))
        self.ask("MATCH (g:DocdbStream {key: $key}) DELETE g", key=name)

    def keys(self, coll: str) -> set[str]:
        return {
            row["id"] for row in self.ask(f"MATCH (n:{self.label(coll)}) WHERE n._doc IS NOT NULL RETURN n.id AS id")
        }


@pytest.fixture(scope="module")
def driver(neo4j_server: ArcadeServer) -> Iterator[neo4j.Driver]:
    with neo4j.GraphDatabase.driver(neo4j_server.uri, auth=("root", PASSWORD), connection_timeout=20) as made:
        yield made


@pytest.fixture(scope="module")
def neptune(driver: neo4j.Driver, neo4j_server: ArcadeServer) -> Iterator[NeptuneServer]:
    with NeptuneServer(driver, neo4j_server.other_database) as server:
        yield server


@pytest.fixture(params=["neo4j", "neptune"])
def make(
    request: pytest.FixtureRequest,
    replica_set: ReplicaSet,
    mongo: Mongo,
    db_name: str,
    driver: neo4j.Driver,
    neo4j_server: ArcadeServer,
    neptune: NeptuneServer,
    monkeypatch: pytest.MonkeyPatch,
) -> Make:
    monkeypatch.setenv("GRAPH_WRITER", neo4j_server.secret)
    for name, value in {
        "AWS_ACCESS_KEY_ID": "a",
        "AWS_SECRET_ACCESS_KEY": "b",
        "AWS_DEFAULT_REGION": "eu-central-1",
    }.items():
        monkeypatch.setenv(name, value)
    kind = request.param
    database = neo4j_server.database if kind == "neo4j" else neo4j_server.other_database

    def made(**values: Any) -> Stream:
        stream = Nodes(replica_set.uri, mongo, db_name, driver, database, **values)
        mapping = {f"{kind}_nodes": NODES.format(stream.mark), f"{kind}_edges": EDGES.format(stream.mark)}
        where = {"neo4j_uri": neo4j_server.uri, "neo4j_secret": "env:GRAPH_WRITER", "neo4j_database": database}
        own = where if kind == "neo4j" else {"neptune_endpoint": neptune.url}
        Stream.__init__(stream, replica_set.uri, mongo, db_name, **own, **mapping, **values)
        return stream

    return made


test_what_is_equal_needs_no_run_beside_it = test_verify.test_what_is_equal_needs_no_run_beside_it
test_what_was_planted_is_found_and_repaired = test_verify.test_what_was_planted_is_found_and_repaired
test_a_collection_that_was_dropped_unseen = test_verify.test_a_collection_that_was_dropped_unseen
test_what_was_deleted_while_the_history_was_lost = pytest.mark.long(
    test_verify.test_what_was_deleted_while_the_history_was_lost_is_found
)
test_a_sample_says_how_much_it_proves = pytest.mark.long(test_verify.test_a_sample_says_how_much_it_proves)


def test_nodes_relationships_and_values(make: Make) -> None:
    stream = make()
    assert isinstance(stream, Nodes)
    stream.run()
    values = [1, 1.0, Int64(2**60), -0.0, float("nan"), Decimal128("1.10"), "text\0", True, None, {"a": [1]}, b"x"]
    documents = [
        {
            "_id": number,
            "total": value,
            "at": dt.datetime(2026, 1, 2, 3, 4, 5, 678000),
            "list": [value, value],
            "items": [{"sku": f"s{number % 3}", "count": number}, {"sku": "s1", "count": 7}],
        }
        for number, value in enumerate(values)
    ]
    stream.db.orders.insert_many(documents)
    assert stream.run().rejections == 0
    result = stream.verify()
    assert (count_of(result), result.documents) == ({}, len(values))
    mark = stream.mark
    stream.ask(f"MATCH (:Order{mark} {{id: '3'}})-[r:HAS]->(:Thing{mark} {{sku: 's1'}}) DELETE r")
    stream.ask(f"MATCH (:Order{mark} {{id: '4'}})-[r:HAS]->(:Thing{mark} {{sku: 's1'}}) SET r.count = 8")
    stream.ask(f"MATCH (n:Order{mark} {{id: '7'}}) SET n.score = 5")
    stays = "neptune_endpoint" in stream.settings.model_fields_set
    alien = f"MATCH (a:Order{mark} {{id: '5'}}), (b:Thing{mark} {{sku: 's0'}})"
    stream.ask(f"{alien} CREATE (a)-[:HAS {{_doc: a._doc, count: 1}}]->(b)")
    stream.ask(f"MATCH (n:Order{mark} {{id: '6'}}) SET n.at = '2026'")
    assert count_of(stream.verify()) == {"differing": 4 if stays else 5}  # Neptune lets a property of others stay
    assert stream.verify(repair=True).is_equal
    delete_unseen(stream, 0, 1)
    with stream.running():
        assert count_of(stream.verify()) == {"too many": 2}
        assert stream.verify(repair=True).is_equal
    assert stream.keys("orders") == {str(number) for number in range(2, len(values))}


def test_collections_with_the_same_ids_are_told_apart(make: Make) -> None:
    stream = make()
    stream.run()
    keys = [*range(60)]
    for coll in ("orders", "other"):
        stream.db[coll].insert_many([{"_id": key} for key in keys])
    stream.run()
    for key in keys[:40]:
        stream.lose("orders", key)
    for key in keys[30:50]:
        stream.lose("other", key)
    [target] = build_targets(stream.settings)
    with closing(target):
        holdings = target.holdings()  # type: ignore[attr-defined]
        wanted = [
            Held(holdings.place_of(Namespace(stream.db.name, coll)), str(key).encode(), b"")
            for coll in ("orders", "other")
            for key in keys
        ]
        for asked in (wanted, wanted[::-1]):
            there = [each.digest is not None for each in holdings.look(asked)]
            assert there == [
                int(each.key) not in (keys[:40] if each.place.endswith("orders") else keys[30:50]) for each in asked
            ]
    assert count_of(stream.verify()) == {"missing": 60}
    result = stream.verify(repair=True)
    assert (result.repaired, result.is_equal) == (60, True)
    assert stream.keys("orders") == stream.keys("other") == {str(key) for key in keys}


def test_several_rules_may_make_relationships_of_one_type(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    both = f"{EDGES}, orders: (Order{{0}} id=_id)-[HAS count=count]->(Thing{{0}} sku=first)"
    monkeypatch.setitem(globals(), "EDGES", both)
    stream = make()
    stream.run()
    stream.db.orders.insert_many(
        [{"_id": key, "first": "s0", "count": key, "items": [{"sku": "s0", "count": 1}]} for key in range(5)]
    )
    stream.run()
    assert count_of(stream.verify()) == {}
    assert isinstance(stream, Nodes)
    stream.ask(f"MATCH (:Order{stream.mark} {{id: '3'}})-[r:HAS {{count: 3}}]->(:Thing{stream.mark}) DELETE r")
    assert count_of(stream.verify()) == {"differing": 1}
    assert stream.verify(repair=True).is_equal
