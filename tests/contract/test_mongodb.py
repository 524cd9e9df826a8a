from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Sequence
from contextlib import closing
from typing import Any

import bson
import pytest
from bson import Timestamp
from bson.raw_bson import RawBSONDocument
from pymongo import MongoClient

from docdb_stream.context import RunContext, running
from docdb_stream.derived_update import DERIVED, derived, in_any_order
from docdb_stream.errors import TargetError
from docdb_stream.events import ChangeEvent
from docdb_stream.formats.decoded import field_of
from docdb_stream.local import ReplicaSet
from docdb_stream.target import Rejection
from docdb_stream.targets._mongodb.change import RAW
from docdb_stream.targets._mongodb.writer import Writer
from docdb_stream.targets.mongodb import MongoTarget
from docdb_stream.testing.contract import Delivered, TargetContract
from docdb_stream.testing.events import ChangeLog
from docdb_stream.testing.versioned_contract import VersionedContract

pytestmark = pytest.mark.integration

Mongo = MongoClient[dict[str, Any]]

_numbers = itertools.count()


class Deployment:
    """The part of the server that belongs to one test, and a client of its own."""

    def __init__(self, replica_set: ReplicaSet, mongo: Mongo) -> None:
        self.uri = replica_set.uri
        self.mongo = mongo
        self.db = mongo[f"mirror{next(_numbers)}"]

    @property
    def stores_any_name(self) -> bool:
        """Also with $ and dots, in a replacement."""
        return int(self.mongo.server_info()["versionArray"][0]) >= 5

    def target(self, **options: Any) -> MongoTarget:
        values = {"namespace": f"{self.db.name}.{{db}}_{{coll}}", "state": f"{self.db.name}.state", "stream": "orders"}
        return MongoTarget(self.uri, **{**values, **options})

    def deliver(self, *events: ChangeEvent, epoch: int | None = None, **options: Any) -> Sequence[Rejection]:
        """Write them in a process of its own."""
        with running(RunContext(lease_epoch=lambda: epoch)), closing(self.target(**options)) as target:
            return [*target.write(events), *target.flush()]

    def raws(self, coll: str = "shop_orders") -> list[bytes]:
        found = self.db.get_collection(coll, codec_options=RAW).find()  # type: ignore[arg-type]
        return [bytes(each.raw) for each in found if isinstance(each, RawBSONDocument)]

    def mirrored(self, coll: str = "shop_orders") -> dict[Any, Any]:
        return {each["_id"]: each.get("n") for each in self.db[coll].find()}


@pytest.fixture
def deployment(replica_set: ReplicaSet, mongo: Mongo) -> Iterator[Deployment]:
    found = Deployment(replica_set, mongo)
    yield found
    mongo.drop_database(found.db.name)


class TestMongo(TargetContract):
    keeps = "documents"

    @pytest.fixture(autouse=True)
    def _deployment(self, deployment: Deployment, monkeypatch: pytest.MonkeyPatch) -> None:
        self.deployment = deployment
        monkeypatch.setattr(TestMongo, "has_schema", not deployment.stores_any_name)

    def make_target(self) -> MongoTarget:
        return self.deployment.target()

    def read_back(self) -> list[Delivered]:
        return [Delivered("", None, raw) for raw in self.deployment.raws()]

    def expected_payload(self, event: ChangeEvent) -> bytes | None:
        assert event.raw is not None
        return field_of(event.raw, "fullDocument")


class TestVersions(VersionedContract):
    refuses_zombies = True

    @pytest.fixture(autouse=True)
    def _deployment(self, deployment: Deployment) -> None:
        self.deployment = deployment

    def make_target(self) -> MongoTarget:
        return self.deployment.target()

    def documents(self) -> dict[int, int]:
        return self.deployment.mirrored()


# Hostile documents


def test_an_id_of_another_number_type_is_the_same_document(deployment: Deployment, log: ChangeLog) -> None:
    events = [log.insert({"_id": 1, "n": 1}), log.delete(1), log.insert({"_id": 1.0, "n": 2})]
    deployment.deliver(*events)
    assert deployment.mirrored() == {1.0: 2}
    deployment.deliver(*events[:1])
    deployment.deliver(events[1])
    assert deployment.mirrored() == {1.0: 2}


@pytest.mark.parametrize(("one", "other"), [(1, 1.0), ({"k": 1}, {"k": 1.0})])
def test_what_turns_from_one_number_type_into_another_is_one_document_in_a_batch_too(
    deployment: Deployment, log: ChangeLog, one: Any, other: Any
) -> None:
    deployment.deliver(log.insert({"_id": one, "n": 1}), log.replace({"_id": other, "n": 2}), log.delete(one))
    assert deployment.db.shop_orders.find_one() is None
    deployment.deliver(log.insert({"_id": one}), log.replace({"_id": other}), log.replace({"_id": one, "n": 3}))
    assert [each["n"] for each in deployment.db.shop_orders.find()] == [3]


def test_a_document_near_the_limit(deployment: Deployment, log: ChangeLog) -> None:
    document = {"_id": 1, "n": 1, "note": ""}
    document["note"] = "x" * (16 * 1024 * 1024 - len(bson.encode(document)) - 700)  # the event has the rest
    assert deployment.deliver(log.insert(document), log.insert({"_id": 2, "n": 2})) == []
    assert deployment.mirrored() == {1: 1, 2: 2}


def test_what_begins_like_an_operator_is_none(deployment: Deployment, log: ChangeLog) -> None:
    """A function may leave a document without its _id, or with others first."""
    event = log.insert({"_id": 1, "n": 1}).replace(fullDocument={"$set": {"n": 2}})
    rejections = deployment.deliver(event)
    if not deployment.stores_any_name:
        assert [rejection.event for rejection in rejections] == [event]
        return
    assert rejections == []
    assert list(deployment.db.shop_orders.find()) == [{"_id": 1, "$set": {"n": 2}}]


def test_a_delete_by_a_filter_exit_and_an_event_without_its_document(deployment: Deployment, log: ChangeLog) -> None:
    update = log.update({"_id": 1, "n": 2})
    deployment.deliver(log.insert({"_id": 1, "n": 1}), log.insert({"_id": 2, "n": 1}))
    [rejection] = deployment.deliver(ChangeLog().update({"_id": 9, "n": 1}).replace(fullDocument=None))
    assert "FULL_DOCUMENT = update_lookup" in rejection.reason
    later = ChangeLog(start=Timestamp(update.cluster_time.time + 100, 1)).update({"_id": 1, "n": 2})
    assert deployment.deliver(later.replace(operationType="delete", fullDocument=None)) == []
    assert deployment.mirrored() == {2: 1}


# What the server refuses


def test_only_what_is_refused_is_rejected(deployment: Deployment, log: ChangeLog) -> None:
    schema = {"$jsonSchema": {"properties": {"n": {"bsonType": "int"}}}}
    deployment.db.create_collection("shop_orders", validator=schema)
    events = [
        log.insert({"_id": number, "n": "secret" if number in (7, 300, 301) else number}) for number in range(520)
    ]
    rejections = deployment.deliver(*events)
    assert [rejection.event for rejection in rejections] == [events[7], events[300], events[301]]
    assert {rejection.reason for rejection in rejections} == {
        "refused: the validation of its collection refuses it (code 121)"
    }
    assert len(deployment.mirrored()) == 517


def test_a_unique_index(deployment: Deployment, log: ChangeLog) -> None:
    """A value may go from one document to another, and looked-up documents are later than their events."""
    deployment.db.shop_orders.create_index("n", unique=True)
    deployment.deliver(log.insert({"_id": 1, "n": 1}), log.insert({"_id": 2, "n": 2}))
    moved = [log.update({"_id": 2, "n": 1}), log.update({"_id": 1, "n": 3})]
    assert deployment.deliver(*moved) == []
    assert deployment.mirrored() == {1: 3, 2: 1}
    [rejection] = deployment.deliver(log.insert({"_id": 4, "n": 4}), log.insert({"_id": 3, "n": 3}))
    assert rejection.event.document["documentKey"] == {"_id": 3}
    assert "unique index n_1" in rejection.reason
    assert deployment.mirrored() == {1: 3, 2: 1, 4: 4}


def test_names_that_no_collection_can_have(deployment: Deployment) -> None:
    """The source's own are shorter than the target's."""
    long = ChangeLog(coll="c" * 234).insert({"_id": 1})
    fine = ChangeLog().insert({"_id": 1})
    [rejection] = deployment.deliver(long, fine, namespace=deployment.db.name + "." + "x" * 30 + "{coll}")
    assert rejection.event is long


# Whole collections


def test_a_drop_takes_what_is_older_and_was_written_here(deployment: Deployment, log: ChangeLog) -> None:
    before = log.inserts(520)
    drop = log.drop()
    after = log.insert({"_id": 5, "n": 5})
    deployment.db.shop_orders.insert_one({"_id": "somebody else's"})
    deployment.deliver(*before, drop, after)
    assert deployment.mirrored() == {"somebody else's": None, 5: 5}
    for replayed in ([before[7]], [before[5]], [drop], [drop, after]):
        deployment.deliver(*replayed)
        assert deployment.mirrored() == {"somebody else's": None, 5: 5}
    assert deployment.deliver(log.drop(), on_drop="keep") == []
    assert len(deployment.mirrored()) == 2


def test_a_rename_moves_them_in_place_of_what_is_there(deployment: Deployment, log: ChangeLog) -> None:
    other = ChangeLog(coll="archive")
    old = other.insert({"_id": 1, "n": 0})
    before = [*log.inserts(510), log.insert({"_id": 1000, "n": 1}), log.delete(1000)]
    rename = log.rename("archive")
    raws = deployment.raws
    deployment.deliver(old, *before)
    expected = sorted(raws())
    for _ in range(2):
        assert deployment.deliver(rename) == []
        assert raws() == []
        assert sorted(raws("shop_archive")) == expected
        deployment.deliver(old, before[3], *before[-2:])
    again = log.insert({"_id": 3, "n": 3})
    deployment.deliver(again, rename)
    assert deployment.mirrored() == {3: 3}


def test_a_drop_takes_what_a_snapshot_wrote_before(deployment: Deployment, log: ChangeLog) -> None:
    page = log.snapshot(*({"_id": number, "n": 1} for number in range(3)))
    deployment.deliver(*page)
    assert deployment.mirrored() == {0: 1, 1: 1, 2: 1}
    drop = log.drop()
    for events in ([drop], page, [drop]):
        assert deployment.deliver(*events) == []
        assert deployment.mirrored() == {}


# Derived updates


def counts(events: Sequence[ChangeEvent], coll: str = "counts") -> list[ChangeEvent]:
    return [derived(event, coll, key={"_id": "all"}, update={"$inc": {"n": 1}}) for event in events]


def test_a_derived_update_is_applied_once(deployment: Deployment, log: ChangeLog) -> None:
    coll = f"{deployment.db.name}.counts"
    made = log.inserts(510)
    with log.transaction():
        made += log.inserts(5)
    events = counts([*made, *log.inserts(3)], coll)
    # One made of the same event as another, as ``step.each`` tells them apart.
    events += [events[-1].replace(_id={"_data": f"{events[-1].event_id}#1"})]
    with closing(deployment.target()) as target:
        for start in range(0, len(events), 101):
            assert target.write(events[start : start + 101]) == []
            assert target.write(events[: start + 101]) == []
    expected = {"all": len(events)}
    assert deployment.mirrored("counts") == expected
    for start in range(len(events) - 10, len(events)):
        assert deployment.deliver(*events[start:]) == []
    assert deployment.mirrored("counts") == expected


def test_one_of_a_snapshots_document_is_rejected_each_time_and_nothing_else(
    deployment: Deployment, log: ChangeLog
) -> None:
    coll = f"{deployment.db.name}.counts"
    page, change = log.snapshot({"_id": 1, "n": 1}), log.insert({"_id": 2, "n": 1})
    refused = counts(page, coll)
    for _ in range(2):
        rejections = deployment.deliver(*page, *refused, change, *counts([change], coll))
        assert [rejection.event for rejection in rejections] == refused
        assert "event.snapshot_id" in rejections[0].reason
        assert deployment.mirrored("counts") == {"all": 1}
        assert deployment.mirrored() == {1: 1, 2: 1}


def test_they_are_applied_in_order_and_with_every_operator(deployment: Deployment, log: ChangeLog) -> None:
    event, coll = log.insert({"_id": 1}), f"{deployment.db.name}.things"
    updates = [
        {"$setOnInsert": {"a": 1, "b": [1]}, "$set": {"c.d": 1}},
        {"$mul": {"a": 6}, "$push": {"b": {"$each": [3, 2], "$slice": -2}}},
        {"$unset": {"c": ""}, "$min": {"a": 5}, "$max": {"e": 7}},
        {"$addToSet": {"b": 9}, "$pull": {"f": 1}},
    ]
    made = [derived(event, coll, key={"_id": 1}, update=update) for update in updates]
    made = [one.replace(_id={"_data": f"{one.event_id}#{number}"}) for number, one in enumerate(made)]
    assert {one.operation for one in made} == {DERIVED}
    assert deployment.deliver(*made) == []
    assert list(deployment.db.things.find()) == [{"_id": 1, "a": 5, "b": [3, 2, 9], "e": 7}]


def test_one_that_is_refused_can_be_given_again_and_counts_once(deployment: Deployment, log: ChangeLog) -> None:
    deployment.db.counts.insert_one({"_id": "bad", "n": "secret"})
    coll = f"{deployment.db.name}.counts"
    made = log.inserts(20)
    events = counts(made, coll)
    events[7] = derived(made[7], coll, key={"_id": "bad"}, update={"$inc": {"n": 1}})
    [rejection] = deployment.deliver(*events, epoch=3)
    assert rejection.event is events[7]
    assert "secret" not in rejection.reason
    [again] = deployment.deliver(*events, epoch=3)
    assert again.event is events[7]
    deployment.db.counts.update_one({"_id": "bad"}, {"$set": {"n": 0}})
    for _ in range(2):
        assert deployment.deliver(events[7]) == []  # redriven: without a lease
    assert deployment.deliver(*events, epoch=4) == []
    assert deployment.mirrored("counts") == {"bad": 1, "all": 19}


def test_one_for_any_order_is_applied_whenever_it_comes(deployment: Deployment, log: ChangeLog) -> None:
    coll = f"{deployment.db.name}.users"
    update = [{"$addToSet": {"orders": n}, "$max": {"last": n}, "$min": {"first": n}} for n in range(40)]
    made = [
        in_any_order(derived(event, coll, key={"_id": n % 3}, update=update[n]))
        for n, event in enumerate(log.inserts(40))
    ]
    chance = random.Random(7)
    for _ in range(3):
        chance.shuffle(made)
        assert deployment.deliver(*made) == []
    found = {each["_id"]: each for each in deployment.db.users.find()}
    assert {key: sorted(each["orders"]) for key, each in found.items()} == {n: [*range(n, 40, 3)] for n in range(3)}
    assert [(found[n]["first"], found[n]["last"]) for n in range(3)] == [(0, 39), (1, 37), (2, 38)]


def test_one_for_any_order_that_is_refused_is_applied_when_it_is_given_again(
    deployment: Deployment, log: ChangeLog
) -> None:
    coll = f"{deployment.db.name}.users"
    deployment.db.users.insert_one({"_id": "Ann", "orders": "none"})
    one, other = (
        in_any_order(derived(event, coll, key={"_id": key}, update={"$addToSet": {"orders": 1}}))
        for event, key in zip(log.inserts(2), ("Ann", "Ben"), strict=True)
    )
    [rejection] = deployment.deliver(other, one)
    assert rejection.event is one
    deployment.db.users.update_one({"_id": "Ann"}, {"$unset": {"orders": ""}})
    assert deployment.deliver(one) == []
    assert {each["_id"]: each["orders"] for each in deployment.db.users.find()} == {"Ann": [1], "Ben": [1]}


@pytest.mark.parametrize("operation", ["drop", "rename"])
def test_what_is_written_beside_a_run_is_not_brought_back_after_a_drop(
    deployment: Deployment, log: ChangeLog, monkeypatch: pytest.MonkeyPatch, operation: str
) -> None:
    """By redrive, a restore, a snapshot's workers: they hold no lease, and no look at the stream's progress."""
    old = log.inserts(5)
    gone = log.drop() if operation == "drop" else log.rename("renamed")
    known, looks = Writer.known, itertools.count()

    def look(self: Writer, session: Any, ids: Any) -> Any:
        found = known(self, session, ids)
        if ids and next(looks) == 0:  # between its look and its write
            deployment.deliver(gone, epoch=3)
        return found

    monkeypatch.setattr(Writer, "known", look)
    assert deployment.deliver(*old) == []
    assert next(looks) == 2  # it had to look again
    assert deployment.mirrored() == {}
    assert deployment.mirrored("shop_renamed") == {}


def test_writers_beside_a_run_are_not_in_its_way(
    deployment: Deployment, log: ChangeLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    deployment.deliver(*log.inserts(1), epoch=3)
    events = log.inserts(20, first_id=100)
    known, looks = Writer.known, itertools.count()

    def look(self: Writer, session: Any, ids: Any) -> Any:
        found = known(self, session, ids)
        if ids and next(looks) == 0:
            deployment.deliver(*events[:10], epoch=3)
        return found

    monkeypatch.setattr(Writer, "known", look)
    assert deployment.deliver(*events[10:]) == []
    assert next(looks) == 2  # one for each: nobody had to try again
    assert len(deployment.mirrored()) == 21


def test_a_run_that_was_taken_over_from_applies_nothing(deployment: Deployment, log: ChangeLog) -> None:
    events = counts(log.inserts(10), f"{deployment.db.name}.counts")
    deployment.deliver(*events[:5], epoch=7)
    deployment.deliver(*events[:6], epoch=8)
    with pytest.raises(TargetError, match="a later run of stream orders") as caught:
        deployment.deliver(*events, epoch=7)
    assert "STREAM_NAME" in caught.value.hint
    assert deployment.mirrored("counts") == {"all": 6}
    deployment.deliver(*events, epoch=9)
    assert deployment.mirrored("counts") == {"all": 10}


def test_a_stream_of_another_name_counts_for_itself(deployment: Deployment, log: ChangeLog) -> None:
    events = counts(log.inserts(3), f"{deployment.db.name}.counts")
    deployment.deliver(*events)
    deployment.deliver(*events, stream="another")
    assert deployment.mirrored("counts") == {"all": 6}


def test_without_a_mirror_only_they_are_written(deployment: Deployment, log: ChangeLog) -> None:
    event = log.insert({"_id": 1, "n": 1})
    deployment.deliver(event, *counts([event], f"{deployment.db.name}.counts"), log.drop(), mirror=False)
    assert set(deployment.db.list_collection_names()) == {"counts", "state"}


@pytest.mark.parametrize("namespace", ["admin.x", "config.x", "a.system.views"])
def test_the_servers_own_collections_are_refused(deployment: Deployment, log: ChangeLog, namespace: str) -> None:
    event = log.insert({"_id": 1})
    db, _, coll = namespace.partition(".")
    update = derived(event, "a.b", key={"_id": 1}, update={"$set": {"n": 1}}).replace(ns={"db": db, "coll": coll})
    [rejection] = deployment.deliver(update)
    assert "server's own" in rejection.reason


def test_shards_of_a_table_are_not_in_each_others_way(
    deployment: Deployment, log: ChangeLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tables are not dropped within a stream: there is nothing that two shards would have to take turns at."""
    coll = f"{deployment.db.name}.users"
    events = log.inserts(20)
    added = [
        in_any_order(derived(event, coll, key={"_id": n}, update={"$addToSet": {"orders": n}}))
        for n, event in enumerate(events)
    ]

    def deliver(part: Sequence[ChangeEvent]) -> None:
        with running(RunContext(is_sharded=True)), closing(deployment.target()) as target:
            assert [*target.write(part)] == []

    known, looks = Writer.known, itertools.count()

    def look(self: Writer, session: Any, ids: Any) -> Any:
        found = known(self, session, ids)
        if next(looks) == 0:
            deliver([*events[:10], *added[:10]])
        return found

    monkeypatch.setattr(Writer, "known", look)
    deliver([*events[10:], *added[10:]])
    assert next(looks) == 2  # one for each
    assert len(deployment.mirrored()) == len(deployment.mirrored("users")) == 20
