"""The event of a snapshot's document: what it is, byte for byte, and what it is called."""

from __future__ import annotations

import contextlib
import datetime as dt
import uuid
from collections.abc import Sequence
from typing import Any

import bson
import pytest
from bson import Binary, Code, DBRef, Decimal128, Int64, MaxKey, MinKey, ObjectId, Regex, Timestamp
from hypothesis import given
from hypothesis import strategies as st

from docdb_stream.errors import UnrenderableError
from docdb_stream.event import ChangeEvent
from docdb_stream.events import Events
from docdb_stream.formats import rawbson
from docdb_stream.formats.extended import EXTENDED
from docdb_stream.position import Namespace
from docdb_stream.snapshot_event import PREFIX, SnapshotEvents, id_element, is_of

ORDERS = Namespace("shop", "orders")
TIME = Timestamp(1_795_676_078, 7)
IDS: Sequence[Any] = [
    ObjectId("65f0c0ffee65f0c0ffee65f0"),
    "text",
    "",
    "ä/\0#1",
    7,
    Int64(2**60),
    1.5,
    float("nan"),
    Decimal128("1.00"),
    True,
    None,
    dt.datetime(2026, 1, 2, tzinfo=dt.UTC),
    Timestamp(1, 2),
    uuid.UUID(int=5).bytes,
    Binary(b"x", 4),
    Binary(b"old", 2),
    {"a": {"b": [1, "two"]}},
    {},
    MinKey(),
    MaxKey(),
    Code("f()"),
    Code("f()", {"x": 1}),
    Regex("^a", "i"),
    DBRef("c", 1),
]


def maker(snapshot: str = "a1b2c3d4e5f6", namespace: Namespace = ORDERS, time: Timestamp = TIME) -> SnapshotEvents:
    return SnapshotEvents(snapshot, time, namespace)


def made(document: bytes, events: SnapshotEvents | None = None) -> ChangeEvent:
    return ChangeEvent((events or maker()).of(document))


@pytest.mark.parametrize("value", IDS, ids=repr)
@pytest.mark.parametrize("first", [True, False], ids=["_id first", "_id last"])
def test_it_is_an_insert_of_the_very_document(value: Any, first: bool) -> None:
    raw = bson.encode({"_id": value, "n": 1} if first else {"n": 1, "_id": value})
    event = made(raw)
    assert event.raw is not None
    parts = rawbson.parts(event.raw)
    assert [*parts] == ["_id", "operationType", "clusterTime", "ns", "documentKey", "fullDocument", "snapshot"]
    assert parts["fullDocument"] == b"\x03fullDocument\0" + raw
    assert parts["documentKey"] == b"\x03documentKey\0" + rawbson.joined([rawbson.parts(raw)["_id"]])
    document = bson.decode(event.raw)
    assert document["operationType"] == "insert"
    assert document["clusterTime"] == TIME
    assert document["ns"] == {"db": "shop", "coll": "orders"}
    assert document["snapshot"] == {"id": "a1b2c3d4e5f6"}
    assert rawbson.read(event.raw)


@pytest.mark.parametrize("value", IDS, ids=repr)
def test_what_is_known_of_it(value: Any) -> None:
    event = made(bson.encode({"_id": value}))
    assert (event.operation, event.namespace, event.cluster_time) == ("insert", ORDERS, TIME)
    assert event.has_document_key
    assert event.snapshot_id == "a1b2c3d4e5f6"
    assert event.token.data == event.event_id
    assert event.token.cluster_time is None
    assert repr(event)


@given(st.binary(max_size=200), st.text(max_size=20), st.integers(-(2**63), 2**63 - 1))
def test_it_is_what_bson_would_make_of_it(value: bytes, text: str, number: int) -> None:
    for key in (value, text.replace("\0", ""), number):
        raw = bson.encode({"_id": key, "fullDocument": value, "text": text})
        event = made(raw)
        expected = {
            "_id": {"_data": event.event_id},
            "operationType": "insert",
            "clusterTime": TIME,
            "ns": {"db": "shop", "coll": "orders"},
            "documentKey": {"_id": key},
            "fullDocument": {"_id": key, "fullDocument": value, "text": text},
            "snapshot": {"id": "a1b2c3d4e5f6"},
        }
        assert event.raw == bson.encode(expected)


def test_read_again_it_has_its_id_and_time_whatever_is_in_it() -> None:
    first, again = made(bson.encode({"_id": 1, "n": 1})), made(bson.encode({"n": 2, "_id": 1}), maker())
    assert (first.event_id, first.cluster_time) == (again.event_id, again.cluster_time)
    assert first.event_id.startswith(PREFIX + "a1b2c3d4e5f6/")


def test_ids_are_of_one_document_one_collection_and_one_snapshot() -> None:
    others = [maker("b"), maker(namespace=Namespace("shop", "order")), maker(namespace=Namespace("shopo", "rders"))]
    raws = [bson.encode({"_id": value}) for value in IDS]
    ids = {made(raw, events).event_id for raw in raws for events in (maker(), *others)}
    assert len(ids) == len(raws) * 4


@pytest.mark.parametrize("snapshot", ["0" * 40, "ä", "x" * 200])
def test_any_snapshots_id(snapshot: str) -> None:
    event = made(bson.encode({"_id": 1}), maker(snapshot))
    assert event.snapshot_id == snapshot
    assert event.event_id == f"snapshot/{snapshot}/{made(bson.encode({'_id': 1})).event_id[-32:]}"


def test_a_document_of_16_mb() -> None:
    raw = bson.encode({"_id": 1, "text": "x" * (16 * 1024 * 1024 - 40)})
    event = made(raw)
    assert event.raw is not None
    assert event.raw.endswith(raw + bson.encode({"snapshot": {"id": "a1b2c3d4e5f6"}})[4:])


def test_keys_that_occur_twice_stay_and_the_first_id_counts() -> None:
    one, two = bson.encode({"_id": 1})[4:-1], bson.encode({"_id": 2})[4:-1]
    name = bson.encode({"a": "text"})[4:-1]
    for elements in ([one, two], [one, name, name, two], [name, one, name, two]):
        event = made(rawbson.joined(elements))
        assert event.document_key == {"_id": 1}
        assert event.raw is not None
        assert rawbson.joined(elements) in event.raw


@pytest.mark.parametrize("document", [{}, {"a": 1}, {"a": {"_id": 1}}, {"_id_": 1}, {"_i": 1}])
def test_without_an_id_it_is_none(document: dict[str, Any]) -> None:
    with pytest.raises(UnrenderableError, match="_id: missing"):
        made(bson.encode(document))


@pytest.mark.parametrize("value", IDS, ids=repr)
@pytest.mark.parametrize("key", ["_id", "a"])
def test_what_is_cut_off_is_none(value: Any, key: str) -> None:
    raw = bson.encode({key: value, "_id": value})
    for end in range(len(raw)):
        with pytest.raises(UnrenderableError):
            made(raw[:end])
        if end > 4:  # also where its own length says that it is whole: nothing else is raised
            with contextlib.suppress(UnrenderableError):
                id_element(end.to_bytes(4, "little") + raw[4:end])


@pytest.mark.parametrize("value", IDS, ids=repr)
def test_it_is_known_whose_an_id_is(value: Any) -> None:
    element = id_element(bson.encode({"_id": value}))
    event = made(bson.encode({"_id": value}))
    assert is_of(event.event_id, ORDERS, element)
    assert is_of(event.event_id + "#1", ORDERS, element)
    assert not is_of(event.event_id, Namespace("shop", "other"), element)
    assert not is_of(event.event_id, ORDERS, id_element(bson.encode({"_id": "another"})))
    assert not is_of("8265F0C0FF000000012B", ORDERS, element)


def test_they_are_rendered_together_with_changes() -> None:
    raws = [made(bson.encode({"_id": value})).raw for value in (1, ObjectId(), "x")]
    together = Events.of([raw for raw in raws if raw is not None])
    rendered = together.render(EXTENDED)
    assert rendered == [ChangeEvent(raw).render("extended") for raw in raws]
    assert [b'"snapshot":{"id":"a1b2c3d4e5f6"}' in each for each in rendered if isinstance(each, bytes)] == [True] * 3
