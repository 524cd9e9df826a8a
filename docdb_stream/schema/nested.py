"""Structs and lists: what the fields of a collection's nested documents and arrays are, all the way down.

Owns what becomes of types within them. A type, once it is given, only ever widens, and a struct only ever has more
fields, so that files of one table can be read together: as at the top, the first type decides, and what it does not
hold is text in a second field. A struct without fields, and a list of whose elements nothing is known, would be other
types later, so there are none: their values are text, too.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Final, Literal

from docdb_stream.schema.columns import OTHER_SUFFIX, ColumnType, column_name, type_of
from docdb_stream.schema.shape import ELEMENT, steps_of

NestedType = ColumnType | Literal["struct", "list"]

_STRUCT: Final = "object"
_LIST: Final = "array"


@dataclass(frozen=True, slots=True)
class Nested:
    """Where the values of a field go, at any depth.

    Attributes:
        name: What the column, or the field of the struct, is called.
        field: The document's key; of a list's elements it says nothing.
        type: What it holds.
        has_other: Whether some values are not held by it: they are text in ``other_name``. Of a list's elements: then
            all of the list is.
        members: Of a struct, its fields.
        element: Of a list, what its elements are; None where nothing is known of them.
    """

    name: str
    field: str
    type: NestedType
    has_other: bool = False
    members: tuple[Nested, ...] = ()
    element: Nested | None = None

    @property
    def other_name(self) -> str:
        """The second column's or field's name."""
        return self.name + OTHER_SUFFIX

    @property
    def is_known(self) -> bool:
        """Whether there is anything to make it of; else all of its values are in the second one."""
        match self.type:
            case "struct":
                return any(member.is_known or member.has_other for member in self.members)
            case "list":
                return self.element is not None
        return True


@dataclass(slots=True)
class _Node:
    """What a path of the ledger has had, and what is in it."""

    types: list[str] = field(default_factory=list)
    keys: dict[str, _Node] = field(default_factory=dict)
    element: _Node | None = None


def nested_columns(paths: Mapping[str, Iterable[str]]) -> Mapping[str, Nested]:
    """Of each top-level field that holds documents or arrays, what is in it.

    Args:
        paths: Path -> the types that it has had, both in the order in which they came first.
    """
    top = _Node()
    for path, types in paths.items():
        node = top
        for step in steps_of(path):
            if step == ELEMENT:
                node.element = node.element or _Node()
                node = node.element
            else:
                node = node.keys.setdefault(step[1:], _Node())
        if node is not top:
            node.types += types
    return {key: made for key, made in _members(top) if made.type in ("struct", "list")}


def _members(node: _Node) -> Iterator[tuple[str, Nested]]:
    """The fields of a struct. Their names follow from the order in which they came, so they never change."""
    taken: set[str] = set()
    for key, each in node.keys.items():
        made = _nested(each)
        if made is not None:
            name = column_name(key, taken)
            taken.add(name.lower())
            yield key, replace(made, name=name, field=key)


def _nested(node: _Node) -> Nested | None:
    found = type_of(node.types)
    if found is None:
        return None
    kind, has_other = found
    first = next(each for each in node.types if each != "null")
    is_mixed = any(each not in (first, "null") for each in node.types)
    if first == _STRUCT:
        made = Nested("", "", "struct", is_mixed, members=tuple(each for _, each in _members(node)))
        return replace(made, has_other=is_mixed or not made.is_known)
    if first == _LIST:
        element = None if node.element is None else _nested(node.element)
        if element is not None and not element.is_known:
            element = None
        return Nested("", "", "list", is_mixed or element is None or element.has_other, element=element)
    return Nested("", "", kind, has_other)
