"""The guard: a small process between a local server and its owner, so that no server outlives its owner.

The owner holds the guard's standard input. When that closes, however the owner ended, the guard kills the server,
removes its folder and ends. The guard is also what starts the server and makes the folder, so there is no moment at
which either exists unguarded.

It is run by its path with ``python -I -S`` and imports the standard library alone: it is up in some 30 ms. Requests and
replies are single lines of JSON, one reply to each request; ``docdb_stream.local.process`` is the only client.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_TICK_S = 1.0  # how late a SIGTERM, or an owner whose pipe a forked child still holds, may be noticed


class Guard:
    """Starts one server in ``folder``, signals it, ends it.

    The public methods are the requests an owner may send.
    """

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._server: subprocess.Popen[bytes] | None = None
        self._status = 0
        self._before_exec = _die_with_parent()

    def start(self, argv: Sequence[str], env: Mapping[str, str]) -> int:
        """Start the server with its output in ``server.log``; return its process id."""
        if self.poll() is None:
            raise RuntimeError("the server is running already")
        with open(os.path.join(self._folder, "server.log"), "ab") as log:
            self._server = subprocess.Popen(
                argv,
                # A server's own temporary files go where they get removed.
                env={**os.environ, "TMPDIR": self._folder, **env},
                cwd=self._folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                process_group=0,  # so that whatever the server starts can be killed with it
                preexec_fn=self._before_exec,
            )
        return self._server.pid

    def poll(self) -> int | None:
        """Return the server's exit status, or None while it runs."""
        if self._server is not None and self._server.poll() is not None:
            self.end(grace_s=0)  # what it started goes too, and now: later its id may belong to another process group
        return self._status if self._server is None else None

    def signal(self, number: int) -> None:
        """Send the server a signal; nothing happens if it has ended. After SIGSTOP it stands still."""
        if self.poll() is None and self._server is not None:
            self._server.send_signal(number)
            if number == signal.SIGSTOP and hasattr(os, "waitid"):  # macOS has it since 3.13
                os.waitid(os.P_PID, self._server.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)

    def end(self, grace_s: float) -> None:
        """End the server and all that it started: SIGTERM, and SIGKILL after ``grace_s`` seconds (0: at once)."""
        if self._server is None:
            return
        if grace_s:
            self._server.terminate()
            self._server.send_signal(signal.SIGCONT)  # a paused server could not act on SIGTERM
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._server.wait(grace_s)
        # PermissionError is what macOS says of a group in which only zombies are left.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._server.pid, signal.SIGKILL)
        self._status = self._server.wait()
        self._server = None


def _die_with_parent() -> Callable[[], object] | None:
    # The guard's own SIGKILL is the one thing its pipe cannot cover. Linux can, and it is safe here where it would not
    # be in the owner: the signal fires when the starting *thread* ends, and the guard has only one.
    if sys.platform != "linux":
        return None
    prctl = ctypes.CDLL(None).prctl
    return lambda: prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _requests(owner: int, terminated: Sequence[int]) -> Iterator[dict[str, Any]]:
    # The parent's id is watched beside the pipe because a forked child of the owner (multiprocessing) has the pipe too.
    while not terminated and os.getppid() == owner:
        if select.select([sys.stdin], [], [], _TICK_S)[0]:
            line = sys.stdin.buffer.readline()
            if not line:
                return
            yield json.loads(line)


def _reply(**message: object) -> None:
    os.write(sys.stdout.fileno(), json.dumps(message).encode() + b"\n")


def main(prefix: str, owner: int) -> None:
    """Serve the owner's requests until it closes the pipe, is gone, or sends SIGTERM; leave nothing behind."""
    terminated: list[int] = []
    # Only a note is taken: an exception out of a handler could hit the moment between a server's start and its entry.
    signal.signal(signal.SIGTERM, lambda number, _frame: terminated.append(number))
    folder = tempfile.mkdtemp(prefix=prefix)
    guard = Guard(folder)
    try:
        with contextlib.suppress(BrokenPipeError):
            _reply(result=folder)
            for request in _requests(owner, terminated):
                method = request.pop("do")
                try:
                    _reply(result=getattr(guard, method)(**request))
                except (OSError, RuntimeError) as error:
                    _reply(error=str(error))
    finally:
        guard.end(grace_s=0)
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
