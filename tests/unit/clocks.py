"""A clock that only sleeping moves, in the place of the run's."""

from __future__ import annotations

from docdb_stream.context import Deadline


class Clock:
    """A clock that only sleeping moves."""

    def __init__(self) -> None:
        self.now_s = 1000.0
        self.sleeps: list[float] = []

    def __call__(self) -> float:
        return self.now_s

    def sleep(self, delay_s: float) -> None:
        self.sleeps.append(delay_s)
        self.now_s += delay_s


def limit(clock: Clock, at_s: float = float("inf"), patience_s: float = 30.0) -> Deadline:
    return Deadline(at_s, patience_s=patience_s, clock=clock)
