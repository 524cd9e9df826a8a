"""The schema ledgers of one run's stream: what is delivered is looked at, and what is new is learned, or stops its
collection (SCHEMA_POLICY).

Owns what becomes of a collection that has stopped: its events are left out, and the position keeps where it stands.
Once what it stopped for is accepted, the stream goes back there, and delivers of the others nothing that it has
delivered before. See ADR 18.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from docdb_stream.checkpoint import LedgerEntry
from docdb_stream.context import current_run
from docdb_stream.errors import HistoryLostError, SchemaStopError
from docdb_stream.events import Batch, ChangeEvent, Events, Position
from docdb_stream.formats.facts import FACTS, Facts
from docdb_stream.formats.part import Reading
from docdb_stream.position import Namespace, Resumption, SchemaStop
from docdb_stream.schema.columns import Column
from docdb_stream.schema.ledger import Ledger, Moment
from docdb_stream.schema.shape import SHAPES, Shape
from docdb_stream.schema.store import News, SchemaStore
from docdb_stream.settings import Settings
from docdb_stream.step import origin_of

logger = logging.getLogger(__name__)

HELD_BACK = "schema"
"""By what name events of a collection that has stopped are counted as left out."""
DELIVERED = "delivered before"
"""By what name events are counted that the stream meets again, having gone back for another collection."""
NAMED_MOST = 5
"""New paths that an alert names."""
_ORDERED = "82"
"""The first byte of MongoDB's tokens, whose text has the order of their events; see ``position``."""


class Schemas:
    """What one run knows of its stream's collections. Used by the run's thread; ``columns_of`` by targets' threads,
    while the run waits for them.

    Args:
        settings: The stream.
        store: Where ledgers are kept; None: none are.
        wanted: What else is asked of events, so that one decoding does for all.
        alert: Told of a collection that stops.

    Attributes:
        is_over: A collection has stopped, and the stream with it: it watches no other, or a snapshot is under way.
    """

    def __init__(
        self,
        settings: Settings,
        store: SchemaStore | None,
        wanted: Sequence[Reading[Any]],
        alert: Callable[[Exception], object],
    ) -> None:
        self.is_over = False
        self._stream = settings.stream_name
        self._stops_for_news = settings.schema_policy == "stop"
        self._is_of_one = settings.scope is not None and settings.scope.coll is not None
        self._store = store
        self._wanted = wanted
        self._alert = alert
        self._ledgers: dict[Namespace, Ledger] = {}
        self._news: dict[Namespace, News] = {}
        self._learning: set[Namespace] = set()
        self._touched: set[Namespace] = set()
        self._stops: dict[Namespace, SchemaStop] = {}
        self._found: dict[Namespace, _Found] = {}
        self._lock = threading.Lock()
        self._resumption: Resumption | None = None
        if store is not None:
            current_run().columns_of, current_run().schema_version_of = self.columns_of, self.version_of

    @property
    def stopped(self) -> dict[str, str]:
        """What each collection that has stopped did so for, by its name."""
        schemas = [stop.schema for stop in self._stops.values()] + [found.schema for found in self._found.values()]
        return {str(schema): self._why(schema) for schema in schemas}

    @property
    def has_stops(self) -> bool:
        """Whether a collection has stopped, or the stream has gone back for one: no snapshot can begin then."""
        return bool(self._stops) or self._resumption is not None

    # Where the stream stands

    def begin(self, position: Position) -> Position:
        """Where the run goes on: at the position, or where a collection had stopped whose news are accepted."""
        self._stops = {each.namespace: each for each in position.stops}
        self._resumption = position.resumption
        if self._store is None:
            return position
        return self.accepted(position) or position

    def accepted(self, position: Position) -> Position | None:
        """Where to go back to, for a collection whose news are accepted by now; None: there is none, or not yet, as
        the stream has gone back for another one already, or a snapshot is under way."""
        if not self._stops or self._resumption is not None or position.snapshot is not None:
            return None
        for stop in [*self._stops.values()]:
            self._ledgers.pop(stop.schema, None)
            self._ledger(stop.schema)
            if stop.schema not in self._news:
                del self._stops[stop.namespace]
                self._resumption = Resumption(stop.namespace, position.in_log())
                logger.info("stream %s goes back to %s for %s", self._stream, stop.position.time, stop.namespace)
                return self.beside(stop.position)
        return None

    def beside(self, position: Position) -> Position:
        """The position, and which collections have stopped."""
        stops = tuple(self._stops.values())
        if position.stops == stops and position.resumption == self._resumption:
            return position
        return replace(position, stops=stops, resumption=self._resumption)

    def lost(self, error: HistoryLostError) -> tuple[Position, LedgerEntry] | None:
        """Where the stream goes on when the log no longer has where it went back to, and what the ledger is told: the
        collection's changes since are lost. None: it has not gone back."""
        if self._resumption is None:
            return None
        namespace, until = self._resumption.namespace, self._resumption.until
        self._resumption = None
        reason = (
            f"{namespace} had stopped for its schema, and what changed in it since is no longer in the change log: "
            f"{error}; docdb-stream snapshot start '{self._stream}' --namespaces '{namespace}' delivers what there is"
        )
        logger.error("stream %s: %s", self._stream, reason)
        return self.beside(until), LedgerEntry(self._stream, "history-lost", until, reason, until)

    # What is delivered

    def left(self, batch: Batch) -> tuple[Batch, dict[str, int]]:
        """The batch without what is not to be delivered, and how much that is, by why."""
        if not batch.events:
            self._reached_position(batch)
        if not batch.events or not (self._stops or self._resumption):
            return batch, {}
        events = batch.events if isinstance(batch.events, Events) else Events(batch.events)
        kept: list[bool] = []
        counts = {HELD_BACK: 0, DELIVERED: 0}
        for facts in events.find(FACTS):
            namespace = facts.namespace if isinstance(facts, Facts) else None
            if namespace in self._stops:
                counts[HELD_BACK] += 1
                kept.append(False)
            elif isinstance(facts, Facts) and self._was_delivered(facts):
                counts[DELIVERED] += 1
                kept.append(False)
            else:
                kept.append(True)
            if isinstance(facts, Facts):
                self._reached(facts)
        self._reached_position(batch)
        passing = events.only(kept)
        counts = {name: count for name, count in counts.items() if count}
        return (batch if passing is events else replace(batch, events=passing)), counts

    def _was_delivered(self, facts: Facts) -> bool:
        """Whether an event was delivered before the stream went back. Where that cannot be told for certain it was not:
        it comes again then."""
        if self._resumption is None or facts.namespace == self._resumption.namespace:
            return False
        until = self._resumption.until
        data = "" if until.token is None else until.token.data
        if until.operation_time is None:
            return True  # up to the event with that token, whatever its time is
        if facts.cluster_time != until.operation_time:
            return facts.cluster_time < until.operation_time
        # Of one time are the events of a transaction. MongoDB's tokens have their order (manual, "Resume Tokens").
        return facts.event_id == data or (data[:2] == _ORDERED == facts.event_id[:2] and facts.event_id < data)

    def _reached(self, facts: Facts) -> None:
        """Whether this event is the last that was delivered before the stream went back, or one after it."""
        until = None if self._resumption is None else self._resumption.until
        if until is None:
            return
        is_last = until.token is not None and facts.event_id == until.token.data
        if is_last or (until.operation_time is not None and facts.cluster_time > until.operation_time):
            self._resumption = None

    def _reached_position(self, batch: Batch) -> None:
        """Whether all of what was delivered before has been passed, by the position after a batch."""
        until = None if self._resumption is None else self._resumption.until.operation_time
        at = batch.position.operation_time
        if until is not None and at is not None and (at > until or (at == until and batch.drained)):
            self._resumption = None

    def admit(self, events: Sequence[ChangeEvent], source: Sequence[ChangeEvent] = ()) -> Sequence[ChangeEvent]:
        """What goes on to the targets of what the steps have left: without the events of a collection from the first
        one on that has something new, where that stops it.

        Args:
            events: What the steps have left, in order.
            source: The changes that they were given. None of a snapshot: its documents show what there is, and stop
                nothing.
        """
        if self._store is None or not events:
            return events
        together = events if isinstance(events, Events) else Events(events)
        together.want((FACTS, SHAPES, *self._wanted))
        seen: dict[tuple[Namespace, Shape], list[Any]] = {}
        for facts, shape in zip(together.find(FACTS), together.find(SHAPES), strict=True):
            if not shape or not isinstance(facts, Facts) or not isinstance(shape, tuple):
                continue
            tally = seen.get((facts.namespace, shape))
            if tally is None:
                seen[facts.namespace, shape] = [1, facts, facts]
            else:
                tally[0] += 1
                tally[2] = facts
        news = [each for each in seen if source and self._stops_for_news and self._is_news(each, seen[each][1])]
        left = self._without(news, together, source) if news else together
        if left is not together:
            return self.admit(left, source)  # which has no news any more, and other counts
        for (namespace, shape), (count, *of) in seen.items():
            first, last = (Moment.of(each.event_id, each.cluster_time) for each in of)
            self._ledger(namespace).count(shape, count, first, last)
            self._touched.add(namespace)
        return events

    def _without(
        self, news: Sequence[tuple[Namespace, Shape]], events: Events, source: Sequence[ChangeEvent]
    ) -> Events:
        """The events without those of the source's collections from the changes on that first had news; which these
        are is known from then on."""
        namespaces = {event.event_id: event.namespace for event in source}
        order = {event_id: place for place, event_id in enumerate(namespaces)}
        origins = [*map(origin_of, events)]
        for event, shape, origin in zip(events, events.find(SHAPES), origins, strict=True):
            if (event.namespace, shape) in news and (stops := namespaces.get(origin)) is not None:
                self._found.setdefault(stops, _Found(event.namespace, origin))
        from_on = {namespace: order[found.origin] for namespace, found in self._found.items()}
        nowhere = len(order)
        return events.only(
            [
                order.get(origin, nowhere) < from_on.get(namespaces.get(origin, event.namespace), nowhere + 1)
                for event, origin in zip(events, origins, strict=True)
            ]
        )

    def after(self, batch: Batch, before: Position, *, is_snapshot_active: bool) -> Position:
        """Where the stream stands after a batch; and where each collection stands that has stopped in it.

        Args:
            batch: As it was read.
            before: Where the stream stood before it.
            is_snapshot_active: Whether a snapshot is under way: its pages cannot wait for one collection.
        """
        if not self._found:
            return batch.position
        for found in self._found.values():
            error = SchemaStopError(
                f"{found.schema} has stopped: {self._why(found.schema)}",
                hint=f"docdb-stream schema show '{self._stream}' shows it; once what reads the targets is ready: "
                f"docdb-stream schema accept '{self._stream}' '{found.schema}'",
            )
            logger.error("stream %s: %s", self._stream, error)
            self._alert(error)
        if self._is_of_one or is_snapshot_active:
            self.is_over = True
            return _before(batch.events, {found.origin for found in self._found.values()}, before)
        for namespace, found in self._found.items():
            self._stops[namespace] = SchemaStop(namespace, _before(batch.events, {found.origin}, before), found.schema)
        self._found.clear()
        return batch.position

    # What is known

    def columns_of(self, namespace: Namespace) -> Sequence[Column] | None:
        """The columns of a collection's tables, by all that was delivered so far."""
        ledger = self._ledgers.get(namespace)
        with self._lock:  # names are given once; several threads may ask
            return None if ledger is None else ledger.columns()

    def version_of(self, namespace: Namespace) -> int | None:
        """The version of a collection's ledger."""
        ledger = self._ledgers.get(namespace)
        return None if ledger is None else ledger.version

    def save(self) -> None:
        """Keep what has changed. Called before the position that covers it is saved.

        Raises:
            StateStoreError: It cannot be kept.
            CheckpointConflictError: Another run has taken over.
        """
        if self._store is None:
            return
        epoch = current_run().lease_epoch()
        for namespace in sorted(self._touched):
            ledger = self._ledgers[namespace]
            ledger.columns()  # names are given once, and kept
            self._store.save(self._stream, ledger, self._news.get(namespace), epoch)
        self._touched.clear()
        self._learning.clear()

    def _ledger(self, namespace: Namespace) -> Ledger:
        """A collection's ledger. What was accepted since is known from now on."""
        found = self._ledgers.get(namespace)
        if found is None:
            assert self._store is not None
            kept = self._store.load(self._stream, namespace)
            found = self._ledgers[namespace] = Ledger(namespace) if kept is None else kept.ledger
            self._news.pop(namespace, None)
            if kept is None or not found.version:
                self._learning.add(namespace)
            news = None if kept is None else kept.news
            if news is not None and news.accepted_at is not None:
                found.add(news.added, news.event, how="accepted", at=news.accepted_at)
                self._touched.add(namespace)
            elif news is not None:
                self._news[namespace] = news
        return found

    def _is_news(self, of: tuple[Namespace, Shape], facts: Facts) -> bool:
        namespace, shape = of
        ledger = self._ledger(namespace)
        if namespace in self._learning:
            return False
        added = ledger.news(shape)
        if added and namespace not in self._news:
            self._news[namespace] = News(tuple(added), Moment.of(facts.event_id, facts.cluster_time))
        if added:
            self._touched.add(namespace)
        return bool(added)

    def _why(self, namespace: Namespace) -> str:
        news = self._news.get(namespace)
        if news is None:
            return "its schema"
        named = [f"{path} of type {kind}" for path, kind in news.added[:NAMED_MOST]]
        more = len(news.added) - len(named)
        return f"new in its documents: {', '.join(named)}" + (f" and {more} more" if more > 0 else "")


class _Found(NamedTuple):
    """A collection's news, found in the batch at hand.

    Attributes:
        schema: Whose ledger does not know them.
        origin: The id of the change that has them first.
    """

    schema: Namespace
    origin: str


def _before(events: Iterable[ChangeEvent], origins: Collection[str], before: Position) -> Position:
    """The position before the first event with one of these ids."""
    last = before.in_log()
    for event in events:
        if event.event_id in origins:
            break
        last = Position.at_token(event.token, time=event.cluster_time)
    return last
