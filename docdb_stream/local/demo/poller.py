"""The poller of the demo: the real command line in a process of its own, which can be frozen and killed."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from docdb_stream.config import SHARED_SECTION, environment_names
from docdb_stream.local.process import HOST, GuardProcess, wait_until


class PollerProcess:
    """Runs ``docdb-stream run`` on one stream, once or again and again; never left behind.

    As a context manager it ends the process and removes its folder.

    Args:
        settings: The stream, as in config.ini.
        environment: What the process needs to find the servers.
    """

    def __init__(self, settings: Mapping[str, Any], environment: Mapping[str, str]) -> None:
        # Whoever runs the demo may have docdb-stream or AWS set up in their shell: none of that may play a part here.
        self._environment = {
            **environment,
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            "NO_PROXY": HOST,
            "no_proxy": HOST,
        }
        known = environment_names()
        theirs = {name for name in os.environ if name in known or name.startswith("AWS_")}
        self._unset = [option for name in sorted(theirs - self._environment.keys()) for option in ("-u", name)]
        self._guard = GuardProcess("poller")
        self.config = self._guard.folder / "config.ini"
        lines = [f"[{SHARED_SECTION}]", *(f"{name} = {value}" for name, value in settings.items())]
        self.config.write_text("\n".join(lines) + "\n", encoding="utf-8")

    def start(self, *options: str) -> None:
        """Start ``docdb-stream run --config ... --json`` with ``options``; the one before has ended."""
        command = [sys.executable, "-m", "docdb_stream.cli", "run", "--config", str(self.config), "--json", *options]
        self._guard.ask("start", argv=["env", *self._unset, *command], env=self._environment)

    @property
    def exit_status(self) -> int | None:
        """The exit status, negative for a signal; None while it runs."""
        status: int | None = self._guard.ask("poll")
        return status

    def freeze(self) -> None:
        """SIGSTOP: it stands still and can be looked at."""
        self._guard.ask("signal", number=int(signal.SIGSTOP))

    def thaw(self) -> None:
        """SIGCONT."""
        self._guard.ask("signal", number=int(signal.SIGCONT))

    def kill(self) -> None:
        """SIGKILL: no chance to save or to say anything."""
        self._guard.ask("end", grace_s=0)

    def terminate(self, timeout_s: float) -> int:
        """SIGTERM: ask for a clean end; return the exit status. Raises ServerError when it does not end in time."""
        self._guard.ask("signal", number=int(signal.SIGTERM))
        wait_until(lambda: self.exit_status is not None, "the poller has ended after SIGTERM", timeout_s=timeout_s)
        return self.exit_status or 0

    def results(self) -> list[dict[str, Any]]:
        """What each run that ended by itself printed on standard output."""
        return [json.loads(line) for line in self._log_lines() if line.startswith("{")]

    def log_tail(self, lines: int = 15) -> str:
        """The end of what it wrote."""
        return "\n".join(self._log_lines()[-lines:])

    def _log_lines(self) -> list[str]:
        log = Path(self._guard.folder, "server.log")
        return log.read_text(encoding="utf-8", errors="replace").splitlines() if log.exists() else []

    def close(self) -> None:
        """End it at once and remove its folder."""
        self._guard.close(grace_s=0)

    def __enter__(self) -> PollerProcess:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()
