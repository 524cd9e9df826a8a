"""How results look: a run's, the table of streams, an error."""

from __future__ import annotations

import io
import shutil
import sys
from collections.abc import Mapping
from typing import Any

from docdb_stream.admin.status import COLUMNS, StreamStatus
from docdb_stream.cli.terminal import is_terminal, put, put_safe, say, shown
from docdb_stream.errors import DocdbStreamError
from docdb_stream.run import RunResult
from docdb_stream.settings import Settings

_LEGEND = (
    "age: since the position was saved.",
    "lag: cluster time from it to the cluster's latest operation, of any collection.",
)


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
    if result.rejections:
        say(f"  {counted(result.rejections, 'event')} put into the dead letters: docdb-stream dead-letters list")


def _ending(result: RunResult, settings: Settings) -> str:
    cause = {
        "max-loop": f"ended by MAX_LOOP={settings.max_loop} (0 is no limit)",
        "deadline": "ended by the timeout",
        "signal": "ended by a signal",
    }.get(result.stopped_by)
    if result.caught_up:
        return f"caught up; {cause}" if cause else "caught up"
    behind = "" if result.lag_s is None else f", {result.lag_s:.0f} s behind"
    return f"not caught up{behind}, more is waiting; {cause}"


def outcome_json(settings: Settings, outcome: RunResult | DocdbStreamError) -> Mapping[str, Any]:
    """What became of a stream as plain values: the run's result, or the error with its kind, hint and exit code."""
    if isinstance(outcome, RunResult):
        return outcome.as_dict()
    error = {"kind": outcome.kind, "message": str(outcome), "hint": outcome.hint, "exit_code": outcome.exit_code}
    return {"stream": settings.stream_name, "error": error}


def error_lines(error: DocdbStreamError, stream: str | None = None) -> list[str]:
    """The error, every problem of the settings, and what to do."""
    lines = ["error: " + (f"{stream}: " if stream else "") + str(error)]
    lines += [f"  - {problem}" for problem in getattr(error, "problems", ())]
    return [*lines, f"hint: {error.hint}"] if error.hint else lines


def say_error(error: DocdbStreamError) -> None:
    """The error on standard error."""
    for line in error_lines(error):
        say(line)


def print_status(statuses: list[StreamStatus]) -> None:
    """The table of streams on standard output; a paragraph for each where a terminal is too narrow for the table."""
    if not statuses:
        put("no stream has run yet")
        return
    lines = _table([tuple(map(shown, found.cells())) for found in statuses])
    if is_terminal(sys.stdout) and max(map(len, lines)) > shutil.get_terminal_size().columns:
        lines = [line for found in statuses for line in _paragraph(found)]
    for line in lines:
        put_safe(line)
    for line in _LEGEND:
        put(line)


def _table(rows: list[tuple[str, ...]]) -> list[str]:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD)
    for heading in COLUMNS:
        table.add_column(heading, justify="right" if heading in ("age", "lag", "events") else "left", no_wrap=True)
    for row in rows:
        table.add_row(*map(Text, row))
    console = Console(file=io.StringIO(), width=sum(map(len, map(str, rows))) + 1000)
    with console.capture() as captured:
        console.print(table)
    return [line.rstrip() for line in captured.get().splitlines() if line.strip()]


def _paragraph(found: StreamStatus) -> list[str]:
    name, *cells = found.cells()
    return [shown(name), *(f"  {heading:<10}{shown(cell)}" for heading, cell in zip(COLUMNS[1:], cells, strict=True))]
