"""What targets have in common that keep a graph: what each operation does.

Which documents make what is ``mapping``'s; ``graph`` and ``cypher`` bring a graph there, ``writer`` in parts of a size.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Annotated, Final

from pydantic import AfterValidator

from docdb_stream.errors import ConfigError, UnrenderableError
from docdb_stream.events import ChangeEvent
from docdb_stream.formats.facts import FACTS
from docdb_stream.formats.plain import PLAIN
from docdb_stream.settings import Settings
from docdb_stream.target import Rejection
from docdb_stream.targets._graph import cypher
from docdb_stream.targets._graph.graph import Graph
from docdb_stream.targets._graph.held import GraphHoldings
from docdb_stream.targets._graph.mapping import GraphMapping, mapping_of
from docdb_stream.targets._graph.writer import Change, GraphDatabase, Writer
from docdb_stream.targets._mirror import WRITING, check_is_gone, gone_by, write_in_order
from docdb_stream.targets._versioned import document_id, document_version

TOMBSTONE_DAYS: Final = 30
"""As the targets mongodb, postgresql and redis."""


def _nodes(text: str) -> str:
    if text:
        mapping_of(text, "")
    return text


def _edges(text: str) -> str:
    if text:
        mapping_of("", text)
    return text


Nodes = Annotated[str, AfterValidator(_nodes)]
"""A setting that says which documents make nodes; empty: none."""
Edges = Annotated[str, AfterValidator(_edges)]
"""A setting that says which documents make relationships; empty: none."""


def configured_mapping(name: str, nodes: str, edges: str) -> GraphMapping:
    """The mapping that a target's settings say. Raises ConfigError."""
    try:
        return mapping_of(nodes, edges)
    except ValueError as error:
        hint = f"correct {name.upper()}_NODES and {name.upper()}_EDGES (docs/targets.md)"
        raise ConfigError(str(error), hint=hint) from None


class GraphTarget:
    """Keeps the nodes and relationships that documents make.

    - insert, update, replace: what the document has made is replaced as a whole. An update whose document was gone when
      it was looked up does nothing: its delete follows.
    - delete: what the document has made is removed. Its node stays, bare, while relationships of others need it.
    - drop, rename: what the collection's documents have made is removed, unless drops are not followed. Documents do
      not come with a rename: if the new name makes something, a snapshot of it has to follow.
    - dropDatabase: nothing, as a drop of every collection comes before it. invalidate and unknown ones: nothing.
    - collections that the mapping does not name: nothing.

    Everything is durable once ``write`` returns. Beside what a document makes, a node ``DocdbStream`` has its
    version, the cluster time: what comes again, or late, never replaces something newer. With what is written goes the
    epoch of the run's lease: a run that another one has taken over from is refused.

    Args:
        mapping: Which documents make what.
        graph: Keeps it.
        writer: Writes it.
        database: Where it is; its owner closes it.
        follows_drops: Whether what documents of a dropped or renamed collection have made is removed.
        source: The stream; None: there is nothing to compare.
    """

    name: str
    keyed = True
    formats = (PLAIN, FACTS)

    def __init__(
        self,
        mapping: GraphMapping,
        graph: Graph,
        writer: Writer,
        database: GraphDatabase,
        *,
        follows_drops: bool,
        source: Settings | None,
    ) -> None:
        self._mapping = mapping
        self._of_database = database
        self._source = source
        self._graph = graph
        self._writer = writer
        self._follows_drops = follows_drops

    def write(self, events: Sequence[ChangeEvent]) -> Sequence[Rejection]:
        """Write what brings the graph to where it is after these events. It is durable on return.

        Raises:
            TargetError: The server cannot be reached, refuses the user, or a later run of the stream has written there.
        """
        return write_in_order(events, self.name, self._change_of, self._writer.write, self._follow)

    def flush(self) -> Sequence[Rejection]:
        """Nothing is left to do."""
        return ()

    def holdings(self) -> GraphHoldings:
        """See ``Verifiable``. What a document has made is compared as a whole.

        Raises:
            ConfigError: The target was made without a stream.
        """
        if self._source is None:
            raise ConfigError("the target was made without a stream, so there is nothing to compare")
        is_own = True if self._follows_drops else None
        return GraphHoldings(
            self._source,
            self._of_database,
            self._mapping,
            change_of=self._change_of,
            is_own=is_own,
            others_stay=self._graph.keeps_others,
        )

    def _change_of(self, event: ChangeEvent) -> Change | None:
        """What the event writes; None where it writes nothing.

        Raises:
            UnrenderableError: What it says cannot be told.
        """
        if event.operation not in WRITING:
            return None
        namespace = event.namespace
        collection = namespace.coll or ""
        if collection not in self._mapping.collections:
            return None
        is_there = event.operation != "delete" and event.render(PLAIN) != b"null"
        if not event.has_document_key:
            raise UnrenderableError("documentKey: missing in the event")
        key = cypher.prefix_of(str(namespace)) + (event.object_id or document_id(event.exact_id))
        version = document_version(event.cluster_time)
        if is_there:
            return Change(event, self._graph.write_of(key, collection, version, event.full_document or {}))
        if event.operation == "delete":
            return Change(event, self._graph.delete_of(key, collection, version, int(time.time() * 1000)))
        check_is_gone(event)
        return None

    def _follow(self, event: ChangeEvent) -> None:
        """Remove what the documents of a dropped or renamed collection have made, also of one that was replaced by it.
        Raises TargetError."""
        if not self._follows_drops:
            return
        version, at_ms = document_version(event.cluster_time), int(time.time() * 1000)
        for place in gone_by(event):
            if place.coll in self._mapping.collections:
                self._writer.remove_older(str(place), place.coll or "", version, at_ms)
