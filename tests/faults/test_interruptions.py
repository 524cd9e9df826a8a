"""Interruptions and competitors: resumed within the run so that nothing comes twice, and one poller at a time."""

from __future__ import annotations

import contextlib
import datetime as dt
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from faults.polling import Client, ListTarget, Place, following, run, stream, wait_for
from faults.standin import DocumentDB

from docdb_stream.context import Deadline
from docdb_stream.errors import LeaseHeldError, SourceUnavailableError
from docdb_stream.local.demo.poller import PollerProcess
from docdb_stream.mongodb import connection, source
from docdb_stream.poller import Poller
from docdb_stream.result import RunResult

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


def test_a_cluster_that_is_away_for_longer_than_the_lease_is_waited_for(
    documentdb: Place, mongo: Client, db_name: str
) -> None:
    """Nobody can have taken the lease meanwhile: the run takes it again and goes on, so nothing comes twice."""
    place = documentdb()
    settings, target = stream(place.uri, db_name, lease_seconds=1.5, state_sync_count=1000), ListTarget()
    state, orders = mongo[settings.state_db][settings.state_collection], mongo[db_name].orders
    with following(settings, target):
        wait_for(lambda: "getMore" in place.commands, "the stream is open")
        orders.insert_many([{"_id": number} for number in range(50)])
        wait_for(lambda: len(target.events) == 50, "events before")
        place.hang()
        expired = state.find_one({"_id": settings.stream_name})
        assert expired is not None
        wait_for(lambda: now(mongo) > expired["lease"]["expires_at"] + dt.timedelta(seconds=0.5), "the lease ran out")
        place.go_on()
        orders.insert_many([{"_id": number} for number in range(50, 100)])
        wait_for(lambda: len(target.events) >= 100, "events after", timeout_s=40)
        taken = state.find_one({"_id": settings.stream_name})
        assert taken is not None
        assert taken["epoch"] == expired["epoch"] + 1
    assert target.ids == list(range(100))


def now(mongo: Client) -> dt.datetime:
    """The server's time."""
    found: dt.datetime = mongo.admin.command("hello")["localTime"]
    return found


def test_a_log_that_takes_longer_than_the_socket_time_out_to_go_through(
    documentdb: Place, mongo: Client, db_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A quiet collection in a busy cluster: the server looks through all of the log for its next event, in one call."""
    monkeypatch.setattr(connection, "MIN_SOCKET_TIMEOUT_MS", 1)
    place = documentdb(post_batch_tokens=True)
    settings, target = stream(f"{place.uri}&socketTimeoutMS=1200", db_name), ListTarget()
    run(settings, target)
    mongo[db_name].orders.insert_one({"_id": 1})
    place.slow_s["aggregate"] = 3.0
    assert run(settings, target).caught_up
    assert target.ids == [1]


def test_a_stream_that_is_not_open_when_the_time_is_over_says_what_to_do(
    documentdb: Place, mongo: Client, db_name: str
) -> None:
    place = documentdb(post_batch_tokens=True)
    settings, target = stream(place.uri, db_name), ListTarget()
    run(settings, target)
    mongo[db_name].orders.insert_one({"_id": 1})
    place.slow_s["aggregate"] = 60.0
    with pytest.raises(SourceUnavailableError, match="had not opened the stream") as told:
        run(settings, target, limit=Deadline.after(3))
    assert "raise the timeout" in told.value.hint
    place.slow_s.clear()
    run(settings, target)
    assert target.ids == [1]


def test_a_stream_whose_opening_is_cut_off_again_and_again_says_what_to_do(
    documentdb: Place, mongo: Client, db_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source, "SLOW_OPEN_S", 0.5)
    place = documentdb(post_batch_tokens=True)
    settings, target = stream(place.uri, db_name), ListTarget()
    run(settings, target)
    place.fail_next("aggregate", 50, "operation exceeded time limit", times=1_000)
    with pytest.raises(SourceUnavailableError) as told:
        run(settings, target, limit=Deadline(patience_s=2))
    assert "raise the timeout" in told.value.hint


@pytest.mark.parametrize("within", [True, False])
def test_a_reader_that_is_answered_late_disturbs_no_later_run(
    documentdb: Place, mongo: Client, db_name: str, within: bool
) -> None:
    """A poller that is kept, as in a warm Lambda: its first run ends while the server is silent."""
    place = documentdb(post_batch_tokens=True)
    settings, target = stream(place.uri, db_name, batch_size=10, read_ahead_bytes=2**20), ListTarget()
    poller = Poller.from_settings(settings, [target])
    poller.run()
    mongo[db_name].orders.insert_many([{"_id": number, "pad": "x" * 20_000} for number in range(300)])
    place.slow_s["getMore"] = 4.0
    first = poller.run(limit=Deadline.after(2))
    assert (first.stopped_by, first.caught_up) == ("deadline", False)
    place.slow_s.clear()
    readers = [each for each in threading.enumerate() if each.name == "reader"]
    assert readers, "it waits for its answer still"

    def let_it_come(result: RunResult) -> None:
        for each in readers:
            each.join(30)

    second = poller.run(progress=let_it_come if within else None)
    let_it_come(second)
    assert poller.run().caught_up
    poller.close()
    assert target.ids == list(range(300))


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
