"""The statements of the graph targets, on a server that speaks openCypher."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import pytest

from docdb_stream.local.arcadedb import DATABASE, PASSWORD, ArcadeServer
from docdb_stream.targets._graph import cypher
from docdb_stream.targets._graph.graph import Graph, GraphWrite
from docdb_stream.targets._graph.mapping import mapping_of

pytestmark = pytest.mark.integration
neo4j = pytest.importorskip("neo4j")

MAPPING = mapping_of(
    "users: User(id=_id, name=name), products: Product(sku=_id, title=title)",
    "orders: (User id=user)-[BOUGHT order=_id, count=items[].count]->(Product sku=items[].sku),"
    "users: (User id=_id)-[KNOWS]->(User id=friends[])",
)
BOTH = [{"sku": "a", "count": 1}, {"sku": "b", "count": 2}]
Shown = tuple[list[tuple[Any, ...]], list[tuple[Any, ...]]]


class Store:
    """The graph in a database."""

    def __init__(self, driver: Any) -> None:
        self._driver = driver
        self.graph = Graph(MAPPING)

    def ask(self, statement: str, **parameters: Any) -> list[dict[str, Any]]:
        """The rows of a statement in a transaction of its own."""
        return [row.data() for row in self._driver.execute_query(statement, parameters, database_=DATABASE).records]

    def apply(self, *writes: GraphWrite) -> None:
        """Apply writes in one transaction."""
        with self._driver.session(database=DATABASE) as session, session.begin_transaction() as transaction:
            self.graph.apply(writes, lambda text, given: [row.data() for row in transaction.run(text, dict(given))])
            transaction.commit()

    def shown(self) -> Shown:
        """All nodes but guards and all relationships, with what documents gave them."""
        nodes = self.ask(
            "MATCH (n) WHERE NOT n:DocdbStream RETURN labels(n)[0] AS label, coalesce(n.id, n.sku) AS id, "
            "coalesce(n.name, n.title, '') AS text, coalesce(n._doc, '') AS doc"
        )
        edges = self.ask(
            "MATCH (a)-[r]->(b) RETURN type(r) AS type, coalesce(a.id, a.sku) AS start, coalesce(b.id, b.sku) AS end, "
            "coalesce(r.count, 0) AS count, r._doc AS doc"
        )
        return sorted(tuple(row.values()) for row in nodes), sorted(tuple(row.values()) for row in edges)

    def user(self, version: int, number: int = 1, **document: Any) -> GraphWrite:
        """A user is written."""
        return self.graph.write_of(f"shop.users/{number}", "users", version, {"_id": number, **document})

    def order(self, version: int, items: Any, user: Any = 1) -> GraphWrite:
        """The order is written."""
        document = {"_id": 9, "user": user, "items": items}
        return self.graph.write_of("shop.orders/9", "orders", version, document)

    def gone(self, version: int, key: str = "shop.orders/9") -> GraphWrite:
        """A document is deleted."""
        return self.graph.delete_of(key, key.split("/")[0].split(".")[1], version, 1_000)


@pytest.fixture(scope="module")
def driver(neo4j_server: ArcadeServer) -> Iterator[Any]:
    with neo4j.GraphDatabase.driver(neo4j_server.uri, auth=("root", PASSWORD), connection_timeout=20) as made:
        for statement in cypher.schema_of(MAPPING):
            made.execute_query(statement, database_=DATABASE)
        yield made


@pytest.fixture
def store(driver: Any) -> Store:
    made = Store(driver)
    made.ask("MATCH (n) DETACH DELETE n")
    return made


def test_a_missing_end_is_a_bare_node_until_its_document_comes(store: Store) -> None:
    store.apply(store.order(1, BOTH))
    assert store.shown()[0] == [("Product", "a", "", ""), ("Product", "b", "", ""), ("User", "1", "", "")]
    store.apply(store.user(2, name="Ann"))
    assert store.shown()[0][2] == ("User", "1", "Ann", "shop.users/1")
    assert len(store.shown()[1]) == 2


def test_what_comes_again_changes_nothing(store: Store) -> None:
    writes = [store.user(1, name="Ann", friends=[2, 1]), store.order(2, [*BOTH, BOTH[0]])]
    store.apply(*writes)
    before = store.shown()
    assert len(before[1]) == 5
    for each in writes:
        store.apply(each)
    assert store.shown() == before


def test_relationships_are_replaced_as_a_whole_and_bare_nodes_without_any_go(store: Store) -> None:
    store.apply(store.order(1, BOTH))
    store.apply(store.order(2, [{"sku": "b", "count": 5}], user=3))
    nodes, edges = store.shown()
    assert nodes == [("Product", "b", "", ""), ("User", "3", "", "")]
    assert edges == [("BOUGHT", "3", "b", 5, "shop.orders/9")]


def test_a_delete_is_not_undone_by_what_comes_late(store: Store) -> None:
    store.apply(store.order(1, BOTH))
    store.apply(store.gone(3))
    store.apply(store.order(2, BOTH))
    assert store.shown() == ([], [])
    store.apply(store.order(4, BOTH))
    assert len(store.shown()[1]) == 2


def test_of_a_deleted_document_the_node_stays_bare_while_others_refer_to_it(store: Store) -> None:
    store.apply(store.user(1, name="Ann"), store.order(1, BOTH))
    store.apply(store.gone(2, "shop.users/1"))
    assert ("User", "1", "", "") in store.shown()[0]
    store.apply(store.gone(3))
    assert store.shown() == ([], [])


def test_of_equal_versions_the_later_holds(store: Store) -> None:
    store.apply(store.user(1, name="Ann"), store.user(1, name="Bo"))
    store.apply(store.user(1, name="Cy"))
    assert store.shown()[0] == [("User", "1", "Cy", "shop.users/1")]


def test_a_property_that_is_gone_goes(store: Store) -> None:
    store.apply(store.user(1, name="Ann"))
    store.apply(store.user(2, name=None))
    assert store.shown()[0] == [("User", "1", "", "shop.users/1")]


def test_deletes_are_forgotten_and_documents_are_not(store: Store) -> None:
    store.apply(store.user(1), store.gone(1))
    assert store.ask(cypher.PURGE, before_ms=1_000, most=10) == [{"purged": 0}]
    assert store.ask(cypher.PURGE, before_ms=1_001, most=10) == [{"purged": 1}]
    assert store.ask("MATCH (g:DocdbStream) RETURN g.key AS key") == [{"key": "shop.users/1"}]


def test_values_are_never_read_as_statements(store: Store) -> None:
    name = "`}) DETACH DELETE (n) //'\"\\ \n $rows"
    store.apply(store.user(1, name=name, friends=[name]))
    assert ("User", "1", name, "shop.users/1") in store.shown()[0]


@pytest.mark.parametrize("seed", range(5))
def test_any_order_with_replays_ends_where_the_newest_are(store: Store, seed: int) -> None:
    chance = random.Random(seed)
    history: list[GraphWrite] = []
    for version in range(1, 25):
        number = chance.randrange(3)
        choices = [
            store.user(version, number, name=f"n{version}", friends=chance.sample(range(4), 2)),
            store.gone(version, f"shop.users/{number}"),
            store.order(version, chance.sample(BOTH, chance.randrange(3)), user=number),
            store.gone(version),
        ]
        history.append(chance.choice(choices))
    newest = {each.key: each for each in history}
    for each in newest.values():
        store.apply(each)
    expected = store.shown()
    store.ask("MATCH (n) DETACH DELETE n")
    late = history + chance.choices(history, k=12)
    chance.shuffle(late)
    while late:
        count = chance.randint(1, 6)
        store.apply(*late[:count])
        late = late[count:]
    assert store.shown() == expected
