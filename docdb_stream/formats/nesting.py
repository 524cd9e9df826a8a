"""Nested documents and arrays as Arrow's structs and lists.

Owns how they are made of values. What a struct or a list is of follows from the schema ledger (``schema.nested``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from docdb_stream.formats.cells import ARROW_TYPES, CONVERT, arrow, text_of
from docdb_stream.schema.nested import Nested

Convert = Callable[[Any], Any]
"""Takes a value that is not null; returns what pyarrow is given, or None where it cannot be held exactly."""


def nested_type(nested: Nested) -> Any:
    """The ``pyarrow.DataType`` of one that is known."""
    pa = arrow()
    match nested.type:
        case "struct":
            return pa.struct([field for member in nested.members for field in nested_fields(member)])
        case "list":
            assert nested.element is not None
            return pa.list_(pa.field("element", nested_type(nested.element)))
        case kind:
            return ARROW_TYPES[kind]()


def nested_fields(nested: Nested, about: Mapping[str, str] | None = None) -> list[Any]:
    """Its ``pyarrow.Field`` where it is known, and that of its second one where it has that."""
    pa = arrow()
    found = [pa.field(nested.name, nested_type(nested), metadata=about)] if nested.is_known else []
    if nested.has_other:
        found.append(pa.field(nested.other_name, pa.string(), metadata=about and {**about, "type": "text"}))
    return found


def nested_arrays(nested: Nested, values: list[Any]) -> list[Any]:
    """The arrays of a column, as ``nested_fields`` has its fields."""
    pa = arrow()
    convert = _converter(nested)
    held = [None if value is None else convert(value) for value in values]
    found = [pa.array(held, nested_type(nested))] if nested.is_known else []
    if not nested.has_other:
        return found
    others = [
        text_of(value) if value is not None and kept is None else None for value, kept in zip(values, held, strict=True)
    ]
    return [*found, pa.array(others, pa.string())]


def _converter(nested: Nested) -> Convert:
    match nested.type:
        case "struct":
            return _struct(nested) if nested.is_known else _nothing
        case "list":
            return _nothing if nested.element is None else _list(_converter(nested.element))
        case kind:
            return CONVERT[kind]


def _nothing(value: Any) -> None:
    return None


def _list(convert: Convert) -> Convert:
    def converted(value: Any) -> list[Any] | None:
        if not isinstance(value, list):
            return None
        found = []
        for each in value:
            kept = None if each is None else convert(each)
            if kept is None and each is not None:
                return None
            found.append(kept)
        return found

    return converted


def _struct(nested: Nested) -> Convert:
    members = [(member, _converter(member)) for member in nested.members]

    def converted(value: Any) -> dict[str, Any] | None:
        if not isinstance(value, dict):
            return None
        found: dict[str, Any] = {}
        for member, convert in members:
            each = value.get(member.field)
            if each is None:
                continue
            kept = convert(each)
            if kept is not None:
                found[member.name] = kept
            elif member.has_other:
                found[member.other_name] = text_of(each)
        return found

    return converted
