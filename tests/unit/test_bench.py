"""The benchmarks can be begun, and what was kept of them and is told of them is theirs."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import pytest

from bench import report
from bench.__main__ import BENCHMARKS
from bench.clients import PAYLOADS
from bench.command import Discard
from bench.servers import MIRROR, TARGETS
from bench.shaping import NO_STEP, STEPS
from bench.source import made, order
from bench.throughput import ALONE_EVENTS, TIMES_ONE_CALL
from docdb_stream import Settings
from docdb_stream.events import Events
from docdb_stream.step import apply
from docdb_stream.steps import steps_for
from docdb_stream.testing.events import ChangeLog

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


@pytest.mark.parametrize("name", STEPS)
def test_each_row_of_steps_delivers_what_it_says(name: str) -> None:
    row, target, log = STEPS[name], Discard(), ChangeLog()
    documents = [{"_id": number, **each} for number, each in enumerate(made(order, 20))]
    changes = [log.replace(each) if each["_id"] % 10 == 9 else log.insert(each) for each in documents]
    options = {"documentdb_uri": "mongodb://none.example", "watched_db_name": "bench", **row.options}
    steps = steps_for(Settings(**options), [target])
    assert bool(steps) == (name != NO_STEP)
    stepped = apply(steps, Events.of([change.raw or b"" for change in changes]))
    assert len(stepped.events) == len(changes) * row.passing // 10
    assert not stepped.rejected
    assert not target.write(stepped.events)
    changed = [event.full_document for event in stepped.events] != [each.full_document for each in changes]
    assert changed == (row.passing < 10 or _changes(row.options))


def _changes(options: Mapping[str, object]) -> bool:
    return "fields_mask" in options or options.get("transform") == "bench.shaping:change"


def test_every_target_alone_has_its_clients_and_counts() -> None:
    assert {*TARGETS, MIRROR} == set(PAYLOADS) == set(ALONE_EVENTS) == set(TIMES_ONE_CALL)
