"""Elections and lost primaries while a stream is read: gone over within the run, with nothing lost or repeated."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest
from faults.polling import ListTarget, run, stream, wait_for
from pymongo import MongoClient, WriteConcern
from pymongo.errors import DuplicateKeyError, PyMongoError

from docdb_stream.context import Deadline
from docdb_stream.local import Mongod, ReplicaSet

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
