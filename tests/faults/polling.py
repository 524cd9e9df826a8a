"""What the fault tests share: streams whose events end up in a list, and waiting with a deadline."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from bson import Timestamp
from faults.standin import DocumentDB
from pymongo import MongoClient

from docdb_stream.context import Deadline
from docdb_stream.mongodb.connection import Connection
from docdb_stream.poller import Poller
from docdb_stream.result import RunResult
from docdb_stream.settings import Settings
from docdb_stream.stores.mongodb import MongoCheckpointStore
from docdb_stream.testing.targets import ListTarget

T = TypeVar("T")
Client = MongoClient[dict[str, Any]]
Place = Callable[..., DocumentDB]
"""Makes a stand-in; the fixture ``documentdb``."""

RUN_LIMIT_S = 30.0


def stream(uri: str, db: str, coll: str | None = "orders", **settings: Any) -> Settings:
    """Settings of a stream over one test's database; its state is beside it."""
    return Settings(
        documentdb_uri=uri,
        watched_db_name=db,
        watched_collection_name=coll,
        state_db=f"{db}_state",
        **{"lease_seconds": 3, "max_loop": 0, **settings},
    )


def run(settings: Settings, target: ListTarget, *, limit: Deadline | None = None, follow: bool = False) -> RunResult:
    """One run, as a fresh process would make it."""
    poller = Poller.from_settings(settings, targets=[target])
    try:
        return poller.run(limit=limit or Deadline.after(RUN_LIMIT_S), follow=follow)
    finally:
        poller.close()


def wait_for(condition: Callable[[], T], what: str, timeout_s: float = 15.0) -> T:
    """Ask until the answer is true."""
    deadline_s = time.monotonic() + timeout_s
    while not (answer := condition()):
        assert time.monotonic() < deadline_s, f"waited {timeout_s:.0f} s in vain for {what}"
        time.sleep(0.02)
    return answer


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
