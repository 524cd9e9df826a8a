"""The topics of one test: who sends to them, what is in them, and whether the clients leave threads behind."""

from __future__ import annotations

import contextlib
import itertools
import socket
import threading
from pathlib import Path
from typing import Any, ClassVar, Self

import pytest

from docdb_stream.local import KafkaBroker
from docdb_stream.local.process import wait_until
from docdb_stream.targets.kafka import Client, KafkaTarget

KafkaTarget("127.0.0.1:1")  # imports kafka as users do, without its deprecation warnings
import kafka  # noqa: E402
from contract.kafka_proxy import KafkaProxy  # noqa: E402
from kafka import errors  # noqa: E402
from kafka.net.inet import KafkaNetSocket  # noqa: E402

CLIENTS: tuple[Client, ...] = ("kafka-python", "confluent")
CODECS = ("gzip", "snappy", "lz4", "zstd")

_numbers = itertools.count()


class ClientThreads:
    """The threads of kafka-python, and those of librdkafka, of which Python does not know; none that there were when
    this was made: they are another test's."""

    def __init__(self) -> None:
        self._before = self._running()

    @property
    def left(self) -> list[str]:
        """Their names."""
        return [name for number, name in self._running().items() if number not in self._before]

    def await_end(self) -> None:
        wait_until(lambda: not self.left, "the clients' threads end", timeout_s=10)

    @staticmethod
    def _running() -> dict[int | None, str]:
        names: dict[int | None, str] = {}
        for path in Path("/proc/self/task").glob("*/comm"):
            with contextlib.suppress(OSError):
                names[int(path.parent.name)] = path.read_text().strip()
        names |= {thread.native_id: thread.name for thread in threading.enumerate()}
        return {number: name for number, name in names.items() if "docdb-stream" in name or name.startswith("rdk:")}


class Sockets:
    """Those of kafka-python, which forgets the one of a connection that it still makes when it is closed (3.0): found
    by the garbage collector, it would be a warning in any test after this one."""

    def __init__(self) -> None:
        self._made: list[socket.socket] = []
        self._patch = pytest.MonkeyPatch()

    def keep(self) -> None:
        make = KafkaNetSocket.socket

        def kept(*arguments: Any) -> socket.socket:
            self._made.append(make(*arguments))
            return self._made[-1]

        self._patch.setattr(KafkaNetSocket, "socket", kept)

    def close(self) -> None:
        self._patch.undo()
        for each in self._made:
            each.close()


class Topics:
    """The topics with the prefix of one test, and the client library that sends to them. A context manager: it closes
    the targets, sees that these leave no thread, and closes what kafka-python left open.

    Attributes:
        consumer: Options of the consumer that reads them.
        threads: Those of the clients since this was made.
    """

    consumer: ClassVar[dict[str, Any]] = {}

    def __init__(self, broker: KafkaBroker, client: Client = "kafka-python") -> None:
        self.broker = broker
        self.client = client
        self.prefix = f"test{next(_numbers)}-"
        self.threads = ClientThreads()
        self._targets: list[KafkaTarget] = []
        self._sockets = Sockets()

    def __enter__(self) -> Self:
        self._sockets.keep()
        return self

    def __exit__(self, *exc_info: object) -> None:
        for target in self._targets:
            target.close()
        try:
            self.threads.await_end()
        finally:
            self._sockets.close()

    def target(self, proxy: KafkaProxy | None = None, **options: Any) -> KafkaTarget:
        servers = (proxy or self.broker).bootstrap_servers
        target = KafkaTarget(servers, **{"client": self.client, "topic_prefix": self.prefix, **options})
        self._targets.append(target)
        return target

    def records(self) -> list[Any]:
        """All records, topic by topic and partition by partition."""
        # By Tansu's end_offsets, a partition ends where its last batch begins. So batches are taken as a whole.
        consumer = kafka.KafkaConsumer(
            bootstrap_servers=self.broker.bootstrap_servers,
            enable_auto_commit=False,
            max_poll_records=1_000_000,
            **self.consumer,
        )
        try:
            topics = sorted(topic for topic in consumer.topics() if topic.startswith(self.prefix))
            partitions = [
                kafka.TopicPartition(topic, number)
                for topic in topics
                for number in sorted(consumer.partitions_for_topic(topic))
            ]
            if not partitions:
                return []
            consumer.assign(partitions)
            consumer.seek_to_beginning()
            ends = consumer.end_offsets(partitions)
            found: dict[Any, list[Any]] = {partition: [] for partition in partitions}
            while any(consumer.position(partition) < ends[partition] for partition in partitions):
                for partition, records in consumer.poll(timeout_ms=1000).items():
                    found[partition] += records
            return [record for partition in partitions for record in found[partition]]
        finally:
            consumer.close()


class Committed(Topics):
    """A stream's own topics, as consumers see them that read what is committed."""

    consumer: ClassVar[dict[str, Any]] = {"isolation_level": "read_committed"}

    def __init__(self, broker: KafkaBroker, client: Client) -> None:
        super().__init__(broker, client)
        self.stream = f"stream{next(_numbers)}"

    def target(self, proxy: KafkaProxy | None = None, **options: Any) -> KafkaTarget:
        return super().target(proxy, **{"stream": self.stream, "transactions": "on", **options})

    def records(self) -> list[Any]:
        """As ``Topics`` has them, once each partition knows what was committed: Kafka confirms a commit before that."""
        admin = kafka.KafkaAdminClient(bootstrap_servers=self.broker.bootstrap_servers)
        with contextlib.closing(admin), contextlib.suppress(errors.IncompatibleBrokerVersion):
            ending = {"state_filters": ["PrepareCommit", "PrepareAbort"]}
            wait_until(lambda: not any(admin.list_transactions(**ending).values()), "transactions end", timeout_s=30)
        return super().records()


def deliver(target: KafkaTarget, events: list[Any]) -> list[Any]:
    return [*target.write(events), *target.flush()]


def event_ids(topics: Topics) -> list[str]:
    return [dict(record.headers)["event_id"].decode() for record in topics.records()]
