"""A position that is no longer in the change log, and what an operator can do about it."""

from __future__ import annotations

import datetime as dt
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from bson import Timestamp
from pymongo import MongoClient, WriteConcern
from typer.testing import CliRunner

from docdb_stream.admin.reset import reset
from docdb_stream.checkpoint import Checkpoint, LedgerEntry
from docdb_stream.cli.commands import app
from docdb_stream.errors import HistoryLostError
from docdb_stream.local import ReplicaSet
from docdb_stream.local.process import wait_until
from docdb_stream.mongodb.connection import Connection
from docdb_stream.poller import Poller
from docdb_stream.position import Namespace, Position, ResumeToken, SnapshotProgress, SnapshotRange
from docdb_stream.settings import Settings
from docdb_stream.stores.mongodb import MongoCheckpointStore
from docdb_stream.testing.positions import KEYS

pytestmark = pytest.mark.integration

Mongo = MongoClient[dict[str, Any]]
# A token of Amazon DocumentDB, as its documentation shows them; MongoDB answers with code 50811.
FOREIGN = "0163eeb6e7000000090100000009000041e1"


class Stream:
    """A stream over the test's own database, run by the command line into a file."""

    def __init__(self, uri: str, mongo: Mongo, db_name: str, folder: Path) -> None:
        self.db, self.name = mongo[db_name], f"{db_name}.orders"
        self._file = folder / "changes.jsonl"
        self.environment = {
            "DOCUMENTDB_URI": uri,
            "STATE_DB": f"{db_name}_state",
            "WATCHED_DB_NAME": db_name,
            "WATCHED_COLLECTION_NAME": "orders",
            "FILE_PATH": str(self._file),
        }
        self.settings = Settings.from_env(self.environment)

    def cli(self, *arguments: str) -> Any:
        """The command line, in this process: a process of its own would only take longer."""
        return CliRunner().invoke(app, arguments, env=self.environment)

    def run(self, **values: Any) -> int:
        poller = Poller.from_settings(self.settings.model_copy(update=values))
        try:
            return poller.run().events
        finally:
            poller.close()

    def lines(self) -> list[str]:
        return self._file.read_text().splitlines() if self._file.exists() else []

    def ids(self) -> list[Any]:
        return [json.loads(line)["documentKey"]["_id"] for line in self.lines()]

    def checkpoint(self) -> Checkpoint:
        with Connection(self.settings) as connection:
            found = MongoCheckpointStore(self.settings, connection).load(self.name)
        assert found is not None
        return found

    def ledger(self) -> list[LedgerEntry]:
        with Connection(self.settings) as connection:
            return list(MongoCheckpointStore(self.settings, connection).ledger(self.name))

    def lose_history(self) -> Position:
        """Let the checkpoint be one that the server cannot go on from; returns it."""
        position = Position.at_token(ResumeToken({"_data": FOREIGN}))
        self.save(position)
        return position

    def save(self, position: Position) -> None:
        with Connection(self.settings) as connection:
            store = MongoCheckpointStore(self.settings, connection)
            lease = store.acquire(self.name, self.settings.scope, "test", 10)
            store.save(lease, position)
            store.release(lease)


@pytest.fixture
def stream(replica_set: ReplicaSet, mongo: Mongo, db_name: str, tmp_path: Path) -> Stream:
    return Stream(replica_set.uri, mongo, db_name, tmp_path)


def test_the_stream_stops_and_says_so_in_one_place(stream: Stream, cli: Any) -> None:
    stream.db.orders.insert_one({"_id": 1})
    lost = stream.lose_history()
    done = cli.run("run", "--json", **stream.environment)
    assert done.returncode == 5
    error = json.loads(done.stdout)["error"]
    assert (error["kind"], error["exit_code"]) == ("history-lost", 5)
    assert "no longer in the change log" in done.stderr
    assert "hint: the events since then are lost to this stream: load the collection anew" in done.stderr
    assert f"docdb-stream reset '{stream.name}' --to" in done.stderr
    for _ in range(2):
        with pytest.raises(HistoryLostError):
            stream.run()
    assert stream.checkpoint().position == lost
    assert stream.ids() == []
    [entry] = stream.ledger()
    assert (entry.kind, entry.before, entry.after) == ("history-lost", lost, None)
    assert entry.found_at is not None
    [line] = stream.cli("ledger", "--json").stdout.splitlines()
    assert json.loads(line) | {"reason": "", "found_at": ""} == {
        "stream": stream.name,
        "kind": "history-lost",
        "before_time": "2023-02-16T23:06:15+00:00",
        "after_time": None,
        "reason": "",
        "found_at": "",
    }
    assert "not decided yet" in stream.cli("ledger").stdout


@pytest.mark.parametrize(("choice", "expected"), [("now", []), ("earliest", [1, 2])])
def test_it_goes_on_where_the_setting_says(stream: Stream, choice: str, expected: list[int]) -> None:
    stream.db.orders.insert_many([{"_id": 1}, {"_id": 2}])
    lost = stream.lose_history()
    assert stream.run(on_history_lost=choice) == len(expected)
    assert stream.ids() == expected
    [entry] = stream.ledger()
    assert (entry.kind, entry.before) == ("history-lost", lost)
    assert entry.after is not None
    stream.db.orders.insert_one({"_id": 3})
    assert stream.run() == 1
    assert stream.ids() == [*expected, 3]
    assert len(stream.ledger()) == 1


@pytest.mark.parametrize(("to", "expected"), [("now", []), ("earliest", [1, 2])])
def test_reset_ends_it(stream: Stream, to: str, expected: list[int]) -> None:
    stream.db.orders.insert_many([{"_id": 1}, {"_id": 2}])
    lost = stream.lose_history()
    with pytest.raises(HistoryLostError):
        stream.run()
    done = stream.cli("reset", stream.name, "--to", to)
    assert done.exit_code == 0, done.stderr
    assert f"{stream.name}: goes on at" in done.stdout
    assert stream.run() == len(expected)
    assert stream.ids() == expected
    entries = {entry.kind: entry for entry in stream.ledger()}
    assert sorted(entries) == ["history-lost", "reset"]
    for entry in entries.values():
        assert entry.before == lost
        assert entry.after is not None
    assert "reset by" in entries["reset"].reason
    assert "not decided yet" not in stream.cli("ledger").stdout


def test_reset_to_a_time_delivers_what_came_after_it(stream: Stream, mongo: Mongo) -> None:
    stream.run()
    stream.db.orders.insert_one({"_id": 1})
    first = mongo.admin.command("ping")["operationTime"]

    def later() -> bool:
        stream.db.other.insert_one({})
        return bool(mongo.admin.command("ping")["operationTime"].time > first.time + 1)

    wait_until(later, "the cluster's clock moves on", timeout_s=10)
    stream.db.orders.insert_one({"_id": 2})
    assert stream.run() == 2
    moment = Timestamp(first.time + 1, 0).as_datetime()
    done = stream.cli("reset", stream.name, "--to", moment.isoformat())
    assert done.exit_code == 0, done.stderr
    assert str(moment) in done.stdout
    assert stream.run() == 1
    assert stream.ids() == [1, 2, 2]


def test_reset_to_a_token_delivers_what_came_after_it(stream: Stream) -> None:
    with stream.db.orders.watch() as watching:
        stream.db.orders.insert_many([{"_id": number} for number in range(4)])
        tokens = [next(watching)["_id"]["_data"] for _ in range(4)]
    stream.run()
    position = reset(stream.settings, token=tokens[1])
    assert position.token == ResumeToken({"_data": tokens[1]})
    assert stream.run() == 2
    assert stream.ids() == [2, 3]


def test_reset_is_for_a_stream_without_a_checkpoint_too(stream: Stream) -> None:
    stream.db.orders.insert_one({"_id": 1})
    reset(stream.settings, to="earliest")
    assert stream.run() == 1
    [entry] = stream.ledger()
    assert (entry.kind, entry.before) == ("reset", None)


def test_a_snapshot_under_way_is_kept_shown_and_dropped_by_a_reset(stream: Stream) -> None:
    stream.db.orders.insert_one({"_id": 1})
    reset(stream.settings, to="earliest")
    begun = SnapshotRange(Namespace(stream.db.name, "orders"), after=KEYS["date after Python's"])
    ranges = (begun, replace(begun, after=None, done=True, documents=3))
    snapshot = SnapshotProgress("first", ranges, time=Timestamp(1, 0), is_paused=True, estimate=10)
    position = stream.checkpoint().position
    assert position is not None
    stream.save(replace(position, snapshot=snapshot))
    assert stream.run() == 1
    position = stream.checkpoint().position
    assert position is not None
    assert (position.snapshot, position.token is None) == (snapshot, False)
    shown = json.loads(stream.cli("status", "--json", "--stream", stream.name).stdout)
    namespace = f"{stream.db.name}.orders"
    assert shown["snapshot"] == {
        "id": "first",
        "documents": 3,
        "estimate": 10,
        "paused": True,
        "shared": False,
        "began_at": None,
        "match": None,
        "targets": [],
        "ranges": [
            {"namespace": namespace, "documents": 0, "done": False},
            {"namespace": namespace, "documents": 3, "done": True},
        ],
    }
    assert stream.cli("reset", stream.name, "--to", "now").exit_code == 0
    position = stream.checkpoint().position
    assert position is not None
    assert position.snapshot is None
    assert json.loads(stream.cli("status", "--json", "--stream", stream.name).stdout)["snapshot"] is None
    assert "the snapshot first under way is dropped" in stream.cli("ledger").stdout


def test_a_checkpoint_that_somebody_changed_passes_nothing_over(stream: Stream, mongo: Mongo) -> None:
    """Without its position the stream would start now."""
    stream.db.orders.insert_one({"_id": 1})
    reset(stream.settings, to="earliest")
    majority = WriteConcern("majority")  # which is what is read; not the default before MongoDB 5.0
    state = mongo[stream.settings.state_db].get_collection(stream.settings.state_collection, write_concern=majority)
    state.update_one({"_id": stream.name}, {"$set": {"position.operation_time": "2026-01-31"}})
    for arguments in (["run"], ["status"], ["reset", stream.name, "--to", "now"]):
        done = stream.cli(*arguments)
        assert done.exit_code == 3
        assert f"the checkpoint {stream.name} cannot be read: operation_time is of type str" in done.output
        assert "delete it and say where to go on" in done.output
    state.delete_one({"_id": stream.name})
    assert stream.cli("reset", stream.name, "--to", "earliest").exit_code == 0
    assert stream.run() == 1
    assert stream.ids() == [1]


def test_reset_is_refused_while_a_run_works(stream: Stream) -> None:
    stream.run()
    before = stream.checkpoint().position
    with Connection(stream.settings) as connection:
        store = MongoCheckpointStore(stream.settings, connection)
        lease = store.acquire(stream.name, stream.settings.scope, "a run", 30)
        done = stream.cli("reset", stream.name, "--to", "earliest")
        store.release(lease)
    assert done.exit_code == 6
    assert "is being worked on by a run" in done.stderr
    assert "hint: " in done.stderr
    assert stream.checkpoint().position == before
    assert stream.ledger() == []


def test_reset_to_a_lost_token_changes_nothing(stream: Stream) -> None:
    stream.run()
    stream.db.orders.insert_one({"_id": 1})
    stream.run()
    before = stream.checkpoint()
    token = json.loads(stream.lines()[-1])["_id"]["_data"]
    lost = f"{token[:2]}{1_600_000_000:08x}{token[10:]}"  # the same, of a time before the log begins
    done = stream.cli("reset", stream.name, "--token", lost)
    assert done.exit_code == 5
    after = stream.checkpoint()
    assert (after.position, after.owner) == (before.position, None)
    assert stream.ledger() == []


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--to", "now", "--token", "82"], "either --to or --token"),
        ([], "either --to or --token"),
        (["--to", "yesterday"], "ISO 8601"),
    ],
)
def test_reset_with_a_wrong_command_line(stream: Stream, arguments: list[str], told: str) -> None:
    done = stream.cli("reset", stream.name, *arguments)
    assert done.exit_code == 2
    assert told in done.stderr
    assert "Traceback" not in done.stderr


def test_reset_of_an_unknown_stream(stream: Stream) -> None:
    done = stream.cli("reset", "another", "--to", "now")
    assert done.exit_code == 2
    assert "there is no stream another" in done.stderr


@pytest.mark.parametrize("token", ["zzzz", "not-a-token", "", "82", "8", "00" * 40, "82ffffff", "82" * 20, FOREIGN])
def test_a_token_that_is_none_is_refused(stream: Stream, token: str) -> None:
    stream.run()
    before = stream.checkpoint().position
    done = stream.cli("reset", stream.name, "--token", token)
    assert done.exit_code == 2, done.stderr
    assert "error: reset: " in done.stderr
    assert "hint: " in done.stderr
    assert "load the collection anew" not in done.stderr
    assert stream.checkpoint().position == before


def test_an_empty_ledger_says_so(stream: Stream) -> None:
    assert stream.cli("ledger").stdout == "the ledger is empty\n"
    assert stream.cli("ledger", "--json").stdout == ""


def test_a_time_that_is_still_to_come_is_no_position(stream: Stream) -> None:
    """A stream reset to tomorrow must not lose what happens today without a word."""
    stream.run()
    tomorrow = dt.datetime.now(dt.UTC) + dt.timedelta(days=1)
    done = stream.cli("reset", stream.name, "--to", tomorrow.isoformat())
    assert done.exit_code == 2, done.stdout + done.stderr
    assert "still to come" in done.stderr
