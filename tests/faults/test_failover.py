"""Elections, lost primaries and lost secondaries while a stream is read: gone over within the run, with nothing lost or
repeated. And secondaries that are behind."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest
from faults.polling import ListTarget, run, stream, wait_for
from pymongo import MongoClient, WriteConcern
from pymongo.errors import DuplicateKeyError, PyMongoError
from pymongo.monitoring import CommandListener

from docdb_stream.admin.doctor import checks
from docdb_stream.context import Deadline
from docdb_stream.local import Mongod, ReplicaSet
from docdb_stream.mongodb import change_stream, connection, readahead
from docdb_stream.poller import Poller
from docdb_stream.result import RunResult
from docdb_stream.settings import Settings

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def three() -> Iterator[ReplicaSet]:
    with ReplicaSet(nodes=3) as started:
        yield started


class Writer:
    """Inserts 0, 1, 2, ... until told to stop; each exactly once, whatever happens to the primary."""

    def __init__(self, client: MongoClient[dict[str, Any]], db: str) -> None:
        journaled = WriteConcern(w="majority", j=True)
        self._orders = client[db].get_collection("orders", write_concern=journaled)
        self.done = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._write, daemon=True)

    def _write(self) -> None:
        while not self._stop.is_set():
            try:
                self._orders.insert_one({"_id": self.done})
            except DuplicateKeyError:
                pass  # an earlier attempt had succeeded
            except PyMongoError:
                continue
            self.done += 1

    def __enter__(self) -> Writer:
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stop.set()
        self._thread.join(30)
        assert not self._thread.is_alive()


def step_down(replica_set: ReplicaSet) -> None:
    replica_set.step_down()


def kill_primary(replica_set: ReplicaSet) -> None:
    gone = replica_set.primary()
    gone.kill()
    wait_for(lambda: replica_set.primary() is not gone, "another primary")
    gone.restart()


def pause_primary(replica_set: ReplicaSet) -> None:
    """It does not answer and does not hang up either; its successor is elected meanwhile."""
    gone: Mongod = replica_set.primary()
    gone.pause()
    try:
        wait_for(lambda: replica_set.primary() is not gone, "another primary")
    finally:
        gone.resume()


@pytest.mark.parametrize("happens", [step_down, kill_primary, pause_primary])
def test_a_change_of_primary_is_gone_over_within_the_run(three: ReplicaSet, db_name: str, happens: Any) -> None:
    settings, target = stream(three.uri, db_name, lease_seconds=20), ListTarget()
    limit = Deadline.after(60)
    results: list[Any] = []

    def follow() -> None:
        try:
            results.append(run(settings, target, limit=limit, follow=True))
        except BaseException as error:
            results.append(error)

    with three.client(socketTimeoutMS=2000) as client:
        thread = threading.Thread(target=follow, daemon=True)
        thread.start()
        state = client[settings.state_db][settings.state_collection]
        wait_for(lambda: (state.find_one() or {}).get("position"), "the run has begun")
        with Writer(client, db_name) as writer:
            wait_for(lambda: len(target.events) > 50, "events before")
            happens(three)
            now = writer.done
            wait_for(lambda: len(target.events) > now + 50, "events after", timeout_s=40)
        wait_for(lambda: len(target.events) >= writer.done, "all events", timeout_s=40)
        limit.stop.set()
        thread.join(30)
    assert target.ids == list(range(writer.done))
    assert [getattr(result, "stopped_by", result) for result in results] == ["signal"]


class Asked(CommandListener):
    """Which member was asked what: commands by port, reading the stream apart from all others."""

    def __init__(self) -> None:
        self.reading: list[int] = []
        self.others: set[int] = set()

    def started(self, event: Any) -> None:
        port = event.connection_id[1]
        stream = event.command_name == "getMore" or "$changeStream" in (event.command.get("pipeline") or [{}])[0]
        if stream:
            self.reading.append(port)
        elif event.command_name in ("find", "update", "insert", "delete"):
            self.others.add(port)

    def succeeded(self, event: Any) -> None: ...
    def failed(self, event: Any) -> None: ...


def read_where_it_says(settings: Settings, target: ListTarget, asked: Asked, **arguments: Any) -> RunResult:
    options: dict[str, Any] = {"server_selector": connection._same_server, "serverSelectionTimeoutMS": 2000}
    client: MongoClient[dict[str, Any]] = MongoClient(
        settings.documentdb_uri, event_listeners=[asked], retryWrites=False, **options
    )
    with connection.Connection(settings, client) as connected:
        poller = Poller.from_settings(settings, targets=[target], connection=connected)
        try:
            return poller.run(**arguments)
        finally:
            poller.close()


def test_a_stream_is_read_from_a_secondary_and_goes_on_at_another_when_that_is_lost(
    three: ReplicaSet, db_name: str
) -> None:
    settings = stream(f"{three.uri}&readPreference=secondary", db_name, lease_seconds=20)
    target, asked, limit = ListTarget(), Asked(), Deadline.after(60)
    results: list[Any] = []

    def follow() -> None:
        try:
            results.append(read_where_it_says(settings, target, asked, limit=limit, follow=True))
        except BaseException as error:
            results.append(error)

    primary = wait_for(lambda: len(three.secondaries()) == 2 and three.primary(), "all members")
    with three.client(w="majority") as client:
        thread = threading.Thread(target=follow, daemon=True)
        thread.start()
        state = client[settings.state_db][settings.state_collection]
        wait_for(lambda: (state.find_one() or {}).get("position"), "the run has begun")
        orders = client[db_name].orders
        orders.insert_one({"_id": 0})
        wait_for(lambda: target.ids == [0], "the first event")
        [port] = set(asked.reading)
        assert port != primary.port
        gone = next(member for member in three.members if member.port == port)
        gone.kill()
        try:
            orders.insert_one({"_id": 1})
            wait_for(lambda: target.ids == [0, 1], "the next event, from another member", timeout_s=40)
        finally:
            gone.restart()
        orders.insert_one({"_id": 2})
        wait_for(lambda: target.ids == [0, 1, 2], "the last event")
        limit.stop.set()
        thread.join(30)
    assert [getattr(result, "stopped_by", result) for result in results] == ["signal"]
    assert primary.port not in asked.reading
    assert asked.others == {primary.port}, "the state is the primary's"
    assert "where the stream is read" in [found.what for found in checks(settings) if found.error is None]


def test_a_secondary_that_is_behind_is_not_taken_for_caught_up(
    three: ReplicaSet, db_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It answers, and has nothing to say."""
    monkeypatch.setattr(readahead, "READ_WAIT_S", 0.1)
    monkeypatch.setattr(change_stream, "QUIET_WAIT_S", 0.05)
    settings = stream(f"{three.uri}&readPreference=secondary", db_name)
    target, asked = ListTarget(), Asked()
    wait_for(lambda: len(three.secondaries()) == 2 and three.primary(), "all members")
    assert read_where_it_says(settings, target, asked).caught_up
    behind = next(member for member in three.members if member.port == asked.reading[-1])
    with three.client(w="majority") as client, behind.client() as locked:
        locked.admin.command("fsync", lock=True)  # it replicates no more
        try:
            client[db_name].orders.insert_one({"_id": 1})
            result = read_where_it_says(settings, target, asked, limit=Deadline.after(2.5))
            assert (target.ids, result.caught_up, result.stopped_by) == ([], False, "deadline")
            assert asked.reading[-1] == behind.port
        finally:
            locked.admin.command("fsyncUnlock")
    assert read_where_it_says(settings, target, asked).caught_up
    assert target.ids == [1]
