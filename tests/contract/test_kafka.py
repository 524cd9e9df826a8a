from __future__ import annotations

import gc
import itertools
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import orjson
import pytest

from docdb_stream.errors import TargetError
from docdb_stream.events import Namespace
from docdb_stream.local import KafkaBroker
from docdb_stream.retry import Deadline, deadline
from docdb_stream.settings import Settings
from docdb_stream.target import Checkable, Target
from docdb_stream.targets import kafka as kafka_target
from docdb_stream.targets.kafka import KafkaTarget
from docdb_stream.testing.contract import Delivered, Faults, TargetContract
from docdb_stream.testing.events import ChangeLog

KafkaTarget("127.0.0.1:1")  # imports kafka as users do, without its deprecation warnings
import kafka  # noqa: E402
from kafka import errors  # noqa: E402
from kafka.future import Future  # noqa: E402
from kafka.record import MemoryRecords  # noqa: E402

pytestmark = pytest.mark.integration

_numbers = itertools.count()


class Topics:
    """The topics with the prefix of one test."""

    def __init__(self, broker: KafkaBroker) -> None:
        self.broker = broker
        self.prefix = f"test{next(_numbers)}-"

    def target(self, **options: Any) -> KafkaTarget:
        return KafkaTarget(self.broker.bootstrap_servers, topic_prefix=self.prefix, **options)

    def records(self) -> list[Any]:
        """All records, topic by topic and partition by partition."""
        consumer = kafka.KafkaConsumer(bootstrap_servers=self.broker.bootstrap_servers, enable_auto_commit=False)
        try:
            topics = sorted(topic for topic in consumer.topics() if topic.startswith(self.prefix))
            partitions = [
                kafka.TopicPartition(topic, number)
                for topic in topics
                for number in sorted(consumer.partitions_for_topic(topic))
            ]
            if not partitions:
                return []
            consumer.assign(partitions)
            consumer.seek_to_beginning()
            ends = consumer.end_offsets(partitions)
            found: dict[Any, list[Any]] = {partition: [] for partition in partitions}
            while any(consumer.position(partition) < ends[partition] for partition in partitions):
                for partition, records in consumer.poll(timeout_ms=1000).items():
                    found[partition] += records
            return [record for partition in partitions for record in found[partition]]
        finally:
            consumer.close()


@pytest.fixture
def topics(kafka_broker: KafkaBroker) -> Topics:
    return Topics(kafka_broker)


@pytest.fixture
def log() -> ChangeLog:
    return ChangeLog()


@contextmanager
def requests_refused(faults: Faults) -> Iterator[None]:
    """The connection to the broker breaks under those produce requests that ``faults`` does not want to pass whole."""
    client = kafka.KafkaProducer.DEFAULT_CONFIG["kafka_client"]
    real = client.send

    def send(self: Any, node_id: Any, request: Any, **options: Any) -> Any:
        if type(request).__name__ != "ProduceRequest":
            return real(self, node_id, request, **options)
        batches = [partition.records for topic in request.topic_data for partition in topic.partition_data]
        event_ids = [event_id for batch in batches for event_id in event_ids_of(batch)]
        if faults.answer(event_ids) == ["take"] * len(event_ids):
            return real(self, node_id, request, **options)
        return Future().failure(errors.KafkaConnectionError("refused by the test"))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(client, "send", send)
        yield


class Failed(Future):
    """What ``KafkaProducer.send`` returned, for a record that failed."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.failure(error)

    def get(self, timeout: float) -> None:
        raise self.exception


def event_ids_of(batch: Any) -> list[str]:
    records = MemoryRecords(bytes(batch))
    return [dict(record.headers)["event_id"].decode() for record in records.next_batch()]


@contextmanager
def records_rejected(faults: Faults, verdict: Exception) -> Iterator[None]:
    """The broker's verdict on the records that ``faults`` rejects is ``verdict``."""
    real = kafka.KafkaProducer.send

    def send(self: Any, topic: str, value: bytes, key: bytes, headers: list[tuple[str, bytes]]) -> Any:
        if faults.answer([dict(headers)["event_id"].decode()]) == ["reject"]:
            return Failed(verdict)
        return real(self, topic, value, key, headers)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kafka.KafkaProducer, "send", send)
        yield


class TestKafkaTarget(TargetContract):
    oversized_bytes = 1024 * 1024
    large_bytes = 500_000
    large_count = 10  # checksums take kafka-python long

    @pytest.fixture(autouse=True)
    def place(self, topics: Topics) -> None:
        self.topics = topics

    def make_target(self) -> Target:
        return self.topics.target()

    def read_back(self) -> list[Delivered]:
        return [
            Delivered(dict(record.headers)["event_id"].decode(), record.key.decode(), record.value)
            for record in self.topics.records()
        ]

    @contextmanager
    def faults(self, target: Target, faults: Faults) -> Iterator[None]:
        verdict = errors.MessageSizeTooLargeError("The request included a message larger than the max message size")
        with records_rejected(faults, verdict) if faults.reject else requests_refused(faults):
            yield

    def test_06_a_partial_failure_is_retried_for_exactly_the_failed(self, target: Target, log: ChangeLog) -> None:
        """Kafka fails whole batches, and the idempotent producer sees to it that nothing is there twice."""
        events = log.inserts(25)
        faults = Faults(refuse={events[3].event_id: 2, events[17].event_id: 1})
        with self.faults(target, faults):
            assert self._deliver(target, events) == []
        assert faults.times_sent(events[3]) == 3
        assert sorted(record.event_id for record in self.read_back()) == sorted(event.event_id for event in events)
        self._assert_delivered(events)

    def test_08_throttling_is_retried_after_a_delay(self, target: Target, log: ChangeLog, waits: list[float]) -> None:
        """The waits are kafka-python's, not ``Backoff``'s."""
        events = log.inserts(25)
        faults = Faults(throttle=2)
        with self.faults(target, faults):
            assert self._deliver(target, events) == []
        assert faults.throttle == 0
        self._assert_delivered(events)


# What is sent


def test_records_carry_what_a_consumer_needs(topics: Topics, log: ChangeLog) -> None:
    event = log.insert({"_id": "a"})
    target = topics.target()
    target.write([event])
    target.flush()
    target.close()
    [record] = topics.records()
    time = event.cluster_time
    assert record.topic == topics.prefix + "shop-orders"
    assert record.key == b'{"_id":"a"}'
    assert record.value == event.extended_json()
    assert record.headers == [
        ("event_id", event.event_id.encode()),
        ("operation", b"insert"),
        ("cluster_time", f"{time.time}.{time.inc}".encode()),
        ("namespace", b"shop.orders"),
    ]


def test_events_about_no_document_keep_their_order(topics: Topics, log: ChangeLog) -> None:
    events = [log.unknown(str(number)) for number in range(30)]
    target = topics.target()
    target.write(events)
    target.flush()
    target.close()
    records = topics.records()
    assert {record.key for record in records} == {b"shop.orders"}
    assert [dict(record.headers)["operation"] for record in records] == [b"%d" % number for number in range(30)]


def test_an_invalidate_goes_to_the_topic_of_the_stream(topics: Topics, log: ChangeLog) -> None:
    target = topics.target(scope=Namespace("shop", "orders"))
    target.write([log.drop(), log.invalidate(), log.drop_database()])
    target.flush()
    target.close()
    found = [
        (record.topic.removeprefix(topics.prefix), dict(record.headers)["operation"]) for record in topics.records()
    ]
    assert found == [("shop", b"dropDatabase"), ("shop-orders", b"drop"), ("shop-orders", b"invalidate")]


def test_the_payload_format_is_chosen(topics: Topics, log: ChangeLog) -> None:
    target = topics.target(payload_format="document")
    target.write([log.insert({"_id": 1, "a": 2})])
    target.flush()
    target.close()
    [record] = topics.records()
    assert orjson.loads(record.value)["operation"] == "insert"


def test_what_is_in_flight_is_bounded(topics: Topics, log: ChangeLog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kafka_target, "_IN_FLIGHT_BYTES", 100_000)
    target = topics.target()
    for _ in range(5):
        target.write(log.inserts(20, size_bytes=10_000))
        assert target._in_flight_bytes <= 100_000
    target.close()


# What becomes of what fails


@pytest.mark.parametrize("verdict", [errors.MessageSizeTooLargeError, errors.InvalidRecordError])
def test_what_fails_with_a_rejected_record_is_sent_again_in_order(
    topics: Topics, log: ChangeLog, verdict: type[Exception]
) -> None:
    events = [log.update({"_id": number % 2, "version": number}) for number in range(10)]
    target = topics.target()
    with records_rejected(Faults(reject={events[4].event_id}), verdict("too large")):
        target.write(events)
        # As kafka-python fails those that share the batch.
        target._in_flight[2] = (target._in_flight[2][0], Failed(errors.KafkaError("part of a batch")))
        rejections = target.flush()
    target.close()
    assert [rejection.event for rejection in rejections] == [events[4]]
    found: dict[bytes, list[int]] = {b'{"_id":0}': [], b'{"_id":1}': []}
    for record in topics.records():
        found[record.key].append(orjson.loads(record.value)["fullDocument"]["version"])
    # Those before the first failed one are confirmed; those after it come again, whether they were there or not.
    assert found[b'{"_id":0}'][-3:] == [2, 6, 8]
    assert found[b'{"_id":1}'][-4:] == [3, 5, 7, 9]
    assert {0, 1} < {*found[b'{"_id":0}'], *found[b'{"_id":1}']}


def test_a_key_that_cannot_be_said_is_rejected(topics: Topics, log: ChangeLog) -> None:
    target = topics.target(payload_format="document")
    events = [log.insert({"_id": {"$oid": "x"}}), log.insert({"_id": 1})]
    [rejection] = [*target.write(events), *target.flush()]
    target.close()
    assert rejection.event is events[0]


def test_a_paused_broker_loses_nothing(topics: Topics, log: ChangeLog) -> None:
    events = [log.update({"_id": number % 3, "version": number}) for number in range(50)]
    target = topics.target()
    target.write(events[:10])
    target.flush()
    topics.broker.pause()
    target.write(events[10:])
    topics.broker.resume()
    assert target.flush() == []
    target.close()
    versions: dict[bytes, list[int]] = {}
    for record in topics.records():
        versions.setdefault(record.key, []).append(orjson.loads(record.value)["fullDocument"]["version"])
    assert versions == {b'{"_id":%d}' % rest: list(range(rest, 50, 3)) for rest in range(3)}


def test_a_missing_topic_is_an_error_that_names_it(
    topics: Topics, log: ChangeLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(self: Any, topic: str, max_wait_ms: float) -> None:
        raise errors.KafkaTimeoutError("Failed to update metadata")

    monkeypatch.setattr(kafka.KafkaProducer, "_wait_on_metadata", never)
    target = topics.target()
    with pytest.raises(TargetError, match="metadata") as caught:
        target.write(log.inserts(1))
    assert f"create the topic {topics.prefix}shop-orders" in caught.value.hint
    target.close()


@pytest.mark.parametrize(
    ("error", "hint"),
    [
        (errors.TopicAuthorizationFailedError, "allow this user to write"),
        (errors.UnknownTopicOrPartitionError, "create the topic"),
        (errors.NotEnoughReplicasError, "in sync"),
    ],
)
def test_a_failed_record_is_an_error_with_a_hint(
    topics: Topics, log: ChangeLog, monkeypatch: pytest.MonkeyPatch, error: type[Exception], hint: str
) -> None:
    monkeypatch.setattr(kafka.KafkaProducer, "send", lambda *_: Failed(error("no")))
    target = topics.target()
    target.write(log.inserts(3))
    with pytest.raises(TargetError, match=r"topic test\d+-shop-orders: .*no") as caught:
        target.flush()
    assert hint in caught.value.hint
    assert target.flush() == []
    target.close()


# Brokers that are not there, or not as expected


# kafka-python forgets sockets whose connection is refused.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_killed_broker_is_an_error_and_the_next_write_has_a_new_producer(log: ChangeLog) -> None:
    with KafkaBroker() as broker:
        topics = Topics(broker)
        target = topics.target()
        target.write(log.inserts(1))
        target.flush()
        broker.kill()
        target.write(log.inserts(5))
        with deadline(Deadline.after(None, patience_s=0.5)), pytest.raises(TargetError) as caught:
            target.flush()
        assert caught.value.hint
        assert not [thread for thread in threading.enumerate() if "docdb-stream" in thread.name]
        with pytest.raises(TargetError, match="Connection refused"):
            target.write(log.inserts(5))
        broker.restart()
        target.write(log.inserts(7))
        assert target.flush() == []
        assert len(topics.records()) == 7
        target.close()
        gc.collect()


def test_closing_does_not_wait_for_what_is_not_sent(topics: Topics, log: ChangeLog) -> None:
    target = topics.target()
    target.write(log.inserts(1))
    target.flush()
    topics.broker.pause()
    try:
        target.write(log.inserts(100))
        target.close()
    finally:
        topics.broker.resume()
    assert not [thread for thread in threading.enumerate() if "docdb-stream" in thread.name]


def test_no_broker_at_all_is_an_error_with_a_hint(log: ChangeLog) -> None:
    target = KafkaTarget("127.0.0.1:1,localhost:1")
    for act in (target.check, lambda: target.write(log.inserts(1))):
        with pytest.raises(TargetError, match=r"127.0.0.1:1: .*refused; localhost:1: .*refused") as caught:
            act()
        assert "MSK_BOOTSTRAP_SRV" in caught.value.hint


@pytest.mark.parametrize("protocol", ["PLAINTEXT", "SSL"])
def test_a_server_that_says_nothing_is_an_error_in_time(protocol: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent, deadline(Deadline.after(0.5)):
        target = KafkaTarget(f"127.0.0.1:{silent.getsockname()[1]}", security_protocol=protocol)
        with pytest.raises(TargetError) as caught:
            target.check()
        assert caught.value.hint
        gc.collect()


@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"])
def test_refused_credentials_are_an_error_with_a_hint(
    topics: Topics, monkeypatch: pytest.MonkeyPatch, mechanism: str
) -> None:
    monkeypatch.setenv("SECRET", '{"username": "u", "password": "hunter2"}')
    target = topics.target(security_protocol="SASL_PLAINTEXT", sasl_mechanism=mechanism, secret="env:SECRET")
    with deadline(Deadline.after(1)), pytest.raises(TargetError) as caught:
        target.check()
    assert "KAFKA_SECRET" in caught.value.hint
    assert "hunter2" not in str(caught.value)


def test_checking_connects(topics: Topics) -> None:
    target = topics.target()
    assert isinstance(target, Checkable)
    target.check()
    target.close()
    assert topics.records() == []


def test_the_settings_switch_it_on(topics: Topics) -> None:
    assert KafkaTarget.from_settings(Settings(documentdb_uri="mongodb://x")) is None
    servers = topics.broker.bootstrap_servers
    target = KafkaTarget.from_settings(Settings(documentdb_uri="mongodb://x", msk_bootstrap_srv=servers))
    assert target is not None
    target.check()
    target.close()
