"""What of a document becomes a property, and how nodes are told apart."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Mapping
from math import isfinite
from typing import Any

import orjson

from docdb_stream.errors import UnrenderableError
from docdb_stream.formats.plain import plain_json
from docdb_stream.targets._graph.mapping import Path
from docdb_stream.targets._versioned import document_id


def identity_of(value: Any) -> str:
    """The text by which a node is found: one for each value that MongoDB takes for one ``_id`` (see ``document_id``).

    A reference may be of another type of number than the ``_id`` that it refers to; as text both are one.

    Raises:
        UnrenderableError: It cannot be said without altering it.
    """
    return document_id(value)


def properties_of(
    paths: Iterable[tuple[str, Path]], document: Any, element: Any = None, *, lists: bool = True
) -> Mapping[str, Any]:
    """The properties that have a value. What is null or missing is left out: a graph has no null.

    Args:
        paths: Their names, and where their values are.
        document: The document.
        element: That of one of its arrays, where paths begin at one.
        lists: Whether the graph has lists and dates, and numbers that are none; else these are text, too.

    Raises:
        UnrenderableError: A value cannot be told; the reason names the property and not the value.
    """
    tell = _property if lists else _scalar
    found = ((name, tell(name, path.value(document, element))) for name, path in paths)
    return {name: value for name, value in found if value is not None}


def _property(name: str, value: Any) -> Any:
    """Booleans, numbers, text and dates as they are, and lists of one of these types but dates; all else as text: as
    ``plain`` JSON has it, what is nested and mixed being JSON itself."""
    if value is None or type(value) in (bool, float, str):
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return int(value)
    if isinstance(value, dt.datetime):
        return value if value.tzinfo else value.replace(tzinfo=dt.UTC)
    if isinstance(value, list):
        kinds = {int if isinstance(each, int) and type(each) is not bool else type(each) for each in value}
        if len(kinds) <= 1 and kinds <= {bool, int, float, str}:
            return [int(each) if kinds == {int} else each for each in value]
    return _text(name, value)


def _scalar(name: str, value: Any) -> Any:
    """Booleans, finite numbers and text as they are; all else as text, as ``_property`` has it."""
    is_plain = not isinstance(value, (list, dt.datetime)) and (not isinstance(value, float) or isfinite(value))
    return _property(name, value) if is_plain else _text(name, value)


def _text(name: str, value: Any) -> str:
    try:
        text = plain_json({"v": value})[len(b'{"v":') : -1]
    except (ValueError, TypeError, OverflowError) as error:
        raise UnrenderableError(f"{name}: a value of type {type(value).__name__} cannot be written") from error
    found = orjson.loads(text)
    return found if isinstance(found, str) else text.decode()
