"""What a document makes: a row in each table of its collection in which it has a key."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Context, Decimal
from math import isnan
from typing import Any, Final

from docdb_stream.errors import UnrenderableError
from docdb_stream.targets._cassandra.declaration import Column, TableRule
from docdb_stream.targets._cassandra.values import KEY_BYTES, column_value, key_text, key_value
from docdb_stream.targets._path import value_at

_ANY_DIGITS: Final = Context(prec=60)
"""More than a Decimal128 or an int64 has."""


@dataclass(frozen=True, slots=True)
class RowKey:
    """Where a row is.

    Attributes:
        table: The table's name.
        values: Of the columns of its key.
    """

    table: str
    values: tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Row:
    """A row.

    Attributes:
        rule: The table's.
        values: Of all its columns, in their order.
    """

    rule: TableRule
    values: tuple[Any, ...]

    @property
    def key(self) -> RowKey:
        """Where it is."""
        return RowKey(self.rule.table, self.values[: len(self.rule.key)])


def rows_of(rules: Sequence[TableRule], id_text: str, plain: str, document: Mapping[str, Any]) -> tuple[Row, ...]:
    """The rows that a document makes. Where it has no value for a column of a table's key, it has no row there.

    Args:
        rules: Of the document's collection.
        id_text: Its ``_id`` as text, see ``document_id``.
        plain: The document as ``plain`` JSON.
        document: The document.

    Raises:
        UnrenderableError: A value does not fit its column, or is too long for a key.
    """
    found = []
    for rule in rules:
        values = tuple(_value(column, id_text, document) if column.path else plain for column in rule.columns)
        if None in values[: len(rule.key)]:
            continue
        key = tuple(_in_key(column.name, value) for column, value in zip(rule.key, values, strict=False))
        values = (*key, *values[len(key) :])
        if len(rule.partition) == 1 and key[0] in ("", b""):
            raise UnrenderableError(f"{rule.partition[0].name}: empty, and a partition key cannot be")
        found.append(Row(rule, values))
    return tuple(found)


def keys_by_id(rules: Sequence[TableRule], id_text: str, id_value: Any) -> tuple[RowKey, ...]:
    """Where a document's rows are in tables that are keyed by its ``_id`` alone. Raises UnrenderableError."""
    document = {"_id": id_value}
    found = ((rule, [_value(column, id_text, document) for column in rule.key]) for rule in rules)
    return tuple(
        RowKey(rule.table, tuple(_in_key(column.name, each) for column, each in zip(rule.key, values, strict=True)))
        for rule, values in found
        if None not in values
    )


def keys_json(keys: Sequence[RowKey], rules: Mapping[str, TableRule]) -> str:
    """Keys as text, by which they are found again."""
    return json.dumps(
        {
            key.table: [
                key_text(column.type, value) for column, value in zip(rules[key.table].key, key.values, strict=True)
            ]
            for key in keys
        },
        separators=(",", ":"),
        ensure_ascii=False,
    )


def keys_from_json(text: str, rules: Mapping[str, TableRule]) -> tuple[RowKey, ...]:
    """The keys of ``keys_json``, but for those in tables that are not the target's any more, or have another key."""
    found = []
    for table, values in json.loads(text).items():
        rule = rules.get(table)
        if rule is not None and len(values) == len(rule.key):
            read = zip(rule.key, values, strict=True)
            found.append(RowKey(table, tuple(key_value(column.type, value) for column, value in read)))
    return tuple(found)


def _value(column: Column, id_text: str, document: Mapping[str, Any]) -> Any:
    if column.path == ("_id",) and column.type == "text":
        return id_text
    return column_value(column.name, column.type, value_at(document, column.path))


def _in_key(name: str, value: Any) -> Any:
    """A key's value, in the one form that all have which are equal: to Cassandra 5 and 5.0, 0.0 and -0.0 are two.

    Raises:
        UnrenderableError: It is longer than one can be, or equals nothing.
    """
    check_key(name, value)
    if isinstance(value, Decimal):
        return value.normalize(_ANY_DIGITS)
    if isinstance(value, float):
        if isnan(value):
            raise UnrenderableError(f"{name}: not a number, which no key can be")
        return value + 0.0
    return value


def check_key(name: str, value: Any) -> None:
    """Raise UnrenderableError if a key's value is longer than one can be."""
    size_bytes = len(value.encode() if isinstance(value, str) else value) if isinstance(value, str | bytes) else 0
    if size_bytes > KEY_BYTES:
        raise UnrenderableError(f"{name}: longer than the {KEY_BYTES:,} bytes that a key can have")
