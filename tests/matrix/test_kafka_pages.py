"""What only an Apache Kafka shows of a snapshot within transactions: it keeps receipts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import bson
import pytest
from bson import Timestamp
from contract.kafka_topics import CLIENTS, Committed, deliver, event_ids

from docdb_stream.context import RunContext, running
from docdb_stream.local import KafkaBroker
from docdb_stream.position import Namespace, SnapshotProgress, SnapshotRange
from docdb_stream.targets.kafka import Client
from docdb_stream.testing.events import ChangeLog

pytestmark = [pytest.mark.integration, pytest.mark.matrix]

COUNT = 300
"""Documents: more than are committed without waiting for a checkpoint."""


def progress(*ends: int | None) -> SnapshotProgress:
    """Of a snapshot in as many ranges, of COUNT keys each, as far as they have come."""
    ranges = [
        SnapshotRange(
            Namespace("shop", "orders"),
            bson.encode({"_id": number * COUNT - 1 if end is None else end}),
            bson.encode({"_id": (number + 1) * COUNT - 1}),
        )
        for number, end in enumerate(ends)
    ]
    return SnapshotProgress("a1b2c3d4e5f6", tuple(ranges), Timestamp(1, 1))


@pytest.mark.parametrize("client", CLIENTS)
def test_a_page_that_was_committed_is_not_there_twice(real_kafka: KafkaBroker, client: Client, entered: Any) -> None:
    """Read again, it lacks what has changed since, and is cut otherwise; it stands beside changes and another range."""
    topics, log = entered(Committed(real_kafka, client)), ChangeLog()
    first, second = (log.snapshot(*({"_id": number} for number in range(start, start + COUNT))) for start in (0, COUNT))
    changes = log.inserts(10, first_id=10_000)
    lacking = [event for number, event in enumerate(first) if number not in (7, 100)]
    attempts: Sequence[tuple[str, str, SnapshotProgress, SnapshotProgress, Sequence[Sequence[object]]]] = [
        ("one", "never saved", progress(None, None), progress(149, 349), [first[:150], changes[:5], second[:50]]),
        ("one", "two", progress(None, None), progress(99, 309), [second[:10], changes[:5], lacking[:99]]),
        ("two", "never saved", progress(99, 309), progress(199, 359), [lacking[99:199], second[10:60]]),
        ("two", "three", progress(99, 309), progress(299, 599), [changes[5:], second[10:], lacking[99:]]),
    ]
    for checkpoint, to, at, then, batches in attempts:
        target = topics.target()
        run = RunContext(checkpoint=checkpoint, next_checkpoint=to, snapshot=at, next_snapshot=then)
        with running(run):
            assert deliver(target, [event for batch in batches for event in batch]) == []  # type: ignore[misc]
        target.close()
    found = event_ids(topics)
    assert sorted(found) == sorted(event.event_id for event in [*first, *second, *changes])
