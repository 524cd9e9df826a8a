"""How things are measured: side by side, round by round, so that what else the machine does hits all alike.

And what CPU they take meanwhile.
"""

from __future__ import annotations

import gc
import os
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from bench.report import Figure, shown

T = TypeVar("T")


class SkippedError(Exception):
    """A benchmark cannot be run here; the text says why."""


@dataclass(frozen=True)
class Plan:
    """The full measurement, or a smoke run of it.

    Attributes:
        quick: Small counts and one round: shows that everything works, and little of how fast.
        say: Called with what is being done.
    """

    quick: bool = False
    say: Callable[[str], None] = lambda text: None

    def pick(self, full: T, quick: T) -> T:
        """One of the two."""
        return quick if self.quick else full

    @property
    def rounds(self) -> int:
        """How often everything is measured, after one time that is not counted."""
        return self.pick(5, 1)


Contender = Callable[[], float]
"""Does its work once; returns its rate, in events per second."""


@dataclass(frozen=True)
class Rounds:
    """The rates that the contenders had, by name, one for each round."""

    rates: Mapping[str, list[float]]

    @property
    def medians(self) -> dict[str, float]:
        """Every contender's median rate."""
        return {name: statistics.median(rates) for name, rates in self.rates.items()}

    def figure(self, what: str, name: str, *others: str, **more: Any) -> Figure:
        """The contender's rate beside that of the slowest of the others.

        Args:
            what: See Figure.
            name: The contender.
            others: What nothing that does the same can outrun, or what it is to outrun.
            more: More of the figure.
        """
        medians = self.medians
        slowest = min(others, key=lambda other: medians[other])
        least = [min(rates) for rates in zip(*(self.rates[other] for other in others), strict=True)]
        ratios = [rate / slow for rate, slow in zip(self.rates[name], least, strict=True)]
        of = {"of": slowest, "of_value": medians[slowest], "ratio": statistics.median(ratios), "spread": spread(ratios)}
        return Figure(what, medians[name], "events/s", **{**of, **more})


def interleaved(contenders: Mapping[str, Contender], plan: Plan, what: str, *, warm_up: bool = True) -> Rounds:
    """Give every contender its turn in every round, each round beginning with another one.

    Args:
        contenders: By name.
        plan: How many rounds.
        what: Says in the progress what is being measured.
        warm_up: Do one round first that does not count.
    """
    names = list(contenders)
    rates: dict[str, list[float]] = {name: [] for name in names}
    # What the benchmark holds (payloads ready to send) would otherwise be gone through by each contender's collections.
    gc.collect()
    gc.freeze()
    try:
        for number in range(0 if warm_up and not plan.quick else 1, plan.rounds + 1):
            for turn in range(len(names)):
                name = names[(number + turn) % len(names)]
                plan.say(f"{what}: {name}, " + (f"round {number} of {plan.rounds}" if number else "warming up"))
                rate = contenders[name]()
                if number:
                    rates[name].append(rate)
    finally:
        gc.unfreeze()
    return Rounds(rates)


def rate_of(events: int, work: Callable[[], object]) -> float:
    """Events per second of ``work``, garbage of others collected before."""
    gc.collect()
    started = time.perf_counter()
    work()
    return events / (time.perf_counter() - started)


def spread(ratios: list[float]) -> tuple[float, float]:
    """The smallest and the largest."""
    return min(ratios), max(ratios)


# The CPU that an event takes: all share the cores, so it says what could be reached at best


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
