"""The shape of a document: which paths it has, and of which types. Found for many documents at a time, cheaply.

Owns the names of types. Which paths and types a collection has had so far is ``ledger``'s.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Hashable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, Final, TypeAlias

from bson.binary import UUID_SUBTYPE, Binary
from bson.code import Code
from bson.datetime_ms import DatetimeMS
from bson.dbref import DBRef
from bson.decimal128 import Decimal128
from bson.int64 import Int64
from bson.max_key import MaxKey
from bson.min_key import MinKey
from bson.objectid import ObjectId
from bson.regex import Regex
from bson.timestamp import Timestamp

from docdb_stream.errors import UnrenderableError
from docdb_stream.formats.decoded import Decoded

Shape: TypeAlias = tuple[Hashable, ...]
"""Equal for documents that have the same paths, in one order, with values of the same types. Empty: no document."""

TYPES: Final[Mapping[type, str]] = {
    float: "double",
    str: "string",
    dict: "object",
    DBRef: "object",
    list: "array",
    bytes: "binData",
    Binary: "binData",
    ObjectId: "objectId",
    bool: "bool",
    datetime: "date",
    DatetimeMS: "date",
    type(None): "null",
    Regex: "regex",
    Code: "javascript",
    int: "int",
    Timestamp: "timestamp",
    Int64: "long",
    Decimal128: "decimal",
    MinKey: "minKey",
    MaxKey: "maxKey",
}
"""What decoding gives -> the type's name, as ``$type`` has it (MongoDB manual, "BSON Types"), and ``uuid``, which is a
``binData`` of subtype 4. The deprecated ones are what decoding makes of them: a symbol a string, undefined null."""

ELEMENT: Final = "[]"
"""What stands in a path for the elements of an array: ``items[].sku``."""

_NESTED: Final = frozenset({dict, list, Binary})

DEPTH_MOST: Final = 32
"""Levels of a document whose paths are told apart; what lies deeper counts as the object that it is in. BSON has up to
100 (MongoDB manual, "MongoDB Limits and Thresholds"), and one document could have a path for each of them."""


class ShapesOfDocuments:
    """Finds the shapes of the full documents of events, as a format renders: see ``formats.part.Reading``."""

    name = "shapes"
    finds = tuple

    def render(self, decoded: Decoded) -> Sequence[Shape | UnrenderableError]:
        """Of each event its full document's shape; the empty one where it has none."""
        documents = [event.get("fullDocument") for event in decoded.documents]
        return [shape_of(document) if isinstance(document, dict) else () for document in documents]


SHAPES: Final = ShapesOfDocuments()


def shape_of(document: Mapping[str, Any], depth: int = 0) -> Shape:
    """The shape of a document as ``decoded`` gives it."""
    kinds = tuple(map(type, document.values()))
    if _NESTED.isdisjoint(kinds):
        return tuple(document), kinds
    return tuple(document), tuple(
        _nested(value, depth + 1) if kind in _NESTED else kind
        for kind, value in zip(kinds, document.values(), strict=True)
    )


def _nested(value: Any, depth: int) -> Hashable:
    if type(value) is Binary:
        return "uuid" if value.subtype == UUID_SUBTYPE else Binary
    if depth >= DEPTH_MOST:
        return TYPES[type(value)]
    if isinstance(value, dict):
        return shape_of(value, depth)
    kinds = {type(item) for item in value}
    if _NESTED.isdisjoint(kinds):
        return frozenset(kinds)
    return frozenset(_nested(item, depth + 1) if type(item) in _NESTED else type(item) for item in value)


def paths_in(shape: Shape) -> Iterator[tuple[str, str]]:
    """Each path of a shape with a type that it has there; the same pair may come more than once.

    A path is the keys with dots between, and ``[]`` after an array's for its elements. A dot, a bracket or a backslash
    in a key has a backslash before it.
    """
    yield from _paths(shape, "")


def _paths(shape: Shape, prefix: str) -> Iterator[tuple[str, str]]:
    if not shape:
        return
    keys, kinds = shape
    assert isinstance(keys, tuple)
    assert isinstance(kinds, tuple)
    for key, kind in zip(keys, kinds, strict=True):
        yield from _typed(f"{prefix}{path_of(key)}", kind)


PATH_LENGTH_MOST: Final = 300
"""Characters of a path that are kept; one that is longer, as where keys are data, is cut, with a hash of all of it."""
_CUT: Final = "\N{HORIZONTAL ELLIPSIS}#"


def _kept(path: str) -> str:
    if len(path) <= PATH_LENGTH_MOST:
        return path
    return path[:PATH_LENGTH_MOST] + _CUT + hashlib.sha256(path.encode(errors="replace")).hexdigest()[:16]


def path_of(key: str) -> str:
    """The path of a top-level key."""
    return _PATH_SIGNS.sub(r"\\\g<0>", key)


def key_of(path: str) -> str | None:
    """The top-level key of which this is the path; None for the path of something in it, and for one that is cut."""
    if len(path) > PATH_LENGTH_MOST:
        return None
    return _ESCAPED.sub(r"\1", path) if _ONE_KEY.fullmatch(path) else None


def steps_of(path: str) -> Sequence[str]:
    """The steps of a path inwards: ELEMENT, or a dot and a key. Empty for a path that is cut."""
    return () if len(path) > PATH_LENGTH_MOST else [_step(found[0]) for found in _STEP.finditer(f".{path}")]


def _step(text: str) -> str:
    return text if text == ELEMENT else _ESCAPED.sub(r"\1", text)


_STEP: Final = re.compile(r"\[\]|\.(?:\\.|[^.\[\\])*", re.DOTALL)
_PATH_SIGNS: Final = re.compile(r"[.\[\\]")
_ESCAPED: Final = re.compile(r"\\(.)", re.DOTALL)
_ONE_KEY: Final = re.compile(r"(?:\\.|[^.\[\\])*", re.DOTALL)


def _typed(path: str, kind: Hashable) -> Iterator[tuple[str, str]]:
    if isinstance(kind, tuple):
        yield _kept(path), "object"
        yield from _paths(kind, f"{path}.")
    elif isinstance(kind, frozenset):
        yield _kept(path), "array"
        for each in kind:
            yield from _typed(path + ELEMENT, each)
    elif isinstance(kind, str):
        yield _kept(path), kind
    else:
        yield _kept(path), TYPES[kind]  # type: ignore[index]
