"""How near KinesisTarget comes to bare ``put_records`` with as many requests side by side.

    python bench/kinesis_lanes.py [rounds]

Both send the same events to the same stream of the local server, in turns, so that what else the machine does hits
both. The bare client does what it must and no more: it renders each event, takes its key, and sends 500 at a time;
no order, no retries, no byte limits.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from docdb_stream.events import ChangeEvent
from docdb_stream.local import AwsServer
from docdb_stream.targets._aws_client import client
from docdb_stream.targets.kinesis import REQUEST_RECORDS, KinesisTarget
from docdb_stream.testing.events import ChangeLog

EVENTS = 10_000
NOTE_BYTES = 300
"""Makes events of about 600 bytes."""
BATCH = 1000
"""Events of one ``write``; BATCH_SIZE's default."""


def events() -> list[ChangeEvent]:
    """Events that nobody has looked at yet: rendering is a part of the work."""
    return ChangeLog().inserts(EVENTS, size_bytes=NOTE_BYTES)


def ours(stream: str, lanes: int) -> Callable[[Sequence[ChangeEvent]], None]:
    target = KinesisTarget(stream, lanes=lanes)

    def write(batch: Sequence[ChangeEvent]) -> None:
        assert not target.write(batch)

    return write


def bare(stream: str, lanes: int) -> Callable[[Sequence[ChangeEvent]], None]:
    kinesis = client("kinesis", lanes)
    threads = ThreadPoolExecutor(lanes)

    def put(part: Sequence[ChangeEvent]) -> None:
        records = [{"Data": event.extended_json(), "PartitionKey": event.key} for event in part]
        assert not kinesis.put_records(StreamName=stream, Records=records)["FailedRecordCount"]

    def write(batch: Sequence[ChangeEvent]) -> None:
        list(threads.map(put, [batch[n : n + REQUEST_RECORDS] for n in range(0, len(batch), REQUEST_RECORDS)]))

    return write


def rate(write: Callable[[Sequence[ChangeEvent]], None]) -> tuple[float, float]:
    """Events per second of the clock, and microseconds of this process's CPU per event."""
    made = events()
    started, cpu = time.perf_counter(), time.process_time()
    for start in range(0, EVENTS, BATCH):
        write(made[start : start + BATCH])
    cpu_s = time.process_time() - cpu
    return EVENTS / (time.perf_counter() - started), cpu_s / EVENTS * 1e6


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 7
    with AwsServer() as aws:
        import os

        os.environ.update(aws.environment())
        kinesis = aws.client("kinesis")
        kinesis.create_stream(StreamName="bench", ShardCount=4)
        kinesis.get_waiter("stream_exists").wait(StreamName="bench", WaiterConfig={"Delay": 1})
        print("lanes   ours/s   bare/s   ours/bare   ours us/event   bare us/event   (medians)")
        for lanes in (1, 2, 4):
            pair = (ours("bench", lanes), bare("bench", lanes))
            found = [[rate(write) for write in pair] for _ in range(rounds + 1)][1:]  # the first one warms up
            (our_rate, our_cpu), (bare_rate, bare_cpu) = (
                [statistics.median(values) for values in zip(*(round_[which] for round_ in found), strict=True)]
                for which in (0, 1)
            )
            ratio = statistics.median(one[0][0] / one[1][0] for one in found)
            print(
                f"{lanes:5}{our_rate:9.0f}{bare_rate:9.0f}{ratio:12.2f}{our_cpu:16.1f}{bare_cpu:16.1f}", flush=True
            )


if __name__ == "__main__":
    main()
