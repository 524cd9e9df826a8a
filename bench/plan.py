"""How much is measured, and who hears of the progress: handed to every benchmark."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

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
