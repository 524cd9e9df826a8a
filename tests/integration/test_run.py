"""Whole runs against a real replica set: by the library with a list as target, and by the command line with a file."""

from __future__ import annotations

import datetime as dt
import json
import signal
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import bson
import pytest
from bson import Timestamp
from pymongo import MongoClient, WriteConcern

from docdb_stream import ChangeEvent, Deadline, Poller, Position, RunResult, Settings
from docdb_stream.checkpoint import Checkpoint
from docdb_stream.events import Namespace
from docdb_stream.letters.file import FileDeadLetters
from docdb_stream.local import AwsServer, ReplicaSet, Tls
from docdb_stream.local.process import wait_until
from docdb_stream.mongodb.connection import Connection
from docdb_stream.mongodb.source import MongoChangeSource
from docdb_stream.source import BATCH_BYTES
from docdb_stream.stores.memory import MemoryCheckpointStore
from docdb_stream.stores.mongodb import MongoCheckpointStore
from docdb_stream.testing.targets import ListTarget

pytestmark = pytest.mark.integration

Mongo = MongoClient[dict[str, Any]]


class Stream:
    """A stream over the test's own database, and what arrives of it."""

    def __init__(self, uri: str, mongo: Mongo, db_name: str, folder: Path) -> None:
        self.uri, self.db_name = uri, db_name
        self.db = mongo[db_name]
        self.state = mongo[f"{db_name}_state"]
        self.file = folder / "changes.jsonl"
        self.target = ListTarget()

    def settings(self, **values: Any) -> Settings:
        defaults = {"watched_db_name": self.db_name, "watched_collection_name": "orders"}
        return Settings(documentdb_uri=self.uri, state_db=self.state.name, **{**defaults, **values})

    def run(self, limit: Deadline | None = None, **values: Any) -> RunResult:
        poller = Poller.from_settings(self.settings(**values), targets=[self.target])
        try:
            return poller.run(limit=limit)
        finally:
            poller.close()

    def environment(self, **values: str) -> dict[str, str]:
        return {
            "DOCUMENTDB_URI": self.uri,
            "STATE_DB": self.state.name,
            "WATCHED_DB_NAME": self.db_name,
            "WATCHED_COLLECTION_NAME": "orders",
            "FILE_PATH": str(self.file),
            **values,
        }

    def lines(self) -> list[dict[str, Any]]:
        """What is in the file; a last line in the making is left out."""
        text = self.file.read_text(encoding="utf-8") if self.file.exists() else ""
        return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]

    def line_count(self) -> int:
        return self.file.read_bytes().count(b"\n") if self.file.exists() else 0

    def checkpoint(self, name: str | None = None) -> Checkpoint | None:
        settings = self.settings()
        with Connection(settings) as connection:
            return MongoCheckpointStore(settings, connection).load(name or f"{self.db_name}.orders")


@pytest.fixture
def stream(replica_set: ReplicaSet, mongo: Mongo, db_name: str, tmp_path: Path) -> Stream:
    return Stream(replica_set.uri, mongo, db_name, tmp_path)


def operations(events: Sequence[ChangeEvent]) -> list[str]:
    return [event.operation for event in events]


# What is watched


def test_a_collection(stream: Stream) -> None:
    assert stream.run().events == 0
    stream.db.orders.insert_many([{"_id": number} for number in range(5)])
    stream.db.customers.insert_one({"_id": "not watched"})
    stream.db.orders.replace_one({"_id": 1}, {"a": 1})
    stream.db.orders.update_one({"_id": 2}, {"$set": {"a": 2}})
    stream.db.orders.delete_one({"_id": 3})
    result = stream.run()
    assert operations(stream.target.events) == ["insert"] * 5 + ["replace", "update", "delete"]
    assert {event.namespace for event in stream.target.take()} == {Namespace(stream.db_name, "orders")}
    assert (result.stream, result.events, result.caught_up) == (f"{stream.db_name}.orders", 8, True)
    again = stream.run()
    assert (again.events, stream.target.events) == (0, [])
    checkpoint = stream.checkpoint()
    assert checkpoint is not None
    assert (checkpoint.events, checkpoint.owner) == (8, None)


def test_a_database(stream: Stream) -> None:
    watched = {"watched_collection_name": None}
    stream.run(**watched)
    for coll in ("orders", "customers"):
        stream.db[coll].insert_one({"_id": 1})
    result = stream.run(**watched)
    assert [event.namespace.coll for event in stream.target.take()] == ["orders", "customers"]
    assert (result.stream, result.events) == (f"{stream.db_name}.*", 2)
    assert stream.run(**watched).events == 0


def test_the_deployment_without_its_own_state(stream: Stream, mongo: Mongo) -> None:
    watched = {"watched_db_name": None, "watched_collection_name": None}
    stream.run(**watched)
    other = mongo[f"{stream.db_name}_other"]
    stream.db.orders.insert_one({"_id": 1})
    other.orders.insert_one({"_id": 2})
    result = stream.run(**watched)
    assert [str(event.namespace) for event in stream.target.take()] == [
        f"{stream.db_name}.orders",
        f"{other.name}.orders",
    ]
    assert (result.stream, result.events, result.caught_up) == ("*", 2, True)
    assert stream.run(**watched).events == 0


def test_a_watched_collection_need_not_exist_yet(stream: Stream) -> None:
    assert stream.run().caught_up
    stream.db.orders.insert_one({"_id": 1})
    assert stream.run().events == 1


def test_nothing_is_written_to_what_is_watched(stream: Stream, mongo: Mongo) -> None:
    stream.db.orders.insert_one({"_id": 1})
    stream.run(start_at="earliest")
    assert list(stream.db.orders.find()) == [{"_id": 1}]
    assert stream.db.list_collection_names() == ["orders"]


def test_start_at_the_earliest(stream: Stream) -> None:
    stream.db.orders.insert_many([{"_id": number} for number in range(20)])
    stream.run(start_at="earliest")
    assert [event.document_key for event in stream.target.events] == [{"_id": number} for number in range(20)]


def test_many_events_in_small_batches_arrive_in_order(stream: Stream) -> None:
    stream.run()
    stream.db.orders.insert_many([{"_id": number} for number in range(1000)])
    result = stream.run(batch_size=30, state_sync_count=5, max_loop=0)
    assert [event.document_key for event in stream.target.events] == [{"_id": number} for number in range(1000)]
    assert result.events == 1000
    assert result.loops >= 1000 / 30
    assert result.checkpoints >= result.loops // 5


def test_large_events_come_in_small_batches(stream: Stream) -> None:
    settings = stream.settings()
    with Connection(settings) as connection:
        source = MongoChangeSource(settings, connection)
        reading = source.open(source.start_position("now"))
        sizes = [10] * 2_000 + [64_000] * 100 + [10] * 2_000
        stream.db.orders.insert_many([{"_id": number, "text": "x" * size} for number, size in enumerate(sizes)])
        batches = []
        while sum(len(batch.events) for batch in batches) < len(sizes):
            batches.append(reading.read(1.0))
        reading.close()
    keys = [event.document["documentKey"]["_id"] for batch in batches for event in batch.events]
    assert keys == list(range(len(sizes)))
    # Of those asked for while events were small one may be larger, up to what the server sends; and one more, where a
    # reply that had both came between: a server at work on other things sends what it has by then.
    assert sum(batch.size_bytes > BATCH_BYTES for batch in batches) <= 2
    assert max(len(batch.events) for batch in batches) == settings.batch_size


def test_max_loop_stops_in_between_and_the_next_run_goes_on(stream: Stream) -> None:
    stream.run()
    stream.db.orders.insert_many([{"_id": number} for number in range(250)])
    first = stream.run(batch_size=100, max_loop=1)
    assert (first.stopped_by, first.loops, first.caught_up) == ("max-loop", 1, False)
    assert 0 < first.events <= 100
    second = stream.run(batch_size=100)
    assert first.events + second.events == 250
    assert [event.document_key for event in stream.target.events] == [{"_id": number} for number in range(250)]


def test_a_transaction_is_read_to_its_end(stream: Stream, mongo: Mongo) -> None:
    """All its events have one cluster time, which is the time that the run aims at."""
    # By a majority: not the default before MongoDB 5.0, and a stream that starts now may start before it otherwise.
    stream.db.orders.with_options(write_concern=WriteConcern("majority")).insert_one({"_id": "first"})
    settings, target = stream.settings(), ListTarget()
    with Connection(settings) as connection:
        # Its state elsewhere, so that nothing happens in the cluster after the transaction.
        poller = Poller(
            settings,
            source=MongoChangeSource(settings, connection),
            store=MemoryCheckpointStore(),
            targets=[target],
            dead_letters=FileDeadLetters("/dev/null"),
        )
        poller.run()
        with mongo.start_session() as session, session.start_transaction():
            stream.db.orders.insert_many([{"_id": number} for number in range(1000)], session=session)
        result = poller.run()
    assert (result.events, result.caught_up, result.stopped_by) == (1000, True, "caught-up")
    assert target.ids == list(range(1000))


def test_an_idle_streams_position_moves_on(stream: Stream) -> None:
    stream.run()
    before = stream.checkpoint()
    stream.db.customers.insert_one({"_id": "something else happens"})
    stream.run()
    after = stream.checkpoint()
    assert before is not None
    assert before.position is not None
    assert before.position.operation_time is not None
    assert after is not None
    assert after.position is not None
    assert after.position.operation_time is not None
    assert after.position.operation_time > before.position.operation_time


def test_an_update_of_a_document_that_is_gone(stream: Stream) -> None:
    stream.run()
    stream.db.orders.insert_one({"_id": 1})
    stream.db.orders.update_one({"_id": 1}, {"$set": {"a": 1}})
    stream.db.orders.delete_one({"_id": 1})
    assert stream.run().caught_up
    insert, update, delete = stream.target.events
    assert [event.operation for event in (insert, update, delete)] == ["insert", "update", "delete"]
    assert update.full_document is None
    assert update.update_description is not None
    assert update.update_description["updatedFields"] == {"a": 1}
    assert json.loads(update.render("extended"))["fullDocument"] is None


# The watched collection goes, and comes back


def test_a_dropped_and_recreated_collection_goes_on_by_itself(stream: Stream) -> None:
    stream.run()
    stream.db.orders.insert_one({"_id": 1})
    stream.db.orders.drop()
    stream.db.orders.insert_one({"_id": 2})
    assert stream.run().caught_up
    assert operations(stream.target.take()) == ["insert", "drop", "invalidate", "insert"]
    stream.db.orders.insert_one({"_id": 3})
    assert stream.run().events == 1
    assert stream.target.take()[0].document_key == {"_id": 3}


def test_a_dropped_collection_stays_quiet_and_then_goes_on(stream: Stream) -> None:
    stream.run()
    stream.db.orders.insert_one({"_id": 1})
    stream.db.orders.drop()
    assert stream.run().caught_up
    assert operations(stream.target.take()) == ["insert", "drop", "invalidate"]
    for _ in range(3):  # each run opens the stream at the position that the one before has saved
        result = stream.run()
        assert (result.events, result.caught_up) == (0, True)
    stream.db.orders.insert_one({"_id": 2})
    stream.run()
    assert operations(stream.target.take()) == ["insert"]


def test_a_run_that_ends_right_at_the_invalidate(stream: Stream) -> None:
    stream.run()
    stream.db.orders.insert_one({"_id": 1})
    stream.db.orders.drop()
    stream.db.orders.insert_one({"_id": 2})
    seen: list[str] = []
    for _ in range(8):
        stream.run(batch_size=1, max_loop=1)
        seen += operations(stream.target.take())
    assert seen == ["insert", "drop", "invalidate", "insert"]


def test_a_renamed_collection(stream: Stream) -> None:
    stream.run()
    stream.db.orders.insert_one({"_id": 1})
    stream.db.orders.rename("archive")
    stream.db.orders.insert_one({"_id": 2})
    assert stream.run().caught_up
    assert operations(stream.target.take()) == ["insert", "rename", "invalidate", "insert"]


def test_a_dropped_database_goes_on_by_itself(stream: Stream, mongo: Mongo) -> None:
    watched = {"watched_collection_name": None}
    stream.run(**watched)
    stream.db.orders.insert_one({"_id": 1})
    mongo.drop_database(stream.db_name)
    stream.db.orders.insert_one({"_id": 2})
    assert stream.run(**watched).caught_up
    assert operations(stream.target.take()) == ["insert", "drop", "dropDatabase", "invalidate", "insert"]
    assert stream.run(**watched).events == 0


# The AWS sample's state


@pytest.mark.parametrize("db_level", [False, True])
def test_a_run_goes_on_where_the_aws_sample_stopped(stream: Stream, db_level: bool) -> None:
    with (stream.db if db_level else stream.db.orders).watch() as watching:
        stream.db.orders.insert_many([{"_id": number} for number in range(6)])
        tokens = [next(watching)["_id"] for _ in range(6)]
    sample = {"dbWatched": stream.db_name, "currentState": True, "db_level": db_level, "lastProcessed": tokens[2]}
    if not db_level:
        sample["collectionWatched"] = "orders"
    state = stream.state.checkpoints
    state.insert_one(dict(sample))
    [before] = state.find()
    watched = {"watched_collection_name": None} if db_level else {}
    result = stream.run(**watched)
    assert [event.document_key for event in stream.target.take()] == [{"_id": number} for number in (3, 4, 5)]
    assert (result.events, result.caught_up) == (3, True)
    stream.db.orders.insert_one({"_id": 6})
    assert stream.run(**watched).events == 1
    assert state.find_one({"_id": before["_id"]}) == before
    assert state.count_documents({}) == 2


def test_a_sample_state_without_a_token_starts_now(stream: Stream) -> None:
    stream.db.orders.insert_one({"_id": 1})
    stream.state.checkpoints.insert_one(
        {
            "dbWatched": stream.db_name,
            "collectionWatched": "orders",
            "currentState": True,
            "db_level": False,
            "lastProcessed": None,
        }
    )
    assert stream.run().events == 0


# The command line


def test_the_command_line_delivers_reports_and_goes_on(stream: Stream, cli: Any) -> None:
    first = cli.run("run", **stream.environment())
    assert (first.returncode, first.stdout) == (0, "")
    assert "0 events" in first.stderr
    stream.db.orders.insert_many([{"_id": number} for number in range(1203)])
    done = cli.run("run", "--json", **stream.environment())
    assert (done.returncode, done.stderr) == (0, "")
    [line] = done.stdout.splitlines()
    result = json.loads(line)
    assert result["stream"] == f"{stream.db_name}.orders"
    assert (result["events"], result["read"], result["rejections"]) == (1203, 1203, 0)
    assert (result["caught_up"], result["lag_s"], result["stopped_by"]) == (True, 0.0, "caught-up")
    assert result["loops"] >= 2
    assert result["checkpoints"] >= 1
    assert result["targets"]["file"]["events"] == 1203
    assert result["position"]["token"]
    assert result["position"]["time"]
    assert [line["documentKey"]["_id"] for line in stream.lines()] == list(range(1203))
    again = cli.run("run", **stream.environment())
    assert again.returncode == 0
    assert f"{stream.db_name}.orders: 0 events in 0 loops" in again.stderr
    assert "caught up" in again.stderr
    assert len(stream.lines()) == 1203


def test_the_command_line_runs_to_the_end_unless_max_loop_is_set(stream: Stream, cli: Any) -> None:
    loops = Settings.model_fields["max_loop"].default + 5
    environment = stream.environment(BATCH_SIZE="1")
    first = cli.run("run", **environment)
    assert f"{stream.db_name}.orders: new stream, starts now; START_AT=earliest for the past" in first.stderr
    stream.db.orders.insert_many([{"_id": number} for number in range(2 * loops)])
    some = cli.run("run", **environment, MAX_LOOP=str(loops), START_AT="earliest")
    assert f"{loops} events in {loops} loops" in some.stderr
    assert f"more is waiting; ended by MAX_LOOP={loops}" in some.stderr
    assert "goes on from its checkpoint, START_AT=earliest is for a new stream only" in some.stderr
    assert f"docdb-stream reset '{stream.db_name}.orders' --to earliest" in some.stderr
    rest = json.loads(cli.run("run", "--json", **environment).stdout)
    assert (rest["events"], rest["stopped_by"], rest["began_at"]) == (loops, "caught-up", "checkpoint")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_following_ends_cleanly_on_a_signal(stream: Stream, cli: Any, number: signal.Signals) -> None:
    stream.run()
    process = cli.start("run", "--follow", "--json", **stream.environment())
    stream.db.orders.insert_many([{"_id": number} for number in range(300)])
    wait_until(lambda: len(stream.lines()) >= 300, "the events are in the file", timeout_s=20)
    stream.db.orders.insert_one({"_id": 300})
    wait_until(lambda: len(stream.lines()) >= 301, "it goes on", timeout_s=20)
    process.send_signal(number)
    out, err = process.communicate(timeout=20)
    assert (process.returncode, err) == (0, "")
    result = json.loads(out)
    assert (result["stopped_by"], result["events"]) == ("signal", 301)
    checkpoint = stream.checkpoint()
    assert checkpoint is not None
    assert (checkpoint.events, checkpoint.owner) == (301, None)
    assert stream.run().events == 0


def test_a_timeout_ends_the_run_before_it_with_a_checkpoint(stream: Stream, cli: Any) -> None:
    stream.run()
    stream.db.orders.insert_many([{"_id": number} for number in range(30_000)])
    timeout_s = 3.0
    started_s = time.monotonic()
    done = cli.run("run", "--json", "--timeout", str(timeout_s), **stream.environment(BATCH_SIZE="1", MAX_LOOP="0"))
    took_s = time.monotonic() - started_s
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert (result["stopped_by"], result["caught_up"]) == ("deadline", False)
    assert result["duration_s"] <= timeout_s
    assert took_s < timeout_s + 10  # an interpreter starts before that, on a machine that may be busy
    assert 0 < result["events"] < 30_000
    assert len(stream.lines()) == result["events"]
    checkpoint = stream.checkpoint()
    assert checkpoint is not None
    assert checkpoint.events == result["events"]


CONFIG = """
[docdb-stream]
documentdb_uri = {uri}
state_db = {state}
[stream orders]
watched_db_name = {db}
watched_collection_name = orders
file_path = orders.jsonl
[stream customers]
watched_db_name = {db}
watched_collection_name = customers
file_path = customers.jsonl
"""


def test_several_streams_of_a_config_file(stream: Stream, cli: Any) -> None:
    text = CONFIG.format(uri=stream.uri, state=stream.state.name, db=stream.db_name)
    (cli.folder / "config.ini").write_text(text, encoding="utf-8")
    fresh = cli.run("status")
    assert fresh.returncode == 0, fresh.stderr
    assert fresh.stdout.count("never run") == 2
    assert cli.run("run").returncode == 0
    stream.db.orders.insert_one({"_id": 1})
    stream.db.customers.insert_many([{"_id": 1}, {"_id": 2}])
    one = cli.run("run", "--json", "--stream", "orders")
    assert [json.loads(line)["stream"] for line in one.stdout.splitlines()] == ["orders"]
    both = cli.run("run", "--json", "--config", "config.ini")
    assert both.returncode == 0
    events = {result["stream"]: result["events"] for result in map(json.loads, both.stdout.splitlines())}
    assert events == {"orders": 0, "customers": 2}
    assert len((cli.folder / "orders.jsonl").read_text().splitlines()) == 1
    assert len((cli.folder / "customers.jsonl").read_text().splitlines()) == 2
    # And where they stand.
    table = cli.run("status")
    assert table.returncode == 0, table.stderr
    assert "never run" not in table.stdout
    for word in ("stream", "position", "lag", "orders", "customers", "free"):
        assert word in table.stdout
    found = {line["stream"]: line for line in map(json.loads, cli.run("status", "--json").stdout.splitlines())}
    assert {name: line["events"] for name, line in found.items()} == {"orders": 1, "customers": 2}
    orders = found["orders"]
    assert orders["scope"] == f"{stream.db_name}.orders"
    assert orders["token"]
    assert orders["position_time"]
    assert orders["saved_at"]
    assert 0 <= orders["age_s"] < 60
    assert 0 <= orders["lag_s"] < 60
    assert orders["epoch"] == 3
    assert orders["lease"] == {"held": False, "owner": None, "expires_at": None}


def test_one_failing_stream_does_not_hold_back_the_others(stream: Stream, cli: Any) -> None:
    text = CONFIG.format(uri=stream.uri, state=stream.state.name, db=stream.db_name)
    text = text.replace("file_path = orders.jsonl", "file_path = nowhere/orders.jsonl")
    (cli.folder / "config.ini").write_text(text.replace("[stream orders]", "start_at=earliest\n[stream orders]"))
    stream.db.orders.insert_one({"_id": 1})
    stream.db.customers.insert_one({"_id": 1})
    done = cli.run("run", "--json")
    assert done.returncode == 4
    orders, customers = map(json.loads, done.stdout.splitlines())
    assert (orders["stream"], orders["error"]["kind"], orders["error"]["exit_code"]) == ("orders", "target", 4)
    assert (customers["stream"], customers["events"]) == ("customers", 1)
    assert "error: orders: target file" in done.stderr


def test_a_lease_held_elsewhere(stream: Stream, cli: Any) -> None:
    stream.run()
    stream.db.orders.insert_one({"_id": 1})
    settings = stream.settings()
    with Connection(settings) as connection:
        store = MongoCheckpointStore(settings, connection)
        lease = store.acquire(settings.stream_name, settings.scope, "another-machine:1", 60)
        done = cli.run("run", "--json", **stream.environment())
        store.release(lease)
    assert done.returncode == 6
    assert json.loads(done.stdout)["error"]["kind"] == "lease-held"
    assert "another-machine:1" in done.stderr
    assert "hint: " in done.stderr
    assert stream.lines() == []
    assert cli.run("run", **stream.environment()).returncode == 0
    assert len(stream.lines()) == 1


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere there is no proof that the owner is gone")
@pytest.mark.parametrize("follow", [["--follow"], []], ids=["following", "once"])
def test_after_a_kill_the_next_run_need_not_wait(stream: Stream, cli: Any, follow: list[str]) -> None:
    stream.run()
    stream.db.orders.insert_many([{"_id": number} for number in range(20_000 if not follow else 20)])
    killed = cli.start("run", *follow, **stream.environment(MAX_LOOP="0", BATCH_SIZE="10"))
    wait_until(lambda: stream.line_count() > 10, "lines", timeout_s=40)
    held = stream.checkpoint()
    assert held is not None
    assert held.owner is not None
    assert f":{killed.pid}:" in held.owner
    refused = cli.run("run", **stream.environment())
    assert refused.returncode == 6, "a live lease is not taken"
    killed.kill()  # and not waited for, as a supervisor may be slow
    done = cli.run("run", "--json", **stream.environment(MAX_LOOP="0"))
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["caught_up"]
    killed.wait()


def test_a_run_that_follows_has_a_short_lease(stream: Stream) -> None:
    limit, durations = Deadline(), []

    def look(result: RunResult) -> None:
        found = stream.checkpoint()
        assert found is not None
        assert found.expires_at is not None
        durations.append((found.expires_at - dt.datetime.now(dt.UTC)).total_seconds())
        limit.stop.set()

    for settings in ({}, {"lease_seconds": 5}):
        limit.stop.clear()
        stream.db.orders.insert_one({})
        with Poller.from_settings(stream.settings(start_at="earliest", **settings), [stream.target]) as poller:
            poller.run(limit=limit, follow=True, progress=look)
    assert 5 < durations[0] < 11
    assert durations[-1] < 6


def test_a_killed_run_loses_nothing_and_keeps_the_order(stream: Stream, cli: Any) -> None:
    documents, versions = 40, 150
    stream.run()
    stream.db.orders.insert_many([{"_id": number, "version": 0} for number in range(documents)])
    for _ in range(1, versions):
        stream.db.orders.update_many({}, {"$inc": {"version": 1}})
    environment = stream.environment(BATCH_SIZE="20", MAX_LOOP="0", STATE_SYNC_COUNT="3", LEASE_SECONDS="0.6")
    for count in (500, 2_000):
        wait_until_the_lease_is_free(stream)
        process = cli.start("run", "--follow", **environment)
        wait_until(lambda count=count: stream.line_count() >= count, f"{count} lines", timeout_s=20)
        process.kill()
        process.wait()
        assert stream.line_count() < documents * versions, "the kill came too late to show anything"
    wait_until_the_lease_is_free(stream)
    assert cli.run("run", **environment).returncode == 0
    lines = stream.lines()
    seen: dict[int, list[int]] = defaultdict(list)
    ids = set()
    for line in lines:
        if line["_id"]["_data"] in ids:
            continue
        ids.add(line["_id"]["_data"])
        updated = line["updateDescription"]["updatedFields"] if line["operationType"] == "update" else {"version": 0}
        seen[line["documentKey"]["_id"]].append(updated["version"])
    assert seen == {number: list(range(versions)) for number in range(documents)}


def wait_until_the_lease_is_free(stream: Stream) -> None:
    def is_free() -> bool:
        found = stream.checkpoint()
        return found is None or found.expires_at is None or found.expires_at.timestamp() + 0.1 < time.time()

    wait_until(is_free, "the lease is free", timeout_s=20)


# A server that asks for more

SECRET = '{"username": "us:er", "password": "p@ss w/ord"}'


@pytest.fixture
def secured(secured_replica_set: ReplicaSet, db_name: str, tmp_path: Path) -> Any:
    with secured_replica_set.client() as client:
        address = secured_replica_set.members[0].address
        uri = f"mongodb://{address}/?replicaSet=rs0&authSource=admin"
        stream = Stream(uri, client, db_name, tmp_path)
        stream.db.orders.insert_one({"_id": 1})
        yield stream


def test_tls_and_a_user_from_the_environment(secured: Stream, certificates: Tls, cli: Any) -> None:
    done = cli.run(
        "run",
        **secured.environment(
            DOCUMENTDB_TLS_CA=str(certificates.ca_file),
            DOCUMENTDB_SECRET="env:MY_SECRET",
            MY_SECRET=SECRET,
            START_AT="earliest",
        ),
    )
    assert done.returncode == 0, done.stderr
    assert [line["documentKey"]["_id"] for line in secured.lines()] == [1]


def test_ca_from_s3_and_a_user_from_secrets_manager(
    secured: Stream, certificates: Tls, cli: Any, aws: AwsServer, db_name: str
) -> None:
    s3, secrets = aws.client("s3"), aws.client("secretsmanager")
    s3.create_bucket(Bucket=f"certificates-{db_name}")
    s3.put_object(Bucket=f"certificates-{db_name}", Key="ca/bundle.pem", Body=certificates.ca_file.read_bytes())
    secrets.create_secret(Name=f"docdb/{db_name}", SecretString=SECRET)
    environment = secured.environment(
        DOCUMENTDB_TLS_CA=f"s3://certificates-{db_name}/ca/bundle.pem",
        DOCUMENTDB_SECRET=f"docdb/{db_name}",
        START_AT="earliest",
        **aws.environment(),
    )
    done = cli.run("run", **environment)
    assert done.returncode == 0, done.stderr
    assert len(secured.lines()) == 1
    s3.delete_object(Bucket=f"certificates-{db_name}", Key="ca/bundle.pem")
    gone = cli.run("run", **environment)
    assert gone.returncode == 2
    assert f"s3://certificates-{db_name}/ca/bundle.pem" in gone.stderr
    for client in (s3, secrets):
        client.close()


def test_a_wrong_password(secured: Stream, certificates: Tls, cli: Any) -> None:
    done = cli.run(
        "run",
        **secured.environment(
            DOCUMENTDB_TLS_CA=str(certificates.ca_file),
            DOCUMENTDB_SECRET="env:MY_SECRET",
            MY_SECRET='{"username": "us:er", "password": "hunter2"}',
        ),
    )
    assert done.returncode == 3
    assert "refuses the user name or password" in done.stderr
    assert "hint: check DOCUMENTDB_SECRET" in done.stderr
    assert "hunter2" not in done.stderr
    assert "Traceback" not in done.stderr


# Positions are what the server says


def test_every_saved_position_can_be_resumed(stream: Stream) -> None:
    """Each of these runs ends at another kind of position: a time, an event's token, a post-batch token."""
    kinds = set()
    for number in range(4):
        stream.run()
        found = stream.checkpoint()
        assert found is not None
        assert isinstance(found.position, Position)
        assert isinstance(found.position.operation_time, Timestamp)
        kinds.add("token" if found.position.token else "time")
        raw = stream.state.checkpoints.find_one({"_id": found.stream})
        assert raw is not None
        assert bson.encode(raw)
        stream.db.orders.insert_one({"_id": number})
    assert stream.run().events == 1
    assert [event.document_key for event in stream.target.take()] == [{"_id": number} for number in range(4)]
    assert "token" in kinds
