"""A snapshot by the command line: asked for, shown, paused, resumed, cancelled."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pymongo import MongoClient

from docdb_stream.local import ReplicaSet

pytestmark = pytest.mark.integration


class Stream:
    """One stream from a database into a file, worked on by the command line."""

    def __init__(self, uri: str, mongo: MongoClient[dict[str, Any]], db_name: str, file: Path, cli: Any) -> None:
        self.db, self.file, self._cli = mongo[db_name], file, cli
        self.name = f"{db_name}.*"
        self.environment = {
            "DOCUMENTDB_URI": uri,
            "WATCHED_DB_NAME": db_name,
            "STATE_DB": f"{db_name}_state",
            "FILE_PATH": str(file),
            "BATCH_SIZE": "10",
        }

    def done(self, *arguments: str, **environment: str) -> Any:
        return self._cli.run(*arguments, **{**self.environment, **environment})

    def snapshot(self, action: str, *options: str) -> Any:
        return self.done("snapshot", action, self.name, *options)

    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.snapshot("status", "--json").stdout)
        return found

    def delivered(self) -> list[Any]:
        if not self.file.exists():
            return []
        return [json.loads(line)["documentKey"]["_id"] for line in self.file.read_text().splitlines()]


@pytest.fixture
def stream(replica_set: ReplicaSet, mongo: Any, db_name: str, tmp_path: Path, cli: Any) -> Stream:
    found = Stream(replica_set.uri, mongo, db_name, tmp_path / "out.jsonl", cli)
    found.db.orders.insert_many([{"_id": n, "total": n} for n in range(30)])
    found.db.customers.insert_many([{"_id": str(n)} for n in range(5)])
    return found


def test_a_new_stream_begins_with_what_there_is(stream: Stream) -> None:
    first = stream.done("run", START_AT="snapshot", MAX_LOOP="2")
    assert first.returncode == 0, first.stderr
    assert "begins with a snapshot" in first.stderr
    assert "it goes on with the next run" in first.stderr
    assert stream.status()["snapshot"]["estimate"] == 35
    assert "snapshot status" in stream.done("status").stdout
    last = stream.done("run", "--json", START_AT="snapshot")
    result = json.loads(last.stdout)
    assert (result["caught_up"], result["snapshot"], result["snapshot_documents"] > 0) == (True, None, True)
    assert sorted(stream.delivered(), key=repr) == sorted([*range(30), *map(str, range(5))], key=repr)
    assert "snapshot" in stream.done("ledger").stdout
    assert "no snapshot is under way" in stream.snapshot("status").stdout


def test_one_that_runs_already_is_asked_for_it(stream: Stream) -> None:
    assert stream.snapshot("start").returncode == 2  # it has not run yet
    stream.done("run")
    asked = stream.snapshot("start", "--namespaces", f"{stream.db.name}.ord*", "--match", '{"total": {"$gte": 5}}')
    assert (asked.returncode, "its next run does it" in asked.stdout) == (0, True), asked.stderr
    again = stream.snapshot("start")
    assert (again.returncode, "under way" in again.stderr) == (2, True)
    assert [each["action"] for each in stream.status()["pending"]] == ["start"]
    stream.done("run", MAX_LOOP="1")
    assert stream.delivered() == [*range(5, 15)]
    stream.snapshot("pause")
    stream.done("run")
    assert stream.delivered() == [*range(5, 15)]
    assert "paused" in stream.snapshot("status").stdout
    stream.snapshot("resume", "--json")
    stream.done("run", MAX_LOOP="1")
    stream.snapshot("cancel")
    stream.done("run")
    assert stream.delivered() == [*range(5, 25)]
    for action in ("pause", "resume", "cancel"):
        refused = stream.snapshot(action)
        assert (refused.returncode, "has no snapshot to" in refused.stderr) == (2, True)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--namespaces", "elsewhere.*"), "does not watch that"),
        (("--namespaces", "orders"), "does not watch that"),
        (("--match", "[1]"), "is no query"),
        (("--match", "{"), "is no query"),
        (("--targets", "file,kafka"), "has no such target"),
    ],
)
def test_what_cannot_be_is_refused_at_once(stream: Stream, options: tuple[str, ...], told: str) -> None:
    stream.done("run")
    refused = stream.snapshot("start", *options)
    assert (refused.returncode, told in refused.stderr) == (2, True), refused.stderr
    assert "Traceback" not in refused.stderr
    assert stream.status()["pending"] == []
