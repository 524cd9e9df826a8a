"""In which order renames within one manifest are followed."""

from __future__ import annotations

import io
import json
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from docdb_stream.load.renames import Rename, merge_in_order, renames
from docdb_stream.load.warehouse import Loaded
from docdb_stream.position import Namespace


def parquet(*rows: tuple[str, int, dict[str, Any]]) -> pq.ParquetFile:
    table = pa.table(
        {
            "_operation": [operation for operation, _, _ in rows],
            "_version": [version for _, version, _ in rows],
            "_raw": [json.dumps(raw) for _, _, raw in rows],
        }
    )
    content = io.BytesIO()
    pq.write_table(table, content)
    return pq.ParquetFile(content)


def test_renames_are_found_in_their_order() -> None:
    to = {"to": {"db": "shop", "coll": "archive"}}
    found = renames(parquet(("insert", 1, {}), ("rename", 7, to), ("rename", 3, to), ("rename", 5, {"_id": 1})))
    assert found == [Rename(3, Namespace("shop", "archive")), Rename(7, Namespace("shop", "archive"))]
    assert renames(parquet(("insert", 1, to), ("drop", 2, {}))) == ()


def test_a_name_that_is_free_again_is_taken_after_it_was_left() -> None:
    done: list[Any] = []

    def merge(file: str, until: int | None) -> Loaded:
        done.append((file, until))
        return Loaded(written=1)

    def move(table: str, rename: Rename) -> Loaded:
        done.append((table, "->", rename.to.coll))
        return Loaded(written=10)

    files = [
        ("a.1", "a", [Rename(2, Namespace("d", "b"))]),
        ("b.1", "b", [Rename(1, Namespace("d", "c"))]),
        ("b.2", "b", []),
    ]
    assert merge_in_order(files, merge, move) == Loaded(written=23)
    assert done == [
        ("b.1", 1), ("b.2", 1), ("b", "->", "c"),
        ("a.1", 2), ("a", "->", "b"),
        ("a.1", None), ("b.1", None), ("b.2", None),
    ]  # fmt: skip


def test_what_is_moved_counts_once() -> None:
    found = merge_in_order(
        [("a.1", "a", [Rename(2, Namespace("d", "b"))])], lambda *_: Loaded(written=5), lambda *_: Loaded(written=7)
    )
    assert found.written == 12
