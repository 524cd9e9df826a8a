"""A change-log table: what it has, what is appended to it, and what of that is there already."""

from __future__ import annotations

from typing import Any, Final

from docdb_stream.formats.arrow import RowTable, WaitingRows
from docdb_stream.formats.cells import arrow
from docdb_stream.schema.columns import DECIMAL_DIGITS, DECIMAL_SCALE, META, OTHER_SUFFIX

AFTER: Final = "docdb-stream.after"
"""The table property that names the checkpoint after which came what was flushed last."""
EPOCH: Final = "docdb-stream.epoch"
"""The epoch of the run that flushed it."""
AHEAD: Final = "docdb-stream.ahead"
"""How many rows there are that came after that checkpoint, by that run or by such as died."""
FLUSHED: Final = "docdb-stream.flushed"
"""How many of them were in the last flush, and so are behind the checkpoint that follows it."""

_FIRST_MS: Final = -62_135_596_800_000
_LAST_MS: Final = 253_402_300_799_999
"""Years 1 to 9999: pyiceberg makes Python's dates of the least and the greatest of a file."""


def first_fields() -> Any:
    """The columns that every table begins with."""
    arrow_types = RowTable(()).schema
    from pyiceberg.schema import Schema
    from pyiceberg.types import NestedField

    kinds = _types()
    return Schema(
        *(NestedField(place, name, kinds[META[name]]) for place, name in enumerate(arrow_types.names, start=1))
    )


def partition_by() -> Any:
    """By the day of the cluster time."""
    from pyiceberg.partitioning import PartitionField, PartitionSpec
    from pyiceberg.transforms import DayTransform

    source = first_fields().find_field("_cluster_time").field_id
    return PartitionSpec(PartitionField(source, 1000, DayTransform(), "_cluster_day"))


def _types() -> dict[str, Any]:
    from pyiceberg import types

    return {
        "int32": types.IntegerType(),
        "int64": types.LongType(),
        "double": types.DoubleType(),
        "decimal": types.DecimalType(DECIMAL_DIGITS, DECIMAL_SCALE),
        "bool": types.BooleanType(),
        "text": types.StringType(),
        "timestamp": types.TimestamptzType(),
        "binary": types.BinaryType(),
        "json": types.StringType(),
    }


class ChangeLogTable:
    """One table, as it was when it was looked at: an append holds only if nobody has committed since.

    Args:
        table: pyiceberg's.
    """

    def __init__(self, table: Any) -> None:
        self._table = table

    @property
    def epoch(self) -> int:
        """See ``EPOCH``."""
        return self._number(EPOCH)

    def append(self, rows: WaitingRows, checkpoint: str, epoch: int) -> None:
        """Append what was flushed after a checkpoint, without what is there already; what is known of it is in the
        table's properties, in the same transaction.

        Args:
            rows: Of one collection: all that came since the checkpoint.
            checkpoint: Its name; empty where there is none, and nobody knows then what is there.
            epoch: Of the run.

        Raises:
            CommitFailedException: Somebody has committed since the table was looked at.
        """
        pa = arrow()
        made = RowTable(rows.columns())
        data = pa.Table.from_batches([made.batch(part) for part in rows.parts()], schema=made.schema)
        flushed, ahead = data.num_rows, self._ahead(checkpoint)
        if ahead:
            data = data.filter(pa.compute.invert(pa.compute.is_in(data["_event_id"], self._known(data))))
        numbers = {AHEAD: ahead + data.num_rows, FLUSHED: flushed, EPOCH: epoch}
        properties = {AFTER: checkpoint, **{name: str(number) for name, number in numbers.items()}}
        with self._table.transaction() as transaction:
            if data.num_rows:
                self._add_columns(transaction, made.schema)
                schema = transaction.table_metadata.schema()
                transaction.append(_as_in(schema, data), snapshot_properties=properties)
            transaction.set_properties(properties)

    def _ahead(self, checkpoint: str) -> int:
        """How many rows there are that may come again: those of runs that died before they had saved a checkpoint. Of a
        shorter replay, whose checkpoint is saved, some may still come."""
        if not checkpoint:
            return 0
        if self._table.properties.get(AFTER) == checkpoint:
            return self._number(AHEAD)
        return max(0, self._number(AHEAD) - self._number(FLUSHED))

    def _number(self, name: str) -> int:
        return int(self._table.properties.get(name, 0))

    def _known(self, data: Any) -> Any:
        """The ids among these events that the table has, whatever became of the commit they came by."""
        pa = arrow()
        least, most = (pa.compute.min_max(data["_version"])[end].as_py() for end in ("min", "max"))
        within = f"_version >= {least} and _version <= {most}"
        return self._table.scan(row_filter=within, selected_fields=("_event_id",)).to_arrow()["_event_id"]

    def _add_columns(self, transaction: Any, schema: Any) -> None:
        kinds = _types()
        known = {field.name: field.field_type for field in transaction.table_metadata.schema().fields}
        with transaction.update_schema() as update:
            for field in schema:
                kind = kinds[_kind_of(field)]
                if field.name not in known:
                    update.add_column(field.name, kind)
                elif known[field.name] != kind:
                    if _widens(known[field.name], kind):
                        update.update_column(field.name, kind)
                    elif not _holds(known[field.name], kind) and field.name + OTHER_SUFFIX not in {
                        *known,
                        *schema.names,
                    }:
                        update.add_column(field.name + OTHER_SUFFIX, kinds["text"])


def _widens(known: Any, kind: Any) -> bool:
    return (str(known), str(kind)) == ("int", "long")


def _holds(known: Any, kind: Any) -> bool:
    """Whether a column of a table takes values of this type as they are."""
    return known == kind or (str(known), str(kind)) == ("long", "int")


def _kind_of(field: Any) -> str:
    told = (field.metadata or {}).get(b"type")
    return told.decode() if told is not None else META[field.name]


def _as_in(schema: Any, data: Any) -> Any:
    """The rows with the table's columns: what one of them does not hold is text beside it."""
    pa = arrow()
    from pyiceberg.io.pyarrow import schema_to_pyarrow

    kinds = _types()
    wanted = schema_to_pyarrow(schema, include_field_ids=False)
    known = {field.name: field.field_type for field in schema.fields}
    there = {name: data[name] for name in data.column_names}
    for field in data.schema:
        if _holds(known[field.name], kinds[_kind_of(field)]):
            continue
        text = _text(there.pop(field.name))
        other = there.get(field.name + OTHER_SUFFIX)
        there[field.name + OTHER_SUFFIX] = text if other is None else pa.compute.coalesce(other, text)
    columns = [
        _cast(there[field.name], field.type) if field.name in there else pa.nulls(data.num_rows, field.type)
        for field in wanted
    ]
    return pa.Table.from_arrays(columns, schema=wanted)


def _cast(column: Any, kind: Any) -> Any:
    pa = arrow()
    if pa.types.is_timestamp(column.type):
        ms = column.cast("int64")
        is_there = pa.compute.and_(pa.compute.greater_equal(ms, _FIRST_MS), pa.compute.less_equal(ms, _LAST_MS))
        column = pa.compute.if_else(is_there, column, pa.scalar(None, column.type))
    return column.cast(kind)


def _text(column: Any) -> Any:
    pa = arrow()
    if pa.types.is_binary(column.type):
        return pa.array([None if value is None else value.hex() for value in column.to_pylist()], pa.string())
    return column.cast(pa.string())
