"""``docdb-stream tail``: what is shown of events, and where it stands."""

from __future__ import annotations

import io
import json
import os
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import pytest
from rich.cells import cell_len
from typer.testing import CliRunner

from docdb_stream.admin.tail import Seen, Tailing
from docdb_stream.cli import tail as cli_tail
from docdb_stream.cli.commands import app
from docdb_stream.cli.document import cut, document_lines
from docdb_stream.cli.tail import _JsonLines, _Lines
from docdb_stream.errors import SourceUnavailableError
from docdb_stream.events import ChangeEvent, Rejection
from docdb_stream.settings import Settings
from docdb_stream.testing.events import ChangeLog
from docdb_stream.testing.source import ABORT, EMPTY, ScriptedSource

LOG = ChangeLog()
EVENTS = LOG.inserts(5)
HOSTILE = {**LOG.hostile(), **{f"operation {event.operation}": event for event in LOG.every_operation()}}
EVIL = "\x1b[31mred\x1b]0;title\x07\x9b2J\nforged  insert\r\u202e漢字"


class Terminal(io.StringIO):
    """Standard output that a person looks at."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.delenv("NO_COLOR", raising=False)
    return Terminal()


def safe(text: str) -> str:
    """The lines, once it is sure that nothing in them acts on a terminal."""
    assert all(line.isprintable() for line in text.split("\n")), ascii(text)
    return text


def plain(terminal: Terminal) -> list[str]:
    """What a terminal shows, without our own colours."""
    text = terminal.getvalue()
    for colour in (31, 32, 33, 35, 36):
        text = text.replace(f"\x1b[{colour}m\x1b[1m", "")
    return safe(text.replace("\x1b[0m", "")).splitlines()


# Documents


@pytest.mark.parametrize("event", HOSTILE.values(), ids=HOSTILE)
@pytest.mark.parametrize("all_fields", [False, True])
def test_no_document_acts_on_the_terminal_or_is_wider(event: ChangeEvent, all_fields: bool, terminal: Terminal) -> None:
    with redirect_stdout(terminal):
        _Lines(all_fields).event(event)
    lines = plain(terminal)
    assert lines[0].startswith("2026-01-31 ")
    if not all_fields:
        assert max(map(cell_len, lines)) <= 60


def test_names_and_values_of_others_are_neutralised(terminal: Terminal) -> None:
    event = ChangeLog(coll=EVIL).update({"_id": EVIL, EVIL: {EVIL: EVIL}}, {EVIL: EVIL, "plain": EVIL})
    with redirect_stdout(terminal):
        for lines in (_Lines(False), _Lines(True)):
            lines.event(event)
            lines.rejection(Rejection(event, "step", EVIL))
    heads = [line for line in plain(terminal) if not line.startswith(" ")]
    assert len(heads) == 4, "nothing looks like an event that is none"


def test_a_piped_line_is_whole_and_has_no_colours(capsys: pytest.CaptureFixture[str]) -> None:
    _Lines(False).event(LOG.insert({"_id": 1, "note": "x" * 500}))
    out = safe(capsys.readouterr().out)
    head, _id, note = out.splitlines()
    assert head.startswith("2026-01-31 ")
    assert head.endswith('  insert    shop.orders  {"_id":1}')
    assert (_id, note) == ("    _id: 1", f'    note: "{"x" * 500}"')


def test_no_color_is_respected(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    with redirect_stdout(terminal):
        _Lines(False).event(EVENTS[0])
        assert "\x1b[32m" in terminal.getvalue()
        monkeypatch.setenv("NO_COLOR", "1")
        terminal.truncate(0)
        _Lines(False).event(EVENTS[0])
        assert "\x1b" not in terminal.getvalue()


def test_of_an_update_what_changed_or_all_of_it(capsys: pytest.CaptureFixture[str]) -> None:
    event = LOG.event(
        "update",
        7,
        fullDocument={"_id": 7, "status": "paid", "total": 3},
        updateDescription={
            "updatedFields": {"status": "paid"},
            "removedFields": ["note"],
            "truncatedArrays": [{"field": "items", "newSize": 2}],
        },
    )
    _Lines(False).event(event)
    assert capsys.readouterr().out.splitlines()[1:] == [
        '    status: "paid"',
        "    note (removed)",
        "    items (cut to 2 elements)",
    ]
    _Lines(True).event(event)
    assert '    status: "paid"\n    total: 3' in capsys.readouterr().out


@pytest.mark.parametrize("event", HOSTILE.values(), ids=HOSTILE)
def test_json_is_extended_json_on_one_safe_line(event: ChangeEvent, capsys: pytest.CaptureFixture[str]) -> None:
    _JsonLines().event(event)
    captured = capsys.readouterr()
    if not captured.out:
        assert "cannot be rendered" in captured.err
        return
    line, end = safe(captured.out).split("\n")
    assert end == ""
    assert json.loads(line) == json.loads(event.render("extended"))


def test_json_has_nothing_but_events(capsys: pytest.CaptureFixture[str]) -> None:
    _JsonLines().rejection(Rejection(EVENTS[0], "transform", "raised KeyError"))
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "rejected by transform: raised KeyError" in captured.err


def test_nested_documents_stand_on_lines_of_their_own_where_they_do_not_fit() -> None:
    value = {"a": {"b": [1, {"c": "x" * 30}]}, "e": {}, "odd name": [1, 2]}
    assert [*document_lines(value, 200)] == [
        'a: {"b": [1, {"c": "' + "x" * 30 + '"}]}',
        "e: {}",
        '"odd name": [1, 2]',
    ]
    assert [*document_lines(value, 30)] == [
        "a:",
        "  b:",
        "    - 1",
        "    -",
        '      c: "' + "x" * 30 + '"',
        "e: {}",
        '"odd name": [1, 2]',
    ]


@pytest.mark.parametrize("width", [1, 2, 3, 7, 10])
def test_a_line_is_cut_by_columns_and_not_by_characters(width: int) -> None:
    assert cell_len(cut("漢字漢字漢字", width)) <= max(width, 2)
    assert cut("short", 10) == "short"


# Where it stands


def shown_by(source: ScriptedSource, **settings: Any) -> tuple[Tailing, list[Seen]]:
    seen: list[Seen] = []

    def show(found: Seen) -> bool:
        seen.append(found)
        return sum(len(each.events) for each in seen) < 5 and len(seen) < 50

    return Tailing(Settings(documentdb_uri="mongodb://x", **settings), source, "earliest", show), seen


def test_it_goes_on_where_it_was_after_trouble() -> None:
    source = ScriptedSource([*EVENTS[:2], ABORT, EMPTY, *EVENTS[2:]], batch_size=2)
    tailing, seen = shown_by(source)
    with pytest.raises(SourceUnavailableError):
        tailing.attempt(lambda result: None)
    tailing.attempt(lambda result: None)
    assert [event.event_id for each in seen for event in each.events] == [event.event_id for event in EVENTS]
    assert seen[0] == Seen(), "that it is open is told before the first wait"


def drop_odd(event: ChangeEvent) -> Any:
    number = event.document["documentKey"]["_id"]
    if number == 3:
        raise ValueError
    return None if number % 2 else event


def test_the_steps_of_the_stream_are_applied_and_no_target_is_needed() -> None:
    tailing, seen = shown_by(ScriptedSource(EVENTS), transform=f"{__name__}:drop_odd")
    tailing._show = lambda found: not seen.append(found) and len(seen) < 2  # type: ignore[func-returns-value]
    tailing.attempt(lambda result: None)
    assert [event for each in seen for event in each.events] == EVENTS[::2]
    assert [rejection.event for each in seen for rejection in each.rejected] == EVENTS[3:4]
    assert seen[1].filtered == {"transform": 1}


def test_the_end_of_a_pipe_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    reads, writes = os.pipe()
    with os.fdopen(writes, "w") as out:
        monkeypatch.setattr("sys.stdout", out)
        assert not cli_tail._is_unread()
        os.close(reads)
        assert cli_tail._is_unread()


# The command


@pytest.fixture
def two_streams(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "[docdb-stream]\ndocumentdb_uri = mongodb://x\n[stream a]\nwatched_db_name = a\n[stream b]\n"
    (tmp_path / "config.ini").write_text(text, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cli_tail, "log_to_stderr", lambda verbose: None)  # this process has other tests


@pytest.mark.usefixtures("two_streams")
@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], "hint: name one with --stream: a, b"),
        (["-s", "a", "--since", "yesterday"], "error: --since: expected now, earliest"),
        (["-s", "none"], "error: there is no stream none"),
    ],
)
def test_a_mistake_is_told_before_the_cluster_is_asked(arguments: list[str], told: str) -> None:
    done = CliRunner().invoke(app, ["tail", *arguments])
    assert done.exit_code == 2
    assert told in done.stderr


@pytest.mark.usefixtures("two_streams")
def test_options_win_over_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Settings] = []
    monkeypatch.setattr(cli_tail, "watch", lambda settings, *rest, **more: seen.append(settings))
    monkeypatch.setattr(cli_tail, "stop_on_signals", lambda stop: None)
    monkeypatch.setenv("OPERATIONS", "insert")
    query = '{"fullDocument.total": {"$gte": 100}}'
    rules = ["--operations", "update, delete", "--namespaces", "a.b*", "--match", query]
    done = CliRunner().invoke(app, ["tail", "-s", "a", *rules])
    assert done.exit_code == 0, done.output
    [settings] = seen
    assert (settings.operations, settings.namespaces) == (("update", "delete"), ("a.b*",))
    assert "fullDocument.total" in str(settings.match)
