"""What holds for every format there is, whatever is in a document."""

from __future__ import annotations

import datetime as dt
import json
import re
from pathlib import Path
from typing import Any

import pytest
from bson import Decimal128, ObjectId, Timestamp
from cloudevents.core.bindings.http import HTTPMessage, from_binary_event, from_structured_event

from docdb_stream import __version__
from docdb_stream.errors import UnrenderableError
from docdb_stream.events import ChangeEvent, Events
from docdb_stream.format import Described, Format, WithAttributes
from docdb_stream.formats import FORMATS, format_named
from docdb_stream.formats.avro import AVRO
from docdb_stream.testing.events import ChangeLog

LOG = ChangeLog()
HOSTILE = {**LOG.hostile(), "deep 200": LOG.insert({"_id": 1, "a": json.loads('{"d":' * 200 + "1" + "}" * 200)})}
CONTROLS = "\x00\x1f\x7f\x85\ufffe\uffff\U0001ffff\ufdd0"
ODD_IDS: list[Any] = ["", CONTROLS, {"a": {"b": "\x7f"}}, 1.5, None, "ключ", "%\r\n"]
EVENTS = {
    **HOSTILE,
    **{event.operation: event for event in LOG.every_operation()},
    **{f"odd id {number}": LOG.delete(id_) for number, id_ in enumerate(ODD_IDS)},
}
EXTENDED_WITHIN = {"full_document", "debezium", "cloudevents", "cloudevents_binary", "avro"}
"""Those that refuse what Extended JSON cannot say of a document."""
STREAM = "shop.orders ü/%"


def every_format() -> list[Format]:
    return [*(format_named(name, STREAM) for name in FORMATS), AVRO]


FORMAT = pytest.mark.parametrize("payload_format", every_format(), ids=lambda each: each.name)


def alone(event: ChangeEvent, payload_format: Format) -> bytes | None:
    try:
        return ChangeEvent(event.raw).render(payload_format)
    except UnrenderableError:
        return None


def strictly(text: bytes) -> Any:
    return json.loads(text, parse_constant=pytest.fail)


@FORMAT
def test_together_is_as_alone(payload_format: Format) -> None:
    raws = [event.raw or b"" for event in EVENTS.values()]
    together = Events.of(raws).render(payload_format)
    found = [payload if isinstance(payload, bytes) else None for payload in together]
    assert found == [alone(event, payload_format) for event in EVENTS.values()]


@FORMAT
def test_what_is_written_is_json(payload_format: Format) -> None:
    if payload_format is AVRO:
        pytest.skip("it is binary")
    for event in EVENTS.values():
        payload = alone(event, payload_format)
        if payload is not None:
            assert b"\n" not in payload
            strictly(payload)


@pytest.mark.parametrize("name", sorted(EXTENDED_WITHIN))
def test_what_extended_json_cannot_say_is_refused_and_nothing_else(name: str) -> None:
    payload_format = next(each for each in every_format() if each.name == name)
    extended = format_named("extended")
    for what, event in EVENTS.items():
        assert (alone(event, payload_format) is None) == (alone(event, extended) is None), what


@FORMAT
def test_the_events_id_is_in_it(payload_format: Format) -> None:
    if payload_format.name in ("document", "plain", "full_document"):
        pytest.skip("its consumers know no events")
    for event in EVENTS.values():
        payload = alone(event, payload_format)
        assert payload is None or event.event_id.encode() in payload


@FORMAT
def test_every_operation_is_said(payload_format: Format) -> None:
    for event in LOG.every_operation():
        assert alone(event, payload_format)


# full_document


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        (
            LOG.insert({"_id": 1, "a": ObjectId("65b9f0000000000000000001")}),
            '{"_id":1,"a":{"$oid":"65b9f0000000000000000001"}}',
        ),
        (LOG.delete("gone"), '{"_id":"gone"}'),
        (LOG.update({"_id": 1, "a": 2}, gone=True), '{"_id":1}'),
        (LOG.drop(), '{"operationType":"drop","ns":{"db":"shop","coll":"orders"}}'),
        (LOG.invalidate(), '{"operationType":"invalidate"}'),
    ],
    ids=["insert", "delete", "gone", "drop", "invalidate"],
)
def test_the_bare_document(event: ChangeEvent, expected: str) -> None:
    assert event.render("full_document").decode() == expected


def test_a_rename_says_where_to() -> None:
    assert strictly(LOG.rename("archive").render("full_document"))["to"] == {"db": "shop", "coll": "archive"}


# cloudevents

_NAME = re.compile(r"[a-z0-9]{1,20}")
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")


def attributes_of(event: ChangeEvent, name: str) -> dict[str, str] | None:
    payload_format = format_named(name, STREAM)
    payload = alone(event, payload_format)
    if payload is None:
        return None
    if isinstance(payload_format, WithAttributes):
        return dict(payload_format.attributes(event))
    attributes = strictly(payload)
    assert attributes.pop("data") == strictly(event.render("extended"))
    assert attributes.pop("datacontenttype") == "application/json"
    assert isinstance(attributes, dict)
    return attributes


@pytest.mark.parametrize("name", ["cloudevents", "cloudevents_binary"])
def test_attributes_are_of_the_specifications_types(name: str) -> None:
    for what, event in EVENTS.items():
        attributes = attributes_of(event, name)
        if attributes is None:
            continue
        for attribute, value in attributes.items():
            assert _NAME.fullmatch(attribute)
            assert value, (what, attribute)
            assert not any(_is_disallowed(ord(character)) for character in value), (what, attribute)
        assert attributes["id"] == event.event_id
        assert attributes["source"] == "/docdb-stream/shop.orders%20%C3%BC%2F%25"
        assert attributes["type"] == f"io.docdb-stream.{event.operation}"
        assert _TIME.fullmatch(attributes["time"])
        assert ("subject" in attributes) == event.has_document_key
        if event.has_document_key:  # it is JSON still
            assert strictly(attributes["subject"].encode()) == strictly((event.key or "").encode())
            assert attributes["partitionkey"] == attributes["subject"]


def _is_disallowed(code: int) -> bool:
    """CloudEvents 1.0.2, "Type System", String."""
    is_control = code <= 0x1F or 0x7F <= code <= 0x9F
    return is_control or 0xD800 <= code <= 0xDFFF or 0xFDD0 <= code <= 0xFDEF or code & 0xFFFE == 0xFFFE


def test_the_sdk_reads_both_modes() -> None:
    for event in EVENTS.values():
        payload = alone(event, format_named("cloudevents", STREAM))
        if payload is None:
            continue
        binary = format_named("cloudevents_binary", STREAM)
        assert isinstance(binary, WithAttributes)
        headers = {f"ce-{name}": value for name, value in binary.attributes(event).items()}
        for found in (
            from_structured_event(HTTPMessage({"content-type": "application/cloudevents+json"}, payload)),
            from_binary_event(HTTPMessage({"content-type": "application/json", **headers}, event.render(binary))),
        ):
            assert found.get_id() == event.event_id
            assert found.get_time() == event.cluster_time.as_datetime()
            assert found.get_data() == strictly(event.render("extended"))


def test_the_sequence_sorts_as_the_changes() -> None:
    events = LOG.inserts(20)
    found = [strictly(event.render("cloudevents"))["sequence"] for event in events]
    assert found == sorted(set(found))


def test_what_each_says_of_its_bytes() -> None:
    types = {
        each.name: (each.content_type, each.batch_content_type)
        for each in every_format()
        if isinstance(each, Described)
    }
    assert types == {
        "cloudevents": ("application/cloudevents+json", "application/cloudevents-batch+json"),
        "cloudevents_binary": ("application/json", None),
    }


# The documentation

DOCUMENTATION = Path(__file__).parents[2] / "docs" / "formats.md"
EXAMPLE = ChangeLog(start=Timestamp(1767268800, 1)).insert(
    {
        "_id": ObjectId("65b9f0000000000000000001"),
        "status": "new",
        "total": Decimal128("19.90"),
        "at": dt.datetime(2026, 1, 1, 12),
    }
)


@pytest.mark.parametrize("name", [name for name in FORMATS if name != "cloudevents_binary"])
def test_the_example_of_the_documentation_is_real(name: str) -> None:
    found = re.search(rf"\n### {name}\n\n```json\n(.*)\n```", DOCUMENTATION.read_text(encoding="utf-8"))
    assert found
    payload = EXAMPLE.render(format_named(name, "orders")).decode()
    assert found[1] == payload.replace(__version__, "0.1.0")
