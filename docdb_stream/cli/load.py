"""``docdb-stream load``: from Parquet in S3 into a warehouse."""

from __future__ import annotations

from typing import Annotated

import typer

from docdb_stream.cli.options import (
    ConfigOption,
    JsonOption,
    TimeoutOption,
    VerboseOption,
    chosen_streams,
    deadline_after,
)
from docdb_stream.cli.outcome import counted
from docdb_stream.cli.signals import stop_on_signals
from docdb_stream.cli.terminal import log_to_stderr, put, put_json, say
from docdb_stream.load.loading import LoadResult
from docdb_stream.load.loading import load as load_manifests


def load(
    stream: Annotated[str, typer.Argument(help="The stream's name.", show_default=False)],
    timeout: TimeoutOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
    verbose: VerboseOption = 0,
) -> None:
    """Load what the stream has left in S3 as Parquet, and is not loaded yet, into the tables of its warehouse.

    Each checkpoint's manifest is loaded wholly or not at all, and once. Of each document the newest state wins.
    """
    log_to_stderr(verbose)
    limit = deadline_after(timeout)
    (settings,) = chosen_streams(config, stream)
    stop_on_signals(limit.stop)

    def told(result: LoadResult) -> None:
        if not as_json and verbose:
            say(f"{counted(result.manifests, 'manifest')} loaded, {result.waiting:,} to go")

    result = load_manifests(settings, limit=limit, progress=told)
    if as_json:
        put_json(result.as_dict())
        return
    found = result.loaded
    put(
        f"{result.stream}: {counted(result.manifests, 'manifest')} with {counted(found.rows, 'event')} loaded in "
        f"{result.duration_s:.1f} s: {counted(found.written, 'document')} written, {found.deleted:,} deleted"
        + (f", {found.stale:,} older than what was there" if found.stale else "")
    )
    if result.waiting:
        put(f"{counted(result.waiting, 'manifest')} not loaded yet: the next load goes on")
