"""What the MongoDB store does, without a server: the contract on a fake, and the stored format.

The contract on the real server is in tests/contract/test_mongodb_store.
"""

from __future__ import annotations

import datetime as dt
import json
import subprocess
import sys
import threading
from types import SimpleNamespace
from typing import Any

import mongomock
import pytest
from bson import Int64, Timestamp
from pymongo.errors import AutoReconnect, OperationFailure

from docdb_stream import context
from docdb_stream.checkpoint import CheckpointStore, Lease, SnapshotRequest
from docdb_stream.context import Deadline, deadline
from docdb_stream.errors import ConfigError, LeaseHeldError, StateStoreError
from docdb_stream.events import Namespace, Position, ResumeToken
from docdb_stream.mongodb.connection import Connection
from docdb_stream.mongodb.server_clock import TRUSTED_S, ServerClock
from docdb_stream.owner import this_process
from docdb_stream.settings import Settings
from docdb_stream.stores._mongodb_documents import FORMAT_VERSION
from docdb_stream.stores.mongodb import MongoCheckpointStore
from docdb_stream.testing.positions import POSITIONS
from docdb_stream.testing.store_contract import CheckpointStoreContract

SETTINGS = Settings(documentdb_uri="mongodb://127.0.0.1:1/?replicaSet=rs0", state_db="sync", state_collection="state")
HEX = "8269A2B3C4000000012B022C0100296E5A1004A0B1C2D3E4F5061728394A5B6C7D8E9F04"


class Clock:
    """The clocks of this machine and that of the server, which differ."""

    def __init__(self) -> None:
        self.elapsed_s = 5_000.0
        self.wall_s = 1_769_860_800.0
        self.server_s = self.wall_s + 3600.0
        self.asked = 0

    def go_on(self, seconds: float) -> None:
        self.elapsed_s += seconds
        self.wall_s += seconds
        self.server_s += seconds

    def hello(self) -> dict[str, Any]:
        self.asked += 1
        return {"ok": 1.0, "localTime": self.server.replace(tzinfo=None)}  # as PyMongo decodes it

    @property
    def server(self) -> dt.datetime:
        return dt.datetime.fromtimestamp(self.server_s, dt.UTC)

    def of(self, connection: Connection) -> ServerClock:
        return ServerClock(connection, lambda: self.elapsed_s, lambda: self.wall_s)


@pytest.fixture
def clock() -> Clock:
    return Clock()


GRACE = dt.timedelta(milliseconds=2)
"""How much later the latest possible time is than the server's, where it answers at once."""


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
        self.clock = clock
        self.admin = SimpleNamespace(command=lambda name: clock.hello())

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
    return store_on(fake)


def store_on(client: Any, clock: Clock | None = None) -> MongoCheckpointStore:
    connection = Connection(SETTINGS, client=client)
    return MongoCheckpointStore(SETTINGS, connection, (clock or client.clock).of(connection))


class TestContractOnAFake(CheckpointStoreContract):
    @pytest.fixture(autouse=True)
    def state_of_this_test(self, fake: FakeClient, clock: Clock) -> None:
        self.client, self.clock = fake, clock

    def make_store(self) -> CheckpointStore:
        return store_on(self.client)

    def let_expire(self, lease: Lease) -> None:
        self.clock.go_on(lease.duration_s + 0.01)


# The stored format


def test_what_is_stored_now_is_version_1(store: MongoCheckpointStore, state: Any, clock: Clock) -> None:
    lease = store.acquire("shop.orders", Namespace("shop", "orders"), "me", 60)
    store.save(lease, POSITIONS["token after invalidate"], 2)
    [stored] = state.find()
    assert set(stored) == {
        *("_id", "version", "scope", "epoch", "events", "created_at", "lease", "updated_at", "position"),
        "docdb_stream_state",
    }
    assert stored["version"] == 1
    assert stored["docdb_stream_state"] == "sync.state"
    assert stored["position"] == {
        "token": {"_data": HEX},
        "operation_time": Timestamp(0x69A2B3C4, 1),
        "after_invalidate": True,
    }
    now = clock.server.replace(tzinfo=None) + GRACE
    assert stored["updated_at"] == now
    process = {"process": this_process()} if this_process() else {}
    assert stored["lease"] == {"owner": "me", "expires_at": now + dt.timedelta(seconds=60), **process}
    store.release(lease)
    assert "lease" not in state.find_one()


def test_a_later_version_is_refused_everywhere(store: MongoCheckpointStore, state: Any) -> None:
    later = FORMAT_VERSION + 1
    state.insert_one({"_id": "s", "version": later, "where": "elsewhere"})
    before = state.find_one()
    for attempt in (
        lambda: store.load("s"),
        lambda: store.all(),
        lambda: store.acquire("s", None, "me", 60),
    ):
        with pytest.raises(StateStoreError, match=f"format {later}") as caught:
            attempt()
        assert "upgrade" in caught.value.hint
    assert state.find_one() == before


def test_a_checkpoint_is_of_version_2_while_a_snapshot_is_under_way(store: MongoCheckpointStore, state: Any) -> None:
    """What knows version 1 alone must not go on without the snapshot; before and after it may."""
    lease = store.acquire("s", None, "me", 60)
    versions = [state.find_one()["version"]]
    for kind in ("MongoDB token", "token beside a snapshot", "MongoDB token"):
        store.save(lease, POSITIONS[kind])
        store.renew(lease)
        versions.append(state.find_one()["version"])
        assert ("snapshot" in state.find_one()["position"]) == (versions[-1] == 2)
    store.save(lease, POSITIONS["token beside a snapshot"])
    store.release(lease)
    store.acquire("s", None, "you", 60)
    assert [*versions, state.find_one()["version"]] == [1, 1, 2, 1, 2]


def test_fields_that_nobody_here_knows_are_kept(store: MongoCheckpointStore, state: Any) -> None:
    store.release(store.acquire("s", None, "me", 60))
    notes = {"of": ["an operator"], "at": dt.datetime(2026, 1, 31)}
    state.update_one({"_id": "s"}, {"$set": {"notes": notes, "version": 1.0, "epoch": 1.0, "events": Int64(5)}})
    lease = store.acquire("s", None, "me", 60)
    store.save(lease, POSITIONS["MongoDB token"], 2)
    store.release(lease)
    found = state.find_one()
    assert (found["notes"], found["epoch"], found["events"]) == (notes, 2, 7)


def test_a_checkpoint_that_cannot_be_read_is_left_alone(store: MongoCheckpointStore, state: Any) -> None:
    """To go on from a position that is half understood could pass events over."""
    state.insert_one({"_id": "s", "version": 1, "scope": {}, "epoch": 1, "position": {"token": "0163eeb6"}})
    before = state.find_one()
    for attempt in (lambda: store.load("s"), lambda: store.all(), lambda: store.acquire("s", None, "me", 60)):
        with pytest.raises(StateStoreError, match="checkpoint s cannot be read: token is of type str") as caught:
            attempt()
        assert "docdb-stream reset" in caught.value.hint
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
    assert [found.stream for found in store.all()] == ["shop.orders"]


# The server's clock, and trouble


def test_leases_run_by_the_servers_clock(store: MongoCheckpointStore, clock: Clock) -> None:
    store.acquire("s", None, "me", 60)
    found = store.load("s")
    assert found is not None
    assert found.expires_at == clock.server + dt.timedelta(seconds=60) + GRACE


def test_a_step_of_this_machines_clock_takes_no_live_lease(fake: FakeClient, clock: Clock) -> None:
    mine, others = store_on(fake), store_on(fake)
    others.alert_is_due("s", "source", 60)  # it knows the server's time already
    lease = mine.acquire("s", None, "me", 60)
    for step_s in (90.0, -180.0, 3600.0):
        clock.wall_s += step_s
        with pytest.raises(LeaseHeldError):
            others.acquire("s", None, "you", 60)
        mine.renew(lease)
        mine.save(lease, POSITIONS["MongoDB token"])
        found = mine.load("s")
        assert found is not None
        assert found.expires_at == clock.server + dt.timedelta(seconds=60) + GRACE


def test_a_machine_that_was_suspended_grants_itself_no_time_gone_by(fake: FakeClient, clock: Clock) -> None:
    """Neither of its clocks went on at first; then its wall clock is set right."""
    mine = store_on(fake)
    lease = mine.acquire("s", None, "me", 60)
    clock.server_s += 50
    mine.renew(lease)
    found = mine.load("s")
    assert found is not None
    assert found.expires_at == clock.server + dt.timedelta(seconds=60) + GRACE
    clock.server_s += 50
    clock.wall_s += 50
    mine.save(lease, POSITIONS["MongoDB token"])
    found = mine.load("s")
    assert found is not None
    assert found.expires_at == clock.server + dt.timedelta(seconds=60) + GRACE


def test_a_slow_answer_leaves_the_lease_to_who_has_it(fake: FakeClient, clock: Clock) -> None:
    """The server may have told its time at the beginning or at the end of the wait."""
    store_on(fake).acquire("s", None, "me", 60)
    clock.go_on(58)
    hello = fake.admin.command

    def slowly(name: str) -> dict[str, Any]:
        answer: dict[str, Any] = hello(name)
        clock.go_on(1.5)
        return answer

    fake.admin.command = slowly
    with pytest.raises(LeaseHeldError):
        store_on(fake).acquire("s", None, "you", 60)
    clock.go_on(2)
    assert store_on(fake).acquire("s", None, "you", 60).epoch == 2


def test_the_server_is_asked_for_its_time_once_in_a_while(store: MongoCheckpointStore, clock: Clock) -> None:
    lease = store.acquire("s", None, "me", 3600)
    clock.asked = 0
    for _ in range(10):
        store.save(lease, POSITIONS["MongoDB token"])
    assert clock.asked == 0
    clock.go_on(TRUSTED_S + 1)
    store.save(lease, POSITIONS["MongoDB token"])
    assert clock.asked == 1


def test_a_renewal_while_it_is_looked_at_keeps_the_lease(
    fake: FakeClient, state: Any, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was seen may be old by the time the lease is taken: a renewal changes the time alone, not the epoch."""
    mine, others = store_on(fake), store_on(fake)
    lease = mine.acquire("s", None, "me", 60)
    clock.go_on(61)
    longer = {"$set": {"lease.expires_at": (clock.server + dt.timedelta(seconds=60)).replace(tzinfo=None)}}
    look = others._found_or_made

    def look_too_early(*args: Any) -> Any:
        found = look(*args)
        state.update_one({"_id": "s"}, longer)
        return found

    monkeypatch.setattr(others, "_found_or_made", look_too_early)
    with pytest.raises(LeaseHeldError):
        others.acquire("s", None, "you", 60)
    mine.save(lease, POSITIONS["MongoDB token"])


def test_an_old_look_at_ones_own_lease_is_no_competitor(
    fake: FakeClient, state: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Right after a failover even what a majority has may be older than one's own last write."""
    store = store_on(fake)
    store.release(store.acquire("s", None, "before", 60))
    old = state.find_one({"_id": "s"})
    lease = store.acquire("s", None, "me", 60)
    monkeypatch.setattr(store, "_found_or_made", lambda *args: old)
    assert store.acquire("s", None, "me", 60) == lease


def test_a_release_while_it_is_looked_at_frees_the_lease(
    fake: FakeClient, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine, others = store_on(fake), store_on(fake)
    lease = mine.acquire("s", None, "me", 60)
    clock.go_on(61)
    look = others._found_or_made

    def look_too_early(*args: Any) -> Any:
        found = look(*args)
        mine.release(lease)
        return found

    monkeypatch.setattr(others, "_found_or_made", look_too_early)
    assert others.acquire("s", None, "you", 60).epoch == lease.epoch + 1


def test_a_save_never_shortens_the_lease(store: MongoCheckpointStore) -> None:
    lease = store.acquire("s", None, "me", 60)
    store.renew(Lease(lease.stream, lease.owner, lease.epoch, 600))
    before = store.load("s")
    store.save(lease, POSITIONS["MongoDB token"])
    after = store.load("s")
    assert before is not None
    assert after is not None
    assert after.expires_at == before.expires_at


# A holder that is gone


def ended_process() -> dict[str, Any]:
    """What ``this_process`` says in a process that has ended since."""
    code = "import json; from docdb_stream.owner import this_process; print(json.dumps(this_process()))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, timeout=60)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="there is no proof elsewhere")
def test_the_lease_of_a_process_that_is_gone_is_free_at_once(fake: FakeClient, state: Any) -> None:
    lease = store_on(fake).acquire("s", None, "me", 3600)
    with pytest.raises(LeaseHeldError):
        store_on(fake).acquire("s", None, "you", 60)
    gone = ended_process()
    for field, other in (("boot", "another"), ("namespaces", "pid:[1]"), ("host", "another"), ("pid", None)):
        state.update_one({"_id": "s"}, {"$set": {"lease.process": {**gone, field: other}}})
        with pytest.raises(LeaseHeldError):
            store_on(fake).acquire("s", None, "you", 60)
    state.update_one({"_id": "s"}, {"$set": {"lease.process": gone}})
    assert store_on(fake).acquire("s", None, "you", 60).epoch == lease.epoch + 1
    with pytest.raises(LeaseHeldError):
        store_on(fake).acquire("s", None, "me", 60)


def test_a_repeated_acquire_of_the_same_owner_is_the_same_lease(store: MongoCheckpointStore) -> None:
    # The reply to the first may have been lost with the connection.
    lease = store.acquire("s", None, "me", 60)
    assert store.acquire("s", None, "me", 60) == lease


class Failing:
    """A client whose collection fails some times before it does what it is asked."""

    def __init__(self, fake: FakeClient, errors: list[Exception]) -> None:
        self.fake, self.admin, self.clock, self.errors = fake, fake.admin, fake.clock, errors

    def __getitem__(self, name: str) -> Any:
        if self.errors:
            raise self.errors.pop(0)
        return self.fake[name]


def failing_store(fake: FakeClient, *errors: Exception) -> MongoCheckpointStore:
    return store_on(Failing(fake, list(errors)))


@pytest.mark.parametrize(
    "error",
    [AutoReconnect("gone"), OperationFailure("stepping down", 11602), OperationFailure("not primary", 10107)],
)
def test_passing_trouble_is_waited_out(
    fake: FakeClient, store: MongoCheckpointStore, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(context.Deadline, "pause", lambda self, delay_s: None)
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


def test_a_request_that_nobody_can_read_holds_nothing_up(store: MongoCheckpointStore, state: Any) -> None:
    lease = store.acquire("s", None, "me", 60)
    strange: list[Any] = ["start", {}, {"id": "1", "action": "restart"}, {"id": "2", "action": {}}, {"action": "start"}]
    state.update_one({"_id": "s"}, {"$set": {"requests": strange}})
    assert store.asked("s") == []
    assert store.ask("s", SnapshotRequest("3", "pause"))
    assert store.asked("s") == [SnapshotRequest("3", "pause")]
    store.answered(lease, ["3"])
    assert store.asked("s") == []
    assert state.find_one()["requests"] == strange
    state.update_one({"_id": "s"}, {"$set": {"requests": "start"}})
    assert store.asked("s") == []
