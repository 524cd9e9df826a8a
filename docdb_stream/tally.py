"""What a run has delivered of each collection: documents, bytes, failures.

Owns what is counted before it is saved; what is saved is in the run's result.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from docdb_stream.errors import UnrenderableError
from docdb_stream.events import ChangeEvent, Namespace, Rejection
from docdb_stream.result import CollectionFigures

COLLECTIONS_MOST: Final = 100
"""Collections that are told one by one: each is three metrics of CloudWatch, which cost by their number."""
OTHER: Final = "other"
"""The name of all others together."""


class Tally:
    """Counts the events of one run.

    Args:
        scope: The stream's. Where it is one collection, events are not looked at for it.
    """

    def __init__(self, scope: Namespace | None) -> None:
        self._only = str(scope) if scope is not None and scope.coll is not None else None
        self._known: dict[Namespace, CollectionFigures] = {}
        self._figures: dict[str, CollectionFigures] = {}

    def took(self, events: Sequence[ChangeEvent], size_bytes: int) -> None:
        """These events were given to the targets; ``size_bytes`` is their size as BSON."""
        if self._only is not None:
            figures = self._named(self._only)
            figures.documents += len(events)
            figures.bytes += size_bytes
            return
        for event in events:
            figures = self._of(event)
            figures.documents += 1
            figures.bytes += event.size_bytes

    def refused(self, rejections: Sequence[Rejection]) -> None:
        """These are in the dead letters."""
        for rejection in rejections:
            self._of(rejection.event).failures += 1

    def save(self, saved: dict[str, CollectionFigures]) -> None:
        """Add what was counted to what is saved, by the collections' names, and begin anew."""
        for name, figures in self._figures.items():
            into = name if name in saved or len(saved) < COLLECTIONS_MOST else OTHER
            saved[into] = saved.get(into, CollectionFigures()).plus(figures)
        self.forget()

    def forget(self) -> None:
        """What was counted comes again."""
        self._known.clear()
        self._figures.clear()

    def _of(self, event: ChangeEvent) -> CollectionFigures:
        if self._only is not None:
            return self._named(self._only)
        try:
            namespace = event.namespace
        except UnrenderableError:
            return self._named(OTHER)
        figures = self._known.get(namespace)
        if figures is None:
            figures = self._known[namespace] = self._named(str(namespace) or OTHER)
        return figures

    def _named(self, name: str) -> CollectionFigures:
        if name not in self._figures and len(self._figures) >= COLLECTIONS_MOST:
            name = OTHER
        return self._figures.setdefault(name, CollectionFigures())
