"""``docdb-stream run``: runs streams side by side."""

from __future__ import annotations

import logging
import signal
import threading
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from types import FrameType
from typing import Annotated

import typer

from docdb_stream.cli.options import ConfigOption, StreamOption, VerboseOption, chosen_streams
from docdb_stream.cli.report import outcome_json, say_result
from docdb_stream.cli.screen import Screen, StreamWatcher
from docdb_stream.cli.terminal import log_to_stderr
from docdb_stream.errors import ConfigError, DocdbStreamError
from docdb_stream.follow import Follower, Patience, Progress
from docdb_stream.mongodb.connection import Connections
from docdb_stream.poller import Poller
from docdb_stream.retry import Deadline, deadline
from docdb_stream.run import RunResult
from docdb_stream.settings import Settings

logger = logging.getLogger(__name__)

MAX_STREAMS_AT_ONCE = 16
"""More of them at a time take longer and more memory, all in all (bench/NOTES.md)."""

Outcome = RunResult | DocdbStreamError


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
    timeout: Annotated[
        float | None,
        typer.Option("--timeout", help="Be over within this many seconds.", show_default=False, metavar="SECONDS"),
    ] = None,
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
    if timeout is not None and not timeout > 0:
        raise ConfigError("--timeout: expected seconds greater than 0")
    if give_up_after is not None and not give_up_after >= 0:
        raise ConfigError("--give-up-after: expected seconds, 0 or more")
    if give_up_after is not None and not (follow or wait_for_lease):
        raise ConfigError("--give-up-after says how long --follow or --wait are to wait: add one of them")
    patience = Patience(follow, wait_for_lease, float("inf") if give_up_after is None else give_up_after)
    chosen = [_to_the_end(settings) for settings in chosen_streams(config, stream)]
    limit = Deadline.after(timeout)
    if give_up_after:
        limit.patience_s = min(limit.patience_s, give_up_after)
    _stop_on_signals(limit.stop)
    with Screen(chosen, as_json) as screen:
        outcomes = _Runs(limit, patience, screen, as_json).all(chosen)
    for settings, outcome in zip(chosen, outcomes, strict=True):
        if isinstance(outcome, RunResult) and as_json:
            screen.report(outcome_json(settings, outcome))
        elif isinstance(outcome, RunResult):
            say_result(outcome, settings)
    raise typer.Exit(max(0 if isinstance(outcome, RunResult) else outcome.exit_code for outcome in outcomes))


def _to_the_end(settings: Settings) -> Settings:
    """MAX_LOOP bounds what a Lambda does in its time; whoever waits here waits for all there is, unless they set it."""
    return settings if "max_loop" in settings.model_fields_set else settings.model_copy(update={"max_loop": 0})


SIGNALS_HANDLED_S = 0.2
"""How soon a signal is handled at the latest. Python handles one between two steps of the main thread: one that comes
just before that waits for good would be handled when the wait is over."""


class _Runs:
    """Runs streams in threads; the main thread stays free for signals."""

    def __init__(self, limit: Deadline, patience: Patience, screen: Screen, as_json: bool) -> None:
        self._limit = limit
        self._patience = patience
        self._screen = screen
        self._as_json = as_json

    def all(self, chosen: list[Settings]) -> list[Outcome]:
        """Run every stream to its end. Those that end run some at a time: all share one interpreter, and each holds
        what it has read ahead."""
        at_once = len(chosen) if self._patience.trouble else min(len(chosen), MAX_STREAMS_AT_ONCE)
        with (
            Connections() as connections,
            ThreadPoolExecutor(max_workers=at_once, thread_name_prefix="stream") as pool,
        ):
            futures = {pool.submit(self._one, settings, connections): settings for settings in chosen}
            self._tell_failures(futures)
        return [future.result() for future in futures]

    def _tell_failures(self, futures: dict[Future[Outcome], Settings]) -> None:
        """Tell each failure as it happens: the other streams may go on for days."""
        pending = set(futures)
        while pending:
            ended, pending = wait(pending, SIGNALS_HANDLED_S, FIRST_COMPLETED)
            for future in ended:
                outcome = future.result()
                if isinstance(outcome, DocdbStreamError):
                    self._screen.failed(outcome, futures[future])
                    if self._as_json:
                        self._screen.report(outcome_json(futures[future], outcome))

    def _one(self, settings: Settings, connections: Connections) -> Outcome:
        def attempt(progress: Progress) -> RunResult:
            with deadline(self._limit), Poller.from_settings(settings, connection=connections.to(settings)) as poller:
                return poller.run(limit=self._limit, follow=self._patience.trouble, progress=progress)

        watcher = StreamWatcher(self._screen, settings, notices=not self._as_json)
        try:
            return Follower(attempt, self._limit, self._patience, watcher).run()
        except DocdbStreamError as error:
            return error
        except Exception as error:
            logger.debug("unexpected", exc_info=True)
            return DocdbStreamError(
                f"unexpected {type(error).__name__}: {error}",
                hint="this is a bug: please report it, with what docdb-stream run -vv says",
            )


def _stop_on_signals(stop: threading.Event) -> None:
    """The first SIGINT or SIGTERM asks for a clean end; a second one ends at once, and the checkpoint stays behind.

    SIGHUP asks for it too, however often: the kernel and the shell each send one when a terminal closes. Where it is
    ignored, as under nohup, it stays so.
    """
    asking = (signal.SIGINT, signal.SIGTERM)

    def ask(number: int, frame: FrameType | None) -> None:
        stop.set()
        if number in asking:
            for each in asking:
                signal.signal(each, signal.SIG_DFL)

    for each in asking:
        signal.signal(each, ask)
    hangup = getattr(signal, "SIGHUP", None)
    if hangup is not None and signal.getsignal(hangup) != signal.SIG_IGN:
        signal.signal(hangup, ask)
