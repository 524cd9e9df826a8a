"""Structs and lists in Parquet files, read back by pyarrow and by DuckDB, alone and several files together."""

from __future__ import annotations

import datetime as dt
import io
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import orjson
import pyarrow.parquet as pq
import pytest
from bson import DBRef, Decimal128, Int64, ObjectId, Regex
from hypothesis import given, settings
from hypothesis import strategies as st

from docdb_stream.context import RunContext, running
from docdb_stream.events import ChangeEvent, Events
from docdb_stream.formats.parquet import Parquet
from docdb_stream.position import Namespace
from docdb_stream.schema.ledger import Ledger, Moment
from docdb_stream.schema.shape import shape_of, steps_of
from docdb_stream.testing.events import ChangeLog

UTC = dt.UTC
NESTED = Parquet(is_nested=True)


def written(events: Sequence[ChangeEvent]) -> bytes:
    content = io.BytesIO()
    writer = NESTED.writer(content.write)
    writer.append([each for each in Events(events).render(NESTED.takes) if isinstance(each, bytes)])
    writer.finish()
    writer.close()
    return content.getvalue()


def rows_of(*documents: dict[str, Any]) -> list[dict[str, Any]]:
    log = ChangeLog()
    events = [log.insert({"_id": number, **document}) for number, document in enumerate(documents)]
    found: list[dict[str, Any]] = pq.read_table(io.BytesIO(written(events))).to_pylist()
    return found


@pytest.mark.parametrize(
    ("path", "steps"),
    [
        ("a", [".a"]),
        ("", ["."]),
        ("a.b[].c", [".a", ".b", "[]", ".c"]),
        ("a[][]", [".a", "[]", "[]"]),
        (r"a\.b.\[\]", [".a.b", ".[]"]),
        ("a..b", [".a", ".", ".b"]),
        (r"\\.x", [".\\", ".x"]),
        ("x" * 400, []),
    ],
)
def test_the_steps_of_a_path(path: str, steps: list[str]) -> None:
    assert [*steps_of(path)] == steps


def test_documents_are_structs_and_arrays_lists() -> None:
    key = ObjectId()
    address = {"city": "Köln", "zip": 50667, "at": dt.datetime(2026, 1, 2, tzinfo=UTC), "geo": {"lat": 1.5}, "id": key}
    items = [{"sku": "a", "tags": ["x", "y"]}, {"sku": "b", "n": Int64(5)}, {}]
    more = {"matrix": [[1, 2], [], [3]], "price": {"eur": Decimal128("1.5")}}
    [row] = rows_of({"address": address, "items": items, **more})
    assert row["address"] == {**address, "id": str(key)}
    none = dict.fromkeys(("sku", "tags", "n"))
    assert row["items"] == [{**none, "sku": "a", "tags": ["x", "y"]}, {**none, "sku": "b", "n": 5}, none]
    assert row["matrix"] == [[1, 2], [], [3]]
    assert row["price"] == {"eur": Decimal("1.5"), "eur__string": None}
    assert "address__string" not in row


def test_what_is_null_or_not_there() -> None:
    documents = [{"a": {"x": 1}, "l": [1, None]}, {"a": None, "l": None}, {}, {"a": {}, "l": []}, {"a": {"x": None}}]
    found = [(row["a"], row["l"]) for row in rows_of(*documents)]
    assert found == [({"x": 1}, [1, None]), (None, None), (None, None), ({"x": None}, []), ({"x": None}, None)]


def test_what_a_type_does_not_hold_is_text_beside_it() -> None:
    first, second = {"a": {"x": 1}, "l": [1]}, {"a": {"x": "one"}, "l": [2.5]}
    rows = rows_of(first, second, {"a": [1], "l": ["one", {"y": 1}]}, {"a": "a", "l": 7})
    assert [row["a"] for row in rows] == [{"x": 1, "x__string": None}, {"x": None, "x__string": "one"}, None, None]
    assert [row["a__string"] for row in rows] == [None, None, "[1]", "a"]
    assert [row["l"] for row in rows] == [[1.0], [2.5], None, None]
    assert [row["l__string"] for row in rows] == [None, None, '["one",{"y":1}]', "7"]


def test_what_nothing_is_known_of_is_text() -> None:
    """Else it would be of another type later."""
    [row] = rows_of({"a": {}, "l": [], "n": {"m": {}}, "r": DBRef("c", 1), "e": [{}], "k": [None], "x": Regex("a")})
    assert [row[f"{name}__string"] for name in "alrek"] == ["{}", "[]", '{"$ref":"c","$id":1}', "[{}]", "[null]"]
    assert (row["n"], row["x"]) == ({"m__string": "{}"}, '"/a/"')
    assert not {"a", "l", "r", "e", "k"} & row.keys()


def test_names_within_a_struct() -> None:
    inner = {"a.b": 1, "A_B": 2, '"': 3, "": 4, "x" * 80: 5, "_key": 6}
    [row] = rows_of({"in": inner})
    assert list(row["in"].values()) == [1, 2, 3, 4, 5, 6]
    names = [name.lower() for name in row["in"]]
    assert len(set(names)) == 6
    assert max(map(len, names)) <= 55


def test_documents_deeper_than_the_ledger_looks() -> None:
    document: dict[str, Any] = {"end": 1}
    for _ in range(60):
        document = {"d": document}
    [row] = rows_of({"d": document})
    found, depth = row["d"], 0
    while "d" in found:
        found, depth = found["d"], depth + 1
    assert depth > 20
    assert orjson.loads(found["d__string"])


def test_files_of_several_checkpoints_are_read_together(tmp_path: Path) -> None:
    log, ledger = ChangeLog(), Ledger(Namespace("shop", "orders"))
    documents = [
        {"_id": 0, "a": {"x": 1}, "l": [1], "e": {}, "items": [{"sku": "a"}]},
        {
            "_id": 1,
            "a": {"x": Int64(2**40), "y": "new"},
            "l": [Int64(2**40)],
            "e": {"z": 1},
            "items": [{"sku": "a", "n": 1}],
        },
        {"_id": 2, "a": {"x": 2.5, "y": 7, "deep": {"er": True}}, "l": ["s"], "items": []},
        {"_id": 3, "l": [2.5], "a": "text", "items": [{"n": 2.5, "sku": 1}]},
    ]
    with running(RunContext(columns_of=lambda namespace: ledger.columns())):
        for number, document in enumerate(documents):
            event = log.insert(document)
            ledger.learn(shape_of(event.full_document or {}), Moment.of(event.event_id, event.cluster_time))
            (tmp_path / f"{number}.parquet").write_bytes(written([event]))
    query = f"""SELECT _id, a.x, a.y, a.y__string, a.deep.er, a__string, l, l__string, items, e.z, e__string
        FROM read_parquet('{tmp_path}/*.parquet', union_by_name = true) ORDER BY _id"""
    found = duckdb.sql(query).fetchall()
    none = {"sku": None, "sku__string": None, "n": None}
    assert found == [
        (0, 1.0, None, None, None, None, [1.0], None, [{**none, "sku": "a"}], None, "{}"),
        (1, float(2**40), "new", None, None, None, [float(2**40)], None, [{**none, "sku": "a", "n": 1.0}], 1, None),
        (2, 2.5, None, "7", True, None, None, '["s"]', [], None, None),
        (3, None, None, None, None, "text", [2.5], None, [{**none, "n": 2.5, "sku__string": "1"}], None, None),
    ]


SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**31), 2**31 - 1),
    st.integers(-(2**63), 2**63 - 1).map(Int64),
    st.floats(allow_nan=False),
    st.text(max_size=5),
    st.sampled_from([ObjectId("0" * 24), dt.datetime(2026, 1, 2, tzinfo=UTC), b"\0\1", Decimal128("1.50")]),
)
KEYS = st.sampled_from(["a", "b", "A", "a.b", "", "[]", "$x", "_id", "c__string", "c"])
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3), max_leaves=12
)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.dictionaries(KEYS, VALUES, max_size=4), min_size=1, max_size=6))
def test_nothing_of_a_document_is_lost(documents: list[dict[str, Any]]) -> None:
    """Whatever leaf a document has is found in its row, in its place or as text in the one beside it."""
    ledger = Ledger(Namespace("shop", "orders"))
    log = ChangeLog()
    events = [log.insert({**document, "_id": number}) for number, document in enumerate(documents)]
    for event in events:
        ledger.learn(shape_of(event.full_document or {}), Moment.of(event.event_id, event.cluster_time))
    columns = ledger.columns()
    with running(RunContext(columns_of=lambda namespace: columns)):
        rows = pq.read_table(io.BytesIO(written(events))).to_pylist()
    for event, row in zip(events, rows, strict=True):
        document = event.full_document or {}
        for column in columns:
            check(column.nested or column, document.get(column.field), row)


def check(column: Any, value: Any, row: dict[str, Any]) -> None:
    held, other = row.get(column.name), row.get(column.other_name) if column.has_other else None
    if value is None:
        assert held is None
        assert other is None
    elif other is not None:
        assert held is None
        assert isinstance(other, str)
    elif column.type == "struct":
        assert held is not None
        for member in column.members:
            check(member, value.get(member.field), held)
        known = {member.field for member in column.members}
        assert all(each is None for key, each in value.items() if key not in known)
    elif column.type == "list":
        assert len(held) == len(value)
        for each, found in zip(value, held, strict=True):
            check(column.element, each, {column.element.name: found})
    elif isinstance(value, ObjectId):
        assert held == str(value)
    elif isinstance(held, Decimal) and isinstance(value, float):
        assert float(held) == value  # its shortest text
    elif isinstance(value, Decimal128):
        assert held == value.to_decimal()
    else:
        assert held == (value.replace(tzinfo=UTC) if isinstance(value, dt.datetime) else value)
