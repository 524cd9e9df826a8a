"""From a replica set by Parquet in S3 into what stands in for Redshift: as into PostgreSQL, and its own matters."""

from __future__ import annotations

import datetime as dt
import re
import time
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
import sqlglot
from bson import Int64
from bson.datetime_ms import DatetimeMS
from contract.redshift_server import RedshiftServer
from integration.test_load import (  # noqa: F401 - the same tests, into another warehouse
    UTC,
    Warehouse,
    test_a_collection_that_is_dropped_takes_its_rows_along,
    test_a_collection_that_is_renamed_takes_its_rows_along,
    test_a_load_that_is_killed_is_gone_on_with,
    test_a_snapshot_is_loaded_like_any_other,
    test_a_stop_is_a_clean_end,
    test_columns_widen,
    test_tables_equal_collections,
    test_two_loads_at_a_time_load_everything_once,
    test_what_is_loaded_again_or_late_changes_nothing,
)

from docdb_stream.local import AwsServer, PostgresServer, ReplicaSet

pytestmark = pytest.mark.integration


class RedshiftWarehouse(Warehouse):
    """The same, loaded as Redshift is: names are in lower case, and timestamps have no zone."""

    def table(self, coll: str) -> dict[Any, dict[str, Any]]:
        rows = super().table(coll)
        return {
            key: {
                name: value.replace(tzinfo=UTC) if isinstance(value, dt.datetime) else value
                for name, value in row.items()
            }
            for key, row in rows.items()
        }

    def collection(self, coll: str) -> dict[Any, dict[str, Any]]:
        rows = super().collection(coll)
        return {key: {name.lower(): value for name, value in row.items()} for key, row in rows.items()}


@pytest.fixture(scope="module")
def redshift(aws: AwsServer, postgres: PostgresServer) -> Iterator[RedshiftServer]:
    server = RedshiftServer(aws, postgres)
    yield server
    server.close()


def is_of_redshift(statement: str) -> bool:
    if statement.startswith("LOCK TABLE"):  # sqlglot knows none
        return True
    found = sqlglot.parse_one(re.sub(r"\$\d+", "'x'", statement), read="redshift")
    return not isinstance(found, sqlglot.exp.Command)


@pytest.fixture
def warehouse(
    replica_set: ReplicaSet,
    mongo: Any,
    db_name: str,
    aws: AwsServer,
    postgres: PostgresServer,
    redshift: RedshiftServer,
    cli: Any,
) -> Iterator[Warehouse]:
    found = RedshiftWarehouse(replica_set.uri, mongo, db_name, aws, postgres, cli)
    found.environment["WAREHOUSE_URI"] = redshift.uri
    found.environment["WAREHOUSE_COPY_ROLE"] = "arn:aws:iam::123456789012:role/copy"
    found.done("run")
    before = len(redshift.words.statements)
    yield found
    found.bucket.client.close()
    assert [each for each in {*redshift.words.statements[before:]} if not is_of_redshift(each)] == []


def test_what_redshift_cannot_hold_is_left_out_and_named(warehouse: Warehouse) -> None:
    long = "é" * 40_000
    documents: list[dict[str, Any]] = [
        {"_id": 1, "text": long, "n": 1},
        {"_id": 2, "nested": {"a": [long]}, "n": 2},
        {"_id": 3, "nested": {"a": ["x" * 60_000] * 3}, "n": 3},
        {"_id": 4, "data": b"\1" * 40_000, "oid": 5, "_not_held": "x", "null": ""},
        {"_id": 5, "at": DatetimeMS(2**52)},
    ]
    warehouse.db.orders.insert_many(documents)
    warehouse.done("run")
    assert "too long" in warehouse.done("load", warehouse.name).stderr
    found = warehouse.table("orders")
    assert found[1] == {"_id": 1, "n": 1, "_not_held": "text"}
    assert found[2] == {"_id": 2, "n": 2, "_not_held": "nested"}
    assert found[3] == documents[2]
    assert found[4] == {"_id": 4, "oid__field": 5, "_not_held__field": "x", "null": "", "_not_held": "data"}
    assert found[5] == {"_id": 5}
    assert not [key for key in warehouse.bucket.objects() if "_load/" in key]


def test_what_another_type_cannot_hold_exactly_stays_beside_it(warehouse: Warehouse) -> None:
    steps: list[Any] = [1e300, Int64(2**62), 0.5]
    for number, value in enumerate(steps):
        warehouse.db.orders.insert_one({"_id": number, "x": value, "y": Int64(2**62) if number == 0 else 0.5})
        warehouse.done("run")
        warehouse.load()
    found = warehouse.table("orders")
    assert float(found[0]["x"]) == 1e300
    assert found[0]["y__string"] == str(2**62)
    assert found[1]["x__string"] == str(2**62)
    assert (found[2]["x"], found[2]["y"]) == (0.5, 0.5)


def test_the_later_of_two_changes_of_one_transaction_wins(warehouse: Warehouse) -> None:
    with warehouse.mongo.start_session() as session, session.start_transaction():
        for total in range(20):
            warehouse.db.orders.replace_one({"_id": 1}, {"total": total}, upsert=True, session=session)
    warehouse.done("run")
    warehouse.load()
    assert warehouse.table("orders") == {1: {"_id": 1, "total": 19}}


def test_a_table_of_somebody_else_is_left_alone(warehouse: Warehouse) -> None:
    warehouse.load()
    table = f'"{warehouse.schema}"."{warehouse.db.name}_orders"'
    with psycopg.connect(warehouse.postgres.uri, autocommit=True) as connection:
        connection.execute(f"CREATE TABLE {table} (mine integer)")  # type: ignore[call-overload]
    warehouse.db.orders.insert_one({"_id": 1})
    warehouse.done("run")
    found = warehouse.done("load", warehouse.name, code=4)
    assert "42P07" in found.stderr
    assert "WAREHOUSE_SCHEMA" in found.stderr


@pytest.mark.parametrize(
    ("uri", "code", "said"),
    [
        ("redshift://u:p@127.0.0.1:1/dev?sslmode=disable", 4, "cannot be reached"),
        ("redshift://127.0.0.1:5439", 2, "no address of a Redshift"),
        ("redshift://127.0.0.1:5439/dev?sslmode=maybe", 2, "no address of a Redshift"),
    ],
)
def test_what_is_wrong_is_said(warehouse: Warehouse, uri: str, code: int, said: str) -> None:
    found = warehouse.done("load", warehouse.name, "--timeout", "20", code=code, WAREHOUSE_URI=uri)
    assert said in found.stderr
    assert "hint:" in found.stderr
    assert "Traceback" not in found.stderr


def test_a_server_that_is_silent_or_down_is_waited_for_by_the_next_load(warehouse: Warehouse, aws: AwsServer) -> None:
    with PostgresServer() as own:
        server = RedshiftServer(aws, own)
        warehouse.postgres = own
        warehouse.environment["WAREHOUSE_URI"] = server.uri
        warehouse.db.orders.insert_one({"_id": 1, "total": 1})
        warehouse.done("run")
        own.pause()
        began_s = time.monotonic()
        found = warehouse.done("load", warehouse.name, "--timeout", "5", code=4)
        assert time.monotonic() - began_s < 30
        assert "hint:" in found.stderr
        own.resume()
        warehouse.load()
        own.kill()
        warehouse.db.orders.insert_one({"_id": 2, "total": 1})
        warehouse.done("run")
        warehouse.done("load", warehouse.name, "--timeout", "20", code=4)
        own.restart()
        warehouse.load()
        assert warehouse.table("orders") == warehouse.collection("orders")
        server.close()
