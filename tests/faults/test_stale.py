"""What a poller must not send any more: the lease is checked when a request leaves, not only when it is prepared.

Found by the crash harness: pollers that were stopped for longer than their lease sent, once they went on, what they had
prepared or buffered before.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from docdb_stream.context import RunContext, running
from docdb_stream.errors import CheckpointConflictError
from docdb_stream.lease import LeaseKeeper
from docdb_stream.local import AwsServer, KafkaBroker
from docdb_stream.local.demo.destinations import KafkaDestination
from docdb_stream.stores.memory import MemoryCheckpointStore
from docdb_stream.targets.kafka import KafkaTarget
from docdb_stream.targets.kinesis import KinesisTarget
from docdb_stream.testing.events import ChangeLog

pytestmark = pytest.mark.integration


def lost_after(checks: int) -> Callable[[], None]:
    """A lease that is found to be lost after so many checks."""
    left = [checks]

    def check() -> None:
        left[0] -= 1
        if left[0] < 0:
            raise CheckpointConflictError("the lease is lost")

    return check


def test_kinesis_sends_nothing_when_the_lease_is_lost_while_the_request_is_made(
    aws: AwsServer, aws_environment: dict[str, str]
) -> None:
    client = aws.client("kinesis")
    client.create_stream(StreamName="stale", ShardCount=1)
    client.get_waiter("stream_exists").wait(StreamName="stale", WaiterConfig={"Delay": 1, "MaxAttempts": 30})
    target = KinesisTarget("stale")
    with running(RunContext(lease_check=lost_after(1))), pytest.raises(CheckpointConflictError):
        target.write(ChangeLog().inserts(1))
    target.close()
    iterator = client.get_shard_iterator(
        StreamName="stale", ShardId="shardId-000000000000", ShardIteratorType="TRIM_HORIZON"
    )["ShardIterator"]
    assert not client.get_records(ShardIterator=iterator)["Records"]


def test_kafka_sends_nothing_of_what_it_holds_when_the_lease_is_lost() -> None:
    with KafkaBroker() as broker:
        target = KafkaTarget(broker.bootstrap_servers)
        with running(RunContext(lease_check=lost_after(0))):
            target.write(ChangeLog().inserts(10))  # returns: the producer has them, its thread is to send them
            with pytest.raises(CheckpointConflictError):
                target.flush()
        target.close()
        assert not list(KafkaDestination(broker)._read())
        target.write(ChangeLog().inserts(10))  # as the next run of a warm process, with a lease of its own
        target.flush()
        target.close()
        assert len(list(KafkaDestination(broker)._read())) == 10


def test_a_lease_that_was_long_in_coming_is_not_held_for_longer_than_it_lasts() -> None:
    """It begins when the server writes it down; in an election the answer can take seconds more."""
    store = MemoryCheckpointStore()
    lease = store.acquire("stream", None, "owner", 2.0)
    keeper = LeaseKeeper(store, lease, clock=lambda: 13.0, asked_at_s=10.0)
    with pytest.raises(CheckpointConflictError):
        keeper.check()
