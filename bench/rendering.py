"""What rendering an event takes: ``python -m bench.rendering``. Each alone, and together in parts of several sizes.

In turns, within one thread and without a server; microseconds of CPU, the median and the least of the rounds.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

from bson import ObjectId
from rich.console import Console
from rich.table import Table

from bench.source import order
from docdb_stream.events import ChangeEvent, Events
from docdb_stream.format import Format
from docdb_stream.formats import FORMATS, format_named, part
from docdb_stream.formats.avro import AVRO
from docdb_stream.formats.extended import EXTENDED
from docdb_stream.formats.facts import FACTS
from docdb_stream.formats.plain import PLAIN
from docdb_stream.testing.events import ChangeLog

EVENTS = 1024
ROUNDS = 60


def _alone(raws: list[bytes]) -> None:
    for raw in raws:
        ChangeEvent(raw).render(EXTENDED)


def _together(events: int, *formats: Format, facts: bool = False) -> Callable[[list[bytes]], None]:
    def render(raws: list[bytes]) -> None:
        part.PART_EVENTS, part.PART_BYTES = events, 1 << 30  # type: ignore[misc]
        together = Events.of(raws)
        together.want((*formats, FACTS) if facts else formats)
        for each in formats:
            together.render(each)
        if facts:
            for event in together:
                event.ordering_key  # noqa: B018

    return render


def main() -> None:
    log = ChangeLog()
    raws = [log.insert({"_id": ObjectId(), **order(number)}).raw or b"" for number in range(EVENTS)]
    ways: dict[str, Callable[[list[bytes]], None]] = {"each alone": _alone}
    ways |= {f"together, {events} at a time": _together(events, EXTENDED) for events in (4, 16, 64, 256)}
    ways["64 at a time, and keys"] = _together(64, EXTENDED, facts=True)
    ways["64 at a time, two formats"] = _together(64, EXTENDED, PLAIN)
    ways |= {f"64 at a time, {name}": _together(64, format_named(name)) for name in FORMATS}
    ways["64 at a time, avro"] = _together(64, AVRO)
    # What Kafka asks for beside the bytes is found with them.
    ways["64 at a time, debezium, and keys"] = _together(64, format_named("debezium"), facts=True)
    spent: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(ROUNDS):
        for name, render in ways.items():
            started = time.thread_time()
            render(raws)
            spent[name].append(1e6 * (time.thread_time() - started) / EVENTS)
    table = Table("rendering an event", "median us", "least us")
    for name, times in spent.items():
        table.add_row(name, f"{statistics.median(times):.1f}", f"{min(times):.1f}")
    Console().print(table)


if __name__ == "__main__":
    main()
