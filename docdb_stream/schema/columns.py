"""The columns of a table: made of the types that the fields of a collection's documents have had.

Owns widening and names. What of a document is written into them is the matter of the file formats and targets.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

if TYPE_CHECKING:
    from docdb_stream.schema.nested import Nested

ColumnType = Literal["int32", "int64", "double", "decimal", "bool", "text", "timestamp", "binary", "json"]
"""``decimal`` has DECIMAL_DIGITS digits, DECIMAL_SCALE of them after the point. ``timestamp`` is UTC, in milliseconds.
``json`` is text. ``text`` holds strings, and ObjectIds and UUIDs as they are written."""

DECIMAL_DIGITS: Final = 38
"""The most that Parquet's DECIMAL128, Iceberg, Redshift and DynamoDB have; PostgreSQL has more."""
DECIMAL_SCALE: Final = 9
"""BigQuery's NUMERIC has the same split: 29 digits before the point, 9 after it."""
DOUBLE_EXACT: Final = 2**53
"""Whole numbers up to here are exact as doubles (IEEE 754, binary64)."""

META: Final[Mapping[str, ColumnType]] = {
    "_key": "text",
    "_operation": "text",
    "_cluster_time": "timestamp",
    "_version": "int64",
    "_event_id": "text",
    "_has_document": "bool",
    "_raw": "text",
}
"""The columns that every row of an event has, beside the document's fields."""

COLUMNS_MOST: Final = 1_500
"""PostgreSQL and Redshift have 1,600 columns in a table at most ("Limits" of either manual); some are ``META``'s, and a
conflict takes a second one. Fields beyond are in ``_raw`` alone."""

NAME_BYTES: Final = 55
"""Of a column's name at most: PostgreSQL cuts identifiers at 63 bytes, and OTHER_SUFFIX takes eight."""
OTHER_SUFFIX: Final = "__string"
"""After a column's name: the column of values that are of another type, as text."""

_FAMILIES: Final[Mapping[str, ColumnType]] = {
    "int": "int32",
    "long": "int64",
    "double": "double",
    "decimal": "decimal",
    "string": "text",
    "objectId": "text",
    "uuid": "text",
    "bool": "bool",
    "date": "timestamp",
    "binData": "binary",
}
_NUMBERS: Final = ("int32", "int64", "double", "decimal")


@dataclass(frozen=True, slots=True)
class Column:
    """Where a top-level field's values go.

    Attributes:
        name: The column's.
        field: The document's key.
        type: What the column holds.
        has_other: Whether there is a second column, ``other_name``, for values that are of another type, or that this
            one cannot hold exactly, as text.
        nested: What it is as a struct or a list, where it is one; see ``schema.nested``.
    """

    name: str
    field: str
    type: ColumnType
    has_other: bool = False
    nested: Nested | None = None

    @property
    def other_name(self) -> str:
        """The second column's name."""
        return self.name + OTHER_SUFFIX


def type_of(types: Iterable[str]) -> tuple[ColumnType, bool] | None:
    """The column of a field that has had values of these types, in the order in which they came first, and whether it
    takes a second one; None where all of them were null.

    The first type decides what the column holds; numbers widen it, int32 to int64 to double or decimal.
    """
    found = [_FAMILIES.get(each, "json") for each in types if each != "null"]
    if not found:
        return None
    numbers = [each for each in found if each in _NUMBERS]
    if found[0] not in _NUMBERS:
        first: ColumnType = found[0]
        return first, any(each != first for each in found)
    widest = max(numbers, key=_NUMBERS.index)
    # A large whole number has no exact double, a long decimal no place in a column of DECIMAL_DIGITS.
    is_inexact = widest == "decimal" or (widest == "double" and "int64" in numbers)
    return widest, is_inexact or len(numbers) < len(found)


_AWKWARD: Final = re.compile(r"[.\"'`\\\x00-\x1f\x7f]")


def column_name(field: str, taken: Collection[str]) -> str:
    """A column's name for a field: the field's own where that can be, else one that is close to it.

    Quotes, dots and control characters become ``_``: not every reader can ask for them. Names differ in more than
    upper and lower case, which Redshift and DuckDB do not tell apart. What is longer than ``NAME_BYTES`` is cut, with a
    hash of all of it at the end.

    Args:
        field: The document's key.
        taken: The names of columns that there are, in lower case.
    """
    name = _AWKWARD.sub("_", field) or "_"
    if len(name.encode()) > NAME_BYTES:
        digest = hashlib.sha256(field.encode()).hexdigest()[:8]
        name = name.encode()[: NAME_BYTES - 10].decode(errors="ignore") + "__" + digest
    candidate, number = name, 1
    while _is_taken(candidate.lower(), taken):
        number += 1
        stem = name.encode()[: NAME_BYTES - 2 - len(str(number))].decode(errors="ignore")
        candidate = f"{stem}__{number}"
    return candidate


def _is_taken(name: str, taken: Collection[str]) -> bool:
    if name in META or name in taken or name + OTHER_SUFFIX in taken:
        return True
    return name.endswith(OTHER_SUFFIX) and name.removesuffix(OTHER_SUFFIX) in taken
