from __future__ import annotations

import datetime as dt
import re

import pytest
from bson import Decimal128, Int64, ObjectId

from docdb_stream.targets._graph.cypher import put_node, quoted, tie
from docdb_stream.targets._graph.graph import Graph
from docdb_stream.targets._graph.mapping import GraphMapping, mapping_of
from docdb_stream.targets._graph.values import properties_of

NODES = "users: User(id=_id, name=profile.name), products: Product(sku=_id, title=title)"
EDGES = "orders: (User id=user)-[BOUGHT order=_id, count=items[].count]->(Product sku=items[].sku)"


def shop() -> GraphMapping:
    return mapping_of(NODES, EDGES)


def test_rules_are_read() -> None:
    found = shop()
    assert [(rule.collection, rule.label, rule.identity) for rule in found.nodes] == [
        ("users", "User", "id"),
        ("products", "Product", "sku"),
    ]
    (edge,) = found.edges
    assert (edge.type, edge.start.label, edge.end.label, edge.array) == ("BOUGHT", "User", "Product", ("items",))
    assert found.identities == {"User": "id", "Product": "sku"}


@pytest.mark.parametrize("separator", [",", ";", ",\n  ", ";\n"])
def test_rules_are_apart_by_commas_semicolons_and_lines(separator: str) -> None:
    assert len(mapping_of(separator.join(["a: A(id=_id)", "b: B(id=_id)"]), "").nodes) == 2


@pytest.mark.parametrize(
    ("nodes", "edges", "problem"),
    [
        ("", "", "neither a node nor a relationship"),
        ("users User(id=_id)", "", "expected a rule"),
        ("users: User()", "", "first property is the identity"),
        ("users: User(id=tags[])", "", "no path can have"),
        ("users: User(id=_id, id=x)", "", "each name once"),
        ("users: User(_doc=_id)", "", "begins with _"),
        ("users: User(id=a..b)", "", "expected a path"),
        ("users: DocdbStream(id=_id)", "", "versions and positions"),
        ("users: User(id=_id), users: User(id=x)", "", "one node of a label"),
        ("users: User(id=_id)", "o: (User key=u)-[R]->(User key=v)", "one identity"),
        ("", "o: (A id=a[].x)-[R]->(B id=b[].x)", "of one array"),
        ("", "o: (A id=a[].x[].y)-[R]->(B id=b)", "expected a path"),
        ("", "o: (A id=a, name=n)-[R]->(B id=b)", "an end is its label and its identity"),
        ("users: U`) DETACH DELETE (n(id=_id)", "", "expected a rule"),
    ],
)
def test_what_cannot_be_meant_is_told(nodes: str, edges: str, problem: str) -> None:
    with pytest.raises(ValueError, match=re.escape(problem)):
        mapping_of(nodes, edges)


def test_names_are_quoted_and_values_are_no_part_of_statements() -> None:
    assert quoted("a`b") == "`a``b`"
    rule = mapping_of("c: Größe-1(id=_id)", "").nodes[0]
    assert "`Größe-1`" in put_node(rule)
    assert "$rows" in tie(shop().edges[0])


def test_a_relationship_for_each_element() -> None:
    (edge,) = shop().edges
    items = [{"sku": "x", "count": 2}, {"sku": "x", "count": 1}, {"count": 3}, "none"]
    write = Graph(shop()).write_of("k", "orders", 1, {"_id": 7, "user": 1.0, "items": items})
    assert [(row["start"], row["end"], row["properties"]) for row in write.edges[edge]] == [
        ("1", "x", {"order": 7, "count": 2}),
        ("1", "x", {"order": 7, "count": 1}),
    ]


@pytest.mark.parametrize("items", [None, [], "x", {"0": {"sku": "x"}}])
def test_without_an_array_there_is_no_relationship(items: object) -> None:
    (edge,) = shop().edges
    assert Graph(shop()).write_of("k", "orders", 1, {"_id": 7, "user": 1, "items": items}).edges[edge] == []


def test_an_array_of_references_is_one_too() -> None:
    mapping = mapping_of("", "users: (User id=_id)-[LIKES]->(Tag id=tags[])")
    write = Graph(mapping).write_of("k", "users", 1, {"_id": 1, "tags": ["a", None, "1"]})
    assert [row["end"] for row in write.edges[mapping.edges[0]]] == ["a", '"1"']


def test_references_of_another_number_type_meet() -> None:
    rule = shop().nodes[0]
    rows = [Graph(shop()).write_of("k", "users", 1, {"_id": one}).nodes[rule] for one in (1, 1.0, Int64(1))]
    assert {row["id"] for row in rows} == {"1"}


@pytest.mark.parametrize(
    ("value", "found"),
    [
        (True, True),
        (Int64(2**62), 2**62),
        ("x", "x"),
        ([1, Int64(2)], [1, 2]),
        ([1, True], "[1,true]"),
        ([], []),
        ({"a": {"b": 1}}, '{"a":{"b":1}}'),
        (ObjectId("6512f0c2a1b2c3d4e5f60718"), "6512f0c2a1b2c3d4e5f60718"),
        (Decimal128("1.50"), "1.50"),
        (dt.datetime(2026, 1, 2, tzinfo=dt.UTC), dt.datetime(2026, 1, 2, tzinfo=dt.UTC)),
    ],
)
def test_values_that_become_properties(value: object, found: object) -> None:
    (rule,) = mapping_of("c: C(id=_id, v=v)", "").nodes
    properties = properties_of(rule.properties, {"v": value})
    assert properties == {"v": found}
    assert type(properties["v"]) is type(found)


def test_null_is_no_property() -> None:
    (rule,) = mapping_of("c: C(id=_id, v=v, w=w)", "").nodes
    assert properties_of(rule.properties, {"v": None}) == {}
