"""``docdb-stream status``, ``ledger`` and ``reset``: where streams stand, what happened to that, and moving it."""

from __future__ import annotations

from typing import Annotated

import typer

from docdb_stream.admin.status import ledger_entries, stream_statuses
from docdb_stream.cli.options import ConfigOption, JsonOption, StreamOption, all_streams, chosen_streams
from docdb_stream.cli.report import print_status
from docdb_stream.cli.terminal import put, put_json
from docdb_stream.errors import ConfigError
from docdb_stream.settings import StartAt, parse_start_at


def status(config: ConfigOption = None, stream: StreamOption = None, as_json: JsonOption = False) -> None:
    """Show where every stream stands, and who works on it.

    position: the cluster time up to which everything is delivered. age: how long ago it was saved. lag: how much
    cluster time lies between it and the cluster's latest operation, of whatever collection.
    """
    statuses = stream_statuses(all_streams(config))
    if stream is not None:
        statuses = [found for found in statuses if found.stream == stream]
        if not statuses:
            raise ConfigError(f"there is no stream {stream}", hint="docdb-stream status lists them all")
    if as_json:
        for found in statuses:
            put_json(found.as_dict())
    else:
        print_status(statuses)


def ledger(config: ConfigOption = None, stream: StreamOption = None, as_json: JsonOption = False) -> None:
    """Show what happened to positions: lost history, resets, events that could not be read."""
    entries = ledger_entries(all_streams(config), stream)
    for entry in entries:
        if as_json:
            put_json(entry)
        else:
            put(
                f"{entry['found_at']}  {entry['stream']}  {entry['kind']}: from {entry['before_time'] or 'nothing'} to "
                f"{entry['after_time'] or 'not decided yet'}  ({entry['reason']})"
            )
    if not entries and not as_json:
        put("the ledger is empty")


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
    from docdb_stream.admin.reset import reset as move

    (settings,) = chosen_streams(config, stream)
    position = move(settings, to=_start_at(to), token=token)
    put(f"{stream}: goes on at {position.time or 'the given token'}")


def _start_at(value: str | None) -> StartAt | None:
    try:
        return parse_start_at(value)  # type: ignore[return-value]
    except ValueError as error:
        raise ConfigError(f"--to: {error}") from None
