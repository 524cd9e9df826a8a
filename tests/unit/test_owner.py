"""Whether the process that holds a lease is provably gone, and everything that is no proof."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from docdb_stream import owner
from docdb_stream.owner import is_gone, owner_name, this_process

linux = pytest.mark.skipif(sys.platform != "linux", reason="there is no proof elsewhere")

CODE = (
    "import json; from docdb_stream.owner import this_process; print(json.dumps(this_process()), flush=True); input()"
)


class Other:
    """Another process of this machine, and what it says of itself."""

    def __init__(self) -> None:
        self.process = subprocess.Popen([sys.executable, "-c", CODE], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self.process.stdout is not None
        self.described: dict[str, Any] = json.loads(self.process.stdout.readline())

    def state(self) -> str:
        return Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()[0]

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def other() -> Iterator[Other]:
    found = Other()
    yield found
    found.close()


def test_a_name_says_where_and_is_unique() -> None:
    assert f":{os.getpid()}:" in owner_name()
    assert owner_name() != owner_name()


@linux
def test_this_process_runs() -> None:
    described = this_process()
    assert described is not None
    assert json.loads(json.dumps(described)) == described
    assert not is_gone(described)


@linux
def test_a_process_that_has_ended_is_gone(other: Other) -> None:
    assert not is_gone(other.described)
    other.close()
    assert is_gone(other.described)


@linux
def test_a_killed_process_that_nobody_has_waited_for_is_gone(other: Other) -> None:
    other.process.kill()
    give_up_at_s = time.monotonic() + 20
    while other.state() != "Z":
        assert time.monotonic() < give_up_at_s
        time.sleep(0.01)
    assert is_gone(other.described)


@linux
def test_a_stopped_process_is_not_gone(other: Other) -> None:
    other.process.send_signal(signal.SIGSTOP)
    give_up_at_s = time.monotonic() + 20
    while other.state() != "T":
        assert time.monotonic() < give_up_at_s
        time.sleep(0.01)
    assert not is_gone(other.described)
    other.process.send_signal(signal.SIGCONT)


@linux
def test_a_process_id_that_is_used_again_is_no_trap() -> None:
    described = this_process()
    assert described is not None
    assert is_gone({**described, "started": str(int(described["started"]) - 1)})


@linux
@pytest.mark.parametrize(
    "difference",
    [
        {"boot": "another boot, or another machine"},
        {"namespaces": "pid:[4026532000]"},
        {"host": "another-host"},
        {"pid": 0},
        {"pid": -1},
        {"pid": True},
        {"pid": "1"},
        {"pid": None},
        {"started": None},
    ],
)
def test_what_cannot_be_compared_proves_nothing(other: Other, difference: dict[str, Any]) -> None:
    other.close()
    assert is_gone(other.described)
    assert not is_gone({**other.described, **difference})


@pytest.mark.parametrize("described", [None, {}, "host:1:0123456789ab", [], {"pid": 1}])
def test_an_owner_that_is_not_described_is_not_gone(described: object) -> None:
    assert not is_gone(described)


@linux
def test_a_process_of_another_user_that_is_hidden_is_not_gone(other: Other, monkeypatch: pytest.MonkeyPatch) -> None:
    """/proc may be mounted with hidepid: only the signal tells that something is there."""

    def refuse(pid: int, number: int) -> None:
        raise PermissionError

    stat = owner._stat

    def hidden(pid: int) -> list[str]:
        if pid == other.process.pid:
            raise FileNotFoundError
        return stat(pid)

    monkeypatch.setattr(owner.os, "kill", refuse)
    monkeypatch.setattr(owner, "_stat", hidden)
    assert not is_gone(other.described)


@linux
def test_a_first_thread_that_ended_before_the_others_is_not_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    described, stat = this_process(), owner._stat
    assert described is not None
    for threads, gone in (("1", True), ("2", False)):

        def of_a_zombie(pid: int, threads: str = threads) -> list[str]:
            found = stat(pid)
            found[owner._STATE], found[owner._THREADS] = "Z", threads
            return found

        monkeypatch.setattr(owner, "_stat", of_a_zombie)
        assert is_gone(described) is gone


@linux
def test_there_is_no_proof_in_lambda(other: Other, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its machines may be copies of one snapshot, the boot's id and the process ids included."""
    other.close()
    monkeypatch.setenv("AWS_LAMBDA_FUNCTION_NAME", "poller")
    assert this_process() is None
    assert not is_gone(other.described)


def test_there_is_no_proof_where_there_is_no_proc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(owner, "_PROC", tmp_path)
    assert this_process() is None
    assert not is_gone({"host": owner.socket.gethostname(), "boot": "", "namespaces": "", "pid": 1, "started": "1"})


@linux
def test_there_is_no_proof_with_the_proc_of_another_namespace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "self").symlink_to("1234567")
    monkeypatch.setattr(owner, "_PROC", tmp_path)
    assert this_process() is None
