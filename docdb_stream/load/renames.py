"""What collections are renamed to, as a file of their events says it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from docdb_stream.load.warehouse import Loaded
from docdb_stream.position import Namespace

_READ_ROWS: Final = 1024

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Rename:
    """A collection's end under its name, and where all that it held goes on.

    Attributes:
        version: When, as ``_version``.
        to: Its new name.
    """

    version: int
    to: Namespace


def renames(parquet: Any) -> Sequence[Rename]:
    """Those in an open ParquetFile, in their order."""
    if not any("rename" in batch.column(0).to_pylist() for batch in parquet.iter_batches(columns=["_operation"])):
        return ()
    return sorted(_read(parquet), key=lambda each: each.version)


def merge_in_order(
    files: Sequence[tuple[T, str, Sequence[Rename]]],
    merge: Callable[[T, int | None], Loaded],
    move: Callable[[str, Rename], Loaded],
) -> Loaded:
    """Merge a manifest's files of collections that were renamed. One can have got the name that another has just left:
    so each move comes when all before it has, and what came before it in its own collection has been merged.

    Args:
        files: Each with its table and its renames, in their order.
        merge: Merges a file into its table; of what is before a version alone, if one is given.
        move: Moves what a table has, as a rename says.
    """
    found = Loaded()
    moves = [(rename, table) for _, table, all_of_file in files for rename in all_of_file]
    for rename, table in sorted(moves, key=lambda each: each[0].version):
        for file, of, _ in files:
            if of == table:
                merge(file, rename.version)
        found.add(move(table, rename))
    for file, _, _ in files:
        found.add(merge(file, None))
    return found


def _read(parquet: Any) -> Iterator[Rename]:
    for batch in parquet.iter_batches(_READ_ROWS, columns=["_operation", "_version", "_raw"]):
        columns = [batch.column(batch.schema.get_field_index(name)) for name in ("_operation", "_version", "_raw")]
        for index, operation in enumerate(columns[0].to_pylist()):
            if operation == "rename":
                to = json.loads(columns[2][index].as_py()).get("to")
                if to:
                    yield Rename(columns[1][index].as_py(), Namespace(to["db"], to["coll"]))
