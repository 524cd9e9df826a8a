"""Pollers in a process of their own, so that its CPU is theirs alone: ``python -m bench.worker``."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from bench import command
from bench.drain import Discard
from docdb_stream import Poller, Settings
from docdb_stream.mongodb.connection import Connections

SIDE_BY_SIDE = 10

Job = dict[str, Any]
"""The ``settings`` of a new stream, and how many ``events`` its run has to deliver."""


def cpu_of(groups: Sequence[Sequence[Job]]) -> list[float]:
    """The CPU of each group of runs, in seconds: one group after the other, in a group some runs side by side."""
    python = [sys.executable, "-m", "bench.worker"]
    given = json.dumps(groups, default=command.text)
    done = subprocess.run(python, input=given, cwd=command.REPOSITORY, stdout=subprocess.PIPE, text=True, check=True)
    spent: list[float] = json.loads(done.stdout)
    return spent


def _work(group: Sequence[Job]) -> float:
    started = time.process_time()
    with Connections() as connections, ThreadPoolExecutor(SIDE_BY_SIDE) as threads:
        list(threads.map(lambda job: _run(job, connections), group))
    return time.process_time() - started


def _run(job: Job, connections: Connections) -> None:
    settings = Settings(**job["settings"])
    with Poller.from_settings(settings, [Discard()], connections.to(settings)) as poller:
        result = poller.run()
    if result.events != job["events"]:
        raise RuntimeError(f"{result.events} of {job['events']} events were delivered")


if __name__ == "__main__":
    print(json.dumps([_work(group) for group in json.load(sys.stdin)]))
