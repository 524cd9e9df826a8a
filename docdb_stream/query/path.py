"""How a dotted path finds values in a document: through arrays, by field name and by place.

MongoDB manual, "Query an Array of Embedded Documents"; the corners as mongod has them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from docdb_stream.query.values import MISSING, as_document

Judge = Callable[[Mapping[str, Any]], bool]
"""Whether a document matches."""
Test = Callable[[Any], bool]
"""Whether one value does; ``MISSING`` for one that is not there."""


def reaching(path: str, test: Test, *, into_last: bool) -> Judge:
    """Whether any value that the path finds passes the test.

    Args:
        path: The dotted path.
        test: Asked for each value found; for ``MISSING`` where a document on the way has no such field.
        into_last: Whether of an array at the path's end each element counts, too, before the array itself.
    """
    parts = tuple(path.split("."))
    search = _Search(parts, test, into_last)
    in_array = search.array
    if len(parts) == 1:
        [name] = parts

        def judge_field(document: Mapping[str, Any]) -> bool:
            value = document.get(name, MISSING)
            return in_array(value, 1) if type(value) is list else test(value)

        return judge_field

    def judge(document: Mapping[str, Any]) -> bool:
        value: Any = document
        for at, part in enumerate(parts, 1):
            if type(value) is not dict:
                inner = as_document(value)
                if inner is None:
                    return test(MISSING)
                value = inner
            value = value.get(part, MISSING)
            if type(value) is list:
                return in_array(value, at)
        return test(value)

    return judge


_PLACE: Final = re.compile("0|[1-9][0-9]{0,9}")
"""A place in an array as BSON writes it: "00" is a field's name."""


class _Search:
    """The way of one path through arrays. ``at`` is the place of the next part in the path."""

    def __init__(self, parts: Sequence[str], test: Test, into_last: bool) -> None:
        self._parts = parts
        self._test = test
        self._into_last = into_last
        self._places = [int(part) if _PLACE.fullmatch(part) else -1 for part in parts]

    def array(self, values: list[Any], at: int) -> bool:
        """An array that was found by the parts before ``at``."""
        if at < len(self._parts):
            return self._inside(values, at)
        if self._into_last and any(map(self._test, values)):
            return True
        return self._test(values)

    def _document(self, document: Mapping[str, Any], at: int) -> bool:
        value: Any = document
        for place in range(at, len(self._parts)):
            inner = as_document(value)
            if inner is None:
                return self._test(MISSING)
            value = inner.get(self._parts[place], MISSING)
            if type(value) is list:
                return self.array(value, place + 1)
        return self._test(value)

    def _inside(self, values: list[Any], at: int) -> bool:
        """The elements that are documents by the rest of the path, and that at the place which the next part names by
        the rest after it; an array in an array is looked into only where its place is named."""
        after = at + 1
        for place, value in enumerate(values):
            inner = as_document(value)
            if inner is not None and self._document(inner, at):
                return True
            if place != self._places[at]:
                continue
            if after == len(self._parts):
                if self._test(value):
                    return True
            elif inner is not None:
                if self._document(inner, after):
                    return True
            elif type(value) is list and self._inside(value, after):
                return True
        return False
