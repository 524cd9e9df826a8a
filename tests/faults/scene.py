"""The scene of the crash harness: a replica set of three, five targets behind faulty ways, and who acts there."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

from faults.nursery import Nursery
from faults.proxy import HttpFaults, TcpFaults
from faults.truth import PatientRecorder, Writer

from docdb_stream.events import ChangeEvent
from docdb_stream.local import AwsServer, KafkaBroker, OpenSearchServer, ReplicaSet
from docdb_stream.local.demo import destinations
from docdb_stream.mongodb.connection import Connection
from docdb_stream.settings import Settings
from docdb_stream.stores.mongodb import MongoCheckpointStore

DB = "shop"
STATE_DB = "state"
LEASE_S = 2.0
HANG_S = 2.5
"""Longer than the pollers wait for an answer."""


class AdvertisedBroker(KafkaBroker):
    """A broker that tells clients to come through a proxy."""

    def __init__(self, port: int) -> None:
        super().__init__()
        self._advertised = port

    def _command(self) -> Sequence[str]:
        command = list(super()._command())
        at = command.index("--advertised-listener-url") + 1
        command[at] = f"tcp://127.0.0.1:{self._advertised}"
        return command

    @property
    def bootstrap_servers(self) -> str:
        return f"127.0.0.1:{self._advertised}"


def apache_kafka(port: int) -> KafkaBroker:
    """An Apache Kafka, of which clients hear the same."""
    from matrix.servers.kafka import ApacheKafka

    class AdvertisedKafka(ApacheKafka):
        @property
        def bootstrap_servers(self) -> str:
            return f"127.0.0.1:{port}"

    return AdvertisedKafka({"advertised.listeners": f"PLAINTEXT://127.0.0.1:{port}"})


STEPS = {
    "operations": "insert, update, replace, delete",
    "match": '{"documentKey._id": {"$mod": [2, 0]}}',
    "on_exit": "ignore",
    "transform": "faults.scene:unchanged",
}


def unchanged(event: ChangeEvent) -> ChangeEvent:
    """The TRANSFORM of these streams: looks into the event, and gives it on."""
    assert event.document_key is not None
    return event


def passes(event: Mapping[str, Any]) -> bool:
    """Whether the steps let an event pass."""
    return event["operationType"] == "delete" or event["documentKey"]["_id"] % 2 == 0


class Scene:
    """Everything set up, nothing happening yet. A context manager; leaving it ends all of it.

    Args:
        folder: For config and logs.
        seed: Of the faults and of the writer.
        per_s: Writes per second.
        share: Of the requests to targets that meet a fault.
        steps: Whether events go through steps, which leave out what ``passes`` says.
        snapshot: Whether there are documents before the stream begins, which begins with a snapshot of them.
        real_kafka: Whether Kafka is Apache Kafka, in which no event may be found twice.

    Attributes:
        mongo: The replica set.
        client: A client of it.
        http: The ways to AWS and to OpenSearch.
        tcp: The way to Kafka.
        destinations: The targets' ends of the line.
        nursery: Starts pollers.
        recorder: Records already.
        writer: Not started.
        store: The stream's checkpoints.
    """

    def __init__(
        self,
        folder: Path,
        *,
        seed: int,
        per_s: float,
        share: float,
        real_kafka: bool = False,
        steps: bool = False,
        snapshot: bool = False,
    ) -> None:
        self._folder = folder
        self._seed = seed
        self._per_s = per_s
        self._share = share
        self._real_kafka = real_kafka
        self.has_steps = steps
        self.has_snapshot = snapshot
        self._stack = ExitStack()
        self._over = threading.Event()

    def __enter__(self) -> Self:
        try:
            self._set_up()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._over.set()
        self._stack.close()

    def _set_up(self) -> None:
        enter = self._stack.enter_context
        self.mongo = enter(ReplicaSet(nodes=3))
        aws, opensearch = enter(AwsServer()), enter(OpenSearchServer())
        self.tcp = enter(TcpFaults())
        kafka = enter(apache_kafka(self.tcp.port) if self._real_kafka else AdvertisedBroker(self.tcp.port))
        self.tcp.upstream = kafka.port
        to_aws, to_opensearch = (
            enter(HttpFaults(each.address, seed=self._seed, share=self._share, hang_s=HANG_S))
            for each in (aws, opensearch)
        )
        self.http = (to_aws, to_opensearch)
        self.client = enter(self.mongo.client(socketTimeoutMS=3000))
        self.destinations: list[destinations.Destination] = [
            destinations.KinesisDestination(aws),
            destinations.SqsDestination(aws),
            destinations.KafkaDestination(kafka, once=self._real_kafka),
            destinations.S3Destination(aws),
            destinations.OpenSearchDestination(opensearch),
        ]
        settings = self._settings() | {"elasticsearch_uri": to_opensearch.url}
        steps = STEPS if self.has_steps else {}
        self.index = Settings(
            documentdb_uri=self.mongo.uri,
            watched_db_name=DB,
            state_db=STATE_DB,
            elasticsearch_uri=opensearch.url,
            **steps,
        )
        self.store = MongoCheckpointStore(
            own := Settings(documentdb_uri=self.mongo.uri, state_db=STATE_DB, watched_db_name=DB),
            enter(Connection(own)),
        )
        config = self._folder / "config.ini"
        config.write_text("\n".join(["[docdb-stream]", *(f"{name} = {value}" for name, value in settings.items())]))
        self.nursery = enter(Nursery(self._folder, config, {**aws.environment(), "AWS_ENDPOINT_URL": to_aws.url}))
        writers_client = enter(self.mongo.client(retryWrites=True, socketTimeoutMS=3000))
        self.writer = Writer(writers_client, DB, seed=self._seed, per_s=self._per_s)
        if self.has_snapshot:
            self.writer.begin_with_documents()
        self.recorder = PatientRecorder(self.client, DB)
        threading.Thread(target=self.recorder.run, args=(self._over,), daemon=True).start()

    def _settings(self) -> dict[str, Any]:
        settings: dict[str, Any] = {
            "documentdb_uri": self.mongo.uri,
            "watched_db_name": DB,
            "state_db": STATE_DB,
            "lease_seconds": LEASE_S,
            "batch_size": 25,
            "state_sync_count": 2,
            "max_loop": 0,
            "kinesis_record_bytes": 16_384,  # the large documents are beyond it: they go to the dead letters
        }
        if self.has_steps:
            settings |= STEPS
        if self.has_snapshot:
            settings |= {"start_at": "snapshot", "snapshot_ranges": 2}
        for destination in self.destinations:
            settings |= destination.create()
        return settings
