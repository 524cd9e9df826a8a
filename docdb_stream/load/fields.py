"""The columns of a file that is loaded, and what tables of any warehouse have in common."""

from __future__ import annotations

import re
from typing import Any, Final, cast

from docdb_stream.errors import ConfigError
from docdb_stream.schema.columns import META, ColumnType

NOT_LOADED: Final = ("_operation", "_has_document", "_raw")
"""Columns of a file that a table has not got: it has one row for a document, and not one for a change."""
_NUL: Final = re.compile(r"(?<!\\)((?:\\\\)*)\\u0000")
"""An escaped NUL in JSON."""


def type_of(field: Any) -> ColumnType:
    """What a file's column holds, as its writer said; META's by their Arrow types. Raises ConfigError for a struct."""
    told = (field.metadata or {}).get(b"type")
    if told is not None:
        if told in (b"struct", b"list"):
            raise ConfigError(
                f"column {field.name} of a file is a {told.decode()}, and tables have JSON",
                hint="load files that were written with PARQUET_NESTED = json",
            )
        return cast("ColumnType", told.decode())
    return META[field.name]


def quoted(name: str) -> str:
    """A name as an identifier of SQL."""
    return '"' + name.replace('"', '""') + '"'


def text_without_nul(value: str) -> str:
    """A text with U+FFFD for each NUL, which no text of PostgreSQL or Redshift holds."""
    return value.replace("\0", "\ufffd")


def json_without_nul(value: str) -> str:
    """The same of JSON, where it is escaped."""
    return _NUL.sub("\\1\\\\ufffd", value)
