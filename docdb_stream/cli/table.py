"""The tables of streams and of snapshots: where each stands, as a person reads it."""

from __future__ import annotations

import datetime as dt
import io
import shutil
import sys
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from docdb_stream.admin.checklist.item import VERDICTS, Item
from docdb_stream.admin.snapshot import SnapshotStatus
from docdb_stream.admin.status import StreamStatus
from docdb_stream.checkpoint import Verified
from docdb_stream.cli.terminal import is_terminal, put, put_safe, shown
from docdb_stream.position import SnapshotProgress, SnapshotRange
from docdb_stream.verify.result import DIFFERENCES, SHOWN, VerifyResult

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
    for found in statuses:
        snapshot = found.checkpoint.position.snapshot if found.checkpoint and found.checkpoint.position else None
        for target, verified in found.checkpoint.verified.items() if found.checkpoint else ():
            put(f"{found.stream}: {_verified_line(target, verified)}")
        for stop in found.checkpoint.position.stops if found.checkpoint and found.checkpoint.position else ():
            put(
                f"{found.stream}: {stop.schema} has stopped for its schema at {_time(stop.position.time)}; "
                f"docdb-stream schema show '{found.stream}'"
            )
        if snapshot is not None:
            put(f"{found.stream}: {snapshot_line(snapshot)}; docdb-stream snapshot status '{found.stream}'")


def print_checklist(stream: str, found: Sequence[Item]) -> None:
    """The checklist of a stream on standard output: by area a row for each item, and below what is to be done."""
    put(f"{stream}: " + ", ".join(f"{sum(each.verdict == name for each in found)} {name}" for name in VERDICTS))
    rows = [(each.area, each.what, each.verdict, each.told) for each in sorted(found, key=lambda each: each.area)]
    for line in _table([tuple(map(shown, row)) for row in rows], ("area", "what", "", "found"), ()):
        put_safe(line)
    for each in found:
        if each.todo and each.verdict != "ok":
            put(f"{each.verdict}: {each.what}: {each.todo}")


def print_schema(stream: str, found: Mapping[str, Any]) -> None:
    """A schema ledger on standard output, as ``admin.schema.ledger_values`` has it: a row for each path."""
    put(f"{found['namespace']}: version {found['version']}, {found['documents']:,} documents")
    rows = [
        (
            shown(each["path"]),
            ", ".join(f"{kind} {seen['count']:,}" for kind, seen in each["types"].items()),
            "" if each["column_type"] is None else f"{shown(each['column'])} {each['column_type']}",
        )
        for each in found["paths"]
    ]
    for line in _table(rows, ("path", "types and documents", "column"), ()):
        put_safe(line)
    if found["is_full"]:
        put("more paths than are kept: those that came last are not told apart, and have no columns")
    if (news := found["stopped_for"]) is not None:
        added = ", ".join(f"{each['path']} of type {each['type']}" for each in news["added"])
        put_safe(f"stopped for {shown(added)}, since {news['event']['time']}")
        put_safe(f"hint: docdb-stream schema accept '{stream}' '{found['namespace']}'")


def print_schema_history(changes: Sequence[Mapping[str, Any]]) -> None:
    """What came to schemas on standard output, as ``admin.schema.history_values`` has it."""
    rows = [
        (
            shown(change["namespace"]),
            str(change["version"]),
            f"{dt.datetime.fromisoformat(change['at']):%Y-%m-%d %H:%M:%S}Z",
            change["how"],
            shown(", ".join(f"{each['path']} {each['type']}" for each in change["added"])),
        )
        for change in changes
    ]
    for line in _table(rows, ("collection", "version", "at", "how", "added"), ("version",)):
        put_safe(line)


def _verified_line(target: str, verified: Verified) -> str:
    """What comparing a target has found last, in a line."""
    through = None if verified.through is None else verified.through.as_datetime()
    line = f"{target} verified through {_time(through)}" if through else f"{target} never verified"
    if verified.differences:
        line += f"; {verified.differences:,} not equal at {_time(verified.at)}"
    return line


def print_snapshot(found: SnapshotStatus) -> None:
    """A snapshot on standard output: how far it has come, by collection."""
    for request in found.pending:
        put(f"{request.action} is asked for, and not done yet ({request.id})")
    if found.progress is None:
        put(f"{found.stream}: no snapshot is under way")
        return
    put(f"{found.stream}: {snapshot_line(found.progress, found.left_s)}")
    parts = defaultdict[str, list[SnapshotRange]](list)
    for each in found.progress.ranges:
        parts[str(each.namespace)].append(each)
    rows = [
        (
            shown(name),
            f"{sum(each.documents for each in ranges):,}",
            f"{sum(each.done for each in ranges)} of {len(ranges)}",
        )
        for name, ranges in parts.items()
    ]
    for line in _table(rows, ("collection", "documents", "ranges done"), ("documents",)):
        put_safe(line)


VERIFIED_COLUMNS = ("equal", *SHOWN)


def print_verified(result: VerifyResult, *, with_keys: bool) -> None:
    """What was found of a target on standard output: a row for each index or collection, and what it means."""
    put(f"{result.stream} -> {result.target}")
    figures = [each.as_dict() for each in result.places.values()]
    # Of the rarer columns those that say something.
    columns = [
        name for name in VERIFIED_COLUMNS if name in _ALWAYS[result.counted] or any(each[name] for each in figures)
    ]
    rows = [
        (shown(place), f"{result.places[place].documents:,}", *(f"{each[name]:,}" for name in columns))
        for place, each in zip(result.places, figures, strict=True)
    ]
    for line in _table(rows, ("place", result.counted, *columns), (result.counted, *columns)):
        put_safe(line)
    for line in _verdict(result):
        put(line)
    if with_keys:
        for verdict, keys in result.examples.items():
            for key in keys:
                put(f"  {verdict}: {key}")


_ALWAYS = {"documents": ("equal", "missing", "differing", "too many"), "events": ("equal", "missing")}


def _verdict(result: VerifyResult) -> list[str]:
    lines = []
    if result.repaired:
        lines.append(f"{result.repaired:,} repaired")
    if result.again:
        lines.append(f"{result.again:,} of the events there are deliveries of one that is there already")
    if result.rejected:
        lines.append(f"{result.rejected:,} rejected by a step or the target: docdb-stream dead-letters list")
    if result.is_cut:
        lines.append(
            "so many are not equal that the rest was not looked at: docdb-stream snapshot start "
            f"'{result.stream}' delivers everything, then verify again"
        )
    through = result.verified_through
    if through is not None:
        lines.append(f"equal; verified through {_time(through.as_datetime())} in {_seconds(result.duration_s)}")
    elif result.differing_share is not None:
        lines.append(
            f"0 of {result.documents:,} differ: with 95 % certainty fewer than {100 * result.differing_share:.2g} % of "
            "all do (of what is there by chance, nothing is said of any single document)"
        )
    elif not result.is_equal:
        lines.append("not equal" + ("" if result.count(*DIFFERENCES) else ", as far as could be proven"))
    return [*lines, *(f"note: {note}" for note in result.notes)]


def snapshot_line(snapshot: SnapshotProgress, left_s: float | None = None) -> str:
    """How far a snapshot has come, in a line."""
    line = f"snapshot {snapshot.id} {snapshot.documents:,}"
    if snapshot.share is not None:
        line += f" of about {snapshot.estimate:,} documents ({100 * snapshot.share:.0f} %)"
    else:
        line += " documents"
    if snapshot.is_paused:
        return f"{line}, paused"
    return line if left_s is None else f"{line}, about {_seconds(left_s)} left"


def _table(
    rows: Sequence[tuple[str, ...]],
    columns: Sequence[str] = COLUMNS,
    right: Collection[str] = ("age", "lag", "events"),
) -> list[str]:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD)
    for heading in columns:
        table.add_column(heading, justify="right" if heading in right else "left", no_wrap=True)
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
