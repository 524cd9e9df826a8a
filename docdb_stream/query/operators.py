"""What MongoDB's operators say of one value: each makes a test of its operand.

Owns the operators that compare a value. How values are found is ``path``'s, how operators are put together ``parse``'s.
A test is asked for ``MISSING``, too; it raises UnrenderableError for what cannot be judged as the server does.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from decimal import ROUND_DOWN, Decimal
from typing import Any, Final

from bson import Decimal128, Int64, MaxKey, MinKey, Regex

from docdb_stream.errors import UnrenderableError
from docdb_stream.formats.rawbson import Symbol
from docdb_stream.query import regex
from docdb_stream.query.compare import KEYS, compare, number, regex_parts
from docdb_stream.query.path import Test
from docdb_stream.query.values import (
    BOOLEAN,
    MISSING,
    NULL,
    NUMBER,
    REGEX,
    STRING,
    TYPE_NAMES,
    bracket,
    is_other,
    type_number,
)

_COMPARISONS: Final[dict[str, Callable[[Any, Any], bool]]] = {
    "$eq": operator.eq,
    "$gt": operator.gt,
    "$gte": operator.ge,
    "$lt": operator.lt,
    "$lte": operator.le,
}


def comparing(name: str, operand: Any) -> Test:
    """``$eq``, ``$gt``, ``$gte``, ``$lt`` or ``$lte``: of values of the operand's own type (numbers are one) only."""
    own = bracket(operand)
    holds = _COMPARISONS[name]
    if own == REGEX and name != "$eq":
        raise ValueError(f"{name} takes no regular expression")
    if own == NUMBER:
        return _comparing_numbers(name, operand)
    if own == STRING:
        return _comparing_texts(holds, operand)
    if own == BOOLEAN:
        return lambda value: holds(value, operand) if type(value) is bool else is_other(value)
    if own == NULL:
        if not holds(0, 0):
            return is_other
        return lambda value: value is None or value is MISSING or is_other(value)
    if isinstance(operand, (MinKey, MaxKey)):
        return _comparing_with_an_end(name, operand)

    def test(value: Any) -> bool:
        return bracket(value) == own and holds(compare(value, operand), 0)

    return test


def _comparing_numbers(name: str, operand: Any) -> Test:
    holds, limit = _COMPARISONS[name], number(operand)
    if limit != limit:
        if name in ("$gt", "$lt"):
            return is_other
        return lambda value: compare(value, operand) == 0 if bracket(value) == NUMBER else False

    def test(value: Any) -> bool:
        kind = type(value)
        if kind is int or kind is Int64:
            return holds(value, limit)
        if kind is float or kind is Decimal128:
            found = number(value)
            return found == found and holds(found, limit)
        return is_other(value)

    return test


def _comparing_texts(holds: Callable[[Any, Any], bool], operand: Any) -> Test:
    limit = operand.text if isinstance(operand, Symbol) else operand

    def test(value: Any) -> bool:
        kind = type(value)
        if kind is str:
            return holds(value, limit)
        return holds(value.text, limit) if kind is Symbol else is_other(value)

    return test


def _comparing_with_an_end(name: str, operand: Any) -> Test:
    """MinKey and MaxKey are the only values that are compared with all others, also with what is missing."""
    kind = type(operand)
    towards = name in (("$lt", "$lte") if kind is MaxKey else ("$gt", "$gte"))
    is_equal = name in ("$eq", "$gte", "$lte")
    return lambda value: is_equal if type(value) is kind else towards


def among(operands: Sequence[Any]) -> Test:
    """``$in``: equal to one, or matching one that is a regular expression."""
    if operands and all(type(each) is str for each in operands):
        return _among_texts(frozenset(operands))
    keys = frozenset((bracket(each), _key(each)) for each in operands if bracket(each) in _HASHED)
    tests = [comparing("$eq", each) for each in operands if bracket(each) not in _HASHED]
    tests += [matching(*regex_parts(each)) for each in operands if isinstance(each, Regex)]

    def test(value: Any) -> bool:
        own = bracket(value)
        return (own in _HASHED and (own, _key(value)) in keys) or any(each(value) for each in tests)

    return test


_HASHED: Final = frozenset({NUMBER, *KEYS})
"""The brackets whose values are looked up, however many there are."""


def _key(value: Any) -> Any:
    own = bracket(value)
    if own != NUMBER:
        return KEYS[own](value)
    found = number(value)
    return found if found == found else None


def _among_texts(texts: frozenset[str]) -> Test:
    def test(value: Any) -> bool:
        kind = type(value)
        if kind is str:
            return value in texts
        return value.text in texts if kind is Symbol else is_other(value)

    return test


def matching(pattern: str, options: str) -> Test:
    """``$regex``: a text in which the pattern is found, or the same regular expression. Raises ValueError."""
    search = regex.compiled(pattern, options)
    own = pattern, "".join(sorted(options))

    def test(value: Any) -> bool:
        kind = type(value)
        if kind is str:
            return bool(search(value))
        if kind is Symbol:
            return bool(search(value.text))
        return bracket(value) == REGEX and regex_parts(value) == own

    return test


def existing(operand: Any) -> Test:
    """``$exists``, with what the server takes for true."""
    kind = bracket(operand)
    wanted = bool(number(operand)) if kind == NUMBER else operand if kind == BOOLEAN else None
    if wanted is None:
        raise ValueError("$exists takes true or false")
    return lambda value: (value is not MISSING) is wanted


def typed(operand: Any) -> Test:
    """``$type``: a name, a number, or a list of these."""
    given = operand if isinstance(operand, list) else [operand]
    if not given:
        raise ValueError("$type takes at least one type")
    wanted = frozenset(one for each in given for one in _types(each))
    return lambda value: type_number(value) in wanted


def _types(given: Any) -> frozenset[int]:
    if isinstance(given, str):
        if given in TYPE_NAMES:
            return TYPE_NAMES[given]
    elif bracket(given) == NUMBER:
        for found in TYPE_NAMES.values():
            if len(found) == 1 and given in found:
                return found
    raise ValueError(f"$type takes the name or number of a type, not {given!r}")


def sized(operand: Any) -> Test:
    """``$size``: an array with so many elements."""
    size = _integer("$size", operand)
    if size < 0:
        raise ValueError("$size takes no negative number")
    return lambda value: type(value) is list and len(value) == size


def remaining(operand: Any) -> Test:
    """``$mod``: a number whose integer part has this remainder, as C++ has it, which rounds towards 0. Of one beyond 64
    bits, and of a decimal with a fraction, versions of the server say different things."""
    if not isinstance(operand, list) or len(operand) != 2:
        raise ValueError("$mod takes a list of divisor and remainder")
    divisor, remainder = (_integer("$mod", each) for each in operand)
    if divisor == 0:
        raise ValueError("$mod takes no divisor 0")

    def test(value: Any) -> bool:
        if bracket(value) != NUMBER:
            return False
        whole = _whole(number(value))
        if whole is None or (type(value) is Decimal128 and whole != number(value)):
            raise UnrenderableError(
                "MATCH cannot judge a number beyond 64 bits, or a decimal's fraction, by $mod as the server does"
            )
        rest = abs(whole) % abs(divisor)
        return (rest if whole >= 0 else -rest) == remainder

    return test


def _whole(value: float | Decimal) -> int | None:
    """A number's integer part; None where it is none that 64 bits can hold."""
    if isinstance(value, Decimal):
        if not value.is_finite() or value.adjusted() > _DIGITS:
            return None
        value = value.to_integral_value(ROUND_DOWN)
    elif not math.isfinite(value):
        return None
    whole = int(value)
    return whole if -(2**63) <= whole < 2**63 else None


_DIGITS: Final = 20
"""More than an integer of 64 bits has."""


def _integer(name: str, operand: Any) -> int:
    if bracket(operand) != NUMBER or (found := _whole(number(operand))) is None or found != number(operand):
        raise ValueError(f"{name} takes whole numbers")
    return found
