"""The table of streams: where each stands, as a person reads it."""

from __future__ import annotations

import datetime as dt
import io
import shutil
import sys

from docdb_stream.admin.status import StreamStatus
from docdb_stream.cli.terminal import is_terminal, put, put_safe, shown

COLUMNS = ("stream", "position", "age", "lag", "saved", "events", "lease")

_LEGEND = (
    "age: since the position was saved.",
    "lag: cluster time from it to the cluster's latest operation, of any collection.",
)


def print_status(statuses: list[StreamStatus]) -> None:
    """The table of streams on standard output; a paragraph for each where a terminal is too narrow for the table."""
    if not statuses:
        put("no stream has run yet")
        return
    lines = _table([tuple(map(shown, _cells(found))) for found in statuses])
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
    name, *cells = _cells(found)
    return [shown(name), *(f"  {heading:<10}{shown(cell)}" for heading, cell in zip(COLUMNS[1:], cells, strict=True))]


def _cells(found: StreamStatus) -> tuple[str, ...]:
    """A row, as COLUMNS names it."""
    checkpoint = found.checkpoint
    return (
        found.stream,
        _time(found.position_time) if checkpoint else "unreadable" if found.error else "never run",
        _seconds(found.age_s),
        _seconds(found.lag_s),
        _time(checkpoint.updated_at if checkpoint else None),
        f"{checkpoint.events:,}" if checkpoint else "-" if found.error else "0",
        "-" if found.error else found.lease,
    )


def _time(value: dt.datetime | None) -> str:
    return "-" if value is None else f"{value:%Y-%m-%d %H:%M:%S}Z"


def _seconds(value: float | None) -> str:
    if value is None:
        return "-"
    if value < 120:
        return f"{value:.0f} s"
    return f"{value / 60:.0f} min" if value < 7200 else f"{value / 3600:.1f} h"
