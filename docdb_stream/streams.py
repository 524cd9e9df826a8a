"""Many streams side by side: what ``docdb-stream run`` does, for any program.

Owns how many run at a time, what they share (one connection for each cluster and user, one deadline, one stop), and
what became of each. A stream by itself is a ``Poller``; what is waited for is the ``Follower``'s.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from typing import Any

from docdb_stream.context import Deadline, deadline
from docdb_stream.errors import DocdbStreamError, SchemaStopError
from docdb_stream.follower import Follower, Patience, Progress, Unwatched, Watcher
from docdb_stream.mongodb.connection import Connections
from docdb_stream.poller import Poller
from docdb_stream.result import RunResult
from docdb_stream.settings import Settings
from docdb_stream.target import Target

logger = logging.getLogger(__name__)

MAX_STREAMS_AT_ONCE = 16
"""More of them at a time take longer and more memory, all in all (bench/NOTES.md)."""

SIGNALS_HANDLED_S = 0.2
"""How soon a signal is handled at the latest. Python handles one between two steps of the main thread: one that comes
just before that waits for good would be handled when the wait is over."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one stream: a result, or the error that ended it.

    Attributes:
        settings: The stream.
        result: What all its runs did; None where ``error`` says why it ended.
        error: Why it ended; None where all went well.
    """

    settings: Settings
    result: RunResult | None = None
    error: DocdbStreamError | None = None

    @property
    def exit_code(self) -> int:
        """The command's exit code if this were its only stream: 0, or the error's, or that of a collection that has
        stopped."""
        if self.error is not None:
            return self.error.exit_code
        return SchemaStopError.exit_code if self.result is not None and self.result.stopped else 0

    def as_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON: the run's result, or the stream and its error's kind, hint and exit code."""
        if self.error is None:
            assert self.result is not None
            return self.result.as_dict()
        error, hint = self.error, self.error.hint
        told = {"kind": error.kind, "message": str(error), "hint": hint, "exit_code": error.exit_code}
        return {"stream": self.settings.stream_name, "error": told}


def exit_code(outcomes: Iterable[Outcome]) -> int:
    """The highest exit code among them; 0 where all went well, and for none at all."""
    return max((outcome.exit_code for outcome in outcomes), default=0)


def run_streams(
    streams: Sequence[Settings],
    *,
    limit: Deadline | None = None,
    follow: bool = False,
    patience: Patience | None = None,
    watch: Callable[[Settings], Watcher] | None = None,
    ended: Callable[[Outcome], object] | None = None,
    targets: Callable[[Settings], Sequence[Target]] | None = None,
) -> list[Outcome]:
    """Run every stream to its end; one that fails does not hold back the others.

    Streams that end run sixteen at a time: all share one interpreter, and each holds what it has read ahead. Those that
    follow run all at a time. Call it from the main thread where signals are to be handled; it installs no handler.

    Args:
        streams: Which; ``Settings.from_config`` gives those of a file.
        limit: The deadline, and the event by which to ask for a stop (``limit.stop.set()``, from any thread or a signal
            handler): each stream then makes a checkpoint and ends. Default: neither.
        follow: Never end by being caught up or by MAX_LOOP.
        patience: What is waited for. Default: with ``follow`` whatever trouble may pass, for ever; otherwise nothing.
        watch: Makes who is told how a stream fares; its methods are called in the stream's thread.
        ended: Called in the thread of the caller for each stream as it ends.
        targets: Makes a stream's targets, instead of those that its settings switch on. Called anew, and what it gave
            closed, for each run: after trouble there are several.

    Returns:
        What became of each, in the order of ``streams``. A stream's error is in its outcome, and not raised.

    Raises:
        Exception: What ``ended`` raises, or a signal's handler (KeyboardInterrupt): all streams are asked to stop, and
            it is raised once they have.
    """
    if not streams:
        return []
    limit = limit or Deadline()
    patience = patience or Patience(trouble=follow)
    # A run retries by itself: not for longer than its trouble is waited for altogether.
    limit = replace(limit, patience_s=min(limit.patience_s, patience.give_up_after_s or limit.patience_s))
    at_once = len(streams) if follow else min(len(streams), MAX_STREAMS_AT_ONCE)
    with Connections() as connections, ThreadPoolExecutor(at_once, thread_name_prefix="stream") as pool:
        runner = _Runner(connections, limit, follow, patience, watch, targets)
        running = [pool.submit(runner.run, settings) for settings in streams]
        try:
            _tell_as_they_end(running, ended)
        except BaseException:
            limit.stop.set()
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return [each.result() for each in running]


def _tell_as_they_end(running: Sequence[Future[Outcome]], ended: Callable[[Outcome], object] | None) -> None:
    """Tell of each at once: the others may go on for days."""
    pending = set(running)
    while pending:
        done, pending = wait(pending, SIGNALS_HANDLED_S, FIRST_COMPLETED)
        for each in done:
            if ended is not None:
                ended(each.result())


@dataclass(frozen=True, slots=True)
class _Runner:
    """Runs one stream after the other or several side by side, each in a thread of its own."""

    connections: Connections
    limit: Deadline
    follow: bool
    patience: Patience
    watch: Callable[[Settings], Watcher] | None
    targets: Callable[[Settings], Sequence[Target]] | None

    def run(self, settings: Settings) -> Outcome:
        def attempt(progress: Progress) -> RunResult:
            with deadline(self.limit), self._poller(settings) as poller:
                return poller.run(limit=self.limit, follow=self.follow, progress=progress)

        try:
            watcher = self.watch(settings) if self.watch else Unwatched()
            return Outcome(settings, Follower(attempt, self.limit, self.patience, watcher).run())
        except DocdbStreamError as error:
            return Outcome(settings, error=error)
        except Exception as error:
            logger.debug("unexpected", exc_info=True)
            told = DocdbStreamError(
                f"unexpected {type(error).__name__}: {error}",
                hint="this is a bug: please report it, with what docdb-stream run -vv says",
            )
            return Outcome(settings, error=told)

    def _poller(self, settings: Settings) -> Poller:
        targets = self.targets(settings) if self.targets else None
        return Poller.from_settings(settings, targets, self.connections.to(settings))
