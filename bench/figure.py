"""One measured figure beside what it is compared with and what is wanted of it."""

from __future__ import annotations

from dataclasses import dataclass, field


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
