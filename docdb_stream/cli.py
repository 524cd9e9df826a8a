"""The command line: ``docdb-stream run``, ``status``, ``doctor``, ``demo``.

Owns what an operator types and sees, and the exit codes. Everything it does, the library does.
"""

from __future__ import annotations

import logging
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, NoReturn

import orjson
import typer

from docdb_stream import __version__
from docdb_stream.config import settings_from_config, settings_from_env
from docdb_stream.errors import ConfigError, DocdbStreamError
from docdb_stream.poller import Poller, RunResult
from docdb_stream.retry import Deadline
from docdb_stream.settings import Settings
from docdb_stream.status import StreamStatus, stream_statuses

app = typer.Typer(
    name="docdb-stream",
    help="Stream the changes of MongoDB and Amazon DocumentDB to Kinesis, SQS, Kafka, OpenSearch, S3 and others.",
    epilog="Exit codes: 0 done, 2 settings wrong, 3 source unreachable, 4 a target failed, 5 history lost, "
    "6 lease held elsewhere. With several streams, the highest of theirs.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

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


def main() -> None:
    """Entry point of ``docdb-stream``."""
    app()


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"docdb-stream {__version__}")
        raise typer.Exit


@app.callback()
def _common(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    pass


@app.command()
def run(
    config: ConfigOption = None,
    stream: StreamOption = None,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Keep going until SIGINT or SIGTERM, then checkpoint and exit 0.")
    ] = False,
    timeout: Annotated[
        float | None,
        typer.Option("--timeout", help="Be over within this many seconds.", show_default=False, metavar="SECONDS"),
    ] = None,
    as_json: JsonOption = False,
    verbose: VerboseOption = 0,
) -> None:
    """Run once: deliver what changed since the checkpoint, save the new one, and report.

    All streams of the config file run side by side; a failing one does not hold back the others.
    """
    _log_to_stderr(verbose)
    if timeout is not None and timeout <= 0:
        _fail(ConfigError("--timeout: expected seconds greater than 0"))
    with _reported():
        chosen = _chosen(_settings(config), stream)
    limit = Deadline.after(timeout)
    _stop_on_signals(limit.stop)
    outcomes = _run_all(chosen, limit, follow)
    for settings, outcome in zip(chosen, outcomes, strict=True):
        if as_json:
            _print_json(_outcome_json(settings, outcome))
        if isinstance(outcome, DocdbStreamError):
            _print_error(outcome, settings.stream_name if len(chosen) > 1 else None)
        elif not as_json:
            _print_result(outcome)
    raise typer.Exit(max(_exit_code(outcome) for outcome in outcomes))


@app.command()
def status(config: ConfigOption = None, stream: StreamOption = None, as_json: JsonOption = False) -> None:
    """Show where every stream stands: position, age, lag, and who works on it."""
    with _reported():
        statuses = stream_statuses(_settings(config))
        if stream is not None:
            statuses = [found for found in statuses if found.stream == stream]
            if not statuses:
                raise ConfigError(f"there is no stream {stream}", hint="docdb-stream status lists them all")
    if as_json:
        for found in statuses:
            _print_json(found.as_dict())
    else:
        _print_status(statuses)


@app.command()
def doctor(config: ConfigOption = None, stream: StreamOption = None) -> None:
    """Check the settings, the cluster, the state database and every target, without delivering anything."""
    from docdb_stream.doctor import checks

    with _reported():
        chosen = _chosen(_settings(config), stream)
    worst = 0
    for settings in chosen:
        for what, error in checks(settings):
            typer.echo(f"{settings.stream_name}  {what}: " + ("ok" if error is None else f"FAILED: {error}"))
            if error is not None:
                worst = max(worst, error.exit_code)
                if error.hint:
                    typer.echo(f"    hint: {error.hint}")
    raise typer.Exit(worst)


@app.command()
def demo(
    events: Annotated[int, typer.Option("--events", min=200, help="How many changes the shop makes.")] = 12_000,
    seed: Annotated[int, typer.Option("--seed", help="The same seed makes the same changes.")] = 1,
    keep: Annotated[bool, typer.Option("--keep", help="Leave the servers running at the end, until Ctrl-C.")] = False,
) -> None:
    """See it at work on this machine: five targets, a crash on the way, and a check of every event.

    Starts real servers from the packages of docdb-stream[local]. Exits with 1 when an event is missing, out of order
    or altered in any target.
    """
    with _reported():
        from docdb_stream.local.demo.run import DemoOptions, run_demo

        status = run_demo(DemoOptions(events, seed, keep))
    raise typer.Exit(status)


# Settings


def _settings(config: Path | None) -> list[Settings]:
    import os

    if config is None and not os.environ.get("DOCUMENTDB_URI") and Path("config.ini").is_file():
        config = Path("config.ini")
    return settings_from_config(str(config)) if config is not None else [settings_from_env()]


def _chosen(found: list[Settings], name: str | None) -> list[Settings]:
    if name is None:
        return found
    chosen = [settings for settings in found if settings.stream_name == name]
    if not chosen:
        known = ", ".join(settings.stream_name for settings in found)
        raise ConfigError(f"--stream: there is no stream {name}", hint=f"the settings have: {known}")
    return chosen


# Running


def _run_all(chosen: list[Settings], limit: Deadline, follow: bool) -> list[RunResult | DocdbStreamError]:
    """Run every stream in a thread of its own; the main thread stays free for signals."""
    with ThreadPoolExecutor(max_workers=len(chosen), thread_name_prefix="stream") as pool, _progress(follow) as show:
        futures: list[Future[RunResult | DocdbStreamError]] = [
            pool.submit(_run_one, settings, limit, follow, show) for settings in chosen
        ]
        return [future.result() for future in futures]


def _run_one(
    settings: Settings, limit: Deadline, follow: bool, show: Callable[[RunResult], None]
) -> RunResult | DocdbStreamError:
    try:
        poller = Poller.from_settings(settings)
        try:
            return poller.run(limit=limit, follow=follow, progress=show)
        finally:
            poller.close()
    except DocdbStreamError as error:
        return error


def _stop_on_signals(stop: threading.Event) -> None:
    """The first SIGINT or SIGTERM asks for a clean end; a second one ends at once, and the checkpoint stays behind."""

    def ask(number: int, frame: FrameType | None) -> None:
        stop.set()
        for each in (signal.SIGINT, signal.SIGTERM):
            signal.signal(each, signal.SIG_DFL)

    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, ask)


@contextmanager
def _progress(follow: bool) -> Iterator[Callable[[RunResult], None]]:
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


def _exit_code(outcome: RunResult | DocdbStreamError) -> int:
    return outcome.exit_code if isinstance(outcome, DocdbStreamError) else 0


# What the operator sees


def _print_result(result: RunResult) -> None:
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


def _print_status(statuses: list[StreamStatus]) -> None:
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


def _outcome_json(settings: Settings, outcome: RunResult | DocdbStreamError) -> Mapping[str, Any]:
    if isinstance(outcome, RunResult):
        return outcome.as_dict()
    error = {"kind": outcome.kind, "message": str(outcome), "hint": outcome.hint, "exit_code": outcome.exit_code}
    return {"stream": settings.stream_name, "error": error}


def _print_json(value: Mapping[str, Any]) -> None:
    typer.echo(orjson.dumps(value).decode())


def _print_error(error: DocdbStreamError, stream: str | None = None) -> None:
    typer.echo("error: " + (f"{stream}: " if stream else "") + str(error), err=True)
    for problem in getattr(error, "problems", ()):
        typer.echo(f"  - {problem}", err=True)
    if error.hint:
        typer.echo(f"hint: {error.hint}", err=True)


def _fail(error: DocdbStreamError) -> NoReturn:
    _print_error(error)
    raise typer.Exit(error.exit_code)


@contextmanager
def _reported() -> Iterator[None]:
    try:
        yield
    except DocdbStreamError as error:
        _fail(error)


def _log_to_stderr(verbose: int) -> None:
    level = {0: logging.WARNING, 1: logging.INFO}.get(verbose, logging.DEBUG)
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("docdb_stream").setLevel(level)


if __name__ == "__main__":
    main()
