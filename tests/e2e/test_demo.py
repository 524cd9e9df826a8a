"""The demo proves what it says, and leaves nothing behind, however it ends."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from docdb_stream.local.process import wait_until

pytestmark = pytest.mark.integration

TARGETS = ("kinesis", "sqs", "kafka", "s3", "opensearch")


@dataclass
class Demo:
    """A running demo, and the means to tell what is left of it."""

    process: subprocess.Popen[str]
    folder: Path
    mark: str

    def wait_for(self, words: str) -> str:
        """Read its output up to the line with these words."""
        assert self.process.stdout is not None
        read = []
        for line in self.process.stdout:
            read.append(line)
            if words in line:
                return "".join(read)
        pytest.fail(f"it ended without {words!r}:\n{''.join(read)}")

    def rest(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.read()

    def assert_nothing_is_left(self) -> None:
        wait_until(lambda: not self._processes(), "no process is left", timeout_s=15)
        assert list(self.folder.iterdir()) == []

    def _processes(self) -> list[str]:
        """Its descendants that still run: they have inherited the mark in their environment."""
        listing = subprocess.run(["ps", "axeww", "-o", "pid=,stat=,args="], capture_output=True, text=True, check=True)
        return [line for line in listing.stdout.splitlines() if self.mark in line]


@contextmanager
def demo(folder: Path, *arguments: str, **variables: str) -> Iterator[Demo]:
    mark = uuid.uuid4().hex
    environment = {**os.environ, "TMPDIR": str(folder), "DEMO_MARK": mark, "PYTHONUNBUFFERED": "1", **variables}
    command = [sys.executable, "-m", "docdb_stream.local.demo", *arguments]
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, process_group=0
    ) as child:
        # Should it hang, its output ends, and with it whatever the test waits for.
        timer = threading.Timer(150, child.kill)
        timer.start()
        try:
            yield Demo(child, folder, f"DEMO_MARK={mark}")
        finally:
            timer.cancel()
            child.kill()


def table(output: str) -> dict[str, list[int]]:
    """Target -> expected, delivered, missing, duplicates, order violations, different, events/s."""
    rows = re.findall(r"^ *(\w+)((?: +[\d,]+){7}) +✓ *$", output, re.MULTILINE)
    return {name: [int(number.replace(",", "")) for number in figures.split()] for name, figures in rows}


def test_it_proves_what_it_says(tmp_path: Path) -> None:
    # What the one who runs it has set up for their own streams plays no part.
    theirs = {"FILE_PATH": str(tmp_path / "theirs"), "BUCKET_NAME": "theirs", "AWS_PROFILE": "theirs"}
    with demo(tmp_path, "--events", "1500", "--seed", "7", **theirs) as running:
        output = running.rest()
        assert running.process.wait() == 0, output
        running.assert_nothing_is_left()
    rows = table(output)
    assert set(rows) == set(TARGETS), output
    for name, (expected, delivered, missing, duplicates, violated, different, events_per_s) in rows.items():
        assert (missing, violated, different) == (0, 0, 0), name
        assert delivered == expected + duplicates, name
        assert events_per_s > 0, name
        assert 0 < expected < 1500 if name == "opensearch" else expected == 1500
    assert rows["kinesis"][3] > 0, "the killed run's events beyond its checkpoint come again"
    assert rows["sqs"][3] == rows["s3"][3] == rows["opensearch"][3] == 0
    assert "Poller killed with SIGKILL" in output
    assert "Proven: 1,500 events" in output


@pytest.mark.parametrize(
    ("moment", "number"),
    [
        ("The shop opens", signal.SIGINT),
        ("Poller killed", signal.SIGTERM),
        pytest.param("docdb-stream demo", signal.SIGINT, marks=pytest.mark.long),
        pytest.param("docdb-stream demo", signal.SIGTERM, marks=pytest.mark.long),
        pytest.param("The shop opens", signal.SIGTERM, marks=pytest.mark.long),
        pytest.param("Poller killed", signal.SIGINT, marks=pytest.mark.long),
        pytest.param("The truth", signal.SIGINT, marks=pytest.mark.long),
        pytest.param("The truth", signal.SIGTERM, marks=pytest.mark.long),
    ],
)
def test_interrupted(tmp_path: Path, moment: str, number: signal.Signals) -> None:
    with demo(tmp_path, "--events", "400") as running:
        running.wait_for(moment)
        if number == signal.SIGINT:
            os.killpg(running.process.pid, number)  # as a terminal does: to all of the foreground's process group
        else:
            running.process.send_signal(number)
        output = running.rest()
        assert running.process.wait() == 130, output
        assert "Traceback" not in output
        assert "Interrupted" in output
        running.assert_nothing_is_left()


def test_killed(tmp_path: Path) -> None:
    with demo(tmp_path, "--events", "400") as running:
        running.wait_for("The shop opens")
        running.process.kill()
        running.process.wait()
        running.assert_nothing_is_left()
