"""What the MongoDB store does, without a server: the contract on a fake, and the stored format.

The contract on the real server is in tests/contract/test_mongodb_store.
"""

from __future__ import annotations

import datetime as dt
import threading
import time
from types import SimpleNamespace
from typing import Any

import mongomock
import pytest
from bson import Int64, Timestamp
from pymongo.errors import AutoReconnect, OperationFailure

from docdb_stream import retry
from docdb_stream.checkpoint import FORMAT_VERSION, Checkpoint, CheckpointStore, Lease
from docdb_stream.connection import Connection
from docdb_stream.errors import ConfigError, StateStoreError
from docdb_stream.events import Namespace, Position, ResumeToken
from docdb_stream.retry import Deadline, deadline
from docdb_stream.settings import Settings
from docdb_stream.stores import mongodb
from docdb_stream.stores.mongodb import MongoCheckpointStore, checkpoint_from_document, position_document
from docdb_stream.testing.store_contract import POSITIONS, CheckpointStoreContract

SETTINGS = Settings(documentdb_uri="mongodb://127.0.0.1:1/?replicaSet=rs0", state_db="sync", state_collection="state")
HEX = "8269A2B3C4000000012B022C0100296E5A1004A0B1C2D3E4F5061728394A5B6C7D8E9F04"


class Clock:
    """The time of this machine and that of the server, which differ."""

    def __init__(self) -> None:
        self.local_s = 1_769_860_800.0
        self.ahead_s = 3600.0

    def time(self) -> float:
        return self.local_s

    def monotonic(self) -> float:
        return time.monotonic()

    @property
    def server(self) -> dt.datetime:
        return dt.datetime.fromtimestamp(self.local_s + self.ahead_s, dt.UTC)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(mongodb, "time", clock)
    return clock


class AtomicCollection:
    """One operation at a time, as on a server: mongomock copies documents while another thread changes them."""

    def __init__(self, inner: Any, lock: threading.RLock) -> None:
        self.inner, self.lock = inner, lock

    def __getattr__(self, name: str) -> Any:
        operation = getattr(self.inner, name)

        def atomic(*args: Any, **options: Any) -> Any:
            with self.lock:
                return operation(*args, **options)

        return atomic


class FakeClient:
    def __init__(self, clock: Clock) -> None:
        self.lock = threading.RLock()
        self.inner = mongomock.MongoClient()
        self.admin = SimpleNamespace(
            command=lambda name: {"ok": 1.0, "localTime": clock.server.replace(tzinfo=None)}  # as PyMongo decodes it
        )

    def __getitem__(self, name: str) -> Any:
        database = self.inner[name]
        return SimpleNamespace(
            get_collection=lambda *args, **options: AtomicCollection(
                database.get_collection(*args, **options), self.lock
            )
        )


@pytest.fixture
def fake(clock: Clock) -> FakeClient:
    return FakeClient(clock)


@pytest.fixture
def state(fake: FakeClient) -> Any:
    """The state collection."""
    return fake.inner["sync"]["state"]


@pytest.fixture
def store(fake: FakeClient) -> MongoCheckpointStore:
    return MongoCheckpointStore(SETTINGS, Connection(SETTINGS, client=fake))  # type: ignore[arg-type]


class TestContractOnAFake(CheckpointStoreContract):
    @pytest.fixture(autouse=True)
    def place(self, fake: FakeClient, clock: Clock) -> None:
        self.client, self.clock = fake, clock

    def make_store(self) -> CheckpointStore:
        return MongoCheckpointStore(SETTINGS, Connection(SETTINGS, client=self.client))  # type: ignore[arg-type]

    def let_expire(self, lease: Lease) -> None:
        self.clock.local_s += lease.duration_s


# The stored format


VERSION_1 = {
    "_id": "shop.orders",
    "version": 1,
    "scope": {"db": "shop", "coll": "orders"},
    "epoch": 41,
    "events": Int64(12_345_678_901),
    "lease": {"owner": "host:17:0123456789ab", "expires_at": dt.datetime(2026, 1, 31, 12, 1)},
    "updated_at": dt.datetime(2026, 1, 31, 12, 0, 0, 123000),
    "position": {"token": {"_data": HEX}, "operation_time": Timestamp(1772270532, 1)},
}
"""What version 1 stores, as PyMongo reads it. Frozen: a checkpoint of every version loads for ever."""


def test_version_1_loads() -> None:
    assert checkpoint_from_document(VERSION_1) == Checkpoint(
        stream="shop.orders",
        scope=Namespace("shop", "orders"),
        position=Position(ResumeToken({"_data": HEX}), Timestamp(1772270532, 1)),
        epoch=41,
        updated_at=dt.datetime(2026, 1, 31, 12, 0, 0, 123000, tzinfo=dt.UTC),
        owner="host:17:0123456789ab",
        expires_at=dt.datetime(2026, 1, 31, 12, 1, tzinfo=dt.UTC),
        events=12_345_678_901,
    )


@pytest.mark.parametrize(
    ("stored", "expected"),
    [
        ({"_id": "*", "version": 1, "scope": {}, "epoch": 0, "events": 0}, Checkpoint("*")),
        ({"_id": "shop.*", "version": 1, "scope": {"db": "shop"}}, Checkpoint("shop.*", Namespace("shop"))),
        (
            {"_id": "s", "version": 1, "scope": {}, "position": {"operation_time": Timestamp(5, 6)}},
            Checkpoint("s", position=Position(operation_time=Timestamp(5, 6))),
        ),
        (
            {"_id": "s", "version": 1, "position": {"token": {"_data": HEX}, "after_invalidate": True}},
            Checkpoint("s", position=Position(ResumeToken({"_data": HEX}), after_invalidate=True)),
        ),
    ],
    ids=["new", "database", "operation time", "after invalidate"],
)
def test_version_1_loads_where_fields_are_absent(stored: dict[str, Any], expected: Checkpoint) -> None:
    assert checkpoint_from_document(stored) == expected


def test_what_is_stored_now_is_version_1(store: MongoCheckpointStore, state: Any, clock: Clock) -> None:
    assert FORMAT_VERSION == 1, "a new version: freeze a document of it here, beside that of version 1"
    lease = store.acquire("shop.orders", Namespace("shop", "orders"), "me", 60)
    store.save(lease, POSITIONS["token after invalidate"], 2)
    [stored] = state.find()
    assert set(stored) == set(VERSION_1)
    assert stored["position"] == {
        "token": {"_data": HEX},
        "operation_time": Timestamp(0x69A2B3C4, 1),
        "after_invalidate": True,
    }
    now = clock.server.replace(tzinfo=None)
    assert stored["updated_at"] == now
    assert stored["lease"] == {"owner": "me", "expires_at": now + dt.timedelta(seconds=60)}
    store.release(lease)
    assert "lease" not in state.find_one()


@pytest.mark.parametrize("kind", POSITIONS)
def test_a_stored_position_holds_the_token_document_itself(kind: str) -> None:
    position = POSITIONS[kind]
    assert position_document(position).get("token") is (position.token.document if position.token else None)


def test_a_later_version_is_refused_everywhere(store: MongoCheckpointStore, state: Any) -> None:
    state.insert_one({"_id": "s", "version": 2, "where": "elsewhere"})
    before = state.find_one()
    for attempt in (
        lambda: store.load("s"),
        lambda: store.list(),
        lambda: store.acquire("s", None, "me", 60),
    ):
        with pytest.raises(StateStoreError, match="format 2") as caught:
            attempt()
        assert "upgrade" in caught.value.hint
    assert state.find_one() == before


def test_a_checkpoint_never_moves_between_namespaces(store: MongoCheckpointStore, state: Any) -> None:
    store.release(store.acquire("s", Namespace("shop", "orders"), "me", 60))
    before = state.find_one()
    for scope in (None, Namespace("shop"), Namespace("shop", "customers")):
        with pytest.raises(ConfigError, match="another namespace") as caught:
            store.acquire("s", scope, "you", 60)
        assert "STREAM_NAME" in caught.value.hint
    assert state.find_one() == before


# The AWS sample's state


def sample_state(**fields: Any) -> dict[str, Any]:
    """A state document as the sample writes it."""
    return {"dbWatched": "shop", "currentState": True, "db_level": False, "lastProcessed": {"_data": HEX}, **fields}


@pytest.mark.parametrize(
    ("stored", "scope", "found"),
    [
        (sample_state(collectionWatched="orders"), Namespace("shop", "orders"), True),
        (sample_state(collectionWatched="orders"), Namespace("shop", "customers"), False),
        (sample_state(collectionWatched="orders"), Namespace("stock", "orders"), False),
        (sample_state(collectionWatched="orders"), Namespace("shop"), False),
        (sample_state(collectionWatched="orders"), None, False),
        (sample_state(db_level=True), Namespace("shop"), True),
        (sample_state(db_level=True), Namespace("shop", "orders"), False),
        (sample_state(db_level=True), None, False),
        (sample_state(collectionWatched="orders", lastProcessed=None), Namespace("shop", "orders"), False),
        (sample_state(db_level=True, lastProcessed=None), Namespace("shop"), False),
        (sample_state(collectionWatched="orders", currentState=False), Namespace("shop", "orders"), False),
    ],
)
def test_the_samples_position_is_found(
    store: MongoCheckpointStore, state: Any, stored: dict[str, Any], scope: Namespace | None, found: bool
) -> None:
    state.insert_one(stored)
    before = list(state.find())
    position = store.inherited_position(scope)
    assert position == (Position.at_token(ResumeToken({"_data": HEX})) if found else None)
    assert list(state.find()) == before


def test_both_levels_of_the_sample_side_by_side(store: MongoCheckpointStore, state: Any) -> None:
    one, two = HEX, HEX.replace("69A2B3C4", "69A2B3C5")
    state.insert_many(
        [
            sample_state(collectionWatched="orders", lastProcessed={"_data": one}),
            sample_state(db_level=True, lastProcessed={"_data": two}),
        ]
    )
    for scope, data in ((Namespace("shop", "orders"), one), (Namespace("shop"), two)):
        position = store.inherited_position(scope)
        assert position is not None
        assert position.token is not None
        assert position.token.data == data


def test_the_samples_documents_are_not_checkpoints(store: MongoCheckpointStore, state: Any) -> None:
    state.insert_one(sample_state(collectionWatched="orders"))
    store.acquire("shop.orders", Namespace("shop", "orders"), "me", 60)
    assert [found.stream for found in store.list()] == ["shop.orders"]


# The server's clock, and trouble


def test_leases_run_by_the_servers_clock(store: MongoCheckpointStore, clock: Clock) -> None:
    store.acquire("s", None, "me", 60)
    found = store.load("s")
    assert found is not None
    assert found.expires_at == clock.server + dt.timedelta(seconds=60)


def test_a_repeated_acquire_of_the_same_owner_is_the_same_lease(store: MongoCheckpointStore) -> None:
    # The reply to the first may have been lost with the connection.
    lease = store.acquire("s", None, "me", 60)
    assert store.acquire("s", None, "me", 60) == lease


class Failing:
    """A client whose collection fails some times before it does what it is asked."""

    def __init__(self, fake: FakeClient, errors: list[Exception]) -> None:
        self.fake, self.admin, self.errors = fake, fake.admin, errors

    def __getitem__(self, name: str) -> Any:
        if self.errors:
            raise self.errors.pop(0)
        return self.fake[name]


def failing_store(fake: FakeClient, *errors: Exception) -> MongoCheckpointStore:
    return MongoCheckpointStore(SETTINGS, Connection(SETTINGS, client=Failing(fake, list(errors))))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "error",
    [AutoReconnect("gone"), OperationFailure("stepping down", 11602), OperationFailure("not primary", 10107)],
)
def test_passing_trouble_is_waited_out(
    fake: FakeClient, store: MongoCheckpointStore, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retry.Deadline, "pause", lambda self, delay_s: None)
    lease = store.acquire("s", None, "me", 60)
    limit = Deadline.after(None, patience_s=5)
    with deadline(limit):
        failing_store(fake, error, error).save(lease, POSITIONS["MongoDB token"], 1)
    found = store.load("s")
    assert found is not None
    assert (found.position, found.events) == (POSITIONS["MongoDB token"], 1)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (AutoReconnect("gone"), "broke"),
        (OperationFailure("not allowed", 13), "not authorized"),
        (OperationFailure("Authentication failed.", 18), "refuses the user name or password"),
    ],
)
def test_trouble_that_does_not_pass_is_told_with_a_hint(fake: FakeClient, error: Exception, words: str) -> None:
    store = failing_store(fake, *[error] * 10)
    with deadline(Deadline(patience_s=0.0)), pytest.raises(StateStoreError, match=words) as caught:
        store.load("s")
    assert caught.value.hint
    assert caught.value.exit_code == 3
