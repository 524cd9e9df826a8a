"""Reads a query: Extended JSON text becomes a function that judges a document.

Owns the text. What may stand in it is ``grammar``'s.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final, NoReturn

import bson
from bson import Regex
from bson.errors import BSONError

from docdb_stream.formats import rawbson
from docdb_stream.formats.decoded import DECODE_OPTIONS
from docdb_stream.formats.reader import to_bson
from docdb_stream.query import regex
from docdb_stream.query.condition import every
from docdb_stream.query.grammar import Parser
from docdb_stream.query.path import Judge
from docdb_stream.query.values import as_document


@dataclass(frozen=True)
class Query:
    """A query that was read.

    Attributes:
        matches: Whether a document does: a dictionary as ``formats.decoded`` or ``values.read`` makes it. Raises
            UnrenderableError where that cannot be judged as the server does.
        paths: What it asks for, as dotted paths; within ``$elemMatch``, the array's path alone.
        parts: The queries that have to match all, where it is made of several.
    """

    matches: Judge
    paths: frozenset[str]
    parts: Sequence[Query] = ()

    def is_about(self, fields: Collection[str]) -> bool:
        """Whether it asks for one of these fields of the document, or for something within."""
        return any(path.partition(".")[0] in fields for path in self.paths)

    def is_only_about(self, fields: Collection[str]) -> bool:
        """Whether it asks for nothing else."""
        return all(path.partition(".")[0] in fields for path in self.paths)


@lru_cache(64)
def parse(text: str) -> Query:
    """Read a query.

    Args:
        text: Relaxed or canonical Extended JSON.

    Raises:
        ValueError: It is none, or one that cannot be judged as the server does; says what of it.
    """
    try:
        given = json.loads(text, object_pairs_hook=_once, parse_constant=_no_constant)
        if not isinstance(given, dict):
            raise ValueError("a query is a JSON object, such as " + _EXAMPLE)
        if not given:
            raise ValueError("it is empty, and would match everything: leave it out, or say something like " + _EXAMPLE)
        parts = [_read({key: value}) for key, value in _decoded(given).items()]
        return Query(every([part.matches for part in parts]), frozenset().union(*(part.paths for part in parts)), parts)
    except json.JSONDecodeError as error:
        raise ValueError(
            f"it is no JSON ({error.msg}, at character {error.pos + 1}); expected something like {_EXAMPLE}"
        ) from None
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _read(document: Mapping[str, Any]) -> Query:
    paths = set[str]()
    matches = Parser(paths).query(document, 0)
    return Query(_searching(matches) if _has_regex(document) else matches, frozenset(paths))


def _searching(matches: Judge) -> Judge:
    def judge(document: Mapping[str, Any]) -> bool:
        regex.new_document()
        return matches(document)

    return judge


def _has_regex(value: Any) -> bool:
    if isinstance(value, list):
        return any(map(_has_regex, value))
    found = as_document(value) or {}
    return isinstance(value, Regex) or "$regex" in found or any(map(_has_regex, found.values()))


_EXAMPLE: Final = '{"fullDocument.total": {"$gte": 100}}'


def _once(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(key for key, _ in pairs if [other for other, _ in pairs].count(key) > 1)
        raise ValueError(f"{twice} is there twice in one object; put the two into $and")
    return found


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f'{name} is no JSON; write {{"$numberDouble": "{name}"}}')


def _decoded(given: Mapping[str, Any]) -> dict[str, Any]:
    """The query's values, as those of documents."""
    try:
        raw = to_bson(given)
        found = bson.decode(raw, DECODE_OPTIONS)
    except (ValueError, TypeError, ArithmeticError, BSONError) as error:
        raise ValueError(f"it holds a value that BSON has not: {error}") from None
    _refuse_old_types(rawbson.read(raw))
    return found


def _refuse_old_types(value: Any) -> None:
    if isinstance(value, (rawbson.Undefined, rawbson.DBPointer)):
        raise ValueError(f"it holds a value of type {type(value).__name__}, which nothing can be compared with")
    inner: Iterable[Any] = ()
    if isinstance(value, rawbson.Document):
        inner = (each for _, each in value)
    elif isinstance(value, list):
        inner = value
    for each in inner:
        _refuse_old_types(each)
