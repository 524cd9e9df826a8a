"""How much memory a run takes: the command line as a process of its own, on documents that are large."""

from __future__ import annotations

import os
from typing import Self

from bench import command
from bench.report import Figure
from bench.rounds import Plan
from bench.servers import Servers
from bench.source import Source, order_16_kb, order_16_mb
from docdb_stream import Settings
from docdb_stream.targets.kinesis import KinesisTarget

EVENTS, EVENTS_IN_LITTLE = 100_000, 20_000
"""The fewer are a third of a gigabyte, far more than any target holds at a time: for machines with less memory than
SERVERS_BYTES. The local servers keep what they get."""
SERVERS_BYTES = 16 * 1024**3
LARGE_EVENTS = 12
AS_DEPLOYED = {"malloc_arena_max": "2", "malloc_mmap_threshold_": "262144"}
"""What infra sets for a function."""
_LOCAL_REQUEST_BYTES = 5 * 1024 * 1024
"""What the local server takes in one PutRecords; Kinesis takes 10 MiB."""
_STREAM_VARIABLE = "BENCH_KINESIS_STREAM"


class LocalKinesisTarget(KinesisTarget):
    """KinesisTarget with requests that the local server takes."""

    @classmethod
    def from_settings(cls, settings: Settings) -> Self:
        return cls(os.environ[_STREAM_VARIABLE], request_bytes=_LOCAL_REQUEST_BYTES)


def measure(plan: Plan) -> list[Figure]:
    """Five targets with documents of 16 KB; two, of which one takes none of them, with documents of 16 MB."""
    return [*_five_targets(plan), *_largest_documents(plan)]


def _five_targets(plan: Plan) -> list[Figure]:
    has_room = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES") > SERVERS_BYTES
    events = plan.pick(EVENTS if has_room else EVENTS_IN_LITTLE, 1_000)
    plan.say(f"memory: inserting {events:,} documents of 16 KB")
    # A standard queue and an index that keeps documents only: for so many large ones, the local FIFO queue would take
    # minutes, and the index would take up 29 a second.
    with (
        Source(events, order_16_kb, oplog_size_mb=4_000) as source,
        Servers(fifo=False, searchable=False) as servers,
        servers.new() as destination,
    ):
        destination |= AS_DEPLOYED
        destination[_STREAM_VARIABLE] = destination.pop("kinesis_stream")
        destination["extra_targets"] = "kinesis-5-mib"
        plan.say("memory: a run that finds nothing to do")
        idle = command.run({**source.stream(), **destination, "start_at": "now"}).expect(0)
        plan.say(f"memory: {events:,} events to five targets")
        busy = command.run({**source.stream(), **destination}).expect(events)
    return [
        Figure(
            f"peak memory: {events:,} documents of 16 KB to five targets",
            busy.peak_mib,
            "MiB",
            wanted="< 256",
            aim="< 160",
            details={"idle": idle.peak_mib, "events": events, "took_s": busy.took_s},
            note=f"ru_maxrss of docdb-stream run; {idle.peak_mib:.0f} MiB when there is nothing to do",
        )
    ]


def _largest_documents(plan: Plan) -> list[Figure]:
    events = plan.pick(LARGE_EVENTS, 2)
    plan.say(f"memory: inserting {events} documents of 16 MB")
    with (
        Source(events, order_16_mb, oplog_size_mb=4_000) as source,
        Servers("sqs", "s3", fifo=False) as servers,
        servers.new() as destination,
    ):
        destination |= AS_DEPLOYED
        plan.say(f"memory: {events} events of 16 MB")
        found = command.run({**source.stream(), **destination}).expect(events)
    [result] = found.results
    if result["rejections"] != events:
        raise RuntimeError(f"the queue cannot have taken documents of 16 MB: {result}")
    return [
        Figure(
            f"peak memory: {events} documents of 15.9 MB",
            found.peak_mib,
            "MiB",
            wanted="< 1024",
            aim="< 512",
            note="S3 takes them, SQS takes none: each goes to the dead letters besides",
        )
    ]
