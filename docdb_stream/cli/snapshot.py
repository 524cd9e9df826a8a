"""``docdb-stream snapshot``: the documents that there are, delivered beside the stream."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from docdb_stream.admin.snapshot import SnapshotStatus, ask, snapshot_status
from docdb_stream.checkpoint import Action
from docdb_stream.cli.connecting import connecting
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
from docdb_stream.cli.table import print_snapshot
from docdb_stream.cli.terminal import log_to_stderr, put, put_json, say
from docdb_stream.settings.types import split_words
from docdb_stream.snapshot_worker import SnapshotWorker, WorkResult

snapshot_app = typer.Typer(
    no_args_is_help=True,
    help="Deliver the documents that there are, beside the stream: start, status, work, pause, resume, cancel.",
)

StreamArgument = Annotated[str, typer.Argument(help="The stream's name.", show_default=False)]


@snapshot_app.command("start")
def start(
    stream: StreamArgument,
    namespaces: Annotated[
        str | None,
        typer.Option(
            "--namespaces", help="Only these collections: db.coll or patterns, with commas.", show_default=False
        ),
    ] = None,
    match: Annotated[
        str | None,
        typer.Option("--match", help="Only documents that this query matches (JSON).", show_default=False),
    ] = None,
    targets: Annotated[
        str | None, typer.Option("--targets", help="Only to these targets, with commas.", show_default=False)
    ] = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Begin a snapshot: every document comes as an insert, in order with the changes. The run that works on the stream
    takes it up within some ten seconds, or else the next one; each goes on where the last checkpoint left it."""
    chosen = {"namespaces": split_words(namespaces or ""), "match": match, "targets": split_words(targets or "")}
    _asked(stream, "start", config, as_json, **chosen)


@snapshot_app.command("status")
def status(stream: StreamArgument, config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Show how far the snapshot has come, and what was asked for and is not done yet."""
    (settings,) = chosen_streams(config, stream)
    with connecting(settings):
        found = snapshot_status(settings)
    _show(found, as_json)


@snapshot_app.command("pause")
def pause(stream: StreamArgument, config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Read no further; the stream itself goes on, and what has been delivered stays."""
    _asked(stream, "pause", config, as_json)


@snapshot_app.command("resume")
def resume(stream: StreamArgument, config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Go on with a paused snapshot where it was."""
    _asked(stream, "resume", config, as_json)


@snapshot_app.command("cancel")
def cancel(stream: StreamArgument, config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """End the snapshot. What has been delivered stays."""
    _asked(stream, "cancel", config, as_json)


@snapshot_app.command("work")
def work(
    stream: StreamArgument,
    timeout: TimeoutOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
    verbose: VerboseOption = 0,
) -> None:
    """Work on a shared snapshot (SNAPSHOT_SHARED): take ranges that nobody has, until none is left. In as many
    processes as you like, beside the run that delivers the changes."""
    log_to_stderr(verbose)
    limit = deadline_after(timeout)
    (settings,) = chosen_streams(config, stream)
    stop_on_signals(limit.stop)

    def told(result: WorkResult) -> None:
        if verbose and not as_json:
            say(f"{counted(result.documents, 'document')} delivered, {counted(result.ranges, 'range')} done")

    with connecting(settings), SnapshotWorker.from_settings(settings) as worker:
        result = worker.run(limit=limit, progress=told)
    if as_json:
        put_json(result.as_dict())
    elif not result.snapshot:
        put(f"{stream}: no shared snapshot is under way")
    else:
        put(
            f"{stream}: snapshot {result.snapshot} {counted(result.documents, 'document')} delivered, "
            f"{counted(result.ranges, 'range')} done, {result.left:,} left"
            + (f", {counted(result.rejections, 'event')} in the dead letters" if result.rejections else "")
        )


def _asked(stream: str, action: Action, config: Any, as_json: bool, **chosen: Any) -> None:
    (settings,) = chosen_streams(config, stream)
    with connecting(settings):
        found = ask(settings, action, **chosen)
    if as_json:
        put_json(found.as_dict())
        return
    who = f"the run that works on it ({found.owner}) does it within some ten seconds" if found.owner else ""
    put(f"{stream}: {action} is asked for; {who or 'nobody works on the stream now, its next run does it'}")


def _show(found: SnapshotStatus, as_json: bool) -> None:
    if as_json:
        put_json(found.as_dict())
    else:
        print_snapshot(found)
