"""Reads a query: Extended JSON text becomes functions that judge a document.

Owns which queries there are. What the server would refuse is refused, and so is what it could judge differently than
is done here.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final, NoReturn, Protocol

import bson
from bson import Regex
from bson.errors import BSONError

from docdb_stream.formats import rawbson
from docdb_stream.formats.decoded import DECODE_OPTIONS
from docdb_stream.formats.reader import to_bson
from docdb_stream.query import operators
from docdb_stream.query.compare import regex_parts
from docdb_stream.query.path import Judge, Test, reaching
from docdb_stream.query.values import as_document

NESTED: Final = 40
"""How deep operators may be within operators; the server has a limit of its own, of 100 and more (``maxBSONDepth``)."""


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
        return Query(
            _every([part.matches for part in parts]), frozenset().union(*(part.paths for part in parts)), parts
        )
    except json.JSONDecodeError as error:
        raise ValueError(
            f"it is no JSON ({error.msg}, at character {error.pos + 1}); expected something like {_EXAMPLE}"
        ) from None
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _read(document: Mapping[str, Any]) -> Query:
    paths = set[str]()
    return Query(_Parser(paths).query(document, 0), frozenset(paths))


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


class _Condition(Protocol):
    """What is said of a field."""

    def at(self, path: str) -> Judge:
        """Of the field with this path."""
        ...

    def alone(self) -> Test:
        """Of one value that was found already, as an element of an array."""
        ...


@dataclass(frozen=True)
class _Passes:
    """A value passes a test."""

    test: Test
    into_last: bool = True

    def at(self, path: str) -> Judge:
        return reaching(path, self.test, into_last=self.into_last)

    def alone(self) -> Test:
        return self.test


@dataclass(frozen=True)
class _All:
    """Several conditions hold, each for any value that the path finds; or not all of them do."""

    conditions: Sequence[_Condition]
    is_negated: bool = False

    def at(self, path: str) -> Judge:
        return self._together([condition.at(path) for condition in self.conditions])

    def alone(self) -> Test:
        return self._together([condition.alone() for condition in self.conditions])

    def _together(self, functions: Sequence[Callable[[Any], bool]]) -> Callable[[Any], bool]:
        return _negated(_every(functions)) if self.is_negated else _every(functions)


def _every(functions: Sequence[Callable[[Any], bool]]) -> Callable[[Any], bool]:
    if len(functions) == 1:
        return functions[0]
    return lambda value: all(function(value) for function in functions)


def _any(functions: Sequence[Callable[[Any], bool]]) -> Callable[[Any], bool]:
    return lambda value: any(function(value) for function in functions)


def _negated(function: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: not function(value)


class _Parser:
    """Makes functions of a decoded query; ``paths`` takes what it asks for."""

    def __init__(self, paths: set[str]) -> None:
        self._paths = paths

    def query(self, document: Mapping[str, Any], depth: int) -> Judge:
        """A query over a document."""
        if depth > NESTED:
            raise ValueError(f"operators are nested more than {NESTED} deep")
        judges = [self._clause(key, value, depth) for key, value in document.items() if key != "$comment"]
        return _every(judges) if judges else lambda _document: True

    def _clause(self, key: str, value: Any, depth: int) -> Judge:
        if key in _OF_QUERIES:
            if not isinstance(value, list) or not value:
                raise ValueError(f"{key} takes a list of queries, with one at least")
            return _OF_QUERIES[key]([self.query(_query_in(key, each), depth + 1) for each in value])
        if key.startswith("$"):
            raise ValueError(_refusal(key))
        self._paths.add(_checked_path(key))
        return self._condition(key, value, depth).at(key)

    def _condition(self, path: str, value: Any, depth: int) -> _Condition:
        """What stands beside a path: operators, a regular expression, or a value to be equal to."""
        if isinstance(value, Regex):
            return _Passes(operators.matching(*regex_parts(value)))
        if (given := _operators_in(value)) is not None:
            return self._operators(path, given, depth)
        return _Passes(operators.comparing("$eq", _literal(path, value)))

    def _operators(self, path: str, given: Mapping[str, Any], depth: int) -> _All:
        if depth > NESTED:
            raise ValueError(f"operators are nested more than {NESTED} deep")
        try:
            found = [self._operator(path, name, given, depth) for name in given if name not in _SAID_WITH_ANOTHER]
        except ValueError as error:
            raise ValueError(f"{path}: {error}" if not str(error).startswith(path) else str(error)) from None
        if "$options" in given and "$regex" not in given:
            raise ValueError(f"{path}: $options is there without $regex")
        return _All(found)

    def _operator(self, path: str, name: str, given: Mapping[str, Any], depth: int) -> _Condition:
        operand = given[name]
        if name in ("$eq", "$gt", "$gte", "$lt", "$lte"):
            return _Passes(operators.comparing(name, _literal(name, operand)))
        if name == "$ne":
            if isinstance(operand, Regex):
                raise ValueError("$ne takes no regular expression; $not does")
            return _All([_Passes(operators.comparing("$eq", _literal(name, operand)))], is_negated=True)
        if name in ("$in", "$nin"):
            return _All([_Passes(operators.among(_list_of_values(name, operand)))], is_negated=name == "$nin")
        if name == "$regex":
            return _Passes(_regex(operand, given.get("$options")))
        if name == "$not":
            return _All([self._negatable(path, operand, depth + 1)], is_negated=True)
        if name == "$all":
            return self._all(path, operand, depth + 1)
        if name == "$elemMatch":
            return _Passes(self._element(path, operand, depth + 1), into_last=False)
        if name in _OF_VALUES:
            make, into_last = _OF_VALUES[name]
            return _exists(operand) if name == "$exists" else _Passes(make(operand), into_last=into_last)
        raise ValueError(_refusal(name))

    def _negatable(self, path: str, operand: Any, depth: int) -> _Condition:
        if isinstance(operand, Regex):
            return _Passes(operators.matching(*regex_parts(operand)))
        if (given := _operators_in(operand)) is None:
            raise ValueError("$not takes operators or a regular expression")
        return self._operators(path, given, depth)

    def _all(self, path: str, operand: Any, depth: int) -> _Condition:
        if not isinstance(operand, list):
            raise ValueError("$all takes a list")
        if not operand:
            return _Passes(lambda _value: False)
        found: list[_Condition] = []
        are_elements = [next(iter(_operators_in(each) or ("",))) == "$elemMatch" for each in operand]
        if any(are_elements) and not all(are_elements):
            raise ValueError("$all takes $elemMatch for all of its list, or for none")
        for each in operand:
            if are_elements[0]:
                if len(each) > 1:
                    raise ValueError("$all takes $elemMatch alone")
                found.append(_Passes(self._element(path, each["$elemMatch"], depth), into_last=False))
            elif isinstance(each, Regex):
                found.append(_Passes(operators.matching(*regex_parts(each))))
            else:
                found.append(_Passes(operators.comparing("$eq", _literal("$all", each))))
        return _All(found)

    def _element(self, path: str, operand: Any, depth: int) -> Test:
        """``$elemMatch``: an array of which one element has all that is asked for, as a value or as a document."""
        given = as_document(operand)
        if not given:
            raise ValueError("$elemMatch takes operators, or a query over the elements")
        if _operators_in(given) and next(iter(given)) not in _OF_QUERIES:
            holds: Callable[[Any], bool] = self._operators(path, given, depth).alone()
            return lambda value: type(value) is list and any(map(holds, value))
        judge = _Parser(set()).query(given, depth)

        def test(value: Any) -> bool:
            return type(value) is list and any(judge(each) for each in map(_as_object, value) if each is not None)

        return test


def _as_object(value: Any) -> Mapping[str, Any] | None:
    """A document; also an array, as BSON has it: a document with places for names."""
    if type(value) is list:
        return {str(place): each for place, each in enumerate(value)}
    return as_document(value)


def _exists(operand: Any) -> _Condition:
    """``$exists: false`` says that no value is found, and not that one is missing."""
    is_wanted = operators.existing(operand)
    there = _Passes(operators.existing(True), into_last=False)
    return there if is_wanted(None) else _All([there], is_negated=True)


def _operators_in(value: Any) -> Mapping[str, Any] | None:
    """A document of operators; None where the value is something else."""
    found = as_document(value)
    return found if found and next(iter(found)).startswith("$") else None


def _query_in(key: str, value: Any) -> Mapping[str, Any]:
    found = as_document(value)
    if found is None:
        raise ValueError(f"{key} takes a list of queries")
    return found


def _list_of_values(name: str, operand: Any) -> list[Any]:
    if not isinstance(operand, list):
        raise ValueError(f"{name} takes a list")
    return [_literal(name, each) for each in operand]


def _literal(name: str, value: Any) -> Any:
    """A value to compare with; an operator within is a mistake, which the server would take for a field's name."""
    for key in _keys_in(value):
        if key.startswith("$"):
            raise ValueError(f"{name}: {key} is within a value that is compared as a whole; use a dotted path")
    return value


def _keys_in(value: Any) -> Iterable[str]:
    if isinstance(value, list):
        for each in value:
            yield from _keys_in(each)
    elif (found := as_document(value)) is not None:
        for key, each in found.items():
            yield key
            yield from _keys_in(each)


def _regex(operand: Any, options: Any) -> Test:
    pattern, own = regex_parts(operand) if isinstance(operand, Regex) else (operand, "")
    if not isinstance(pattern, str) or not isinstance(options, (str, type(None))):
        raise ValueError("$regex and $options take a text")
    if own and options is not None:
        raise ValueError("options are given with $regex and with $options")
    return operators.matching(pattern, own or options or "")


def _checked_path(path: str) -> str:
    parts = path.split(".")
    if not all(parts) or "\0" in path:
        raise ValueError(f"{path!r} is no path: it has a name without characters, or a NUL")
    if wrong := next((part for part in parts if part.startswith("$")), None):
        raise ValueError(f"{path}: {wrong} is no field's name; docdb-stream takes no path with $")
    return path


_OF_QUERIES: Final[dict[str, Callable[[Sequence[Judge]], Judge]]] = {
    "$and": _every,
    "$or": _any,
    "$nor": lambda judges: _negated(_any(judges)),
}
_OF_VALUES: Final[dict[str, tuple[Callable[[Any], Test], bool]]] = {
    "$exists": (operators.existing, False),
    "$type": (operators.typed, True),
    "$size": (operators.sized, False),
    "$mod": (operators.remaining, True),
}
"""And whether the elements of an array count, too."""
_SAID_WITH_ANOTHER: Final = ("$options", "$comment")
_OPERATORS: Final = (
    *("$eq", "$ne", "$gt", "$gte", "$lt", "$lte", "$in", "$nin", "$not", "$regex", "$options", "$all", "$elemMatch"),
    *_OF_VALUES,
    *_OF_QUERIES,
    "$comment",
)


def _refusal(name: str) -> str:
    if name in _OPERATORS:
        return f"{name} does not belong here: {'beside' if name in _OF_QUERIES else 'within'} a field's path"
    return f"{name} is not supported; there are {', '.join(_OPERATORS)}"
