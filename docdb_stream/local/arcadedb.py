"""A local ArcadeDB, which speaks Bolt and openCypher: of the package ``arcadedb-embedded``, with its own Java."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Sequence
from pathlib import Path

from docdb_stream.errors import ConfigError
from docdb_stream.local.process import HOST, INSTALL_HINT, ServerProcess, _free_port

DATABASE = "graph"
OTHER_DATABASE = "other"
PASSWORD = "playwithdata"


class ArcadeServer(ServerProcess):
    """A server with two empty databases and the user ``root``."""

    name = "arcadedb"
    database = DATABASE
    other_database = OTHER_DATABASE
    password = PASSWORD
    listening_mark = "ArcadeDB Server started"

    @property
    def uri(self) -> str:
        """Where it speaks Bolt."""
        return f"bolt://{self.address}"

    @property
    def secret(self) -> str:
        """What a secret for it holds."""
        return json.dumps({"username": "root", "password": PASSWORD})

    def _command(self) -> Sequence[str]:
        package = importlib.util.find_spec("arcadedb_embedded")  # importing it would start a Java
        if package is None or package.origin is None:
            raise ConfigError("the package arcadedb-embedded is not installed", hint=INSTALL_HINT)
        home = Path(package.origin).parent
        options = {
            "server.rootPassword": PASSWORD,
            "server.plugins": "Bolt:com.arcadedb.bolt.BoltProtocolPlugin",
            "server.httpIncomingHost": HOST,
            "server.httpIncomingPort": _free_port(),
            "server.databaseDirectory": self.folder / "databases",
            "server.defaultDatabases": f"{DATABASE}[root];{OTHER_DATABASE}[root]",
            "server.rootPath": self.folder,
            "server.mode": "test",
            "bolt.host": HOST,
            "bolt.port": self.port,
            "bolt.defaultDatabase": DATABASE,
        }
        return [
            *(str(home / "jre" / "bin" / "java"), "-Xmx384m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"),
            *("--enable-native-access=ALL-UNNAMED", "--add-exports=java.management/sun.management=ALL-UNNAMED"),
            *(f"-Darcadedb.{name}={value}" for name, value in options.items()),
            *("-cp", f"{home / 'jars'}/*", "com.arcadedb.server.ArcadeDBServer"),
        ]
