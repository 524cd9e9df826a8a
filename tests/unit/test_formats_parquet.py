"""Parquet files, read back by pyarrow and by DuckDB."""

from __future__ import annotations

import datetime as dt
import io
import uuid
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import bson
import duckdb
import orjson
import pyarrow.parquet as pq
import pytest
from bson import Binary, Code, DBRef, Decimal128, Int64, MaxKey, MinKey, ObjectId, Regex, Timestamp
from bson.binary import UuidRepresentation
from bson.datetime_ms import DatetimeMS

from docdb_stream.events import ChangeEvent, Events
from docdb_stream.formats import arrow, parquet
from docdb_stream.formats.parquet import PARQUET
from docdb_stream.schema.columns import META
from docdb_stream.testing.events import ChangeLog

UTC = dt.UTC


@pytest.fixture
def log() -> ChangeLog:
    return ChangeLog()


def written(events: Sequence[ChangeEvent]) -> bytes:
    content = io.BytesIO()
    writer = PARQUET.writer(content.write)
    payloads = Events(events).render(PARQUET.takes)
    writer.append([each for each in payloads if isinstance(each, bytes)])
    writer.finish()
    writer.close()
    return content.getvalue()


def read(events: Sequence[ChangeEvent]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(io.BytesIO(written(events))).to_pylist()
    return rows


def documents(log: ChangeLog, *found: dict[str, Any]) -> list[ChangeEvent]:
    return [log.insert({"_id": number, **document}) for number, document in enumerate(found)]


def test_a_row_says_which_event_it_is(log: ChangeLog) -> None:
    key = ObjectId()
    events = [log.insert({"_id": key, "total": 5}), log.delete(key)]
    first, second = read(events)
    assert first["_id"] == str(key)
    assert first["_key"] == f'{{"_id":{{"$oid":"{key}"}}}}'
    assert (first["_operation"], second["_operation"]) == ("insert", "delete")
    assert first["_event_id"] == events[0].event_id
    time = events[0].cluster_time
    assert first["_version"] == time.time << 32 | time.inc
    assert first["_cluster_time"] == time.as_datetime()
    assert (first["total"], second["total"], second["_id"]) == (5, None, str(key))
    assert first["_raw"].encode() == events[0].render("extended")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (5, 5),
        (Int64(2**62), 2**62),
        (1.5, 1.5),
        (float("inf"), float("inf")),
        (True, True),
        ("text\0é", "text\0é"),
        ("", ""),
        (dt.datetime(1901, 2, 3, 4, 5, 6, 789000), dt.datetime(1901, 2, 3, 4, 5, 6, 789000, UTC)),
        (Decimal128("1234567890123456789012345.123456789"), Decimal("1234567890123456789012345.123456789")),
        (Decimal128("1E+3"), Decimal(1000)),
        (Decimal128("0.1000000000000"), Decimal("0.1")),
        (b"\0\1", b"\0\1"),
        (Binary(b"old", 3), b"old"),
        (ObjectId("65f0c3d2a1b2c3d4e5f60718"), "65f0c3d2a1b2c3d4e5f60718"),
        (
            Binary.from_uuid(uuid.UUID(int=7), UuidRepresentation.STANDARD),
            "00000000-0000-0000-0000-000000000007",
        ),
        ({"a": [1, {"b": ObjectId("65f0c3d2a1b2c3d4e5f60718")}]}, '{"a":[1,{"b":"65f0c3d2a1b2c3d4e5f60718"}]}'),
        ({}, "{}"),
        ([], "[]"),
        ([1, "two", float("nan")], '[1,"two","NaN"]'),
        (Regex("a/b", "i"), '"/a/b/i"'),
        (Code("f()"), '"f()"'),
        (Timestamp(0, 7), '"1970-01-01T00:00:00.000Z"'),
        (MinKey(), '"MinKey"'),
        (MaxKey(), '"MaxKey"'),
        (DBRef("c", 1), '{"$ref":"c","$id":1}'),
    ],
)
def test_each_type_has_its_column(log: ChangeLog, value: Any, expected: Any) -> None:
    [row] = read(documents(log, {"x": value}))
    assert row["x"] == expected
    assert row.get("x__string") is None


def test_dates_beyond_the_calendar_are_kept(log: ChangeLog) -> None:
    dates = [DatetimeMS(-(2**55)), DatetimeMS(2**55), dt.datetime(9999, 12, 31)]
    file = io.BytesIO(written(documents(log, *({"x": date} for date in dates))))
    found = pq.read_table(file)["x"].cast("int64").to_pylist()
    assert found == [-(2**55), 2**55, 253402214400000]


@pytest.mark.parametrize(
    ("values", "main", "other"),
    [
        ([1, Int64(2**40)], [1, 2**40], None),
        ([1, 2.5], [1.0, 2.5], None),
        ([Int64(2**60 + 1), 2.5], [None, 2.5], [str(2**60 + 1), None]),
        ([2.5, Int64(7)], [2.5, 7.0], [None, None]),
        ([1, Decimal128("0.25")], [Decimal(1), Decimal("0.25")], [None, None]),
        ([0.1, Decimal128("0.25")], [Decimal("0.1"), Decimal("0.25")], [None, None]),
        ([Decimal128("1E-20"), Decimal128("NaN")], [None, None], ["1E-20", "NaN"]),
        ([Decimal128("1E+30"), Decimal128("0")], [None, Decimal(0)], ["1E+30", None]),
        ([1, "two", 3], [1, None, 3], [None, "two", None]),
        (["one", 2, {"a": 1}], ["one", None, None], [None, "2", '{"a":1}']),
        ([{"a": 1}, [1], "text"], ['{"a":1}', "[1]", None], [None, None, "text"]),
        ([True, 1], [True, None], [None, "1"]),
        ([dt.datetime(2024, 1, 1), "soon"], [dt.datetime(2024, 1, 1, tzinfo=UTC), None], [None, "soon"]),
        (["soon", dt.datetime(2024, 1, 1)], ["soon", None], [None, "2024-01-01T00:00:00.000Z"]),
        ([None, 1, None], [None, 1, None], None),
        ([b"\1", Binary(b"\2" * 16, 4)], [b"\1", None], [None, "02020202-0202-0202-0202-020202020202"]),
    ],
)
def test_types_widen_and_what_is_of_another_is_kept_as_text(
    log: ChangeLog, values: list[Any], main: list[Any], other: list[str | None] | None
) -> None:
    rows = read(documents(log, *({"x": value} for value in values)))
    assert [row["x"] for row in rows] == main
    assert [row.get("x__string") for row in rows] == (other or [None] * len(values))
    assert ("x__string" in rows[0]) == (other is not None)


def test_a_field_that_was_only_null_has_no_column(log: ChangeLog) -> None:
    [row] = read(documents(log, {"x": None}))
    assert "x" not in row
    assert orjson.loads(row["_raw"])["fullDocument"]["x"] is None


def test_names_that_readers_cannot_ask_for_are_made_such(log: ChangeLog) -> None:
    names = ["a.b", 'quo"te', "select", "Total", "total", "TOTAL", "_raw", "_Key", "", "x", "x__string"]
    names += ["é" * 40, "a_b"]
    document = {name: number for number, name in enumerate(names)}
    [row] = read(documents(log, document))
    found = [name for name in row if name not in {"_id", *META}]
    assert found[:11] == [
        "a_b", "quo_te", "select", "Total", "total__2", "TOTAL__3", "_raw__2", "_Key__2", "_", "x", "x__string__2",
    ]  # fmt: skip
    assert len({name.lower() for name in row}) == len(row)
    assert all(len(name.encode()) <= 55 for name in row)
    assert [row[name] for name in found] == [*range(13)]


def test_rows_are_as_many_as_memory_does_not_hold(log: ChangeLog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrow, "_IN_MEMORY_BYTES", 1000)
    monkeypatch.setattr(arrow, "_PART_ROWS", 7)
    monkeypatch.setattr(parquet, "_GROUP_BYTES", 2000)
    events = documents(log, *({"x": "t" * number} for number in range(100)))
    content = io.BytesIO(written(events))
    assert pq.ParquetFile(content).num_row_groups > 5
    assert [row["x"] for row in pq.read_table(content).to_pylist()] == ["t" * number for number in range(100)]


def test_a_file_can_be_finished_again(log: ChangeLog) -> None:
    content: list[bytes] = []
    writer = PARQUET.writer(content.append)
    for number in range(2):
        content.clear()
        writer.append([log.insert({"_id": number, f"f{number}": 1}).render(PARQUET.takes)])
        writer.finish()
    writer.close()
    rows = pq.read_table(io.BytesIO(b"".join(content))).to_pylist()
    assert [(row["_id"], row["f0"], row["f1"]) for row in rows] == [(0, 1, None), (1, None, 1)]


def test_equal_events_make_equal_bytes(log: ChangeLog) -> None:
    events = documents(log, {"x": 1}, {"x": "two"}, {"y": [1]})
    assert written(events) == written(events)


def test_duckdb_reads_the_same(log: ChangeLog, tmp_path: Path) -> None:
    events = documents(log, {"total": Decimal128("1.5"), "at": dt.datetime(2024, 1, 1), "Total": 1})
    file = tmp_path / "orders.parquet"
    file.write_bytes(written(events))
    with duckdb.connect() as connection:
        columns = """_id, total, Total__2, epoch_ms("at"), json_extract_string(_raw, '$.operationType')"""
        found = connection.execute(f"SELECT {columns} FROM '{file}'").fetchall()
    assert found == [(0, Decimal("1.5"), 1, 1704067200000, "insert")]


def test_events_about_no_document_are_rows_too(log: ChangeLog) -> None:
    rows = read([log.drop(), log.insert({"_id": 1, "x": 1})])
    assert (rows[0]["_operation"], rows[0]["_key"], rows[0]["x"]) == ("drop", None, None)


def test_an_event_of_no_bytes_is_a_row(log: ChangeLog) -> None:
    event = ChangeEvent(document=bson.decode(log.insert({"_id": 1, "x": 2}).raw or b""))
    [row] = read([event])
    assert row["x"] == 2


def test_a_file_tells_which_events_it_holds(log: ChangeLog) -> None:
    events = log.inserts(5)
    file = io.BytesIO(written(events))
    assert [one for some in PARQUET.event_ids(file) for one in some] == [event.event_id for event in events]
