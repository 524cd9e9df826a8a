"""Runs the benchmarks, prints one table, and keeps the figures in bench/results.json."""

from __future__ import annotations

import argparse
import datetime as dt
import json
import os
import platform
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from bench import cold_start, memory
from bench.figure import Figure

RESULTS = Path(__file__).parent / "results.json"
BENCHMARKS = {"cold-start": cold_start.measure, "memory": memory.measure}


def main() -> None:
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("names", nargs="*", choices=[[], *BENCHMARKS], help="which; all by default")
    parser.add_argument("--events", type=int, default=100_000, help="events of the runs that deliver (default 100000)")
    arguments = parser.parse_args()
    figures: list[Figure] = []
    for name in arguments.names or BENCHMARKS:
        print(f"{name} ...", flush=True)
        figures += BENCHMARKS[name](arguments.events)
    _print(figures)
    _keep(figures)


def _print(figures: list[Figure]) -> None:
    table = Table(box=box.SIMPLE_HEAD)
    for heading in ("what", "measured", "wanted", ""):
        table.add_column(heading, justify="right" if heading in ("measured", "wanted") else "left")
    for figure in figures:
        table.add_row(figure.what, figure.shown, f"{figure.wanted} {figure.unit}", "✓" if figure.is_met else "✗")
    Console(width=120).print(table)


def _keep(figures: list[Figure]) -> None:
    known = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    machine = f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}"
    for figure in figures:
        known[figure.what] = {
            "value": figure.value,
            "unit": figure.unit,
            "wanted": figure.wanted,
            "machine": machine,
            "load": round(os.getloadavg()[0], 1),
            "at": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        }
    RESULTS.write_text(json.dumps(known, indent=2) + "\n")


if __name__ == "__main__":
    main()
