"""Events of a snapshot on their way: through formats, steps and targets they go like inserts, and are told apart."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import bson
import pytest
from bson import ObjectId

from docdb_stream import step
from docdb_stream.admin.explain import events_in, explained
from docdb_stream.cli.tail import _head
from docdb_stream.dead_letters import event_of, letter
from docdb_stream.derived_update import derived
from docdb_stream.errors import UnrenderableError
from docdb_stream.event import ChangeEvent
from docdb_stream.events import Events, Rejection
from docdb_stream.formats import format_named
from docdb_stream.formats.avro import AVRO
from docdb_stream.settings import Settings
from docdb_stream.steps import steps_for
from docdb_stream.targets._aws.messages import message
from docdb_stream.targets._mongodb.change import update_of
from docdb_stream.targets.s3 import object_key
from docdb_stream.template import Template
from docdb_stream.testing.events import ChangeLog

LOG = ChangeLog()
DOCUMENT = {"_id": ObjectId("65f0c0ffee65f0c0ffee65f0"), "total": 3, "card": {"number": "4111"}}
INSERT = LOG.insert(DOCUMENT)
[EVENT] = LOG.snapshot(DOCUMENT, time=INSERT.cluster_time)


# Formats


def test_as_it_is() -> None:
    rendered = json.loads(EVENT.render("extended"))
    assert rendered["snapshot"] == {"id": "a1b2c3d4e5f6"}
    assert rendered["_id"] == {"_data": EVENT.event_id}
    assert rendered["operationType"] == "insert"


@pytest.mark.parametrize("name", ["document", "plain", "full_document"])
def test_as_an_insert(name: str) -> None:
    assert EVENT.render(name) == INSERT.render(name)


def test_as_a_cloudevent() -> None:
    ours, inserts = (json.loads(each.render(format_named("cloudevents", "s"))) for each in (EVENT, INSERT))
    assert (ours["id"], ours["snapshot"]) == (EVENT.event_id, "a1b2c3d4e5f6")
    different = {"id", "snapshot", "data"}
    assert {name: value for name, value in ours.items() if name not in different} == {
        name: value for name, value in inserts.items() if name not in different
    }
    assert "snapshot" not in inserts


def test_in_avro_it_is_told_among_what_else_there_is() -> None:
    assert b'{"snapshot":{"id":"a1b2c3d4e5f6"}}' in EVENT.render(AVRO)
    assert b"snapshot" not in INSERT.render(AVRO)


def test_together_with_changes() -> None:
    events = Events.of([one.raw for one in (INSERT, EVENT, LOG.delete(1)) if one.raw is not None])
    for name in ("extended", "document", "plain", "full_document", "debezium", "cloudevents"):
        found = format_named(name, "s")
        assert [one.render(found) for one in events] == [ChangeEvent(one.raw).render(found) for one in events]


# Steps


def made(settings: dict[str, Any], *events: ChangeEvent) -> step.Stepped:
    found = Settings(documentdb_uri="mongodb://nowhere", **settings)
    return step.apply(steps_for(found, ()), Events.of([one.raw for one in events if one.raw is not None]))


@pytest.mark.parametrize(
    ("settings", "passes"),
    [
        ({"operations": "insert"}, True),
        ({"operations": "update, delete"}, False),
        ({"namespaces": "shop.*"}, True),
        ({"namespaces": "other.*"}, False),
        ({"match": '{"fullDocument.total": 3}'}, True),
        ({"match": '{"fullDocument.total": 4}'}, False),
        ({"match": '{"fullDocument.total": 4}', "on_exit": "delete"}, False),
        ({"match": '{"operationType": "insert"}'}, True),
    ],
)
def test_steps_take_it_for_an_insert(settings: dict[str, Any], passes: bool) -> None:
    found = made(settings, EVENT)
    assert [one.raw for one in found.events] == ([EVENT.raw] if passes else [])
    assert not found.rejected


@pytest.mark.parametrize("rule", [{"fields_drop": "card"}, {"fields_mask": "card.number"}, {"fields_keep": "total"}])
def test_what_is_redacted_keeps_its_id_and_says_of_which_snapshot_it_is(rule: dict[str, Any]) -> None:
    [found] = made(rule, EVENT).events
    assert b"4111" not in (found.raw or b"")
    assert (found.event_id, found.snapshot_id) == (EVENT.event_id, "a1b2c3d4e5f6")
    assert found.document["snapshot"] == {"id": "a1b2c3d4e5f6"}
    assert found.document_key == {"_id": DOCUMENT["_id"]}


def test_of_several_that_are_made_of_one_each_has_an_id() -> None:
    def split(event: ChangeEvent) -> Sequence[ChangeEvent]:
        return [event.replace(fullDocument={"_id": number}) for number in range(3)]

    found = step.apply([step.each(split)], [EVENT])
    assert [one.event_id for one in found.events] == [EVENT.event_id, f"{EVENT.event_id}#1", f"{EVENT.event_id}#2"]
    assert {one.snapshot_id for one in found.events} == {"a1b2c3d4e5f6"}
    assert not found.filtered


def test_of_another_document_it_cannot_be_made() -> None:
    [other] = LOG.snapshot({"_id": 2})
    [rejection] = step.apply([step.each(lambda event: other)], [EVENT]).rejected
    assert "token of another one" in rejection.reason


def test_a_derived_update_is_rejected_where_it_would_be_applied() -> None:
    """It must not be applied twice, nor left out without a word."""
    one = derived(EVENT, "shop.totals", key={"_id": 1}, update={"$inc": {"n": 1}})
    for each in (one, one.replace(_id={"_data": EVENT.event_id + "#1"})):
        with pytest.raises(UnrenderableError, match="made of a snapshot's document"):
            update_of(each)


# Targets


def test_texts_made_of_its_fields() -> None:
    template = Template("{db}/{operation}/{event_id}")
    assert template.render(EVENT, EVENT.namespace).endswith(f"insert/{EVENT.event_id}")


def test_a_queue_takes_its_id() -> None:
    entry = message(EVENT, b"{}", "MessageBody", "group").entry
    assert entry["MessageDeduplicationId"] == EVENT.event_id
    long = EVENT.replace(_id={"_data": EVENT.event_id + "#" + "1" * 100})
    text = message(long, b"{}", "MessageBody", "group").entry["MessageDeduplicationId"]
    assert text == hashlib.sha256(long.event_id.encode()).hexdigest()


def test_objects_are_named_by_the_time_it_began() -> None:
    """A slash of the id is not one of the key."""
    time = EVENT.cluster_time
    digest = hashlib.sha256(EVENT.event_id.encode()).hexdigest()[:16]
    day = datetime.fromtimestamp(time.time, UTC)
    assert object_key(EVENT) == f"shop/orders/{day:%Y/%m/%d}/{time.time:010}-{time.inc:010}-{digest}.jsonl.gz"


def test_a_replay_that_begins_with_the_same_document_gets_the_same_object() -> None:
    """Whatever became of the document, and of those after it."""
    changed = ChangeLog().snapshot({**DOCUMENT, "total": 4}, {"_id": 5}, time=EVENT.cluster_time)
    assert object_key(changed[0]) == object_key(EVENT)
    assert object_key(changed[1]) != object_key(EVENT)


# Beside the line


def test_a_dead_letter_holds_it() -> None:
    found = letter("stream", Rejection(EVENT, "s3", "no"), content_bytes=1e9)
    again = event_of(json.loads(json.dumps(found)))
    assert again is not None
    assert again.raw == EVENT.raw
    assert found["event_id"] == EVENT.event_id


def test_it_can_be_explained() -> None:
    [read] = events_in(EVENT.render("extended").decode(), "event.json")
    assert read.raw == EVENT.raw
    [found] = explained(Settings(documentdb_uri="mongodb://nowhere", stdout="true"), [read])
    assert found.event.event_id == EVENT.event_id


def test_it_has_a_line_of_its_own() -> None:
    assert _head(EVENT)[1:] == ("insert", "shop.orders  65f0c0ffee65f0c0ffee65f0")


def test_none_but_a_snapshots_event_names_one() -> None:
    for event in [*LOG.every_operation(), INSERT]:
        assert event.snapshot_id is None
    assert ChangeEvent(bson.encode({"_id": {"_data": "snap"}, "operationType": "insert"})).snapshot_id is None
