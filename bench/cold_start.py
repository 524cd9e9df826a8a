"""What a cold start of the Lambda costs in CPU before it reaches for anything: handler, settings, one target."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys

from bench.figure import Figure

ROUNDS = 9
PROGRAM = """
import time
import docdb_stream.handlers.poller
from docdb_stream import Settings
from docdb_stream.targets import build_targets
build_targets(Settings.from_env())
print(time.process_time())
"""


def measure(events: int) -> list[Figure]:
    """The median of fresh interpreters, bytecode already compiled; includes the interpreter's own start."""
    environment = {**os.environ, "DOCUMENTDB_URI": "mongodb://127.0.0.1/", "KINESIS_STREAM": "changes"}
    spent_s = [
        float(subprocess.run([sys.executable, "-c", PROGRAM], env=environment, capture_output=True, check=True).stdout)
        for _ in range(ROUNDS + 1)
    ]
    return [
        Figure("cold start: handler, settings and the Kinesis target", statistics.median(spent_s[1:]), "s CPU", "< 0.6")
    ]
