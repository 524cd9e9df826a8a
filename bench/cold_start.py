"""What a cold start of the Lambda costs in CPU before it reaches for anything: handler, settings, one target."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys

from bench.figure import Figure
from bench.plan import Plan

ROUNDS = 9
PROGRAM = """
import time
import docdb_stream.handlers.poller
from docdb_stream import Settings
from docdb_stream.targets import build_targets
build_targets(Settings.from_env())
print(time.process_time())
"""


def measure(plan: Plan) -> list[Figure]:
    """The median of fresh interpreters, bytecode already compiled; includes the interpreter's own start."""
    plan.say("cold start")
    environment = {**os.environ, "DOCUMENTDB_URI": "mongodb://127.0.0.1/", "KINESIS_STREAM": "changes"}
    spent_s = [
        float(subprocess.run([sys.executable, "-c", PROGRAM], env=environment, capture_output=True, check=True).stdout)
        for _ in range(plan.pick(ROUNDS, 2) + 1)
    ]
    spent = statistics.median(spent_s[1:])
    return [Figure("cold start: handler, settings and the Kinesis target", spent, "s CPU", wanted="< 0.6")]
