"""What only Apache Kafka itself does: limits of its own, topics that it does not make, what it kept through a crash."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from contract.kafka_topics import CLIENTS, CODECS, Topics, deliver, event_ids
from matrix.servers.kafka import ApacheKafka

from docdb_stream.context import Deadline, deadline
from docdb_stream.errors import TargetError
from docdb_stream.targets.kafka import Client
from docdb_stream.testing.events import ChangeLog

pytestmark = [
    pytest.mark.integration,
    pytest.mark.matrix,
    # kafka-python forgets sockets whose connection is refused.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

MESSAGE_MAX_BYTES = 100_000


@pytest.fixture(scope="module")
def strict_kafka() -> Iterator[ApacheKafka]:
    """A broker that takes small records into topics that somebody made."""
    settings = {"message.max.bytes": MESSAGE_MAX_BYTES, "auto.create.topics.enable": "false"}
    with ApacheKafka(settings) as started:
        yield started


@pytest.fixture(params=CLIENTS)
def client(request: pytest.FixtureRequest) -> Client:
    found: Client = request.param
    return found


@pytest.fixture
def log() -> ChangeLog:
    return ChangeLog()


def make_topic(broker: ApacheKafka, name: str, **config: str) -> None:
    from confluent_kafka.admin import AdminClient, NewTopic

    admin = AdminClient({"bootstrap.servers": broker.bootstrap_servers})
    [made] = admin.create_topics([NewTopic(name, 4, 1, config=config)]).values()
    made.result(60)


def test_what_the_broker_does_not_take_is_rejected_and_what_is_beside_it_arrives(
    strict_kafka: ApacheKafka, log: ChangeLog, client: Client
) -> None:
    """Its limit is on batches, and lower than what the target knows of: the record is named all the same."""
    topics = Topics(strict_kafka, client)
    make_topic(strict_kafka, f"{topics.prefix}shop-orders")
    events = log.inserts(20, size_bytes=2_000)
    large = log.insert({"_id": "large", "text": "x" * (MESSAGE_MAX_BYTES + 20_000)})
    target = topics.target()
    [rejection] = deliver(target, [*events[:7], large, *events[7:]])
    target.close()
    assert rejection.event is large
    assert sorted(event_ids(topics)) == sorted(event.event_id for event in events)


def test_a_topic_that_nobody_made_is_an_error_with_a_hint_and_nothing_is_lost_once_it_is_there(
    strict_kafka: ApacheKafka, log: ChangeLog, client: Client
) -> None:
    topics = Topics(strict_kafka, client)
    events = log.inserts(3)  # librdkafka asks for a topic for half a minute before it calls it missing
    target = topics.target()
    with deadline(Deadline.after(40)), pytest.raises(TargetError) as caught:
        deliver(target, events)
    assert "topic" in caught.value.hint
    make_topic(strict_kafka, f"{topics.prefix}shop-orders")
    with deadline(Deadline.after(60)):
        assert deliver(target, events) == []
    target.close()
    assert sorted(set(event_ids(topics))) == sorted(event.event_id for event in events)


# With kafka-python, the others need packages of their own.
@pytest.mark.parametrize(("client", "codec"), [("kafka-python", "gzip"), *(("confluent", codec) for codec in CODECS)])
def test_every_compression_is_read_back(real_kafka: ApacheKafka, log: ChangeLog, client: Client, codec: Any) -> None:
    """The broker checks each batch, and keeps it as the topic says: in this codec or another."""
    topics = Topics(real_kafka, client)
    make_topic(real_kafka, f"{topics.prefix}shop-orders", **{"compression.type": "gzip"})
    events = log.inserts(200, size_bytes=500)
    target = topics.target(compression=codec)
    assert deliver(target, events) == []
    target.close()
    assert sorted(event_ids(topics)) == sorted(event.event_id for event in events)


def test_a_broker_that_crashes_between_two_flushes_has_each_event_once(log: ChangeLog, client: Client) -> None:
    """What was flushed is there after the crash, and what is written meanwhile arrives when the broker is back."""
    with ApacheKafka() as broker:
        topics = Topics(broker, client)
        target = topics.target()
        first, second = log.inserts(50), log.inserts(50, first_id=100)
        assert deliver(target, first) == []
        broker.kill()
        broker.restart()
        with deadline(Deadline.after(120, patience_s=120)):
            assert deliver(target, second) == []
        target.close()
        assert sorted(event_ids(topics)) == sorted(event.event_id for event in [*first, *second])
