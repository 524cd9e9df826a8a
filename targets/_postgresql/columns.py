"""What of a document is written into which column, as the text that PostgreSQL reads.

Owns which values fit a column, and the form in which contents of columns are compared.
"""

from __future__ import annotations

import datetime as dt
import re
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Context, Decimal, InvalidOperation
from hashlib import blake2b
from typing import Any, Final

import orjson
from bson import Decimal128, Timestamp
from bson.binary import UUID_SUBTYPE, Binary
from bson.datetime_ms import DatetimeMS

from docdb_stream.errors import UnrenderableError
from docdb_stream.events import ChangeEvent
from docdb_stream.formats.plain import PLAIN, plain_json
from docdb_stream.targets._canonical import canonical_json
from docdb_stream.targets._path import value_at

_DIGEST_BYTES: Final = 16
_OWN: Final = frozenset({"_id", "_version", "_deleted_at", "_source"})
_NAME_BYTES: Final = 63
"""NAMEDATALEN - 1: longer identifiers are cut (PostgreSQL manual, "Lexical Structure")."""
_NUL: Final = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")
"""An escaped U+0000 in JSON: neither text nor jsonb can hold one (PostgreSQL manual, "JSON Types")."""
_DOUBLE_EXACT: Final = 2**53
"""Whole numbers up to here are exact as doubles (IEEE 754, binary64)."""

_EXACT: Final = Context(prec=200_000, Emax=10**6, Emin=-(10**6))
"""More digits than numeric has (PostgreSQL manual, "Numeric Types": 131,072 before the point, 16,383 after it)."""

Convert = Callable[[Any], str]


@dataclass(frozen=True, slots=True)
class Column:
    """A column that is made from documents.

    Attributes:
        name: The column's.
        path: Where its value is in a document; empty: the document itself.
        type: PostgreSQL's name of its type, one of TYPES.
    """

    name: str
    path: tuple[str, ...]
    type: str

    @property
    def shown(self) -> str:
        """What to select, so that one text comes for one value, whatever the session's settings are."""
        quoted = '"' + self.name.replace("%", "%%") + '"'  # psycopg takes % for a parameter
        if self.type == "timestamptz":
            return f"""to_char({quoted} AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"')"""
        return f"encode({quoted}, 'hex')" if self.type == "bytea" else f"{quoted}::text"


DOCUMENT: Final = Column("document", (), "jsonb")
"""The column of the whole document."""

Row = tuple[str | None, ...]
"""A text for each column; None: NULL."""


def columns_of(definitions: Iterable[str]) -> tuple[Column, ...]:
    """The columns that POSTGRES_COLUMNS says, each as ``name=path type``; the whole document where it says none.

    Raises:
        ValueError: One cannot be read.
    """
    found = tuple(map(_column, definitions)) or (DOCUMENT,)
    twice = {one.name for one in found if sum(other.name == one.name for other in found) > 1}
    if twice:
        raise ValueError(f"there are several columns {', '.join(sorted(twice))}")
    return found


def _column(text: str) -> Column:
    name, equals, rest = text.partition("=")
    path, _, kind = rest.strip().rpartition(" ")
    name, path, kind = name.strip(), path.strip(), kind.lower()
    if not equals or not name or not path or "" in path.split("."):
        raise ValueError(f"{text}: expected name=path type, as in total=order.total numeric")
    if name in _OWN or '"' in name or "\0" in text or len(name.encode()) > _NAME_BYTES:
        raise ValueError(f"{name}: no column can be called so here; _id, _version, _deleted_at and _source are there")
    if kind not in TYPES:
        raise ValueError(f"{text}: there is no type {kind}; there are {', '.join(TYPES)}")
    return Column(name, tuple(path.split(".")), kind)


def row_of(event: ChangeEvent, columns: Sequence[Column]) -> Row | None:
    """What the columns have of the event's full document; None where it has none.

    Raises:
        UnrenderableError: A value does not fit its column. The reason does not say the value.
    """
    whole = event.render(PLAIN)
    if whole == b"null":
        return None
    if columns == (DOCUMENT,):
        return (_json_text(whole, "document"),)
    document = event.full_document or {}
    return tuple(_text_of(column, value_at(document, column.path)) for column in columns)


def digest_of(columns: Sequence[Column], row: Iterable[str | None]) -> bytes:
    """Of a row's contents: equal for what PostgreSQL takes for equal, whether it is to be written or was read."""
    forms = [None if text is None else _form(column.type, text) for column, text in zip(columns, row, strict=True)]
    return blake2b(orjson.dumps(forms), digest_size=_DIGEST_BYTES).digest()


def without_nul(text: str, what: str) -> str:
    """The text. Raises UnrenderableError where PostgreSQL cannot hold it."""
    if "\0" in text:
        raise UnrenderableError(f"{what}: holds U+0000, which PostgreSQL's text cannot hold")
    return text


def _text_of(column: Column, value: Any) -> str | None:
    if value is None:
        return None
    where = ".".join(column.path)
    try:
        text = TYPES[column.type](value)
    except (ValueError, TypeError, OverflowError, InvalidOperation):
        raise UnrenderableError(
            f"{where}: a value of type {type(value).__name__} does not fit the column {column.name} {column.type}"
        ) from None
    if column.type == "jsonb":
        return _json_text(text.encode(), where)
    return without_nul(text, where)


def _json_text(text: bytes, where: str) -> str:
    if b"\\u0000" in text and _NUL.search(text):
        raise UnrenderableError(f"{where}: holds U+0000, which PostgreSQL's jsonb cannot hold")
    return text.decode()


def _plain(value: Any) -> bytes:
    return plain_json({"v": value})[len(b'{"v":') : -1]


def _as_text(value: Any) -> str:
    found = orjson.loads(_plain(value))
    if not isinstance(found, str) or isinstance(value, float):  # NaN is a number all the same
        raise TypeError
    return found


def _as_decimal(value: Any) -> Decimal:
    if isinstance(value, Decimal128):
        return value.to_decimal()
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError
    return Decimal(repr(float(value)) if isinstance(value, float) else int(value))


def _as_numeric(value: Any) -> str:
    found = _as_decimal(value)
    return "NaN" if found.is_nan() else str(found)


def _as_int(bits: int) -> Convert:
    def convert(value: Any) -> str:
        found = _as_decimal(value)
        if not found.is_finite() or found.adjusted() > 20 or found != int(found):
            raise ValueError
        if not -(1 << bits - 1) <= int(found) < 1 << bits - 1:
            raise ValueError
        return str(int(found))

    return convert


def _as_double(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError
    if isinstance(value, int) and abs(value) > _DOUBLE_EXACT:
        raise ValueError
    return repr(float(value))


def _as_bool(value: Any) -> str:
    if not isinstance(value, bool):
        raise TypeError
    return "true" if value else "false"


def _as_timestamp(value: Any) -> str:
    if not isinstance(value, dt.datetime | DatetimeMS | Timestamp):
        raise TypeError
    found = orjson.loads(_plain(value))
    if not isinstance(found, str):  # outside the years 1 to 9999
        raise ValueError
    return found


def _as_bytea(value: Any) -> str:
    if not isinstance(value, bytes):
        raise TypeError
    return "\\x" + value.hex()


def _as_uuid(value: Any) -> str:
    if isinstance(value, Binary) and value.subtype == UUID_SUBTYPE and len(value) == 16:
        return str(uuid.UUID(bytes=bytes(value)))
    if not isinstance(value, str):
        raise TypeError
    return str(uuid.UUID(value))


def _as_json(value: Any) -> str:
    return _plain(value).decode()


TYPES: Final[Mapping[str, Convert]] = {
    "text": _as_text,
    "integer": _as_int(32),
    "bigint": _as_int(64),
    "numeric": _as_numeric,
    "double": _as_double,
    "boolean": _as_bool,
    "timestamptz": _as_timestamp,
    "uuid": _as_uuid,
    "bytea": _as_bytea,
    "jsonb": _as_json,
}
"""The types that a column can have, and what makes a value the text that PostgreSQL reads; what does not fit is an
error: no value is altered to fit."""

SQL_NAMES: Final[Mapping[str, str]] = {"double": "double precision"}
"""PostgreSQL's own name of a type, where it is another."""


def _form(kind: str, text: str) -> str:
    if kind == "jsonb":
        return canonical_json(orjson.loads(text)).decode()
    if kind == "double":
        return repr(float(text) + 0.0)
    if kind == "bytea":
        return text.removeprefix("\\x")
    if kind == "numeric":
        number = Decimal(text)
        return str(number.normalize(_EXACT) if number else 0)
    return text
