"""Whatever fails in between: no position is saved past an event that is not durable in every target.

Hypothesis makes up histories of writes, runs, failures, crashes between any two steps, leases that run out and pollers
that overtake each other. Everything is in memory, the lease's clock is the test's.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from faults.histories import defects_of
from faults.world import (
    SETTINGS,
    STEPS,
    Fault,
    Process,
    World,
    WorldOfSteps,
    crash,
    fail,
    fail_source,
    fail_state,
    is_poison,
    overtake,
)
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from docdb_stream.errors import LeaseHeldError, SourceUnavailableError
from docdb_stream.events import ChangeEvent
from docdb_stream.testing.source import ABORT, EMPTY

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
    make_world: Callable[[], World] = World

    def __init__(self) -> None:
        super().__init__()
        self.world = self.make_world()
        self.warm: Process | None = None

    @rule(changes=st.lists(st.tuples(st.integers(0, 2), st.booleans()), min_size=1, max_size=9))
    def write(self, changes: list[tuple[int, bool]]) -> None:
        for key, poison in changes:
            document = {"_id": key, "number": len(self.world.events), "poison": poison}
            self.world.events.append(self.world.change(document))

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

    @rule(key=st.integers(0, 2), nth=st.integers(1, 3))
    def be_overtaken_with_much_to_do(self, key: int, nth: int) -> None:
        self.write([(key, False)] * 9)
        self.run_with(Fault("save", "before", nth, overtake))

    @rule(at=st.integers(0, 20), step=st.sampled_from([ABORT, EMPTY]))
    def run_on_a_source_that_stumbles(self, at: int, step: Any) -> None:
        script = [*self.world.events[:at], step, *self.world.events[at:]]
        Process(self.world, script=script).run()

    @rule()
    def expire_lease(self) -> None:
        self.world.expire_lease()

    @invariant()
    def what_is_before_the_saved_position_is_durable(self) -> None:
        passed = self._delivered_of(self._passed())
        wanted = {event.event_id for event in passed if not is_poison(event)}
        everything = {event.event_id for event in passed}
        assert wanted <= set(self.world.direct)
        assert everything - wanted <= self.world.dead
        assert everything <= set(self.world.buffered)
        assert everything <= {event_id for each in self.world.objects.values() for event_id in each}

    @invariant()
    def the_saved_position_never_goes_back(self) -> None:
        ids = [event.event_id for event in self.world.events]
        reached = [ids.index(position.token.data) for position in self.world.saved if position.token is not None]
        assert reached == sorted(reached)

    @invariant()
    def each_document_is_in_order(self) -> None:
        self._in_order(ended=False)

    def teardown(self) -> None:
        self.world.expire_lease()
        assert Process(self.world).run() == "caught-up"
        self._in_order(ended=True)
        self.what_is_before_the_saved_position_is_durable()
        united = [event_id for each in self.world.objects.values() for event_id in each]
        expected = self._delivered_of(self.world.events)
        assert sorted(united) == sorted(event.event_id for event in expected), "not exactly once"

    def _passed(self) -> Sequence[ChangeEvent]:
        """The events before the saved position."""
        checkpoint = self.world.store.load(SETTINGS.stream_name)
        position = checkpoint.position if checkpoint else None
        if position is None or position.token is None:
            return ()
        ids = [event.event_id for event in self.world.events]
        return self.world.events[: ids.index(position.token.data) + 1]

    def _delivered_of(self, events: Sequence[ChangeEvent]) -> list[ChangeEvent]:
        fates = map(self.world.fate_of, events)
        return [made for fate in fates if isinstance(fate, list) for made in fate]

    def _in_order(self, *, ended: bool) -> None:
        for place, wanted in ((self.world.direct, lambda event: not is_poison(event)), (self.world.buffered, bool)):
            source = [(event.key, event.event_id) for event in self._delivered_of(self.world.events) if wanted(event)]
            found = defects_of(source, place, ended=ended)
            assert (found.missing, found.order) == (0, 0), found.evidence


class SteppedInterleavings(Interleavings):
    """The same with steps on the way, whatever these leave out, refuse or make several events of."""

    make_world = WorldOfSteps

    @invariant()
    def every_event_is_accounted_for(self) -> None:
        """Of each event that a run has read it has delivered something, or filtered it by one rule, or rejected it."""
        ids = {event.event_id: number for number, event in enumerate(self.world.events, 1)}
        for result in self.world.results:
            if not result.read or result.stopped_by != "caught-up":
                continue
            assert result.position is not None
            assert result.position.token is not None
            end = ids[result.position.token.data]
            fates = [self.world.fate_of(event) for event in self.world.events[end - result.read : end]]
            names = Counter(fate for fate in fates if isinstance(fate, str))
            made = [event for fate in fates if isinstance(fate, list) for event in fate]
            assert result.rejections == names.pop("rejected", 0) + sum(map(is_poison, made))
            assert (result.filtered_by, result.filtered) == (names, names.total())
            assert result.events == len(made)
            assert result.unsaved == 0
        self.world.results.clear()

    @invariant()
    def what_a_step_refused_is_a_dead_letter(self) -> None:
        refused = {event.event_id for event in self._passed() if self.world.fate_of(event) == "rejected"}
        assert refused <= self.world.dead


TestInterleavings = Interleavings.TestCase
TestInterleavings.settings = hypothesis_settings(
    max_examples=100, stateful_step_count=25, deadline=None, derandomize=True, print_blob=True
)
TestSteppedInterleavings = SteppedInterleavings.TestCase
TestSteppedInterleavings.settings = hypothesis_settings(TestInterleavings.settings, max_examples=25)


def test_what_a_failed_run_left_in_a_target_does_not_come_twice() -> None:
    """Found by this harness: a poller that is kept, as in a warm Lambda, flushed it together with its repetition."""
    world = World()
    world.events += [world.log.update({"_id": number}) for number in range(9)]
    process = Process(world, Fault("read", "before", 2, fail_source))
    assert process.run() == SourceUnavailableError.__name__
    assert process.run() == "caught-up"
    assert sum(len(each) for each in world.objects.values()) == len(world.events)
