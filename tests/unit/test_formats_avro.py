"""The format avro, read back by fastavro."""

from __future__ import annotations

import datetime as dt
import io
import json
from typing import Any

import fastavro
import pytest
from bson import Int64, Timestamp
from hypothesis import given
from hypothesis import strategies as st

from docdb_stream.config import settings_from_env
from docdb_stream.errors import ConfigError, UnrenderableError
from docdb_stream.events import ChangeEvent, Events
from docdb_stream.formats import avro, format_named
from docdb_stream.formats.avro import AVRO
from docdb_stream.formats.extended import extended_json
from docdb_stream.testing.events import ChangeLog

SCHEMA = fastavro.parse_schema(json.loads(AVRO.schema))
IN_FIELDS = {"documentKey": "key", "fullDocument": "document", "fullDocumentBeforeChange": "before"}


def read(payload: bytes) -> dict[str, Any]:
    source = io.BytesIO(payload)
    found = fastavro.schemaless_reader(source, SCHEMA, None)
    assert not source.read()
    assert isinstance(found, dict)
    return found


def test_every_operation_is_read_back_whole() -> None:
    log = ChangeLog()
    for event, payload in zip(events := Events(log.every_operation()), events.render(AVRO), strict=True):
        assert isinstance(payload, bytes)
        found = read(payload)
        assert found["event_id"] == event.event_id
        assert found["operation"] == event.operation
        assert (found["db"] or "", found["coll"]) == event.namespace
        assert found["cluster_time"] == event.cluster_time.as_datetime()
        assert found["increment"] == event.cluster_time.inc
        document = event.document
        for name, field in {**IN_FIELDS, "updateDescription": "update_description"}.items():
            there = document.get(name)
            assert found[field] == (None if there is None else extended_json(there).decode())
        rest = {name: value for name, value in document.items() if name not in avro._IN_FIELDS}
        assert found["other"] == (extended_json(rest).decode() if rest else None)


def test_what_only_mongodb_6_says() -> None:
    event = (
        ChangeLog()
        .insert({"_id": 1})
        .replace(
            wallTime=dt.datetime(2026, 1, 1, 12, 0, 0, 5000), fullDocumentBeforeChange={"a": 1}, txnNumber=Int64(7)
        )
    )
    found = read(event.render(AVRO))
    assert found["wall_time"] == dt.datetime(2026, 1, 1, 12, 0, 0, 5000, dt.UTC)
    assert found["before"] == '{"a":1}'
    assert found["other"] == '{"txnNumber":7}'


@given(st.integers(-(2**63), 2**63 - 1))
def test_longs(number: int) -> None:
    assert fastavro.schemaless_reader(io.BytesIO(avro._long(number)), "long", None) == number


@pytest.mark.parametrize("time", [Timestamp(1, 1), Timestamp(2**32 - 1, 2**32 - 1)])
def test_cluster_times_of_any_size(time: Timestamp) -> None:
    assert read(ChangeLog(start=time).insert({"_id": 1}).render(AVRO))["increment"] == time.inc


@pytest.mark.parametrize("size", [0, 1, 63, 64, 8191, 8192, 2_000_000])
def test_documents_of_any_size(size: int) -> None:
    found = read(ChangeLog().insert({"_id": 1, "a": "x" * size}).render(AVRO))
    assert json.loads(found["document"])["a"] == "x" * size


def test_hostile_documents_are_exact_or_refused() -> None:
    for name, event in ChangeLog().hostile().items():
        try:
            expected = extended_json(event.document["fullDocument"], _full(event))
        except UnrenderableError:
            with pytest.raises(UnrenderableError):
                event.render(AVRO)
        else:
            assert read(event.render(AVRO))["document"] == expected.decode(), name


def _full(event: ChangeEvent) -> bytes | None:
    from docdb_stream.formats.decoded import field_of

    assert event.raw is not None
    return field_of(event.raw, "fullDocument")


def test_a_clock_with_a_zone_is_read_as_utc() -> None:
    """As an event has it that did not come as BSON."""
    at = dt.datetime(2026, 1, 2, 4, tzinfo=dt.timezone(dt.timedelta(hours=1)))
    event = ChangeEvent(document={**ChangeLog().insert({"_id": 1}).document, "wallTime": at})
    assert read(event.render(AVRO))["wall_time"] == at


def test_only_kafka_can_say_by_which_schema() -> None:
    with pytest.raises(ConfigError) as caught:
        settings_from_env({"DOCUMENTDB_URI": "mongodb://x", "FILE_PATH": "/dev/null", "PAYLOAD_FORMAT": "avro"})
    assert "PAYLOAD_FORMAT: it is for Kafka alone: kafka_payload_format = avro" in caught.value.problems[0]
    with pytest.raises(ConfigError, match="no format 'avro'"):
        format_named("avro")
