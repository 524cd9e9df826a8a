"""A local server as a child process: started on a free port of 127.0.0.1, waited for, and never left behind.

``ServerProcess`` knows how a server lives and dies; what is run is its subclasses' matter. That nothing outlives its
owner is the guard's work, see ``guard.py``.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any, ClassVar, Self, TypeVar

from docdb_stream.errors import ConfigError, DocdbStreamError, install_hint
from docdb_stream.local import guard

HOST = "127.0.0.1"
INSTALL_HINT = install_hint("local")

_POLL_INTERVAL_S = 0.02
_LOG_LINES_SHOWN = 20

T = TypeVar("T")


class ServerError(DocdbStreamError):
    """A local server did not come up, ended too early, or did not do what was waited for."""


class ServerProcess(ABC):
    """A server on 127.0.0.1 with a port and a temporary folder of its own.

    Constructing one runs nothing. As a context manager it is started on entry and stopped on exit. The server runs in a
    session of its own, so a Ctrl-C in the terminal reaches its owner only, who stops it in order; an owner that ends in
    any other way, SIGKILL included, takes the server and the folder with it (within about a second).

    ``kill`` and ``restart`` keep port and folder: the data a server had made durable is there again.
    """

    name: ClassVar[str]
    listening_mark: ClassVar[str]
    """What the server writes to its log once it listens."""
    start_timeout_s: ClassVar[float] = 60.0
    """How long a start may take on a busy machine."""

    def __init__(self) -> None:
        self._guard: GuardProcess | None = None
        self._port: int | None = None
        self._log_start = 0

    @abstractmethod
    def _command(self) -> Sequence[str]:
        """Return the command line; called once port and folder are known."""

    def _server_environment(self) -> Mapping[str, str]:
        """Return what the server's environment has beside the owner's."""
        return {}

    def start(self, timeout_s: float | None = None) -> Self:
        """Start the server and return once it accepts connections, within ``start_timeout_s`` if nothing else is said.

        Raises:
            ConfigError: The package that ships the server is not installed.
            ServerError: The server ended, or did not listen in time; the message ends with its last log lines. Or it
                runs already.
        """
        if self.running:
            raise ServerError(f"{self.name} runs already")
        try:
            self._start(time.monotonic() + (timeout_s or self.start_timeout_s))
        except BaseException:
            self.stop(grace_s=0)
            raise
        return self

    def _start(self, deadline: float) -> None:
        port_is_given = self._port is not None  # a server that comes back must come back at its address
        while True:
            self._port = self._port or _free_port()
            self._guard = self._guard or GuardProcess(self.name)
            self._log_start = self._log.stat().st_size if self._log.exists() else 0
            self._guard.ask("start", argv=list(self._command()), env=dict(self._server_environment()))
            try:
                wait_until(self._is_listening, f"{self.name} listens", timeout_s=deadline - time.monotonic())
                return
            except ServerError as error:
                log = self._log_text()
                lost_its_port = "in use" in log  # in the words of all four: "Address in use", "already in use"
                if port_is_given or not lost_its_port or time.monotonic() > deadline:
                    tail = "\n".join(log.splitlines()[-_LOG_LINES_SHOWN:])
                    raise ServerError(f"{error}; the end of its log:\n{tail}") from None
                self._port = None  # another process was faster; a new attempt takes a new one

    def _is_listening(self) -> bool:
        if not self.running:
            raise ServerError(f"{self.name} ended while starting")
        # The log is surely its own, while at the port another process might answer, which was faster to take it.
        if self.listening_mark not in self._log_text():
            return False
        with contextlib.suppress(OSError), socket.create_connection((HOST, self.port), timeout=1.0):
            return True
        return False

    def stop(self, grace_s: float = 10.0) -> None:
        """Stop the server (SIGTERM, and SIGKILL after ``grace_s`` seconds) and remove its folder. Twice is safe."""
        gone, self._guard, self._port = self._guard, None, None
        if gone is not None:
            gone.close(grace_s)

    def kill(self) -> None:
        """End the server as a crash would: SIGKILL. Folder and port stay, for ``restart``."""
        self._running_guard.ask("end", grace_s=0)

    def restart(self, timeout_s: float | None = None) -> None:
        """Start the server again after ``kill``, with the same port and folder.

        Raises:
            ServerError: It did not come up; the server and its folder are gone then.
        """
        _ = self._running_guard
        self.start(timeout_s)

    def pause(self) -> None:
        """Freeze the server (SIGSTOP): connections stay open, nothing answers."""
        self._running_guard.ask("signal", number=int(signal.SIGSTOP))

    def resume(self) -> None:
        """Let a paused server go on (SIGCONT)."""
        self._running_guard.ask("signal", number=int(signal.SIGCONT))

    @property
    def running(self) -> bool:
        """Whether the server process exists; a paused one does."""
        return self._guard is not None and self._guard.ask("poll") is None

    @property
    def port(self) -> int:
        """The port on 127.0.0.1."""
        if self._port is None:
            raise self._not_started()
        return self._port

    @property
    def address(self) -> str:
        """Host and port, as in ``127.0.0.1:27017``."""
        return f"{HOST}:{self.port}"

    @property
    def folder(self) -> Path:
        """The temporary folder: the server's data, its log ``server.log``, its own temporary files."""
        return self._running_guard.folder

    @property
    def _log(self) -> Path:
        return self.folder / "server.log"

    def _log_text(self) -> str:
        with self._log.open("rb") as log:
            log.seek(self._log_start)
            return log.read().decode(errors="replace")

    @property
    def _running_guard(self) -> GuardProcess:
        if self._guard is None:
            raise self._not_started()
        return self._guard

    def _not_started(self) -> ServerError:
        return ServerError(f"{self.name} was not started", hint="use it as a context manager, or call start()")

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()


class GuardProcess:
    """The owner's end of a guard process. Usable from any thread."""

    def __init__(self, name: str) -> None:
        self._lock = threading.Lock()
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", guard.__file__, f"docdb-stream-{name}-", str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,  # out of the terminal's reach
        )
        self.folder = Path(self._reply())

    def ask(self, do: str, **arguments: object) -> Any:
        """Have the guard do one of the methods of ``guard.Guard``; return its result."""
        request = json.dumps({"do": do, **arguments}).encode() + b"\n"
        stdin = self._process.stdin
        assert stdin is not None
        with self._lock:
            try:
                stdin.write(request)
                stdin.flush()
            except (BrokenPipeError, ValueError) as error:
                raise ServerError("the server's guard process has ended, and the server with it") from error
            return self._reply()

    def _reply(self) -> Any:
        stdout = self._process.stdout
        assert stdout is not None
        line = stdout.readline()
        if not line:
            raise ServerError("the server's guard process has ended, and the server with it")
        reply = json.loads(line)
        if "error" in reply:
            raise ServerError(reply["error"])
        return reply["result"]

    def close(self, grace_s: float) -> None:
        """End server, folder and guard."""
        with contextlib.suppress(ServerError):
            self.ask("end", grace_s=grace_s)
        self._process.terminate()  # closing the pipe is not enough while a forked child holds it too
        with contextlib.suppress(BrokenPipeError), self._process:
            pass


def wait_until(condition: Callable[[], T | None], what: str, *, timeout_s: float) -> T:
    """Ask ``condition`` again and again until its answer is true, and return that.

    Raises:
        ServerError: It was not within ``timeout_s`` seconds.
    """
    deadline = time.monotonic() + timeout_s
    while not (answer := condition()):
        if time.monotonic() > deadline:
            raise ServerError(f"waited {timeout_s:.0f} s in vain until {what}")
        time.sleep(_POLL_INTERVAL_S)
    return answer


def required_module(name: str) -> ModuleType:
    """Import a module that ships a server.

    Raises:
        ConfigError: It is not installed; the hint is the command which installs it.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        raise ConfigError(f"the package {name.replace('_', '-')} is not installed", hint=INSTALL_HINT) from None


def _free_port() -> int:
    # Below the range from which systems take the ports of outgoing connections (from 32768 on Linux, 49152 elsewhere).
    # A port from that range, as binding port 0 gives, can be lost to any connection before the server has it, or while
    # the server is down between ``kill`` and ``restart``.
    chance = random.SystemRandom()  # not the shared generator, which test suites seed alike in all their workers
    for port in chance.sample(range(15_000, 30_000), 1_000):
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((HOST, port))
            return port
    raise ServerError("no free port found on 127.0.0.1 between 15000 and 30000")
