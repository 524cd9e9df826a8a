"""``docdb-stream status``: where streams stand."""

from __future__ import annotations

import typer

from docdb_stream.admin.status import stream_statuses
from docdb_stream.cli.connecting import connecting
from docdb_stream.cli.options import ConfigOption, JsonOption, StreamOption, all_streams
from docdb_stream.cli.outcome import say_error
from docdb_stream.cli.table import print_status
from docdb_stream.cli.terminal import put_json
from docdb_stream.errors import ConfigError, StateStoreError


def status(config: ConfigOption = None, stream: StreamOption = None, as_json: JsonOption = False) -> None:
    """Show where every stream stands, and who works on it.

    position: the cluster time up to which everything is delivered. age: how long ago it was saved. lag: how much
    cluster time lies between it and the cluster's latest operation, of whatever collection.

    Exits with 3 when the checkpoint of one of them cannot be read; the others are shown all the same.
    """
    streams = all_streams(config)
    with connecting(*streams):
        statuses = stream_statuses(streams)
    if stream is not None:
        statuses = [found for found in statuses if found.stream == stream]
        if not statuses:
            raise ConfigError(f"there is no stream {stream}", hint="docdb-stream status lists them all")
    if as_json:
        for found in statuses:
            put_json(found.as_dict())
    else:
        print_status(statuses)
    unreadable = [found.error for found in statuses if found.error is not None]
    for error in unreadable:
        say_error(error)
    if unreadable:
        raise typer.Exit(StateStoreError.exit_code)
