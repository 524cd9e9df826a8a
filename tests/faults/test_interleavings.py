"""Whatever fails in between: no position is saved past an event that is not durable in every target.

Hypothesis makes up histories of writes, runs, failures, crashes between any two steps, leases that run out and pollers
that overtake each other. Everything is in memory, the lease's clock is the test's.
"""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Callable, Sequence
from typing import Any

from faults.histories import defects_of
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from docdb_stream.checkpoint import Lease
from docdb_stream.errors import DocdbStreamError, LeaseHeldError, SourceUnavailableError, StateStoreError, TargetError
from docdb_stream.events import Batch, ChangeEvent, Namespace, Position
from docdb_stream.poller import Poller
from docdb_stream.settings import Settings
from docdb_stream.stores.memory import MemoryCheckpointStore
from docdb_stream.target import Rejection
from docdb_stream.testing.events import ChangeLog
from docdb_stream.testing.source import ABORT, EMPTY, ScriptedSource

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

    def expire_lease(self) -> None:
        self.now += dt.timedelta(seconds=SETTINGS.lease_seconds + 1)


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
        )

    def run(self) -> str:
        try:
            return self.poller.run().stopped_by
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

    def read(self, wait_s: float) -> Batch:
        read = super().read
        batch: Batch = self.process.do("read", lambda: read(0))
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
        self.process.do("save", lambda: self.store.save(lease, position, events))

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


FAULTS = st.one_of(
    st.builds(
        Fault, st.sampled_from(STEPS), st.sampled_from(["before", "midway", "after"]), st.integers(1, 4), st.just(crash)
    ),
    st.builds(
        Fault,
        st.sampled_from(["write", "flush"]),
        st.sampled_from(["before", "midway", "after"]),
        st.integers(1, 4),
        st.just(fail),
    ),
    st.builds(
        Fault,
        st.sampled_from(["save", "dead letters"]),
        st.sampled_from(["before", "after"]),
        st.integers(1, 4),
        st.just(fail_state),
    ),
    st.builds(Fault, st.just("read"), st.sampled_from(["before", "after"]), st.integers(1, 4), st.just(fail_source)),
    st.builds(Fault, st.just("save"), st.just("before"), st.integers(1, 4), st.just(overtake)),
)


class Interleavings(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.world = World()
        self.warm: Process | None = None

    @rule(changes=st.lists(st.tuples(st.integers(0, 2), st.booleans()), min_size=1, max_size=9))
    def write(self, changes: list[tuple[int, bool]]) -> None:
        for key, poison in changes:
            document = {"_id": key, "number": len(self.world.events), "poison": poison}
            self.world.events.append(self.world.log.update(document))

    @rule()
    def run(self) -> None:
        assert Process(self.world).run() in ("caught-up", LeaseHeldError.__name__)

    @rule(fault=FAULTS)
    def run_with(self, fault: Fault) -> None:
        self.warm = Process(self.world, fault)
        self.warm.run()

    @precondition(lambda self: self.warm is not None and self.warm.alive)
    @rule(fault=st.none() | FAULTS)
    def run_again_in_the_same_process(self, fault: Fault | None) -> None:
        """As a warm Lambda does: with what the targets may still hold of the run before."""
        assert self.warm is not None
        self.warm.fault = fault
        self.warm.source.append(*self.world.events[self.warm.knows :])
        self.warm.knows = len(self.world.events)
        self.warm.run()

    @rule(at=st.integers(0, 20), step=st.sampled_from([ABORT, EMPTY]))
    def run_on_a_source_that_stumbles(self, at: int, step: Any) -> None:
        script = [*self.world.events[:at], step, *self.world.events[at:]]
        Process(self.world, script=script).run()

    @rule()
    def expire_lease(self) -> None:
        self.world.expire_lease()

    @invariant()
    def what_is_before_the_saved_position_is_durable(self) -> None:
        checkpoint = self.world.store.load(SETTINGS.stream_name)
        position = checkpoint.position if checkpoint else None
        if position is None or position.token is None:
            return
        ids = [event.event_id for event in self.world.events]
        passed = self.world.events[: ids.index(position.token.data) + 1]
        wanted = {event.event_id for event in passed if not is_poison(event)}
        everything = {event.event_id for event in passed}
        assert wanted <= set(self.world.direct)
        assert everything - wanted <= self.world.dead
        assert everything <= set(self.world.buffered)
        assert everything <= {event_id for each in self.world.objects.values() for event_id in each}

    @invariant()
    def each_document_is_in_order(self) -> None:
        self._in_order(ended=False)

    def teardown(self) -> None:
        self.world.expire_lease()
        assert Process(self.world).run() == "caught-up"
        self._in_order(ended=True)
        self.what_is_before_the_saved_position_is_durable()
        united = [event_id for each in self.world.objects.values() for event_id in each]
        assert sorted(united) == sorted(event.event_id for event in self.world.events), "not exactly once"

    def _in_order(self, *, ended: bool) -> None:
        for place, wanted in ((self.world.direct, lambda event: not is_poison(event)), (self.world.buffered, bool)):
            source = [(event.key, event.event_id) for event in self.world.events if wanted(event)]
            found = defects_of(source, place, ended=ended)
            assert (found.missing, found.order) == (0, 0), found.evidence


TestInterleavings = Interleavings.TestCase
TestInterleavings.settings = hypothesis_settings(
    max_examples=100, stateful_step_count=25, deadline=None, derandomize=True, print_blob=True
)


def test_what_a_failed_run_left_in_a_target_does_not_come_twice() -> None:
    """Found by this harness: a poller that is kept, as in a warm Lambda, flushed it together with its repetition."""
    world = World()
    world.events += [world.log.update({"_id": number}) for number in range(9)]
    process = Process(world, Fault("read", "before", 2, fail_source))
    assert process.run() == SourceUnavailableError.__name__
    assert process.run() == "caught-up"
    assert sum(len(each) for each in world.objects.values()) == len(world.events)
