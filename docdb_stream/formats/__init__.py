"""The formats that come with docdb-stream, and how they and others' are found by name.

A format is imported when it is asked for. Those of other packages are entry points: name -> a ``Format`` (see
``docdb_stream.format``).
"""

from __future__ import annotations

import importlib
import importlib.metadata
from functools import cache
from typing import TYPE_CHECKING, Any, Protocol, cast, runtime_checkable

from docdb_stream.errors import ConfigError

if TYPE_CHECKING:
    from docdb_stream.format import FileFormat, Format


@runtime_checkable
class OfStream(Protocol):
    """A format in which the stream's name stands."""

    def of_stream(self, stream: str) -> Format:
        """The format of the events of this stream; asked once per stream."""
        ...


FORMATS: dict[str, str] = {
    "extended": "docdb_stream.formats.extended:EXTENDED",
    "document": "docdb_stream.formats.document:DOCUMENT",
    "plain": "docdb_stream.formats.plain:PLAIN",
    "full_document": "docdb_stream.formats.full_document:FULL_DOCUMENT",
    "debezium": "docdb_stream.formats.debezium:DEBEZIUM",
    "cloudevents": "docdb_stream.formats.cloudevents:CLOUDEVENTS",
    "cloudevents_binary": "docdb_stream.formats.cloudevents:BINARY_CLOUDEVENTS",
}
"""Format name -> where it is."""
KAFKAS_OWN = "avro"
"""A format that only Kafka's target can send, for which it has a schema registry; see ``formats.avro``."""
FILE_FORMATS: dict[str, str] = {
    "jsonl": "docdb_stream.formats.jsonl:JSONL",
    "parquet": "docdb_stream.formats.parquet:PARQUET",
}
"""File format name -> where it is."""

ENTRY_POINTS = "docdb_stream.formats"
"""The entry-point group by which other packages register formats."""
FILE_ENTRY_POINTS = "docdb_stream.file_formats"
"""The same for file formats."""


@cache
def format_named(name: str, stream: str = "") -> Format:
    """The format of this name: a built-in one, else one that another package has registered.

    Args:
        name: The format's name.
        stream: The stream's name, for formats in which it stands (see ``OfStream``).

    Raises:
        ConfigError: There is none, or it cannot be imported.
    """
    found = _found("format", name, FORMATS, ENTRY_POINTS, "render")
    return cast("Format", found.of_stream(stream) if isinstance(found, OfStream) else found)


def format_of(given: Format | str) -> Format:
    """What is given, if it is a format, else the one of this name. Raises as ``format_named`` does."""
    return format_named(given) if isinstance(given, str) else given


@cache
def file_format_named(name: str) -> FileFormat:
    """The file format of this name. Raises as ``format_named`` does."""
    return cast("FileFormat", _found("file format", name, FILE_FORMATS, FILE_ENTRY_POINTS, "writer"))


def known_format(name: str) -> str:
    """``name``, if there is a format of this name; imports none. For settings.

    Raises:
        ValueError: There is none.
    """
    if name == KAFKAS_OWN:
        raise ValueError("it is for Kafka alone: kafka_payload_format = avro")
    if name not in FORMATS and name not in (registered := _registered(ENTRY_POINTS)).names:
        installed = ", ".join(sorted(registered.names)) or "none"
        raise ValueError(
            f"expected extended, document or the name of an installed format (built in: {', '.join(FORMATS)}; "
            f"of other packages: {installed})"
        )
    return name


def known_file_format(name: str) -> str:
    """``name``, if there is a file format of this name; imports none. For settings.

    Raises:
        ValueError: There is none.
    """
    if name not in FILE_FORMATS and name not in (registered := _registered(FILE_ENTRY_POINTS)).names:
        installed = ", ".join(sorted(registered.names)) or "none"
        raise ValueError(f"expected {' or '.join(FILE_FORMATS)}, or an installed file format ({installed})")
    return name


def _found(what: str, name: str, built_in: dict[str, str], group: str, method: str) -> Any:
    if name in built_in:
        module, _, attribute = built_in[name].partition(":")
        return getattr(importlib.import_module(module), attribute)
    registered = _registered(group)
    if name not in registered.names:
        others = ", ".join(sorted(registered.names)) or "none is installed"
        raise ConfigError(
            f"there is no {what} {name!r}",
            hint=f"built in: {', '.join(built_in)}; of other packages (entry points {group}): {others}",
        )
    try:
        found = registered[name].load()
    except Exception as error:
        raise ConfigError(
            f"{what} {name} cannot be imported from {registered[name].value}: {type(error).__name__}: {error}",
            hint="its package registers something that is not there; ask who made it",
        ) from error
    if isinstance(found, type) or not callable(getattr(found, method, None)):
        raise ConfigError(
            f"{what} {name} is none: {registered[name].value} is no object with a method {method}",
            hint="its package registers something else, a class perhaps instead of an object; ask who made it",
        )
    return found


@cache
def _registered(group: str) -> importlib.metadata.EntryPoints:
    """Those of all installed packages, which takes ten milliseconds to find out."""
    return importlib.metadata.entry_points(group=group)
