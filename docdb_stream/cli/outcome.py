"""What became of a stream, in words: a run's result, an error."""

from __future__ import annotations

from docdb_stream.cli.terminal import say
from docdb_stream.errors import DocdbStreamError
from docdb_stream.result import RunResult
from docdb_stream.settings import Settings


def counted(count: int, noun: str) -> str:
    """``1 event``, ``1,203 events``."""
    return f"{count:,} {noun}" + ("" if count == 1 else "s")


def say_result(result: RunResult, settings: Settings) -> None:
    """One stream's run, on standard error: standard output may carry its events."""
    say(
        f"{result.stream}: {counted(result.events, 'event')} in {counted(result.loops, 'loop')}, "
        f"{counted(result.checkpoints, 'checkpoint')}, {_ending(result, settings)} after {result.duration_s:.1f} s"
    )
    for name, figures in result.targets.items():
        rejected = f", {figures.rejections:,} rejected" if figures.rejections else ""
        say(f"  {name}: {figures.events:,} delivered{rejected}")
    if result.snapshot_documents:
        on = "it goes on with the next run" if result.snapshot else "all of them are delivered"
        say(f"  {counted(result.snapshot_documents, 'document')} of a snapshot; {on}")
    if result.filtered:
        by = ", ".join(f"{name} {count:,}" for name, count in result.filtered_by.items())
        say(f"  {counted(result.filtered, 'event')} left out ({by})")
    if result.filtered_on_server:
        say(f"  left out by the server, uncounted: {', '.join(result.filtered_on_server)}")
    for name, why in result.stopped.items():
        say(f"  {name} has stopped, {why}: docdb-stream schema accept '{result.stream}' '{name}'")
    if result.rejections:
        say(f"  {counted(result.rejections, 'event')} put into the dead letters: docdb-stream dead-letters list")


def _ending(result: RunResult, settings: Settings) -> str:
    cause = {
        "max-loop": f"ended by MAX_LOOP={settings.max_loop} (0 is no limit)",
        "deadline": "ended by the timeout",
        "signal": "ended by a signal",
        "schema": "stopped for its schema",
    }.get(result.stopped_by)
    if result.caught_up:
        return f"caught up; {cause}" if cause else "caught up"
    behind = "" if result.lag_s is None else f", {result.lag_s:.0f} s behind"
    return f"not caught up{behind}, more is waiting; {cause}"


def error_lines(error: DocdbStreamError, stream: str | None = None) -> list[str]:
    """The error, every problem of the settings, and what to do."""
    lines = ["error: " + (f"{stream}: " if stream else "") + str(error)]
    lines += [f"  - {problem}" for problem in getattr(error, "problems", ())]
    return [*lines, f"hint: {error.hint}"] if error.hint else lines


def say_error(error: DocdbStreamError) -> None:
    """The error on standard error."""
    for line in error_lines(error):
        say(line)
