"""Streams on the DocumentDB stand-in: what it lacks, how it fails, and what must come of that."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from bson import Timestamp
from faults.polling import ListTarget, run, stream, wait_for
from faults.standin import DocumentDB
from pymongo import MongoClient
from pymongo.errors import OperationFailure

from docdb_stream.connection import Connection
from docdb_stream.doctor import checks
from docdb_stream.errors import HistoryLostError, LeaseHeldError, SourceUnavailableError
from docdb_stream.local import ReplicaSet
from docdb_stream.local.demo.poller import PollerProcess
from docdb_stream.retry import Deadline
from docdb_stream.run import RunResult
from docdb_stream.settings import Settings
from docdb_stream.stores.mongodb import MongoCheckpointStore

pytestmark = pytest.mark.integration

Client = MongoClient[dict[str, Any]]
Place = Callable[..., DocumentDB]


@pytest.fixture
def documentdb(replica_set: ReplicaSet) -> Iterator[Place]:
    """Makes stand-ins before the suite's replica set."""
    started: list[DocumentDB] = []

    def make(**options: Any) -> DocumentDB:
        started.append(DocumentDB(replica_set.members[0], **options).__enter__())
        return started[-1]

    yield make
    for each in started:
        each.__exit__()


@contextmanager
def store_of(settings: Settings) -> Iterator[MongoCheckpointStore]:
    with Connection(settings) as connection:
        yield MongoCheckpointStore(settings, connection)


def operation_time_of(settings: Settings) -> Timestamp:
    with store_of(settings) as store:
        checkpoint = store.load(settings.stream_name)
    assert checkpoint is not None
    assert checkpoint.position is not None
    assert checkpoint.position.operation_time is not None
    return checkpoint.position.operation_time


@contextmanager
def following(settings: Settings, target: ListTarget) -> Iterator[None]:
    """A run that goes on in a thread within the block, and has to end well after it."""
    limit, outcome = Deadline.after(60), []

    def work() -> None:
        try:
            outcome.append(run(settings, target, limit=limit, follow=True))
        except BaseException as error:
            outcome.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        yield
    finally:
        limit.stop.set()
        thread.join(40)
    assert [type(each) for each in outcome] == [RunResult], outcome


# The stand-in itself: a test that passes because a manner was not there proves nothing


def test_the_stand_in_refuses_what_documentdb_refuses(documentdb: Place, db_name: str) -> None:
    with MongoClient[dict[str, Any]](documentdb().uri, retryWrites=True) as client:
        with pytest.raises(OperationFailure) as refused:
            client[db_name].orders.insert_one({})
        assert refused.value.code == 301
        unretried = client[db_name].with_options()
        for update in ([{"$set": {"a": 1}}],):
            with pytest.raises(OperationFailure, match="pipeline"):
                unretried.command("update", "orders", updates=[{"q": {}, "u": update}])
        for stages, code in (
            ([{"$changeStream": {"startAfter": {"_data": "01"}}}], 40415),
            ([{"$changeStream": {"resumeAfter": None}}], 14),
            ([{"$changeStream": {"resumeAfter": {"_data": "8263"}}}], 9),
            ([{"$changeStream": {}}, {"$changeStreamSplitLargeEvent": {}}], 304),
        ):
            with pytest.raises(OperationFailure) as refused:
                unretried.command("aggregate", "orders", pipeline=stages, cursor={})
            assert refused.value.code == code
        reply = unretried.command("aggregate", "orders", pipeline=[{"$changeStream": {}}], cursor={})
        assert "postBatchResumeToken" not in reply["cursor"]


# What it lacks


@pytest.mark.parametrize("post_batch_tokens", [False, True])
def test_ten_thousand_pending_events_are_read_in_one_run_through_empty_batches(
    documentdb: Place, mongo: Client, db_name: str, post_batch_tokens: bool
) -> None:
    """The run that takes exactly 101 events for ever: an empty reply is no proof of being caught up."""
    place = documentdb(post_batch_tokens=post_batch_tokens, empty_batches=True)
    settings, target = stream(place.uri, db_name), ListTarget()
    run(settings, target)
    mongo[db_name].orders.insert_many([{"_id": number} for number in range(10_000)])

    some = run(settings.model_copy(update={"max_loop": 3}), target)
    assert (some.stopped_by, some.caught_up) == ("max-loop", False)
    rest = run(settings, target)

    assert (rest.stopped_by, rest.caught_up) == ("caught-up", True)
    assert target.ids == list(range(10_000))
    assert all(event.event_id.startswith("01") for event in target.events)


@pytest.mark.parametrize("post_batch_tokens", [False, True])
def test_an_idle_stream_keeps_its_checkpoint_moving(
    documentdb: Place, mongo: Client, db_name: str, post_batch_tokens: bool
) -> None:
    settings, target = stream(documentdb(post_batch_tokens=post_batch_tokens).uri, db_name), ListTarget()
    mongo[db_name].orders.insert_one({"_id": 0})
    run(settings, target)
    before = operation_time_of(settings)
    mongo[db_name].busy_elsewhere.insert_many([{} for _ in range(10)])
    latest = mongo.admin.command("ping")["operationTime"]

    result = run(settings, target)

    assert (result.events, result.caught_up) == (0, True)
    assert operation_time_of(settings) >= latest > before
    mongo[db_name].orders.insert_one({"_id": 1})
    run(settings, target)
    assert target.ids == [1]


def test_a_dropped_and_recreated_collection_goes_on_without_start_after(
    documentdb: Place, mongo: Client, db_name: str
) -> None:
    place = documentdb()
    settings, target = stream(place.uri, db_name), ListTarget()
    run(settings, target)
    orders = mongo[db_name].orders
    for number in (1, 2):
        orders.insert_one({"_id": number})
        orders.drop()
    orders.insert_one({"_id": 3})

    run(settings, target)

    assert target.operations == ["insert", "drop", "invalidate"] * 2 + ["insert"]
    assert target.ids == [1, 2, 3]


def test_an_updated_and_then_deleted_document_is_null_and_no_error(
    documentdb: Place, mongo: Client, db_name: str
) -> None:
    settings, target = stream(documentdb(post_batch_tokens=True).uri, db_name), ListTarget()
    run(settings, target)
    orders = mongo[db_name].orders
    orders.insert_one({"_id": 1})
    orders.update_one({"_id": 1}, {"$set": {"paid": True}})
    orders.delete_one({"_id": 1})

    run(settings, target)

    assert target.operations == ["insert", "update", "delete"]
    assert target.events[1].full_document is None


def test_an_update_too_large_to_send_whole_is_delivered_without_what_makes_it_so(
    documentdb: Place, replica_set: ReplicaSet, mongo: Client, db_name: str
) -> None:
    for number, uri in enumerate((replica_set.uri, documentdb().uri)):
        settings, target = stream(uri, f"{db_name}_{number}", batch_size=100), ListTarget()
        run(settings, target)
        orders = mongo[f"{db_name}_{number}"].orders
        orders.insert_one({"_id": 1})
        orders.update_one({"_id": 1}, {"$set": {"text": "x" * 9_000_000}})  # in the event twice
        orders.insert_one({"_id": 2})

        run(settings, target)

        assert target.ids == [1, 1, 2]
        large = target.events[1].document
        assert len(large["fullDocument"]["text"]) == 9_000_000
        assert "updateDescription" not in large


# History lost


@pytest.fixture
def lost(documentdb: Place, mongo: Client, db_name: str) -> tuple[DocumentDB, Settings]:
    """A stream whose position has left the change log, with an event in the gap and one after it."""
    place = documentdb(post_batch_tokens=True)
    settings = stream(place.uri, db_name)
    run(settings, ListTarget())
    mongo[db_name].orders.insert_one({"_id": "in the gap"})
    time.sleep(1.1)  # the log is cut between two seconds
    mongo[db_name].orders.insert_one({"_id": "after it"})
    now = mongo.admin.command("ping")["operationTime"]
    place.lost_before = Timestamp(now.time, 0)
    return place, settings


def test_a_lost_position_stops_the_stream_and_leaves_the_checkpoint(lost: tuple[DocumentDB, Settings]) -> None:
    _, settings = lost
    before = operation_time_of(settings)
    for _ in range(2):
        with pytest.raises(HistoryLostError) as error:
            run(settings, ListTarget())
        assert error.value.exit_code == 5
        assert "reset" in error.value.hint
    assert operation_time_of(settings) == before
    with store_of(settings) as store:
        (entry,) = store.ledger(settings.stream_name)
    assert (entry.kind, entry.after) == ("history-lost", None)
    assert entry.before is not None
    assert entry.before.operation_time == before


@pytest.mark.parametrize(("choice", "delivered"), [("now", []), ("earliest", ["after it"])])
def test_a_lost_position_is_gone_past_when_told_so(
    lost: tuple[DocumentDB, Settings], mongo: Client, choice: str, delivered: list[str]
) -> None:
    _, settings = lost
    target = ListTarget()
    going_on = settings.model_copy(update={"on_history_lost": choice})
    run(going_on, target)
    mongo[str(settings.watched_db_name)].orders.insert_one({"_id": "later"})
    run(going_on, target)
    assert target.ids == [*delivered, "later"]
    with store_of(settings) as store:
        (entry,) = store.ledger(settings.stream_name)
    assert entry.kind == "history-lost"
    assert entry.after is not None


def test_a_token_of_another_product_is_a_lost_position(documentdb: Place, mongo: Client, db_name: str) -> None:
    settings = stream(documentdb().uri, db_name)
    run(settings, ListTarget())
    state = mongo[settings.state_db][settings.state_collection]
    foreign = {"token": {"_data": "8263" + "0" * 60}}
    state.update_one({"_id": settings.stream_name}, {"$set": {"position": foreign}})

    with pytest.raises(HistoryLostError) as error:
        run(settings, ListTarget())

    assert error.value.exit_code == 5
    assert state.find_one({"_id": settings.stream_name})["position"] == foreign  # type: ignore[index]


# Change streams that are not there


def test_an_elastic_cluster_says_that_it_has_no_change_streams(documentdb: Place, db_name: str) -> None:
    with pytest.raises(SourceUnavailableError, match="no change streams") as error:
        run(stream(documentdb(elastic=True).uri, db_name), ListTarget())
    assert "elastic" in error.value.hint


def test_change_streams_that_are_not_enabled_are_not_taken_for_a_lost_position(documentdb: Place, db_name: str) -> None:
    """DocumentDB uses code 136 for both."""
    place = documentdb(enabled=False, not_enabled="error")
    settings = stream(place.uri, db_name)
    with pytest.raises(SourceUnavailableError) as error:
        run(settings, ListTarget())
    assert "modifyChangeStreams" in error.value.hint
    with store_of(settings) as store:
        assert not store.ledger()


def test_doctor_finds_change_streams_that_are_silently_not_enabled(
    documentdb: Place, mongo: Client, db_name: str
) -> None:
    place = documentdb(enabled=False, post_batch_tokens=True)
    settings = stream(place.uri, db_name, stdout=True)
    mongo[db_name].orders.insert_one({})
    target = ListTarget()
    assert run(settings, target).caught_up  # it looks healthy
    (problem,) = (error for _, error in checks(settings) if error is not None)
    assert problem.exit_code == 3
    assert "modifyChangeStreams" in problem.hint

    with MongoClient[dict[str, Any]](place.uri) as client:
        client.admin.command("modifyChangeStreams", 1, database=db_name, collection="", enable=True)
    assert not [error for _, error in checks(settings) if error is not None]
    mongo[db_name].orders.insert_one({"_id": 2})
    run(settings, target)
    assert target.ids == [2]


# Interruptions: resumed within the run, so that nothing comes twice


@pytest.mark.parametrize(
    "interrupt",
    [
        pytest.param(lambda place: place.drop_connections(), id="connections"),
        pytest.param(lambda place: place.fail_next("getMore", 10107, "not primary"), id="NotWritablePrimary"),
        pytest.param(lambda place: place.fail_next("getMore", 11602, "interrupted"), id="InterruptedDueToStateChange"),
        pytest.param(lambda place: place.fail_next("getMore", 43, "cursor id 7 not found"), id="CursorNotFound"),
        pytest.param(lambda place: place.fail_next("aggregate", 91, "shutting down", times=2), id="Shutdown"),
    ],
)
def test_an_interruption_is_gone_over_within_the_run(
    documentdb: Place, mongo: Client, db_name: str, interrupt: Callable[[DocumentDB], None]
) -> None:
    place = documentdb()
    settings, target = stream(place.uri, db_name), ListTarget()
    orders = mongo[db_name].orders
    with following(settings, target):
        wait_for(lambda: "getMore" in place.commands, "the stream is open")
        for start in (0, 100, 200):
            orders.insert_many([{"_id": number} for number in range(start, start + 100)])
            wait_for(lambda start=start: len(target.events) >= start + 100, "events")  # type: ignore[misc]
            interrupt(place)
            if place.has_failures_left and "aggregate" in str(place._failures):
                place.drop_connections()
    assert target.ids == list(range(300))


def test_a_server_that_hangs_for_a_while_is_waited_for(documentdb: Place, mongo: Client, db_name: str) -> None:
    place = documentdb()
    settings, target = stream(place.uri, db_name, lease_seconds=10), ListTarget()
    with following(settings, target):
        wait_for(lambda: "getMore" in place.commands, "the stream is open")
        place.hang()
        mongo[db_name].orders.insert_many([{"_id": number} for number in range(100)])
        time.sleep(1)
        place.go_on()
        wait_for(lambda: len(target.events) == 100, "events")
    assert target.ids == list(range(100))


# One at a time


def test_of_two_pollers_one_works_and_the_other_leaves_without_side_effects(
    documentdb: Place, mongo: Client, db_name: str
) -> None:
    place = documentdb()
    settings, target, second = stream(place.uri, db_name), ListTarget(), ListTarget()
    with following(settings, target):
        wait_for(lambda: "getMore" in place.commands, "the first is at work")
        mongo[db_name].orders.insert_one({"_id": 1})
        state = mongo[settings.state_db][settings.state_collection]
        epoch = state.find_one({"_id": settings.stream_name})["epoch"]  # type: ignore[index]
        with pytest.raises(LeaseHeldError) as error:
            run(settings, second)
        assert error.value.exit_code == 6
        assert state.find_one({"_id": settings.stream_name})["epoch"] == epoch  # type: ignore[index]
        wait_for(lambda: target.ids == [1], "the event at the first")
    assert not second.events


def test_a_holder_paused_past_its_lease_saves_nothing_and_leaves(
    documentdb: Place, mongo: Client, db_name: str, tmp_path: Path
) -> None:
    place = documentdb(post_batch_tokens=True)
    settings, target = stream(place.uri, db_name, lease_seconds=1.5), ListTarget()
    file = tmp_path / "events.jsonl"
    written = settings.model_dump(exclude_defaults=True)
    state = mongo[settings.state_db][settings.state_collection]

    def checkpoint() -> dict[str, Any]:
        return state.find_one({"_id": settings.stream_name}) or {}

    with PollerProcess({**written, "file_path": file}, {}) as paused:
        paused.start("--follow")
        wait_for(lambda: "position" in checkpoint(), "the first is at work")
        mongo[db_name].orders.insert_one({"_id": 1})
        wait_for(lambda: file.exists() and file.read_bytes(), "the event in the file")
        paused.freeze()
        mongo[db_name].orders.insert_one({"_id": 2})
        held = checkpoint()

        def taken_over() -> bool:
            try:
                run(settings, target)
            except LeaseHeldError:
                return False
            return True

        wait_for(taken_over, "the lease has run out")
        assert 2 in target.ids
        after = checkpoint()
        assert after["epoch"] == held["epoch"] + 1
        paused.thaw()
        wait_for(lambda: paused.exit_status is not None, "the paused one has left")
        assert paused.exit_status == 6, paused.log_tail()
    assert checkpoint() == after
    assert b'"_id":2' not in file.read_bytes()
