from __future__ import annotations

import itertools
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from typing import Any

import neo4j
import orjson
import pytest
from bson import Decimal128, Int64

from docdb_stream.context import Deadline, RunContext, running
from docdb_stream.errors import ConfigError, TargetError
from docdb_stream.events import ChangeEvent
from docdb_stream.local import ArcadeServer
from docdb_stream.local.arcadedb import DATABASE, PASSWORD
from docdb_stream.target import Rejection
from docdb_stream.targets._canonical import canonical_json
from docdb_stream.targets.neo4j import Neo4jTarget
from docdb_stream.testing.contract import Delivered, TargetContract
from docdb_stream.testing.events import ChangeLog
from docdb_stream.testing.versioned_contract import VersionedContract

pytestmark = pytest.mark.integration

NODES = "orders: Order(id=_id, n=n, document=.)"
_streams = itertools.count()


class Store:
    """The graph, empty for each test, and a client of its own."""

    def __init__(self, server: ArcadeServer, driver: neo4j.Driver) -> None:
        self.uri = server.uri
        self._driver = driver
        self.stream = f"orders{next(_streams)}"

    def target(self, uri: str = "", **options: Any) -> Neo4jTarget:
        given = {"nodes": NODES, "stream": self.stream, "secret": "env:GRAPH_WRITER", "database": DATABASE}
        return Neo4jTarget(uri or self.uri, **{**given, **options})

    def deliver(self, *events: ChangeEvent, epoch: int | None = None, **options: Any) -> Sequence[Rejection]:
        """Write them in a process of its own."""
        with running(RunContext(lease_epoch=lambda: epoch)), closing(self.target(**options)) as target:
            return [*target.write(events), *target.flush()]

    def ask(self, statement: str, **parameters: Any) -> list[dict[str, Any]]:
        return [row.data() for row in self._driver.execute_query(statement, parameters, database_=DATABASE).records]

    def numbers(self) -> dict[int, int]:
        rows = self.ask("MATCH (n:Order) WHERE n._doc IS NOT NULL RETURN n.id AS id, n.n AS n")
        return {int(row["id"]): row["n"] for row in rows}


@pytest.fixture(scope="module")
def driver(neo4j_server: ArcadeServer) -> Iterator[neo4j.Driver]:
    with neo4j.GraphDatabase.driver(neo4j_server.uri, auth=("root", PASSWORD), connection_timeout=20) as made:
        yield made


@pytest.fixture
def store(neo4j_server: ArcadeServer, driver: neo4j.Driver, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setenv("GRAPH_WRITER", neo4j_server.secret)
    made = Store(neo4j_server, driver)
    made.ask("MATCH (n) DETACH DELETE n")
    return made


class TestNeo4j(TargetContract):
    """The node's property ``document`` has all of its document."""

    keeps = "documents"

    @pytest.fixture(autouse=True)
    def _store(self, store: Store) -> None:
        self.store = store

    def make_target(self) -> Neo4jTarget:
        return self.store.target()

    def read_back(self) -> list[Delivered]:
        rows = self.store.ask("MATCH (n:Order) RETURN n.document AS document")
        return [Delivered("", None, row["document"].encode()) for row in rows]

    def expected_payload(self, event: ChangeEvent) -> bytes | None:
        payload = event.render("plain")
        return None if payload == b"null" else payload

    def same_payload(self, expected: bytes, found: bytes) -> bool:
        return canonical_json(orjson.loads(expected)) == canonical_json(orjson.loads(found))


class TestVersionsOfNodes(VersionedContract):
    refuses_zombies = True

    @pytest.fixture(autouse=True)
    def _store(self, store: Store) -> None:
        self.store = store

    def make_target(self) -> Neo4jTarget:
        return self.store.target()

    def documents(self) -> dict[int, int]:
        return self.store.numbers()


EDGES = "orders: (Order id=_id)-[HAS count=items[].count]->(Product sku=items[].sku)"


def test_relationships_and_values(store: Store, log: ChangeLog) -> None:
    nodes = "orders: Order(id=_id, n=n, price=price, big=big, nul=nul, list=list)"
    document = {"_id": 1, "price": Decimal128("1.10"), "big": Int64(2**63 - 1), "nul": "a\0b", "list": [1, 2]}
    items = [{"sku": "a\0", "count": 1}, {"sku": "b", "count": 2}]
    assert store.deliver(log.insert({**document, "items": items}), nodes=nodes, edges=EDGES) == []
    [row] = store.ask("MATCH (n:Order) RETURN n.price AS price, n.big AS big, n.nul AS nul, n.list AS list")
    assert row == {"price": "1.10", "big": 2**63 - 1, "nul": "a\0b", "list": [1, 2]}
    edges = "MATCH (:Order)-[r:HAS]->(p:Product) RETURN p.sku AS sku, r.count AS count ORDER BY count"
    assert [tuple(row.values()) for row in store.ask(edges)] == [("a\0", 1), ("b", 2)]
    store.deliver(log.delete(1), nodes=nodes, edges=EDGES)
    assert store.ask("MATCH (n) WHERE NOT n:DocdbStream AND NOT n:DocdbStreamPosition RETURN n") == []


def test_collections_that_the_mapping_does_not_name_make_nothing(store: Store) -> None:
    assert store.deliver(ChangeLog(coll="carts").insert({"_id": 1})) == []
    assert store.ask("MATCH (n) RETURN n") == []


def test_a_drop_takes_what_is_older(store: Store, log: ChangeLog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("docdb_stream.targets._graph.graph.Graph.most_changes", 100)
    before = log.inserts(250)
    drop, after = log.drop(), log.insert({"_id": 5, "n": 5})
    other = ChangeLog(coll="orders/1").insert({"_id": 1, "n": 1})
    nodes = f"{NODES}, orders/1: Other(id=_id)"
    store.deliver(other, *before, drop, after, nodes=nodes)
    for replayed in ([before[7]], [before[5]], [drop], [drop, after]):
        assert store.deliver(*replayed) == []
        assert store.numbers() == {5: 5}
    assert store.ask("MATCH (n:Other) RETURN n.id AS id") == [{"id": "1"}]
    assert store.deliver(log.drop(), on_drop="keep") == []
    assert store.numbers() == {5: 5}
    store.deliver(log.rename("archive"))
    assert store.numbers() == {}


def test_guards_of_deleted_documents_go_when_they_are_old(store: Store, log: ChangeLog) -> None:
    store.deliver(log.insert({"_id": 1, "n": 1}), log.delete(1), log.insert({"_id": 2, "n": 2}))
    keys = "MATCH (g:DocdbStream) RETURN g.key AS key ORDER BY key"
    assert [row["key"] for row in store.ask(keys)] == ["shop.orders/1", "shop.orders/2"]
    store.ask("MATCH (g:DocdbStream) WHERE g.deleted_at_ms > 0 SET g.deleted_at_ms = timestamp() - 31 * 86400000")
    store.deliver(log.insert({"_id": 3, "n": 3}))
    assert [row["key"] for row in store.ask(keys)] == ["shop.orders/2", "shop.orders/3"]


def test_only_what_a_constraint_refuses_is_rejected(store: Store, log: ChangeLog) -> None:
    store.ask("CREATE CONSTRAINT IF NOT EXISTS FOR (n:Single) REQUIRE n.n IS UNIQUE")
    events = [log.insert({"_id": number, "n": 3 if number == 7 else number}) for number in range(20)]
    rejections = store.deliver(*events, nodes="orders: Single(id=_id, n=n)")
    assert [each.event for each in rejections] == [events[7]]
    assert "ConstraintValidationFailed" in rejections[0].reason
    assert len(store.ask("MATCH (n:Single) RETURN n")) == 19


def test_a_run_that_was_taken_over_from_is_told_so(store: Store, log: ChangeLog) -> None:
    store.deliver(log.insert({"_id": 1, "n": 1}), epoch=8)
    with pytest.raises(TargetError, match="a later run of stream orders") as caught:
        store.deliver(log.insert({"_id": 2, "n": 2}), epoch=7)
    assert "STREAM_NAME" in caught.value.hint
    with pytest.raises(TargetError, match="a later run"):
        store.deliver(log.drop(), epoch=7)
    assert store.numbers() == {1: 1}


def test_what_several_writers_write_at_once_is_there_once(store: Store, log: ChangeLog) -> None:
    """Nodes of the same products, made by transactions that run at the same time."""
    events = [log.insert({"_id": n, "n": n, "items": [{"sku": str(s)} for s in range(8)]}) for n in range(24)]
    found: list[Any] = []

    def work(part: int) -> None:
        try:
            for event in events[part::3]:
                found.extend(store.deliver(event, edges=EDGES, stream=f"part{part}"))
        except BaseException as error:
            found.append(error)

    threads = [threading.Thread(target=work, args=(part,)) for part in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == []
    assert len(store.ask("MATCH (p:Product) RETURN p.sku AS sku")) == 8
    assert store.ask("MATCH (:Order)-[r:HAS]->(:Product) RETURN count(r) AS edges") == [{"edges": 24 * 8}]


def test_a_silent_server_is_given_up_in_time(store: Store, log: ChangeLog) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        uri = f"bolt://127.0.0.1:{silent.getsockname()[1]}"
        began_s = time.monotonic()
        context = RunContext(Deadline.after(1.0))
        with (
            running(context),
            closing(store.target(uri)) as target,
            pytest.raises(TargetError, match="not answered in time") as caught,
        ):
            target.write([log.insert({"_id": 1, "n": 1})])
        assert time.monotonic() - began_s < 10
    assert "nothing is lost" in caught.value.hint


def test_a_server_that_is_not_there_is_tried_until_the_deadline(store: Store, log: ChangeLog) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    context = RunContext(Deadline.after(1.0))
    with running(context), closing(store.target(f"bolt://127.0.0.1:{port}")) as target, pytest.raises(TargetError):
        target.write([log.insert({"_id": 1, "n": 1})])
    assert context.retries > 0


def test_who_may_not_in_and_what_is_not_there(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    with closing(store.target(database="nothere")) as target, pytest.raises(TargetError) as caught:
        target.check()
    assert "NEO4J_DATABASE" in caught.value.hint
    monkeypatch.setenv("GRAPH_WRITER", '{"username": "root", "password": "swordfish"}')
    with closing(store.target()) as target, pytest.raises(TargetError, match="Unauthorized") as caught:
        target.check()
    assert "NEO4J_SECRET" in caught.value.hint
    assert "swordfish" not in str(caught.value)


def test_check_sees_constraints_and_makes_none(store: Store, log: ChangeLog) -> None:
    nodes = "orders: Checked(id=_id)"
    with closing(store.target(nodes=nodes)) as target:
        target.check()
    with closing(store.target(nodes=nodes, create=False)) as target, pytest.raises(TargetError) as caught:
        target.check()
    assert "CREATE CONSTRAINT" in caught.value.hint
    store.deliver(log.insert({"_id": 1}), nodes=nodes)
    with closing(store.target(nodes=nodes, create=False)) as target:
        target.check()


@pytest.mark.parametrize("uri", ["http://host", "bolt://", "bolt://user:secret@host", "bolt://host:port"])
def test_what_is_no_address(uri: str) -> None:
    with pytest.raises(ConfigError, match="NEO4J_URI") as caught:
        Neo4jTarget(uri, nodes=NODES)
    assert "secret" not in str(caught.value)


def test_a_mapping_that_makes_nothing() -> None:
    with pytest.raises(ConfigError, match="neither a node nor a relationship"):
        Neo4jTarget("bolt://host")
