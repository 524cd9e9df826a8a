"""The options that several commands share, and the streams they choose."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from docdb_stream.cli.terminal import say
from docdb_stream.config import settings_from_config, settings_from_env
from docdb_stream.context import Deadline
from docdb_stream.errors import ConfigError
from docdb_stream.settings import Settings

ConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--config",
        "-c",
        help="Read streams from this config.ini. Without it: the environment, or else ./config.ini.",
        show_default=False,
    ),
]
StreamOption = Annotated[
    str | None, typer.Option("--stream", "-s", help="Only this stream.", show_default=False, metavar="NAME")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON on standard output, one object per line.")]
VerboseOption = Annotated[
    int, typer.Option("--verbose", "-v", count=True, help="Log what happens to standard error; twice: in detail.")
]


DEFAULT_CONFIG = Path("config.ini")


def all_streams(config: Path | None, given: Mapping[str, str] | None = None, *, tables: bool = False) -> list[Settings]:
    """The settings of every stream: of the file, or of the environment. Raises ConfigError.

    Args:
        config: The file, where one was named.
        given: Settings that were given as options, by their names in the environment; they win over all others.
        tables: Whether streams of DynamoDB tables are among them, which nobody runs but their mappings.
    """
    environ = {**os.environ, **(given or {})}
    if config is None and DEFAULT_CONFIG.is_file():
        if not os.environ.get("DOCUMENTDB_URI"):
            config = DEFAULT_CONFIG
        else:
            say(f"DOCUMENTDB_URI is set, so {DEFAULT_CONFIG} is not read; --config {DEFAULT_CONFIG} reads it")
    if config is None:
        return [settings_from_env(environ)]
    return settings_from_config(str(config), environ, tables=tables)


TimeoutOption = Annotated[
    float | None,
    typer.Option("--timeout", help="Be over within this many seconds.", show_default=False, metavar="SECONDS"),
]


def deadline_after(timeout: float | None) -> Deadline:
    """When a command has to be over, by its ``--timeout``. Raises ConfigError."""
    if timeout is not None and not timeout > 0:
        raise ConfigError("--timeout: expected seconds greater than 0")
    return Deadline.after(timeout)


def chosen_streams(
    config: Path | None, name: str | None, given: Mapping[str, str] | None = None, *, tables: bool = False
) -> list[Settings]:
    """Those of the stream ``name``, or of every stream. Raises ConfigError, also when there is no such stream.

    A function that one of them names (TRANSFORM) may be in the working directory: from here on it is found there, after
    all that is installed.
    """
    found = all_streams(config, given, tables=tables)
    chosen = [settings for settings in found if name in (None, settings.stream_name)]
    if not chosen:
        known = ", ".join(settings.stream_name for settings in found)
        raise ConfigError(f"there is no stream {name}", hint=f"the settings have: {known}")
    here = os.getcwd()
    if any(settings.transform for settings in chosen) and not sys.flags.safe_path and here not in sys.path:
        sys.path.append(here)
    return chosen
