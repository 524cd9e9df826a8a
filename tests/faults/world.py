"""The world of the interleavings: what outlives a poller, what dies with it, and where it can fail. All in memory."""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from docdb_stream.checkpoint import Lease
from docdb_stream.errors import DocdbStreamError, SourceUnavailableError, StateStoreError, TargetError
from docdb_stream.events import Batch, ChangeEvent, Namespace, Position
from docdb_stream.poller import Poller
from docdb_stream.result import RunResult
from docdb_stream.settings import Settings
from docdb_stream.step import Step
from docdb_stream.steps import steps_for
from docdb_stream.stores.memory import MemoryCheckpointStore
from docdb_stream.target import Rejection
from docdb_stream.testing.events import ChangeLog
from docdb_stream.testing.source import ScriptedSource, ScriptedStream

SETTINGS = Settings(
    documentdb_uri="mongodb://nowhere",
    watched_db_name="shop",
    watched_collection_name="orders",
    start_at=dt.datetime(2020, 1, 1, tzinfo=dt.UTC),
    lease_seconds=60,
    batch_size=3,
    state_sync_count=2,
    max_loop=0,
)
STEPS = ("acquire", "read", "write", "flush", "dead letters", "save", "release")


class CrashedError(Exception):
    """The process is no more: whatever it tries from now on raises this."""


class Fault:
    """What happens to a process, once: at the nth time of a step, before it, in the middle of it or after it.

    Args:
        step: One of STEPS.
        when: before, midway or after.
        nth: Counted from 1.
        happens: Raises, or does something behind the process's back.
    """

    def __init__(self, step: str, when: str, nth: int, happens: Callable[[Process], None]) -> None:
        self.step, self.when, self.nth, self.happens = step, when, nth, happens


class World:
    """What outlives a process: the log, the checkpoints, the targets' places, the dead letters."""

    def __init__(self) -> None:
        self.log = ChangeLog()
        self.events: list[ChangeEvent] = []
        self.now = dt.datetime(2026, 1, 31, tzinfo=dt.UTC)
        self.store = MemoryCheckpointStore(lambda: self.now)
        self.direct: list[str] = []
        self.buffered: list[str] = []
        self.objects: dict[str, list[str]] = {}
        self.dead: set[str] = set()
        self.saved: list[Position] = []
        self.results: list[RunResult] = []

    def change(self, document: dict[str, Any]) -> ChangeEvent:
        """The event of a change that made ``document`` what it is."""
        return self.log.update(document)

    def steps(self) -> Sequence[Step]:
        """The steps of a new process."""
        return ()

    def fate_of(self, event: ChangeEvent) -> str | list[ChangeEvent]:
        """What is to be delivered of an event, or the name of the step that leaves it out, or ``rejected``."""
        return [event]

    def expire_lease(self) -> None:
        self.now += dt.timedelta(seconds=SETTINGS.lease_seconds + 1)


class WorldOfSteps(World):
    """One in which events go through a step of every kind: OPERATIONS leaves out replacements, documents leave MATCH
    and come back, and TRANSFORM gives two events, none, an error or the event."""

    def change(self, document: dict[str, Any]) -> ChangeEvent:
        return self.log.replace(document) if document["number"] % 5 == 4 else self.log.update(document)

    def steps(self) -> Sequence[Step]:
        return steps_for(STEPPED, ())

    def fate_of(self, event: ChangeEvent) -> str | list[ChangeEvent]:
        number = _number(event)
        if event.operation == "replace":
            return "operations"
        if number % 3 == 0:
            return [event.replace(operationType="delete", fullDocument=None, updateDescription=None)]
        if number % 7 == 1:
            return [event, event.replace(_id={"_data": f"{event.event_id}#1"})]
        return {2: "transform", 5: "rejected"}.get(number % 7, [event])


def transform(event: ChangeEvent) -> ChangeEvent | Iterable[ChangeEvent] | None:
    """The TRANSFORM of these streams."""
    rest = _number(event) % 7 if event.operation == "update" else 0
    if rest == 5:
        raise ValueError("refused")
    return {1: (event, event), 2: None}.get(rest, event)


def _number(event: ChangeEvent) -> int:
    return int((event.full_document or {})["number"])


STEPPED = Settings(
    **SETTINGS.model_dump(include={"documentdb_uri", "watched_db_name", "watched_collection_name"}),
    operations="insert, update, delete",
    match='{"fullDocument.number": {"$not": {"$mod": [3, 0]}}}',
    on_exit="delete",
    transform="faults.world:transform",
)


class Process:
    """A poller, and the parts that die with it."""

    def __init__(self, world: World, fault: Fault | None = None, script: Sequence[Any] | None = None) -> None:
        self.world, self.fault, self.alive = world, fault, True
        self.source = Source(self, world.events if script is None else script)
        self.knows = len(world.events)
        self.poller = Poller(
            SETTINGS,
            source=self.source,
            store=Store(self),  # type: ignore[arg-type]
            targets=[Direct(self), Buffered(self), Objects(self)],
            dead_letters=Letters(self),  # type: ignore[arg-type]
            steps=world.steps(),
        )

    def run(self) -> str:
        try:
            result = self.poller.run()
            self.world.results.append(result)
            return result.stopped_by
        except (DocdbStreamError, CrashedError) as error:
            return type(error).__name__

    def at(self, step: str, when: str) -> None:
        """Called at every point of every step."""
        if not self.alive:
            raise CrashedError
        fault = self.fault
        if fault is not None and (fault.step, fault.when) == (step, when):
            fault.nth -= 1
            if fault.nth == 0:
                self.fault = None
                fault.happens(self)

    def do(self, step: str, work: Callable[[], Any]) -> Any:
        self.at(step, "before")
        answer = work()
        self.at(step, "after")
        return answer

    def crash(self) -> None:
        self.alive = False
        raise CrashedError


class Source(ScriptedSource):
    def __init__(self, process: Process, script: Sequence[Any]) -> None:
        super().__init__(script, batch_size=2)
        self.process = process

    def open(self, position: Position) -> ScriptedStream:
        return Stream(self, position, super().open(position)._next)


class Stream(ScriptedStream):
    _source: Source

    def read(self, wait_s: float) -> Batch:
        read = super().read
        batch: Batch = self._source.process.do("read", lambda: read(0))
        return batch


class Store:
    """The world's store, as a process reaches it."""

    def __init__(self, process: Process) -> None:
        self.process, self.store = process, process.world.store

    def __getattr__(self, name: str) -> Any:
        return getattr(self.store, name)

    def acquire(self, stream: str, scope: Namespace | None, owner: str, duration_s: float) -> Lease:
        lease: Lease = self.process.do("acquire", lambda: self.store.acquire(stream, scope, owner, duration_s))
        return lease

    def save(self, lease: Lease, position: Position, events: int = 0) -> None:
        def work() -> None:
            self.store.save(lease, position, events)
            self.process.world.saved.append(position)

        self.process.do("save", work)

    def release(self, lease: Lease) -> None:
        self.process.do("release", lambda: self.store.release(lease))


class Letters:
    def __init__(self, process: Process) -> None:
        self.process = process

    def write(self, stream: str, rejections: Sequence[Rejection]) -> None:
        ids = {rejection.event.event_id for rejection in rejections}
        self.process.do("dead letters", lambda: self.process.world.dead.update(ids))


class Direct:
    """Durable with each write, and picky."""

    name = "direct"

    def __init__(self, process: Process) -> None:
        self.process = process

    def write(self, events: Sequence[ChangeEvent]) -> Sequence[Rejection]:
        wanted = [event.event_id for event in events if not is_poison(event)]
        place = self.process.world.direct
        self.process.at("write", "before")
        place += wanted[: len(wanted) // 2]
        self.process.at("write", "midway")
        place += wanted[len(wanted) // 2 :]
        self.process.at("write", "after")
        return [Rejection(event, self.name, "poison") for event in events if is_poison(event)]

    def flush(self) -> Sequence[Rejection]:
        return ()

    def close(self) -> None:
        pass


class Buffered:
    """Holds everything until it is flushed, and then lets it out piece by piece."""

    name = "buffered"

    def __init__(self, process: Process) -> None:
        self.process = process
        self.held: list[str] = []

    def write(self, events: Sequence[ChangeEvent]) -> Sequence[Rejection]:
        self.held += [event.event_id for event in events]
        return ()

    def flush(self) -> Sequence[Rejection]:
        self.process.at("flush", "before")
        half = len(self.held) // 2
        self.process.world.buffered += self.held[:half]
        self.process.at("flush", "midway")
        self.process.world.buffered += self.held[half:]
        self.held = []
        self.process.at("flush", "after")
        return ()

    def close(self) -> None:
        self.held = []


class Objects(Buffered):
    """Named after its first event, each overwrites the one of a run that died: how S3 is effectively once."""

    name = "objects"

    def flush(self) -> Sequence[Rejection]:
        if self.held:
            self.process.at("flush", "before")
            self.process.world.objects[self.held[0]] = self.held
            self.process.at("flush", "after")
            self.held = []
        return ()


def is_poison(event: ChangeEvent) -> bool:
    return bool((event.full_document or {}).get("poison"))


def crash(process: Process) -> None:
    process.crash()


def fail(process: Process) -> None:
    raise TargetError("flaky", "not today")


def fail_state(process: Process) -> None:
    raise StateStoreError("not today")


def fail_source(process: Process) -> None:
    time.sleep(0.005)  # the targets' threads take what was read before
    raise SourceUnavailableError("not today")


def overtake(process: Process) -> None:
    """The process slept through its lease, and another one has made a whole run meanwhile."""
    process.world.expire_lease()
    assert Process(process.world).run() == "caught-up"
