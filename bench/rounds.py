"""Measuring side by side: in each round every contender has its turn, so that what else the machine does hits all."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from bench.figure import Figure
from bench.plan import Plan

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
