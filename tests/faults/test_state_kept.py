"""The state beside a cluster that shows old data, and beside the state of other deployments."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from bson import Timestamp
from faults.polling import ListTarget, following, operation_time_of, run, store_of, wait_for
from pymongo import MongoClient, WriteConcern
from pymongo.monitoring import CommandListener, CommandStartedEvent

from docdb_stream.checkpoint import LedgerEntry
from docdb_stream.context import Deadline
from docdb_stream.errors import LeaseHeldError
from docdb_stream.events import Position
from docdb_stream.letters.mongodb import MongoDeadLetters
from docdb_stream.local import Mongod, ReplicaSet
from docdb_stream.mongodb.cluster import Cluster
from docdb_stream.mongodb.connection import Connection
from docdb_stream.mongodb.diagnosis import HELLO
from docdb_stream.settings import Settings
from docdb_stream.stores.mongodb import MongoCheckpointStore
from docdb_stream.target import Rejection
from docdb_stream.testing.events import ChangeLog

pytestmark = pytest.mark.integration

HOSTILE = (
    "readPreference=secondary&readPreferenceTags=&maxStalenessSeconds=120&readConcernLevel=available&w=0&journal=false"
    "&wtimeoutMS=1&datetime_conversion=DATETIME_MS&tz_aware=true"
)
"""Everything that a connection string can say against reading and writing the state safely."""


SOON_S = 4.0
"""Time of a run that may wait in vain for a secondary."""


@pytest.fixture(scope="module")
def three() -> Iterator[ReplicaSet]:
    with ReplicaSet(nodes=3, set_parameters={"enableTestCommands": "1", "periodicNoopIntervalSecs": 1}) as started:
        with started.client() as client:
            # The other secondary must not wait for what comes by way of the one that stands still.
            config = client.admin.command("replSetGetConfig")["config"]
            config["version"] += 1
            config["settings"]["chainingAllowed"] = False
            client.admin.command("replSetReconfig", config)
        yield started


@pytest.fixture
def lagging(three: ReplicaSet) -> Iterator[Mongod]:
    """The secondary that reads would go to; it stands still from ``stand_still`` to the end of the test."""
    found = min(three.secondaries(), key=lambda member: member.address)
    yield found
    apply(found, "off")


def apply(member: Mongod, mode: str) -> None:
    with member.client() as client:
        client.admin.command("configureFailPoint", "rsSyncApplyStop", mode=mode)


def stand_still(lagging: Mongod, three: ReplicaSet) -> None:
    with three.client() as client, lagging.client() as behind:
        at = client.admin.command("ping")["operationTime"]
        wait_for(lambda: behind.admin.command("ping")["operationTime"] >= at, "the secondary has all of it")
    apply(lagging, "alwaysOn")


@pytest.mark.parametrize("preference", ["readPreference=secondaryPreferred", HOSTILE])
def test_a_secondary_that_lags_hides_no_checkpoint_and_no_lease(
    three: ReplicaSet, lagging: Mongod, db_name: str, preference: str
) -> None:
    settings = Settings(
        documentdb_uri=f"{three.uri}&{preference}",
        watched_db_name=db_name,
        watched_collection_name="orders",
        state_db=f"{db_name}_state",
    )
    with three.client() as client, store_of(settings) as store:
        orders = client[db_name].get_collection("orders", write_concern=WriteConcern(w="majority"))
        orders.insert_one({"_id": "before"})
        # The secondary sees the stream without a position, and its lease given back.
        store.release(store.acquire(settings.stream_name, settings.scope, "first", 60))
        stand_still(lagging, three)
        target = ListTarget()
        run(settings, target, limit=Deadline.after(SOON_S))  # the stream itself may be read where it stands still
        orders.insert_many([{"_id": number} for number in range(100)])
        lease = store.acquire(settings.stream_name, settings.scope, "me", 60)
        with pytest.raises(LeaseHeldError):
            run(settings, target)
        store.release(lease)
        assert run(settings, target, limit=Deadline.after(SOON_S)).began_at == "checkpoint"
        apply(lagging, "off")
        assert run(settings, target).caught_up
        assert target.ids == list(range(100))
        store.record(LedgerEntry("s", "reset", None, "by hand"))
        assert [entry.kind for entry in store.ledger("s")] == ["reset"]
        assert [found.events for found in store.all()] == [100]


class Commands(CommandListener):
    def __init__(self) -> None:
        self.sent: list[Any] = []

    def started(self, event: CommandStartedEvent) -> None:
        self.sent.append(event)

    def succeeded(self, event: Any) -> None:
        pass

    def failed(self, event: Any) -> None:
        pass


def test_every_command_to_the_state_says_how_it_is_meant(three: ReplicaSet, db_name: str) -> None:
    settings, commands = Settings(documentdb_uri=f"{three.uri}&{HOSTILE}", state_db=db_name), Commands()
    client: MongoClient[dict[str, Any]] = MongoClient(
        Cluster.of(settings).connection_string, event_listeners=[commands], retryWrites=False
    )
    with Connection(settings, client=client) as connection:
        store, letters = MongoCheckpointStore(settings, connection), MongoDeadLetters(settings, connection)
        assert store.inherited_position(ChangeLog().namespace) is None
        lease = store.acquire("s", None, "me", 60)
        store.save(lease, Position(operation_time=Timestamp(7, 1)), 1)
        store.renew(lease)
        assert store.load("s") in store.all()
        assert store.alert_is_due("s", "source", 60)
        store.record(LedgerEntry("s", "reset", None, "by hand"))
        store.ledger()
        letters.write("s", [Rejection(ChangeLog().insert({"_id": 1}), "list", "no")])
        [letter] = letters.letters()
        letters.remove(letter)
        store.release(lease)
        primary = client.primary
    to_state = [event for event in commands.sent if event.database_name == db_name]
    assert {event.command_name for event in to_state} == {"find", "insert", "update", "delete"}
    for event in to_state:
        assert event.connection_id == primary
        assert event.command.get("$readPreference", {}).get("mode", "primary") == "primary"
        if event.command_name == "find":
            assert event.command["readConcern"]["level"] in ("majority", "linearizable")
        else:
            assert event.command["writeConcern"] == {"w": "majority"}
    asked = [event for event in commands.sent if event.command_name == HELLO]
    assert asked
    assert {event.connection_id for event in asked} == {primary}, "the time, too, is the primary's"


# Two deployments


def test_followers_of_everything_do_not_feed_each_other(
    replica_set: ReplicaSet, mongo: MongoClient[dict[str, Any]], db_name: str
) -> None:
    """Neither their checkpoints and leases, nor ledgers and dead letters; but what users copy from there is theirs."""
    every = [
        Settings(
            documentdb_uri=replica_set.uri,
            stream_name=name,
            state_db=f"{db_name}_{db}",
            state_collection=f"state_{name}",
            state_sync_count=1,
            lease_seconds=1,
        )
        for name, db in (("a", "state"), ("b", "state"), ("c", "elsewhere"))
    ]
    targets = [ListTarget() for _ in every]
    orders = mongo[db_name].orders
    event = ChangeLog().insert({"_id": 1})
    with ExitStack() as stack:
        for settings, target in zip(every, targets, strict=True):
            stack.enter_context(following(settings, target))
            wait_for(lambda settings=settings: state_of(mongo, settings), f"{settings.stream_name} is at work")
        for number in range(5):
            before = [operation_time_of(settings) for settings in every]
            orders.insert_one({"_id": number})
            for target in targets:
                wait_for(lambda target=target, number=number: number in target.ids, "the event everywhere")
            for settings, time_ in zip(every, before, strict=True):
                wait_for(
                    lambda settings=settings, time_=time_: operation_time_of(settings) > time_,
                    "a checkpoint",
                    timeout_s=30,
                )
        with Connection(every[0]) as connection, store_of(every[0]) as store:
            store.record(LedgerEntry("a", "reset", None, "by hand"))
            letters = MongoDeadLetters(every[0], connection)
            letters.write("a", [Rejection(event, "list", "no")])
            [letter] = letters.letters()
        copied = state_of(mongo, every[0])
        assert copied is not None
        mongo[db_name].backup.insert_one(copied)
        for target in targets:
            wait_for(lambda target=target: "backup" in collections(target), "the copy everywhere")
        with Connection(every[0]) as connection:
            MongoDeadLetters(every[0], connection).remove(letter)
        orders.insert_one({"_id": "last"})
        for target in targets:
            wait_for(lambda target=target: "last" in target.ids, "the last event everywhere")
    for target in targets:
        assert target.ids == [0, 1, 2, 3, 4, "a", "last"]
        assert {each.namespace.db for each in target.events} == {db_name}


def state_of(mongo: MongoClient[dict[str, Any]], settings: Settings) -> dict[str, Any] | None:
    return mongo[settings.state_db][settings.state_collection].find_one({"position": {"$exists": True}})


def collections(target: ListTarget) -> set[str | None]:
    return {event.namespace.coll for event in target.events}
