"""The poller of the crash harness: ``docdb-stream``, with a trap at one step of its loop.

Run as ``python -m faults.poller_main`` it is a nursery: it imports everything once, and for each line on its standard
input (JSON: arguments, log file, trap) it forks a process that becomes one ``docdb-stream`` and ends by itself, by a
signal, or at its trap. It answers with a line for each start and each end. The forks spare start-up time, nothing else;
production code has no hooks, so the parts are wrapped here.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import json
import os
import select
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any

STEPS = ("acquire", "read", "write", "flush", "dead letters", "save", "renew", "release")
SNAPSHOT_STEPS = ("page read", "page due")
TARGETS = ("kinesis", "sqs", "kafka", "opensearch", "s3")

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def set_trap(step: str, when: str, nth: int) -> None:
    """Kill this process at the nth time of a step, before or after it."""
    from docdb_stream.letters.mongodb import MongoDeadLetters
    from docdb_stream.mongodb.change_stream import MongoChangeStream
    from docdb_stream.mongodb.documents import MongoDocuments
    from docdb_stream.snapshot.pages import Pages
    from docdb_stream.stores.mongodb import MongoCheckpointStore
    from docdb_stream.targets import TARGETS as WHERE

    methods: dict[str, list[tuple[type, str]]] = {
        "read": [(MongoChangeStream, "read")],
        "page read": [(MongoDocuments, "read")],
        "page due": [(Pages, "_taken")],
        "dead letters": [(MongoDeadLetters, "write")],
        **{name: [(MongoCheckpointStore, name)] for name in ("acquire", "save", "renew", "release")},
        **{name: [(_class(WHERE[target]), name) for target in TARGETS] for name in ("write", "flush")},
    }
    left = [nth]
    lock = threading.Lock()

    def at(moment: str) -> None:
        if moment == when:
            with lock:
                left[0] -= 1
                if left[0] == 0:
                    os.kill(os.getpid(), signal.SIGKILL)

    def trapped(original: Callable[..., Any]) -> Callable[..., Any]:
        def stepped(*args: Any, **options: Any) -> Any:
            at("before")
            answer = original(*args, **options)
            at("after")
            return answer

        return stepped

    for owner, name in methods[step]:
        setattr(owner, name, trapped(getattr(owner, name)))


def _class(where: str) -> type:
    module, _, name = where.partition(":")
    found: type = getattr(importlib.import_module(module), name)
    return found


def _import_everything() -> None:
    from docdb_stream import aws
    from docdb_stream.targets import TARGETS as WHERE
    from docdb_stream.targets._client import import_client
    from docdb_stream.targets._opensearch import client as _opensearch_client

    for target in TARGETS:
        _class(WHERE[target])
    import_client("kafka", "kafka", "kafka")
    import_client("opensearchpy", "opensearch", "opensearch")
    # A hanging request has to be over within a run of a few seconds.
    aws.READ_TIMEOUT_S = 2.0
    _opensearch_client._REQUEST_S = 2.0


def _become_poller(order: dict[str, Any]) -> None:
    log = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    null = os.open(os.devnull, os.O_RDONLY)
    for descriptor, onto in ((null, 0), (log, 1), (log, 2)):
        os.dup2(descriptor, onto)
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    if order["trap"]:
        set_trap(*order["trap"])
    sys.argv = ["docdb-stream", *order["arguments"]]
    from docdb_stream.cli import main

    main()


def nursery() -> None:
    """Serve orders until standard input closes; then no child is left."""
    libc = ctypes.CDLL(None)
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    _import_everything()
    wake, woken = os.pipe()
    os.set_blocking(woken, False)
    signal.signal(signal.SIGCHLD, lambda number, frame: None)
    signal.set_wakeup_fd(woken, warn_on_full_buffer=False)
    children: set[int] = set()
    _tell(ready=True)
    while True:
        readable = select.select([sys.stdin.fileno(), wake], [], [])[0]
        if wake in readable:
            os.read(wake, 4096)
            for pid in list(children):
                ended, status = os.waitpid(pid, os.WNOHANG)
                if ended:
                    children.discard(pid)
                    _tell(ended=pid, status=os.waitstatus_to_exitcode(status))
        if sys.stdin.fileno() in readable:
            line = sys.stdin.buffer.raw.readline()  # type: ignore[attr-defined]
            if not line:
                break
            pid = os.fork()
            if pid == 0:
                libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
                _become_poller(json.loads(line))
                os._exit(0)
            children.add(pid)
            _tell(started=pid)
    for pid in children:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _tell(**message: Any) -> None:
    os.write(1, json.dumps(message).encode() + b"\n")


if __name__ == "__main__":
    nursery()
