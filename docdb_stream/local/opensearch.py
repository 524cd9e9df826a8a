"""A local OpenSearch: an in-memory server that answers as OpenSearch 3 does, from the ``osmem-server`` package."""

from __future__ import annotations

from collections.abc import Sequence

from docdb_stream.errors import ConfigError
from docdb_stream.local.process import INSTALL_HINT, ServerProcess, required_module


class OpenSearchServer(ServerProcess):
    """One node that keeps everything in memory: nothing survives ``kill``."""

    name = "opensearch"
    listening_mark = '{"url":'

    @property
    def url(self) -> str:
        """The node's address, as in ``http://127.0.0.1:9200``."""
        return f"http://{self.address}"

    def _command(self) -> Sequence[str]:
        osmem_server = required_module("osmem_server")
        try:
            binary = osmem_server.resolve_binary()
        except osmem_server.OsmemError as error:
            raise ConfigError(f"no OpenSearch server for this platform: {error}", hint=INSTALL_HINT) from error
        # Its end is the guard's business, not its standard input's; Japanese analysis costs start-up time.
        return [binary, "-addr", self.address, "-no-stdin-watch", "-no-ja"]
