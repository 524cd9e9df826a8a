"""The statements that keep a graph equal to documents. Names are quoted, and values are parameters only.

Owns what is remembered of a document: its node ``(:DocdbStream {key, version, deleted_at_ms})``, the guard of all that
the document has made. Nodes and relationships have the key as ``_doc``.
"""

from __future__ import annotations

from typing import Final

from docdb_stream.targets._graph.mapping import EdgeRule, NodeRule

GUARD: Final = "DocdbStream"
"""The label of the guards."""

# What is set first locks the guard before its version is read: Neo4j's reads are of what is committed and take no lock
# (Operations Manual, "Concurrent data access", lost updates), so two writers could both see the older version.
CLAIM: Final = (
    f"UNWIND $rows AS row MERGE (g:{GUARD} {{key: row.key}}) SET g.claimed = row.version "
    "WITH g, row WHERE coalesce(g.version, -1) <= row.version "
    "SET g.version = row.version, g.deleted_at_ms = row.deleted_at_ms RETURN row.key AS key"
)
"""Take the guards of rows (key, version, deleted_at_ms or null). Returns the keys of those that nothing newer has."""

PURGE: Final = (
    f"MATCH (g:{GUARD}) WHERE g.deleted_at_ms < $before_ms WITH g LIMIT $most DELETE g RETURN count(*) AS purged"
)
"""Forget documents that were deleted before a time."""


def quoted(name: str) -> str:
    """A label, type or property as a statement has it (Cypher Manual, "Naming rules and recommendations")."""
    return "`" + name.replace("`", "``") + "`"


def unique(label: str, identity: str) -> str:
    """Make what MERGE needs under concurrency: one node of a label with an identity."""
    return f"CREATE CONSTRAINT IF NOT EXISTS FOR (n:{quoted(label)}) REQUIRE n.{quoted(identity)} IS UNIQUE"


def index_of_node(label: str) -> str:
    """Make what finds a document's node."""
    return f"CREATE INDEX IF NOT EXISTS FOR (n:{quoted(label)}) ON (n._doc)"


def index_of_edge(kind: str) -> str:
    """Make what finds a document's relationships."""
    return f"CREATE INDEX IF NOT EXISTS FOR ()-[r:{quoted(kind)}]-() ON (r._doc)"


def vacate(rule: NodeRule) -> str:
    """Leave of the documents' nodes ($keys) the identity alone. Returns identities."""
    name = quoted(rule.identity)
    return (
        f"UNWIND $keys AS key MATCH (n:{quoted(rule.label)} {{_doc: key}}) WITH n, n.{name} AS id "
        f"SET n = {{{name}: id}} RETURN id"
    )


def put_node(rule: NodeRule) -> str:
    """Make the node of each row (id, key, properties), or fill the bare one that is there."""
    name = quoted(rule.identity)
    return (
        f"UNWIND $rows AS row MERGE (n:{quoted(rule.label)} {{{name}: row.id}}) "
        f"SET n = row.properties SET n.{name} = row.id, n._doc = row.key"
    )


def cut(rule: EdgeRule) -> str:
    """Remove the documents' relationships ($keys). Returns the identities of the nodes at both ends."""
    start, end = rule.start, rule.end
    return (
        f"UNWIND $keys AS key MATCH (a:{quoted(start.label)})-[r:{quoted(rule.type)} {{_doc: key}}]->"
        f"(b:{quoted(end.label)}) WITH r, a.{quoted(start.identity)} AS start, b.{quoted(end.identity)} AS end "
        "DELETE r RETURN start, end"
    )


def tie(rule: EdgeRule) -> str:
    """Make the relationship of each row (start, end, key, properties), and bare nodes where an end is missing."""
    start, end = rule.start, rule.end
    return (
        f"UNWIND $rows AS row MERGE (a:{quoted(start.label)} {{{quoted(start.identity)}: row.start}}) "
        f"MERGE (b:{quoted(end.label)} {{{quoted(end.identity)}: row.end}}) "
        f"CREATE (a)-[r:{quoted(rule.type)}]->(b) SET r = row.properties SET r._doc = row.key"
    )


def prune(label: str, identity: str) -> str:
    """Remove those of the nodes ($ids) that no document has made and that nothing is tied to."""
    return (
        f"UNWIND $ids AS id MATCH (n:{quoted(label)} {{{quoted(identity)}: id}}) "
        "WHERE n._doc IS NULL AND NOT (n)--() DELETE n"
    )
