"""Documents to Neo4j: nodes and relationships, kept as the documents are.

Owns what each operation does. In ``_graph``, ``mapping`` says which documents make what, ``graph`` and ``cypher`` bring
a graph there; in ``_neo4j``, ``writer`` has the transactions, ``database`` the connection, ``errors`` what is said.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field

from docdb_stream.errors import ConfigError, TargetError, UnrenderableError
from docdb_stream.events import ChangeEvent, Namespace
from docdb_stream.formats.facts import FACTS
from docdb_stream.formats.plain import PLAIN
from docdb_stream.permissions import Permission
from docdb_stream.settings import Settings, TargetSettings
from docdb_stream.settings.types import Address, SecretReference
from docdb_stream.target import Rejection
from docdb_stream.targets._graph import cypher
from docdb_stream.targets._graph.graph import Graph, Run
from docdb_stream.targets._graph.mapping import mapping_of
from docdb_stream.targets._mirror import LOCAL, OF_COLLECTIONS, WRITING
from docdb_stream.targets._neo4j.database import Database
from docdb_stream.targets._neo4j.errors import NAME
from docdb_stream.targets._neo4j.writer import Change, Writer
from docdb_stream.targets._versioned import document_id, document_version

_WHOLE = frozenset({"update_lookup", "required"})
"""With these values of FULL_DOCUMENT an update brings its document, or the document is gone."""
TOMBSTONE_DAYS = 30
"""As the targets mongodb, postgresql and redis."""


def _nodes(text: str) -> str:
    if text:
        mapping_of(text, "")
    return text


def _edges(text: str) -> str:
    if text:
        mapping_of("", text)
    return text


class Neo4jSettings(TargetSettings):
    """What can be set about the target neo4j."""

    switch = "neo4j_uri"

    neo4j_uri: Annotated[str | None, Address("neo4j_secret")] = Field(
        default=None,
        description="Address of the Neo4j server (5 or later): switches the target on. neo4j+s:// is a cluster or Aura "
        "with TLS; bolt:// one server, without. Absent: off.",
        examples=["neo4j+s://graph.example:7687"],
    )
    neo4j_secret: SecretReference = Field(
        default=None,
        description="User name and password for it, by reference as documentdb_secret.",
        examples=["neo4j/writer"],
    )
    neo4j_database: str | None = Field(
        default=None,
        min_length=1,
        description="The database that is written to. Absent: the user's home database.",
        examples=["neo4j"],
    )
    neo4j_nodes: Annotated[str, AfterValidator(_nodes)] = Field(
        default="",
        description="The nodes that documents make, as collection: Label(identity=path, name=path), with commas; the "
        "first property is the identity, and the path . is the whole document as JSON.",
        examples=["users: User(id=_id, name=name), products: Product(sku=_id, title=title)"],
    )
    neo4j_edges: Annotated[str, AfterValidator(_edges)] = Field(
        default="",
        description="The relationships that documents make, as collection: (Label identity=path)-[TYPE name=path]->"
        "(Label identity=path), with commas; array[].path is one for each element.",
        examples=["orders: (User id=user)-[BOUGHT at=at, count=items[].count]->(Product sku=items[].sku)"],
    )
    neo4j_create: bool = Field(
        default=True,
        description="Whether missing constraints and indexes are made; false: they are there (docs/targets.md).",
    )
    neo4j_on_drop: Literal["delete", "keep"] = Field(
        default="delete",
        description="When a collection is dropped or renamed: remove what its documents have made, or keep it.",
    )
    neo4j_tombstone_days: int = Field(
        default=TOMBSTONE_DAYS,
        ge=1,
        le=3650,
        description="How many days the version of a deleted document stays, so that no replay brings it back: more "
        "than the change log keeps.",
    )

    def cautions(self, scope: Namespace | None) -> Iterable[str]:
        """See ``TargetSettings``."""
        if scope is None:
            yield "NEO4J_NODES: several databases are watched: collections of one name make the same nodes"
        address = urlsplit(self.neo4j_uri or "")
        if "+" not in address.scheme and address.hostname not in LOCAL:
            yield f"NEO4J_URI: the connection is without TLS; say {address.scheme}+s://"


class Neo4jTarget:
    """Keeps the nodes and relationships that documents make.

    - insert, update, replace: what the document has made is replaced as a whole. An update whose document was gone when
      it was looked up does nothing: its delete follows.
    - delete: what the document has made is removed. Its node stays, bare, while relationships of others need it.
    - drop, rename: what the collection's documents have made is removed, see ``on_drop``. Documents do not come with a
      rename: if the new name makes something, a snapshot of it has to follow.
    - dropDatabase: nothing, as a drop of every collection comes before it. invalidate and unknown ones: nothing.
    - collections that the mapping does not name: nothing.

    Everything is committed once ``write`` returns. Beside what a document makes, a node ``DocdbStream`` has its
    version, the cluster time: what comes again, or late, never replaces something newer. With each transaction goes the
    epoch of the run's lease: a run that another one has taken over from is refused.

    Args:
        uri: ``neo4j+s://host:7687``, ``bolt://host:7687`` or their like.
        secret: Where user name and password are (see ``read_credentials``).
        database: Its name; None: the user's home database.
        nodes: Which documents make nodes, see ``mapping_of``.
        edges: Which documents make relationships.
        create: Whether missing constraints and indexes are made.
        on_drop: ``delete`` or ``keep`` what documents of a dropped or renamed collection have made.
        tombstone_days: How long deleted documents are remembered.
        source: The stream; None: it has whole documents.
        stream: The stream's name, where there is no ``source``.

    Raises:
        ConfigError: The driver is not installed, the stream's updates bring no documents, or nothing is to be made.
    """

    name = NAME
    keyed = True
    settings_model = Neo4jSettings
    formats = (PLAIN, FACTS)

    def __init__(
        self,
        uri: str,
        *,
        secret: str | None = None,
        database: str | None = None,
        nodes: str = "",
        edges: str = "",
        create: bool = True,
        on_drop: Literal["delete", "keep"] = "delete",
        tombstone_days: int = TOMBSTONE_DAYS,
        source: Settings | None = None,
        stream: str = "",
    ) -> None:
        if source is not None and source.full_document not in _WHOLE:
            raise ConfigError(
                f"a graph is made of whole documents, and with FULL_DOCUMENT = {source.full_document} updates may "
                "bring none",
                hint="set FULL_DOCUMENT = update_lookup or required",
            )
        self._database = Database(uri, secret, database)
        try:
            self._mapping = mapping_of(nodes, edges)
        except ValueError as error:
            raise ConfigError(str(error), hint="correct NEO4J_NODES and NEO4J_EDGES (docs/targets.md)") from None
        self._graph = Graph(self._mapping)
        self._creates = create
        self._follows_drops = on_drop == "delete"
        self._writer = Writer(
            self._database,
            self._graph,
            stream or (source.stream_name if source else ""),
            cypher.schema_of(self._mapping) if create else (),
            tombstone_days,
        )

    @classmethod
    def from_settings(cls, settings: Settings) -> Self:
        """The target of a stream that has it switched on. Raises ConfigError."""
        own = settings.of(Neo4jSettings)
        return cls(
            own.where,
            secret=own.neo4j_secret,
            database=own.neo4j_database,
            nodes=own.neo4j_nodes,
            edges=own.neo4j_edges,
            create=own.neo4j_create,
            on_drop=own.neo4j_on_drop,
            tombstone_days=own.neo4j_tombstone_days,
            source=settings,
        )

    @classmethod
    def permissions(cls, settings: Settings) -> list[Permission]:
        """None of AWS; secrets are seen to for all targets."""
        return []

    def write(self, events: Sequence[ChangeEvent]) -> Sequence[Rejection]:
        """Write what brings the graph to where it is after these events. It is committed on return.

        Raises:
            TargetError: The server cannot be reached, refuses the user, or a later run of the stream has written there.
        """
        rejections: list[Rejection] = []
        changes: list[Change] = []
        for event in events:
            try:
                if event.operation in OF_COLLECTIONS:
                    rejections += self._writer.write(changes)
                    changes = []
                    self._follow(event)
                elif (change := self._change_of(event)) is not None:
                    changes.append(change)
            except UnrenderableError as error:
                rejections.append(Rejection(event, self.name, str(error)))
        return [*rejections, *self._writer.write(changes)]

    def flush(self) -> Sequence[Rejection]:
        """Nothing is left to do."""
        return ()

    def close(self) -> None:
        """Close the connections."""
        self._database.close()

    def check(self) -> None:
        """Reach the server, and see that the constraints are there, unless this makes them. Writes nothing.

        Raises:
            TargetError: It would not work.
        """

        def body(run: Run) -> set[tuple[str, str]]:
            rows = run(cypher.CONSTRAINTS, {})
            unique = [row for row in rows if "UNIQUE" in row["type"] or row["type"] == "NODE_KEY"]
            return {(*row["labelsOrTypes"], *row["properties"]) for row in unique}

        found = self._database.transact(body, writes=False)
        missing = [pair for pair in cypher.uniques_of(self._mapping).items() if pair not in found]
        if missing and not self._creates:
            raise TargetError(
                NAME,
                f"{self._database.place} has no uniqueness constraint for {missing[0][0]}.{missing[0][1]}",
                hint=f"{cypher.unique(*missing[0])}; or set NEO4J_CREATE = true",
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
        # Null says that it was gone when it was looked up, and its delete follows.
        if event.operation == "update" and "fullDocument" in event.document:
            return None
        raise UnrenderableError(
            "the event has no fullDocument, and a graph is made of whole documents: set FULL_DOCUMENT = update_lookup, "
            "or UpdateLookup in the event source mapping"
        )

    def _follow(self, event: ChangeEvent) -> None:
        """Remove what the documents of a dropped or renamed collection have made, also of one that was replaced by it.
        Raises TargetError."""
        if not self._follows_drops:
            return
        places = [event.namespace]
        if event.operation == "rename" and (to := event.document.get("to")):
            places.append(Namespace(to["db"], to["coll"]))
        version, at_ms = document_version(event.cluster_time), int(time.time() * 1000)
        for place in places:
            if place.coll in self._mapping.collections:
                self._writer.remove_older(str(place), place.coll or "", version, at_ms)
