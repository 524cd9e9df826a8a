"""How much memory a run takes: the command line as a process of its own, over all five targets on local servers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

from pymongo import MongoClient

from bench.figure import Figure
from docdb_stream.local import LocalServers
from docdb_stream.local.demo.places import KafkaPlace, KinesisPlace, OpenSearchPlace, S3Place

DOCUMENT = {"customer": "c" * 24, "status": "paid", "items": [{"sku": "s" * 12, "quantity": 2, "price": 19.9}] * 6}
"""With its envelope about 600 bytes of BSON."""


def measure(events: int) -> list[Figure]:
    """One run of ``events`` inserts. The queue is a standard one: the local FIFO queue takes minutes for so many."""
    with LocalServers() as servers:
        queue = servers.aws.client("sqs").create_queue(QueueName="memory")["QueueUrl"]
        settings = {"SQS_QUERY_URL": queue}
        for place in (
            KinesisPlace(servers.aws),
            KafkaPlace(servers.kafka),
            OpenSearchPlace(servers.opensearch),
            S3Place(servers.aws),
        ):
            settings |= place.create()
        environment = {
            **os.environ,
            **servers.environment(),
            **{name.upper(): value for name, value in settings.items()},
            "WATCHED_DB_NAME": "bench",
            "START_AT": "earliest",
            "MAX_LOOP": "0",
        }
        with MongoClient(servers.mongo.uri) as client:
            orders = client["bench"]["orders"]
            for start in range(0, events, 10_000):
                orders.insert_many(
                    [{**DOCUMENT, "number": start + each} for each in range(min(10_000, events - start))]
                )
        started_s = time.monotonic()
        run = subprocess.Popen(
            [str(Path(sys.executable).with_name("docdb-stream")), "run", "--json"],
            env=environment,
            stdout=subprocess.PIPE,
        )
        assert run.stdout is not None
        result = json.loads(run.stdout.read())
        _, _, usage = os.wait4(run.pid, 0)
        run.returncode = 0
        took_s = time.monotonic() - started_s
    if result.get("events") != events:
        raise SystemExit(f"the run did not deliver all {events} events: {result}")
    return [
        # ru_maxrss is in KiB on Linux (getrusage(2)).
        Figure(f"peak memory of {events:,} events to five targets", usage.ru_maxrss / 1024, "MiB", "< 256"),
        Figure(f"checkpoints of {events:,} events", result["checkpoints"], "writes", "< 10"),
        Figure(f"five targets, local servers, {events:,} events", events / took_s, "events/s", ">= 0"),
    ]
