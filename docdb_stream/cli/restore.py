"""``docdb-stream restore``: a target rebuilt of the archive in S3."""

from __future__ import annotations

import datetime as dt
import sys
from typing import Annotated

import typer

from docdb_stream.admin.restore import RestoreResult
from docdb_stream.admin.restore import restore as restore_target
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
from docdb_stream.cli.terminal import is_terminal, log_to_stderr, put, put_json, say
from docdb_stream.errors import OutOfTimeError


def restore(
    stream: Annotated[str, typer.Argument(help="The stream's name.", show_default=False)],
    to: Annotated[str, typer.Option("--to", help="The target to rebuild, which keeps versions.", show_default=False)],
    through: Annotated[
        dt.datetime | None,
        typer.Option(help="Take no events after this time, UTC; the stream has to stand still then."),
    ] = None,
    timeout: TimeoutOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
    verbose: VerboseOption = 0,
) -> None:
    """Give a target all events that the stream has written to S3, once more.

    The newest state of each document stays, so the stream may run, and this may be run again. What the archive has not
    got is brought by a snapshot; docdb-stream verify says whether anything is missing.
    """
    log_to_stderr(verbose)
    limit = deadline_after(timeout)
    (settings,) = chosen_streams(config, stream)
    stop_on_signals(limit.stop)

    def told(result: RestoreResult) -> None:
        if not as_json and (verbose or is_terminal(sys.stderr)):
            at = f", up to {result.last:%Y-%m-%d %H:%M:%S}Z" if result.last else ""
            say(f"{counted(result.objects, 'object')}, {counted(result.events, 'event')}{at}")

    utc = None if through is None else through.replace(tzinfo=through.tzinfo or dt.UTC)
    result = restore_target(settings, to, through=utc, limit=limit, progress=told)
    if as_json:
        put_json(result.as_dict())
    else:
        _print(result)
    if result.is_cut:
        raise OutOfTimeError(
            to, "the archive was not gone through to its end", hint="run it again: what was delivered changes nothing"
        )


def _print(result: RestoreResult) -> None:
    rate = result.events / result.duration_s if result.duration_s else 0.0
    put(
        f"{result.stream}: {counted(result.events, 'event')} of {counted(result.objects, 'object')} delivered to "
        f"{result.target} in {result.duration_s:.1f} s ({rate:,.0f}/s)"
    )
    for count, told in (
        (result.rejected, "refused, see docdb-stream dead-letters list"),
        (result.without_document, "updates without a document, of which nothing can be made: a snapshot brings them"),
        (result.alien, "lines that are no events"),
    ):
        if count:
            put(f"{count:,} {told}")
