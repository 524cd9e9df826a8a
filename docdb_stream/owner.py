"""The owner of a lease: its name, and proof that its process is gone.

The proof is for a crash: what holds a lease and is killed cannot give it back, and its successor on the same machine
need not wait for it to run out. Where anything is uncertain there is no proof, and the lease runs out by itself.
"""

from __future__ import annotations

import os
import socket
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_PROC = Path("/proc")


def owner_name() -> str:
    """Names a run: where it is, and unique."""
    return f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:12]}"


def this_process() -> dict[str, Any] | None:
    """What tells this process from every other one, for ``is_gone`` to judge by; None where that cannot be said.

    A process id means something within one pid namespace of one running kernel only (containers have namespaces of
    their own), and is used again: hence the boot's id, the namespaces, and when the process began. The host's name is
    there for what runs several machines from one image. None off Linux, and in AWS Lambda, whose machines are
    copies of a snapshot and so may share all of it.
    """
    pid = os.getpid()
    if "AWS_LAMBDA_FUNCTION_NAME" in os.environ:
        return None
    try:
        if os.readlink(_PROC / "self") != str(pid):  # the /proc of another pid namespace
            return None
        # A time namespace shifts the time at which a process is said to have begun.
        namespaces = [os.readlink(_PROC / "self/ns" / kind) for kind in ("pid", "time") if _has_namespace(kind)]
        found = {
            "host": socket.gethostname(),
            "boot": (_PROC / "sys/kernel/random/boot_id").read_text().strip(),
            "namespaces": " ".join(namespaces),
            "pid": pid,
            "started": _stat(pid)[_STARTED],
        }
    except (OSError, LookupError):
        return None
    return found if found["boot"] and namespaces and namespaces[0].startswith("pid:") else None


def is_gone(process: object) -> bool:
    """Whether a process, as its own ``this_process`` described it, provably runs no more.

    A namespace's number is given to another one only after its last process has ended, so an equal number that stands
    for a new namespace misleads nobody.
    """
    here = this_process()
    if here is None or not isinstance(process, Mapping):
        return False
    if any(process.get(name) != here[name] for name in ("host", "boot", "namespaces")):
        return False
    pid, started = process.get("pid"), process.get("started")
    if type(pid) is not int or type(started) is not str or pid < 1:
        return False
    try:
        os.kill(pid, 0)  # asks only; /proc may be mounted so that it hides the processes of others
    except ProcessLookupError:
        return True
    except OSError:
        pass
    try:
        stat = _stat(pid)
    except (OSError, LookupError):
        return False
    # A process that nobody has waited for is listed on; its first thread may also end before the others.
    ended = stat[_STATE] in ("Z", "X") and stat[_THREADS] in ("0", "1")
    return ended or stat[_STARTED] != started


_STATE, _THREADS, _STARTED = 0, 17, 19
"""proc(5), /proc/pid/stat: fields 3, 20 and 22, counted from the one after the name."""


def _stat(pid: int) -> list[str]:
    # The name is in parentheses and may hold anything.
    found = (_PROC / str(pid) / "stat").read_text(errors="replace").rpartition(")")[2].split()
    if len(found) <= _STARTED:
        raise LookupError(pid)
    return found


def _has_namespace(kind: str) -> bool:
    return kind == "pid" or os.path.lexists(_PROC / "self/ns" / kind)  # time namespaces: Linux 5.6
