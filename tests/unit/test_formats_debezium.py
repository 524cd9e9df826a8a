"""The format debezium, against what a running connector has made of the same changes: see tests/unit/debezium."""

from __future__ import annotations

import base64
import json
import re
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from bson import Int64

from docdb_stream import __version__
from docdb_stream.events import ChangeEvent, Events
from docdb_stream.formats import format_named
from docdb_stream.formats.debezium import Debezium
from docdb_stream.testing.events import ChangeLog

FOLDER = Path(__file__).with_name("debezium")
STREAM = "shop-orders"

BARE_NUMBER = re.compile(r": (NaN|Infinity|-Infinity)(?=[,}])")


class Recorded(NamedTuple):
    """A change, and what the connector made of it."""

    what: str
    event: ChangeEvent
    key: str
    value: dict[str, Any]
    tombstone: bool


@cache
def recorded() -> list[Recorded]:
    lines = [json.loads(line) for line in (FOLDER / "changes.jsonl").read_text(encoding="utf-8").splitlines()]
    events = Events.of([base64.b64decode(line["event"]) for line in lines])
    return [
        Recorded(line["what"], event, line["key"], json.loads(line["value"]), line.get("tombstone", False))
        for line, event in zip(lines, events, strict=True)
    ]


def debezium() -> Debezium:
    found = format_named("debezium", STREAM)
    assert isinstance(found, Debezium)
    return found


@cache
def rendered(*, together: bool) -> list[dict[str, Any]]:
    events = [each.event for each in recorded()]
    payloads = [ChangeEvent(event.raw).render(debezium()) for event in events]
    if together:
        found = Events(events).render(debezium())
        assert found == payloads
    return [json.loads(payload) for payload in payloads]


CHANGES = pytest.mark.parametrize("number", range(len(recorded())), ids=lambda number: recorded()[number].what)


@CHANGES
@pytest.mark.parametrize("together", [True, False], ids=["together", "alone"])
def test_the_envelope_is_the_connectors(number: int, together: bool) -> None:
    ours, theirs = rendered(together=together)[number], recorded()[number].value
    assert list(ours) == list(theirs)
    assert list(ours["source"]) == list(theirs["source"])
    assert comparable(ours) == comparable(theirs)


@CHANGES
def test_the_key_is_the_connectors_to_the_byte(number: int) -> None:
    assert debezium().key(recorded()[number].event) == recorded()[number].key.encode()


def test_what_is_ours() -> None:
    for ours, change in zip(rendered(together=True), recorded(), strict=True):
        source = ours["source"]
        assert source["version"] == __version__
        assert source["name"] == STREAM
        assert json.loads(source["sequence"]) == [change.event.event_id]
        assert ours["ts_ms"] == source["wallTime"]


def comparable(envelope: dict[str, Any]) -> dict[str, Any]:
    """An envelope without what has to differ, its texts of JSON read. Kinds of numbers and the order of keys count."""
    source = {name: value for name, value in envelope["source"].items() if name not in ("version", "sequence")}
    source["lsid"] = source["lsid"] and json.loads(source["lsid"])
    result = {**envelope, "source": source}
    del result["ts_ms"]
    for name in ("before", "after"):
        if envelope[name] is not None:
            # The connector writes these bare, in documents alone; no parser of JSON reads them.
            text = BARE_NUMBER.sub(r': {"$numberDouble": "\1"}', envelope[name])
            result[name] = repr(json.loads(text, parse_constant=pytest.fail))
    if description := envelope["updateDescription"]:
        updated = repr(json.loads(description["updatedFields"], parse_constant=pytest.fail))
        result["updateDescription"] = {**description, "updatedFields": updated}
    return result


def test_a_tombstone_follows_a_delete_and_nothing_else() -> None:
    assert debezium().has_tombstones
    for change in recorded():
        assert change.tombstone == (change.value["op"] == "d")


def test_before_mongodb_6_the_cluster_time_is_the_clock() -> None:
    event = ChangeLog().insert({"_id": 1})
    envelope = json.loads(event.replace(wallTime=None).render(debezium()))
    assert envelope["source"]["wallTime"] is None
    assert envelope["ts_ms"] == envelope["source"]["ts_ms"] == 1000 * event.cluster_time.time


@pytest.mark.parametrize("operation", ["drop", "rename", "dropDatabase", "invalidate", "shardCollection"])
def test_what_is_about_no_document_is_not_lost(operation: str) -> None:
    event = ChangeLog().drop().replace(operationType=operation)
    envelope = json.loads(event.render(debezium()))
    assert (envelope["op"], envelope["before"], envelope["after"]) == (operation, None, None)
    assert debezium().key(event) is None


def test_an_update_of_which_only_removed_fields_are_left() -> None:
    event = ChangeLog().update({"_id": 1}).replace(updateDescription={"removedFields": ["a"]})
    description = json.loads(event.render(debezium()))["updateDescription"]
    assert description == {"removedFields": ["a"], "updatedFields": None, "truncatedArrays": None}


def test_a_token_of_any_text() -> None:
    event = ChangeLog().insert({"_id": 1}).replace(_id={"_data": 'a"\\'})
    assert json.loads(json.loads(event.render(debezium()))["source"]["sequence"]) == ['a"\\']


def test_an_update_whose_document_is_gone() -> None:
    event = ChangeLog().update({"_id": 1}, {"a": 2}, gone=True)
    envelope = json.loads(event.render(debezium()))
    assert (envelope["op"], envelope["after"]) == ("u", None)
    assert json.loads(envelope["updateDescription"]["updatedFields"]) == {"a": 2}


READ = [{"_id": "there before", "n": Int64(1)}, {"_id": 2, "n": 2.0}]
"""The documents of the recorded snapshot."""


@pytest.mark.parametrize("number", range(len(READ)))
def test_a_snapshots_document_is_the_connectors(number: int) -> None:
    line = json.loads((FOLDER / "snapshot.jsonl").read_text(encoding="utf-8").splitlines()[number])
    [event] = ChangeLog().snapshot(READ[number])
    ours, theirs = json.loads(event.render(debezium())), json.loads(line["value"])
    assert debezium().key(event) == line["key"].encode()
    assert list(ours) == list(theirs)
    assert list(ours["source"]) == list(theirs["source"])
    assert json.loads(ours["source"]["sequence"]) == [event.event_id]
    assert ours["ts_ms"] == ours["source"]["ts_ms"] == 1000 * event.cluster_time.time
    for envelope in (ours, theirs):
        for name in ("ts_ms", "ts_us", "ts_ns"):  # there when it was read, here when the snapshot began
            envelope["source"].pop(name)
        envelope["source"]["snapshot"] = envelope["source"]["snapshot"].replace("last", "true")
    assert comparable(ours) == comparable(theirs)


def test_a_step_may_make_another_operation_of_it() -> None:
    [event] = ChangeLog().snapshot({"_id": 1})
    envelope = json.loads(event.replace(operationType="delete", fullDocument=None).render(debezium()))
    assert (envelope["op"], envelope["source"]["snapshot"], envelope["after"]) == ("d", "false", None)
