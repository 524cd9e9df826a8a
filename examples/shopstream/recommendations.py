"""The recommendation service: a graph of who bought what, that the streams of profiles and orders keep."""

from __future__ import annotations

from collections import Counter
from typing import Any

ALSO_BOUGHT = """
MATCH (:Product {id: $product})<-[:PURCHASED]-(viewer:User)-[:PURCHASED]->(other:Product)
WHERE other.id <> $product
RETURN other.id AS id, count(DISTINCT viewer) AS viewers ORDER BY viewers DESC, id LIMIT $limit
"""


class Recommendations:
    """Args: graph: A driver of Neo4j's."""

    def __init__(self, graph: Any) -> None:
        self._graph = graph

    def also_bought(self, product_id: str, limit: int = 5) -> list[tuple[str, int]]:
        """Viewers who bought this also bought: product, and how many of them did."""
        records, _, _ = self._graph.execute_query(ALSO_BOUGHT, product=product_id, limit=limit)
        return [(record["id"], record["viewers"]) for record in records]

    def purchases(self) -> Counter[str]:
        """How many edges there are, by order."""
        records, _, _ = self._graph.execute_query("MATCH ()-[edge:PURCHASED]->() RETURN edge.order AS id")
        return Counter(record["id"] for record in records)

    def titles(self) -> dict[str, str]:
        """The title of each product that is known by more than its id."""
        records, _, _ = self._graph.execute_query(
            "MATCH (p:Product) WHERE p.title IS NOT NULL RETURN p.id AS id, p.title AS title"
        )
        return {record["id"]: record["title"] for record in records}

    def names(self) -> dict[str, str]:
        """The name of each user whose profile has come."""
        records, _, _ = self._graph.execute_query(
            "MATCH (u:User) WHERE u.name IS NOT NULL RETURN u.id AS id, u.name AS name"
        )
        return {record["id"]: record["name"] for record in records}
