"""One measured figure beside what is wanted of it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Figure:
    """``value`` in ``unit``; ``wanted`` is a limit such as ``< 0.6``."""

    what: str
    value: float
    unit: str
    wanted: str

    @property
    def shown(self) -> str:
        return f"{self.value:,.2f} {self.unit}" if self.value < 100 else f"{self.value:,.0f} {self.unit}"

    @property
    def is_met(self) -> bool:
        relation, _, limit = self.wanted.partition(" ")
        return self.value < float(limit) if relation == "<" else self.value >= float(limit)
