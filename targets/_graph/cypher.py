"""The statements that keep a graph equal to documents. Names are quoted, and values are parameters only.

Owns what is remembered of a document: its node ``(:DocdbStream {key, version, deleted_at_ms})``, the guard of all that
the document has made. Nodes and relationships have the key as ``_doc``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from docdb_stream.targets._graph.mapping import EdgeRule, GraphMapping, NodeRule

GUARD: Final = "DocdbStream"
"""The label of the guards."""
POSITION: Final = "DocdbStreamPosition"
"""The label of the nodes that have, by stream, the epoch of its last run."""

PASS_ON: Final = (
    f"MERGE (p:{POSITION} {{stream: $stream}}) SET p.seen_at_ms = timestamp() "
    "WITH p WHERE p.epoch IS NULL OR $epoch IS NULL OR p.epoch <= $epoch "
    "SET p.epoch = coalesce($epoch, p.epoch) RETURN p.stream AS stream"
)
"""Note a run's epoch. Returns nothing where a later run has written. Set first what locks, as CLAIM."""

# What is set first locks the guard before its version is read: Neo4j's reads are of what is committed and take no lock
# (Operations Manual, "Concurrent data access", lost updates), so two writers could both see the older version.
CLAIM: Final = (
    f"UNWIND $rows AS row MERGE (g:{GUARD} {{key: row.key}}) SET g.claimed = row.version "
    "WITH g, row WHERE coalesce(g.version, -1) <= row.version "
    "SET g.version = row.version, g.deleted_at_ms = row.deleted_at_ms RETURN row.key AS key"
)
"""Take the guards of rows (key, version, deleted_at_ms or null). Returns the keys of those that nothing newer has."""

CONSTRAINTS: Final = "SHOW CONSTRAINTS YIELD type, labelsOrTypes, properties RETURN type, labelsOrTypes, properties"
"""Which constraints there are."""

PURGE: Final = (
    f"MATCH (g:{GUARD}) WHERE g.deleted_at_ms < $before_ms WITH g LIMIT $most DELETE g RETURN count(*) AS purged"
)
"""Forget documents that were deleted before a time."""

OLDER: Final = (
    f"MATCH (g:{GUARD}) WHERE g.key STARTS WITH $prefix AND g.version < $version AND g.deleted_at_ms IS NULL "
    "RETURN g.key AS key LIMIT $most"
)
"""The keys of a collection's documents that are there, of before a version."""


def prefix_of(source: str) -> str:
    """What the keys of a collection's documents begin with, and no others': a name may have a slash itself."""
    return source.replace("%", "%25").replace("/", "%2F") + "/"


def source_of(prefix: str) -> str:
    """The collection of a prefix, without its slash."""
    return prefix.replace("%2F", "/").replace("%25", "%")


GUARDS: Final = (
    f"UNWIND $keys AS key MATCH (g:{GUARD}) WHERE g.key = key "
    "RETURN g.key AS key, g.version AS version, g.deleted_at_ms AS deleted_at_ms"
)
"""The guards of documents ($keys), as far as there are any."""


def keys_after(most: int) -> str:
    """The first keys after one ($after)."""
    return f"MATCH (g:{GUARD}) WHERE g.key > $after RETURN g.key AS key ORDER BY key LIMIT {most}"


def guards_after(most: int) -> str:
    """The first guards of a collection ($prefix) after a key ($after), of documents that are there."""
    return (
        f"MATCH (g:{GUARD}) WHERE g.key > $after AND g.key STARTS WITH $prefix AND g.deleted_at_ms IS NULL "
        f"RETURN g.key AS key, g.version AS version, g.deleted_at_ms AS deleted_at_ms ORDER BY key LIMIT {most}"
    )


def some_guards(most: int) -> str:
    """Some guards of a collection ($prefix), by chance, of documents that are there."""
    return (
        f"MATCH (g:{GUARD}) WHERE g.key STARTS WITH $prefix AND g.deleted_at_ms IS NULL WITH g, rand() AS chance "
        f"ORDER BY chance LIMIT {most} RETURN g.key AS key, g.version AS version, g.deleted_at_ms AS deleted_at_ms"
    )


def nodes_of(rule: NodeRule) -> str:
    """The nodes that documents ($keys) have made."""
    return (
        f"UNWIND $keys AS key MATCH (n:{quoted(rule.label)}) WHERE n._doc = key "
        f"RETURN key, n.{quoted(rule.identity)} AS id, properties(n) AS properties"
    )


def edges_of(rule: EdgeRule) -> str:
    """The relationships of a type that documents ($keys) have made."""
    start, end = rule.start, rule.end
    return (
        f"UNWIND $keys AS key MATCH (a:{quoted(start.label)})-[r:{quoted(rule.type)}]->(b:{quoted(end.label)}) "
        f"WHERE r._doc = key RETURN key, a.{quoted(start.identity)} AS start, b.{quoted(end.identity)} AS end, "
        "properties(r) AS properties"
    )


def uniques_of(mapping: GraphMapping) -> Mapping[str, str]:
    """Each label, with the property that has to be unique among its nodes."""
    return {GUARD: "key", POSITION: "stream", **mapping.identities}


def schema_of(mapping: GraphMapping) -> Sequence[str]:
    """The statements that make what the others need: nodes made once, and what finds all that a document made."""
    return [
        *(unique(label, name) for label, name in uniques_of(mapping).items()),
        f"CREATE INDEX IF NOT EXISTS FOR (g:{GUARD}) ON (g.deleted_at_ms)",
        *(index_of_node(label) for label in dict.fromkeys(rule.label for rule in mapping.nodes)),
        *(index_of_edge(kind) for kind in dict.fromkeys(rule.type for rule in mapping.edges)),
    ]


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
