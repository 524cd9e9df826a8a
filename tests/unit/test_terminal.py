"""What reaches a terminal is safe for it, and what cannot be written is told."""

from __future__ import annotations

import json
import logging
import sys
from typing import Any

import pytest

from docdb_stream.cli import terminal
from docdb_stream.cli.terminal import OutputError, json_line, put, put_json, say, shown

HOSTILE = [
    "\x1b[31mred",
    "\x1b]0;title\x07",
    "\x9b2J",
    "two\nlines",
    "back\rwards",
    "\x00\x08\x7f",
    "\u202egnp.exe",
    "\u2066\u200b\u2028",
    "\ud800",
    "\U000e0001",
]


@pytest.mark.parametrize("text", HOSTILE, ids=ascii)
def test_nothing_that_acts_on_a_terminal_is_shown(text: str) -> None:
    assert shown(text).isprintable()
    assert shown(text) != text


@pytest.mark.parametrize("text", ["shop.orders", "Größe 漢字 🛒", "[red]no markup[/red]", ":smile:", ""])
def test_all_else_is_shown_as_it_is(text: str) -> None:
    assert shown(text) == text


@pytest.mark.parametrize("text", [text for text in HOSTILE if text != "\ud800"], ids=ascii)
def test_json_is_safe_and_means_the_same(text: str) -> None:
    line = json_line({text: [text, "ü"]})
    assert line.isprintable()
    assert "ü" in line
    assert json.loads(line) == {text: [text, "ü"]}


def test_the_log_is_safe_too(capsys: pytest.CaptureFixture[str]) -> None:
    record = logging.LogRecord("docdb_stream", logging.WARNING, "", 1, "stream %s", ("a\x1b[2Jb\nerror: c",), None)
    assert terminal._SafeFormatter("%(message)s").format(record) == r"stream a\x1b[2Jb\nerror: c"


def test_so_is_what_an_error_in_it_says() -> None:
    """What a function of the user's own raises can hold what is in a document."""
    try:
        raise ValueError("a\x1b[2Jb\rc")
    except ValueError:
        record = logging.LogRecord("docdb_stream", logging.DEBUG, "", 1, "raised", (), sys.exc_info())
    lines = terminal._SafeFormatter("%(message)s").format(record).split("\n")
    assert lines[0] == "raised"
    assert lines[-1] == r"ValueError: a\x1b[2Jb\rc"
    assert all(line.isprintable() for line in lines)


class Full:
    """A stream whose disk is full."""

    encoding = "utf-8"

    def write(self, text: str) -> int:
        raise OSError(28, "No space left on device")

    def flush(self) -> None:
        raise OSError(28, "No space left on device")


class Closed(Full):
    def write(self, text: str) -> int:
        raise ValueError("I/O operation on closed file")


def test_standard_output_that_takes_nothing_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", Full())
    with pytest.raises(OutputError, match="standard output: No space left on device"):
        put("x")
    monkeypatch.setattr(sys, "stdout", None)
    with pytest.raises(OutputError, match="standard output is closed"):
        put_json({})


@pytest.mark.parametrize("stream", [Full(), Closed(), None])
def test_standard_error_that_takes_nothing_is_none(monkeypatch: pytest.MonkeyPatch, stream: Any) -> None:
    monkeypatch.setattr(sys, "stderr", stream)
    say("x")
