"""Iceberg: tables in a folder and in a local S3, with a catalog in SQLite."""

from __future__ import annotations

import datetime as dt
import random
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from bson import Decimal128, Int64
from bson.datetime_ms import DatetimeMS
from contract.s3_bucket import Bucket

from docdb_stream.context import Deadline, RunContext, running
from docdb_stream.errors import CheckpointConflictError, ConfigError, TargetError
from docdb_stream.events import ChangeEvent, Namespace
from docdb_stream.local import AwsServer
from docdb_stream.settings import Settings
from docdb_stream.target import Target
from docdb_stream.targets._iceberg import change_log
from docdb_stream.targets.iceberg import IcebergTarget
from docdb_stream.testing.contract import Delivered, Faults, TargetContract
from docdb_stream.testing.events import ChangeLog

ORDERS = Namespace("shop", "orders")


class Lake:
    """A catalog and a warehouse in a folder."""

    def __init__(self, folder: Path) -> None:
        self.catalog = f"sqlite:///{folder}/catalog.db"
        self.warehouse = f"file://{folder}/warehouse"
        self.targets: list[IcebergTarget] = []

    def target(self, **options: Any) -> IcebergTarget:
        self.targets.append(IcebergTarget(self.catalog, warehouse=self.warehouse, **options))
        return self.targets[-1]

    def close(self) -> None:
        for target in self.targets:
            target.close()
            if "_catalog" in target.__dict__ and target._catalog._made is not None:
                target._catalog._made.engine.dispose()

    def table(self, namespace: Namespace = ORDERS) -> Any:
        return self.target()._catalog.table(namespace)

    def tables(self) -> list[Any]:
        catalog = self.target()._catalog._catalog()
        return [catalog.load_table(name) for space in catalog.list_namespaces() for name in catalog.list_tables(space)]

    def rows(self, *columns: str, namespace: Namespace = ORDERS) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = (
            self.table(namespace).scan(selected_fields=columns or ("*",)).to_arrow().to_pylist()
        )
        return sorted(found, key=lambda row: row.get("_id", 0))

    def event_ids(self) -> list[str]:
        return sorted(each for table in self.tables() for each in table.scan().to_arrow()["_event_id"].to_pylist())


@pytest.fixture
def lake(tmp_path: Path) -> Iterator[Lake]:
    lake = Lake(tmp_path)
    yield lake
    lake.close()


class TestIceberg(TargetContract):
    @pytest.fixture(autouse=True)
    def place(self, lake: Lake) -> None:
        self.lake = lake

    def make_target(self) -> Target:
        return self.lake.target()

    def read_back(self) -> list[Delivered]:
        return [
            Delivered(row["_event_id"], row["_key"], row["_raw"].encode())
            for table in self.lake.tables()
            for row in sorted(
                table.scan(selected_fields=("_event_id", "_key", "_raw", "_version")).to_arrow().to_pylist(),
                key=lambda row: row["_version"],
            )
        ]

    @contextmanager
    def faults(self, target: Target, faults: Faults) -> Iterator[None]:
        if faults.refuse or faults.reject:
            pytest.skip("a commit takes all of its events or none")
        assert isinstance(target, IcebergTarget)
        append = change_log.ChangeLogTable.append

        def failing(self: Any, *arguments: Any, **options: Any) -> None:
            if faults.answer(["commit"]) is None:
                raise OSError("the storage is away")
            append(self, *arguments, **options)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(change_log.ChangeLogTable, "append", failing)
            yield


def run(checkpoint: str, epoch: int = 1) -> RunContext:
    return RunContext(Deadline.after(None, patience_s=0), checkpoint=checkpoint, lease_epoch=lambda: epoch)


def deliver(lake: Lake, events: Sequence[ChangeEvent], context: RunContext) -> None:
    target = lake.target()
    with running(context):
        target.write(events)
        target.flush()
    target.close()


@pytest.mark.parametrize("replayed", [3, 10, 17])
def test_what_is_replayed_from_a_checkpoint_is_there_once(lake: Lake, replayed: int) -> None:
    events = ChangeLog().inserts(17)
    deliver(lake, events[:10], run("c1", 1))  # and then no checkpoint was saved
    deliver(lake, events[:replayed], run("c1", 2))
    if replayed < len(events):
        deliver(lake, events[replayed:], run("c2", 2))
    assert lake.event_ids() == sorted(event.event_id for event in events)


def test_a_shorter_replay_and_what_follows_it_are_there_once(lake: Lake) -> None:
    events = ChangeLog().inserts(20)
    deliver(lake, events[:15], run("c1", 1))
    deliver(lake, events[:5], run("c1", 2))
    deliver(lake, events[5:12], run("c2", 2))
    deliver(lake, events[12:], run("c3", 2))
    assert lake.event_ids() == sorted(event.event_id for event in events)


@pytest.mark.parametrize("seed", range(12))
def test_whatever_crashes_each_event_is_there_once(lake: Lake, seed: int) -> None:
    """Runs that die before or after their commit, and replays that are cut otherwise."""
    chance = random.Random(seed)
    events = ChangeLog().inserts(60)
    saved = checkpoint = 0
    for epoch in range(1, 200):
        if saved == len(events):
            break
        at = saved
        for _ in range(chance.randrange(1, 4)):
            count = chance.randrange(1, 15)
            deliver(lake, events[at : at + count], run(f"c{checkpoint}", epoch))
            if chance.random() < 0.5:
                break  # before the checkpoint was saved
            at = saved = min(len(events), at + count)
            checkpoint += 1
            if saved == len(events):
                break
    assert lake.event_ids() == sorted(event.event_id for event in events)


def test_a_commit_is_one_for_a_table_with_all_that_is_known_of_it(lake: Lake) -> None:
    deliver(lake, ChangeLog().inserts(5) + ChangeLog("shop", "customers").inserts(5), run("c1", 7))
    for name in ("orders", "customers"):
        table = lake.table(Namespace("shop", name))
        assert len(table.snapshots()) == 1
        summary = table.current_snapshot().summary
        assert (summary[change_log.AFTER], summary[change_log.EPOCH]) == ("c1", "7")
        assert table.properties[change_log.AFTER] == "c1"


def test_a_run_that_was_taken_over_commits_nothing(lake: Lake) -> None:
    events = ChangeLog().inserts(9)
    deliver(lake, events[:3], run("c1", 1))
    zombie = lake.target()
    with running(run("c2", 1)):
        zombie.write(events[3:6])
        zombie._catalog.table(ORDERS)
        deliver(lake, events[3:9], run("c2", 2))
        with pytest.raises(CheckpointConflictError):
            zombie.flush()
    assert lake.event_ids() == sorted(event.event_id for event in events)


def test_a_commit_in_between_is_noticed(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the look at the table and the commit, the run that died finishes its own after all."""
    events = ChangeLog().inserts(6)
    late = lake.target()
    with running(run("c1", 1)):
        late.write(events[:4])
    append = change_log.ChangeLogTable.append
    begun: list[bool] = []

    def overtaken(self: Any, *arguments: Any, **options: Any) -> None:
        if not begun:
            begun.append(True)
            with running(run("c1", 1)):
                late.flush()
        append(self, *arguments, **options)

    monkeypatch.setattr(change_log.ChangeLogTable, "append", overtaken)
    target = lake.target()
    with running(RunContext(Deadline.after(None), checkpoint="c1", lease_epoch=lambda: 2)):
        target.write(events)
        target.flush()
    assert lake.event_ids() == sorted(event.event_id for event in events)


def test_tables_get_new_columns_and_widen(lake: Lake) -> None:
    log = ChangeLog()
    steps: list[Any] = [1, Int64(2**40), 2.5, "text", Decimal128("0.25"), None, {"a": 1}]
    for number, value in enumerate(steps):
        deliver(lake, [log.insert({"_id": number, "x": value, f"new{number}": True})], run(f"c{number}"))
    rows = lake.rows()
    assert [row["x"] for row in rows] == [1, 2**40, None, None, None, None, None]
    assert [row["x__string"] for row in rows] == [None, None, "2.5", "text", "0.250000000", None, '{"a":1}']
    assert rows[3]["new3"] is True
    assert str(lake.table().schema().find_field("x").field_type) == "long"


def test_values_of_every_type_are_read_back(lake: Lake) -> None:
    log = ChangeLog()
    document = {
        "_id": 1,
        "double": 1.5,
        "decimal": Decimal128("12.5"),
        "at": dt.datetime(1901, 2, 3, 4, 5, 6, 789000),
        "never": DatetimeMS(2**60),
        "bytes": b"\0\1",
        "bool": True,
        "nested": {"a": [1]},
    }
    deliver(lake, [log.insert(document), log.delete(1)], run("c1"))
    row, gone = sorted(lake.rows(), key=lambda row: row["_version"])
    assert (row["double"], row["decimal"], row["bool"], row["bytes"]) == (1.5, Decimal("12.500000000"), True, b"\0\1")
    assert row["at"] == dt.datetime(1901, 2, 3, 4, 5, 6, 789000, dt.UTC)
    assert (row["never"], row["nested"]) == (None, '{"a":[1]}')
    assert (gone["_operation"], gone["_has_document"], gone["double"]) == ("delete", False, None)


def test_tables_are_parted_by_days(lake: Lake) -> None:
    deliver(lake, ChangeLog().inserts(3), run("c1"))
    table = lake.table()
    [partition] = table.spec().fields
    assert (str(partition.transform), partition.name) == ("day", "_cluster_day")
    assert table.inspect.files().num_rows == 1


def test_names_of_tables(lake: Lake) -> None:
    assert lake.target()._catalog.name_of(ORDERS) == ("shop", "orders")
    assert lake.target(namespace="lake")._catalog.name_of(ORDERS) == ("lake", "shop_orders")
    assert lake.target()._catalog.name_of(Namespace("")) == ("_", "_")
    odd = ["a.b/c", "a?b", "a b", "Orders-1", "\x01", "\u8868" * 66, "x" * 255, "%2a"]
    names = [lake.target()._catalog.name_of(Namespace("shop", name))[1] for name in odd]
    assert len({*names}) == len(odd)
    assert all(re.fullmatch("[A-Za-z0-9_]{1,130}", name) for name in names)
    glue = IcebergTarget("glue")._catalog
    assert glue.name_of(Namespace("shop", "Orders"))[1].startswith("orders_")


def test_collections_with_odd_names_have_tables_of_their_own(lake: Lake) -> None:
    logs = [ChangeLog("shop", name) for name in ("a?b", "a?c", "a", "a.b/c\\d")]
    for number in range(2):
        deliver(lake, [log.insert({"_id": number}) for log in logs], run(f"c{number}"))
    for log in logs:
        assert [row["_id"] for row in lake.rows(namespace=log.namespace)] == [0, 1]


def test_a_catalog_that_is_away_fails_the_run(lake: Lake) -> None:
    target = IcebergTarget("http://127.0.0.1:1/", warehouse=lake.warehouse)
    with running(run("c1")), pytest.raises(TargetError, match="refuses") as caught:
        target.check()
    assert caught.value.hint
    target.close()


@pytest.mark.parametrize("wrong", ["hive", "mysql://h/d", "/a/path"])
def test_a_catalog_that_is_not_known_is_refused(wrong: str) -> None:
    target = IcebergTarget(wrong)
    with pytest.raises(ConfigError, match="no catalog that is known"):
        target.check()


def test_settings_and_permissions() -> None:
    settings = Settings(
        documentdb_uri="mongodb://nowhere", iceberg_catalog="glue", iceberg_warehouse="s3://lake/tables/x"
    )
    assert settings.keeps_schemas
    glue, storage = IcebergTarget.permissions(settings)
    assert "glue:UpdateTable" in glue.actions
    assert storage.resources == ("arn:${AWS::Partition}:s3:::lake/tables/x/*",)
    assert IcebergTarget.from_settings(settings)._warehouse == "s3://lake/tables/x"


@pytest.mark.integration
@pytest.mark.usefixtures("aws_environment")
def test_tables_in_s3_with_glue(bucket: Bucket, aws: AwsServer) -> None:
    target = IcebergTarget("glue", warehouse=f"s3://{bucket.name}/lake", namespace="g" + bucket.name.replace("-", "_"))
    target.check()
    log = ChangeLog()
    for number in range(2):
        with running(run(f"c{number}")):
            target.write([log.insert({"_id": number, f"f{number}": 1})])
            target.flush()
    rows = target._catalog.table(ORDERS).scan().to_arrow().to_pylist()
    assert sorted((row["_id"], row["f0"], row["f1"]) for row in rows) == [(0, 1, None), (1, None, 1)]
    assert any(key.endswith(".parquet") for key in bucket.objects())
    target.close()
