"""Avro in a real Kafka, by the schemas of a real registry."""

from __future__ import annotations

import io
import json
import urllib.request
from collections.abc import Iterator

import fastavro
import pytest
from contract.test_kafka import CLIENTS, Topics, deliver
from matrix.servers.apicurio import Apicurio

from docdb_stream.context import Deadline, deadline
from docdb_stream.errors import TargetError
from docdb_stream.formats.avro import AVRO
from docdb_stream.local import KafkaBroker
from docdb_stream.targets._kafka.registry import SchemaRegistry
from docdb_stream.targets.kafka import Client
from docdb_stream.testing.events import ChangeLog

pytestmark = [pytest.mark.integration, pytest.mark.matrix]


@pytest.fixture(scope="module")
def registry() -> Iterator[Apicurio]:
    with Apicurio() as started:
        yield started


def asked(url: str, body: dict[str, str] | None = None, method: str | None = None) -> dict[str, str]:
    data = None if body is None else json.dumps(body).encode()
    headers = {"Content-Type": "application/json"}
    with urllib.request.urlopen(urllib.request.Request(url, data, headers, method=method), timeout=30) as answer:
        found = json.load(answer)
    assert isinstance(found, dict)
    return found


@pytest.mark.parametrize("client", CLIENTS)
def test_a_consumer_reads_by_the_schema_of_the_registry(
    real_kafka: KafkaBroker, registry: Apicurio, client: Client
) -> None:
    topics, log = Topics(real_kafka, client), ChangeLog()
    topics.prefix = f"avro-{client}-"
    events = [log.insert({"_id": 1, "a": "ü"}), log.delete(1), log.drop()]
    for _ in range(2):  # the second finds it registered
        target = topics.target(payload_format="avro", schema_registry=registry.url)
        target.check()
        assert deliver(target, events) == []
        target.close()
    records = topics.records()
    assert len(records) == 6
    [frame] = {record.value[:5] for record in records}
    schema = asked(f"{registry.url}/schemas/ids/{int.from_bytes(frame[1:], 'big')}")["schema"]
    for record in records:
        found = fastavro.schemaless_reader(io.BytesIO(record.value[5:]), json.loads(schema), None)
        assert isinstance(found, dict)
        assert found["event_id"] == dict(record.headers)["event_id"].decode()


def test_a_subject_with_another_schema_refuses_ours(registry: Apicurio) -> None:
    other = {"type": "record", "name": "Other", "fields": [{"name": "a", "type": "int"}]}
    subject = f"{registry.url}/subjects/taken-value/versions"
    asked(subject, {"schema": json.dumps(other), "schemaType": "AVRO"})
    asked(f"{registry.url}/config/taken-value", {"compatibility": "FULL"}, "PUT")
    with pytest.raises(TargetError, match="409") as caught:
        SchemaRegistry("kafka", registry.url).frame("taken", AVRO)
    assert "KAFKA_TOPIC" in caught.value.hint


def test_one_that_is_down_is_an_error_in_time_and_the_next_run_goes_on(registry: Apicurio) -> None:
    asked_by = SchemaRegistry("kafka", registry.url)
    registry.pause()
    with deadline(Deadline.after(1)), pytest.raises(TargetError, match="does not answer"):
        asked_by.frame("later", AVRO)
    registry.resume()
    assert len(asked_by.frame("later", AVRO)) == 5
