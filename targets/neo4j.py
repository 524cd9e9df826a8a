"""Documents to Neo4j: nodes and relationships, kept as the documents are.

What each operation does is ``_graph.target``'s. In ``_neo4j``, ``database`` has the connection and the transactions,
``errors`` what is said.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import Field

from docdb_stream.errors import TargetError
from docdb_stream.events import Namespace
from docdb_stream.permissions import Permission
from docdb_stream.settings import Settings, TargetSettings
from docdb_stream.settings.types import Address, SecretReference
from docdb_stream.targets._graph import cypher
from docdb_stream.targets._graph.graph import Graph, Run
from docdb_stream.targets._graph.target import TOMBSTONE_DAYS, Edges, GraphTarget, Nodes, configured_mapping
from docdb_stream.targets._graph.writer import Writer
from docdb_stream.targets._mirror import LOCAL, check_whole
from docdb_stream.targets._neo4j.database import Database
from docdb_stream.targets._neo4j.errors import NAME


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
    neo4j_nodes: Nodes = Field(
        default="",
        description="The nodes that documents make, as collection: Label(identity=path, name=path), with commas; the "
        "first property is the identity, and the path . is the whole document as JSON.",
        examples=["users: User(id=_id, name=name), products: Product(sku=_id, title=title)"],
    )
    neo4j_edges: Edges = Field(
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


class Neo4jTarget(GraphTarget):
    """Keeps the nodes and relationships that documents make, see ``GraphTarget``; a batch in one transaction.

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
    settings_model = Neo4jSettings

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
        check_whole(source)
        self._database = Database(uri, secret, database)
        self._creates = create
        mapping = configured_mapping(NAME, nodes, edges)
        graph = Graph(mapping)
        writer = Writer(
            NAME,
            self._database,
            graph,
            stream or (source.stream_name if source else ""),
            cypher.schema_of(mapping) if create else (),
            tombstone_days,
        )
        super().__init__(mapping, graph, writer, self._database, follows_drops=on_drop == "delete", source=source)

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
