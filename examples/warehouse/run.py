"""Runs the example on real servers of this machine: kills extracts and loads, changes a schema, compares all values.

python examples/warehouse/run.py [--rounds 8] [--seed 1]. Exits with 1 if any value of any table is another.
"""

from __future__ import annotations

import argparse
import datetime as dt
import io
import json
import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import duckdb
import psycopg
import pyarrow as pa
import pyarrow.parquet as pq
from bson import Decimal128, ObjectId
from psycopg.rows import dict_row
from pyiceberg.catalog import load_catalog
from rich.console import Console
from rich.table import Table
from shop import COLLECTIONS, Shop

from docdb_stream.local import LocalServers, PostgresServer

HERE = Path(__file__).parent
OWN = {"_key", "_version", "_cluster_time", "_event_id"}
NEWEST = """
SELECT * EXCLUDE (newest) FROM (
  SELECT *, row_number() OVER (PARTITION BY _key ORDER BY _version DESC) AS newest FROM changes
  WHERE _has_document OR _operation = 'delete'
) WHERE newest = 1 AND _has_document
"""
STOPPED = 8


def main() -> int:
    """Start the servers, run it all, and print what came of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=8, help="how often the shop works, and is extracted and loaded")
    parser.add_argument("--changes", type=int, default=400, help="changes in each round")
    parser.add_argument("--seed", type=int, default=1, help="the same seed makes the same shop")
    arguments = parser.parse_args()
    servers = LocalServers(kafka=False, opensearch=False)
    with servers, PostgresServer() as postgres, tempfile.TemporaryDirectory() as folder:
        servers.aws.client("s3").create_bucket(Bucket="lake")
        environment = {
            **os.environ,
            **servers.aws.environment(),
            "DOCUMENTDB_URI": servers.mongo.uri,
            "ICEBERG_CATALOG": f"sqlite:///{folder}/catalog.db",
            "WAREHOUSE_URI": postgres.uri,
        }
        os.environ.update(servers.aws.environment())
        with servers.mongo.client() as client:
            show = Show(client, servers.aws.client("s3"), postgres.uri, environment, random.Random(arguments.seed))
            return show.play(arguments.rounds, arguments.changes)


class Show:
    """The example, from the first order to the last comparison."""

    def __init__(
        self, client: Any, s3: Any, warehouse: str, environment: dict[str, str], chance: random.Random
    ) -> None:
        self._client, self._s3, self._warehouse = client, s3, warehouse
        self._environment = environment
        self._chance = chance
        self._console = Console()
        self._checks: list[tuple[str, Any, Any]] = []

    def play(self, rounds: int, changes: int) -> int:
        """Returns the exit code."""
        shop = Shop(self._client.shop, self._chance)
        self._docdb_stream("run")  # the stream begins now
        shop.open()
        self._docdb_stream("run")
        self._say(f"{rounds} rounds of work, extract and load; extracts and loads are killed on the way")
        codes = set()
        for number in range(rounds):
            if number == rounds // 3:
                self._say("orders have coupons now: they stop, the others go on")
                shop.has_coupons = True
            if number == 2 * rounds // 3:
                self._say("the coupons are accepted")
                self._docdb_stream("schema", "accept", "shop", "shop.orders")
            shop.work(changes)
            for command in (("run",), ("load", "shop")):
                self._killed(*command)
                codes.add(self._docdb_stream(*command, may_stop=True))
        self._check("exit codes on the way: 0, and 8 while orders had stopped", {0, STOPPED}, codes)
        self._check("exit code of the last extract", 0, self._docdb_stream("run"))
        self._docdb_stream("load", "shop")
        self._load_one_again()
        for name in COLLECTIONS:
            self._compare(name)
        return self._verdict()

    def _load_one_again(self) -> None:
        """A manifest of which nobody knows any more that it was loaded."""
        with psycopg.connect(self._warehouse) as connection:
            [(manifest,)] = connection.execute(
                "SELECT manifest FROM shop.docdb_stream_loads ORDER BY manifest LIMIT 1"
            ).fetchall()
            connection.execute("DELETE FROM shop.docdb_stream_loads WHERE manifest = %s", (manifest,))
        self._docdb_stream("load", "shop")

    def _compare(self, name: str) -> None:
        collection = {str(each["_id"]): _row(each) for each in self._client.shop[name].find()}
        self._check(f"{name}: rows in PostgreSQL, value by value", collection, self._in_postgres(name))
        files = self._files(name)
        self._check(f"{name}: newest rows of the Parquet files, by DuckDB", collection, _newest(files))
        catalog = load_catalog("default", type="sql", uri=self._environment["ICEBERG_CATALOG"], **_storage())
        changes = catalog.load_table(("shop", name)).scan().to_arrow()
        catalog.engine.dispose()  # type: ignore[attr-defined]
        self._check(f"{name}: newest rows of the Iceberg table, by DuckDB", collection, _newest(changes))
        ids = changes["_event_id"].to_pylist()
        self._check(f"{name}: events in the Iceberg table, each once", len({*ids}), len(ids))

    def _in_postgres(self, name: str) -> dict[str, Any]:
        with psycopg.connect(self._warehouse, row_factory=dict_row) as connection:
            rows = connection.execute(f"SELECT * FROM shop.shop_{name}").fetchall()  # type: ignore[call-overload]
        return {row["_id"]: _known(row) for row in rows}

    def _files(self, name: str) -> pa.Table:
        pages = self._s3.get_paginator("list_objects_v2").paginate(Bucket="lake", Prefix=f"shop/{name}/")
        keys = [each["Key"] for page in pages for each in page.get("Contents", ())]
        bodies = [self._s3.get_object(Bucket="lake", Key=key)["Body"].read() for key in keys]
        return pa.concat_tables([pq.read_table(io.BytesIO(body)) for body in bodies], promote_options="permissive")

    def _killed(self, *arguments: str) -> None:
        """The same command, ended somewhere on its way."""
        running = subprocess.Popen(
            self._command(*arguments),
            cwd=HERE,
            env=self._environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            running.wait(self._chance.uniform(0.6, 2.5))
        except subprocess.TimeoutExpired:
            running.kill()
            running.wait()

    def _docdb_stream(self, *arguments: str, may_stop: bool = False) -> int:
        done = subprocess.run(
            self._command(*arguments), cwd=HERE, env=self._environment, capture_output=True, text=True
        )
        if done.returncode not in ((0, STOPPED) if may_stop else (0,)):
            raise RuntimeError(f"docdb-stream {' '.join(arguments)} ended with {done.returncode}: {done.stderr}")
        return done.returncode

    @staticmethod
    def _command(*arguments: str) -> list[str]:
        return [sys.executable, "-m", "docdb_stream", *arguments, "--config", "config.ini"]

    def _say(self, text: str) -> None:
        self._console.print(text, style="bold", highlight=False)

    def _check(self, what: str, expected: Any, found: Any) -> None:
        self._checks.append((what, expected, found))

    def _verdict(self) -> int:
        table = Table("what", "expected", "found", "")
        for what, expected, found in self._checks:
            mark = "[green]✓[/]" if expected == found else "[red]✗[/]"
            table.add_row(what, _short(expected), _short(found), mark)
        self._console.print(table)
        return 0 if all(expected == found for _, expected, found in self._checks) else 1


def _storage() -> dict[str, str]:
    return {
        "py-io-impl": "pyiceberg.io.pyarrow.PyArrowFileIO",
        "s3.endpoint": os.environ["AWS_ENDPOINT_URL"],
        "s3.region": os.environ.get("AWS_REGION") or os.environ["AWS_DEFAULT_REGION"],
        "s3.force-virtual-addressing": "false",
    }


def _newest(changes: pa.Table) -> dict[str, Any]:
    with duckdb.connect() as connection:
        connection.register("changes", changes)
        rows = connection.execute(NEWEST).to_arrow_table().to_pylist()
    return {row["_id"]: _known({name: value for name, value in row.items() if name not in _EVENT}) for row in rows}


_EVENT = {"_operation", "_has_document", "_raw"}


def _known(row: dict[str, Any]) -> dict[str, Any]:
    """A row's values as the shop has them, without what is null or the table's own."""
    return {name: _plain(value) for name, value in row.items() if name not in OWN and value is not None}


def _plain(value: Any) -> Any:
    if isinstance(value, str) and value[:1] in ("[", "{"):
        return json.loads(value)
    return value.astimezone(dt.UTC) if isinstance(value, dt.datetime) else value


def _row(document: dict[str, Any]) -> dict[str, Any]:
    """A document as a table should have it."""
    return {name: _as_column(value) for name, value in document.items()}


def _as_column(value: Any) -> Any:
    if isinstance(value, ObjectId):
        return str(value)
    if isinstance(value, Decimal128):
        return value.to_decimal()
    return value.replace(tzinfo=dt.UTC) if isinstance(value, dt.datetime) else value


def _short(value: Any) -> str:
    return str(len(value)) if hasattr(value, "__len__") and not isinstance(value, set) else str(value)


if __name__ == "__main__":
    sys.exit(main())
