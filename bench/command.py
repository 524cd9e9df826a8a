"""``docdb-stream run`` as a process of its own: what it printed, what it cost, and a target for it."""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from docdb_stream.events import ChangeEvent
from docdb_stream.format import Format
from docdb_stream.formats.extended import EXTENDED
from docdb_stream.target import Rejection

REPOSITORY = Path(__file__).parent.parent
ENTRY_POINTS = {"discard": "bench.command:Discard", "kinesis-5-mib": "bench.memory:LocalKinesisTarget"}
"""Targets of the benchmarks, for EXTRA_TARGETS."""

# A process starts with the peak of the one that made it (getrusage(2) counts from there, in KiB on Linux), and this one
# holds the documents. So a small one stands between.
_LAUNCHER = """
import json, os, sys
usage, *command = sys.argv[1:]
_, status, used = os.wait4(os.posix_spawn(command[0], command, os.environ), 0)
with open(usage, "w") as file:
    json.dump([used.ru_utime + used.ru_stime, used.ru_maxrss], file)
sys.exit(os.waitstatus_to_exitcode(status))
"""


@dataclass(frozen=True)
class Finished:
    """A run that is over.

    Attributes:
        results: What it printed, one result for each stream.
        cpu_s: User and system time of the process, its start included.
        peak_mib: The most memory that it had resident.
        took_s: Its whole life.
    """

    results: list[dict[str, Any]]
    cpu_s: float
    peak_mib: float
    took_s: float

    @property
    def events(self) -> int:
        """Events delivered, of all streams."""
        return sum(int(result.get("events", 0)) for result in self.results)

    def expect(self, events: int) -> Finished:
        """Itself, if all was well.

        Raises:
            RuntimeError: Another number of events was delivered.
        """
        if self.events != events:
            bad = [result for result in self.results if result.get("error")] or self.results
            raise RuntimeError(f"{self.events} of {events} events were delivered: {bad[:3]}")
        return self


class Discard:
    """A target that renders every event, in the format that it announces, and forgets it."""

    name = "discard"

    def __init__(self, payload_format: Format = EXTENDED) -> None:
        self.formats = (payload_format,)

    def write(self, events: Sequence[ChangeEvent]) -> Sequence[Rejection]:
        for event in events:
            event.render(self.formats[0])
        return ()

    def flush(self) -> Sequence[Rejection]:
        return ()

    def close(self) -> None:
        pass


def run(settings: Mapping[str, Any], *options: str) -> Finished:
    """Run the command line with these settings as its environment.

    Args:
        settings: By name, as ``Settings`` has them.
        options: Of ``docdb-stream run``.
    """
    with _registered() as folder:
        environment = {
            **os.environ,
            **{name.upper(): text(value) for name, value in settings.items()},
            "PYTHONPATH": os.pathsep.join((folder, str(REPOSITORY), os.environ.get("PYTHONPATH", ""))),
        }
        command = [str(Path(sys.executable).with_name("docdb-stream")), "run", "--json", *options]
        launched = [sys.executable, "-S", "-c", _LAUNCHER, str(Path(folder, "usage")), *command]
        started = time.monotonic()
        with Path(folder, "stderr").open("wb") as errors:  # the log of rejections is no news here
            done = subprocess.run(launched, env=environment, stdout=subprocess.PIPE, stderr=errors, check=False)
        took_s = time.monotonic() - started
        if not done.stdout:
            raise RuntimeError(f"docdb-stream printed nothing: {Path(folder, 'stderr').read_text()[-2000:]}")
        cpu_s, peak_kib = json.loads(Path(folder, "usage").read_text())
    return Finished(
        results=[json.loads(line) for line in done.stdout.splitlines()],
        cpu_s=cpu_s,
        peak_mib=peak_kib / 1024,
        took_s=took_s,
    )


def text(value: Any) -> str:
    """A setting as an environment variable or a config.ini has it."""
    return value.isoformat() if isinstance(value, dt.datetime) else str(value)


@contextlib.contextmanager
def _registered() -> Iterator[str]:
    """A folder that, on the path, registers the targets of the benchmarks as those of another package."""
    with tempfile.TemporaryDirectory(prefix="docdb-stream-bench-") as folder:
        about = Path(folder, "docdb_stream_bench-0.dist-info")
        about.mkdir()
        about.joinpath("METADATA").write_text("Metadata-Version: 2.1\nName: docdb-stream-bench\nVersion: 0\n")
        entries = "".join(f"{name} = {where}\n" for name, where in ENTRY_POINTS.items())
        about.joinpath("entry_points.txt").write_text(f"[docdb_stream.targets]\n{entries}")
        yield folder
