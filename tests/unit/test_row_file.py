"""The rows of a Parquet file as Redshift's COPY takes them."""

from __future__ import annotations

import csv
import gzip
import io
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest
from pyarrow.parquet import ParquetFile, write_table

from docdb_stream.load.redshift_sql import column_name, table_name
from docdb_stream.load.row_file import ROW_BYTES, Rows, write_rows
from docdb_stream.position import Namespace


def written(kinds: dict[str, tuple[pa.DataType, str]], *rows: dict[str, Any]) -> tuple[Rows, list[dict[str, Any]]]:
    own = {"_key": pa.string(), "_operation": pa.string(), "_has_document": pa.bool_(), "_raw": pa.string()}
    fields = [pa.field(name, kind) for name, kind in own.items()]
    fields += [pa.field(name, kind, metadata={"type": told}) for name, (kind, told) in kinds.items()]
    filled = [{"_key": "k", "_operation": "insert", "_has_document": True, "_raw": "x" * 70_000, **row} for row in rows]
    parquet, packed = io.BytesIO(), io.BytesIO()
    write_table(pa.Table.from_pylist(filled, schema=pa.schema(fields)), parquet)
    with ParquetFile(parquet) as file:
        found = write_rows(file, packed)
    names = ["_place", "_operation", "_has_document", *(field.name for field in found.fields), "_not_held"]
    csv.field_size_limit(10_000_000)
    lines = csv.reader(io.StringIO(gzip.decompress(packed.getvalue()).decode(), newline=""))
    return found, [
        {name: None if text == found.null else text for name, text in zip(names, line, strict=True)} for line in lines
    ]


TIMESTAMP = pa.timestamp("ms", "UTC")


@pytest.mark.parametrize(
    ("kind", "told", "value", "text"),
    [
        (pa.string(), "text", 'a "b",\r\n\\N', 'a "b",\r\n\\N'),
        (pa.string(), "text", "", ""),
        (pa.string(), "text", "a\0", "a\ufffd"),
        (pa.string(), "json", '"\\u0000 \\\\u0000"', '"\\ufffd \\\\u0000"'),
        (pa.bool_(), "bool", False, "false"),
        (pa.binary(), "binary", b"\0\xff", "00ff"),
        (pa.float64(), "double", 1e300, "1e+300"),
        (pa.decimal128(38, 9), "decimal", Decimal("1E-9"), "0.000000001"),
        (TIMESTAMP, "timestamp", -62_135_596_800_000, "0001-01-01 00:00:00.000"),
        (TIMESTAMP, "timestamp", 253_402_300_799_999, "9999-12-31 23:59:59.999"),
        (TIMESTAMP, "timestamp", 253_402_300_800_000, None),
        (pa.string(), "text", None, None),
        (pa.string(), "text", "x" * 65_535, "x" * 65_535),
    ],
)
def test_each_value_is_as_redshift_reads_it(kind: pa.DataType, told: str, value: Any, text: str | None) -> None:
    if told == "timestamp":
        value = pa.scalar(value, pa.int64()).cast(kind)
    found, (row,) = written({"a": (kind, told)}, {"a": value})
    assert row["a"] == text
    assert (row["_not_held"], found.not_held, found.rows) == (None, [], 1)


@pytest.mark.parametrize(
    ("kind", "told", "value"),
    [
        (pa.string(), "text", "é" * 32_768),
        (pa.binary(), "binary", b"x" * 32_768),
        (pa.string(), "json", '{"a": ["' + "x" * 65_536 + '"]}'),
        (pa.string(), "json", '{"' + "x" * 65_536 + '": 1}'),
    ],
)
def test_what_is_too_long_is_left_out_and_named(kind: pa.DataType, told: str, value: Any) -> None:
    found, (row,) = written({"a": (kind, told), "b": (pa.int32(), "int32")}, {"a": value, "b": 1})
    assert (row["a"], row["b"], row["_not_held"]) == (None, "1", "a")
    assert found.not_held == ["a"]


def test_a_row_that_is_too_long_loses_its_largest_values() -> None:
    long = "[" + ",".join(['"' + "x" * 60_000 + '"'] * 30) + "]"
    kinds = {"a": (pa.string(), "json"), "b": (pa.string(), "json"), "c": (pa.string(), "json")}
    _, (row,) = written(kinds, {"a": long, "b": long[:-1] + ",1]", "c": "[]"})
    assert (row["b"], row["c"], row["_not_held"]) == (None, "[]", "b")
    assert sum(len(value or "") for value in row.values()) < ROW_BYTES


def test_a_key_that_is_too_long_is_the_same_for_each_change() -> None:
    _, rows = written({}, {"_key": "x" * 70_000}, {"_key": "x" * 70_000}, {"_key": "y" * 70_000})
    first, again, other = [row["_key"] for row in rows]
    assert first == again != other
    assert [row["_place"] for row in rows] == ["0", "1", "2"]


def test_names_differ_where_redshift_tells_no_cases_apart() -> None:
    names = {table_name(Namespace("shop", name)) for name in ("orders", "Orders", "ORDERS", "x" * 200)}
    assert len({name.lower() for name in names}) == 4
    assert max(len(name) for name in names) <= 127
    assert (column_name("Total"), column_name("XMIN"), column_name("_not_held")) == (
        "total",
        "xmin__field",
        "_not_held__field",
    )
