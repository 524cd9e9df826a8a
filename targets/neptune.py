"""Documents to Amazon Neptune: nodes and relationships, kept as the documents are, by openCypher.

What each operation does is ``_graph.target``'s. In ``_neptune``, ``graph`` and ``statements`` bring a graph there
without transactions of several statements, ``database`` has the requests.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import Field

from docdb_stream.events import Namespace
from docdb_stream.permissions import Permission, arn
from docdb_stream.settings import Settings, TargetSettings
from docdb_stream.settings.types import Address
from docdb_stream.targets._graph.target import TOMBSTONE_DAYS, Edges, GraphTarget, Nodes, configured_mapping
from docdb_stream.targets._graph.writer import Writer
from docdb_stream.targets._mirror import LOCAL, check_whole
from docdb_stream.targets._neptune.database import NAME, NeptuneDatabase
from docdb_stream.targets._neptune.graph import NeptuneGraph


class NeptuneSettings(TargetSettings):
    """What can be set about the target neptune."""

    switch = "neptune_endpoint"

    neptune_endpoint: Annotated[str | None, Address()] = Field(
        default=None,
        description="Endpoint of the Neptune cluster, the one that takes writes (engine 1.2.1 or later): switches the "
        "target on. Absent: off.",
        examples=["graph.cluster-abc.eu-central-1.neptune.amazonaws.com:8182"],
    )
    neptune_nodes: Nodes = Field(
        default="",
        description="The nodes that documents make, as neo4j_nodes.",
        examples=["users: User(id=_id, name=name), products: Product(sku=_id, title=title)"],
    )
    neptune_edges: Edges = Field(
        default="",
        description="The relationships that documents make, as neo4j_edges.",
        examples=["orders: (User id=user)-[BOUGHT at=at, count=items[].count]->(Product sku=items[].sku)"],
    )
    neptune_on_drop: Literal["delete", "keep"] = Field(
        default="delete",
        description="When a collection is dropped or renamed: remove what its documents have made, or keep it.",
    )
    neptune_tombstone_days: int = Field(
        default=TOMBSTONE_DAYS,
        ge=1,
        le=3650,
        description="How many days the version of a deleted document stays, so that no replay brings it back: more "
        "than the change log keeps.",
    )

    def cautions(self, scope: Namespace | None) -> Iterable[str]:
        """See ``TargetSettings``."""
        if scope is None:
            yield "NEPTUNE_NODES: several databases are watched: collections of one name make the same nodes"
        address = urlsplit(self.neptune_endpoint or "")
        if address.scheme == "http" and address.hostname not in LOCAL:
            yield "NEPTUNE_ENDPOINT: the connection is without TLS; say https://"


class NeptuneTarget(GraphTarget):
    """Keeps the nodes and relationships that documents make, see ``GraphTarget``.

    Neptune's HTTP API has no transaction of several statements. So a batch is several, each of which does nothing for
    what somebody else has claimed since; who reads meanwhile may see what a document made before and what it makes now
    side by side. A run that ends in between leaves it so, and the next one, which delivers again, finishes it.

    Args:
        endpoint: The cluster's, ``host:8182`` or ``https://host:8182``.
        nodes: Which documents make nodes, see ``mapping_of``.
        edges: Which documents make relationships.
        on_drop: ``delete`` or ``keep`` what documents of a dropped or renamed collection have made.
        tombstone_days: How long deleted documents are remembered.
        source: The stream; None: it has whole documents.
        stream: The stream's name, where there is no ``source``.

    Raises:
        ConfigError: The endpoint is none, the stream's updates bring no documents, or nothing is to be made.
    """

    name = NAME
    settings_model = NeptuneSettings

    def __init__(
        self,
        endpoint: str,
        *,
        nodes: str = "",
        edges: str = "",
        on_drop: Literal["delete", "keep"] = "delete",
        tombstone_days: int = TOMBSTONE_DAYS,
        source: Settings | None = None,
        stream: str = "",
    ) -> None:
        check_whole(source)
        mapping = configured_mapping(NAME, nodes, edges)
        self._database = NeptuneDatabase(endpoint)
        graph = NeptuneGraph(mapping)
        name = stream or (source.stream_name if source else "")
        writer = Writer(NAME, self._database, graph, name, (), tombstone_days)
        super().__init__(mapping, graph, writer, self._database, follows_drops=on_drop == "delete", source=source)

    @classmethod
    def from_settings(cls, settings: Settings) -> Self:
        """The target of a stream that has it switched on. Raises ConfigError."""
        own = settings.of(NeptuneSettings)
        return cls(
            own.where,
            nodes=own.neptune_nodes,
            edges=own.neptune_edges,
            on_drop=own.neptune_on_drop,
            tombstone_days=own.neptune_tombstone_days,
            source=settings,
        )

    @classmethod
    def permissions(cls, settings: Settings) -> list[Permission]:
        """What writing and ``check`` take (Neptune User Guide, "Data-access actions")."""
        actions = ("neptune-db:ReadDataViaQuery", "neptune-db:WriteDataViaQuery", "neptune-db:DeleteDataViaQuery")
        why = "A cluster's resource id is not in its endpoint."
        return [Permission(actions, (arn("neptune-db", "*/*"),), why)]

    def close(self) -> None:
        """Close the connections."""
        self._database.close()

    def check(self) -> None:
        """Reach the cluster, and see that it takes the role's reading queries. Writes nothing, so neither that it
        takes writes is seen nor that the role may write.

        Raises:
            TargetError: It would not work.
        """
        self._database.transact(lambda run: run("MATCH (p:DocdbStreamPosition) RETURN p.stream AS stream LIMIT 1", {}))
