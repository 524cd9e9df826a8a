"""The CPU that an event takes, of the poller and of the servers that it reads from and writes to.

All of them share the machine's cores, so this says what could be reached at best, however well they work side by side.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path

from bench.figure import shown


class Meter:
    """Counts while a contender works.

    Args:
        events: What it delivers.
    """

    def __init__(self, events: int) -> None:
        self._events = events
        self._own_us: list[float] = []
        self._servers_us: list[float] = []

    def metered(self, contender: Callable[[], float]) -> Callable[[], float]:
        """The contender, counted."""

        def run() -> float:
            own_s, servers_s = time.process_time(), _children_s()
            rate = contender()
            self._own_us.append(1e6 * (time.process_time() - own_s) / self._events)
            self._servers_us.append(1e6 * (_children_s() - servers_s) / self._events)
            return rate

        return run

    @property
    def details(self) -> dict[str, float]:
        """Medians, in microseconds an event; nothing where the system does not tell."""
        if not any(self._servers_us):
            return {}
        return {
            "own_cpu_us": round(statistics.median(self._own_us), 1),
            "servers_cpu_us": round(statistics.median(self._servers_us), 1),
        }

    def note(self, against: float) -> str:
        """What the machine's cores allow at most, beside a rate in events per second."""
        if not self.details:
            return ""
        own_us, servers_us = self.details.values()
        cores = os.cpu_count() or 1
        at_most = 1e6 * cores / (own_us + servers_us)
        return (
            f"CPU of an event: poller {own_us:.0f} us, servers {servers_us:.0f} us; {cores} cores allow "
            f"{shown(at_most)} events/s at most, {shown(at_most / against)}"
        )


def _children_s() -> float:
    """User and system time of all living processes that this one has started, in seconds; Linux tells (proc(5))."""
    found: dict[int, tuple[int, float]] = {}
    ticks = os.sysconf("SC_CLK_TCK")
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            pid, _, rest = stat.read_text().partition(" (")
        except OSError:  # it has ended meanwhile
            continue
        fields = rest.rpartition(") ")[2].split()
        found[int(pid)] = (int(fields[1]), (int(fields[11]) + int(fields[12])) / ticks)

    def is_ours(pid: int) -> bool:
        parent = found[pid][0]
        return parent == os.getpid() or (parent in found and is_ours(parent))

    return sum(spent_s for pid, (_, spent_s) in found.items() if is_ours(pid))
