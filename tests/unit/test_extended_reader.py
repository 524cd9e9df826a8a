"""The reader of Extended JSON: what canonical and relaxed text says comes back, whoever wrote it."""

from __future__ import annotations

import json
from typing import Any

import bson
import pytest
from bson import json_util

from docdb_stream.dead_letters import event_of, letter
from docdb_stream.errors import UnrenderableError
from docdb_stream.events import ChangeEvent, Rejection
from docdb_stream.formats.reader import to_bson
from docdb_stream.testing.events import ChangeLog, hostile_documents

MODES = {
    "canonical": json_util.JSONOptions(
        json_mode=json_util.JSONMode.CANONICAL, datetime_conversion=bson.DatetimeConversion.DATETIME_AUTO
    ),
    "relaxed": json_util.JSONOptions(
        json_mode=json_util.JSONMode.RELAXED, datetime_conversion=bson.DatetimeConversion.DATETIME_AUTO
    ),
}
CODEC: bson.CodecOptions[dict[str, Any]] = bson.CodecOptions(datetime_conversion=bson.DatetimeConversion.DATETIME_AUTO)
LOSSY_IN_PYMONGO = {"old_types", "invalid_utf8", "duplicate_keys", "looks_like_extended_json"}


@pytest.mark.parametrize("name", sorted(set(hostile_documents()) - LOSSY_IN_PYMONGO))
@pytest.mark.parametrize("mode", MODES)
def test_what_pymongo_writes_is_read(mode: str, name: str) -> None:
    event = ChangeLog().hostile()[name]
    assert event.raw is not None
    text = json_util.dumps(bson.decode(event.raw, CODEC), json_options=MODES[mode])
    raw = to_bson(json.loads(text))
    assert ChangeEvent(raw).render("extended") == event.render("extended")
    if mode == "canonical":
        assert raw == event.raw


@pytest.mark.parametrize("name", sorted(hostile_documents()))
def test_what_a_dead_letter_holds_is_the_event(name: str) -> None:
    event = ChangeLog().hostile()[name]
    found = event_of(letter("s", Rejection(event, "t", "no"), content_bytes=10**9))
    assert found is not None
    try:
        rendered = event.render("extended")
    except UnrenderableError:
        assert found.raw == event.raw
    else:
        assert found.render("extended") == rendered


def test_a_letter_of_old_types_is_text_now() -> None:
    """json_util could not read them back, so the letter held bytes nobody can read."""
    event = ChangeLog().hostile()["old_types"]
    found = letter("s", Rejection(event, "t", "no"), content_bytes=10**9)
    assert "raw" not in found
    assert found["event"] == event.render("extended").decode()


@pytest.mark.parametrize(
    "text",
    [
        '{"_id": {"_data": "01"}, "operationType": "x", "n": 1e999999, "m": 99999999999999999999999999}',
        '{"_id": 7, "operationType": "x"}',
        "[" * 100_000,
        '{"a":' * 5_000 + "1" + "}" * 5_000,
        '{"_id": {"_data": "01"}, "operationType": "x", "\\u0000": 1}',
        '{"_id": {"_data": "01"}, "operationType": "\\ud800"}',
        "[]",
        "7",
        "null",
        "",
    ],
)
def test_a_letter_that_holds_no_event_is_no_error(text: str) -> None:
    assert event_of({"id": "x", "event": text}) is None


@pytest.mark.parametrize(
    "document",
    [
        {"$numberInt": "1_000"},
        {"$numberLong": " 1"},
        {"$numberLong": "\u0661"},
        {"$numberDouble": "1_0.5"},
        {"$numberDecimal": "1 "},
        {"$timestamp": {"t": True, "i": 1}},
        {"$timestamp": {"t": 1.0, "i": 1}},
        {"$binary": {"base64": "", "subType": "0_0"}},
        {"$binary": {"base64": "", "subType": " 0"}},
    ],
    ids=str,
)
def test_a_document_that_only_looks_like_a_wrapper_stays_one(document: dict[str, Any]) -> None:
    assert bson.decode(to_bson({"a": document})) == {"a": document}
