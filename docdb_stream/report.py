"""What the operator sees: results, the status table, errors, progress."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import orjson
import typer

from docdb_stream.errors import DocdbStreamError
from docdb_stream.run import RunResult
from docdb_stream.settings import Settings
from docdb_stream.status import StreamStatus


@contextmanager
def progress_line() -> Iterator[Callable[[RunResult], None]]:
    """A line on the terminal that tells how far the run is; nothing where nobody looks."""
    if not sys.stderr.isatty():
        yield lambda result: None
        return
    from rich.console import Console

    latest: dict[str, RunResult] = {}
    with Console(stderr=True).status("starting") as line:

        def show(result: RunResult) -> None:
            latest[result.stream] = result
            position = result.position.time if result.position else None
            line.update(
                f"{sum(each.read for each in latest.values()):,} events read, "
                f"{sum(each.checkpoints for each in latest.values())} checkpoints, "
                f"at {position:%Y-%m-%d %H:%M:%S}"
                if position
                else "starting"
            )

        yield show


def print_result(result: RunResult) -> None:
    """One stream's run, on standard error: standard output may carry its events."""
    checkpoints = f"{result.checkpoints} checkpoint" + ("" if result.checkpoints == 1 else "s")
    lag = "caught up" if result.caught_up else f"not caught up, {result.lag_s or 0:.0f} s behind"
    typer.echo(
        f"{result.stream}: {result.events:,} events in {result.loops} loops, {checkpoints}, {lag}; "
        f"ended by {result.stopped_by} after {result.duration_s:.1f} s",
        err=True,
    )
    for name, figures in result.targets.items():
        rejected = f", {figures.rejections} rejected" if figures.rejections else ""
        typer.echo(f"  {name}: {figures.events:,} delivered{rejected}", err=True)
    if result.rejections:
        typer.echo(f"  {result.rejections} events are in the dead letters", err=True)


def print_status(statuses: list[StreamStatus]) -> None:
    """The table of streams, on standard output."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    if not statuses:
        typer.echo("no stream has run yet")
        return
    table = Table(box=box.SIMPLE_HEAD)
    for heading in ("stream", "position", "age", "lag", "saved", "events", "lease"):
        table.add_column(heading, justify="right" if heading in ("age", "lag", "events") else "left", no_wrap=True)
    for found in statuses:
        table.add_row(*found.cells())
    # Wide enough for every column where nobody looks: a pipe must not cut names.
    console = Console() if sys.stdout.isatty() else Console(width=240)
    console.print(table)


def outcome_json(settings: Settings, outcome: RunResult | DocdbStreamError) -> Mapping[str, Any]:
    """What became of a stream as plain values: the run's result, or the error with its kind, hint and exit code."""
    if isinstance(outcome, RunResult):
        return outcome.as_dict()
    error = {"kind": outcome.kind, "message": str(outcome), "hint": outcome.hint, "exit_code": outcome.exit_code}
    return {"stream": settings.stream_name, "error": error}


def print_json(value: Mapping[str, Any]) -> None:
    """One line of JSON on standard output."""
    typer.echo(orjson.dumps(value).decode())


def print_error(error: DocdbStreamError, stream: str | None = None) -> None:
    """The error, every problem of the settings, and what to do, on standard error."""
    typer.echo("error: " + (f"{stream}: " if stream else "") + str(error), err=True)
    for problem in getattr(error, "problems", ()):
        typer.echo(f"  - {problem}", err=True)
    if error.hint:
        typer.echo(f"hint: {error.hint}", err=True)


def log_to_stderr(verbose: int) -> None:
    """Log warnings, or with more verbosity what happens; other packages' logs only from warnings on."""
    level = {0: logging.WARNING, 1: logging.INFO}.get(verbose, logging.DEBUG)
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("docdb_stream").setLevel(level)
