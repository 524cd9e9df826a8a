"""Real servers on this machine, for the demo, for tests, and to play with: MongoDB, Kafka, OpenSearch, PostgreSQL,
Redis, ArcadeDB, AWS.

They come from Python packages (the extra ``local``), listen on 127.0.0.1 alone, keep their data in
temporary folders, and never outlive the process that started them. None of this is meant to hold data that matters.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Protocol, Self

from docdb_stream.local.arcadedb import ArcadeServer
from docdb_stream.local.aws import AwsServer
from docdb_stream.local.kafka import KafkaBroker
from docdb_stream.local.mongod import Mongod, ReplicaSet, Tls
from docdb_stream.local.opensearch import OpenSearchServer
from docdb_stream.local.postgresql import PostgresServer
from docdb_stream.local.process import ServerError
from docdb_stream.local.redis import RedisServer

__all__ = [
    "ArcadeServer",
    "AwsServer",
    "KafkaBroker",
    "LocalServers",
    "Mongod",
    "OpenSearchServer",
    "PostgresServer",
    "RedisServer",
    "ReplicaSet",
    "ServerError",
    "Tls",
]


class _Server(Protocol):
    def start(self) -> object: ...
    def stop(self) -> None: ...


class LocalServers:
    """One server of each kind asked for, started and stopped side by side.

    As a context manager they are started on entry and stopped on exit. The attributes are there in any case, but one
    that was not asked for is not running.

    Attributes:
        mongo: A replica set of one member.
        kafka: A broker.
        opensearch: A node.
        aws: An account.
    """

    def __init__(self, *, mongo: bool = True, kafka: bool = True, opensearch: bool = True, aws: bool = True) -> None:
        self.mongo = ReplicaSet()
        self.kafka = KafkaBroker()
        self.opensearch = OpenSearchServer()
        self.aws = AwsServer()
        # Each with the variables under which docdb-stream, and what it uses, finds the server.
        offered: list[tuple[bool, _Server, Callable[[], dict[str, str]]]] = [
            (mongo, self.mongo, lambda: {"DOCUMENTDB_URI": self.mongo.uri}),
            (kafka, self.kafka, lambda: {"MSK_BOOTSTRAP_SRV": self.kafka.bootstrap_servers}),
            (opensearch, self.opensearch, lambda: {"ELASTICSEARCH_URI": self.opensearch.url}),
            (aws, self.aws, self.aws.environment),
        ]
        self._wanted = [(server, environment) for wanted, server, environment in offered if wanted]

    def environment(self) -> dict[str, str]:
        """Return the environment variables with which docdb-stream finds the servers that were asked for."""
        return {name: value for _, environment in self._wanted for name, value in environment().items()}

    def start(self) -> Self:
        """Start the servers; if one fails, none is left running.

        Raises:
            ConfigError: A package that ships a server is not installed.
            ServerError: A server did not come up, or the replica set has no primary.
        """
        try:
            self._for_each(lambda server: server.start())
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """Stop the servers and remove their data. Twice is safe."""
        self._for_each(lambda server: server.stop())

    def _for_each(self, action: Callable[[_Server], object]) -> None:
        with ThreadPoolExecutor(max_workers=max(1, len(self._wanted))) as pool:
            list(pool.map(action, (server for server, _ in self._wanted)))

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()
