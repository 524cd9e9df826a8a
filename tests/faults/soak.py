"""``make soak``: the crash harness for as long as wanted; exits with 1 on what must not be (docs/reliability.md)."""

from __future__ import annotations

import argparse
import sys
import tempfile
import warnings
from pathlib import Path

from faults.harness import Harness
from faults.reckoning import table
from faults.scene import Scene

FAULT_SHARE = 0.04
"""Of the requests to targets."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=5.0, help="of faults, at least")
    parser.add_argument("--kills", type=int, default=0, help="at least")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--per-s", type=float, default=40.0, help="writes per second, at most")
    parser.add_argument("--real-kafka", action="store_true", help="Apache Kafka: then it has each event once")
    parser.add_argument("--steps", action="store_true", help="every kind of step is on")
    parser.add_argument("--snapshot", action="store_true", help="the stream begins with a snapshot, and others follow")
    options = parser.parse_args()
    warnings.filterwarnings("ignore", message="read_text is deprecated")

    def say(line: str) -> None:
        sys.stdout.write(line + "\n")
        sys.stdout.flush()

    with (
        tempfile.TemporaryDirectory(prefix="docdb-stream-soak-") as folder,
        Scene(
            Path(folder),
            seed=options.seed,
            per_s=options.per_s,
            share=FAULT_SHARE,
            real_kafka=options.real_kafka,
            steps=options.steps,
            snapshot=options.snapshot,
        ) as scene,
    ):
        outcome = Harness(scene, seed=options.seed, say=say).run(minutes=options.minutes, kills=options.kills)
    say("\n" + table(outcome))
    for problem in outcome.problems:
        say("\nDEFECT: " + problem)
    return 1 if outcome.problems else 0


if __name__ == "__main__":
    sys.exit(main())
