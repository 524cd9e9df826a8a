"""What runs beside the services: the pollers, and the functions behind the stream of orders. Each can be killed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from docdb_stream.local.process import GuardProcess

HERE = Path(__file__).parent
POLLERS = ("config.ini", "events.ini")
FUNCTIONS = {"history": "MongoDB", "fulfilment": "SQS", "purchases": "the graph"}
"""The streams of orders.ini, and what they deliver to."""
TIMES = 2
"""Every record of the stream of orders is delivered so often."""
END_S = 60.0


class Program:
    """One that ends with this process, however that ends: its guard sees to it. Its folder stays until ``close``."""

    def __init__(self, name: str, environment: dict[str, str]) -> None:
        self.name = name
        self._environment = environment
        self._guard = GuardProcess(name)
        self.state = self._guard.folder / "state.json"

    def start(self, arguments: Sequence[str]) -> None:
        """Start it, where it has not ended by itself since. Raises RuntimeError."""
        if status := self.status:
            raise RuntimeError(f"{self.name} ended with {status}: {self.said}")
        self._guard.ask("end", grace_s=0)
        self._guard.ask("start", argv=[sys.executable, *arguments], env=self._environment)

    def end(self) -> int:
        """End it in order. Returns its exit code."""
        self._guard.ask("end", grace_s=END_S)
        return int(self._guard.ask("poll"))

    @property
    def status(self) -> int | None:
        """Its exit code once it has ended, and 0 before it was started; None while it runs."""
        found: int | None = self._guard.ask("poll")
        return found

    @property
    def said(self) -> str:
        """The end of what it has written."""
        log = self._guard.folder / "server.log"
        return log.read_text(errors="replace")[-2000:] if log.exists() else ""

    def close(self) -> None:
        self._guard.close(0)


class Programs:
    """Args: environment: With the servers' addresses. with_events: Whether live events are polled, too."""

    def __init__(self, environment: dict[str, str], *, with_events: bool) -> None:
        self._environment = {**environment, "PYTHONPATH": os.pathsep.join([str(HERE), str(HERE.parents[1])])}
        self.pollers = POLLERS if with_events else POLLERS[:1]
        names = (*self.pollers, *FUNCTIONS)
        self._programs = {name: Program(name, self._environment) for name in names}

    def __enter__(self) -> Programs:
        return self

    def __exit__(self, *exc: object) -> None:
        for each in self._programs.values():
            each.close()

    def restart(self, name: str) -> None:
        """Start a poller or a function; one that runs is killed before, as a crash would. Raises RuntimeError: It had
        ended by itself."""
        program = self._programs[name]
        if name in self.pollers:
            program.start(["-m", "docdb_stream", "run", "--follow", "--config", str(HERE / name)])
        else:
            program.start([str(HERE / "fanout.py"), name, "--state", str(program.state), "--times", str(TIMES)])

    def start(self) -> None:
        """Start all of them."""
        for name in self._programs:
            self.restart(name)

    def catch_up(self) -> None:
        """Run the pollers once more, until they have delivered what there is. Raises RuntimeError."""
        for name in self.pollers:
            command = [sys.executable, "-m", "docdb_stream", "run", "--config", str(HERE / name)]
            environment = {**os.environ, **self._environment}
            done = subprocess.run(command, cwd=HERE, env=environment, capture_output=True, text=True, check=False)
            if done.returncode:
                raise RuntimeError(f"docdb-stream run --config {name}: {done.stderr}")

    def end(self) -> dict[str, str]:
        """End the pollers in order. Returns what those said that did not end well."""
        codes = {name: self._programs[name].end() for name in self.pollers}
        return {name: f"exit code {code}: {self._programs[name].said}" for name, code in codes.items() if code}

    def progress(self, function: str) -> dict[str, Any]:
        """How many records a function has delivered, how many deliveries that were, and of when the last one is."""
        state = self._programs[function].state
        return dict(json.loads(state.read_text())) if state.exists() else {"records": 0, "deliveries": 0}

    def check(self) -> None:
        """Raises RuntimeError: One has ended by itself."""
        for each in self._programs.values():
            if (status := each.status) is not None:
                raise RuntimeError(f"{each.name} ended with {status}: {each.said}")
