"""The command line: ``docdb-stream run``, ``status``, ``doctor``, ``demo``.

Owns what an operator types and sees, and the exit codes. Everything it does, the library does.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, NoReturn

import typer

from docdb_stream import __version__
from docdb_stream.config import settings_from_config, settings_from_env
from docdb_stream.connection import Connection, Connections
from docdb_stream.errors import ConfigError, DocdbStreamError, TargetError
from docdb_stream.poller import Poller
from docdb_stream.report import (
    log_to_stderr,
    outcome_json,
    print_error,
    print_json,
    print_result,
    print_status,
    progress_line,
)
from docdb_stream.retry import Deadline, deadline
from docdb_stream.run import RunResult
from docdb_stream.settings import Settings, parse_start_at
from docdb_stream.status import ledger_entries, stream_statuses

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


logger = logging.getLogger(__name__)


def main() -> None:
    """Entry point of ``docdb-stream``."""
    try:
        app()
    finally:
        try:
            sys.stdout.flush()
        except BrokenPipeError:
            # The reader went away (| head): the interpreter would complain once more while it ends.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


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
    log_to_stderr(verbose)
    if timeout is not None and timeout <= 0:
        _fail(ConfigError("--timeout: expected seconds greater than 0"))
    with _reported():
        chosen = _chosen(_settings(config), stream)
    limit = Deadline.after(timeout)
    _stop_on_signals(limit.stop)
    outcomes = _run_all(chosen, limit, follow)
    for settings, outcome in zip(chosen, outcomes, strict=True):
        if as_json:
            print_json(outcome_json(settings, outcome))
        if isinstance(outcome, DocdbStreamError):
            print_error(outcome, settings.stream_name if len(chosen) > 1 else None)
        elif not as_json:
            print_result(outcome)
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
            print_json(found.as_dict())
    else:
        print_status(statuses)


@app.command()
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
    from docdb_stream.reset import reset as move

    with _reported():
        (settings,) = _chosen(_settings(config), stream)
        position = move(settings, to=_start_at(to), token=token)
    typer.echo(f"{stream}: goes on at {position.time or 'the given token'}")


@app.command()
def enable(
    namespace: Annotated[str, typer.Argument(help="db.coll, db.* or *", metavar="NAMESPACE", show_default=False)],
    disable: Annotated[bool, typer.Option("--disable", help="Switch the change stream off instead.")] = False,
    config: ConfigOption = None,
) -> None:
    """Switch the change streams of a DocumentDB cluster on for a namespace (modifyChangeStreams)."""
    from docdb_stream.enable import modify_change_streams

    with _reported():
        typer.echo(modify_change_streams(_settings(config)[0], namespace, enable=not disable))


@app.command()
def ledger(config: ConfigOption = None, stream: StreamOption = None, as_json: JsonOption = False) -> None:
    """Show what happened to positions: lost history, resets, events that could not be read."""
    with _reported():
        entries = ledger_entries(_settings(config), stream)
    for entry in entries:
        if as_json:
            print_json(entry)
        else:
            typer.echo(
                f"{entry['found_at']}  {entry['stream']}  {entry['kind']}: from {entry['before_time'] or 'nothing'} to "
                f"{entry['after_time'] or 'not decided yet'}  ({entry['reason']})"
            )
    if not entries and not as_json:
        typer.echo("the ledger is empty")


dead_letters_app = typer.Typer(no_args_is_help=True, help="Look at events that a target refused, deliver them again.")
app.add_typer(dead_letters_app, name="dead-letters")


@dead_letters_app.command("list")
def dead_letters_list(config: ConfigOption = None, stream: StreamOption = None, as_json: JsonOption = False) -> None:
    """List the dead letters. With --json each is printed whole, its event included."""
    from docdb_stream.dead_letters import dead_letters_for

    with _reported():
        count = 0
        for settings in _chosen(_settings(config), stream):
            with Connection(settings) as connection:
                for letter in dead_letters_for(settings, connection).letters(settings.stream_name):
                    count += 1
                    if as_json:
                        print_json(letter)
                    else:
                        typer.echo(
                            f"{letter['found_at']}  {letter['stream']}  {letter['target']}  {letter['namespace']}  "
                            f"{letter['operation']}  {letter.get('document_key', '-')}  {letter['reason']}"
                        )
    if not as_json:
        typer.echo(f"{count} dead letter" + ("" if count == 1 else "s"), err=True)


@dead_letters_app.command("redrive")
def dead_letters_redrive(config: ConfigOption = None, stream: StreamOption = None) -> None:
    """Deliver the dead letters to the targets that refused them; those taken this time are removed.

    Exits with 0 when none is left, and with 4 when some stay: refused again, without their event, or for a target that
    is off.
    """
    from docdb_stream.dead_letters import dead_letters_for
    from docdb_stream.redrive import redrive
    from docdb_stream.targets import build_targets

    left = 0
    with _reported():
        for settings in _chosen(_settings(config), stream):
            targets = build_targets(settings)
            try:
                with Connection(settings) as connection:
                    result = redrive(dead_letters_for(settings, connection), settings.stream_name, targets)
            finally:
                for target in targets:
                    target.close()
            typer.echo(
                f"{settings.stream_name}: {result.delivered} delivered, {result.refused} refused again, "
                f"{result.without_event} without their event, {result.other_target} for a target that is off"
            )
            left += result.left
    if left:
        typer.echo(f"hint: {left} stay; docdb-stream dead-letters list says why each was refused", err=True)
        raise typer.Exit(TargetError.exit_code)


@app.command()
def doctor(config: ConfigOption = None, stream: StreamOption = None) -> None:
    """Check the settings, the cluster, the state database and every target, without delivering anything."""
    from docdb_stream.doctor import checks

    with _reported():
        chosen = _chosen(_settings(config), stream)
    worst = 0
    for settings in chosen:
        for what, error in checks(settings):
            verdict = "ok" if error is None else f"{'FAILED' if error.exit_code else 'CAUTION'}: {error}"
            typer.echo(f"{settings.stream_name}  {what}: {verdict}")
            if error is not None:
                worst = max(worst, error.exit_code)
                if error.hint:
                    typer.echo(f"    hint: {error.hint}")
    raise typer.Exit(worst)


@app.command()
def demo(
    events: Annotated[int, typer.Option("--events", min=200, help="How many changes the shop makes.")] = 6_000,
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


def _start_at(value: str | None) -> Any:
    try:
        return parse_start_at(value)
    except ValueError as error:
        raise ConfigError(f"--to: {error}") from None


# Running

MAX_STREAMS_AT_ONCE = 16
"""More of them at a time take longer and more memory, all in all (bench/NOTES.md)."""


def _run_all(chosen: list[Settings], limit: Deadline, follow: bool) -> list[RunResult | DocdbStreamError]:
    """Run every stream in a thread of its own; the main thread stays free for signals.

    Those that end run some at a time: all share one interpreter, and each holds what it has read ahead.
    """
    at_once = len(chosen) if follow else min(len(chosen), MAX_STREAMS_AT_ONCE)
    with (
        Connections() as connections,
        ThreadPoolExecutor(max_workers=at_once, thread_name_prefix="stream") as pool,
        progress_line() as show,
    ):
        futures: list[Future[RunResult | DocdbStreamError]] = [
            pool.submit(_run_one, settings, connections, limit, follow, show) for settings in chosen
        ]
        return [future.result() for future in futures]


def _run_one(
    settings: Settings, connections: Connections, limit: Deadline, follow: bool, show: Callable[[RunResult], None]
) -> RunResult | DocdbStreamError:
    try:
        with deadline(limit), Poller.from_settings(settings, connection=connections.to(settings)) as poller:
            return poller.run(limit=limit, follow=follow, progress=show)
    except DocdbStreamError as error:
        return error
    except Exception as error:
        logger.debug("unexpected", exc_info=True)
        return DocdbStreamError(
            f"unexpected {type(error).__name__}: {error}",
            hint="this is a bug: please report it, with what docdb-stream run -vv says",
        )


def _stop_on_signals(stop: threading.Event) -> None:
    """The first SIGINT or SIGTERM asks for a clean end; a second one ends at once, and the checkpoint stays behind."""

    def ask(number: int, frame: FrameType | None) -> None:
        stop.set()
        for each in (signal.SIGINT, signal.SIGTERM):
            signal.signal(each, signal.SIG_DFL)

    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, ask)


def _exit_code(outcome: RunResult | DocdbStreamError) -> int:
    return outcome.exit_code if isinstance(outcome, DocdbStreamError) else 0


# Errors


def _fail(error: DocdbStreamError) -> NoReturn:
    print_error(error)
    raise typer.Exit(error.exit_code)


@contextmanager
def _reported() -> Iterator[None]:
    try:
        yield
    except DocdbStreamError as error:
        _fail(error)


if __name__ == "__main__":
    main()
