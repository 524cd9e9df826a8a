"""A snapshot beside writers at full speed: in the end a log makes up what there is, and nothing in it goes back."""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from faults.standin import DocumentDB
from pymongo import MongoClient

from docdb_stream.events import ChangeEvent
from docdb_stream.local import ReplicaSet
from docdb_stream.poller import Poller
from docdb_stream.settings import Settings

pytestmark = pytest.mark.integration

Mongo = MongoClient[dict[str, Any]]
HELD, KEYS = 1_200, 1_500
"""Documents from before the stream, and keys that are written to."""
WRITERS = 3


class Log:
    """Keeps what each event says of its document."""

    name = "log"

    def __init__(self) -> None:
        self.held: list[tuple[str, Any, int | None, str | None]] = []
        self.durable: list[tuple[str, Any, int | None, str | None]] = []

    def write(self, events: Sequence[ChangeEvent]) -> Sequence[Any]:
        for event in events:
            version = (event.full_document or {}).get("v")
            self.held.append((event.operation, (event.document_key or {}).get("_id"), version, event.snapshot_id))
        return ()

    def flush(self) -> Sequence[Any]:
        self.durable += self.held
        self.held = []
        return ()

    def close(self) -> None:
        self.held = []


class Writers:
    """Each writes versions that grow, of keys of its own. A context manager."""

    def __init__(self, mongo: Mongo, collection: Any, seed: int) -> None:
        self._mongo, self._collection, self._seed = mongo, collection, seed
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._write, args=(number,), daemon=True) for number in range(WRITERS)]

    def __enter__(self) -> None:
        for thread in self._threads:
            thread.start()

    def __exit__(self, *exc_info: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(60)

    def _write(self, number: int) -> None:
        chance, version = random.Random(self._seed + number), 0
        while not self._stop.is_set():
            key, version = _key(chance.randrange(number, KEYS, WRITERS)), version + 1
            kind = chance.random()
            if kind < 0.15:
                self._collection.delete_one({"_id": key})
            elif kind < 0.3:
                with self._mongo.start_session() as session, session.start_transaction():
                    self._collection.replace_one({"_id": key}, {"v": version}, upsert=True, session=session)
            elif kind < 0.6:
                self._collection.update_one({"_id": key}, {"$set": {"v": version}}, upsert=True)
            else:
                self._collection.replace_one({"_id": key}, {"v": version}, upsert=True)


def _key(number: int) -> int | str:
    return number if number % 3 else str(number)


@pytest.fixture(params=["MongoDB", "DocumentDB with post-batch tokens", "DocumentDB"])
def uri(request: pytest.FixtureRequest, replica_set: ReplicaSet) -> Iterator[str]:
    if request.param == "MongoDB":
        yield replica_set.uri
        return
    with DocumentDB(replica_set.members[0], post_batch_tokens="tokens" in request.param) as standin:
        yield standin.uri


@pytest.mark.parametrize("ranges", [1, 3])
def test_a_log_makes_up_what_there_is(uri: str, mongo: Mongo, db_name: str, ranges: int) -> None:
    collection = mongo[db_name].orders
    collection.insert_many([{"_id": _key(number), "v": 0} for number in range(HELD)])
    settings = Settings(
        documentdb_uri=uri,
        watched_db_name=db_name,
        watched_collection_name="orders",
        state_db=f"{db_name}_state",
        start_at="snapshot",
        batch_size=100,
        max_loop=5,
        state_sync_count=2,
        snapshot_ranges=ranges,
    )
    log = Log()

    def run() -> bool:
        with Poller.from_settings(settings, [log]) as poller:
            result = poller.run()
        return result.caught_up and result.snapshot is None

    with Writers(mongo, collection, seed=ranges):
        for _ in range(6):
            run()
    while not run():
        pass

    state: dict[Any, int] = {}
    snapshots, went_back = Counter[Any](), 0
    for operation, key, version, snapshot in log.durable:
        snapshots[key] += snapshot is not None
        if operation == "delete":
            state.pop(key, None)
        elif version is not None:
            went_back += version < state.get(key, 0)
            state[key] = version
    assert went_back == 0
    assert state == {each["_id"]: each["v"] for each in collection.find()}
    assert sum(snapshots.values()) > HELD / 2
    assert max(snapshots.values()) == 1
