"""A schema that changes, by the command line: one collection stops, the others go on, and it is accepted."""

from __future__ import annotations

import io
import json
import signal
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from contract.s3_bucket import Bucket
from pymongo import MongoClient

from docdb_stream.local import AwsServer, ReplicaSet
from docdb_stream.local.process import wait_until

pytestmark = pytest.mark.integration


class Stream:
    """One stream over a database, worked on by the command line."""

    def __init__(self, uri: str, mongo: MongoClient[dict[str, Any]], db_name: str, file: Path, cli: Any) -> None:
        self.mongo, self.db, self.file, self._cli = mongo, mongo[db_name], file, cli
        self.name = f"{db_name}.*"
        self.environment = {
            "DOCUMENTDB_URI": uri,
            "WATCHED_DB_NAME": db_name,
            "STATE_DB": f"{db_name}_state",
            "FILE_PATH": str(file),
            "SCHEMA_POLICY": "stop",
            "BATCH_SIZE": "7",
        }

    def done(self, *arguments: str, **environment: str) -> Any:
        return self._cli.run(*arguments, **{**self.environment, **environment})

    def started(self, *arguments: str, **environment: str) -> Any:
        return self._cli.start(*arguments, **{**self.environment, **environment})

    def schema(self, action: str, *arguments: str) -> Any:
        return self.done("schema", action, self.name, *arguments)

    def delivered(self, coll: str) -> list[Any]:
        events = [json.loads(line) for line in self.file.read_text().splitlines()] if self.file.exists() else []
        return [event["documentKey"]["_id"] for event in events if event["ns"].get("coll") == coll]


@pytest.fixture
def stream(replica_set: ReplicaSet, mongo: Any, db_name: str, tmp_path: Path, cli: Any) -> Stream:
    found = Stream(replica_set.uri, mongo, db_name, tmp_path / "out.jsonl", cli)
    assert found.done("run").returncode == 0
    for coll in ("orders", "customers"):
        found.db[coll].insert_many([{"_id": n, "total": n} for n in range(3)])
    assert found.done("run").returncode == 0
    return found


def test_one_stops_the_others_go_on_and_it_is_accepted(stream: Stream) -> None:
    for number in range(3, 40):
        stream.db.orders.insert_one({"_id": number, "total": number} | ({"coupon": "x"} if number == 20 else {}))
        stream.db.customers.insert_one({"_id": number, "total": number})
    for _ in range(2):
        stopped = stream.done("run")
        assert stopped.returncode == 8, stopped.stderr
        assert "orders has stopped, new in its documents: coupon of type string" in stopped.stderr
    assert stream.delivered("customers") == [*range(40)]
    assert stream.delivered("orders") == [*range(20)]

    assert "has stopped for its schema" in stream.done("status").stdout
    status = json.loads(stream.done("status", "--json").stdout)
    assert [*status["stopped"]] == [f"{stream.db.name}.orders"]
    shown = stream.schema("show")
    assert "stopped for coupon of type string" in shown.stdout
    [kept] = [json.loads(line) for line in stream.schema("show", "*.orders", "--json").stdout.splitlines()]
    assert kept["stopped_for"]["added"] == [{"path": "coupon", "type": "string"}]
    assert {each["path"]: [*each["types"]] for each in kept["paths"]} == {"_id": ["int"], "total": ["int"]}
    assert kept["documents"] == 20
    refused = stream.done("snapshot", "start", stream.name)
    assert (refused.returncode, "schema accept" in refused.stderr) == (2, True)

    accepted = stream.schema("accept", f"{stream.db.name}.orders")
    assert (accepted.returncode, "coupon of type string" in accepted.stdout) == (0, True)
    again = stream.schema("accept")
    assert (again.returncode, "no collection stopped" in again.stderr) == (2, True)
    stream.db.orders.insert_one({"_id": 40, "total": 40})
    assert stream.done("run").returncode == 0
    assert stream.delivered("customers") == [*range(40)]
    assert stream.delivered("orders") == [*range(41)]
    history = [json.loads(line) for line in stream.schema("history", "*.orders", "--json").stdout.splitlines()]
    assert [(each["version"], each["how"]) for each in history] == [(1, "learned"), (2, "accepted")]
    assert "accepted" in stream.schema("history").stdout


def test_a_run_that_follows_takes_up_what_is_accepted(stream: Stream) -> None:
    run = stream.started("run", "--follow")
    try:
        stream.db.orders.insert_one({"_id": "new"})
        wait_until(lambda: stream.schema("accept").returncode == 0, "it has stopped", timeout_s=60)
        stream.db.customers.insert_one({"_id": 3, "total": 3})
        wait_until(lambda: stream.delivered("orders")[3:] == ["new"], "it goes on", timeout_s=60)
        wait_until(lambda: stream.delivered("customers") == [*range(4)], "the other, too", timeout_s=30)
    finally:
        run.send_signal(signal.SIGTERM)
        assert run.wait(30) == 0
    assert stream.delivered("orders") == [0, 1, 2, "new"]


def test_changes_of_one_transaction_come_once(stream: Stream) -> None:
    with stream.mongo.start_session() as session, session.start_transaction():
        for number in range(3, 23):
            stream.db.orders.insert_one({"_id": number, "total": "text" if number > 10 else 1}, session=session)
            stream.db.customers.insert_one({"_id": number, "total": 1}, session=session)
    assert stream.done("run", STATE_SYNC_COUNT="1").returncode == 8
    assert stream.delivered("orders") == [*range(11)]
    assert stream.delivered("customers") == [*range(23)]
    stream.schema("accept")
    assert stream.done("run", MAX_LOOP="2").returncode == 0
    assert stream.done("run").returncode == 0
    assert stream.delivered("orders") == [*range(23)]
    assert stream.delivered("customers") == [*range(23)]


@pytest.mark.long
def test_a_killed_run_loses_nothing_of_what_it_goes_back_for(stream: Stream) -> None:
    stream.db.orders.insert_one({"_id": 3, "coupon": 1})
    for number in range(4, 3000):
        stream.db.orders.insert_one({"_id": number, "total": 1})
    stream.db.customers.insert_one({"_id": 3, "total": 1})
    assert stream.done("run").returncode == 8
    stream.schema("accept")
    run = stream.started("run", STATE_SYNC_COUNT="1")
    wait_until(lambda: len(stream.delivered("orders")) > 500, "it has gone back", timeout_s=60)
    run.kill()
    run.wait(10)
    assert stream.done("run").returncode == 0
    found = stream.delivered("orders")
    assert [*dict.fromkeys(found)] == [*range(3000)]
    assert stream.delivered("customers") == [*range(4)]


@pytest.mark.long
def test_the_only_collection_stops_its_stream(stream: Stream) -> None:
    only = {"WATCHED_COLLECTION_NAME": "orders", "STREAM_NAME": "only", "FILE_PATH": f"{stream.file}.only"}
    stream.file = Path(only["FILE_PATH"])
    stream.done("run", **only)
    stream.db.orders.insert_many([{"_id": n, "total": n} for n in (10, 11)])
    assert stream.done("run", **only).returncode == 0
    stream.db.orders.insert_many([{"_id": n, "total": 1 if n < 15 else 1.5} for n in range(12, 20)])
    for _ in range(2):
        run = stream.done("run", "--json", **only)
        assert run.returncode == 8
        assert json.loads(run.stdout)["stopped_by"] == "schema"
    assert stream.delivered("orders") == [10, 11, 12, 13, 14]
    assert stream.done("schema", "accept", "only", **only).returncode == 0
    assert stream.done("run", **only).returncode == 0
    assert stream.delivered("orders") == [*range(10, 20)]


@pytest.mark.long
def test_a_snapshot_learns_and_stops_nothing(stream: Stream) -> None:
    stream.db.orders.insert_one({"_id": 3, "nested": {"a": [1, {"b": True}]}})
    new = {"STREAM_NAME": "new", "START_AT": "snapshot", "FILE_PATH": f"{stream.file}.new"}
    assert stream.done("run", **new).returncode == 0
    found = [json.loads(line) for line in stream.done("schema", "show", "new", "--json", **new).stdout.splitlines()]
    orders = next(each for each in found if each["namespace"].endswith(".orders"))
    paths = [each["path"] for each in orders["paths"]]
    assert paths == ["_id", "total", "nested", "nested.a", "nested.a[]", "nested.a[].b"]


def test_without_a_ledger_the_command_says_how_to_have_one(stream: Stream) -> None:
    refused = stream.done("schema", "show", "other", STREAM_NAME="other", SCHEMA_POLICY="")
    assert (refused.returncode, "SCHEMA_POLICY" in refused.stderr) == (2, True), refused.stderr


def test_columns_in_s3_are_those_of_the_ledger(stream: Stream, aws: AwsServer) -> None:
    bucket = Bucket(aws)
    lake = {
        **aws.environment(),
        "BUCKET_NAME": bucket.name,
        "S3_FORMAT": "parquet",
        "STREAM_NAME": "lake",
        "SCHEMA_POLICY": "",
    }
    stream.done("run", **lake)
    stream.db.orders.insert_one({"_id": 10, "total": 1, "Total": "text"})
    assert stream.done("run", **lake).returncode == 0
    stream.db.orders.insert_one({"_id": 11, "total": 2.5})
    assert stream.done("run", **lake).returncode == 0
    files = [body for key, body in bucket.objects().items() if key.endswith(".parquet")]
    first, second = [pq.read_table(io.BytesIO(body)) for body in files]
    assert first.schema.field("total").type == "int32"
    [row] = second.to_pylist()
    assert (row["_id"], row["total"], row["Total__2"]) == (11, 2.5, None)
    [kept] = [
        json.loads(line)
        for line in stream.done("schema", "show", "lake", "*.orders", "--json", **lake).stdout.splitlines()
    ]
    assert [(each["column"], each["column_type"]) for each in kept["paths"]] == [
        ("_id", "int32"),
        ("total", "double"),
        ("Total__2", "text"),
    ]
    bucket.client.close()
