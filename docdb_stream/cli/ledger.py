"""``docdb-stream ledger``: what happened to positions."""

from __future__ import annotations

from docdb_stream.admin.status import ledger_entries
from docdb_stream.cli.connecting import connecting
from docdb_stream.cli.options import ConfigOption, JsonOption, StreamOption, all_streams
from docdb_stream.cli.terminal import put, put_json


def ledger(config: ConfigOption = None, stream: StreamOption = None, as_json: JsonOption = False) -> None:
    """Show what happened to positions: lost history, resets, events that could not be read."""
    streams = all_streams(config)
    with connecting(*streams):
        entries = ledger_entries(streams, stream)
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
