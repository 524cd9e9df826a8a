"""Interruptions and competitors: resumed within the run so that nothing comes twice, and one poller at a time."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from faults.polling import Client, ListTarget, Place, following, run, stream, wait_for
from faults.standin import DocumentDB

from docdb_stream.errors import LeaseHeldError
from docdb_stream.local.demo.poller import PollerProcess

pytestmark = pytest.mark.integration


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
        paused.start("--follow", "--give-up-after", "0")
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


def test_a_follower_paused_past_its_lease_goes_on_once_it_is_free(
    documentdb: Place, mongo: Client, db_name: str, tmp_path: Path
) -> None:
    place = documentdb(post_batch_tokens=True)
    settings, target = stream(place.uri, db_name, lease_seconds=1.5), ListTarget()
    file = tmp_path / "events.jsonl"
    state = mongo[settings.state_db][settings.state_collection]
    written = settings.model_dump(exclude_defaults=True)

    def epoch() -> int:
        return int((state.find_one({"_id": settings.stream_name}) or {}).get("epoch", 0))

    with PollerProcess({**written, "file_path": file}, {}) as paused:
        paused.start("--follow")
        mongo[db_name].orders.insert_one({"_id": 1})
        wait_for(lambda: (state.find_one() or {}).get("position"), "the first is at work")
        paused.freeze()
        before = epoch()

        def taken_over() -> bool:
            with contextlib.suppress(LeaseHeldError):
                run(settings, target)
            return epoch() > before

        wait_for(taken_over, "the lease has run out")
        paused.thaw()
        wait_for(lambda: epoch() > before + 1, "the paused one has the lease again")
        mongo[db_name].orders.insert_one({"_id": 2})
        wait_for(lambda: file.exists() and b'"_id":2' in file.read_bytes(), "it delivers")
        assert paused.exit_status is None
        assert paused.terminate(30) == 0
