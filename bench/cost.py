"""What an event costs in CPU, and what starting costs, told apart.

The CPU is that of a process of its own with a target that renders every event and throws it away.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field

from bench.figure import Figure
from bench.rounds import spread


@dataclass(frozen=True)
class Cost:
    """The CPU, in seconds, of runs over many events, and of runs over few or none that are alike in all else.

    What the former take more is due to the events that they have more; the rest is what starting takes.
    """

    events: int
    few_events: int = 0
    many_s: list[float] = field(default_factory=list)
    few_s: list[float] = field(default_factory=list)

    @property
    def events_us(self) -> list[float]:
        """What one more event takes, by each of the runs over many; beside its own run over few, where each has one."""
        pairs = zip(self.many_s, _one_each(self.few_s, len(self.many_s)), strict=True)
        return [1e6 * (many_s - few_s) / (self.events - self.few_events) for many_s, few_s in pairs]

    @property
    def event_us(self) -> float:
        """The median of them."""
        return statistics.median(self.events_us)

    @property
    def start_s(self) -> float:
        """What starting takes."""
        return statistics.median(self.few_s) - self.few_events * self.event_us / 1e6

    @property
    def with_start_us(self) -> float:
        """What an event takes with its share of starting, where there are many."""
        return 1e6 * statistics.median(self.many_s) / self.events


def figure_of(what: str, of: str, measured: Cost, reference: Cost) -> Figure:
    """One more event in a case of many, beside one more in another; round by round, where they took turns."""
    of_us = _one_each(reference.events_us, len(measured.events_us))
    ratios = [event_us / other_us for event_us, other_us in zip(measured.events_us, of_us, strict=True)]
    return Figure(
        what,
        measured.event_us,
        "us",
        wanted="< 1.10",
        of=of,
        of_value=reference.event_us,
        ratio=statistics.median(ratios),
        spread=spread(ratios),
        details={
            "start_s": measured.start_s,
            "with_start_us": measured.with_start_us,
            "of_start_s": reference.start_s,
            "of_with_start_us": reference.with_start_us,
        },
        note=f"beyond the start, {measured.start_s:.2f} s against {reference.start_s:.2f} s of CPU; with it "
        f"{measured.with_start_us:.1f} us against {reference.with_start_us:.1f} us",
    )


def _one_each(values: list[float], count: int) -> list[float]:
    """The values where there are as many, else their median for each."""
    return values if len(values) == count else [statistics.median(values)] * count
