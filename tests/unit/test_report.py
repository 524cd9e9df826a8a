"""How a run and a stream's beginning are told, and what goes to which of the standard streams."""

from __future__ import annotations

import datetime as dt
import json
from typing import Any

import pytest
from bson import Timestamp

from docdb_stream.admin.status import StreamStatus
from docdb_stream.checkpoint import Checkpoint
from docdb_stream.cli.outcome import say_result
from docdb_stream.cli.screen import Screen, StreamWatcher, beginning
from docdb_stream.cli.table import COLUMNS, print_status
from docdb_stream.errors import SourceUnavailableError, TargetError
from docdb_stream.events import Position
from docdb_stream.result import RunResult, TargetFigures
from docdb_stream.settings import Settings

Captured = pytest.CaptureFixture[str]


def settings(**values: Any) -> Settings:
    return Settings(documentdb_uri="mongodb://127.0.0.1", watched_db_name="shop", **values)


@pytest.mark.parametrize(
    ("result", "told"),
    [
        (
            RunResult("s", events=1, loops=1, checkpoints=1, caught_up=True, stopped_by="caught-up"),
            "s: 1 event in 1 loop, 1 checkpoint, caught up after 0.0 s",
        ),
        (
            RunResult("s", events=1203, loops=2, checkpoints=0, caught_up=True, stopped_by="signal", duration_s=2.34),
            "s: 1,203 events in 2 loops, 0 checkpoints, caught up; ended by a signal after 2.3 s",
        ),
        (
            RunResult("s", events=45_000, loops=45, checkpoints=3, lag_s=61.0, stopped_by="max-loop"),
            "s: 45,000 events in 45 loops, 3 checkpoints, not caught up, 61 s behind, more is waiting; "
            "ended by MAX_LOOP=45 (0 is no limit) after 0.0 s",
        ),
        (
            RunResult("s", stopped_by="deadline"),
            "s: 0 events in 0 loops, 0 checkpoints, not caught up, more is waiting; ended by the timeout after 0.0 s",
        ),
    ],
)
def test_a_result_in_one_line(result: RunResult, told: str, capsys: Captured) -> None:
    say_result(result, settings())
    assert capsys.readouterr() == ("", told + "\n")


def test_a_results_targets_and_rejections(capsys: Captured) -> None:
    figures = {"kafka": TargetFigures(events=1202, rejections=1)}
    say_result(RunResult("s", rejections=1, targets=figures), settings())
    assert capsys.readouterr().err.splitlines()[1:] == [
        "  kafka: 1,202 delivered, 1 rejected",
        "  1 event put into the dead letters: docdb-stream dead-letters list",
    ]


@pytest.mark.parametrize(
    ("began_at", "values", "told"),
    [
        ("start-at", {}, "shop.*: new stream, starts now; START_AT=earliest for the past"),
        ("start-at", {"start_at": "earliest"}, "shop.*: new stream, starts earliest"),
        ("start-at", {"start_at": dt.datetime(2026, 1, 2, tzinfo=dt.UTC)}, "starts at 2026-01-02T00:00:00+00:00"),
        ("sample", {}, "shop.*: new stream, goes on where the AWS sample stopped"),
        ("checkpoint", {}, ""),
        ("checkpoint", {"start_at": "earliest"}, "shop.*: goes on from its checkpoint, START_AT=earliest is for a new"),
        ("checkpoint", {"start_at": "earliest"}, "docdb-stream reset 'shop.*' --to earliest"),
        ("", {}, ""),
    ],
)
def test_where_a_stream_begins(began_at: str, values: dict[str, Any], told: str) -> None:
    assert told in (found := beginning(RunResult("s", began_at=began_at), settings(**values)))
    assert bool(found) == bool(told)


def test_where_a_stream_begins_is_told_once_and_not_beside_json(capsys: Captured) -> None:
    stream = settings()
    for notices in (True, False):
        with Screen([stream], as_json=not notices) as screen:
            watcher = StreamWatcher(screen, stream, notices)
            for _ in range(2):
                watcher.progress(RunResult("shop.*", began_at="start-at"))
    assert capsys.readouterr().err.count("new stream") == 1


def test_waiting_is_told_with_what_for_since_when_and_what_to_do(capsys: Captured) -> None:
    stream = settings()
    with Screen([stream], as_json=False) as screen:
        watcher = StreamWatcher(screen, stream, notices=True)
        watcher.waiting(TargetError("kafka", "no broker\x1b[2J", hint="start one"), 60.0)
        watcher.goes_on(81.4)
        watcher.waiting(SourceUnavailableError("no usable server"), 0.0)
    first, second, third = capsys.readouterr().err.splitlines()
    assert first.startswith("shop.*: waiting for target kafka; since ")
    assert first.endswith(r": target kafka: no broker\x1b[2J (start one)")
    assert second == "shop.*: goes on after 81 s"
    assert third.startswith("shop.*: waiting for the cluster; since ")


@pytest.mark.parametrize("values", [{"stdout": True}, {"file_path": "/dev/stdout"}, {"file_path": "x"}])
def test_standard_output_has_events_or_the_report(values: dict[str, Any], capsys: Captured) -> None:
    with Screen([settings(**values)], as_json=True) as screen:
        screen.report({"a": 1})
    out, err = capsys.readouterr()
    assert json.loads(err if values != {"file_path": "x"} else out) == {"a": 1}
    assert "" in (out, err)


class Terminal:
    """Standard output or error as a terminal."""

    encoding = "utf-8"

    def __init__(self) -> None:
        self.text = ""

    def write(self, text: str) -> int:
        self.text += text
        return len(text)

    def flush(self) -> None: ...

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("values", "as_json", "moves"),
    [({}, False, True), ({"stdout": True}, False, False), ({}, True, False)],
)
def test_a_line_moves_where_nothing_else_arrives_on_the_same_terminal(
    values: dict[str, Any], as_json: bool, moves: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, err = Terminal(), Terminal()
    monkeypatch.setattr("sys.stdout", out)
    monkeypatch.setattr("sys.stderr", err)
    stream = settings(**values)
    with Screen([stream], as_json) as screen:
        at = Position(operation_time=Timestamp(1_700_000_000, 1))
        screen.progress(RunResult("a[/b]\x1b", read=1203, checkpoints=1, position=at))
    assert ("1,203 events read" in err.text) == moves
    assert "s behind" in err.text or not moves
    with Screen([stream], as_json) as screen:
        screen.waiting("a[/b]", "target [/x]\x1b[2J")
    assert ("waiting for target [/x]\\x1b[2J" in err.text) == moves
    with Screen([stream], as_json) as screen:
        screen.say("[/b] above it\x1b[2J")
    assert "[/b] above it\\x1b[2J" in err.text
    assert out.text == ""


# Status


def statuses(*names: str) -> list[StreamStatus]:
    now = dt.datetime(2026, 1, 2, 3, 4, 5, tzinfo=dt.UTC)
    found = [
        Checkpoint(
            name,
            position=Position(operation_time=Timestamp(1_767_323_000, 1)),
            updated_at=now,
            owner="a-rather-long-host-name.example:12345:0123456789ab",
            expires_at=now + dt.timedelta(seconds=42),
            events=1203,
        )
        for name in names
    ]
    return [StreamStatus(each.stream, each, Timestamp(1_767_323_045, 1), now) for each in found]


HOSTILE = ["[/red]", "[bold]x", "a\x1b[2Jb", ":smile:", "two\nlines", "a" * 120]


def test_names_in_the_table_are_whole_and_harmless(capsys: Captured) -> None:
    print_status(statuses(*HOSTILE))
    out = capsys.readouterr().out
    for name in ("[/red]", "[bold]x", r"a\x1b[2Jb", ":smile:", r"two\nlines", "a" * 120):
        assert f" {name} " in out
    assert "\x1b" not in out
    assert "…" not in out


@pytest.mark.parametrize("columns", [40, 80, 400])
def test_nothing_is_cut_on_a_terminal(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr("sys.stdout", terminal)
    monkeypatch.setenv("COLUMNS", str(columns))
    print_status(statuses("orders", "[/red]\x1b"))
    assert "…" not in terminal.text
    assert terminal.text.count("2026-01-02 03:04:05Z") == 2
    assert terminal.text.count("a-rather-long-host-name.example:12345:0123456789ab for 42 s") == 2
    assert ("\n  position  " in terminal.text) == (columns < 400)
    assert "\x1b[/" not in terminal.text
    for word in COLUMNS[1:]:
        assert word in terminal.text
    assert "age: " in terminal.text
    assert "lag: " in terminal.text
