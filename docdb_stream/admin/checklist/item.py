"""A row of the checklist."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, Literal

Verdict = Literal["ok", "warn", "fail", "unknown"]
"""``warn``: look at it. ``fail``: it should not be so in production. ``unknown``: it cannot be seen from here."""

VERDICTS: Final[tuple[Verdict, ...]] = ("ok", "unknown", "warn", "fail")
"""From good to bad."""


@dataclass(frozen=True, slots=True)
class Item:
    """One thing to be seen to.

    Attributes:
        area: ``security``, ``recovery``, ``monitoring`` or ``delivery``.
        what: The thing.
        verdict: How it stands.
        told: What was found.
        todo: What to do next; empty where nothing is to be done.
    """

    area: Literal["security", "recovery", "monitoring", "delivery"]
    what: str
    verdict: Verdict
    told: str
    todo: str = ""


def seen(look: Callable[[], Item], unseen: Item, errors: tuple[type[Exception], ...]) -> Iterator[Item]:
    """What a look finds; where it fails, that it cannot be seen, and why by the error's name alone."""
    try:
        yield look()
    except errors as error:
        told = f"{unseen.told}: {type(error).__name__}" if unseen.told else type(error).__name__
        yield Item(unseen.area, unseen.what, unseen.verdict, told, unseen.todo)
