"""Documents on their way into a graph: folded by key, claimed by version, and replaced as a whole.

Owns the order of the statements. Connections and transactions are the targets' own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from docdb_stream.targets._graph import cypher
from docdb_stream.targets._graph.mapping import EdgeRule, GraphMapping, NodeRule
from docdb_stream.targets._graph.values import identity_of, properties_of

Run = Callable[[str, Mapping[str, Any]], Sequence[Mapping[str, Any]]]
"""Runs a statement with its parameters in the transaction that is open, and returns its rows."""


@dataclass(frozen=True, slots=True)
class GraphWrite:
    """What one change makes of its document.

    Attributes:
        key: The document's, in all collections.
        collection: Its collection's name.
        version: See ``document_version``.
        deleted_at_ms: When it was deleted; None: it is there.
        nodes: Its nodes as rows, by their rules.
        edges: Its relationships as rows, by their rules.
    """

    key: str
    collection: str
    version: int
    deleted_at_ms: int | None
    nodes: Mapping[NodeRule, Mapping[str, Any]]
    edges: Mapping[EdgeRule, Sequence[Mapping[str, Any]]]


class Graph:
    """Keeps what documents make in a graph, where several statements are one transaction.

    Args:
        mapping: Which documents make what.
    """

    most_changes = 1_000
    most_bytes = 8 * 1024 * 1024
    """At most so much in one transaction, one change at least: a second or so, and little memory on either side."""
    has_lists = True
    """Whether properties can be lists and dates."""
    keeps_others = False
    """Whether properties that others give to a document's node stay when the document changes."""

    def __init__(self, mapping: GraphMapping) -> None:
        self._mapping = mapping

    def pass_on(self, stream: str, epoch: int | None, run: Run) -> bool:
        """Note a run's epoch; returns whether no later run has written. Where statements share a transaction, the
        node is locked until its end: runs go one by one."""
        return bool(run(cypher.PASS_ON, {"stream": stream, "epoch": epoch}))

    def older(self, prefix: str, version: int, run: Run) -> Sequence[str]:
        """The keys of documents of a collection that are there, of before a version: ``most_changes`` of them."""
        found = run(cypher.OLDER, {"prefix": prefix, "version": version, "most": self.most_changes})
        return [row["key"] for row in found]

    def forget(self, before_ms: int, run: Run) -> bool:
        """Forget documents that were deleted before a time; returns whether there may be more of them."""
        [row] = run(cypher.PURGE, {"before_ms": before_ms, "most": self.most_changes})
        return int(row["purged"]) == self.most_changes

    def write_of(self, key: str, collection: str, version: int, document: Mapping[str, Any]) -> GraphWrite:
        """What a document makes. Where an identity is null or missing, there is no node or relationship;
        ``_id`` alone is never missing.

        Raises:
            UnrenderableError: A value cannot be told.
        """
        nodes: dict[NodeRule, Mapping[str, Any]] = {}
        for rule in self._mapping.nodes:
            found = rule.identity_path.value(document, None)
            # Of one document in a collection the _id may be null, and it is a document all the same.
            if rule.collection == collection and (found is not None or rule.identity_path.names == ("_id",)):
                properties = properties_of(rule.properties, document, lists=self.has_lists)
                nodes[rule] = {"id": identity_of(found), "key": key, "properties": properties}
        rules = [rule for rule in self._mapping.edges if rule.collection == collection]
        edges = {rule: [*self._edge_rows(rule, key, document)] for rule in rules}
        return GraphWrite(key, collection, version, None, nodes, edges)

    def delete_of(self, key: str, collection: str, version: int, at_ms: int) -> GraphWrite:
        """What a document's deletion makes: its guard stays, so that no replay brings it back."""
        return GraphWrite(key, collection, version, at_ms, {}, {})

    def apply(self, writes: Sequence[GraphWrite], run: Run) -> None:
        """Bring the graph to where it is after these changes, in their order. Nothing newer is ever replaced.

        All statements have to be of one transaction. Raises what ``run`` raises.
        """
        newest = newest_of(writes)
        # In one order in all transactions, so that two of them never wait for each other's guards.
        rows = [
            {"key": key, "version": newest[key].version, "deleted_at_ms": newest[key].deleted_at_ms}
            for key in sorted(newest)
        ]
        claimed = claimed_of(newest, run(cypher.CLAIM, {"rows": rows}))
        bare: dict[tuple[str, str], dict[str, None]] = {}
        self._clear(claimed, run, bare)
        for node in self._mapping.nodes:
            if made := [each.nodes[node] for each in claimed if node in each.nodes]:
                run(cypher.put_node(node), {"rows": made})
        for edge in self._mapping.edges:
            if tied := [row for each in claimed for row in each.edges.get(edge, ())]:
                run(cypher.tie(edge), {"rows": tied})
        for (label, identity), ids in bare.items():
            run(cypher.prune(label, identity), {"ids": list(ids)})

    def _clear(self, writes: Sequence[GraphWrite], run: Run, bare: dict[tuple[str, str], dict[str, None]]) -> None:
        """Take away what the documents have made, and note the nodes that may be of no use now."""
        for edge in self._mapping.edges:
            if keys := [each.key for each in writes if each.collection == edge.collection]:
                for row in run(cypher.cut(edge), {"keys": keys}):
                    for end, name in ((edge.start, "start"), (edge.end, "end")):
                        bare.setdefault((end.label, end.identity), {})[row[name]] = None
        for node in self._mapping.nodes:
            if keys := [each.key for each in writes if each.collection == node.collection]:
                for row in run(cypher.vacate(node), {"keys": keys}):
                    bare.setdefault((node.label, node.identity), {})[row["id"]] = None

    def _edge_rows(self, rule: EdgeRule, key: str, document: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
        for element in rule.elements(document):
            start, end = (one.path.value(document, element) for one in (rule.start, rule.end))
            if start is not None and end is not None:
                properties = properties_of(rule.properties, document, element, lists=self.has_lists)
                yield {"start": identity_of(start), "end": identity_of(end), "key": key, "properties": properties}


def claimed_of(newest: Mapping[str, GraphWrite], rows: Sequence[Mapping[str, Any]]) -> list[GraphWrite]:
    """The changes that were claimed, in their order: of two that have one node, the later takes it."""
    return sorted((newest[row["key"]] for row in rows), key=lambda each: each.version)


def newest_of(writes: Sequence[GraphWrite]) -> Mapping[str, GraphWrite]:
    """The newest change of each document, by its key; of one version, the last."""
    newest: dict[str, GraphWrite] = {}
    for each in writes:
        if each.key not in newest or newest[each.key].version <= each.version:
            newest[each.key] = each
    return newest
