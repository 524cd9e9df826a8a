"""Which queries there are, and what each says: operators beside paths, and queries in queries.

What the server would refuse is refused, and so is what it could judge differently than is done here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

from bson import Regex

from docdb_stream.query import operators
from docdb_stream.query.compare import regex_parts
from docdb_stream.query.condition import All, Condition, Passes, any_of, every, negated
from docdb_stream.query.path import Judge, Test
from docdb_stream.query.values import as_document

NESTED: Final = 40
"""How deep operators may be within operators; the server has a limit of its own, of 100 and more (``maxBSONDepth``)."""


class Parser:
    """Makes functions of a decoded query; ``paths`` takes what it asks for."""

    def __init__(self, paths: set[str]) -> None:
        self._paths = paths

    def query(self, document: Mapping[str, Any], depth: int) -> Judge:
        """A query over a document."""
        if depth > NESTED:
            raise ValueError(f"operators are nested more than {NESTED} deep")
        judges = [self._clause(key, value, depth) for key, value in document.items() if key != "$comment"]
        return every(judges) if judges else lambda _document: True

    def _clause(self, key: str, value: Any, depth: int) -> Judge:
        if key in _OF_QUERIES:
            if not isinstance(value, list) or not value:
                raise ValueError(f"{key} takes a list of queries, with one at least")
            return _OF_QUERIES[key]([self.query(_query_in(key, each), depth + 1) for each in value])
        if key.startswith("$"):
            raise ValueError(_refusal(key))
        self._paths.add(_checked_path(key))
        return self._condition(key, value, depth).at(key)

    def _condition(self, path: str, value: Any, depth: int) -> Condition:
        """What stands beside a path: operators, a regular expression, or a value to be equal to."""
        if isinstance(value, Regex):
            return Passes(operators.matching(*regex_parts(value)))
        if (given := _operators_in(value)) is not None:
            return self._operators(path, given, depth)
        return Passes(operators.comparing("$eq", _literal(path, value)))

    def _operators(self, path: str, given: Mapping[str, Any], depth: int) -> All:
        if depth > NESTED:
            raise ValueError(f"operators are nested more than {NESTED} deep")
        try:
            found = [self._operator(path, name, given, depth) for name in given if name not in _SAID_WITH_ANOTHER]
        except ValueError as error:
            raise ValueError(f"{path}: {error}" if not str(error).startswith(path) else str(error)) from None
        if "$options" in given and "$regex" not in given:
            raise ValueError(f"{path}: $options is there without $regex")
        return All(found)

    def _operator(self, path: str, name: str, given: Mapping[str, Any], depth: int) -> Condition:
        operand = given[name]
        if name in ("$eq", "$gt", "$gte", "$lt", "$lte"):
            return Passes(operators.comparing(name, _literal(name, operand)))
        if name == "$ne":
            if isinstance(operand, Regex):
                raise ValueError("$ne takes no regular expression; $not does")
            return All([Passes(operators.comparing("$eq", _literal(name, operand)))], is_negated=True)
        if name in ("$in", "$nin"):
            return All([Passes(operators.among(_list_of_values(name, operand)))], is_negated=name == "$nin")
        if name == "$regex":
            return Passes(_regex(operand, given.get("$options")))
        if name == "$not":
            return All([self._negatable(path, operand, depth + 1)], is_negated=True)
        if name == "$all":
            return self._all(path, operand, depth + 1)
        if name == "$elemMatch":
            return Passes(self._element(path, operand, depth + 1), into_last=False)
        if name in _OF_VALUES:
            make, into_last = _OF_VALUES[name]
            return _exists(operand) if name == "$exists" else Passes(make(operand), into_last=into_last)
        raise ValueError(_refusal(name))

    def _negatable(self, path: str, operand: Any, depth: int) -> Condition:
        if isinstance(operand, Regex):
            return Passes(operators.matching(*regex_parts(operand)))
        if (given := _operators_in(operand)) is None:
            raise ValueError("$not takes operators or a regular expression")
        return self._operators(path, given, depth)

    def _all(self, path: str, operand: Any, depth: int) -> Condition:
        if not isinstance(operand, list):
            raise ValueError("$all takes a list")
        if not operand:
            return Passes(lambda _value: False)
        found: list[Condition] = []
        are_elements = [next(iter(_operators_in(each) or ("",))) == "$elemMatch" for each in operand]
        if any(are_elements) and not all(are_elements):
            raise ValueError("$all takes $elemMatch for all of its list, or for none")
        for each in operand:
            if are_elements[0]:
                if len(each) > 1:
                    raise ValueError("$all takes $elemMatch alone")
                found.append(Passes(self._element(path, each["$elemMatch"], depth), into_last=False))
            elif isinstance(each, Regex):
                found.append(Passes(operators.matching(*regex_parts(each))))
            else:
                found.append(Passes(operators.comparing("$eq", _literal("$all", each))))
        return All(found)

    def _element(self, path: str, operand: Any, depth: int) -> Test:
        """``$elemMatch``: an array of which one element has all that is asked for, as a value or as a document."""
        given = as_document(operand)
        if not given:
            raise ValueError("$elemMatch takes operators, or a query over the elements")
        if _operators_in(given) and next(iter(given)) not in _OF_QUERIES:
            holds: Callable[[Any], bool] = self._operators(path, given, depth).alone()
            return lambda value: type(value) is list and any(map(holds, value))
        judge = Parser(set()).query(given, depth)

        def test(value: Any) -> bool:
            return type(value) is list and any(judge(each) for each in map(_as_object, value) if each is not None)

        return test


def _as_object(value: Any) -> Mapping[str, Any] | None:
    """A document; also an array, as BSON has it: a document with places for names."""
    if type(value) is list:
        return {str(place): each for place, each in enumerate(value)}
    return as_document(value)


def _exists(operand: Any) -> Condition:
    """``$exists: false`` says that no value is found, and not that one is missing."""
    is_wanted = operators.existing(operand)
    there = Passes(operators.existing(True), into_last=False)
    return there if is_wanted(None) else All([there], is_negated=True)


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
    "$and": every,
    "$or": any_of,
    "$nor": lambda judges: negated(any_of(judges)),
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
