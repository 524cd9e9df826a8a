"""The databases of the services, each a real server of this machine that can go away and come back."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

from docdb_stream.local import ArcadeServer, AwsServer, RedisServer, ReplicaSet
from docdb_stream.local.process import ServerProcess


class Servers:
    """MongoDB, DynamoDB and SQS, Redis, a graph, and Cassandra where that is wanted: it is not of docdb_stream.local,
    but of the matrix's (make test-matrix), which gets its jars of Maven Central.

    Attributes:
        cassandra: Cassandra's address; None without.
    """

    def __init__(self, *, cassandra: bool) -> None:
        self.mongo, self.aws, self.redis, self.graph = ReplicaSet(), AwsServer(), RedisServer(), ArcadeServer()
        self._cassandra: ServerProcess | None = None
        if cassandra:
            from matrix.servers.cassandra import Cassandra

            self._cassandra = Cassandra()
        self._stack = ExitStack()

    def __enter__(self) -> Servers:
        started = [self.mongo, self.aws, self.redis, self.graph, *([self._cassandra] if self._cassandra else [])]
        with ExitStack() as stack, ThreadPoolExecutor(len(started)) as pool:
            for each in started:
                stack.callback(each.stop)
            [*pool.map(lambda each: each.start(), started)]
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()

    @property
    def cassandra(self) -> str | None:
        return self._cassandra.address if self._cassandra else None

    def environment(self) -> dict[str, str]:
        """What the config files call the servers. None but DOCUMENTDB_URI is a setting's name: such a variable would
        hold for every stream."""
        return {
            **self.aws.environment(),
            "DOCUMENTDB_URI": self.mongo.uri,
            "CACHE": self.redis.uri,
            "GRAPH": self.graph.uri,
            "CASSANDRA": self.cassandra or "",
        }

    def outages(self) -> dict[str, Callable[[float], None]]:
        """By the databases' names, what stops each for some seconds. They are killed and keep what they have, but for
        DynamoDB's, which has it in memory alone: it is frozen."""
        found: dict[str, Callable[[float], None]] = {
            "MongoDB": lambda seconds: self._without(self.mongo.primary(), seconds),
            "DynamoDB, SQS": self._frozen,
            "Redis": lambda seconds: self._without(self.redis, seconds),
            "the graph": lambda seconds: self._without(self.graph, seconds),
        }
        if (cassandra := self._cassandra) is not None:
            found["Cassandra"] = lambda seconds: self._without(cassandra, seconds)
        return found

    def _without(self, server: ServerProcess, seconds: float) -> None:
        server.kill()
        time.sleep(seconds)
        server.restart()

    def _frozen(self, seconds: float) -> None:
        self.aws.pause()
        time.sleep(seconds)
        self.aws.resume()

    def aws_client(self, service: str, **options: Any) -> Any:
        """A client of boto3's that waits for a server which is away."""
        return self.aws.client(service, retries={"mode": "standard", "max_attempts": 10}, read_timeout=10, **options)
