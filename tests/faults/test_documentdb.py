"""Streams on the DocumentDB stand-in: what it lacks, and what must come of that."""

from __future__ import annotations

from typing import Any

import pytest
from faults.polling import Client, ListTarget, Place, operation_time_of, run, store_of, stream
from pymongo import MongoClient
from pymongo.errors import OperationFailure

from docdb_stream.admin.doctor import checks
from docdb_stream.errors import ConfigError, SourceUnavailableError
from docdb_stream.local import ReplicaSet

pytestmark = pytest.mark.integration


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


@pytest.mark.parametrize("post_batch_tokens", [False, True])
@pytest.mark.parametrize("filter_at", ["auto", "server"])
def test_a_filtered_stream_moves_on_whoever_filters(
    documentdb: Place, mongo: Client, db_name: str, post_batch_tokens: bool, filter_at: str
) -> None:
    """Without post-batch tokens the server is not asked to: it would keep the position where it is."""
    place = documentdb(post_batch_tokens=post_batch_tokens)
    rules = {"namespaces": f"{db_name}.orders", "operations": "insert", "filter_at": filter_at}
    settings, target = stream(place.uri, db_name, None, **rules), ListTarget()
    run(settings, target)
    began = operation_time_of(settings)
    mongo[db_name].other.insert_many([{"_id": number} for number in range(200)])
    mongo[db_name].orders.insert_one({"_id": 1})
    mongo[db_name].orders.delete_one({"_id": 1})
    result = run(settings, target)
    assert (target.ids, result.caught_up) == ([1], True)
    by_server = {"auto": ["namespaces"], "server": ["namespaces", "operations"]}[filter_at]
    assert result.filtered_on_server == (by_server if post_batch_tokens else [])
    if not post_batch_tokens:
        assert result.filtered_by == {"namespaces": 200, "operations": 1}
    assert operation_time_of(settings) > began
    told = [found.error for found in checks(settings) if found.what == "who leaves events out"]
    assert [each is None for each in told] == [post_batch_tokens or filter_at == "auto"]


@pytest.mark.parametrize(
    "values", [{"full_document": "required"}, {"full_document_before_change": "when_available"}], ids=repr
)
def test_pre_and_post_images_are_refused_with_what_to_set_instead(
    documentdb: Place, db_name: str, values: dict[str, str]
) -> None:
    settings = stream(documentdb().uri, db_name, **values)
    with pytest.raises(ConfigError, match="no pre- and post-images") as caught:
        run(settings, ListTarget())
    assert "update_lookup" in caught.value.hint


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


def test_an_update_too_large_to_send_whole_is_read_in_parts(
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
        assert len(large["updateDescription"]["updatedFields"]["text"]) == 9_000_000


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
