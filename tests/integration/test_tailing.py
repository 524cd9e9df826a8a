"""``docdb-stream tail`` on a real server: what arrives, what is left behind (nothing), and how it ends."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pymongo import MongoClient

from docdb_stream.local import ReplicaSet

pytestmark = pytest.mark.integration

WAIT_S = 60
"""Enough for a process to start, and to end, on a busy machine."""


class Tail:
    """A ``docdb-stream tail`` that watches; its lines come one by one."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self._limit = threading.Timer(WAIT_S, process.kill)  # what never comes must not be waited for
        self._limit.start()
        assert process.stdout
        assert process.stderr
        self.said = process.stderr.readline()
        assert self.said.startswith("watching "), self.said + process.stderr.read()

    def line(self) -> str:
        assert self.process.stdout
        return self.process.stdout.readline()

    def ended(self) -> tuple[int, str]:
        """Its exit code, and all else that it said."""
        assert self.process.stderr
        said = self.process.stderr.read()
        code = self.process.wait(WAIT_S)
        self._limit.cancel()
        return code, said


@pytest.fixture
def environment(replica_set: ReplicaSet, db_name: str) -> dict[str, str]:
    """A stream without a target."""
    return {"DOCUMENTDB_URI": replica_set.uri, "WATCHED_DB_NAME": db_name}


@pytest.fixture
def tail(cli: Any, environment: dict[str, str]) -> Iterator[Callable[..., Tail]]:
    started: list[Tail] = []

    def start(*arguments: str, **more: str) -> Tail:
        started.append(Tail(cli.start("tail", *arguments, **environment, **more)))
        return started[-1]

    yield start
    for each in started:
        each._limit.cancel()


def test_it_shows_what_happens_and_leaves_nothing_behind(
    tail: Callable[..., Tail], mongo: MongoClient[dict[str, Any]], db_name: str
) -> None:
    before = {*mongo.list_database_names()}
    watching = tail("--json")
    orders = mongo[db_name].orders
    orders.insert_one({"_id": 1, "total": 3, "note": "\x1b[31m\u202e"})
    orders.update_one({"_id": 1}, {"$set": {"total": 4}})
    orders.delete_one({"_id": 1})
    found = [json.loads(watching.line()) for _ in range(3)]
    assert [each["operationType"] for each in found] == ["insert", "update", "delete"]
    assert found[0]["fullDocument"]["note"] == "\x1b[31m\u202e"
    watching.process.send_signal(signal.SIGTERM)
    assert watching.ended() == (0, "")
    assert {*mongo.list_database_names()} - before == {db_name}


def test_it_begins_where_it_is_told_ends_after_so_many_and_applies_the_function(
    cli: Any, environment: dict[str, str], mongo: MongoClient[dict[str, Any]], db_name: str
) -> None:
    Path(cli.folder, "made_rules.py").write_text(
        "def change(event):\n"
        '    number = event.document["documentKey"]["_id"]\n'
        "    if number == 1:\n"
        '        raise ValueError("tr0ub4dor")\n'
        '    event.full_document["seen"] = True\n'
        "    return event if number % 2 == 0 else None\n",
        encoding="utf-8",
    )
    mongo[db_name].orders.insert_many([{"_id": number} for number in range(20)])
    done = cli.run("tail", "--since", "earliest", "-n", "5", **environment, TRANSFORM="made_rules:change")
    assert done.returncode == 0, done.stderr
    heads = [line for line in done.stdout.splitlines() if not line.startswith(" ")]
    assert [line.split()[-1] for line in heads if "insert" in line] == [f'{{"_id":{n}}}' for n in (0, 2, 4, 6, 8)]
    assert done.stdout.count("    seen: true") == 5
    assert "tr0ub4dor" not in done.stdout + done.stderr


def test_ctrl_c_ends_it(tail: Callable[..., Tail]) -> None:
    watching = tail()
    watching.process.send_signal(signal.SIGINT)
    assert watching.ended() == (0, "")


def test_it_ends_when_nobody_reads_any_more(
    tail: Callable[..., Tail], mongo: MongoClient[dict[str, Any]], db_name: str
) -> None:
    """As with ``| head -1``: at once, not with the next event."""
    watching = tail()
    mongo[db_name].orders.insert_one({"_id": 1})
    assert "insert" in watching.line()
    assert watching.process.stdout
    watching.process.stdout.close()
    assert watching.ended() == (0, "")


def test_on_a_terminal_it_has_colours_and_nothing_else_acts(
    replica_set: ReplicaSet, mongo: MongoClient[dict[str, Any]], db_name: str, cli: Any, environment: dict[str, str]
) -> None:
    mongo[db_name].orders.insert_one({"_id": 1, "note": "\x1b]0;title\x07" + "x" * 300})
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "docdb_stream.cli", "tail", "--since", "earliest", "-n", "1"],
        cwd=cli.folder,
        env={**os.environ, **environment, "COLUMNS": "50", "TERM": "xterm"},
        stdout=theirs,
        stderr=subprocess.DEVNULL,
    )
    os.close(theirs)
    limit = threading.Timer(WAIT_S, process.kill)
    limit.start()
    shown = b""
    try:
        while chunk := os.read(ours, 65_536):
            shown += chunk
    except OSError:  # how Linux says that the other end was closed
        pass
    assert process.wait(WAIT_S) == 0
    limit.cancel()
    os.close(ours)
    head, *body = shown.decode().splitlines()
    assert head.startswith("\x1b[32m\x1b[1m")
    assert body[-1] == r'    note: "\u001b]0;title\u0007' + "x" * (50 - 31 - 1) + "…"


def test_a_cluster_that_is_away_is_told_and_waited_for(cli: Any) -> None:
    uri = "mongodb://127.0.0.1:9/?serverSelectionTimeoutMS=200&replicaSet=rs0"
    process = cli.start("tail", DOCUMENTDB_URI=uri, WATCHED_DB_NAME="shop")
    limit = threading.Timer(WAIT_S, process.kill)
    limit.start()
    said = process.stderr.readline()
    assert said.startswith("shop.*: waiting for the cluster: "), said + process.stderr.read()
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=WAIT_S)
    limit.cancel()
    assert process.returncode == 0, err
    assert "Traceback" not in err
    assert out == ""
