"""What of a document becomes a column's value.

Owns the types that columns can have: what each takes, and how a key is written down as JSON.
"""

from __future__ import annotations

import datetime as dt
import math
import uuid
from collections.abc import Callable
from decimal import Decimal, InvalidOperation
from typing import Any, Final

import orjson
from bson import Decimal128, ObjectId, Timestamp
from bson.binary import Binary
from bson.datetime_ms import DatetimeMS

from docdb_stream.errors import UnrenderableError
from docdb_stream.formats.plain import plain_json

KEY_BYTES: Final = 65_535
"""Apache Cassandra, FBUtilities.MAX_UNSIGNED_SHORT: the longest key, and the longest part of one."""
_EPOCH: Final = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_MS: Final = dt.timedelta(milliseconds=1)
_DOUBLE_EXACT: Final = 2**53
_UUID_BYTES: Final = 16


class _UnfitError(Exception):
    """A value that a column's type cannot hold as it is."""


def column_value(name: str, kind: str, value: Any) -> Any:
    """What is bound to a statement for a column of this type; None: there is nothing.

    Raises:
        UnrenderableError: The type does not hold the value as it is. The reason names the column, not the value.
    """
    if value is None:
        return None
    try:
        return TYPES[kind](value)
    except (_UnfitError, ValueError, TypeError, ArithmeticError) as error:
        raise UnrenderableError(
            f"{name}: a value of type {type(value).__name__} does not fit a column of type {kind}"
        ) from error


def key_text(kind: str, value: Any) -> Any:
    """A key's value as JSON has it: the opposite of ``key_value``."""
    if kind in ("text", "boolean", "int", "bigint", "varint", "timestamp"):
        return value
    if kind == "double":
        return value.hex() if math.isfinite(value) else repr(value)
    return value.hex() if kind == "blob" else str(value)


def key_value(kind: str, text: Any) -> Any:
    """The value that ``key_text`` wrote down."""
    match kind:
        case "double":
            return float.fromhex(text)
        case "decimal":
            return Decimal(text)
        case "uuid":
            return uuid.UUID(text)
        case "blob":
            return bytes.fromhex(text)
    return text


def is_number(value: Any) -> bool:
    """Whether it is a number, which a boolean is not."""
    return isinstance(value, int | float | Decimal128) and type(value) is not bool


def _text(value: Any) -> str:
    """Text as it is, all else as ``plain`` JSON has it, what is nested being JSON itself."""
    if type(value) is not str:
        if isinstance(value, ObjectId):
            return str(value)
        found = plain_json({"v": value})[len(b'{"v":') : -1]
        loaded = orjson.loads(found)
        value = loaded if isinstance(loaded, str) else found.decode()
    value.encode()  # a lone surrogate is none that UTF-8 has
    return str(value)


def _whole(bits: int | None) -> Callable[[Any], int]:
    def whole(value: Any) -> int:
        if not is_number(value):
            raise _UnfitError
        exact = value.to_decimal() if isinstance(value, Decimal128) else value
        found = int(exact)
        if found != exact or (bits and not -(2 ** (bits - 1)) <= found < 2 ** (bits - 1)):
            raise _UnfitError
        return found

    return whole


def _double(value: Any) -> float:
    if not is_number(value):
        raise _UnfitError
    if isinstance(value, Decimal128):
        exact = value.to_decimal()
        found = float(exact)
        if exact.is_finite() and Decimal(repr(found)) != exact:
            raise _UnfitError
        return found
    if isinstance(value, int) and float(value) != value:
        raise _UnfitError
    return float(value)


def _decimal(value: Any) -> Decimal:
    if not is_number(value):
        raise _UnfitError
    if isinstance(value, Decimal128):
        found = value.to_decimal()
    else:
        found = Decimal(repr(value)) if isinstance(value, float) else Decimal(value)
    if not found.is_finite():
        raise InvalidOperation
    return found if found else abs(found)  # there is no -0


def _boolean(value: Any) -> bool:
    if type(value) is not bool:
        raise _UnfitError
    return value


def _timestamp(value: Any) -> int:
    """Milliseconds since 1970."""
    if isinstance(value, DatetimeMS):
        return int(value)
    if isinstance(value, Timestamp):
        return value.time * 1000
    if not isinstance(value, dt.datetime):
        raise _UnfitError
    return ((value if value.tzinfo else value.replace(tzinfo=dt.UTC)) - _EPOCH) // _MS


def _uuid(value: Any) -> uuid.UUID:
    if isinstance(value, uuid.UUID):
        return value
    if isinstance(value, str):
        return uuid.UUID(value)
    if isinstance(value, bytes) and getattr(value, "subtype", 0) == 4 and len(value) == _UUID_BYTES:
        return uuid.UUID(bytes=bytes(value))
    raise _UnfitError


def _blob(value: Any) -> bytes:
    if isinstance(value, Binary | bytes):
        return bytes(value)
    if isinstance(value, uuid.UUID):
        return value.bytes
    raise _UnfitError


TYPES: Final[dict[str, Callable[[Any], Any]]] = {
    "text": _text,
    "int": _whole(32),
    "bigint": _whole(64),
    "varint": _whole(None),
    "double": _double,
    "decimal": _decimal,
    "boolean": _boolean,
    "timestamp": _timestamp,
    "uuid": _uuid,
    "blob": _blob,
}
"""The types of CQL that columns can have, each with what makes its value."""
