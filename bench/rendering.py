"""What rendering an event takes: ``python -m bench.rendering``. Each alone, and together in chunks of several sizes.

In turns, within one thread and without a server; microseconds of the clock, the median and the least of the rounds.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

from bson import ObjectId
from rich.console import Console
from rich.table import Table

from bench.source import order
from docdb_stream import chunk, encoding
from docdb_stream.events import ChangeEvent
from docdb_stream.testing.events import ChangeLog

EVENTS = 1024
ROUNDS = 60


def _alone(raws: list[bytes]) -> list[bytes]:
    return [encoding.extended_json(encoding.decode(raw), raw) for raw in raws]


def _together(events: int) -> Callable[[list[bytes]], list[bytes]]:
    def render(raws: list[bytes]) -> list[bytes]:
        chunk.CHUNK_EVENTS, chunk.CHUNK_BYTES = events, 1 << 30
        return [event.extended_json() for event in ChangeEvent.all_of(raws)]

    return render


def main() -> None:
    log = ChangeLog()
    raws = [log.insert({"_id": ObjectId(), **order(number)}).raw or b"" for number in range(EVENTS)]
    ways = {"each alone": _alone}
    ways |= {f"together, {events} at a time": _together(events) for events in (4, 16, 64, 256)}
    spent: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(ROUNDS):
        for name, render in ways.items():
            started = time.perf_counter()
            rendered = render(raws)
            spent[name].append(1e6 * (time.perf_counter() - started) / EVENTS)
            assert len(rendered) == EVENTS
    table = Table("rendering an event", "median us", "least us")
    for name, times in spent.items():
        table.add_row(name, f"{statistics.median(times):.1f}", f"{min(times):.1f}")
    Console().print(table)


if __name__ == "__main__":
    main()
