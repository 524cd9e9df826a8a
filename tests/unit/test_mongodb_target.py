from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError
from pymongo.errors import BulkWriteError

from docdb_stream.context import RunContext, current_run, running
from docdb_stream.errors import ConfigError
from docdb_stream.events import Namespace
from docdb_stream.mongodb.cluster import Cluster
from docdb_stream.mongodb.state import StateEvents
from docdb_stream.permissions import Permission
from docdb_stream.settings import Settings
from docdb_stream.settings.cluster import NO_CLUSTER
from docdb_stream.target import is_keyed, takes_derived
from docdb_stream.targets._mongodb.errors import RefusedError, RepeatError, raise_refused
from docdb_stream.targets._mongodb.loop import name_the_same
from docdb_stream.targets.mongodb import MongoTarget
from docdb_stream.testing.events import ChangeLog

SOURCE = "mongodb://a.example,b.example/?replicaSet=rs0"
MIRROR = "mongodb://mirror.example/?replicaSet=rs0"


def stream(**values: Any) -> Settings:
    given = {"documentdb_uri": SOURCE, "mongodb_target_uri": MIRROR, **values}
    return Settings(**given)


def test_it_is_keyed_and_takes_derived_updates() -> None:
    target = MongoTarget.from_settings(stream())
    assert is_keyed(target)
    assert takes_derived(target)


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"mongodb_target_namespace": "mirror.{document.shop}"}, "{db} and {coll} alone"),
        ({"mongodb_target_namespace": "mirror.{key}"}, "{db} and {coll} alone"),
        ({"mongodb_target_namespace": "mirror.{shop}"}, "no field {shop}"),
        ({"mongodb_target_namespace": "mirror"}, "expected a collection as db.coll"),
        ({"mongodb_target_namespace": "admin.{coll}"}, "server's own"),
        ({"mongodb_target_state": "state"}, "expected a collection as db.coll"),
        ({"mongodb_target_secret": '{"username": "u", "password": "hunter2"}'}, "the secret itself"),
    ],
)
def test_what_cannot_be_meant_is_told_with_the_settings(values: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValidationError) as caught:
        stream(**values)
    assert problem in str(caught.value)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("values", "is_fine"),
    [
        ({"watched_db_name": "shop"}, False),
        ({}, False),
        ({"mongodb_target_namespace": "mirror.{db}_{coll}"}, False),
        ({"watched_db_name": "shop", "watched_collection_name": "orders"}, False),
        ({"watched_db_name": "shop", "mongodb_target_namespace": "mirror.{db}_{coll}"}, True),
        (
            {"watched_db_name": "shop", "watched_collection_name": "a", "mongodb_target_namespace": "shop.m_{coll}"},
            True,
        ),
        ({"watched_db_name": "shop", "mongodb_target_mirror": False}, True),
    ],
)
@pytest.mark.parametrize("uri", [SOURCE, "mongodb://b.example:27017/?tls=true"])
def test_a_mirror_into_what_is_watched_is_told_with_the_settings(
    values: dict[str, Any], is_fine: bool, uri: str
) -> None:
    settings = stream(mongodb_target_uri=uri, **values)
    if is_fine:
        MongoTarget.from_settings(settings)
        return
    with pytest.raises(ConfigError, match="without end") as caught:
        MongoTarget.from_settings(settings)
    assert "MONGODB_TARGET_NAMESPACE" in caught.value.hint


@pytest.mark.parametrize("choice", ["default", "when_available"])
def test_a_mirror_needs_whole_documents(choice: str) -> None:
    with pytest.raises(ConfigError, match="whole documents"):
        MongoTarget.from_settings(stream(full_document=choice))
    MongoTarget.from_settings(stream(full_document=choice, mongodb_target_mirror=False))


def test_where_another_reads_it_still_has_to_know_the_source() -> None:
    with pytest.raises(ConfigError) as caught:
        MongoTarget.from_settings(stream(documentdb_uri=NO_CLUSTER))
    assert "DOCUMENTDB_URI" in caught.value.hint


@pytest.mark.parametrize(
    ("values", "namespace", "expected"),
    [
        ({}, "a.b", True),
        ({"watched_db_name": "a"}, "a.b", True),
        ({"watched_db_name": "a"}, "b.b", False),
        ({"watched_db_name": "a", "watched_collection_name": "b"}, "a.c", False),
        ({"namespaces": "a.*, b.c"}, "a.x.y", True),
        ({"namespaces": "a.*, b.c"}, "b.cc", False),
        ({"watched_db_name": "a", "namespaces": "a.x*"}, "a.b", False),
    ],
)
def test_what_a_stream_watches(values: dict[str, Any], namespace: str, expected: bool) -> None:
    db, _, coll = namespace.partition(".")
    assert stream(**values).watches(Namespace(db, coll)) is expected


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ("mongodb://a", "mongodb://a:27017/x", True),
        ("mongodb://a", "mongodb://b", False),
        ("mongodb+srv://a.b.example", "mongodb+srv://a.b.example", True),
        ("mongodb+srv://a.b.example", "mongodb://a", False),
        ("docs.example", "mongodb://docs.example/?tls=true", True),
    ],
)
def test_addresses_that_name_one_deployment(one: str, other: str, expected: bool) -> None:
    assert name_the_same(Cluster(one), Cluster(other)) is expected


def test_an_address_shows_no_password() -> None:
    assert "hunter2" not in repr(Cluster("mongodb://u:hunter2@a"))
    assert "hunter2" not in repr(stream(mongodb_target_uri="mongodb://u:hunter2@a"))


def test_the_state_there_is_left_out_of_a_stream_that_covers_it() -> None:
    events = StateEvents(stream(mongodb_target_state="mine.state"))
    log = ChangeLog(db="mine", coll="state")
    assert [events.has(event) for event in (log.delete(1), log.insert({"_id": 1}))] == [True, True]
    assert not events.has(ChangeLog(db="mine").insert({"_id": 1}))


def test_a_ca_in_s3_takes_a_permission() -> None:
    assert MongoTarget.permissions(stream()) == []
    found = MongoTarget.permissions(stream(mongodb_target_tls_ca="s3://bucket/ca.pem"))
    assert found == [Permission(("s3:GetObject",), ("arn:${AWS::Partition}:s3:::bucket/ca.pem",))]


def test_without_a_lease_there_is_no_epoch() -> None:
    assert current_run().lease_epoch() is None
    with running(RunContext(lease_epoch=lambda: 3)) as run:
        assert run.lease_epoch() == 3


def test_a_database_that_is_being_dropped_is_waited_for() -> None:
    """Its writes are refused for a moment, and none of them is a document's fault."""
    told = {"index": 0, "code": 215, "errmsg": "the database is in the process of being dropped"}
    with pytest.raises(RepeatError):
        raise_refused(BulkWriteError({"writeErrors": [told]}))
    with pytest.raises(RefusedError):
        raise_refused(BulkWriteError({"writeErrors": [{**told, "code": 2}]}))
