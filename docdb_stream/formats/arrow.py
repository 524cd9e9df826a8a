"""Rows of events as Arrow has them, with a column for each field of their documents: for Parquet files and for tables.

Owns how values become columns. Which columns there are follows from the schema ledger (``schema.columns``): of the run
where it keeps one, else of the events themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from struct import Struct
from tempfile import SpooledTemporaryFile
from typing import Any, Final

import orjson
from bson import Int64, ObjectId
from bson.binary import UUID_SUBTYPE, Binary
from bson.datetime_ms import DatetimeMS
from bson.decimal128 import Decimal128

from docdb_stream.context import current_run
from docdb_stream.errors import ConfigError, UnrenderableError
from docdb_stream.formats.decoded import decode_all
from docdb_stream.formats.facts import FACTS, Facts, key_of
from docdb_stream.formats.plain import RENDERER as PLAIN
from docdb_stream.formats.row import Row, row_of
from docdb_stream.schema.columns import DECIMAL_DIGITS, DECIMAL_SCALE, DOUBLE_EXACT, Column, ColumnType
from docdb_stream.schema.ledger import Ledger, Moment
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
        own: Ledger | None = None
        for rows in self.parts():
            for decoded in decode_all([row.raw for row in rows]):
                for facts, shape in zip(FACTS.render(decoded), SHAPES.render(decoded), strict=True):
                    if not isinstance(facts, Facts):
                        continue
                    if own is None:
                        known = current_run().columns_of(facts.namespace)
                        if known is not None:
                            return known
                        own = Ledger(facts.namespace)
                    if shape and isinstance(shape, tuple):
                        own.learn(shape, Moment.of(facts.event_id, facts.cluster_time))
        return own.columns() if own is not None else ()

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

    Attributes:
        schema: The ``pyarrow.Schema`` of all of them.
    """

    def __init__(self, columns: Sequence[Column]) -> None:
        pa = arrow()
        self._columns = columns
        fields = [
            pa.field("_key", pa.string()),
            pa.field("_operation", pa.string(), nullable=False),
            pa.field("_cluster_time", _TYPES["timestamp"](), nullable=False),
            pa.field("_version", pa.int64(), nullable=False),
            pa.field("_event_id", pa.string(), nullable=False),
            pa.field("_has_document", pa.bool_(), nullable=False),
        ]
        for column in columns:
            fields.append(pa.field(column.name, _TYPES[column.type](), metadata=_about(column, column.type)))
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
            pa.array([1000 * each.cluster_time.time for each in facts], pa.int64()).cast(_TYPES["timestamp"]()),
            pa.array([each.cluster_time.time << 32 | each.cluster_time.inc for each in facts], pa.int64()),
            pa.array([each.event_id for each in facts], pa.string()),
            pa.array(there, pa.bool_()),
        ]
        for column in self._columns:
            arrays += _arrays(column, [document.get(column.field) for document in documents])
        arrays.append(pa.array([row.text for row in rows], pa.binary()).cast(pa.string()))
        return pa.RecordBatch.from_arrays(arrays, schema=self.schema)


def _about(column: Column, kind: ColumnType) -> dict[str, str]:
    """What a reader may want to know of a file's column."""
    return {"field": column.field, "type": kind}


def _key_text(facts: Facts, event: Mapping[str, Any], raw: bytes | None) -> str | None:
    try:
        return key_of(facts, event, raw)
    except UnrenderableError:
        return None


def _arrays(column: Column, values: list[Any]) -> list[Any]:
    pa = arrow()
    kinds = {*map(type, values)}
    if not kinds <= _AS_THEY_ARE[column.type]:
        convert = _CONVERT[column.type]
        others: list[str | None] = [None] * len(values)
        for index, value in enumerate(values):
            if value is not None:
                values[index] = converted = convert(value)
                if converted is None and column.has_other:
                    others[index] = text_of(value)
    else:
        others = []
    array = pa.array(values, _TYPES[column.type](), from_pandas=False)
    return [array, pa.array(others or [None] * len(values), pa.string())] if column.has_other else [array]


def text_of(value: Any) -> str:
    """A value as text: a string as it is, all else as plain JSON has it, without quotes around it."""
    if isinstance(value, str):
        return str(value)
    text = json_of(value)
    return str(orjson.loads(text)) if text.startswith('"') else text


def json_of(value: Any) -> str:
    """A value as plain JSON; see ``formats.plain``."""
    rendered = PLAIN.exactly({"v": value})
    return rendered[5:-1].decode()


def _whole(value: Any, bits: int) -> int | None:
    if type(value) in (int, Int64) and -(1 << bits - 1) <= value < 1 << bits - 1:
        return int(value)
    return None


def _double(value: Any) -> float | None:
    if type(value) is float:
        return value
    return float(value) if type(value) in (int, Int64) and abs(value) <= DOUBLE_EXACT else None


def _decimal(value: Any) -> Decimal | None:
    if type(value) is Decimal128:
        found = value.to_decimal()
    elif type(value) in (int, Int64):
        found = Decimal(int(value))
    elif type(value) is float:
        found = Decimal(repr(value))  # the shortest text that is this double
    else:
        return None
    if not found.is_finite():
        return None
    sign, digits, exponent = found.as_tuple()
    assert isinstance(exponent, int)
    while exponent < -DECIMAL_SCALE and digits and digits[-1] == 0:
        digits, exponent = digits[:-1], exponent + 1
    if not any(digits):
        return Decimal(0)
    if exponent < -DECIMAL_SCALE or len(digits) + exponent > DECIMAL_DIGITS - DECIMAL_SCALE:
        return None
    return Decimal((sign, digits, exponent))


def _text(value: Any) -> str | None:
    if type(value) is str:
        return value
    if type(value) is ObjectId:
        return str(value)
    if type(value) is Binary and value.subtype == UUID_SUBTYPE and len(value) == 16:
        return text_of(value)
    return None


def _timestamp(value: Any) -> datetime | int | None:
    if type(value) is datetime:
        return value
    return int(value) if type(value) is DatetimeMS else None


def _binary(value: Any) -> bytes | None:
    is_binary = type(value) is bytes or (type(value) is Binary and value.subtype != UUID_SUBTYPE)
    return bytes(value) if is_binary else None


def _json(value: Any) -> str | None:
    return None if type(value) in _SIMPLE else json_of(value)


_SIMPLE: Final = frozenset({str, int, Int64, float, bool, ObjectId, datetime, DatetimeMS, Decimal128, bytes, Binary})
_NONE: Final = type(None)
_AS_THEY_ARE: Final[Mapping[ColumnType, frozenset[type]]] = {
    "int32": frozenset({int, _NONE}),
    "int64": frozenset({int, Int64, _NONE}),
    "double": frozenset({float, _NONE}),
    "decimal": frozenset({_NONE}),
    "bool": frozenset({bool, _NONE}),
    "text": frozenset({str, _NONE}),
    "timestamp": frozenset({datetime, _NONE}),
    "binary": frozenset({bytes, _NONE}),
    "json": frozenset({_NONE}),
}
"""What pyarrow takes as decoding gives it."""
_CONVERT: Final[Mapping[ColumnType, Callable[[Any], Any]]] = {
    "int32": lambda value: _whole(value, 32),
    "int64": lambda value: _whole(value, 64),
    "double": _double,
    "decimal": _decimal,
    "bool": lambda value: value if type(value) is bool else None,
    "text": _text,
    "timestamp": _timestamp,
    "binary": _binary,
    "json": _json,
}
"""A value as the column holds it; None where it cannot, not exactly."""


def arrow() -> Any:
    """The module pyarrow. Raises ConfigError where it is not installed."""
    try:
        import pyarrow as pa
    except ModuleNotFoundError as error:
        raise ConfigError("tables need pyarrow", hint="pip install 'docdb-stream[parquet]'") from error
    return pa


_TYPES: Final[Mapping[ColumnType, Callable[[], Any]]] = {
    "int32": lambda: arrow().int32(),
    "int64": lambda: arrow().int64(),
    "double": lambda: arrow().float64(),
    "decimal": lambda: arrow().decimal128(DECIMAL_DIGITS, DECIMAL_SCALE),
    "bool": lambda: arrow().bool_(),
    "text": lambda: arrow().string(),
    "timestamp": lambda: arrow().timestamp("ms", tz="UTC"),
    "binary": lambda: arrow().binary(),
    "json": lambda: arrow().string(),
}
