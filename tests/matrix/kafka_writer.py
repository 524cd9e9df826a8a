"""A process that delivers numbered versions of seven documents to Kafka, as a run does, and is killed or stopped by a
test: ``python -m matrix.kafka_writer`` with JSON on its command line.

It goes on from the number in the checkpoint's file, and exits with 4 when the target does not take what it should.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from docdb_stream.context import RunContext, running
from docdb_stream.errors import TargetError
from docdb_stream.events import ChangeEvent
from docdb_stream.targets.kafka import KafkaTarget
from docdb_stream.testing.events import ChangeLog

DOCUMENTS = 7
BATCHES = 3


def versions(count: int) -> list[ChangeEvent]:
    """The same in every process."""
    log = ChangeLog()
    return [log.update({"_id": number % DOCUMENTS, "version": number}) for number in range(count)]


def main(servers: str, checkpoint: str, count: int, batch: int, hold_at: int, pause_s: float, **options: Any) -> None:
    events = versions(count)
    target = KafkaTarget(servers, **options)
    file = Path(checkpoint)
    position = json.loads(file.read_text()) if file.exists() else 0
    with running(RunContext()) as context:
        deliver(target, events, position, batch, hold_at, pause_s, file, context)
    target.close()


def deliver(
    target: KafkaTarget,
    events: list[ChangeEvent],
    position: int,
    batch: int,
    hold_at: int,
    pause_s: float,
    file: Path,
    context: RunContext,
) -> None:
    count = len(events)
    while position < count:
        context.checkpoint = f"at {position}"
        for start in range(position, min(position + batch * BATCHES, count), batch):
            target.write(events[start : start + batch])
            time.sleep(pause_s)
        position = min(position + batch * BATCHES, count)
        if position >= hold_at >= 0:
            print("held", flush=True)
            sys.stdin.readline()
            hold_at = -1
        context.next_checkpoint = f"at {position}"
        target.flush()
        time.sleep(pause_s)  # so that some die between the commit and the checkpoint
        written = file.with_suffix(f".{os.getpid()}")
        written.write_text(json.dumps(position))
        written.replace(file)
        print(position, flush=True)


if __name__ == "__main__":
    try:
        main(**json.loads(sys.argv[1]))
    except TargetError as error:
        print(error, flush=True)
        sys.exit(error.exit_code)
