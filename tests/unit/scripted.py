"""A stream with everything around it: a scripted source, a store in memory, targets and dead letters that are lists."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from bson import Timestamp

from docdb_stream.checkpoint import Lease
from docdb_stream.errors import HistoryLostError, StateStoreError
from docdb_stream.events import ChangeEvent, Namespace, Position
from docdb_stream.poller import Poller
from docdb_stream.settings import Settings
from docdb_stream.step import Step
from docdb_stream.stores.memory import MemoryCheckpointStore
from docdb_stream.target import Rejection
from docdb_stream.testing import source as script
from docdb_stream.testing.events import ChangeLog
from docdb_stream.testing.source import ScriptedDocuments, ScriptedSource

STREAM = "shop.orders"
BEFORE = Position(operation_time=Timestamp(1, 0))


class ListTarget:
    """Events are durable once flushed. ``on_write`` and ``on_flush`` are called first and may raise."""

    def __init__(self, journal: list[Any], name: str = "list") -> None:
        self.name, self._journal = name, journal
        self.held: list[ChangeEvent] = []
        self.durable: list[ChangeEvent] = []
        self.rejected: set[str] = set()
        self.on_write: Callable[[Sequence[ChangeEvent]], None] = lambda events: None
        self.on_flush: Callable[[], None] = lambda: None
        self.closed = 0

    def write(self, events: Sequence[ChangeEvent]) -> Sequence[Rejection]:
        self.on_write(events)
        self.held += [event for event in events if event.event_id not in self.rejected]
        return [Rejection(event, self.name, "no") for event in events if event.event_id in self.rejected]

    def flush(self) -> Sequence[Rejection]:
        self.on_flush()
        self._journal.append(("flush", len(self.held)))
        self.durable += self.held
        self.held = []
        return ()

    def close(self) -> None:
        self.held = []
        self.closed += 1


class Store(MemoryCheckpointStore):
    """Notes each save; ``fail_save`` makes the following ones fail."""

    def __init__(self, journal: list[Any]) -> None:
        super().__init__()
        self._journal = journal
        self.saved: list[Position] = []
        self.fail_save = False
        self.inherited: Position | None = None

    def save(self, lease: Lease, position: Position, events: int = 0) -> None:
        if self.fail_save:
            raise StateStoreError("the state database is away")
        super().save(lease, position, events)
        self._journal.append(("save", events))
        self.saved.append(position)

    def inherited_position(self, scope: Namespace | None) -> Position | None:
        return self.inherited


class Letters:
    def __init__(self, journal: list[Any]) -> None:
        self._journal = journal
        self.written: list[Rejection] = []
        self.fail = False

    def write(self, stream: str, rejections: Sequence[Rejection]) -> None:
        if self.fail:
            raise StateStoreError("dead letters are away")
        assert stream == STREAM
        self._journal.append(("letters", len(rejections)))
        self.written += rejections


class World:
    """A stream with everything around it. ``events`` is what happened after the stream's start."""

    def __init__(self) -> None:
        self.log = ChangeLog()
        self.events: list[ChangeEvent] = []
        self.journal: list[Any] = []
        self.store, self.letters = Store(self.journal), Letters(self.journal)
        self.target = ListTarget(self.journal)
        self.targets: list[Any] = [self.target]
        self.source = ScriptedSource([], batch_size=1)
        self.steps: list[Step] = []
        self.documents: ScriptedDocuments | None = None

    def hold(self, *keys: int) -> None:
        """The collection holds these documents."""
        documents = [{"_id": key, "held": True} for key in keys]
        orders = Namespace("shop", "orders")
        self.documents = ScriptedDocuments({orders: documents}, lambda: self.source.operation_time())

    def happen(self, count: int) -> list[ChangeEvent]:
        new = self.log.inserts(count, first_id=len(self.events))
        self.source.append(*new)
        self.events += new
        return new

    def script(self, *steps: script.Step) -> None:
        self.source.append(*steps)
        self.events += [step for step in steps if isinstance(step, ChangeEvent)]

    def start_at(self, position: Position = BEFORE) -> None:
        """Give the stream a checkpoint, so that a run goes on instead of starting now."""
        lease = self.store.acquire(STREAM, Namespace("shop", "orders"), "setup", 60)
        self.store.save(lease, position)
        self.store.release(lease)
        self.journal.clear()
        self.store.saved.clear()

    def poller(self, **settings: Any) -> Poller:
        # One event per loop, unless a test says otherwise: the scripted source gives one per read as well.
        watched = {"watched_db_name": "shop", "watched_collection_name": "orders"}
        values = {"batch_size": 1, "max_loop": 0, **watched, **settings}
        return Poller(
            Settings(documentdb_uri="mongodb://nowhere", **values),
            source=self.source,
            store=self.store,
            targets=self.targets,
            dead_letters=self.letters,
            steps=self.steps,
            documents=self.documents,
        )

    @property
    def position(self) -> Position | None:
        found = self.store.load(STREAM)
        return None if found is None else found.position

    def at(self, event: ChangeEvent) -> Position:
        return Position.at_token(event.token, time=event.cluster_time)

    def nothing_is_saved_past(self, durable: Sequence[ChangeEvent]) -> bool:
        """Whether every position saved so far is covered by these events."""
        reachable = [BEFORE, *(self.at(event) for event in durable)]
        return all(position in reachable for position in self.store.saved)


def failing(error: Exception) -> Callable[..., None]:
    def fail(*_: object) -> None:
        raise error

    return fail


def lose_history_after(world: World, count: int) -> None:
    """The log rolls over the cursor once this many events were read; it begins again behind the next one."""
    open_, is_lost = world.source.open, []

    def opened(position: Position) -> Any:
        stream = open_(position)
        read, events = stream.read, []

        def one(wait_s: float) -> Any:
            if len(events) == count and not is_lost:
                is_lost.append(True)
                world.source._lost_before = world.events[count + 1].cluster_time
                raise HistoryLostError("the log rolled over")
            batch = read(wait_s)
            events.extend(batch.events)
            return batch

        stream.read = one
        return stream

    world.source.open = opened  # type: ignore[method-assign]


class PacedTarget(ListTarget):
    """Takes two events at a time, and ``beat_s`` for them."""

    takes_bytes: int | None = 1
    wants_flush = False
    beat_s = 0.0

    def write(self, events: Sequence[ChangeEvent]) -> Sequence[Rejection]:
        self.takes_bytes = 2 * events[0].size_bytes
        time.sleep(self.beat_s)
        return super().write(events)


def paced(world: World, count: int) -> PacedTarget:
    target = PacedTarget(world.journal)
    world.targets[:] = [target]
    world.source = ScriptedSource([], batch_size=100)
    world.happen(count)
    world.start_at()
    return target
