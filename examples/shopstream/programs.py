"""What runs beside the services: the pollers, and the functions behind the stream of orders. Each can be killed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
POLLERS = ("config.ini", "events.ini")
FUNCTIONS = {"history": "MongoDB", "fulfilment": "SQS", "purchases": "the graph"}
"""The streams of orders.ini, and what they deliver to."""
TIMES = 2
"""Every record of the stream of orders is delivered so often."""
END_S = 60.0


class Programs:
    """Args: environment: With the servers' addresses. folder: For logs, and for how far functions have read."""

    def __init__(self, environment: dict[str, str], folder: Path, *, with_events: bool) -> None:
        self._environment = {
            **os.environ,
            **environment,
            "PYTHONPATH": os.pathsep.join([str(HERE), str(HERE.parents[1])]),
        }
        self._folder = folder
        self.pollers = POLLERS if with_events else POLLERS[:1]
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Programs:
        return self

    def __exit__(self, *exc: object) -> None:
        for name in [*self._running]:
            self.kill(name)

    def catch_up(self) -> None:
        """Run the pollers once: until they have delivered what there is. Raises RuntimeError."""
        for config in self.pollers:
            done = subprocess.run(
                self._poller(config), cwd=HERE, env=self._environment, capture_output=True, text=True, check=False
            )
            if done.returncode:
                raise RuntimeError(f"docdb-stream run --config {config}: {done.stderr}")

    def start(self) -> None:
        """Start all of them."""
        for name in (*self.pollers, *FUNCTIONS):
            self.restart(name)

    def restart(self, name: str) -> None:
        """Start a poller or a function, which is killed first if it runs."""
        self.kill(name)
        command = self._poller(name, "--follow") if name in self.pollers else self._function(name)
        with self._log(name).open("ab") as log:
            self._running[name] = subprocess.Popen(command, cwd=HERE, env=self._environment, stdout=log, stderr=log)

    def kill(self, name: str) -> None:
        """End it as a crash would."""
        if (running := self._running.pop(name, None)) is not None:
            running.kill()
            running.wait()

    def end(self) -> dict[str, str]:
        """End the pollers in order. Returns what those said that did not end well."""
        for name in self.pollers:
            self._running[name].terminate()
        codes = {name: self._running.pop(name).wait(END_S) for name in self.pollers}
        return {name: f"exit code {code}: {self._said(name)}" for name, code in codes.items() if code}

    def progress(self, function: str) -> dict[str, Any]:
        """How many records a function has delivered, and of when the last one is.

        Raises:
            RuntimeError: It has ended, which it never does by itself.
        """
        if (running := self._running.get(function)) is not None and running.poll() is not None:
            raise RuntimeError(f"{function} ended with {running.returncode}: {self._said(function)}")
        file = self._state(function)
        return dict(json.loads(file.read_text())) if file.exists() else {"records": 0}

    def _said(self, name: str) -> str:
        return self._log(name).read_text()[-2000:]

    def _log(self, name: str) -> Path:
        return self._folder / f"{name}.log"

    def _state(self, function: str) -> Path:
        return self._folder / f"{function}.json"

    @staticmethod
    def _poller(config: str, *options: str) -> list[str]:
        return [sys.executable, "-m", "docdb_stream", "run", *options, "--config", config]

    def _function(self, name: str) -> list[str]:
        return [sys.executable, "fanout.py", name, "--state", str(self._state(name)), "--times", str(TIMES)]
