"""What of a document becomes a property, and how nodes are told apart."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Mapping
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


def properties_of(paths: Iterable[tuple[str, Path]], document: Any, element: Any = None) -> Mapping[str, Any]:
    """The properties that have a value. What is null or missing is left out: a graph has no null.

    Raises:
        UnrenderableError: A value cannot be told; the reason names the property and not the value.
    """
    found = ((name, _property(name, path.value(document, element))) for name, path in paths)
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
    if isinstance(value, list) and value:
        kinds = {int if isinstance(each, int) and type(each) is not bool else type(each) for each in value}
        if len(kinds) == 1 and kinds <= {bool, int, float, str}:
            return [int(each) if kinds == {int} else each for each in value]
    try:
        text = plain_json({"v": value})[len(b'{"v":') : -1]
    except (ValueError, TypeError, OverflowError) as error:
        raise UnrenderableError(f"{name}: a value of type {type(value).__name__} cannot be written") from error
    found = orjson.loads(text)
    return found if isinstance(found, str) else text.decode()
