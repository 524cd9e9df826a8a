"""What a stream gets of each version of MongoDB, and where the versions differ. ``MONGOD_BINARY`` says which it is."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pymongo import MongoClient
from pymongo.errors import OperationFailure

from docdb_stream.errors import HistoryLostError
from docdb_stream.local import ReplicaSet
from docdb_stream.local.process import wait_until
from docdb_stream.poller import Poller
from docdb_stream.result import RunResult
from docdb_stream.settings import Settings
from docdb_stream.testing.targets import ListTarget

pytestmark = [pytest.mark.integration, pytest.mark.matrix]

Mongo = MongoClient[dict[str, Any]]

SPLITS = (6, 0, 9)
"""The first version that splits large events (docs of $changeStreamSplitLargeEvent)."""


@pytest.fixture
def version(mongo: Mongo) -> tuple[int, ...]:
    return tuple(mongo.server_info()["versionArray"][:3])


@pytest.fixture
def settings(replica_set: ReplicaSet, db_name: str) -> Settings:
    return stream(replica_set, db_name)


def stream(replica_set: ReplicaSet, db_name: str) -> Settings:
    return Settings(
        documentdb_uri=replica_set.uri,
        watched_db_name=db_name,
        watched_collection_name="orders",
        state_db=f"{db_name}_state",
    )


def run(settings: Settings, target: ListTarget, **values: Any) -> RunResult:
    poller = Poller.from_settings(settings.model_copy(update=values), targets=[target])
    try:
        return poller.run()
    finally:
        poller.close()


def test_it_is_the_version_that_was_meant(version: tuple[int, ...]) -> None:
    assert f"mongod-{'.'.join(map(str, version))}" in os.environ["MONGOD_BINARY"]


def test_every_operation_from_a_new_stream_to_a_file(
    replica_set: ReplicaSet, mongo: Mongo, db_name: str, tmp_path: Path, cli: Any
) -> None:
    """By the command line, in several runs; doctor and status say that all is well."""
    file = tmp_path / "changes.jsonl"
    environment = {
        "DOCUMENTDB_URI": replica_set.uri,
        "STATE_DB": f"{db_name}_state",
        "WATCHED_DB_NAME": db_name,
        "FILE_PATH": str(file),
    }

    def done(*arguments: str) -> str:
        finished = cli.run(*arguments, **environment)
        assert finished.returncode == 0, finished.stdout + finished.stderr
        return str(finished.stdout)

    db = mongo[db_name]
    db.create_collection("orders")
    done("run")
    db.orders.insert_one({"_id": 1, "status": "new"})
    db.orders.update_one({"_id": 1}, {"$set": {"status": "paid"}})
    db.orders.replace_one({"_id": 1}, {"status": "replaced"})
    done("run")
    with mongo.start_session() as session, session.start_transaction():
        db.orders.insert_one({"_id": 2}, session=session)
        db.orders.delete_one({"_id": 1}, session=session)
    done("run")
    db.orders.rename("archive")
    db.archive.drop()
    mongo.drop_database(db_name)
    done("run", "--timeout", "20")
    found = [json.loads(line) for line in file.read_text().splitlines()]
    assert [event["operationType"] for event in found] == [
        *("insert", "update", "replace", "insert", "delete"),
        *("rename", "drop", "dropDatabase", "invalidate"),
    ]
    assert [event["fullDocument"]["status"] for event in found[:3]] == ["new", "replaced", "replaced"]
    assert found[3]["txnNumber"] == found[4]["txnNumber"]
    assert "FAILED" not in done("doctor")
    [status] = map(json.loads, done("status", "--json").splitlines())
    assert status["stream"] == f"{db_name}.*"


def test_an_event_beyond_16_mb_is_read_in_the_way_that_the_version_has(
    settings: Settings, mongo: Mongo, db_name: str, version: tuple[int, ...], caplog: pytest.LogCaptureFixture
) -> None:
    target = ListTarget()
    run(settings, target)
    orders = mongo[db_name].orders
    orders.insert_one({"_id": 1})
    orders.update_one({"_id": 1}, {"$set": {"text": "x" * 9_000_000}})  # in the event twice: 18 MB
    with caplog.at_level(logging.INFO, logger="docdb_stream"):
        assert run(settings, target).events == 2
    update = target.events[1]
    assert update.full_document is not None
    assert update.update_description is not None
    assert update.full_document["text"] == update.update_description["updatedFields"]["text"] == "x" * 9_000_000
    assert ("was read split by the server" in caplog.text) == (version >= SPLITS)


def test_keys_of_megabytes_are_sent_by_the_versions_before_5_alone(
    settings: Settings, mongo: Mongo, db_name: str, version: tuple[int, ...]
) -> None:
    """From 5.0 on the stream goes past what cannot be sent: tests/integration/test_oversize.py."""
    target = ListTarget()
    orders = mongo[db_name].orders
    orders.insert_one({"_id": 0})
    run(settings, target)
    keys = ["x" * 4_500_000, 1]
    for key in keys:
        orders.insert_one({"_id": key})
    result = run(settings, target)
    assert result.caught_up
    assert target.ids == (keys if version < (5,) else [1])
    assert result.rejections == (0 if version < (5,) else 1)


def test_a_collection_with_pre_images_is_a_collection(
    settings: Settings, mongo: Mongo, db_name: str, version: tuple[int, ...]
) -> None:
    """They are not asked for: the events are those of any other collection, a large document's delete is small."""
    if version < (6,):
        pytest.skip("pre-images came with MongoDB 6.0")
    mongo[db_name].create_collection("orders", changeStreamPreAndPostImages={"enabled": True})
    target = ListTarget()
    run(settings, target)
    orders = mongo[db_name].orders
    orders.insert_one({"_id": 1, "status": "new", "text": "x" * 9_000_000})
    orders.update_one({"_id": 1}, {"$set": {"status": "paid"}})
    orders.delete_one({"_id": 1})
    assert (run(settings, target).events, [event.operation for event in target.events]) == (
        3,
        ["insert", "update", "delete"],
    )
    assert not any("fullDocumentBeforeChange" in event.document for event in target.events)
    assert target.events[-1].size_bytes < 1_000


@pytest.fixture(scope="module")
def short_log() -> Iterator[ReplicaSet]:
    # The log is cut only up to the last checkpoint of the storage, which by default is a minute old.
    with ReplicaSet(oplog_size_mb=16, set_parameters={"syncdelay": 1}) as started:
        yield started


def test_a_position_that_left_the_log_is_told_and_can_be_gone_past(
    short_log: ReplicaSet, version: tuple[int, ...], db_name: str
) -> None:
    if version < (4, 4):
        pytest.skip("a MongoDB 4.2 that is made to cut its log often stops answering for minutes")
    settings, target = stream(short_log, db_name), ListTarget()
    run(settings, target)
    with short_log.client() as mongo:
        mongo[db_name].orders.insert_one({"_id": "lost"})
        written = mongo.admin.command("ping")["operationTime"]
        filler = mongo[f"{db_name}_other"].filler

        def is_cut() -> bool:
            filler.insert_many([{"text": "x" * 1_000_000} for _ in range(5)])
            try:
                oldest = mongo.local["oplog.rs"].find_one(sort=[("$natural", 1)])
            except OperationFailure:
                return False  # it was cut under the query: CappedPositionLost
            return bool(oldest is not None and oldest["ts"] > written)

        wait_until(is_cut, "the log is cut", timeout_s=120)
        for _ in range(2):
            with pytest.raises(HistoryLostError) as caught:
                run(settings, target)
            assert "reset" in caught.value.hint
        mongo[db_name].orders.insert_one({"_id": "later"})

        def is_gone_past() -> bool:
            try:
                run(settings, target, on_history_lost="earliest")
            except HistoryLostError:
                return False  # it goes on cutting for a while: what was the earliest is lost before it is read
            return True

        wait_until(is_gone_past, "the log stays as it is for long enough", timeout_s=120)
        if not target.ids:  # the server may have cut even that
            entry = {"ns": f"{db_name}.orders", "o._id": "later"}
            assert mongo.local["oplog.rs"].find_one(entry) is None, "it is in the log, and was passed over"

            def is_delivered() -> bool:
                mongo[db_name].orders.replace_one({"_id": "later"}, {"again": True}, upsert=True)
                return is_gone_past() and bool(target.ids)

            wait_until(is_delivered, "the stream goes on behind it", timeout_s=120)
            del target.events[1:]
    assert target.ids == ["later"]
