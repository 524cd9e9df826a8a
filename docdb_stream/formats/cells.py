"""Values as the columns of a table hold them, exactly or not at all.

Owns how values of BSON become Arrow's. Which columns there are is ``schema.columns``' matter.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from decimal import Decimal
from typing import Any, Final

import orjson
from bson import Int64, ObjectId
from bson.binary import UUID_SUBTYPE, Binary
from bson.datetime_ms import DatetimeMS
from bson.decimal128 import Decimal128

from docdb_stream.errors import ConfigError
from docdb_stream.formats.plain import RENDERER as PLAIN
from docdb_stream.schema.columns import DECIMAL_DIGITS, DECIMAL_SCALE, DOUBLE_EXACT, Column, ColumnType


def arrays_of(column: Column, values: list[Any]) -> list[Any]:
    """The arrays of a column, and of its second one where it has that."""
    pa = arrow()
    others: list[str | None] = [None] * len(values)
    if {*map(type, values)} <= _AS_THEY_ARE[column.type]:
        held = values
    else:
        held = _all_json(values) if column.type == "json" else _converted(CONVERT[column.type], values)
        if column.has_other:
            others = [
                text_of(value) if kept is None and value is not None else None
                for value, kept in zip(values, held, strict=True)
            ]
    array = pa.array(held, ARROW_TYPES[column.type](), from_pandas=False)
    return [array, pa.array(others, pa.string())] if column.has_other else [array]


def _converted(convert: Callable[[Any], Any], values: list[Any]) -> list[Any]:
    return [None if value is None else convert(value) for value in values]


def _all_json(values: list[Any]) -> list[str | None]:
    """As ``_json`` of each, in one call."""
    places = [place for place, value in enumerate(values) if value is not None and type(value) not in _SIMPLE]
    found: list[str | None] = [None] * len(values)
    for place, text in zip(places, PLAIN.each([values[place] for place in places]), strict=True):
        found[place] = text.decode()
    return found


def text_of(value: Any) -> str:
    """A value as text: a string as it is, all else as plain JSON has it, without quotes around it."""
    if isinstance(value, str):
        return str(value)
    text = json_of(value)
    return str(orjson.loads(text)) if text.startswith('"') else text


def json_of(value: Any) -> str:
    """A value as plain JSON; see ``formats.plain``."""
    [rendered] = PLAIN.each([value])
    return rendered.decode()


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
CONVERT: Final[Mapping[ColumnType, Callable[[Any], Any]]] = {
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


ARROW_TYPES: Final[Mapping[ColumnType, Callable[[], Any]]] = {
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
