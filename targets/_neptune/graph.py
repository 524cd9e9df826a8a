"""Documents on their way into a graph whose statements are a transaction each.

Owns the order: claim, make what is new, remove what is not, settle. Whoever is stopped in between leaves a claim, and
what comes again claims anew and removes what was half made; nobody overwrites what is claimed since.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, Final

from docdb_stream.targets._graph import cypher
from docdb_stream.targets._graph.graph import Graph, GraphWrite, Run, claimed_of, newest_of
from docdb_stream.targets._graph.mapping import EdgeRule, NodeRule
from docdb_stream.targets._neptune import statements

ROWS: Final = 500
"""Relationships in one statement: a document may have any number of them."""


class NeptuneGraph(Graph):
    """Keeps what documents make in a graph of Neptune. See ``Graph``."""

    most_changes = 200
    most_bytes = 1024 * 1024
    """Less than where statements share a transaction: what meets a conflict is done again as a whole."""
    has_lists = False
    """Neptune takes an array for several values of one property ("openCypher data model")."""
    keeps_others = True

    def pass_on(self, stream: str, epoch: int | None, run: Run) -> bool:
        """See ``Graph.pass_on``. The node is not locked: the claims see to it that a run that was taken over from
        while it writes replaces nothing newer."""
        given = {"id": _id_of(cypher.POSITION, stream), "stream": stream, "epoch": epoch}
        return bool(run(statements.PASS_ON, given))

    def older(self, prefix: str, version: int, run: Run) -> Sequence[str]:
        """See ``Graph.older``; also those whose removal at this version was not finished."""
        found = run(statements.older(self.most_changes), {"prefix": prefix, "version": version})
        return [row["key"] for row in found]

    def forget(self, before_ms: int, run: Run) -> bool:
        """See ``Graph.forget``."""
        [row] = run(statements.purge(self.most_changes), {"before_ms": before_ms})
        return int(row["purged"]) == self.most_changes

    def apply(self, writes: Sequence[GraphWrite], run: Run) -> None:
        """Bring the graph to where it is after these changes. Nothing newer is ever replaced, and what comes again
        finishes what was not. Raises what ``run`` raises."""
        newest = newest_of(writes)
        claim = uuid.uuid4().hex
        guards = [
            {
                "guard": _guard_of(key),
                "key": key,
                "version": newest[key].version,
                "deleted_at_ms": newest[key].deleted_at_ms,
            }
            for key in sorted(newest)
        ]
        claimed = claimed_of(newest, run(statements.CLAIM, {"rows": guards, "claim": claim}))
        for statement, rows in self._steps(claimed, claim):
            for part in _parts(rows):
                run(statement, {"rows": part, "claim": claim})

    def _steps(self, writes: Sequence[GraphWrite], claim: str) -> Iterator[tuple[str, Iterable[Mapping[str, Any]]]]:
        """The statements, each with its rows, in their order."""
        for node in self._mapping.nodes:
            made = (_node_row(node, each.nodes[node]) for each in writes if node in each.nodes)
            yield statements.put_node(node), made
        for number, edge in enumerate(self._mapping.edges):
            tied = (row for each in writes for row in each.edges.get(edge, ()))
            yield statements.tie(edge), (_edge_row(edge, row, f"{claim}/{number}/{at}") for at, row in enumerate(tied))
        for edge in self._mapping.edges:
            yield statements.cut(edge), _guard_rows(writes, edge.collection)
        for node in self._mapping.nodes:
            yield statements.vacate(node), _guard_rows(writes, node.collection)
        yield statements.SETTLE, _guard_rows(writes, None)


def _parts(rows: Iterable[Mapping[str, Any]]) -> Iterator[Sequence[Mapping[str, Any]]]:
    left = iter(rows)
    while part := [*islice(left, ROWS)]:
        yield part


def _guard_rows(writes: Sequence[GraphWrite], collection: str | None) -> Iterator[Mapping[str, Any]]:
    return (
        {"guard": _guard_of(each.key), "key": each.key}
        for each in writes
        if collection is None or each.collection == collection
    )


def _node_row(rule: NodeRule, row: Mapping[str, Any]) -> Mapping[str, Any]:
    return {**row, "guard": _guard_of(row["key"]), "node": _id_of(rule.label, row["id"])}


def _edge_row(rule: EdgeRule, row: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    return {
        **row,
        "guard": _guard_of(row["key"]),
        "start_node": _id_of(rule.start.label, row["start"]),
        "end_node": _id_of(rule.end.label, row["end"]),
        "edge": name,
    }


def _guard_of(key: str) -> str:
    return _id_of(cypher.GUARD, key)


def _id_of(label: str, identity: str) -> str:
    """A node's id: unique in the whole graph, so that it has the label."""
    return cypher.prefix_of(label) + identity
