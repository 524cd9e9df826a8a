"""``docdb-stream run``: runs streams side by side."""

from __future__ import annotations

from typing import Annotated

import typer

from docdb_stream.cli.options import (
    ConfigOption,
    StreamOption,
    TimeoutOption,
    VerboseOption,
    chosen_streams,
    deadline_after,
)
from docdb_stream.cli.outcome import say_result
from docdb_stream.cli.screen import Screen, StreamWatcher
from docdb_stream.cli.signals import stop_on_signals
from docdb_stream.cli.terminal import log_to_stderr
from docdb_stream.errors import ConfigError
from docdb_stream.follower import Patience
from docdb_stream.settings import Settings
from docdb_stream.streams import exit_code, run_streams


def run(
    config: ConfigOption = None,
    stream: StreamOption = None,
    follow: Annotated[
        bool,
        typer.Option(
            "--follow",
            "-f",
            help="Keep going until SIGINT, SIGTERM or SIGHUP, then checkpoint and exit 0. Whatever may pass (a cluster "
            "or a target that is away) is waited for.",
        ),
    ] = False,
    wait_for_lease: Annotated[
        bool, typer.Option("--wait", help="Wait while another run holds the lease, instead of exit code 6.")
    ] = False,
    give_up_after: Annotated[
        float | None,
        typer.Option(
            "--give-up-after",
            help="With --follow or --wait: end with the trouble's exit code once it has lasted this long. 0: at "
            "once, as without them.",
            show_default=False,
            metavar="SECONDS",
        ),
    ] = None,
    timeout: TimeoutOption = None,
    as_json: Annotated[
        bool,
        typer.Option(
            "--json",
            help="Report in JSON, one object per stream: on standard output, or on standard error where a target "
            "writes events to standard output.",
        ),
    ] = False,
    verbose: VerboseOption = 0,
) -> None:
    """Run once: deliver what changed since the checkpoint, save the new one, and report.

    All streams of the config file run side by side; a failing one is told at once and does not hold back the others.
    It ends when it has caught up, or after MAX_LOOP loops where that is set.
    """
    log_to_stderr(verbose)
    limit = deadline_after(timeout)
    if give_up_after is not None and not give_up_after >= 0:
        raise ConfigError("--give-up-after: expected seconds, 0 or more")
    if give_up_after is not None and not (follow or wait_for_lease):
        raise ConfigError("--give-up-after says how long --follow or --wait are to wait: add one of them")
    patience = Patience(follow, wait_for_lease, float("inf") if give_up_after is None else give_up_after)
    chosen = [_to_the_end(settings) for settings in chosen_streams(config, stream)]
    stop_on_signals(limit.stop)
    with Screen(chosen, as_json) as screen:
        outcomes = run_streams(
            chosen,
            limit=limit,
            follow=follow,
            patience=patience,
            watch=lambda settings: StreamWatcher(screen, settings, notices=not as_json),
            ended=screen.ended,
        )
    for outcome in outcomes:
        if outcome.result is not None and as_json:
            screen.report(outcome.as_dict())
        elif outcome.result is not None:
            say_result(outcome.result, outcome.settings)
    raise typer.Exit(exit_code(outcomes))


def _to_the_end(settings: Settings) -> Settings:
    """MAX_LOOP bounds what a Lambda does in its time; whoever waits here waits for all there is, unless they set it."""
    return settings if "max_loop" in settings.model_fields_set else settings.model_copy(update={"max_loop": 0})
