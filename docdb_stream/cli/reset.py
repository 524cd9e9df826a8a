"""``docdb-stream reset``: moves a stream's position."""

from __future__ import annotations

from typing import Annotated

import typer

from docdb_stream.admin.reset import reset as move
from docdb_stream.cli.connecting import connecting
from docdb_stream.cli.options import ConfigOption, chosen_streams
from docdb_stream.cli.terminal import put
from docdb_stream.errors import ConfigError
from docdb_stream.settings import StartAt, parse_start_at


def reset(
    stream: Annotated[str, typer.Argument(help="The stream's name.", show_default=False)],
    to: Annotated[
        str | None,
        typer.Option("--to", help="now, earliest, or an ISO 8601 timestamp.", show_default=False, metavar="WHEN"),
    ] = None,
    token: Annotated[
        str | None,
        typer.Option("--token", help="After this resume token (its _data).", show_default=False, metavar="DATA"),
    ] = None,
    config: ConfigOption = None,
) -> None:
    """Move a stream's position, after its history was lost or to deliver again. The ledger records it."""
    (settings,) = chosen_streams(config, stream)
    with connecting(settings):
        position = move(settings, to=_start_at(to), token=token)
    put(f"{stream}: goes on at {position.time or 'the given token'}")


def _start_at(value: str | None) -> StartAt | None:
    try:
        return parse_start_at(value)  # type: ignore[return-value]
    except ValueError as error:
        raise ConfigError(f"--to: {error}") from None
