"""What formats ask of Kafka alone: keys and headers of their own, and tombstones after deletes."""

from __future__ import annotations

import itertools
import json
from contextlib import nullcontext
from typing import Any

import pytest
from cloudevents.core.bindings.kafka import KafkaMessage, from_binary_event, from_structured_event
from contract.test_kafka import CLIENTS, Topics, deliver, event_ids, records_rejected, refusal_of
from contract.test_kafka_transactions import Committed

from docdb_stream.formats import format_named
from docdb_stream.local import KafkaBroker
from docdb_stream.settings import Settings
from docdb_stream.targets.kafka import Client, KafkaTarget
from docdb_stream.testing.contract import Faults
from docdb_stream.testing.events import ChangeLog

from contract.kafka_proxy import KafkaProxy  # isort: skip
from kafka import errors  # isort: skip

pytestmark = pytest.mark.integration


_numbers = itertools.count()


def new(kind: type[Topics], broker: KafkaBroker, client: Client) -> Topics:
    topics = kind(broker, client)
    topics.prefix = f"formats{next(_numbers)}-"
    return topics


@pytest.fixture(params=[(client, kind) for client in CLIENTS for kind in (Topics, Committed)], ids=str)
def topics(kafka_broker: KafkaBroker, request: pytest.FixtureRequest) -> Topics:
    client, kind = request.param
    return new(kind, kafka_broker, client)


def test_a_tombstone_follows_each_delete(topics: Topics, log: ChangeLog) -> None:
    events = [change for number in range(60) for change in (log.insert({"_id": number}), log.delete(number))]
    target = topics.target(payload_format="debezium")
    assert deliver(target, [*events, log.drop()]) == []
    target.close()
    records = topics.records()
    assert len(records) == 181
    for first, second, third in _by_key(records, b'{"id":"'):
        assert [json.loads(first.value)["op"], json.loads(second.value)["op"], third.value] == ["c", "d", None]
        assert dict(third.headers) == dict(second.headers)
    [drop] = [record for record in records if record.key == b"shop.orders"]
    assert json.loads(drop.value)["op"] == "drop"


def _by_key(records: list[Any], prefix: bytes) -> list[list[Any]]:
    found: dict[bytes, list[Any]] = {}
    for record in records:
        found.setdefault(record.key, []).append(record)
    return [records for key, records in found.items() if key.startswith(prefix)]


def test_a_delete_that_is_refused_is_one_rejection(topics: Topics, log: ChangeLog) -> None:
    large = log.event("delete", 1, fullDocumentBeforeChange={"_id": 1, "text": "x" * 5000})
    target = topics.target(payload_format="debezium", message_bytes=3000)
    [rejection] = deliver(target, [log.insert({"_id": 1}), large, log.delete(2)])
    assert rejection.event is large
    target.close()
    assert [record.key for record in topics.records()].count(b'{"id":"2"}') == 2


@pytest.mark.parametrize("kind", [Topics, Committed])
@pytest.mark.parametrize("client", CLIENTS)
def test_a_delete_whose_records_are_both_refused_is_one_rejection(
    kafka_broker: KafkaBroker, proxy: KafkaProxy, log: ChangeLog, client: Client, kind: type[Topics]
) -> None:
    topics = new(kind, kafka_broker, client)
    target = topics.target(proxy, tombstones=True)
    events = [log.insert({"_id": 1}), log.delete(1), log.insert({"_id": 2})]
    faults = Faults(reject={events[1].event_id})
    proxy.answer = lambda event_ids: refusal_of(faults, event_ids)
    with records_rejected(faults, errors.InvalidRecordError()) if client == "kafka-python" else nullcontext():
        [rejection] = deliver(target, events)
    assert rejection.event is events[1]
    target.close()
    assert set(event_ids(topics)) == {events[0].event_id, events[2].event_id}


def test_only_deletes_of_one_document_have_tombstones(kafka_broker: KafkaBroker, log: ChangeLog) -> None:
    topics = new(Topics, kafka_broker, "kafka-python")
    for number, (options, tombstones) in enumerate(
        [({}, 0), ({"tombstones": True}, 1), ({"payload_format": "debezium", "tombstones": False}, 0)]
    ):
        before = len(topics.records())
        target = topics.target(**options)
        assert deliver(target, [log.insert({"_id": number}), log.delete(number), log.invalidate()]) == []
        target.close()
        assert len(topics.records()) - before == 3 + tombstones
    assert sum(record.value is None for record in topics.records()) == 1


def test_a_template_of_the_key_goes_before_the_formats(kafka_broker: KafkaBroker, log: ChangeLog) -> None:
    topics = new(Topics, kafka_broker, "kafka-python")
    target = topics.target(payload_format="debezium", key="{document.customer}")
    events = [log.insert({"_id": 1, "customer": "ada"}), log.insert({"_id": 2}), log.drop()]
    assert deliver(target, events) == []
    target.close()
    assert {record.key for record in topics.records()} == {b"ada", b'{"id":"2"}', b"shop.orders"}


def test_the_keys_of_debezium_are_of_one_partition(kafka_broker: KafkaBroker, log: ChangeLog) -> None:
    partitions = []
    for client in CLIENTS:
        topics = new(Topics, kafka_broker, client)
        target = topics.target(payload_format="debezium")
        assert deliver(target, log.inserts(50)) == []
        target.close()
        partitions.append({record.key: record.partition for record in topics.records()})
    assert partitions[0] == partitions[1]
    assert len(partitions[0]) == 50


@pytest.mark.parametrize("client", CLIENTS)
def test_cloudevents_in_both_modes(kafka_broker: KafkaBroker, log: ChangeLog, client: Client) -> None:
    topics = new(Topics, kafka_broker, client)
    events = [log.insert({"_id": "schlüssel \x7f"}), log.delete("schlüssel \x7f"), log.drop()]
    for name, read in (("cloudevents", from_structured_event), ("cloudevents_binary", from_binary_event)):
        target = topics.target(payload_format=format_named(name, "shop"))
        assert deliver(target, events) == []
        target.close()
        records = {dict(record.headers)["event_id"].decode(): record for record in topics.records()}
        for event in events:
            record = records[event.event_id]
            parsed = read(KafkaMessage(dict(record.headers), record.key, record.value))
            assert parsed.get_id() == event.event_id
            assert parsed.get_source() == "/docdb-stream/shop"
            assert parsed.get_type() == f"io.docdb-stream.{event.operation}"
            assert parsed.get_data() == json.loads(event.render("extended"))
            assert parsed.get_extension("sequence").startswith(f"{event.cluster_time.time:010}")
        topics.prefix += "binary-"


def test_the_settings_say_whether_there_are_tombstones() -> None:
    values: dict[str, Any] = {"documentdb_uri": "mongodb://x", "msk_bootstrap_srv": "h:1", "kafka_transactions": "off"}
    for more, expected in [
        ({}, False),
        ({"kafka_payload_format": "debezium"}, True),
        ({"payload_format": "debezium"}, True),
        ({"payload_format": "debezium", "kafka_tombstones": "false"}, False),
        ({"kafka_tombstones": "true"}, True),
    ]:
        assert KafkaTarget.from_settings(Settings(**values, **more))._records._tombstones is expected
