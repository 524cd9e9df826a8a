from __future__ import annotations

import errno
import os
import pty
import subprocess
import sys
from pathlib import Path

import orjson
import pytest

from docdb_stream.errors import TargetError
from docdb_stream.settings import Settings
from docdb_stream.target import Checkable, Target
from docdb_stream.targets.file import FileTarget
from docdb_stream.testing.contract import Delivered, TargetContract
from docdb_stream.testing.events import ChangeLog


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "events.jsonl"


class TestFileTarget(TargetContract):
    @pytest.fixture(autouse=True)
    def place(self, path: Path) -> None:
        self.path = path

    def make_target(self) -> Target:
        return FileTarget(self.path)

    def read_back(self) -> list[Delivered]:
        lines = self.path.read_bytes().splitlines() if self.path.exists() else []
        return [Delivered(orjson.loads(line)["_id"]["_data"], None, line) for line in lines]


def deliver(path: Path, log: ChangeLog) -> bytes:
    """Append one event; return its line."""
    event = log.insert({"_id": 1})
    target = FileTarget(path)
    target.write([event])
    target.flush()
    target.close()
    return event.render("extended") + b"\n"


def test_the_settings_switch_it_on(path: Path) -> None:
    assert FileTarget.from_settings(Settings(documentdb_uri="mongodb://x", file_path=str(path))) is not None


@pytest.mark.parametrize("before", [b"", b'{"whole": 1}\n', b'{"whole": 1}\n' * 9000])
@pytest.mark.parametrize("torn", [b"", b"{", b'{"_id": {"_da', b'{"long": "' + b"x" * 200_000])
def test_a_torn_last_line_is_cut_off(path: Path, log: ChangeLog, before: bytes, torn: bytes) -> None:
    path.write_bytes(before + torn)
    line = deliver(path, log)
    assert path.read_bytes() == before + line


def test_a_whole_last_line_without_its_newline_stays(path: Path, log: ChangeLog) -> None:
    path.write_bytes(b'{"a": 1}\n{"whole": 1}')
    line = deliver(path, log)
    assert path.read_bytes() == b'{"a": 1}\n{"whole": 1}\n' + line


def test_a_write_that_failed_half_way_is_mended(path: Path, log: ChangeLog, monkeypatch: pytest.MonkeyPatch) -> None:
    def fill_up(descriptor: int, data: memoryview) -> int:
        if len(data) < 50:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(descriptor, data[: len(data) // 2])

    first = deliver(path, log)
    target = FileTarget(path)
    event = log.insert({"_id": 2})
    write = os.write
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", fill_up)
        with pytest.raises(TargetError, match="No space left") as caught:
            target.write([event])
    assert caught.value.hint
    assert len(path.read_bytes()) > len(first)
    target.write([event])
    target.close()
    assert path.read_bytes() == first + event.render("extended") + b"\n"


def test_a_missing_folder_is_not_created(tmp_path: Path, log: ChangeLog) -> None:
    target = FileTarget(tmp_path / "missing" / "events.jsonl")
    assert isinstance(target, Checkable)
    with pytest.raises(TargetError, match="missing") as caught:
        target.check()
    assert "not created" in caught.value.hint
    with pytest.raises(TargetError, match="No such file"):
        target.write(log.inserts(1))
    assert not (tmp_path / "missing").exists()


def test_a_folder_is_no_file(tmp_path: Path, log: ChangeLog) -> None:
    target = FileTarget(tmp_path)
    with pytest.raises(TargetError):
        target.check()
    with pytest.raises(TargetError):
        target.write(log.inserts(1))


def test_checking_creates_nothing(path: Path) -> None:
    FileTarget(path).check()
    assert not path.exists()


def test_a_failed_fsync_is_an_error(path: Path, log: ChangeLog, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(descriptor: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    target = FileTarget(path)
    target.write(log.inserts(1))
    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(TargetError, match="Input/output"):
        target.flush()


def test_a_file_has_one_writer(path: Path, log: ChangeLog) -> None:
    """Another one would take a line in the making for a torn one, and cut it off."""
    first, second = FileTarget(path), FileTarget(path)
    event = log.insert({"_id": 1})
    first.write([event])
    with pytest.raises(TargetError, match="another stream or process") as caught:
        second.write([event])
    assert "FILE_PATH" in caught.value.hint
    first.flush()
    first.close()
    second.write([event])
    second.flush()
    second.close()
    assert path.read_bytes() == 2 * (event.render("extended") + b"\n")


def test_a_file_has_one_writer_among_processes(path: Path, log: ChangeLog) -> None:
    holder = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys; from docdb_stream.targets.file import FileTarget; "
            "from docdb_stream.testing.events import ChangeLog; "
            "FileTarget(sys.argv[1]).write(ChangeLog().inserts(1)); print('open', flush=True); sys.stdin.read()",
            str(path),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"open\n"
        target = FileTarget(path)
        with pytest.raises(TargetError, match="another stream or process"):
            target.write(log.inserts(1))
        holder.kill()
        holder.wait(30)
        target.write(log.inserts(1))
        target.close()


def test_a_file_system_without_locks_is_written_all_the_same(
    path: Path, log: ChangeLog, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", refuse)
    deliver(path, log)
    assert "not locked" in caplog.text


# What is no regular file


@pytest.mark.parametrize("place", ["/dev/null", "pipe", "terminal", "link to /dev/null"])
def test_what_is_no_regular_file_takes_events(place: str, tmp_path: Path, log: ChangeLog) -> None:
    name, reader = tmp_path / "events", None
    if place == "pipe":
        os.mkfifo(name)
        reader = os.open(name, os.O_RDONLY | os.O_NONBLOCK)
    elif place == "terminal":
        reader, terminal = pty.openpty()
        name.symlink_to(os.ttyname(terminal))
    else:
        name.symlink_to("/dev/null")
    target = FileTarget("/dev/null" if place == "/dev/null" else name)
    target.check()
    for event in log.inserts(2):
        assert target.write([event]) == []
        assert target.flush() == ()
    target.close()
    if reader is not None:
        text = b""
        while text.count(b"\n") < 2:
            text += os.read(reader, 65536)
        assert [orjson.loads(line)["operationType"] for line in text.splitlines()] == ["insert"] * 2
        os.close(reader)


def test_a_pipe_that_nobody_reads_is_told_and_not_waited_for(tmp_path: Path, log: ChangeLog) -> None:
    os.mkfifo(tmp_path / "events")
    target = FileTarget(tmp_path / "events")
    with pytest.raises(TargetError, match="cannot write") as caught:
        target.write(log.inserts(1))
    assert "nobody reads" in caught.value.hint
    reader = os.open(tmp_path / "events", os.O_RDONLY | os.O_NONBLOCK)
    target.write(log.inserts(1))
    os.close(reader)
    with pytest.raises(TargetError) as caught:
        target.write(log.inserts(1))
    assert "nobody reads" in caught.value.hint


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")
def test_a_full_device_fails(log: ChangeLog) -> None:
    target = FileTarget("/dev/full")
    with pytest.raises(TargetError, match="No space left"):
        target.write(log.inserts(1))


@pytest.mark.parametrize("stdout", [subprocess.PIPE, subprocess.DEVNULL])
def test_standard_output_by_its_path(stdout: int) -> None:
    code = """
from docdb_stream.targets.file import FileTarget
from docdb_stream.testing.events import ChangeLog
target = FileTarget("/dev/stdout")
target.check()
target.write(ChangeLog().inserts(3))
target.flush()
target.close()
"""
    done = subprocess.run([sys.executable, "-c", code], stdout=stdout, stderr=subprocess.PIPE, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert stdout != subprocess.PIPE or len(done.stdout.splitlines()) == 3
