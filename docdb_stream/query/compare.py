"""How MongoDB compares two values: by type first, then exactly, numbers of all types with each other.

MongoDB manual, "Comparison/Sort Order"; what it leaves open (documents, binary data, NaN) as mongod 6.0 does it, which
tests/integration/test_query.py asks.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterable
from decimal import Decimal
from typing import Any, Final

from bson import Decimal128, Regex

from docdb_stream.query.values import (
    ARRAY,
    BINARY,
    BOOLEAN,
    CODE,
    DATE,
    DOCUMENT,
    NUMBER,
    OBJECT_ID,
    REGEX,
    SCOPED_CODE,
    STRING,
    TIMESTAMP,
    as_document,
    bracket,
    pairs,
)

_EPOCH: Final = dt.datetime(1970, 1, 1)
_MILLISECOND: Final = dt.timedelta(milliseconds=1)
_NAN: Final = float("nan")
_OLD_BINARY_SUBTYPE: Final = 2


def compare(left: Any, right: Any) -> int:
    """Below 0, 0 or above 0, as ``left`` is before ``right``, equal to it, or after it.

    Raises:
        UnrenderableError: As ``values.bracket`` does.
    """
    own, other = bracket(left), bracket(right)
    if own != other:
        return own - other
    within = _WITHIN.get(own)
    return within(left, right) if within else 0


def number(value: Any) -> int | float | Decimal:
    """A number such that Python compares it exactly with any other; any NaN as a float."""
    if isinstance(value, Decimal128):
        found = value.to_decimal()
        return _NAN if found.is_nan() else found
    plain: int | float = value
    return plain


def milliseconds(date: Any) -> int:
    """A date as BSON has it, since 1970."""
    if isinstance(date, dt.datetime):
        return ((date.astimezone(dt.UTC).replace(tzinfo=None) if date.tzinfo else date) - _EPOCH) // _MILLISECOND
    return int(date)


def regex_parts(regex: Any) -> tuple[str, str]:
    """Pattern and options of a regular expression, as they are stored."""
    if not isinstance(regex, Regex):
        return regex.pattern, regex.options
    pattern = regex.pattern if isinstance(regex.pattern, str) else regex.pattern.decode()
    return pattern, "".join(letter for flag, letter in _FLAGS if regex.flags & flag)


_FLAGS: Final = ((2, "i"), (4, "l"), (8, "m"), (16, "s"), (32, "u"), (64, "x"))
"""Python's numbers for the options (``re.IGNORECASE``, ...), in BSON's order, which is that of the alphabet."""


def text(value: Any) -> str:
    """A string or symbol as text."""
    return value if isinstance(value, str) else value.text


def _ordered(key: Callable[[Any], Any]) -> Callable[[Any, Any], int]:
    def compared(left: Any, right: Any) -> int:
        own, other = key(left), key(right)
        return int(own > other) - int(own < other)

    return compared


def _numbers(left: Any, right: Any) -> int:
    own, other = number(left), number(right)
    own_is, other_is = own == own, other == other
    if not (own_is and other_is):  # a Decimal cannot be ordered with it
        return int(own_is) - int(other_is)
    return int(own > other) - int(own < other)


def _binary(value: Any) -> tuple[int, int, bytes]:
    subtype = getattr(value, "subtype", 0)
    return len(value) + 4 * (subtype == _OLD_BINARY_SUBTYPE), subtype, bytes(value)


def _documents(left: Any, right: Any) -> int:
    own, other = as_document(left), as_document(right)
    assert own is not None
    assert other is not None
    return _fields(pairs(own), pairs(other))


def _arrays(left: list[Any], right: list[Any]) -> int:
    return _fields((("", each) for each in left), (("", each) for each in right))


def _fields(left: Iterable[tuple[str, Any]], right: Iterable[tuple[str, Any]]) -> int:
    """Field by field: types first, then names, then values; who ends first is before."""
    rest, others = iter(left), iter(right)
    while True:
        own, other = next(rest, None), next(others, None)
        if own is None or other is None:
            return int(own is not None) - int(other is not None)
        if by_type := bracket(own[1]) - bracket(other[1]):
            return by_type
        if own[0] != other[0]:
            return 1 if own[0] > other[0] else -1
        if by_value := compare(own[1], other[1]):
            return by_value


def _scoped_code(left: Any, right: Any) -> int:
    return compare(str(left), str(right)) or _documents(left.scope, right.scope)


KEYS: Final[dict[int, Callable[[Any], Any]]] = {
    STRING: text,
    BINARY: _binary,
    OBJECT_ID: lambda value: value.binary,
    BOOLEAN: bool,
    DATE: milliseconds,
    TIMESTAMP: lambda value: (value.time, value.inc),
    REGEX: regex_parts,
    CODE: str,
}
"""Of each bracket here: what its values are compared by, which is hashable."""
_WITHIN: Final[dict[int, Callable[[Any, Any], int]]] = {
    **{bracket: _ordered(key) for bracket, key in KEYS.items()},
    NUMBER: _numbers,
    DOCUMENT: _documents,
    ARRAY: _arrays,
    SCOPED_CODE: _scoped_code,
}
"""How values of one bracket are compared; those of a bracket that is not here are equal."""
