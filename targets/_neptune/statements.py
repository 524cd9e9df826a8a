"""The statements that keep a graph equal to documents where each is a transaction of its own.

Owns the claim: a guard has, while its document is written, the word of who writes it (``claim``). Each statement does
nothing for documents that somebody else has claimed since; nodes and relationships have the claim they were made under
as ``_claim``, so that what an earlier one has made, or has half made, is found. What is made is found by Neptune's own
ids, ``~id``: the one thing that Neptune keeps unique ("openCypher extensions", custom ids, engine 1.2.0.2).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from docdb_stream.targets._graph.cypher import GUARD, POSITION, quoted
from docdb_stream.targets._graph.mapping import EdgeRule, NodeRule, Path

PASS_ON: Final = (
    f"MERGE (p:{POSITION} {{`~id`: $id}}) SET p.stream = $stream "
    "WITH p WHERE p.epoch IS NULL OR $epoch IS NULL OR p.epoch <= $epoch "
    "SET p.epoch = coalesce($epoch, p.epoch) RETURN p.stream AS stream"
)
"""Note a run's epoch. Returns nothing where a later run has written."""

CLAIM: Final = (
    f"UNWIND $rows AS row MERGE (g:{GUARD} {{`~id`: row.guard}}) SET g.key = row.key "
    "WITH g, row WHERE coalesce(g.version, -1) <= row.version "
    "SET g.version = row.version, g.deleted_at_ms = row.deleted_at_ms, g.claim = $claim RETURN row.key AS key"
)
"""Claim the guards of rows (guard, key, version, deleted_at_ms or null). Returns the keys of those that nothing newer
has."""

_CLAIMED: Final = f"UNWIND $rows AS row MATCH (g:{GUARD} {{`~id`: row.guard}}) WHERE g.claim = $claim WITH g, row "

SETTLE: Final = f"{_CLAIMED}REMOVE g.claim"
"""Say of the documents of rows (guard) that all of them is written."""


def older(most: int) -> str:
    """The keys of a collection's documents that are there, of before a version, and of those whose removal at this
    version has not come to its end."""
    return (
        f"MATCH (g:{GUARD}) WHERE g.key STARTS WITH $prefix AND ((g.version < $version AND g.deleted_at_ms IS NULL) "
        f"OR (g.version = $version AND g.claim IS NOT NULL)) RETURN g.key AS key LIMIT {most}"
    )


def purge(most: int) -> str:
    """Forget documents that were deleted before a time."""
    return (
        f"MATCH (g:{GUARD}) WHERE g.deleted_at_ms < $before_ms AND g.claim IS NULL WITH g LIMIT {most} DELETE g "
        "RETURN count(*) AS purged"
    )


def put_node(rule: NodeRule) -> str:
    """Make the node of each row (guard, node, id, key, properties), or take the one that is there."""
    return (
        f"{_CLAIMED}MERGE (n:{quoted(rule.label)} {{`~id`: row.node}}) "
        f"SET n.{quoted(rule.identity)} = row.id, {_set('n', rule.properties)}n._doc = row.key, n._claim = $claim"
    )


def tie(rule: EdgeRule) -> str:
    """Make the relationship of each row (guard, edge, start_node, start, end_node, end, key, properties), and bare
    nodes where an end is missing."""
    start, end = rule.start, rule.end
    return (
        f"{_CLAIMED}MERGE (a:{quoted(start.label)} {{`~id`: row.start_node}}) "
        f"ON CREATE SET a.{quoted(start.identity)} = row.start "
        f"MERGE (b:{quoted(end.label)} {{`~id`: row.end_node}}) "
        f"ON CREATE SET b.{quoted(end.identity)} = row.end "
        f"MERGE (a)-[r:{quoted(rule.type)} {{`~id`: row.edge}}]->(b) "
        f"SET {_set('r', rule.properties)}r._doc = row.key, r._claim = $claim"
    )


def cut(rule: EdgeRule) -> str:
    """Remove the relationships that the documents of rows (guard, key) made under other claims, and the nodes at their
    ends that nothing is tied to then and that no document has made."""
    return (
        f"{_CLAIMED}MATCH (a:{quoted(rule.start.label)})-[r:{quoted(rule.type)}]->(b:{quoted(rule.end.label)}) "
        "WHERE r._doc = row.key AND coalesce(r._claim, '') <> $claim DELETE r "
        "WITH collect(a) + collect(b) AS ends UNWIND ends AS n "
        "WITH DISTINCT n WHERE n._doc IS NULL AND NOT (n)--() DELETE n"
    )


def vacate(rule: NodeRule) -> str:
    """Leave of the nodes that the documents of rows (guard, key) made under other claims the identity alone, and
    nothing where nothing is tied to them."""
    names = [name for name, _ in rule.properties] + ["_doc", "_claim"]
    return (
        f"{_CLAIMED}MATCH (n:{quoted(rule.label)}) WHERE n._doc = row.key AND coalesce(n._claim, '') <> $claim "
        f"REMOVE {', '.join(f'n.{quoted(name)}' for name in names)} WITH DISTINCT n WHERE NOT (n)--() DELETE n"
    )


def _set(variable: str, properties: Iterable[tuple[str, Path]]) -> str:
    names = (quoted(name) for name, _ in properties)
    return "".join(f"{variable}.{name} = row.properties.{name}, " for name in names)
