"""What a graph holds of a stream, for comparing: see ``held.Holdings``."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

import orjson

from docdb_stream.event import ChangeEvent
from docdb_stream.held import Held
from docdb_stream.position import Namespace
from docdb_stream.settings import Settings
from docdb_stream.targets._graph import cypher
from docdb_stream.targets._graph.graph import GraphWrite, Run
from docdb_stream.targets._graph.mapping import EdgeRule, GraphMapping, NodeRule
from docdb_stream.targets._graph.writer import Change, GraphDatabase
from docdb_stream.targets._versioned import document_key, version_time

_TOGETHER: Final = 100
"""Documents that are read at a time: as many of what they have made are held in memory."""
_OWN: Final = ("_", "~")
"""What the target's own properties begin with."""

Made = tuple[str, str, str, Mapping[str, Any]]
"""A node or relationship: its label or type, the identities at its ends (of a node one), and its properties."""


class GraphHoldings:
    """See ``Holdings``. A document is there while its guard says so; its content is the nodes and relationships that
    say that they are its.

    Args:
        settings: The stream.
        database: Where the graph is.
        mapping: Which documents make what.
        change_of: What an event makes.
        is_own: What is said of what the stream has written; None where it may be there on purpose, after a drop.
        others_stay: Whether a document's node can have properties of others, which are then not compared.
    """

    def __init__(
        self,
        settings: Settings,
        database: GraphDatabase,
        mapping: GraphMapping,
        *,
        change_of: Callable[[ChangeEvent], Change | None],
        is_own: bool | None,
        others_stay: bool,
    ) -> None:
        self._settings = settings
        self._database = database
        self._mapping = mapping
        self._change_of = change_of
        self._is_own = is_own
        self._others_stay = others_stay

    def expected(self, event: ChangeEvent) -> Held | None:
        """See Holdings."""
        change = self._change_of(event)
        if change is None:
            return None
        write = change.write
        digest = _digest(_made_by(write)) if write.deleted_at_ms is None else None
        place = str(event.namespace)
        return Held(place, write.key.removeprefix(cypher.prefix_of(place)).encode(), digest, event.cluster_time)

    def place_of(self, namespace: Namespace) -> str | None:
        """See Holdings: the collection itself."""
        return str(namespace)

    def places(self) -> Mapping[str, Sequence[Namespace]]:
        """See Holdings."""
        found: dict[str, Sequence[Namespace]] = {}
        after = ""
        while rows := self._rows(cypher.keys_after(1), {"after": after}):
            prefix = rows[0]["key"].partition("/")[0]
            after = f"{prefix}0"  # the sign after the slash
            namespace = Namespace(*cypher.source_of(prefix).split(".", 1))
            if self._settings.watches(namespace):
                found[str(namespace)] = [namespace]
        return found

    def held(self, place: str) -> Iterator[Held]:
        """See Holdings."""
        prefix = after = cypher.prefix_of(place)
        statement = cypher.guards_after(_TOGETHER)
        while guards := self._rows(statement, {"prefix": prefix, "after": after}):
            yield from self._with_content(place, guards)
            after = guards[-1]["key"]

    def sample(self, place: str, count: int) -> Sequence[Held]:
        """See Holdings. All guards of the collection are gone through."""
        guards = self._rows(cypher.some_guards(count), {"prefix": cypher.prefix_of(place)})
        parts = (guards[first : first + _TOGETHER] for first in range(0, len(guards), _TOGETHER))
        return [held for part in parts for held in self._with_content(place, part)]

    def look(self, wanted: Sequence[Held]) -> Sequence[Held]:
        """See Holdings."""
        names = [(each.place, cypher.prefix_of(each.place) + each.key.decode()) for each in wanted]
        guards = {row["key"]: row for row in self._rows(cypher.GUARDS, {"keys": [key for _, key in names]})}
        there = {
            (held.place, held.key): held
            for place in dict.fromkeys(place for place, _ in names)
            for held in self._with_content(place, [guards[key] for of, key in names if of == place and key in guards])
        }
        gone = (Held(each.place, each.key, None, None, is_own=False) for each in wanted)
        return [there.get((each.place, each.key), missing) for each, missing in zip(wanted, gone, strict=True)]

    def id_of(self, held: Held) -> bytes | None:
        """See Holdings."""
        return document_key(held.key.decode())

    def _rows(self, statement: str, parameters: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
        def body(run: Run) -> Sequence[Mapping[str, Any]]:
            return run(statement, parameters)

        return self._database.transact(body, writes=False)

    def _with_content(self, place: str, guards: Sequence[Mapping[str, Any]]) -> list[Held]:
        prefix, collection = cypher.prefix_of(place), place.partition(".")[2]
        keys = [row["key"] for row in guards if row["deleted_at_ms"] is None]
        made: dict[str, list[Made]] = {key: [] for key in keys}
        nodes = [rule for rule in self._mapping.nodes if rule.collection == collection]
        edges = [rule for rule in self._mapping.edges if rule.collection == collection]
        for node in nodes if keys else ():
            ours = {name for name, _ in node.properties}
            for row in self._rows(cypher.nodes_of(node), {"keys": keys}):
                found = _own(row["properties"], node)
                kept = {name: each for name, each in found.items() if name in ours} if self._others_stay else found
                made[row["key"]].append((node.label, row["id"], "", kept))
        for kind in {cypher.edges_of(rule): rule for rule in edges}.values() if keys else ():
            for row in self._rows(cypher.edges_of(kind), {"keys": keys}):
                made[row["key"]].append((kind.type, row["start"], row["end"], _own(row["properties"])))
        return [
            Held(
                place,
                row["key"].removeprefix(prefix).encode(),
                _digest(made[row["key"]]) if row["key"] in made else None,
                version_time(int(row["version"])),
                self._is_own if row["key"] in made else False,
            )
            for row in guards
        ]


def _made_by(write: GraphWrite) -> Iterator[Made]:
    for node, row in write.nodes.items():
        yield node.label, row["id"], "", row["properties"]
    for edge, rows in write.edges.items():
        yield from ((edge.type, row["start"], row["end"], row["properties"]) for row in rows)


def _own(properties: Mapping[str, Any], rule: NodeRule | EdgeRule | None = None) -> Mapping[str, Any]:
    """The properties that a document gives: without the identity, and without what is the target's."""
    identity = rule.identity if isinstance(rule, NodeRule) else None
    return {
        name: value
        for name, value in properties.items()
        if name != identity and not name.startswith(_OWN) and value is not None
    }


def _digest(made: Iterator[Made] | Sequence[Made]) -> bytes:
    """Of all of it, in whatever order it is found."""
    texts = [
        orjson.dumps([kind, start, end, {name: _plain(value) for name, value in sorted(properties.items())}])
        for kind, start, end, properties in made
    ]
    return hashlib.sha256(b"\n".join(sorted(texts))).digest()


def _plain(value: Any) -> Any:
    """A value in the one form in which what was sent and what is found are equal. The type of a number counts."""
    if isinstance(value, list):
        return [_plain(each) for each in value]
    native = value.to_native() if hasattr(value, "to_native") else value
    if isinstance(native, datetime):
        return ["date", (native if native.tzinfo else native.replace(tzinfo=UTC)).astimezone(UTC).isoformat()]
    return native if isinstance(native, str | bool) else [type(native).__name__, repr(native)]
