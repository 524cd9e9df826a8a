"""Positions that are no longer in the change log: the stream stops, the ledger tells, an operator decides."""

from __future__ import annotations

import time

import pytest
from bson import Timestamp
from faults.polling import Client, ListTarget, Place, operation_time_of, run, store_of, stream
from faults.standin import DocumentDB

from docdb_stream.errors import HistoryLostError
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
