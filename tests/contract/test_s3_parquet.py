"""S3's target, with Parquet files."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import duckdb
import orjson
import pyarrow.parquet as pq
import pytest
from bson import Timestamp
from contract import test_s3 as lines
from contract.s3_bucket import Bucket
from contract.test_s3 import deliver, failing_puts

from docdb_stream.context import Deadline, RunContext, running
from docdb_stream.errors import ConfigError, TargetError
from docdb_stream.events import ChangeEvent, Namespace
from docdb_stream.local import AwsServer
from docdb_stream.schema.columns import Column
from docdb_stream.settings import Settings
from docdb_stream.target import Target
from docdb_stream.targets.s3 import S3Target
from docdb_stream.testing.contract import Delivered
from docdb_stream.testing.events import ChangeLog

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("aws_environment")]


def rows(bucket: Bucket, **options: Any) -> list[dict[str, Any]]:
    tables = [pq.read_table(io.BytesIO(body), **options) for body in bucket.objects().values()]
    return [row for table in tables for row in table.to_pylist()]


def event_ids(events: Sequence[ChangeEvent]) -> list[str]:
    return [event.event_id for event in events]


class TestS3Parquet(lines.TestS3Target):
    def make_target(self) -> Target:
        return S3Target(self.bucket.name, file_format="parquet")

    def read_back(self) -> list[Delivered]:
        found = rows(self.bucket, columns=["_event_id", "_raw"])  # a date can be one that Python has not
        return [Delivered(row["_event_id"], None, row["_raw"].encode()) for row in found]


def test_one_file_per_collection_and_day_and_flush(bucket: Bucket) -> None:
    midnight = Timestamp(1769903998, 5)
    logs = [ChangeLog("shop", name, start=midnight) for name in ("orders", "customers")]
    events = [event for pair in zip(*(log.inserts(20) for log in logs), strict=True) for event in pair]
    # One prefix for all: each collection has columns of its own, so files of its own.
    target = S3Target(bucket.name, path="lake", prefix="{db}", file_format="parquet")
    deliver(target, events)
    target.close()
    keys = [*bucket.objects()]
    assert [key.rpartition("/")[0] for key in keys] == ["lake/shop/2026/01/31"] * 2 + ["lake/shop/2026/02/01"] * 2
    assert all(key.endswith(".parquet") for key in keys)
    assert sorted(row["_event_id"] for row in rows(bucket)) == sorted(event_ids(events))


@pytest.mark.parametrize("replayed", [30, 60, 100])
def test_a_replay_overwrites_whatever_its_batches_are(bucket: Bucket, replayed: int) -> None:
    events = ChangeLog().inserts(100)
    crashed = S3Target(bucket.name, file_format="parquet")
    deliver(crashed, events[:60])  # uploaded, and then no checkpoint was saved
    crashed.close()
    target = S3Target(bucket.name, file_format="parquet")
    deliver(target, events[:replayed], batch=7)
    deliver(target, events[replayed:], batch=13)
    target.close()
    assert [row["_event_id"] for row in rows(bucket)] == event_ids(events)


def test_a_flush_that_failed_in_part_can_be_called_again(bucket: Bucket) -> None:
    log = ChangeLog()
    target = S3Target(bucket.name, file_format="parquet")
    target.write(log.inserts(10))
    [upload] = target._uploads._uploads.values()
    upload.content.finished()
    target.write(log.inserts(10, first_id=10))
    target.flush()
    target.close()
    assert [row["_id"] for row in rows(bucket)] == [*range(20)]


def test_columns_are_those_of_the_run_where_it_keeps_a_ledger(bucket: Bucket) -> None:
    columns = [Column("_id", "_id", "int64"), Column("total", "total", "double"), Column("Total__2", "Total", "text")]
    target = S3Target(bucket.name, file_format="parquet")

    def columns_of(namespace: Namespace) -> Sequence[Column] | None:
        return columns if namespace == Namespace("shop", "orders") else None

    with running(RunContext(columns_of=columns_of)):
        target.write([ChangeLog().insert({"_id": 1, "total": 5, "unknown": 1})])
        target.flush()
    target.close()
    [row] = rows(bucket)
    assert [name for name in row if not name.startswith("_")] == ["total", "Total__2"]
    assert (row["total"], row["Total__2"]) == (5.0, None)


def test_duckdb_reads_what_is_there_across_files(bucket: Bucket, aws: AwsServer, tmp_path: Any) -> None:
    log = ChangeLog()
    target = S3Target(bucket.name, file_format="parquet")
    deliver(target, [log.insert({"_id": 1, "total": 1})])
    deliver(target, [log.insert({"_id": 2, "total": 2.5, "new": "field"})])
    target.close()
    for number, body in enumerate(bucket.objects().values()):
        (tmp_path / f"{number}.parquet").write_bytes(body)
    with duckdb.connect() as connection:
        query = f"SELECT _id, total, new FROM read_parquet('{tmp_path}/*.parquet', union_by_name=true) ORDER BY _id"
        assert connection.execute(query).fetchall() == [(1, 1.0, None), (2, 2.5, "field")]


def test_settings_choose_the_format() -> None:
    def settings(**values: Any) -> Settings:
        return Settings(documentdb_uri="mongodb://nowhere", bucket_name="lake", **values)

    assert S3Target.from_settings(settings(s3_format="parquet"))._file_format.name == "parquet"
    for wrong in ({"s3_format": "csv"}, {"s3_format": "parquet", "s3_payload_format": "debezium"}):
        with pytest.raises((ValueError, ConfigError), match="s3_"):
            settings(**wrong)


def delivered(target: Target, events: Sequence[ChangeEvent], *, checkpoint: str, order: str) -> None:
    """Written and flushed, as before a checkpoint of this name."""
    with running(RunContext(next_checkpoint=checkpoint, next_order=order)):
        deliver(target, events)


def manifests(bucket: Bucket) -> dict[str, Any]:
    return {key: orjson.loads(body) for key, body in bucket.objects().items() if "_manifests/" in key}


def test_each_checkpoint_leaves_a_manifest(bucket: Bucket) -> None:
    events = [*ChangeLog("shop", "orders").inserts(3), *ChangeLog("shop", "customers").inserts(2)]
    target = S3Target(bucket.name, path="lake", file_format="parquet", manifests_of="shop.* of/us")
    delivered(target, events, checkpoint="c" * 32, order="0001")
    target.close()
    [(key, manifest)] = manifests(bucket).items()
    assert key == "lake/_manifests/shop.%2A%20of%2Fus/0001-" + "c" * 16 + ".json"
    assert (manifest["stream"], manifest["checkpoint"], manifest["rows"]) == ("shop.* of/us", "c" * 32, 5)
    customers, orders = manifest["objects"]
    assert (customers["rows"], orders["rows"]) == (2, 3)
    assert orders["namespace"] == {"db": "shop", "coll": "orders"}
    assert [orders["first"]["event_id"], orders["last"]["event_id"]] == [events[0].event_id, events[2].event_id]
    head = bucket.client.head_object(Bucket=bucket.name, Key=orders["key"])
    assert (orders["etag"], orders["bytes"]) == (head["ETag"].strip('"'), head["ContentLength"])
    assert manifest["bytes"] == customers["bytes"] + orders["bytes"]


def test_a_manifest_is_written_once(bucket: Bucket) -> None:
    events = ChangeLog().inserts(6)
    for count in (4, 4, 6):
        target = S3Target(bucket.name, file_format="parquet", manifests_of="shop.orders")
        delivered(target, events[:count], checkpoint=str(count) * 32, order=f"000{count}")
        target.close()
        [first, *_] = manifests(bucket).items()
    assert [manifest["rows"] for manifest in manifests(bucket).values()] == [4, 6]
    found = {key: bucket.client.head_object(Bucket=bucket.name, Key=key)["LastModified"] for key in manifests(bucket)}
    assert sorted(found) == [*manifests(bucket)]
    assert first[1]["rows"] == 4


def test_a_run_that_fails_on_its_way_leaves_no_manifest(bucket: Bucket) -> None:
    target = S3Target(bucket.name, file_format="parquet", manifests_of="shop.orders")
    target.write(ChangeLog("shop", "orders").inserts(3) + ChangeLog("shop", "customers").inserts(3))
    run = RunContext(Deadline.after(None, patience_s=0), next_checkpoint="c" * 32, next_order="1")
    with failing_puts(target, lambda request: "customers" in request["Key"]), running(run):
        with pytest.raises(TargetError):
            target.flush()
        assert manifests(bucket) == {}
    with running(RunContext(next_checkpoint="c" * 32, next_order="1")):
        target.flush()
        assert target.flush() == ()
    [manifest] = manifests(bucket).values()
    assert manifest["rows"] == 6
    target.close()


def test_without_a_checkpoint_there_is_no_manifest(bucket: Bucket) -> None:
    target = S3Target(bucket.name, file_format="parquet", manifests_of="shop.orders")
    deliver(target, ChangeLog().inserts(3))
    delivered(target, [], checkpoint="c", order="1")
    target.close()
    assert manifests(bucket) == {}


def test_json_lines_have_manifests_where_they_are_asked_for(bucket: Bucket) -> None:
    target = S3Target(bucket.name, manifests_of="shop.orders")
    delivered(target, ChangeLog().inserts(3), checkpoint="c" * 32, order="1")
    target.close()
    [manifest] = manifests(bucket).values()
    assert manifest["objects"][0]["key"].endswith(".jsonl.gz")
