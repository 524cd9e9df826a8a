"""Leaves events out by what every event tells: its namespace, its operation.

Owns NAMESPACES and OPERATIONS as docdb-stream judges them; what the server leaves out before (``mongodb.pipeline``) is
not asked about.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, Final

from docdb_stream.events import ChangeEvent, Events, Namespace
from docdb_stream.formats.facts import FACTS, Facts
from docdb_stream.formats.part import Reading
from docdb_stream.namespaces import NamespacePattern
from docdb_stream.settings import Settings

AT_ONCE_SHARE: Final = 0.5
"""Where at least this share of events passes, they are decoded for facts and targets at once; where fewer do, rendering
what is left out costs more than decoding the others a second time (bench/NOTES.md)."""


def selections(settings: Settings, formats: Sequence[Reading[Any]] = ()) -> list[Selection]:
    """The steps for NAMESPACES and OPERATIONS, as far as these are set, in this order.

    Args:
        settings: The stream.
        formats: What the targets will ask of the events that pass; empty where other steps come between.
    """
    found: list[Selection] = []
    if settings.operations:
        found.append(Selection("operations", of_operations(settings.operations), formats))
    if settings.namespaces:
        found.insert(0, Selection("namespaces", of_namespaces(settings.namespaces), formats, [*found]))
    return found


class Selection:
    """A step that passes some events on as they are: see ``Selecting``. One that cannot be read at all passes, for the
    targets to reject.

    Args:
        name: As its events are counted.
        passes: Whether an event does; the event is for what its facts do not tell.
        formats: What the targets will ask of the events.
        others: The selections that come after it: whose share decides, too, whether these formats are wanted.
    """

    def __init__(
        self,
        name: str,
        passes: Callable[[Facts, Callable[[], ChangeEvent]], bool],
        formats: Sequence[Reading[Any]] = (),
        others: Sequence[Selection] = (),
    ) -> None:
        self.name = name
        self.share = 1.0
        self._passes = passes
        self._formats = list(dict.fromkeys([FACTS, *formats]))
        self._others = others

    def __call__(self, events: Sequence[ChangeEvent]) -> Events:
        """See ``Step``."""
        return self.passing(events if isinstance(events, Events) else Events(events))

    def passing(self, events: Events) -> Events:
        """See ``Selecting``."""
        share = self.share * math.prod(each.share for each in self._others)
        events.want(self._formats if share >= AT_ONCE_SHARE else [FACTS])
        passes = self._passes
        kept = [
            not isinstance(facts, Facts) or passes(facts, lambda place=place: events[place])  # type: ignore[misc]
            for place, facts in enumerate(events.find(FACTS))
        ]
        self.share = sum(kept) / len(kept) if kept else 1.0
        return events.only(kept)


def of_operations(names: Sequence[str]) -> Callable[[Facts, object], bool]:
    """Whether an event has one of these operations."""
    wanted = frozenset(names)
    return lambda facts, _: facts.operation in wanted


def of_namespaces(texts: Sequence[str]) -> Callable[[Facts, Callable[[], ChangeEvent]], bool]:
    """Whether an event is about a collection that one of these patterns means, or about all that is watched.

    What is about a whole database passes where a pattern can mean a collection of it. A rename is about two
    collections.
    """
    patterns = [NamespacePattern.of(text) for text in texts]

    @lru_cache(4096)
    def is_meant(namespace: Namespace) -> bool:
        return not namespace.db or any(pattern.matches(namespace) for pattern in patterns)

    def passes(facts: Facts, event: Callable[[], ChangeEvent]) -> bool:
        if is_meant(facts.namespace):
            return True
        to = event().document.get("to") if facts.operation == "rename" else None
        return isinstance(to, dict) and is_meant(Namespace(str(to.get("db")), str(to.get("coll"))))

    return passes
