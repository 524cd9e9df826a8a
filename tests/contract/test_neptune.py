from __future__ import annotations

import itertools
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from typing import Any

import neo4j
import orjson
import pytest
from bson import Decimal128, Int64
from contract.neptune_server import NeptuneServer

from docdb_stream.context import Deadline, RunContext, running
from docdb_stream.errors import ConfigError, TargetError
from docdb_stream.events import ChangeEvent
from docdb_stream.local import ArcadeServer
from docdb_stream.local.arcadedb import PASSWORD
from docdb_stream.target import Rejection
from docdb_stream.targets._canonical import canonical_json
from docdb_stream.targets._graph.graph import Graph
from docdb_stream.targets.neptune import NeptuneTarget
from docdb_stream.testing.contract import Delivered, TargetContract
from docdb_stream.testing.events import ChangeLog
from docdb_stream.testing.versioned_contract import VersionedContract

pytestmark = pytest.mark.integration

NODES = "orders: Order(id=_id, n=n, document=.)"
EDGES = "orders: (Order id=_id)-[HAS count=items[].count]->(Product sku=items[].sku)"
CONFLICT = (500, "ConcurrentModificationException", "Operation failed due to conflicting concurrent operations")
OWN = "NOT n:DocdbStream AND NOT n:DocdbStreamPosition"
_streams = itertools.count()


class Store:
    """The graph, empty for each test, and a client of its own."""

    def __init__(self, server: NeptuneServer, driver: neo4j.Driver, database: str) -> None:
        self.server = server
        self.driver = driver
        self.database = database
        self.stream = f"orders{next(_streams)}"

    def target(self, endpoint: str = "", **options: Any) -> NeptuneTarget:
        return NeptuneTarget(endpoint or self.server.url, **{"nodes": NODES, "stream": self.stream, **options})

    def deliver(self, *events: ChangeEvent, epoch: int | None = None, **options: Any) -> Sequence[Rejection]:
        """Write them in a process of its own."""
        with running(RunContext(lease_epoch=lambda: epoch)), closing(self.target(**options)) as target:
            return [*target.write(events), *target.flush()]

    def ask(self, statement: str, **parameters: Any) -> list[dict[str, Any]]:
        return [row.data() for row in self.driver.execute_query(statement, parameters, database_=self.database).records]

    def numbers(self) -> dict[int, int]:
        rows = self.ask("MATCH (n:Order) WHERE n._doc IS NOT NULL RETURN n.id AS id, n.n AS n")
        return {int(row["id"]): row["n"] for row in rows}

    def shown(self) -> tuple[list[Any], list[Any]]:
        """Nodes and relationships, but for how they were written."""
        nodes = self.ask(
            f"MATCH (n) WHERE {OWN} RETURN labels(n)[0] AS label, coalesce(n.id, n.sku) AS id, n.n AS n, n._doc AS doc"
        )
        edges = self.ask("MATCH (a)-[r]->(b) RETURN a.id AS start, b.sku AS end, r.count AS count")
        return sorted(map(str, nodes)), sorted(map(str, edges))


@pytest.fixture(scope="module")
def driver(neo4j_server: ArcadeServer) -> Iterator[neo4j.Driver]:
    with neo4j.GraphDatabase.driver(neo4j_server.uri, auth=("root", PASSWORD), connection_timeout=20) as made:
        yield made


@pytest.fixture
def store(neo4j_server: ArcadeServer, driver: neo4j.Driver, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-central-1")
    with NeptuneServer(driver, neo4j_server.other_database) as server:
        made = Store(server, driver, neo4j_server.other_database)
        made.ask("MATCH (n) DETACH DELETE n")
        yield made


class TestNeptune(TargetContract):
    """The node's property ``document`` has all of its document."""

    keeps = "documents"

    @pytest.fixture(autouse=True)
    def _store(self, store: Store) -> None:
        self.store = store

    def make_target(self) -> NeptuneTarget:
        return self.store.target()

    def read_back(self) -> list[Delivered]:
        rows = self.store.ask("MATCH (n:Order) RETURN n.document AS document")
        return [Delivered("", None, row["document"].encode()) for row in rows]

    def expected_payload(self, event: ChangeEvent) -> bytes | None:
        payload = event.render("plain")
        return None if payload == b"null" else payload

    def same_payload(self, expected: bytes, found: bytes) -> bool:
        return canonical_json(orjson.loads(expected)) == canonical_json(orjson.loads(found))


class TestVersionsInNeptune(VersionedContract):
    refuses_zombies = True

    @pytest.fixture(autouse=True)
    def _store(self, store: Store) -> None:
        self.store = store

    def make_target(self) -> NeptuneTarget:
        return self.store.target()

    def documents(self) -> dict[int, int]:
        return self.store.numbers()


def test_relationships_and_values(store: Store, log: ChangeLog) -> None:
    nodes = "orders: Order(id=_id, price=price, big=big, nul=nul, list=list, map=map, odd=odd)"
    document = {"_id": 1, "price": Decimal128("1.10"), "big": Int64(2**63 - 1), "nul": "a\0b", "list": [1, 2]}
    items = [{"sku": "a\0", "count": 1}, {"sku": "b", "count": 2}]
    written = {**document, "map": {"a": 1}, "odd": float("inf"), "items": items}
    assert store.deliver(log.insert(written), nodes=nodes, edges=EDGES) == []
    names = ("price", "big", "nul", "list", "map", "odd")
    [row] = store.ask(f"MATCH (n:Order) RETURN {', '.join(f'n.{name} AS {name}' for name in names)}")
    assert row.pop("odd") == "Infinity"
    assert row == {"price": "1.10", "big": 2**63 - 1, "nul": "a\0b", "list": "[1,2]", "map": '{"a":1}'}
    edges = "MATCH (:Order)-[r:HAS]->(p:Product) RETURN p.sku AS sku, r.count AS count ORDER BY count"
    assert [tuple(row.values()) for row in store.ask(edges)] == [("a\0", 1), ("b", 2)]
    store.deliver(log.delete(1), nodes=nodes, edges=EDGES)
    assert store.ask(f"MATCH (n) WHERE {OWN} RETURN n") == []


def test_what_a_document_no_longer_says_goes(store: Store, log: ChangeLog) -> None:
    before = {"_id": 1, "n": 1, "items": [{"sku": "a", "count": 1}, {"sku": "b", "count": 2}]}
    after = {"_id": 1, "items": [{"sku": "b", "count": 3}, {"sku": "b", "count": 4}]}
    store.deliver(log.insert(before), edges=EDGES)
    store.deliver(log.replace(after), edges=EDGES)
    nodes, edges = store.shown()
    assert nodes == [
        "{'label': 'Order', 'id': '1', 'n': None, 'doc': 'shop.orders/1'}",
        "{'label': 'Product', 'id': 'b', 'n': None, 'doc': None}",
    ]
    assert edges == [f"{{'start': '1', 'end': 'b', 'count': {count}}}" for count in (3, 4)]


@pytest.mark.parametrize("stopped_at", range(9))
def test_a_writer_that_is_gone_between_two_statements_is_healed_by_the_next(
    store: Store, log: ChangeLog, stopped_at: int
) -> None:
    nodes = f"{NODES}, orders: Tag(id=tag)"
    first = [log.insert({"_id": n, "n": n, "tag": f"t{n}", "items": [{"sku": f"s{n}", "count": n}]}) for n in range(3)]
    changed = {"_id": 1, "n": 7, "tag": "other", "items": [{"sku": "s0", "count": 7}, {"sku": "new", "count": 8}]}
    second = [log.replace(changed), log.delete(2)]
    store.deliver(*first, nodes=nodes, edges=EDGES)
    store.deliver(*second, nodes=nodes, edges=EDGES)
    expected = store.shown()
    store.ask("MATCH (n) DETACH DELETE n")
    store.deliver(*first, nodes=nodes, edges=EDGES)
    left = iter(range(stopped_at))

    def stop(statement: str) -> None:
        if next(left, None) is None:
            store.server.faults.append((403, "AccessDeniedException", ""))

    store.server.before = stop  # the statement after this one is refused
    with suppress(TargetError):
        store.deliver(*second, nodes=nodes, edges=EDGES)
    store.server.before = lambda statement: None
    store.server.faults.clear()
    store.deliver(*second, nodes=nodes, edges=EDGES)
    assert store.shown() == expected
    assert store.ask("MATCH (g:DocdbStream) WHERE g.claim IS NOT NULL RETURN g.key AS key") == []


def test_a_late_writer_changes_nothing_that_is_claimed_since(store: Store, log: ChangeLog) -> None:
    """Whatever statement it had come to when the other wrote."""
    older = log.insert({"_id": 1, "n": 1, "items": [{"sku": "old", "count": 1}]})
    newer = log.replace({"_id": 1, "n": 2, "items": [{"sku": "new", "count": 2}]})
    store.deliver(newer, edges=EDGES)
    expected = store.shown()
    with NeptuneServer(store.driver, store.database) as late:
        for at in range(7):
            store.ask("MATCH (n) DETACH DELETE n")
            left = iter(range(at))

            def overtake(statement: str, left: Iterator[int] = left) -> None:
                if next(left, None) is None:
                    late.before = lambda statement: None
                    store.deliver(newer, edges=EDGES)

            late.before = overtake
            with running(RunContext()), closing(store.target(late.url, edges=EDGES)) as target:
                assert target.write([older]) == []
            assert store.shown() == expected, at


def test_a_drop_takes_what_is_older(store: Store, log: ChangeLog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("docdb_stream.targets._neptune.graph.NeptuneGraph.most_changes", 20)
    before = log.inserts(50)
    drop, after = log.drop(), log.insert({"_id": 5, "n": 5})
    store.deliver(*before, drop, after)
    for replayed in ([before[7]], [before[5]], [drop], [drop, after]):
        assert store.deliver(*replayed) == []
        assert store.numbers() == {5: 5}
    assert store.deliver(log.drop(), on_drop="keep") == []
    assert store.numbers() == {5: 5}
    store.deliver(log.rename("archive"))
    assert store.numbers() == {}


@pytest.mark.parametrize("stopped_at", range(6))
def test_a_drop_that_was_not_finished_is_finished(store: Store, log: ChangeLog, stopped_at: int) -> None:
    store.deliver(*log.inserts(3))
    drop = log.drop()
    left = iter(range(stopped_at))

    def stop(statement: str) -> None:
        if next(left, None) is None:
            store.server.faults.append((403, "AccessDeniedException", ""))

    store.server.before = stop
    with suppress(TargetError):
        store.deliver(drop)
    store.server.before = lambda statement: None
    store.server.faults.clear()
    store.deliver(drop)
    assert store.shown() == ([], [])


def test_guards_of_deleted_documents_go_when_they_are_old(store: Store, log: ChangeLog) -> None:
    store.deliver(log.insert({"_id": 1, "n": 1}), log.delete(1), log.insert({"_id": 2, "n": 2}))
    keys = "MATCH (g:DocdbStream) RETURN g.key AS key ORDER BY key"
    assert [row["key"] for row in store.ask(keys)] == ["shop.orders/1", "shop.orders/2"]
    store.ask("MATCH (g:DocdbStream) WHERE g.deleted_at_ms > 0 SET g.deleted_at_ms = timestamp() - 31 * 86400000")
    store.deliver(log.insert({"_id": 3, "n": 3}))
    assert [row["key"] for row in store.ask(keys)] == ["shop.orders/2", "shop.orders/3"]


@pytest.mark.parametrize(
    "fault",
    [
        CONFLICT,
        (429, "ThrottlingException", "slow down"),
        (429, "TooManyRequestsException", "slow down"),
        (500, "MemoryLimitExceededException", "Operation terminated (out of memory)"),
        (500, "TimeLimitExceededException", "Operation terminated (deadline exceeded)"),
        (408, "ClientTimeoutException", "late"),
        (400, "ReadOnlyViolationException", "read replica"),
        (400, "UnsupportedOperationException", "openCypher update attempted on a read-only replica"),
        (400, "ConstraintViolationException", "there is a node of this id"),
    ],
)
def test_what_may_pass_is_tried_again(store: Store, log: ChangeLog, fault: tuple[int, str, str]) -> None:
    store.server.faults += [fault, fault]
    assert store.deliver(log.insert({"_id": 1, "n": 1}), edges=EDGES) == []
    assert store.numbers() == {1: 1}


def test_answers_that_are_lost_make_nothing_twice(store: Store, log: ChangeLog) -> None:
    store.server.lost = 100
    done = len(store.server.queries)

    def every_second(statement: str) -> None:
        store.server.lost = len(store.server.queries) % 2 == done % 2

    store.server.before = every_second
    items = [{"sku": "a", "count": 1}, {"sku": "a", "count": 1}]
    assert store.deliver(log.insert({"_id": 1, "n": 1, "items": items}), edges=EDGES) == []
    assert store.ask("MATCH (:Order)-[r:HAS]->(:Product) RETURN count(r) AS edges") == [{"edges": 2}]


def test_only_what_neptune_does_not_take_is_rejected(store: Store, log: ChangeLog) -> None:
    events = [log.insert({"_id": number, "n": number, "items": [{"sku": "x" * number}]}) for number in range(8)]

    def refuse(statement: str) -> None:
        if "MERGE (n:" in statement and len(store.server.queries) < 4:
            store.server.faults.append((400, "QueryTooLargeException", "too large"))

    store.server.before = refuse
    rejections = store.deliver(*events, edges=EDGES)
    assert all("QueryTooLarge" in each.reason for each in rejections)
    rejected = {each.event.object_id or str(each.event.exact_id) for each in rejections}
    assert len(rejected) < 8
    store.server.before = lambda statement: None
    store.deliver(*events, edges=EDGES)
    assert store.numbers() == {n: n for n in range(8)}


@pytest.mark.parametrize("code", ["AccessDeniedException", "MalformedQueryException", "BadRequestException"])
def test_what_does_not_pass_ends_the_run_at_once(store: Store, log: ChangeLog, code: str) -> None:
    store.server.faults.append((400, code, "about 'secret value'"))
    with pytest.raises(TargetError, match=code) as caught:
        store.deliver(log.insert({"_id": 1, "n": 1}))
    assert "secret value" not in f"{caught.value} {caught.value.hint}"
    assert store.server.queries == []


def test_a_run_that_was_taken_over_from_is_told_so(store: Store, log: ChangeLog) -> None:
    store.deliver(log.insert({"_id": 1, "n": 1}), epoch=8)
    with pytest.raises(TargetError, match="a later run of stream orders") as caught:
        store.deliver(log.insert({"_id": 2, "n": 2}), epoch=7)
    assert "STREAM_NAME" in caught.value.hint
    with pytest.raises(TargetError, match="a later run"):
        store.deliver(log.drop(), epoch=7)
    assert store.numbers() == {1: 1}


def test_what_several_writers_write_at_once_is_there_once(store: Store, log: ChangeLog) -> None:
    events = [log.insert({"_id": n, "n": n, "items": [{"sku": str(s)} for s in range(4)]}) for n in range(12)]
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
    assert len(store.ask("MATCH (p:Product) RETURN p.sku AS sku")) == 4
    assert store.ask("MATCH (:Order)-[r:HAS]->(:Product) RETURN count(r) AS edges") == [{"edges": 12 * 4}]


def test_a_silent_server_is_given_up_in_time(store: Store, log: ChangeLog) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        endpoint = f"http://127.0.0.1:{silent.getsockname()[1]}"
        began_s = time.monotonic()
        with (
            running(RunContext(Deadline.after(1.0))),
            closing(store.target(endpoint)) as target,
            pytest.raises(TargetError, match="Timeout"),
        ):
            target.write([log.insert({"_id": 1, "n": 1})])
        assert time.monotonic() - began_s < 10


def test_check_reaches_the_cluster_and_writes_nothing(store: Store) -> None:
    with closing(store.target()) as target:
        target.check()
        assert store.ask("MATCH (n) RETURN n") == []
        store.server.faults.append((403, "AccessDeniedException", ""))
        with pytest.raises(TargetError) as caught:
            target.check()
    assert "ReadDataViaQuery" in caught.value.hint


@pytest.mark.parametrize("endpoint", ["ftp://host", "https://", "https://user:secret@host", "host:port", "https://h/p"])
def test_what_is_no_endpoint(endpoint: str) -> None:
    with pytest.raises(ConfigError, match="NEPTUNE_ENDPOINT") as caught:
        NeptuneTarget(endpoint, nodes=NODES)
    assert "secret" not in str(caught.value)


def test_the_endpoint_of_the_readers_takes_no_writes() -> None:
    with pytest.raises(ConfigError, match="readers"):
        NeptuneTarget("graph.cluster-ro-abc.eu-central-1.neptune.amazonaws.com:8182", nodes=NODES)


def test_batches_are_smaller_than_where_statements_share_a_transaction() -> None:
    with closing(NeptuneTarget("host", nodes=NODES)) as target:
        assert target._graph.most_changes < Graph.most_changes
