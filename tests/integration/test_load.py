"""From a replica set by Parquet in S3 into PostgreSQL: every table equals its collection, value by value."""

from __future__ import annotations

import datetime as dt
import json
import random
import signal
import time
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import psycopg
import pytest
from bson import Decimal128, Int64, ObjectId
from bson.datetime_ms import DatetimeMS
from contract.s3_bucket import Bucket
from psycopg.rows import dict_row
from pymongo import MongoClient

from docdb_stream.errors import TargetError
from docdb_stream.handlers import load as load_handler
from docdb_stream.handlers._runtime import Runtime
from docdb_stream.local import AwsServer, PostgresServer, ReplicaSet
from docdb_stream.local.process import wait_until

pytestmark = pytest.mark.integration

UTC = dt.UTC
OWN = {"_key", "_version", "_cluster_time", "_event_id"}


class Warehouse:
    """A stream over a database into Parquet, and a schema of PostgreSQL that is loaded from it, by the command line."""

    def __init__(
        self,
        uri: str,
        mongo: MongoClient[dict[str, Any]],
        db_name: str,
        aws: AwsServer,
        postgres: PostgresServer,
        cli: Any,
    ) -> None:
        self.mongo, self.db, self._cli = mongo, mongo[db_name], cli
        self.bucket, self.postgres = Bucket(aws), postgres
        self.schema = f"load_{db_name}"
        self.name = f"{db_name}.*"
        self.environment = {
            **aws.environment(),
            "DOCUMENTDB_URI": uri,
            "WATCHED_DB_NAME": db_name,
            "STATE_DB": f"{db_name}_state",
            "BUCKET_NAME": self.bucket.name,
            "S3_FORMAT": "parquet",
            "WAREHOUSE_URI": postgres.uri,
            "WAREHOUSE_SCHEMA": self.schema,
        }

    def done(self, *arguments: str, code: int = 0, **environment: str) -> Any:
        found = self._cli.run(*arguments, **{**self.environment, **environment})
        assert found.returncode == code, found.stderr
        return found

    def load(self, **environment: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.done("load", self.name, "--json", **environment).stdout)
        return found

    def started(self, *arguments: str) -> Any:
        return self._cli.start(*arguments, **self.environment)

    def sql(self, statement: str) -> list[dict[str, Any]]:
        with psycopg.connect(self.postgres.uri, row_factory=dict_row) as connection:
            connection.execute(f'SET search_path TO "{self.schema}"')  # type: ignore[call-overload]
            return connection.execute(statement).fetchall()  # type: ignore[call-overload,no-any-return]

    def table(self, coll: str) -> dict[Any, dict[str, Any]]:
        """Rows by ``_id``, without what is null and what is the table's own."""
        rows = self.sql(f'SELECT * FROM "{self.db.name}_{coll}"')
        return {
            row["_id"]: {name: value for name, value in row.items() if name not in OWN and value is not None}
            for row in rows
        }

    def collection(self, coll: str) -> dict[Any, dict[str, Any]]:
        """The same of the collection, as the table should have it."""
        found = {}
        for document in self.db[coll].find():
            row = {name: expected(value) for name, value in document.items() if value is not None}
            found[row["_id"]] = row
        return found

    def keys(self) -> list[str]:
        return [key for key in self.bucket.objects() if "_manifests/" in key]


def expected(value: Any) -> Any:
    match value:
        case ObjectId():
            return str(value)
        case Decimal128():
            return value.to_decimal()
        case dt.datetime():
            return value.replace(tzinfo=UTC)
        case dict() | list():
            return json.loads(json.dumps(value, default=str))
        case Int64():
            return int(value)
    return value


@pytest.fixture
def warehouse(
    replica_set: ReplicaSet, mongo: Any, db_name: str, aws: AwsServer, postgres: PostgresServer, cli: Any
) -> Iterator[Warehouse]:
    found = Warehouse(replica_set.uri, mongo, db_name, aws, postgres, cli)
    found.done("run")
    yield found
    found.bucket.client.close()


def test_tables_equal_collections(warehouse: Warehouse) -> None:
    chance = random.Random(1)
    values: list[Any] = [
        "text",
        "with \0 and é 'quotes' \\ \"\t\n",
        True,
        ObjectId(),
        dt.datetime(1850, 1, 2, 3, 4, 5, 678000),
        {"a": [1, {"b": None}], "text": "\0 and \\u0000"},
        [],
        b"\0\xff",
    ]
    names = ("a", "b.c", "select", 'quo"te', "Total", "x{y}%s", "z")
    kinds = {name: values[number] for number, name in enumerate(names)}
    numbers: list[Any] = [1, 2.5, 7, -3]
    for step in range(4):
        for _ in range(60):
            key = chance.randrange(80)
            document = {name: value for name, value in kinds.items() if chance.random() < 0.7}
            document |= {"n": chance.choice(numbers), "big": Int64(2**60 + key), "dec": Decimal128(f"{key}.125")}
            action = chance.random()
            if action < 0.6:
                warehouse.db.orders.replace_one({"_id": key}, document, upsert=True)
            elif action < 0.8:
                warehouse.db.orders.update_one({"_id": key}, {"$unset": {"n": 1}, "$set": {f"new{step}": key}})
            else:
                warehouse.db.orders.delete_one({"_id": key})
            warehouse.db.customers.update_one({"_id": f"c{key}"}, {"$inc": {"orders": 1}}, upsert=True)
        warehouse.done("run", STATE_SYNC_COUNT="1", BATCH_SIZE="25")
        if step != 1:
            result = warehouse.load()
            assert (result["waiting"], result["manifests"] > 0) == (0, True)
    assert warehouse.table("customers") == warehouse.collection("customers")
    wanted = warehouse.collection("orders")
    named = {"b.c": "b_c", 'quo"te': "quo_te"}
    cleaned = {key: {named.get(name, name): clean(value) for name, value in row.items()} for key, row in wanted.items()}
    assert warehouse.table("orders") == cleaned
    assert warehouse.load()["manifests"] == 0


def clean(value: Any) -> Any:
    if isinstance(value, str):
        return value.replace("\0", "\ufffd")
    if isinstance(value, dict):
        return {name.replace("\0", "\ufffd"): clean(each) for name, each in value.items()}
    return [clean(each) for each in value] if isinstance(value, list) else value


def test_what_is_loaded_again_or_late_changes_nothing(warehouse: Warehouse) -> None:
    orders = warehouse.db.orders
    orders.insert_many([{"_id": n, "total": n} for n in range(20)])
    warehouse.done("run")
    orders.update_many({"_id": {"$lt": 10}}, {"$set": {"total": "changed"}})
    orders.delete_many({"_id": {"$gte": 15}})
    warehouse.done("run")
    warehouse.load()
    before = warehouse.table("orders")
    assert [*sorted(before)] == [*range(15)]
    assert before[3] == {"_id": 3, "total__string": "changed"}
    first, last = warehouse.keys()
    for forgotten in (first, last):
        warehouse.sql(f"DELETE FROM docdb_stream_loads WHERE manifest = '{forgotten}' RETURNING 1")
        result = warehouse.load()
        assert result["manifests"] == 1
        assert warehouse.table("orders") == before
    assert result["stale"] == 0


def test_a_collection_that_is_dropped_takes_its_rows_along(warehouse: Warehouse) -> None:
    warehouse.db.orders.insert_many([{"_id": n} for n in range(5)])
    warehouse.done("run")
    warehouse.load()
    warehouse.db.orders.drop()
    warehouse.db.orders.insert_one({"_id": 3, "new": True})
    warehouse.done("run")
    warehouse.load()
    assert warehouse.table("orders") == {3: {"_id": 3, "new": True}}
    warehouse.sql(f"DELETE FROM docdb_stream_loads WHERE manifest = '{warehouse.keys()[0]}' RETURNING 1")
    warehouse.load()
    assert warehouse.table("orders") == {3: {"_id": 3, "new": True}}


@pytest.mark.long
def test_a_collection_that_is_renamed_takes_its_rows_along(warehouse: Warehouse) -> None:
    db = warehouse.db
    kept: dict[str, Any] = {"at": dt.datetime(1850, 1, 2, 3, 4, 5, 678000), "data": b"\0\xff", "nested": {"a": [1]}}
    db.orders.insert_many([{"_id": n, "total": n, **kept} for n in range(10)])
    db.archive.insert_many([{"_id": n, "total": "of another", "old": True} for n in (3, 50)])
    warehouse.done("run")
    warehouse.load()
    # Before and after it, under both names, in one manifest.
    db.orders.insert_one({"_id": 11, "total": 2.5})
    warehouse.done("run", STATE_SYNC_COUNT="100")
    db.orders.rename("archive", dropTarget=True)
    db.archive.update_one({"_id": 1}, {"$set": {"total": 100}})
    db.archive.delete_one({"_id": 2})
    db.orders.insert_one({"_id": 1, "new": True})
    warehouse.done("run")
    warehouse.load()

    def equal() -> None:
        for coll in ("orders", "archive"):
            rows = {key: plain(row) for key, row in warehouse.table(coll).items()}
            assert rows == {key: plain(row) for key, row in warehouse.collection(coll).items()}, coll

    equal()
    # There and back, in one go; and each manifest once more, in any order.
    db.orders.rename("other")
    db.archive.rename("orders")
    db.orders.insert_one({"_id": 60, "total": 6})
    db.orders.rename("archive")
    db.other.rename("orders")
    warehouse.done("run")
    warehouse.load()
    equal()
    assert warehouse.table("other") == {}
    for key in [*warehouse.keys(), *reversed(warehouse.keys())]:
        warehouse.sql(f"DELETE FROM docdb_stream_loads WHERE manifest = '{key}' RETURNING 1")
        warehouse.load()
        equal()


def plain(row: dict[str, Any]) -> dict[str, Any]:
    """A row whatever the columns of another collection have made of its number or text."""
    named = {name.removesuffix("__string"): value for name, value in row.items()}
    return {**named, "total": str(float(named["total"]))} if "total" in named else named


def test_what_is_renamed_to_where_nobody_looks_is_gone(warehouse: Warehouse) -> None:
    warehouse.environment["NAMESPACES"] = f"{warehouse.db.name}.orders"
    warehouse.db.orders.insert_many([{"_id": n} for n in range(3)])
    warehouse.done("run")
    warehouse.load()
    warehouse.db.orders.rename("archive")
    warehouse.db.orders.insert_one({"_id": 7})
    warehouse.done("run")
    warehouse.load()
    assert warehouse.table("orders") == {7: {"_id": 7}}
    tables = warehouse.sql(
        f"SELECT table_name FROM information_schema.tables WHERE table_schema = '{warehouse.schema}'"
    )
    assert not [each for each in tables if each["table_name"].endswith("archive")]


@pytest.mark.long
def test_columns_widen(warehouse: Warehouse) -> None:
    steps: list[Any] = [1, Int64(2**40), 2.5, Decimal128("0.1"), "text", None]
    for number, value in enumerate(steps):
        warehouse.db.orders.insert_one({"_id": number, "x": value})
        warehouse.done("run")
        warehouse.load()
    found = warehouse.table("orders")
    assert [found[number].get("x") for number in range(6)] == [
        Decimal(1), Decimal(2**40), Decimal("2.5"), Decimal("0.1"), None, None,
    ]  # fmt: skip
    assert found[4]["x__string"] == "text"


@pytest.mark.long
def test_dates_that_the_database_has_not_are_null(warehouse: Warehouse) -> None:
    dates = [2**55, 2**52, 253402214400000, -62167219200001, -(2**55)]
    warehouse.db.orders.insert_many([{"_id": n, "at": DatetimeMS(date)} for n, date in enumerate(dates)])
    warehouse.done("run")
    warehouse.load()
    table = f"{warehouse.db.name}_orders"
    found = warehouse.sql(f'SELECT (1000 * extract(epoch FROM at))::bigint AS ms FROM "{table}" ORDER BY _id')
    assert [row["ms"] for row in found] == [None, 2**52, 253402214400000, -62167219200001, None]


@pytest.mark.long
def test_fields_that_are_called_like_columns_of_the_servers_own(warehouse: Warehouse) -> None:
    names = ("xmin", "ctid", "tableoid", "oid", "_place", "select", "Xmin")
    warehouse.db.orders.insert_one({"_id": 1, **{name: number for number, name in enumerate(names)}})
    warehouse.done("run")
    warehouse.load()
    [row] = warehouse.table("orders").values()
    columns = {"xmin": "xmin__field", "ctid": "ctid__field", "tableoid": "tableoid__field", "_place": "_place__field"}
    columns["Xmin"] = "Xmin__2"  # not every reader tells upper and lower case apart
    assert {name: row[columns.get(name, name)] for name in names} == {name: at for at, name in enumerate(names)}


@pytest.mark.long
def test_a_collection_whose_keys_and_types_are_data(warehouse: Warehouse) -> None:
    """Whatever documents hold, each is a row, and what columns cannot hold stops nothing."""
    values: list[Any] = [
        1,
        "one",
        2.5,
        True,
        None,
        {"a": 1},
        [1],
        ObjectId(),
        b"x",
        Decimal128("1E+6144"),
        Int64(2**60),
    ]
    warehouse.db.mixed.insert_many([{"_id": n, "x": value} for n, value in enumerate(values)])
    keys = [f"key {number}" for number in range(5_200)]
    warehouse.db.wide.insert_many([{"_id": n, **dict.fromkeys(keys[n::4], n)} for n in range(4)])
    awkward = {
        "a.b": 1,
        "a_b": 2,
        'q"q': 3,
        "select": 4,
        "User": 5,
        "user": 6,
        "it's": 7,
        "": 8,
        "%s{}": 9,
        "ö" * 60: 10,
    }
    numbers = {
        "long": "x" * 65_536,
        "most": Decimal128("1234567890123456789012345678901234"),
        "tiny": Decimal128("1E-6176"),
    }
    dates = {"early": dt.datetime(1, 1, 1), "never": DatetimeMS(2**62)}  # test_dates has those after 9999
    warehouse.db.odd.insert_one({"_id": 1, **awkward, **numbers, **dates})
    told = warehouse.done("run")
    assert "more than 5000 paths" in told.stderr
    assert warehouse.load()["waiting"] == 0
    assert len(warehouse.table("mixed")) == len(values)
    mixed = warehouse.table("mixed")
    assert (mixed[0]["x"], mixed[1]["x__string"], mixed[3]["x__string"]) == (1, "one", "true")
    assert (mixed[5]["x__string"], mixed[6]["x__string"]) == ('{"a":1}', "[1]")
    wide = warehouse.table("wide")
    assert len(wide) == 4
    assert len({name for row in wide.values() for name in row}) == 1_500
    [odd] = warehouse.table("odd").values()
    assert {1, 2, 3, 4, 5, 6, 7, 8, 9, 10} <= {value for value in odd.values() if isinstance(value, int)}
    assert odd["long"] == "x" * 65_536
    assert odd["most__string"] == "1234567890123456789012345678901234"
    assert odd["early"] == dt.datetime(1, 1, 1, tzinfo=UTC)


def test_a_load_that_is_killed_is_gone_on_with(warehouse: Warehouse) -> None:
    for number in range(40):
        warehouse.db.orders.insert_many([{"_id": 100 * number + n, "total": n} for n in range(100)])
    warehouse.done("run", STATE_SYNC_COUNT="1", BATCH_SIZE="100")
    assert len(warehouse.keys()) > 20
    for _ in range(3):
        begin_loading(warehouse).kill()
    warehouse.load()
    assert warehouse.table("orders") == warehouse.collection("orders")
    assert len(warehouse.sql("SELECT * FROM docdb_stream_loads")) == len(warehouse.keys())


def begin_loading(warehouse: Warehouse) -> Any:
    """A load that has loaded something, or is over."""
    before = _count(warehouse)
    running = warehouse.started("load", warehouse.name)
    wait_until(lambda: _count(warehouse) > before or running.poll() is not None, "it loads", timeout_s=60)
    return running


def _count(warehouse: Warehouse) -> int:
    try:
        return len(warehouse.sql("SELECT * FROM docdb_stream_loads"))
    except psycopg.Error:
        return 0


@pytest.mark.long
def test_a_stop_is_a_clean_end(warehouse: Warehouse) -> None:
    for number in range(30):
        warehouse.db.orders.insert_many([{"_id": 100 * number + n} for n in range(100)])
    warehouse.done("run", STATE_SYNC_COUNT="1", BATCH_SIZE="100")
    running = begin_loading(warehouse)
    running.send_signal(signal.SIGTERM)
    assert running.wait(20) == 0
    warehouse.load()
    assert warehouse.table("orders") == warehouse.collection("orders")


@pytest.mark.long
def test_two_loads_at_a_time_load_everything_once(warehouse: Warehouse) -> None:
    for number in range(10):
        warehouse.db.orders.insert_many([{"_id": 50 * number + n, "n": n} for n in range(50)])
    warehouse.done("run", STATE_SYNC_COUNT="1", BATCH_SIZE="50")
    both = [warehouse.started("load", warehouse.name, "--json") for _ in range(2)]
    results = [json.loads(each.communicate(timeout=60)[0]) for each in both]
    assert sum(each["manifests"] for each in results) == len(warehouse.keys())
    assert warehouse.table("orders") == warehouse.collection("orders")


@pytest.mark.long
def test_a_snapshot_is_loaded_like_any_other(warehouse: Warehouse) -> None:
    warehouse.db.orders.insert_many([{"_id": n, "total": n} for n in range(50)])
    new = {"STREAM_NAME": "new", "START_AT": "snapshot", "WAREHOUSE_SCHEMA": warehouse.schema + "_new"}
    warehouse.done("run", **new)
    warehouse.db.orders.delete_one({"_id": 7})
    warehouse.done("run", **new)
    warehouse.done("load", "new", **new)
    warehouse.schema = new["WAREHOUSE_SCHEMA"]
    assert warehouse.table("orders") == warehouse.collection("orders")


@pytest.mark.parametrize(
    ("environment", "code", "said"),
    [
        ({"WAREHOUSE_URI": ""}, 2, "has no warehouse"),
        ({"WAREHOUSE_URI": "mysql://h/d"}, 2, "no warehouse that is known"),
        ({"WAREHOUSE_URI": "postgresql://postgres@127.0.0.1:1/postgres"}, 4, "cannot be reached"),
        ({"S3_FORMAT": "jsonl"}, 2, "no manifests"),
        ({"BUCKET_NAME": "nobody-has-such-a-bucket"}, 4, "nobody-has-such-a-bucket"),
    ],
)
def test_what_is_wrong_is_said(warehouse: Warehouse, environment: dict[str, str], code: int, said: str) -> None:
    found = warehouse.done("load", warehouse.name, "--timeout", "20", code=code, **environment)
    assert said in found.stderr
    assert "hint:" in found.stderr
    assert "Traceback" not in found.stderr


@pytest.mark.long
def test_a_user_who_may_not_is_told_so(warehouse: Warehouse) -> None:
    warehouse.db.orders.insert_one({"_id": 1})
    warehouse.done("run")
    warehouse.load()
    role = f"reader_{warehouse.db.name}"
    with psycopg.connect(warehouse.postgres.uri, autocommit=True) as connection:
        connection.execute(f'CREATE ROLE "{role}" LOGIN')  # type: ignore[call-overload]
    uri = warehouse.postgres.uri.replace("postgres@", f"{role}@")
    found = warehouse.done("load", warehouse.name, code=4, WAREHOUSE_URI=uri)
    assert "42501" in found.stderr


@pytest.mark.long
def test_a_warehouse_that_is_down_is_waited_for_by_the_next_load(warehouse: Warehouse, tmp_path: Path) -> None:
    with PostgresServer() as own:
        warehouse.postgres = own
        warehouse.environment["WAREHOUSE_URI"] = own.uri
        warehouse.db.orders.insert_one({"_id": 1, "total": 1})
        warehouse.done("run")
        warehouse.load()
        own.kill()
        warehouse.db.orders.insert_one({"_id": 2, "total": 1})
        warehouse.done("run")
        warehouse.done("load", warehouse.name, code=4)
        own.restart()
        warehouse.load()
        assert warehouse.table("orders") == warehouse.collection("orders")


def test_a_server_that_has_stopped_answering_is_given_up_in_time(warehouse: Warehouse) -> None:
    with PostgresServer() as own:
        warehouse.postgres = own
        warehouse.environment["WAREHOUSE_URI"] = own.uri
        warehouse.db.orders.insert_one({"_id": 1, "total": 1})
        warehouse.done("run")
        own.pause()
        began_s = time.monotonic()
        found = warehouse.done("load", warehouse.name, "--timeout", "5", code=4)
        assert time.monotonic() - began_s < 30
        assert "hint:" in found.stderr
        own.resume()
        warehouse.load()
        assert warehouse.table("orders") == warehouse.collection("orders")


class Context:
    function_name = "docdb-stream-load"

    @staticmethod
    def get_remaining_time_in_millis() -> int:
        return 60_000


def test_a_lambda_loads_what_there_is(warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch) -> None:
    warehouse.db.orders.insert_many([{"_id": n, "total": n} for n in range(5)])
    warehouse.done("run")
    for name, value in warehouse.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(load_handler, "_runtime", Runtime())
    event = {"source": "aws.s3", "detail-type": "Object Created", "detail": {"object": {"key": warehouse.keys()[0]}}}
    for manifests in (1, 0):  # an event comes twice now and then
        found = load_handler.handler(event, Context())
        assert (found["stream"], found["manifests"], found["waiting"]) == (warehouse.name, manifests, 0)
    assert warehouse.table("orders") == warehouse.collection("orders")
    monkeypatch.setenv("WAREHOUSE_URI", "postgresql://postgres@127.0.0.1:1/postgres")
    monkeypatch.setattr(load_handler, "_runtime", Runtime())
    with pytest.raises(TargetError, match="cannot be reached"):
        load_handler.handler({}, Context())
