"""Pollers to be killed: the owner's end of ``poller_main``."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

Trap = tuple[str, str, int]
"""Step, before or after, and the how manieth time: see ``poller_main.set_trap``."""

TESTS = Path(__file__).parent.parent


class Poller:
    """One ``docdb-stream run``, a process of its own."""

    def __init__(self, pid: int, log: Path, trap: Trap | None) -> None:
        self.pid = pid
        self.log = log
        self.trap = trap
        self.status: int | None = None
        self.ended = threading.Event()

    def signal(self, number: int) -> None:
        if not self.ended.is_set():
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def kill(self) -> None:
        """SIGKILL, and wait for the end."""
        self.signal(signal.SIGKILL)
        assert self.ended.wait(10), f"poller {self.pid} does not end"

    def tail(self) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-25:])


class Nursery:
    """Starts pollers of one configuration. A context manager; leaving it ends them all.

    Args:
        folder: For logs.
        config: The config.ini.
        environment: Added to this process's.
    """

    def __init__(self, folder: Path, config: Path, environment: Mapping[str, str]) -> None:
        self._folder = folder
        self._arguments = ["run", "--config", str(config), "--json"]
        self._environment = environment
        self._pollers: dict[int, Poller] = {}
        self._early: dict[int, int] = {}
        self._lock = threading.Lock()
        self._started: list[int] = []
        self._changed = threading.Condition(self._lock)
        self.count = 0

    def __enter__(self) -> Self:
        paths = {"PYTHONPATH": f"{TESTS}:{TESTS.parent}", "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "faults.poller_main"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, **self._environment, **paths},
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        assert self._process.stdout is not None
        assert json.loads(self._process.stdout.readline())["ready"]
        self._reader.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(20)
        self._reader.join(5)
        assert self._process.stdout is not None
        self._process.stdout.close()

    def start(self, *options: str, trap: Trap | None = None) -> Poller:
        self.count += 1
        log = self._folder / f"poller-{self.count}.log"
        order = {"arguments": [*self._arguments, *options], "log": str(log), "trap": trap}
        assert self._process.stdin is not None
        with self._lock:
            self._process.stdin.write(json.dumps(order).encode() + b"\n")
            self._process.stdin.flush()
            assert self._changed.wait_for(lambda: self._started, 20), "the nursery does not answer"
            poller = Poller(self._started.pop(), log, trap)
            self._pollers[poller.pid] = poller
            if poller.pid in self._early:
                self._end(poller.pid, self._early.pop(poller.pid))
        return poller

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            message: dict[str, Any] = json.loads(line)
            with self._lock:
                if "started" in message:
                    self._started.append(message["started"])
                else:
                    self._end(message["ended"], message["status"])
                self._changed.notify_all()

    def _end(self, pid: int, status: int) -> None:
        poller = self._pollers.pop(pid, None)
        if poller is None:
            self._early[pid] = status
            return
        poller.status = status
        poller.ended.set()
