"""Positions that are no longer in the change log: the stream stops, the ledger tells, an operator decides."""

from __future__ import annotations

import datetime as dt
import time

import pytest
from bson import Timestamp
from faults.polling import Client, ListTarget, Place, operation_time_of, run, store_of, stream, wait_for
from faults.standin import DocumentDB

from docdb_stream.admin.reset import reset
from docdb_stream.errors import HistoryLostError
from docdb_stream.events import Position
from docdb_stream.settings import Settings

pytestmark = pytest.mark.integration


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


@pytest.fixture(params=["at the beginning of a second", "within a second"])
def rolled(
    request: pytest.FixtureRequest, documentdb: Place, mongo: Client, db_name: str
) -> tuple[DocumentDB, Settings]:
    """A log that rolled over, with an event that is lost, and three in it from the next second on."""
    place = documentdb(post_batch_tokens=True)
    orders = mongo[db_name].orders
    orders.insert_one({"_id": "lost"})

    def now() -> Timestamp:
        found: Timestamp = mongo.admin.command("ping")["operationTime"]
        return found

    first = now()
    wait_for(lambda: orders.database.tick.insert_one({}) and now().time > first.time, "the next second")
    begins = now().time
    place.lost_before = Timestamp(begins, 1) if "beginning" in request.param else Timestamp(begins - 1, 4_000)
    wait_for(lambda: orders.database.tick.insert_one({}) and now().time > begins, "the second after it")
    orders.insert_many([{"_id": number} for number in range(3)])
    return place, stream(place.uri, db_name)


def test_a_stream_can_start_at_the_earliest_of_a_log_that_rolled_over(rolled: tuple[DocumentDB, Settings]) -> None:
    _, settings = rolled
    target = ListTarget()
    assert run(settings.model_copy(update={"start_at": "earliest"}), target).caught_up
    assert target.ids == [0, 1, 2]


def test_reset_to_the_earliest_of_a_log_that_rolled_over(rolled: tuple[DocumentDB, Settings]) -> None:
    _, settings = rolled
    target = ListTarget()
    reset(settings, to="earliest")
    assert run(settings, target).caught_up
    assert target.ids == [0, 1, 2]


def test_a_lost_position_goes_on_at_the_earliest_of_a_log_that_rolled_over(rolled: tuple[DocumentDB, Settings]) -> None:
    place, settings = rolled
    target = ListTarget()
    reset_to_lost, place.lost_before = place.lost_before, None
    reset(settings, to="earliest")
    place.lost_before = reset_to_lost
    assert run(settings.model_copy(update={"on_history_lost": "earliest"}), target).caught_up
    assert target.ids == [0, 1, 2]


def test_a_position_is_not_lost_while_all_that_follows_it_is_there(
    documentdb: Place, mongo: Client, db_name: str
) -> None:
    place = documentdb(post_batch_tokens=True)
    settings, target = stream(place.uri, db_name), ListTarget()
    moment = mongo.admin.command("ping")["operationTime"]
    mongo[db_name].orders.insert_one({"_id": 1})
    with store_of(settings) as store:
        lease = store.acquire(settings.stream_name, settings.scope, "test", 10)
        store.save(lease, Position(operation_time=moment))
        store.release(lease)
    place.lost_before = Timestamp(moment.time, moment.inc + 1)
    run(settings, target)
    assert target.ids == [1]


@pytest.mark.parametrize("start_at", [dt.datetime(2020, 1, 1, tzinfo=dt.UTC)])
def test_a_first_position_that_is_lost_is_not_saved(lost: tuple[DocumentDB, Settings], start_at: dt.datetime) -> None:
    _, settings = lost
    fresh = settings.model_copy(update={"start_at": start_at, "state_collection": "fresh"})
    with pytest.raises(HistoryLostError):
        run(fresh, ListTarget())
    with store_of(fresh) as store:
        checkpoint = store.load(fresh.stream_name)
    assert checkpoint is not None
    assert checkpoint.position is None


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
