"""Steps in a run: what is delivered, counted and saved, and what is not when a step, or what follows it, fails."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import pytest
from scripted import BEFORE, ListTarget, World, failing, lose_history_after, paced

from docdb_stream.context import Deadline
from docdb_stream.errors import (
    ConfigError,
    DocdbStreamError,
    HistoryLostError,
    StateStoreError,
    StepError,
    TargetError,
)
from docdb_stream.events import ChangeEvent, Rejection
from docdb_stream.step import each
from docdb_stream.testing.source import EMPTY, ScriptedSource


def take_all(events: Sequence[ChangeEvent]) -> Iterable[ChangeEvent]:
    return []


def several(count: int) -> Any:
    """Makes so many of each."""

    def split(event: ChangeEvent) -> Iterator[ChangeEvent]:
        for number in range(1, count + 1):
            token = {"_data": f"{event.event_id}#{number}"}
            yield ChangeEvent(document={**event.document, "_id": token, "fullDocument": {"part": number}})

    return each(split)


def refuse(*events: ChangeEvent) -> Any:
    """Rejects these."""
    refused = {event.event_id for event in events}

    def picky(found: Sequence[ChangeEvent]) -> Iterator[ChangeEvent | Rejection]:
        for event in found:
            yield Rejection(event, "picky", "no") if event.event_id in refused else event

    return picky


# A step that takes everything away


def test_the_position_moves_on_though_a_step_takes_everything_away(five: World) -> None:
    five.steps = [take_all]
    result = five.poller().run()
    assert five.target.durable == []
    assert five.position == five.at(five.events[-1])
    assert (result.read, result.filtered, result.events, result.unsaved) == (5, 5, 0, 0)
    assert (result.loops, result.checkpoints, result.caught_up) == (5, 1, True)
    assert five.journal == [("flush", 0), ("save", 0)]


def test_its_loops_count_for_checkpoints(five: World) -> None:
    five.steps = [take_all]
    five.poller(state_sync_count=2).run()
    assert five.store.saved == [five.at(five.events[index]) for index in (1, 3, 4)]


def test_its_loops_count_for_max_loop(five: World) -> None:
    five.steps = [take_all]
    result = five.poller(max_loop=3).run()
    assert (result.loops, result.read, result.stopped_by) == (3, 3, "max-loop")
    assert five.position == five.at(five.events[2])


def test_an_empty_read_is_no_loop_with_steps_either(world: World) -> None:
    world.start_at()
    world.steps = [take_all]
    world.script(EMPTY, world.log.insert({"_id": 1}), EMPTY)
    assert world.poller().run().loops == 1


def test_a_deadline_after_much_was_filtered_is_no_failure(world: World) -> None:
    """What the checkpoint has passed is progress, delivered or not: the next run goes on from there."""
    world.start_at()
    world.happen(20)
    world.steps = [lambda events: [event for event in events if event.event_id == world.events[10].event_id]]

    def hang(events: Sequence[ChangeEvent]) -> None:
        limit.stop.wait(0.8)

    world.target.on_write = hang
    limit = Deadline.after(0.5)
    result = world.poller(state_sync_count=2).run(limit=limit)
    assert (result.stopped_by, result.events) == ("deadline", 0)
    assert result.position == world.at(world.events[9])
    assert result.read - result.unsaved == 10
    assert result.filtered >= 10


# A step that makes other events


def test_what_a_step_makes_is_delivered_in_its_order(five: World) -> None:
    five.source = ScriptedSource(five.events, batch_size=5)
    five.steps = [several(2)]
    result = five.poller(batch_size=5).run()
    assert [event.event_id for event in five.target.durable] == [
        f"{event.event_id}#{number}" for event in five.events for number in (1, 2)
    ]
    assert (result.read, result.events, result.filtered, result.unsaved) == (5, 10, 0, 0)
    assert five.position == five.at(five.events[-1]), "the position is the source's, never one that a step made"


def test_two_targets_get_the_same(five: World) -> None:
    other = ListTarget([], "other")
    five.targets.append(other)
    calls: list[int] = []
    five.steps = [lambda events: calls.append(len(events)) or events[:1]]
    five.poller().run()
    assert five.target.durable == other.durable == five.events
    assert sum(calls) == 5, "called once for both"


def test_a_replay_gives_the_same_events(five: World) -> None:
    five.steps = [several(2)]
    five.store.fail_save = True
    with pytest.raises(StateStoreError):
        five.poller().run()
    five.store.fail_save = False
    five.poller().run()
    first, second = five.target.durable[:10], five.target.durable[10:]
    assert [event.event_id for event in first] == [event.event_id for event in second]
    assert [event.render("extended") for event in first] == [event.render("extended") for event in second]


# Rejections


def test_rejections_of_a_step_are_dead_letters_before_the_position_passes_them(five: World) -> None:
    five.steps = [refuse(five.events[1], five.events[3])]
    five.target.rejected = {five.events[2].event_id}
    result = five.poller(state_sync_count=5).run()
    assert five.journal == [("flush", 2), ("letters", 3), ("save", 3)]
    assert {(found.event.event_id, found.target) for found in five.letters.written} == {
        (five.events[1].event_id, "picky"),
        (five.events[2].event_id, "list"),
        (five.events[3].event_id, "picky"),
    }
    assert (result.read, result.events, result.filtered, result.rejections) == (5, 3, 0, 3)
    assert (result.targets["list"].events, result.targets["list"].rejections) == (2, 1)


def test_nothing_is_saved_past_a_steps_rejection_that_cannot_be_kept(five: World) -> None:
    five.steps = [refuse(five.events[2])]
    five.letters.fail = True
    with pytest.raises(StateStoreError, match="dead letters"):
        five.poller(state_sync_count=2).run()
    assert five.store.saved == [five.at(five.events[1])]
    five.letters.fail = False
    five.poller().run()
    assert [found.event for found in five.letters.written] == [five.events[2]], "once, of the run that could"
    assert five.position == five.at(five.events[-1])


def test_a_failing_target_takes_a_steps_rejection_with_it(five: World) -> None:
    """The next run makes it again; a letter of the first one would be a second one."""
    five.steps = [refuse(five.events[0])]

    def once() -> None:
        five.target.on_flush = lambda: None
        raise TargetError("list", "no")

    five.target.on_flush = once
    poller = five.poller()
    with pytest.raises(TargetError):
        poller.run()
    assert (five.letters.written, five.position) == ([], BEFORE)
    assert poller.run().rejections == 1
    assert len(five.letters.written) == 1


def test_what_a_function_raises_is_a_dead_letter_and_the_run_goes_on(five: World) -> None:
    def third_fails(event: ChangeEvent) -> ChangeEvent:
        if event.event_id == five.events[2].event_id:
            raise ValueError("tr0ub4dor")
        return event

    five.source = ScriptedSource(five.events, batch_size=5)
    five.steps = [each(third_fails)]
    result = five.poller(batch_size=5).run()
    [found] = five.letters.written
    assert (found.event, found.target) == (five.events[2], "third_fails")
    assert "tr0ub4dor" not in found.reason
    assert (result.events, result.rejections, result.caught_up) == (4, 1, True)
    assert five.position == five.at(five.events[-1])


# A step that fails


def third_fails(world: World) -> Any:
    def midway(events: Sequence[ChangeEvent]) -> Iterator[ChangeEvent]:
        for event in events:
            if event.event_id == world.events[2].event_id:
                raise ValueError("a bug")
            yield event

    return midway


@pytest.mark.parametrize("batch_size", [1, 5])
def test_nothing_is_saved_past_a_batch_that_a_step_failed_at(five: World, batch_size: int) -> None:
    five.source = ScriptedSource(five.events, batch_size=batch_size)
    five.steps = [third_fails(five)]
    with pytest.raises(StepError, match="step midway: raised ValueError"):
        five.poller(batch_size=batch_size, state_sync_count=1).run()
    before = 2 if batch_size == 1 else 0
    assert five.target.durable == five.events[:before], "of that batch nothing came to a target"
    assert five.position == (five.at(five.events[1]) if before else BEFORE)
    five.steps = []
    five.poller().run()
    assert five.target.durable == five.events


def test_after_a_step_that_failed_the_lease_is_free_and_it_is_told_to_people(
    five: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[Exception] = []
    five.steps = [third_fails(five)]
    poller = five.poller()
    monkeypatch.setattr(poller.alerts, "send", told.append)
    with pytest.raises(StepError) as caught:
        poller.run()
    assert told == [caught.value]
    assert caught.value.position_time == BEFORE.time
    found = five.store.load("shop.orders")
    assert found is not None
    assert found.owner is None


def test_a_step_that_cannot_work_now_ends_the_run_with_its_own_error(five: World) -> None:
    error = DocdbStreamError("the price list is away")

    def unable(events: Sequence[ChangeEvent]) -> Any:
        raise error

    five.steps = [unable]
    with pytest.raises(DocdbStreamError) as caught:
        five.poller().run()
    assert caught.value is error
    assert five.position == BEFORE


# With what else a run does


def test_history_that_is_lost_takes_nothing_with_it_that_went_through_the_steps(world: World) -> None:
    world.start_at()
    world.happen(6)
    lose_history_after(world, 3)
    world.steps = [refuse(world.events[1]), several(2)]
    result = world.poller(on_history_lost="earliest", state_sync_count=100).run()
    made = [event.event_id.partition("#")[0] for event in world.target.durable]
    assert made[:4] == [world.events[index].event_id for index in (0, 0, 2, 2)]
    assert [found.event for found in world.letters.written] == [world.events[1]]
    assert result.unsaved == 0
    assert result.rejections == 1


def test_only_the_source_can_say_that_history_is_lost(five: World) -> None:
    """The run would go on somewhere else, and what is between would be delivered nowhere."""
    five.steps = [each(failing(HistoryLostError("of something else")), "lookup")]
    with pytest.raises(StepError, match="lookup"):
        five.poller(on_history_lost="now").run()
    assert five.position == BEFORE
    assert five.store.ledger() == []


def test_a_paced_target_gets_no_more_than_it_takes_of_what_steps_made(world: World) -> None:
    target = paced(world, 6)
    taken: list[int] = []
    target.on_write = lambda events: taken.append(sum(event.size_bytes for event in events))
    world.steps = [several(3)]
    result = world.poller(batch_size=100, state_sync_count=1000).run()
    assert [event.event_id for event in target.durable] == [
        f"{event.event_id}#{number}" for event in world.events for number in (1, 2, 3)
    ]
    assert (result.read, result.events, result.loops) == (6, 18, 1)
    largest = max(event.size_bytes for event in target.durable)
    assert max(taken) <= 2 * largest


def test_a_paced_target_and_a_step_that_takes_everything_away(world: World) -> None:
    paced(world, 6)
    world.steps = [take_all]
    result = world.poller(batch_size=100).run()
    assert (result.read, result.filtered, result.loops, result.caught_up) == (6, 6, 1, True)
    assert world.position == world.at(world.events[-1])


def test_a_stop_within_what_a_step_made_loses_nothing(world: World) -> None:
    world.start_at()
    world.happen(40)
    limit = Deadline.after(60)
    world.steps = [several(2)]
    world.target.on_write = lambda events: limit.stop.set() if len(world.target.held) > 10 else None
    result = world.poller().run(limit=limit)
    assert result.stopped_by == "signal"
    assert result.unsaved == 0
    assert len(world.target.durable) == result.events == 2 * result.read
    assert world.position == world.at(world.events[result.read - 1])


def test_rejections_of_a_step_that_take_much_room_force_a_checkpoint(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("docdb_stream.delivery.REJECTED_BYTES", 1)
    world.start_at()
    world.happen(3)
    world.steps = [refuse(*world.events)]
    world.poller(state_sync_count=1000).run()
    assert world.store.saved == [world.at(event) for event in world.events]


# How steps are given


def test_a_steps_name_is_no_targets(five: World) -> None:
    five.steps = [each(lambda event: event, "list")]
    with pytest.raises(ConfigError, match="list"):
        five.poller()
