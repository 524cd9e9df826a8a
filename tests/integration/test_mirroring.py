"""Streams to MongoDB, by whole runs: into another deployment and into the source itself, killed, taken over from."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
from bson import Timestamp
from bson.binary import UuidRepresentation
from bson.codec_options import CodecOptions
from bson.raw_bson import RawBSONDocument
from pymongo import MongoClient

from docdb_stream.admin.doctor import checks
from docdb_stream.admin.redrive import redrive
from docdb_stream.context import Deadline, RunContext, deadline, running
from docdb_stream.derived_update import derived
from docdb_stream.errors import ConfigError, TargetError
from docdb_stream.events import ChangeEvent, Namespace
from docdb_stream.local import ReplicaSet
from docdb_stream.local.mongod import Mongod
from docdb_stream.mongodb.cluster import Cluster
from docdb_stream.mongodb.connection import Connection
from docdb_stream.poller import Poller
from docdb_stream.result import RunResult
from docdb_stream.settings import Settings
from docdb_stream.step import each
from docdb_stream.targets._mongodb.change import RAW
from docdb_stream.targets._mongodb.loop import is_one_deployment, say_the_same
from docdb_stream.targets.mongodb import MongoTarget
from docdb_stream.testing.events import ChangeLog, hostile_documents
from docdb_stream.testing.targets import ListTarget

pytestmark = pytest.mark.integration

Mongo = MongoClient[dict[str, Any]]


@pytest.fixture(scope="module")
def mirror() -> Iterator[ReplicaSet]:
    """Another deployment, to be paused, too."""
    with ReplicaSet() as started:
        yield started


@pytest.fixture
def there(mirror: ReplicaSet) -> Iterator[Mongo]:
    with mirror.client() as client:
        yield client


def stream(replica_set: ReplicaSet, db_name: str, **values: Any) -> Settings:
    given = {
        "documentdb_uri": replica_set.uri,
        "watched_db_name": db_name,
        "state_db": f"{db_name}_state",
        "mongodb_target_state": f"{db_name}_target.state",
        **values,
    }
    return Settings(**{name: value for name, value in given.items() if value is not None})


def run(settings: Settings, *steps: Any, targets: Any = None, **options: Any) -> RunResult:
    with Poller.from_settings(settings, targets=targets, steps=steps) as poller:
        return poller.run(**options)


def carts(event: ChangeEvent) -> list[ChangeEvent]:
    """How many orders each customer has made."""
    made = [event]
    if event.operation == "insert":
        assert event.full_document is not None
        key = {"_id": event.full_document["customer"]}
        made.append(derived(event, f"{event.namespace.db}_counts.carts", key=key, update={"$inc": {"carts": 1}}))
    return made


COUNT = each(carts, "carts")


def raws(client: Mongo, db_name: str, coll: str = "orders") -> list[bytes]:
    found: Any = client[db_name].get_collection(coll, codec_options=RAW)  # type: ignore[arg-type]
    return sorted(bytes(one.raw) for one in found.find() if isinstance(one, RawBSONDocument))


def test_a_mirror_is_the_collection_byte_for_byte(
    replica_set: ReplicaSet, mongo: Mongo, mirror: ReplicaSet, there: Mongo, db_name: str
) -> None:
    settings = stream(replica_set, db_name, mongodb_target_uri=mirror.uri)
    run(settings)
    db = mongo[db_name]
    orders = db.get_collection("orders", codec_options=CodecOptions(uuid_representation=UuidRepresentation.STANDARD))
    # MongoDB before 5.0 stores names with $ and dots not at all, or not in a replacement; and an older PyMongo, as 4.2
    # needs it, cannot read such an _id.
    older = mongo.server_info()["versionArray"][0] < 5
    unlike = ("keys", "looks_like_extended_json", "id_binary") if older else ()
    for name, document in hostile_documents().items():
        if name not in unlike:
            orders.insert_one(document)  # type: ignore[arg-type]
    db.orders.update_many({}, {"$set": {"seen": True}})
    db.orders.delete_one({"_id": "hostile text"})
    db.old.insert_one({"_id": 1})
    assert run(settings).rejections == 0
    assert raws(there, db_name) == raws(mongo, db_name)
    db.old.rename("new")
    db.old.insert_one({"_id": 2})
    db.orders.drop()
    assert run(settings).rejections == 0
    assert [raws(there, db_name, coll) for coll in ("orders", "old", "new")] == [
        raws(mongo, db_name, coll) for coll in ("orders", "old", "new")
    ]


def test_derived_updates_reach_only_who_takes_them(
    replica_set: ReplicaSet, mongo: Mongo, mirror: ReplicaSet, there: Mongo, db_name: str
) -> None:
    settings = stream(replica_set, db_name, mongodb_target_uri=mirror.uri, mongodb_target_mirror=False)
    log = ListTarget()
    targets = [MongoTarget.from_settings(settings), log]
    run(settings, COUNT, targets=targets)
    mongo[db_name].orders.insert_many([{"_id": number, "customer": number % 3} for number in range(100)])
    run(settings, COUNT, targets=targets)
    assert log.operations == ["insert"] * 100
    assert {one["_id"]: one["carts"] for one in there[f"{db_name}_counts"].carts.find()} == {0: 34, 1: 33, 2: 33}
    assert there[db_name].list_collection_names() == []
    mongo[db_name].orders.insert_one({"customer": 1})
    with pytest.raises(ConfigError, match="no target that takes them") as caught:
        run(settings, COUNT, targets=[log])
    assert "MONGODB_TARGET_URI" in caught.value.hint
    assert run(settings, COUNT, targets=targets).read == 1  # nothing is lost


# Never into what is watched


@pytest.mark.parametrize("address", ["{uri}", "mongodb://localhost:{port}/?directConnection=true"])
def test_it_never_writes_into_what_it_watches(
    replica_set: ReplicaSet, mongo: Mongo, db_name: str, address: str
) -> None:
    """By whatever name the deployment is reached."""
    port = replica_set.members[0].port
    uri = address.format(uri=replica_set.uri, port=port)
    settings = stream(replica_set, db_name)
    wide = {"watched_db_name": None, "stream_name": f"{db_name} wide"}
    run(settings, targets=[ListTarget()])
    run(stream(replica_set, db_name, **wide), targets=[ListTarget()])
    mongo[db_name].orders.insert_one({"_id": 1, "customer": 1})
    with pytest.raises(ConfigError, match="would read what it wrote, without end"):
        run(stream(replica_set, db_name, mongodb_target_uri=uri))
    with pytest.raises(ConfigError, match="without end"):
        run(stream(replica_set, db_name, mongodb_target_uri=uri, **wide))
    assert mongo[db_name].orders.count_documents({}) == 1


def test_it_may_write_elsewhere_in_the_source(replica_set: ReplicaSet, mongo: Mongo, db_name: str) -> None:
    """Its own state there is left out of a stream that covers everything; what it writes is, by NAMESPACES."""
    uri = replica_set.uri.replace("127.0.0.1", "localhost") + "&directConnection=false"
    settings = stream(replica_set, db_name, mongodb_target_uri=uri, mongodb_target_namespace=f"m_{db_name}.{{coll}}")
    wide = stream(replica_set, db_name, watched_db_name=None, state_db=f"{db_name}_wide", stream_name=db_name)
    seen = ListTarget()
    run(wide, targets=[seen])
    run(settings, COUNT)
    mongo[db_name].orders.insert_many([{"_id": number, "customer": 1} for number in range(5)])
    assert run(settings, COUNT).rejections == 0
    assert mongo[f"m_{db_name}"].orders.count_documents({}) == 5
    assert mongo[f"{db_name}_counts"].carts.find_one() == {"_id": 1, "carts": 5}
    mongo[db_name].orders.drop()
    run(settings)
    assert mongo[f"m_{db_name}"].orders.count_documents({}) == 0
    run(wide, targets=[seen])
    namespaces = {
        str(event.namespace)
        for event in seen.events
        if event.namespace.db in (db_name, f"m_{db_name}", f"{db_name}_counts", f"{db_name}_target")
    }
    assert namespaces == {f"{db_name}.orders", f"m_{db_name}.orders", f"{db_name}_counts.carts"}


def test_a_derived_update_of_what_is_watched_is_rejected(replica_set: ReplicaSet, mongo: Mongo, db_name: str) -> None:
    settings = stream(replica_set, db_name, mongodb_target_uri=replica_set.uri, mongodb_target_mirror=False)

    def back(event: ChangeEvent) -> list[ChangeEvent]:
        names = (f"{db_name}.counts", f"{db_name}_state.checkpoints", f"{db_name}_target.state")
        return [derived(event, name, key={"_id": 1}, update={"$inc": {"n": 1}}) for name in names]

    run(settings, each(back))
    mongo[db_name].orders.insert_one({"_id": 1})
    assert run(settings, each(back)).rejections == 3
    assert mongo[db_name].list_collection_names() == ["orders"]
    reasons = " ".join(one["reason"] for one in mongo[f"{db_name}_state"].checkpoints_dead_letters.find())
    assert all(text in reasons for text in ("without end", "the state of streams", "MONGODB_TARGET_STATE"))


def test_one_deployment_is_told_from_another(replica_set: ReplicaSet, mirror: ReplicaSet, db_name: str) -> None:
    by_name = replica_set.uri.replace("127.0.0.1", "localhost").replace("replicaSet=rs0", "directConnection=true")
    addresses = {replica_set.uri: True, by_name: True, mirror.uri: False}
    with Connection(Cluster(replica_set.uri)) as source:
        for address, is_one in addresses.items():
            with Connection(Cluster(address)) as target:
                assert is_one_deployment(source, target, Namespace(db_name, "state")) is is_one
                assert say_the_same(source, target) is is_one
                assert target.client[db_name].state.count_documents({}) == 0


# What goes wrong


def test_a_silent_server_is_given_up_at_the_deadline(mirror: ReplicaSet, there: Mongo, db_name: str) -> None:
    target = MongoTarget(mirror.uri, state=f"{db_name}.state", stream="s")
    log = ChangeLog(db=db_name)
    target.write([log.insert({"_id": 1})])
    before = threading.active_count()
    mirror.members[0].pause()
    try:
        limit = Deadline.after(1.5)
        with deadline(limit), pytest.raises(TargetError) as caught:
            target.write([log.insert({"_id": 2})])
        assert caught.value.hint
        assert limit.remaining_s > -15
    finally:
        mirror.members[0].resume()
    target.close()
    assert target.write([log.insert({"_id": 2})]) == []
    target.close()
    assert there[db_name].orders.count_documents({}) == 2
    assert threading.active_count() <= before


def test_a_standalone_server_has_no_transactions() -> None:
    with Mongod() as alone:
        uri = f"mongodb://{alone.address}/"
        with closing(MongoTarget(uri)) as target:
            for attempt in (target.check, lambda: target.write([ChangeLog().insert({"_id": 1})])):
                with pytest.raises(TargetError, match="no transactions") as caught:
                    attempt()
                assert "--replSet" in caught.value.hint


def test_doctor_looks_at_it(replica_set: ReplicaSet, mirror: ReplicaSet, there: Mongo, db_name: str) -> None:
    def found(**values: Any) -> str:
        return str({one.what: one.error for one in checks(stream(replica_set, db_name, **values))}["target mongodb"])

    assert found(mongodb_target_uri=mirror.uri) == "None"
    assert there[f"{db_name}_target"].list_collection_names() == []
    localhost = f"mongodb://localhost:{replica_set.members[0].port}/?directConnection=true"
    assert "without end" in found(mongodb_target_uri=localhost)
    assert "None" in found(mongodb_target_uri=localhost, mongodb_target_namespace="mirror.{db}_{coll}")


def test_the_epoch_there_is_that_of_the_lease(
    replica_set: ReplicaSet, mongo: Mongo, mirror: ReplicaSet, there: Mongo, db_name: str
) -> None:
    """So a run that was taken over from is refused, even if it never looks at its lease."""
    settings = stream(replica_set, db_name, mongodb_target_uri=mirror.uri)
    for number in range(3):
        run(settings, COUNT)
        mongo[db_name].orders.insert_one({"_id": number, "customer": 1})
    run(settings, COUNT)
    checkpoint = mongo[f"{db_name}_state"].checkpoints.find_one()
    known = there[f"{db_name}_target"].state.find_one({"_id": {"stream": settings.stream_name}})
    assert checkpoint is not None
    assert known is not None
    assert known["epoch"] == checkpoint["epoch"] == 4
    late = ChangeLog(db=db_name, start=Timestamp(2**31, 1)).insert({"_id": 9})
    update = derived(late, f"{db_name}_counts.carts", key={"_id": 1}, update={"$inc": {"carts": 1}})
    with (
        closing(MongoTarget.from_settings(settings)) as zombie,
        running(RunContext(lease_epoch=lambda: 3)),
        pytest.raises(TargetError, match="a later run"),
    ):
        zombie.write([late, update])
    assert there[f"{db_name}_counts"].carts.find_one() == {"_id": 1, "carts": 3}
    assert there[db_name].orders.count_documents({}) == 3


def test_what_was_refused_is_counted_once_when_it_is_redriven(
    replica_set: ReplicaSet, mongo: Mongo, mirror: ReplicaSet, there: Mongo, db_name: str
) -> None:
    settings = stream(replica_set, db_name, mongodb_target_uri=mirror.uri)
    run(settings, COUNT)
    carts_there = there[f"{db_name}_counts"].carts
    carts_there.insert_one({"_id": 1, "carts": "many"})
    mongo[db_name].orders.insert_many([{"_id": number, "customer": number % 2} for number in range(6)])
    assert run(settings, COUNT).rejections == 3
    assert redrive(settings).refused == 3
    carts_there.update_one({"_id": 1}, {"$set": {"carts": 0}})
    assert redrive(settings).delivered == 3
    run(settings, COUNT)
    assert {one["_id"]: one["carts"] for one in carts_there.find()} == {0: 3, 1: 3}


def test_what_must_not_be_written_counts_once_when_the_settings_are_corrected(
    replica_set: ReplicaSet, mongo: Mongo, db_name: str
) -> None:
    settings = stream(replica_set, db_name, mongodb_target_uri=replica_set.uri, mongodb_target_mirror=False)

    def counts(event: ChangeEvent) -> list[ChangeEvent]:
        names = (f"{db_name}.visitors", f"{db_name}_counts.visitors")
        return [derived(event, name, key={"_id": 1}, update={"$inc": {"n": 1}}) for name in names]

    run(settings, each(counts))
    mongo[db_name].orders.insert_many([{"_id": number} for number in range(3)])
    assert run(settings, each(counts)).rejections == 3
    assert redrive(settings).refused == 3
    corrected = stream(
        replica_set,
        db_name,
        mongodb_target_uri=replica_set.uri,
        mongodb_target_mirror=False,
        stream_name=settings.stream_name,
        namespaces=[f"{db_name}.orders"],
    )
    assert redrive(corrected).delivered == 3
    run(corrected, each(counts))
    for db in (db_name, f"{db_name}_counts"):
        assert mongo[db].visitors.find_one() == {"_id": 1, "n": 3}


# Killed at any moment

_POLLER = """
import os, signal, sys, threading
from pymongo import monitoring
from docdb_stream.derived_update import derived
from docdb_stream.poller import Poller
from docdb_stream.settings import Settings
from docdb_stream.step import each

settings, port, left, lock = Settings.from_env(dict(os.environ)), int(sys.argv[1]), [int(sys.argv[2])], threading.Lock()

class Killer(monitoring.CommandListener):
    def started(self, event):
        with lock:
            left[0] -= event.connection_id[1] == port
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    def succeeded(self, event):
        pass

    failed = succeeded

def carts(event):
    key = {"_id": event.full_document["customer"]}
    return [event, derived(event, f"{event.namespace.db}_counts.carts", key=key, update={"$inc": {"carts": 1}})]

monitoring.register(Killer())
Poller.from_settings(settings, steps=[each(carts, "carts")]).run()
os._exit(0)
"""
"""Runs the stream, and kills itself before the target's server gets so many commands."""


def test_killed_at_any_command_it_counts_exactly(
    replica_set: ReplicaSet, mongo: Mongo, mirror: ReplicaSet, there: Mongo, db_name: str
) -> None:
    environment = {
        "DOCUMENTDB_URI": replica_set.uri,
        "WATCHED_DB_NAME": db_name,
        "STATE_DB": f"{db_name}_state",
        "MONGODB_TARGET_URI": mirror.uri,
        "MONGODB_TARGET_STATE": f"{db_name}_target.state",
        "BATCH_SIZE": "7",
        "STATE_SYNC_COUNT": "2",
        "LEASE_SECONDS": "1",
        "MAX_LOOP": "0",
    }
    settings = Settings.from_env(environment)
    run(settings, COUNT)
    orders = [{"_id": number, "customer": number % 4} for number in range(120)]
    for order in orders:
        mongo[db_name].orders.insert_one(order)
    killed = 0
    for command in (6, 11, 13, 14):
        arguments = [sys.executable, "-c", _POLLER, str(mirror.members[0].port), str(command)]
        done = subprocess.run(arguments, env={**os.environ, **environment}, capture_output=True, text=True, timeout=60)
        killed += done.returncode == -signal.SIGKILL
        assert done.returncode in (0, -signal.SIGKILL), done.stderr
    run(settings, COUNT)
    assert killed >= 3
    assert {one["_id"]: one["carts"] for one in there[f"{db_name}_counts"].carts.find()} == dict.fromkeys(range(4), 30)
    assert raws(there, db_name) == raws(mongo, db_name)
