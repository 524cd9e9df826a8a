"""Rows of events as Arrow has them, with a column for each field of their documents: for Parquet files and for tables.

Owns what a row is. How values become columns is the matter of ``cells`` and ``nesting``; which columns there are
follows from the schema ledger (``schema.columns``): of the run where it keeps one, else of the events themselves.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from struct import Struct
from tempfile import SpooledTemporaryFile
from typing import Any, Final

from docdb_stream.context import current_run
from docdb_stream.errors import UnrenderableError
from docdb_stream.formats.cells import ARROW_TYPES, arrays_of, arrow
from docdb_stream.formats.decoded import decode_all
from docdb_stream.formats.facts import FACTS, Facts, key_of
from docdb_stream.formats.nesting import nested_arrays, nested_fields
from docdb_stream.formats.row import Row, row_of
from docdb_stream.position import Namespace
from docdb_stream.schema.columns import Column
from docdb_stream.schema.ledger import Ledger, Moment
from docdb_stream.schema.nested import NestedType
from docdb_stream.schema.shape import SHAPES

_IN_MEMORY_BYTES: Final = 4 * 1024 * 1024
"""Of the rows that wait; beyond, they are in a temporary file."""
_PART_ROWS: Final = 1024
_PART_BYTES: Final = 2 * 1024 * 1024
"""Decoded at a time: as Python's objects they are several times as large."""
_LENGTH: Final = Struct("<I")


class WaitingRows:
    """Rows of one collection that wait until it is known which columns there are.

    Raises:
        ConfigError: pyarrow is not installed.
    """

    def __init__(self) -> None:
        arrow()
        self._file: SpooledTemporaryFile[bytes] = SpooledTemporaryFile(_IN_MEMORY_BYTES)  # noqa: SIM115

    def append(self, payloads: Sequence[bytes]) -> None:
        """Add events, as ``formats.row`` has rendered them."""
        self._file.seek(0, 2)
        self._file.writelines(piece for payload in payloads for piece in (_LENGTH.pack(len(payload)), payload))

    def columns(self) -> Sequence[Column]:
        """Those of the run's ledger; or what the events themselves have."""
        namespace = self._namespace()
        if namespace is None:
            return ()
        known = current_run().columns_of(namespace)
        if known is not None:
            return known
        own = Ledger(namespace)
        for rows in self.parts():
            for decoded in decode_all([row.raw for row in rows]):
                for facts, shape in zip(FACTS.render(decoded), SHAPES.render(decoded), strict=True):
                    if isinstance(facts, Facts) and shape and isinstance(shape, tuple):
                        own.learn(shape, Moment.of(facts.event_id, facts.cluster_time))
        return own.columns()

    def _namespace(self) -> Namespace | None:
        """The collection of them; None where there are none."""
        for rows in self.parts():
            for row in rows:
                for decoded in decode_all([row.raw]):
                    [facts] = FACTS.render(decoded)
                    if isinstance(facts, Facts):
                        return facts.namespace
        return None

    def parts(self) -> Iterator[list[Row]]:
        """The rows in their order, some at a time. What is appended meanwhile is not among them."""
        self._file.seek(0)
        rows: list[Row] = []
        size_bytes = 0
        while head := self._file.read(4):
            row = row_of(self._file.read(_LENGTH.unpack(head)[0]))
            rows.append(row)
            size_bytes += len(row.raw)
            if len(rows) >= _PART_ROWS or size_bytes >= _PART_BYTES:
                yield rows
                rows, size_bytes = [], 0
        if rows:
            yield rows

    def close(self) -> None:
        """Let go of them."""
        self._file.close()


class RowTable:
    """Makes Arrow's record batches of rows.

    Args:
        columns: The columns of the documents' fields.
        is_nested: Whether nested documents and arrays are structs and lists; else they are JSON as text.

    Attributes:
        schema: The ``pyarrow.Schema`` of all of them.
    """

    def __init__(self, columns: Sequence[Column], *, is_nested: bool = False) -> None:
        pa = arrow()
        self._columns = columns
        self._is_nested = is_nested
        fields = [
            pa.field("_key", pa.string()),
            pa.field("_operation", pa.string(), nullable=False),
            pa.field("_cluster_time", ARROW_TYPES["timestamp"](), nullable=False),
            pa.field("_version", pa.int64(), nullable=False),
            pa.field("_event_id", pa.string(), nullable=False),
            pa.field("_has_document", pa.bool_(), nullable=False),
        ]
        for column in columns:
            if is_nested and column.nested is not None:
                fields += nested_fields(column.nested, _about(column, column.nested.type))
                continue
            fields.append(pa.field(column.name, ARROW_TYPES[column.type](), metadata=_about(column, column.type)))
            if column.has_other:
                fields.append(pa.field(column.other_name, pa.string(), metadata=_about(column, "text")))
        self.schema = pa.schema([*fields, pa.field("_raw", pa.string(), nullable=False)])

    def batch(self, rows: Sequence[Row]) -> Any:
        """A ``pyarrow.RecordBatch``."""
        pa = arrow()
        facts: list[Facts] = []
        keys: list[str | None] = []
        documents: list[Any] = []
        there: list[bool] = []
        for decoded in decode_all([row.raw for row in rows]):
            for raw, event, found in zip(decoded.raws, decoded.documents, FACTS.render(decoded), strict=True):
                assert isinstance(found, Facts)  # else there were no row of it
                facts.append(found)
                keys.append(_key_text(found, event, raw))
                document = event.get("fullDocument")
                has_document = isinstance(document, dict)
                there.append(has_document)
                documents.append(document if has_document else event.get("documentKey") or {})
        arrays = [
            pa.array(keys, pa.string()),
            pa.array([each.operation for each in facts], pa.string()),
            pa.array([1000 * each.cluster_time.time for each in facts], pa.int64()).cast(ARROW_TYPES["timestamp"]()),
            pa.array([each.cluster_time.time << 32 | each.cluster_time.inc for each in facts], pa.int64()),
            pa.array([each.event_id for each in facts], pa.string()),
            pa.array(there, pa.bool_()),
        ]
        for column in self._columns:
            values = [document.get(column.field) for document in documents]
            nested = column.nested if self._is_nested else None
            arrays += arrays_of(column, values) if nested is None else nested_arrays(nested, values)
        arrays.append(pa.array([row.text for row in rows], pa.binary()).cast(pa.string()))
        return pa.RecordBatch.from_arrays(arrays, schema=self.schema)


def _about(column: Column, kind: NestedType) -> dict[str, str]:
    """What a reader may want to know of a file's column."""
    return {"field": column.field, "type": kind}


def _key_text(facts: Facts, event: Mapping[str, Any], raw: bytes | None) -> str | None:
    try:
        return key_of(facts, event, raw)
    except UnrenderableError:
        return None
