"""From a replica set into Iceberg: after kills each event is there once, and the newest rows are the collection."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import duckdb
import pytest
from pyiceberg.catalog import load_catalog

from docdb_stream.local import ReplicaSet
from docdb_stream.local.process import wait_until

pytestmark = pytest.mark.integration

CURRENT = """
SELECT * FROM (
  SELECT *, row_number() OVER (PARTITION BY _key ORDER BY _version DESC) AS newest FROM orders
  WHERE _has_document OR _operation = 'delete'
) WHERE newest = 1 AND _has_document ORDER BY _id
"""


@pytest.mark.long
def test_killed_runs_leave_each_event_once(
    replica_set: ReplicaSet, mongo: Any, db_name: str, tmp_path: Path, cli: Any
) -> None:
    environment = {
        "DOCUMENTDB_URI": replica_set.uri,
        "WATCHED_DB_NAME": db_name,
        "WATCHED_COLLECTION_NAME": "orders",
        "STATE_DB": f"{db_name}_state",
        "ICEBERG_CATALOG": f"sqlite:///{tmp_path}/catalog.db",
        "ICEBERG_WAREHOUSE": f"file://{tmp_path}/warehouse",
        "BATCH_SIZE": "200",
        "STATE_SYNC_COUNT": "1",
    }
    assert cli.run("run", **environment).returncode == 0
    orders = mongo[db_name].orders
    for start in range(0, 4000, 500):
        orders.insert_many([{"_id": number, "total": number} for number in range(start, start + 500)])
    orders.update_many({"_id": {"$lt": 300}}, {"$set": {"paid": True}})
    orders.delete_many({"_id": {"$gte": 3900}})
    metadata = tmp_path / "warehouse"
    for _ in range(3):
        running = cli.start("run", **environment)
        seen = len([*metadata.rglob("*.metadata.json")])
        wait_until(
            lambda seen=seen, running=running: (  # type: ignore[misc]
                len([*metadata.rglob("*.metadata.json")]) > seen + 1 or running.poll() is not None
            ),
            "it commits",
            timeout_s=60,
        )
        running.kill()
        running.wait(10)
    last = cli.run("run", "--json", **environment)
    assert (last.returncode, json.loads(last.stdout)["caught_up"]) == (0, True), last.stderr
    catalog = load_catalog("default", type="sql", uri=environment["ICEBERG_CATALOG"])
    rows = catalog.load_table((db_name, "orders")).scan().to_arrow()
    catalog.engine.dispose()  # type: ignore[attr-defined]
    ids = rows["_event_id"].to_pylist()
    assert len(ids) == len({*ids}) == 4000 + 300 + 100
    with duckdb.connect() as connection:
        connection.register("orders", rows)
        current = connection.execute(CURRENT).to_arrow_table().to_pylist()
    expected = [{"_id": each["_id"], "total": each["total"], "paid": each.get("paid")} for each in orders.find()]
    assert [{name: row[name] for name in ("_id", "total", "paid")} for row in current] == expected
