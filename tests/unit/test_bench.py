"""The benchmarks can be begun, and what was kept of them and is told of them is theirs."""

from __future__ import annotations

import re
from pathlib import Path

from bench import report
from bench.__main__ import BENCHMARKS

PERFORMANCE = Path(__file__).parents[2] / "docs" / "performance.md"


def test_figures_are_kept_by_the_names_of_benchmarks() -> None:
    kept = report.load()
    assert kept
    assert set(kept) <= set(BENCHMARKS)
    assert all(report.figures_of(entry) for entry in kept.values())


def test_the_document_names_every_benchmark_and_no_other() -> None:
    table = PERFORMANCE.read_text(encoding="utf-8").partition("| `make bench ARGS=...` |")[2].partition("\n\n")[0]
    first_cells = [row.split("|")[1] for row in table.splitlines() if row.startswith("| `")]
    names = [name for cell in first_cells for name in re.findall(r"`(\w[\w-]*)`", cell)]
    assert sorted(names) == sorted(BENCHMARKS)
