"""Text on its way to a person: standard output for what was asked for, standard error for all that is said about it.

Owns what makes text safe for a terminal: names, keys, reasons and servers' messages are written by others.
"""

from __future__ import annotations

import errno
import json
import logging
import sys
from collections.abc import Mapping
from typing import Any

import orjson
import typer

from docdb_stream.errors import DocdbStreamError


class OutputError(DocdbStreamError):
    """Standard output takes nothing: it is closed, or its disk is full."""


def shown(text: object) -> str:
    """``text`` on one line, with nothing in it that moves the cursor, changes colours or reorders what is read: each
    such character is written as Python writes it, as in ``\\x1b``."""
    line = str(text)
    return line if line.isprintable() else "".join(map(_escaped, line))


def _escaped(character: str) -> str:
    return character if character.isprintable() else ascii(character)[1:-1]


def say(line: str) -> None:
    """One line on standard error; lost where nobody can read it, which is no reason to fail."""
    try:
        typer.echo(shown(line), err=True)
    except (OSError, ValueError):
        return


def put(line: str) -> None:
    """One line on standard output.

    Raises:
        OutputError: It cannot be written.
        BrokenPipeError: Who was reading has ended.
    """
    put_safe(shown(line))


def put_json(value: Mapping[str, Any]) -> None:
    """One line of JSON on standard output. Raises as ``put``."""
    put_safe(json_line(value))


def json_line(value: Mapping[str, Any]) -> str:
    """``value`` as JSON on one line that is safe for a terminal, and means the same."""
    return safe_json(orjson.dumps(value).decode())


def safe_json(line: str) -> str:
    """JSON on one line as JSON that is safe for a terminal, and means the same."""
    return line if line.isprintable() else "".join(c if c.isprintable() else json.dumps(c)[1:-1] for c in line)


def put_safe(text: str) -> None:
    """Text that was made safe before, on standard output. Raises as ``put``."""
    if sys.stdout is None:
        raise OutputError("standard output is closed", hint="send it somewhere: a terminal, a file, > /dev/null")
    try:
        typer.echo(text)
    except OSError as error:
        if error.errno == errno.EPIPE:
            raise
        raise OutputError(f"standard output: {error.strerror}", hint="send it elsewhere, or make room") from error


def is_terminal(stream: Any) -> bool:
    """Whether a person looks at the stream; one that is closed is None."""
    return stream is not None and stream.isatty()


def log_to_stderr(verbose: int) -> None:
    """Log warnings, or with more verbosity what happens; other packages' logs only from warnings on."""
    level = {0: logging.WARNING, 1: logging.INFO}.get(verbose, logging.DEBUG)
    handler = logging.StreamHandler()
    handler.setFormatter(_SafeFormatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    logging.getLogger("docdb_stream").setLevel(level)


class _SafeFormatter(logging.Formatter):
    def formatMessage(self, record: logging.LogRecord) -> str:
        return shown(super().formatMessage(record))

    def formatException(self, ei: Any) -> str:
        return "\n".join(map(shown, super().formatException(ei).split("\n")))
