"""How near KinesisTarget comes to bare ``put_records`` with as many requests side by side.

    python bench/kinesis_lanes.py [rounds]

Both send the same events to the same stream of the local server, in turns, so that what else the machine does hits
both. The bare client does what it must and no more: it renders each event, takes its key, and sends 500 at a time;
no order, no retries, no byte limits.
"""

from __future__ import annotations

import os
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

Write = Callable[[Sequence[ChangeEvent]], None]

EVENTS = 10_000
NOTE_BYTES = 300
"""Makes events of about 600 bytes."""
BATCH = 1000
"""Events of one ``write``; BATCH_SIZE's default."""


def events() -> list[ChangeEvent]:
    """Events that nobody has looked at yet: rendering is a part of the work."""
    return ChangeLog().inserts(EVENTS, size_bytes=NOTE_BYTES)


def ours(stream: str, lanes: int) -> Write:
    target = KinesisTarget(stream, lanes=lanes)

    def write(batch: Sequence[ChangeEvent]) -> None:
        assert not target.write(batch)

    return write


def bare(stream: str, lanes: int) -> Write:
    kinesis = client("kinesis", lanes)
    threads = ThreadPoolExecutor(lanes)

    def put(part: Sequence[ChangeEvent]) -> None:
        records = [{"Data": event.extended_json(), "PartitionKey": event.key} for event in part]
        assert not kinesis.put_records(StreamName=stream, Records=records)["FailedRecordCount"]

    def write(batch: Sequence[ChangeEvent]) -> None:
        list(threads.map(put, [batch[n : n + REQUEST_RECORDS] for n in range(0, len(batch), REQUEST_RECORDS)]))

    return write


def rate(write: Write) -> tuple[float, float]:
    """Events per second of the clock, and microseconds of this process's CPU per event."""
    made = events()
    started, cpu = time.perf_counter(), time.process_time()
    for start in range(0, EVENTS, BATCH):
        write(made[start : start + BATCH])
    cpu_s = time.process_time() - cpu
    return EVENTS / (time.perf_counter() - started), cpu_s / EVENTS * 1e6


def one_round(pair: Sequence[Write], first: int) -> list[tuple[float, float]]:
    """The rates of both, in their order; ``first`` says who begins."""
    found = {which: rate(pair[which]) for which in (first, 1 - first)}
    return [found[0], found[1]]


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 7
    with AwsServer() as aws:
        os.environ.update(aws.environment())
        kinesis = aws.client("kinesis")
        print("lanes   ours/s   bare/s   ours/bare   ours us/event   bare us/event   (medians)")
        for lanes in (1, 2, 4):
            stream = f"lanes-{lanes}"  # a new one: the server becomes slower the more a stream holds
            kinesis.create_stream(StreamName=stream, ShardCount=4)
            kinesis.get_waiter("stream_exists").wait(StreamName=stream, WaiterConfig={"Delay": 1})
            pair = (ours(stream, lanes), bare(stream, lanes))
            rounds_done = [one_round(pair, first=number % 2) for number in range(rounds + 1)][1:]  # the first warms up
            (our_rate, our_cpu), (bare_rate, bare_cpu) = (
                [statistics.median(values) for values in zip(*figures, strict=True)]
                for figures in zip(*rounds_done, strict=True)
            )
            ratio = statistics.median(mine[0] / other[0] for mine, other in rounds_done)
            print(f"{lanes:5}{our_rate:9.0f}{bare_rate:9.0f}{ratio:12.2f}{our_cpu:16.1f}{bare_cpu:16.1f}", flush=True)


if __name__ == "__main__":
    main()
