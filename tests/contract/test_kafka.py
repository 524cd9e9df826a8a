from __future__ import annotations

import gc
import itertools
import socket
import ssl
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import orjson
import pytest

from docdb_stream.context import Deadline, RunContext, deadline, running
from docdb_stream.errors import CheckpointConflictError, TargetError
from docdb_stream.events import Namespace
from docdb_stream.local import KafkaBroker, Tls
from docdb_stream.local.process import wait_until
from docdb_stream.poller import Poller
from docdb_stream.settings import Settings
from docdb_stream.stores.memory import MemoryCheckpointStore
from docdb_stream.target import Checkable, Target
from docdb_stream.targets._kafka import confluent_client, python_client
from docdb_stream.targets._kafka import pace as _kafka_pace
from docdb_stream.targets._kafka import python as _kafka_python
from docdb_stream.targets._kafka.producer import Record
from docdb_stream.targets.kafka import Client, KafkaTarget
from docdb_stream.testing.contract import Delivered, Faults, TargetContract
from docdb_stream.testing.events import ChangeLog
from docdb_stream.testing.source import ScriptedSource

from contract.kafka_topics import CLIENTS, CODECS, Topics, deliver, event_ids  # isort: skip
import kafka  # isort: skip  # which kafka_topics has imported without its deprecation warnings
from contract import kafka_proxy  # isort: skip
from contract.kafka_proxy import KafkaProxy, Refusal  # isort: skip
from kafka import errors  # isort: skip
from kafka.future import Future  # isort: skip
from kafka.record import MemoryRecords  # isort: skip

pytestmark = pytest.mark.integration


@pytest.fixture(params=CLIENTS)
def topics(kafka_broker: KafkaBroker, request: pytest.FixtureRequest) -> Iterator[Topics]:
    """For each client library."""
    with Topics(kafka_broker, request.param) as topics:
        yield topics


@pytest.fixture
def python_topics(kafka_broker: KafkaBroker) -> Iterator[Topics]:
    with Topics(kafka_broker, "kafka-python") as topics:
        yield topics


@pytest.fixture
def confluent_topics(kafka_broker: KafkaBroker) -> Iterator[Topics]:
    with Topics(kafka_broker, "confluent") as topics:
        yield topics


@pytest.fixture
def tls_proxy(kafka_broker: KafkaBroker, certificates: Tls) -> Iterator[KafkaProxy]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates.certificate_key_file)
    with KafkaProxy(kafka_broker.port, context) as started:
        yield started


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
    def place(self, python_topics: Topics) -> None:
        self.topics = python_topics

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


class TestConfluent(TestKafkaTarget):
    """The faults are those of a broker: librdkafka has nothing that a test could get between."""

    @pytest.fixture(autouse=True)
    def place(self, confluent_topics: Topics, proxy: KafkaProxy) -> None:
        self.topics = confluent_topics
        self.proxy = proxy

    def make_target(self) -> Target:
        return self.topics.target(self.proxy)

    @contextmanager
    def faults(self, target: Target, faults: Faults) -> Iterator[None]:
        self.proxy.answer = lambda event_ids: refusal_of(faults, event_ids)
        yield
        self.proxy.answer = None

    def test_06_a_rejection_names_the_exact_event(self, target: Target, log: ChangeLog) -> None:
        """Kafka's verdict is on a batch, so that what it rejects is sent a second time, alone."""
        events = [log.insert({"_id": number, "secret": "hunter2"}) for number in range(25)]
        faults = Faults(reject={events[11].event_id})
        with self.faults(target, faults):
            [rejection] = self._deliver(target, events)
        assert rejection.event is events[11]
        assert rejection.target == target.name
        assert "topic's rules" in rejection.reason
        assert "hunter2" not in rejection.reason
        assert [request for request in faults.requests if events[11].event_id in request][1:] == [[events[11].event_id]]
        self._assert_delivered([event for event in events if event is not rejection.event])


def refusal_of(faults: Faults, event_ids: list[str]) -> Refusal | None:
    """What the broker answers to a batch of these events."""
    verdicts = faults.answer(event_ids)
    if verdicts is None:
        return kafka_proxy.BREAK
    if "reject" in verdicts:
        return Refusal(kafka_proxy.INVALID_RECORD, (verdicts.index("reject"),))
    return Refusal(kafka_proxy.NOT_ENOUGH_REPLICAS) if "retry" in verdicts else None


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
    assert record.value == event.render("extended")
    assert record.headers == [
        ("event_id", event.event_id.encode()),
        ("operation", b"insert"),
        ("cluster_time", f"{time.time}.{time.inc}".encode()),
        ("namespace", b"shop.orders"),
    ]


def test_events_about_no_document_keep_their_order(python_topics: Topics, log: ChangeLog) -> None:
    events = [log.unknown(str(number)) for number in range(30)]
    target = python_topics.target()
    target.write(events)
    target.flush()
    target.close()
    records = python_topics.records()
    assert {record.key for record in records} == {b"shop.orders"}
    assert [dict(record.headers)["operation"] for record in records] == [b"%d" % number for number in range(30)]


def test_an_invalidate_goes_to_the_topic_of_the_stream(python_topics: Topics, log: ChangeLog) -> None:
    target = python_topics.target(scope=Namespace("shop", "orders"))
    target.write([log.drop(), log.invalidate(), log.drop_database()])
    target.flush()
    target.close()
    found = [
        (record.topic.removeprefix(python_topics.prefix), dict(record.headers)["operation"])
        for record in python_topics.records()
    ]
    assert found == [("shop", b"dropDatabase"), ("shop-orders", b"drop"), ("shop-orders", b"invalidate")]


def test_the_payload_format_is_chosen(python_topics: Topics, log: ChangeLog) -> None:
    target = python_topics.target(payload_format="document")
    target.write([log.insert({"_id": 1, "a": 2})])
    target.flush()
    target.close()
    [record] = python_topics.records()
    assert orjson.loads(record.value)["operation"] == "insert"


def test_what_is_in_flight_is_bounded(python_topics: Topics, log: ChangeLog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_kafka_python, "IN_FLIGHT_BYTES", 100_000)
    target = python_topics.target()
    producer: Any = target._producer
    for _ in range(5):
        target.write(log.inserts(20, size_bytes=10_000))
        assert producer._in_flight_bytes <= 100_000
    target.close()


def test_what_librdkafka_holds_is_bounded(
    confluent_topics: Topics, log: ChangeLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(confluent_client, "IN_FLIGHT_BYTES", 100 * 1024)
    target = confluent_topics.target()
    producer: Any = target._producer
    events = log.inserts(50, size_bytes=10_000)
    before = [sys.getrefcount(event) for event in events]
    for start in range(0, 50, 25):
        target.write(events[start : start + 25])  # 250 kB: it waits for room twice
        assert len(producer._producer) <= 10
    assert target.flush() == []
    assert [sys.getrefcount(event) for event in events] == before, "held although confirmed"
    target.close()
    assert len(confluent_topics.records()) == 50


def test_a_key_has_the_same_partition_whatever_the_client(kafka_broker: KafkaBroker, log: ChangeLog) -> None:
    """So that a document keeps its order when somebody changes over."""
    event = log.insert({"_id": 1})
    texts = ["", "a", "ключ 🔑", "\x00", "x" * 1000, *(f'{{"_id":{number}}}' for number in range(500))]
    texts += [f'{{"_id":{{"$oid":"{number:024x}"}}}}' for number in range(500)]
    partitions = []
    for client in CLIENTS:
        with Topics(kafka_broker, client) as topics:
            target = topics.target()
            topic = topics.prefix + "keys"
            target._producer.send([Record(event, topic, text.encode(), b"", {"n": b""}) for text in texts])
            target.flush()
            target.close()
            partitions.append({record.key.decode(): record.partition for record in topics.records()})
    assert partitions[0] == partitions[1]
    assert partitions[0].keys() == set(texts)
    assert len(set(partitions[0].values())) == 4


# What becomes of what fails


@pytest.mark.parametrize("verdict", [errors.MessageSizeTooLargeError, errors.InvalidRecordError])
def test_what_fails_with_a_rejected_record_is_sent_again_in_order(
    python_topics: Topics, log: ChangeLog, verdict: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_kafka_python, "FEW_RECORDS", 0)  # what is written stays in flight for a while
    topics = python_topics
    events = [log.update({"_id": number % 2, "version": number}) for number in range(10)]
    target = topics.target()
    in_flight = target._producer._in_flight  # type: ignore[attr-defined]
    with records_rejected(Faults(reject={events[4].event_id}), verdict("too large")):
        target.write(events)
        # As kafka-python fails those that share the batch.
        in_flight[2] = (in_flight[2][0], Failed(errors.KafkaError("part of a batch")))
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


def test_the_neighbours_of_rejected_records_arrive_in_order(
    confluent_topics: Topics, log: ChangeLog, proxy: KafkaProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The broker refuses whatever batch holds one of them, and others are on their way behind it."""
    monkeypatch.setattr(confluent_client, "_BATCH_BYTES", 4000)
    events = [log.update({"_id": number % 2, "version": number}) for number in range(100)]
    bad = {events[number].event_id for number in (6, 31)}
    proxy.answer = lambda event_ids: Refusal(kafka_proxy.TOO_LARGE) if bad & set(event_ids) else None
    target = confluent_topics.target(proxy)
    rejections = [*target.write(events[:50]), *target.write(events[50:]), *target.flush()]
    target.close()
    assert {rejection.event.event_id for rejection in rejections} == bad
    assert len(rejections) == 2
    versions: dict[bytes, list[int]] = {b'{"_id":0}': [], b'{"_id":1}': []}
    for record in confluent_topics.records():
        versions[record.key].append(orjson.loads(record.value)["fullDocument"]["version"])
    assert versions[b'{"_id":0}'] == [number for number in range(0, 100, 2) if number != 6]
    assert versions[b'{"_id":1}'] == [number for number in range(1, 100, 2) if number != 31]


def test_a_key_that_cannot_be_said_is_rejected(python_topics: Topics, log: ChangeLog) -> None:
    target = python_topics.target(payload_format="document")
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


# Brokers that throttle


def test_a_throttled_client_goes_on_while_the_broker_takes_something(
    topics: Topics, log: ChangeLog, proxy: KafkaProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of it takes several times as long as a standstill may."""
    monkeypatch.setattr(_kafka_pace, "GOAL_S", 0.2)
    proxy.quota_bytes_s = 20_000
    target = topics.target(proxy)
    events = log.inserts(120, size_bytes=1000)
    with deadline(Deadline.after(90, patience_s=2)):
        assert deliver(target, events) == []
    target.close()
    assert sorted(event_ids(topics)) == sorted(event.event_id for event in events)


def test_little_is_handed_over_to_a_broker_that_throttles(
    topics: Topics, log: ChangeLog, proxy: KafkaProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_kafka_pace, "GOAL_S", 0.2)
    proxy.quota_bytes_s = 40_000
    target = topics.target(proxy)
    assert target.takes_bytes == _kafka_pace.FIRST_BYTES
    assert not target.wants_flush
    deliver(target, log.inserts(40, size_bytes=1000))
    assert target.takes_bytes is not None
    if target.takes_bytes >= _kafka_pace.FIRST_BYTES:  # at load librdkafka may tell of the throttling late
        deliver(target, log.inserts(40, size_bytes=1000))
    assert target.takes_bytes < 20_000
    assert target.wants_flush, "what is confirmed can have its checkpoint"
    proxy.quota_bytes_s = float("inf")
    wait_until(lambda: target._producer.throttled_s == 0, "the broker reads again", timeout_s=20)
    for _ in range(40):
        deliver(target, log.inserts(100, size_bytes=100_000))
        if target.takes_bytes is None:
            break
    assert (target.takes_bytes, target.wants_flush) == (None, False)
    target.close()
    assert target.takes_bytes is not None, "a new producer begins anew"


def test_runs_that_are_shorter_than_a_batch_takes_get_ahead(
    topics: Topics, log: ChangeLog, proxy: KafkaProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each run ends with a checkpoint of what was confirmed in it; nothing is sent twice, as long as none is killed."""
    monkeypatch.setattr(_kafka_pace, "FIRST_BYTES", 10_000)
    monkeypatch.setattr(_kafka_pace, "GOAL_S", 0.2)
    proxy.quota_bytes_s = 15_000
    events = log.inserts(100, size_bytes=1000)
    source = ScriptedSource(events, batch_size=100)
    store = MemoryCheckpointStore()
    settings = Settings(documentdb_uri="mongodb://x", stream_name="s", start_at="earliest")
    results = []
    while not results or not results[-1].caught_up:
        target = topics.target(proxy)
        with Poller(settings, source=source, store=store, targets=[target], dead_letters=NoLetters()) as poller:
            results.append(poller.run(limit=Deadline.after(5)))
        assert results[-1].events > 0 or results[-1].caught_up
    assert len(results) > 1, "one batch took several runs"
    assert sum(result.events for result in results) == len(events)
    assert sorted(event_ids(topics)) == sorted(event.event_id for event in events)


def test_a_run_ends_in_time_while_the_broker_throttles(topics: Topics, log: ChangeLog, proxy: KafkaProxy) -> None:
    proxy.quota_bytes_s = 100
    target = topics.target(proxy)
    with deadline(Deadline.after(3)):
        deliver(target, log.inserts(1, size_bytes=1000))
        with pytest.raises(TargetError) as caught:
            deliver(target, log.inserts(1, size_bytes=1000))
    assert "throttle" in caught.value.hint
    target.close()
    topics.threads.await_end()


# Batches


@pytest.mark.parametrize(
    ("client", "compression"), [("kafka-python", "gzip"), *itertools.product(["confluent"], CODECS)]
)
def test_batches_are_compressed(
    kafka_broker: KafkaBroker, log: ChangeLog, proxy: KafkaProxy, client: Client, compression: Any
) -> None:
    with Topics(kafka_broker, client) as topics:
        assert deliver(topics.target(proxy, compression=compression), log.inserts(10, size_bytes=5000)) == []
    assert proxy.codecs == {["none", *CODECS].index(compression)}


def test_a_linger_of_ones_own_is_kept(python_topics: Topics, log: ChangeLog) -> None:
    target = python_topics.target(linger_ms=7)
    deliver(target, log.inserts(1))
    assert target._producer._producer.config["linger_ms"] == 7  # type: ignore[attr-defined]
    target.close()


def test_few_records_wait_for_no_batch_to_be_filled(topics: Topics, log: ChangeLog) -> None:
    target = topics.target(linger_ms=5000)
    deliver(target, log.inserts(1, first_id=100))
    started_s = time.monotonic()
    for number in range(3):
        target.write(log.inserts(1, first_id=number))
        assert target.flush() == []
    assert time.monotonic() - started_s < 5
    target.close()


def test_a_missing_topic_is_an_error_that_names_it(
    topics: Topics, log: ChangeLog, proxy: KafkaProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(python_client, "CONNECT_S", 0.3)
    monkeypatch.setattr(confluent_client, "CONNECT_S", 1.0)  # the least that librdkafka takes
    proxy.missing = True
    target = topics.target(proxy)
    with pytest.raises(TargetError, match=r"topic test\d+-shop-orders") as caught:
        deliver(target, log.inserts(1))
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
    python_topics: Topics, log: ChangeLog, monkeypatch: pytest.MonkeyPatch, error: type[Exception], hint: str
) -> None:
    monkeypatch.setattr(kafka.KafkaProducer, "send", lambda *_: Failed(error("no")))
    target = python_topics.target()
    target.write(log.inserts(3))
    with pytest.raises(TargetError, match=r"topic test\d+-shop-orders: .*no") as caught:
        target.flush()
    assert hint in caught.value.hint
    assert target.flush() == []
    target.close()


@pytest.mark.parametrize(
    ("error_code", "hint"),
    [(kafka_proxy.NOT_ALLOWED, "allow this user to write to test"), (kafka_proxy.NOT_ENOUGH_REPLICAS, "in sync")],
)
def test_a_refused_request_is_an_error_with_a_hint_and_nothing_stays_in_flight(
    confluent_topics: Topics, log: ChangeLog, proxy: KafkaProxy, error_code: int, hint: str
) -> None:
    proxy.answer = lambda event_ids: Refusal(error_code)
    target = confluent_topics.target(proxy)
    with deadline(Deadline.after(None, patience_s=0.6)), pytest.raises(TargetError) as caught:
        deliver(target, log.inserts(3))
    assert hint in caught.value.hint
    proxy.answer = None
    assert target.flush() == []
    assert deliver(target, log.inserts(2, first_id=3)) == []
    target.close()
    assert {record.key for record in confluent_topics.records()} == {b'{"_id":3}', b'{"_id":4}'}


def test_librdkafka_sends_nothing_more_when_the_lease_is_found_to_be_lost(
    confluent_topics: Topics, log: ChangeLog, proxy: KafkaProxy
) -> None:
    topics = confluent_topics

    def lost() -> None:
        raise CheckpointConflictError("the lease is lost")

    proxy.answer = lambda event_ids: Refusal(kafka_proxy.NOT_ENOUGH_REPLICAS)  # so that it holds what it got
    target = topics.target(proxy)
    target.write(log.inserts(5))
    with running(RunContext(lease_check=lost)):
        for act in (target.flush, lambda: target.write(log.inserts(5))):
            with pytest.raises(CheckpointConflictError):
                act()
    proxy.answer = None
    assert topics.threads.left == []
    deliver(target, log.inserts(1, first_id=9))
    target.close()
    assert [record.key for record in topics.records()] == [b'{"_id":9}']


class NoLetters:
    def write(self, stream: str, rejections: Sequence[Any]) -> None:
        assert not rejections


# Brokers that are not there, or not as expected


# kafka-python forgets sockets whose connection is refused.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("client", CLIENTS)
def test_a_killed_broker_is_an_error_and_the_next_write_has_a_new_producer(
    kafka_kind: type[KafkaBroker], log: ChangeLog, client: Client
) -> None:
    with kafka_kind() as broker, Topics(broker, client) as topics:
        target = topics.target()
        target.write(log.inserts(1))
        target.flush()
        broker.kill()
        target.write(log.inserts(5))
        with deadline(Deadline.after(None, patience_s=0.5)), pytest.raises(TargetError) as caught:
            target.flush()
        assert caught.value.hint
        topics.threads.await_end()
        with pytest.raises(TargetError, match="Connection refused"):
            target.write(log.inserts(5))
        broker.restart()
        target.write(log.inserts(7))
        assert target.flush() == []
        kept = 0 if kafka_kind is KafkaBroker else 1  # what stands in for Kafka has all of it in memory
        assert len(topics.records()) == kept + 7
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
    topics.threads.await_end()


@pytest.mark.parametrize("client", CLIENTS)
def test_no_broker_at_all_is_an_error_with_a_hint(log: ChangeLog, client: Client) -> None:
    target = KafkaTarget("127.0.0.1:1,localhost:1", client=client)
    for act in (target.check, lambda: target.write(log.inserts(1))):
        with pytest.raises(TargetError, match=r"127.0.0.1:1: .*refused; localhost:1: .*refused") as caught:
            act()
        assert "MSK_BOOTSTRAP_SRV" in caught.value.hint


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("protocol", ["PLAINTEXT", "SSL"])
def test_a_server_that_says_nothing_is_an_error_in_time(protocol: str, client: Client) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent, deadline(Deadline.after(0.5)):
        target = KafkaTarget(f"127.0.0.1:{silent.getsockname()[1]}", client=client, security_protocol=protocol)
        with pytest.raises(TargetError) as caught:
            target.check()
        assert caught.value.hint
        gc.collect()


@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"])
def test_refused_credentials_are_an_error_with_a_hint(
    topics: Topics, monkeypatch: pytest.MonkeyPatch, mechanism: str, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SECRET", '{"username": "u", "password": "hunter2"}')
    target = topics.target(security_protocol="SASL_PLAINTEXT", sasl_mechanism=mechanism, secret="env:SECRET")
    with deadline(Deadline.after(1)), pytest.raises(TargetError) as caught:
        target.check()
    assert "KAFKA_SECRET" in caught.value.hint
    assert "hunter2" not in str(caught.value)
    assert capfd.readouterr() == ("", ""), "librdkafka writes its log lines to standard error, if nobody stops it"


def test_signing_in_reads_the_secret_whenever_a_producer_is_made(
    topics: Topics, log: ChangeLog, tls_proxy: KafkaProxy, certificates: Tls, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = topics.target(
        tls_proxy,
        security_protocol="SASL_SSL",
        tls_ca=str(certificates.ca_file),
        sasl_mechanism="PLAIN",
        secret="env:SECRET",
    )
    for number, password in enumerate(["first", "rotated"]):
        tls_proxy.users = {"writer": password}
        monkeypatch.setenv("SECRET", f'{{"username": "writer", "password": "{password}"}}')
        assert deliver(target, log.inserts(1, first_id=number)) == []
        target.close()
    monkeypatch.setenv("SECRET", '{"username": "writer", "password": "wrong"}')
    with deadline(Deadline.after(0.5)), pytest.raises(TargetError, match="do not accept") as caught:
        deliver(target, log.inserts(1, first_id=2))
    assert "KAFKA_SECRET" in caught.value.hint
    target.close()
    assert {record.key for record in topics.records()} == {b'{"_id":0}', b'{"_id":1}'}


@pytest.mark.parametrize("client", CLIENTS)
def test_a_certificate_that_nobody_vouches_for_is_an_error_with_a_hint(tls_proxy: KafkaProxy, client: Client) -> None:
    target = KafkaTarget(tls_proxy.bootstrap_servers, client=client, security_protocol="SSL")
    with pytest.raises(TargetError, match="certificate verify failed") as caught:
        target.check()
    assert "KAFKA_TLS_CA" in caught.value.hint


def test_checking_connects(topics: Topics) -> None:
    target = topics.target()
    assert isinstance(target, Checkable)
    target.check()
    target.close()
    assert topics.records() == []


def test_the_settings_switch_it_on(topics: Topics) -> None:
    servers = topics.broker.bootstrap_servers
    target = KafkaTarget.from_settings(
        Settings(documentdb_uri="mongodb://x", msk_bootstrap_srv=servers, kafka_client=topics.client)
    )
    assert target is not None
    within = target._producer._within  # type: ignore[attr-defined]
    assert type(within).__name__ == {"confluent": "ConfluentProducer"}.get(topics.client, "KafkaPythonProducer")
    target.check()
    target.close()


def test_topics_and_keys_by_template(python_topics: Topics, log: ChangeLog) -> None:
    """What may not be made of data goes to the dead letters; the rest arrives."""
    target = python_topics.target(
        topic="{coll}.{document.region}", topic_allow=["orders.e*"], key="{document.customer}"
    )
    events = [
        log.insert({"_id": 1, "region": "eu", "customer": "ann"}),
        log.insert({"_id": 2, "region": "us", "customer": "ann"}),
        log.update({"_id": 1, "region": "eu", "customer": None}),
        log.delete(1),
    ]
    rejections = [*target.write(events), *target.flush()]
    target.close()
    assert [rejection.event for rejection in rejections] == [events[1], events[3]]
    found = {record.key: record.topic.removeprefix(python_topics.prefix) for record in python_topics.records()}
    assert found == {b"ann": "orders.eu", b'{"_id":1}': "orders.eu"}
