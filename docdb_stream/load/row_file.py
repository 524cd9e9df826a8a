"""The rows of a Parquet file as Redshift's COPY takes them: CSV, compressed with gzip.

Redshift could read the Parquet files themselves, but not load them rightly: COPY takes all columns of such a file, and
fails for each ``_raw`` beyond 65,535 bytes; and a table has no order, by which the later of two changes of one
transaction is told. Here each row has its place.
"""

from __future__ import annotations

import csv
import datetime as dt
import gzip
import hashlib
import io
import json
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import IO, Any, Final

from docdb_stream.load.fields import NOT_LOADED, json_without_nul, text_without_nul, type_of
from docdb_stream.schema.columns import ColumnType

VALUE_BYTES: Final = 65_535
"""Redshift's developer guide, "Character types" and "SUPER limitations": of a VARCHAR, and of a string in a SUPER where
enable_large_strings_opt_in is not set."""
ROW_BYTES: Final = 4_000_000
"""The same, "COPY": a row of a file has 4 MB at most."""
NOT_HELD: Final = "_not_held"
"""The column that names those whose value Redshift cannot hold in this row."""

_READ_ROWS: Final = 1024
_EPOCH: Final = dt.datetime(1970, 1, 1)
_FIRST_MS: Final = -62_135_596_800_000
_LAST_MS: Final = 253_402_300_799_999
"""The years 1 to 9999. What is beyond is null."""


@dataclass(frozen=True, slots=True)
class RowField:
    """A column of a file.

    Attributes:
        name: Its name there.
        type: What it holds.
    """

    name: str
    type: ColumnType


@dataclass(frozen=True, slots=True)
class Rows:
    """What is in a file that was written.

    Attributes:
        fields: Its columns after ``_place``, ``_operation`` and ``_has_document``, and before ``_not_held``.
        null: The text that stands for null: a new one for each file, so that no document has it.
        rows: How many.
        not_held: The columns that have a value which Redshift cannot hold.
    """

    fields: Sequence[RowField]
    null: str
    rows: int
    not_held: Sequence[str]


def write_rows(parquet: Any, into: IO[bytes]) -> Rows:
    """Write the rows of an open ParquetFile, and say what they are."""
    fields = [RowField(each.name, type_of(each)) for each in parquet.schema_arrow if each.name not in NOT_LOADED]
    null = secrets.token_hex(16)
    missing: set[str] = set()
    place = 0
    with gzip.GzipFile(fileobj=into, mode="wb", compresslevel=1, mtime=0) as packed:
        text = io.TextIOWrapper(packed, "utf-8", newline="")
        writer = csv.writer(text, lineterminator="\n")
        for operation, has_document, values in _read(parquet, fields):
            left_out = _fit(fields, values)
            missing.update(left_out)
            row = [place, operation, _text("bool", has_document), *values, ",".join(left_out)[:VALUE_BYTES] or None]
            writer.writerow([null if value is None else value for value in row])
            place += 1
        text.flush()
        text.detach()
    return Rows(fields, null, place, sorted(missing))


def _read(parquet: Any, fields: Sequence[RowField]) -> Iterator[tuple[str, bool, list[str | None]]]:
    names = ["_operation", "_has_document", *(field.name for field in fields)]
    for batch in parquet.iter_batches(_READ_ROWS, columns=names):
        columns = [batch.column(0).to_pylist(), batch.column(1).to_pylist()]
        for field in fields:
            column = batch.column(batch.schema.get_field_index(field.name))
            values = (column.cast("int64") if field.type == "timestamp" else column).to_pylist()
            columns.append([_text(field.type, value) for value in values])
        for operation, has_document, *values in zip(*columns, strict=True):
            yield operation, has_document, values


def _text(kind: ColumnType, value: Any) -> str | None:
    """A value as Redshift reads it."""
    if value is None:
        return None
    match kind:
        case "timestamp":
            if not _FIRST_MS <= value <= _LAST_MS:
                return None
            return (_EPOCH + dt.timedelta(milliseconds=value)).isoformat(" ", "milliseconds")
        case "bool":
            return "true" if value else "false"
        case "binary":
            return str(value.hex())
        case "decimal":
            return format(value, "f")
        case "text":
            return text_without_nul(value)
        case "json":
            return json_without_nul(value)
    return str(value)


def _fit(fields: Sequence[RowField], values: list[str | None]) -> list[str]:
    """Make null what Redshift cannot hold; returns the names of those columns."""
    left_out = []
    sizes = [0 if value is None else len(value.encode()) for value in values]
    for index, field in enumerate(fields):
        value, size = values[index], sizes[index]
        if value is not None and size > VALUE_BYTES and not (field.type == "json" and _is_held(value)):
            left_out.append(index)
    # A quote in a value is written twice.
    total = {index: size for index, size in enumerate(sizes) if index not in left_out}
    while sum(total.values()) > ROW_BYTES // 2:
        largest = max(total, key=lambda index: total[index])
        left_out.append(largest)
        del total[largest]
    for index in left_out:
        values[index] = _key_digest(values[index]) if fields[index].name == "_key" else None
    return [fields[index].name for index in left_out]


def _is_held(value: str) -> bool:
    """Whether each string in this JSON is short enough."""
    waiting = [json.loads(value)]
    while waiting:
        match waiting.pop():
            case str() as text if len(text.encode()) > VALUE_BYTES:
                return False
            case list() as elements:
                waiting.extend(elements)
            case dict() as members:
                waiting.extend(members)
                waiting.extend(members.values())
    return True


def _key_digest(key: str | None) -> str:
    """What stands for a key that is too long: the same for each change of its document."""
    return "sha256:" + hashlib.sha256((key or "").encode()).hexdigest()
