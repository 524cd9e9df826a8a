"""What a query says of a field, of which a path makes a judgement of documents; and how several of these are one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from docdb_stream.query.path import Judge, Test, reaching


class Condition(Protocol):
    """What is said of a field."""

    def at(self, path: str) -> Judge:
        """Of the field with this path."""
        ...

    def alone(self) -> Test:
        """Of one value that was found already, as an element of an array."""
        ...


@dataclass(frozen=True)
class Passes:
    """A value passes a test.

    Attributes:
        test: The test.
        into_last: Whether of an array at the path's end each element counts, too.
    """

    test: Test
    into_last: bool = True

    def at(self, path: str) -> Judge:
        """See Condition."""
        return reaching(path, self.test, into_last=self.into_last)

    def alone(self) -> Test:
        """See Condition."""
        return self.test


@dataclass(frozen=True)
class All:
    """Several conditions hold, each for any value that the path finds; or not all of them do."""

    conditions: Sequence[Condition]
    is_negated: bool = False

    def at(self, path: str) -> Judge:
        """See Condition."""
        return self._together([condition.at(path) for condition in self.conditions])

    def alone(self) -> Test:
        """See Condition."""
        return self._together([condition.alone() for condition in self.conditions])

    def _together(self, functions: Sequence[Callable[[Any], bool]]) -> Callable[[Any], bool]:
        return negated(every(functions)) if self.is_negated else every(functions)


def every(functions: Sequence[Callable[[Any], bool]]) -> Callable[[Any], bool]:
    """Whether all hold, of a document or of a value."""
    if len(functions) == 1:
        return functions[0]
    return lambda value: all(function(value) for function in functions)


def any_of(functions: Sequence[Callable[[Any], bool]]) -> Callable[[Any], bool]:
    """Whether one holds."""
    return lambda value: any(function(value) for function in functions)


def negated(function: Callable[[Any], bool]) -> Callable[[Any], bool]:
    """Whether it does not hold."""
    return lambda value: not function(value)
