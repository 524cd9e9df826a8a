"""What another has read and pushes: steps, targets, dead letters, and the word of what failed first."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from typing import Any

import pytest
from scripted import ListTarget

from docdb_stream.context import current_run
from docdb_stream.errors import CheckpointConflictError, ConfigError, StateStoreError, StepError, TargetError
from docdb_stream.events import ChangeEvent, Rejection
from docdb_stream.handlers import _push
from docdb_stream.handlers._push import Pushed, push
from docdb_stream.settings import Settings
from docdb_stream.step import Step, each
from docdb_stream.testing.events import ChangeLog


class Context:
    def get_remaining_time_in_millis(self) -> int:
        return 60_000


class World:
    def __init__(self) -> None:
        self.log = ChangeLog()
        self.events = self.log.inserts(7)
        self.target = ListTarget([])
        self.steps: list[Step] = []
        self.letters: list[Rejection] = []
        self.letters_error: Exception | None = None
        self.built = 0

    def write(self, stream: str, rejections: Sequence[Rejection]) -> None:
        assert stream == "shop.orders"
        if self.letters_error is not None:
            raise self.letters_error
        self.letters += rejections

    def build_targets(self, settings: Settings) -> list[ListTarget]:
        self.built += 1
        return [self.target]

    def push(self, *, in_parts: bool = False) -> Pushed:
        return push(lambda: self.events, Context(), in_parts=in_parts)


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    """A container that has just started."""
    world = World()
    monkeypatch.setattr(_push, "_kept", None)
    monkeypatch.setattr(_push, "build_targets", world.build_targets)
    monkeypatch.setattr(_push, "steps_for", lambda settings, targets: world.steps)
    monkeypatch.setattr(_push, "dead_letters_for", lambda settings, connection: world)
    for name, value in {
        "WATCHED_DB_NAME": "shop",
        "WATCHED_COLLECTION_NAME": "orders",
        "STDOUT": "true",
        "DEAD_LETTERS": "s3://letters/here",
        "BATCH_SIZE": "2",
    }.items():
        monkeypatch.setenv(name, value)
    return world


def fail_at(event: ChangeEvent) -> Any:
    def fail(events: Sequence[ChangeEvent]) -> None:
        if event in events:
            raise TargetError("list", "not this one")

    return fail


def test_everything_is_settled_before_the_answer(world: World) -> None:
    world.target.rejected = {world.events[3].event_id}
    pushed = world.push()
    assert world.target.durable == [event for event in world.events if event is not world.events[3]]
    assert [found.event for found in world.letters] == [world.events[3]]
    assert (pushed.settled, pushed.events, pushed.rejections, pushed.error) == (7, 7, 1, None)
    assert pushed.as_dict() == {"stream": "shop.orders", "events": 7, "rejections": 1}


def test_steps_come_first(world: World) -> None:
    refused = world.events[4]

    def odd_ones(event: ChangeEvent) -> Any:
        if event is refused:
            raise ValueError
        return event if world.events.index(event) % 2 else None

    world.steps = [each(odd_ones)]
    pushed = world.push()
    assert world.target.durable == world.events[1::2]
    assert [(found.event, found.target) for found in world.letters] == [(refused, "odd_ones")]
    assert (pushed.settled, pushed.events, pushed.filtered, pushed.rejections) == (7, 3, 3, 1)
    assert pushed.as_dict() == {
        "stream": "shop.orders",
        "events": 3,
        "filtered": 3,
        "filtered_by": {"odd_ones": 3},
        "rejections": 1,
    }


def test_a_step_that_takes_everything_settles_everything(world: World) -> None:
    world.steps = [lambda events: []]
    pushed = world.push(in_parts=True)
    assert (pushed.settled, pushed.events, pushed.filtered, pushed.error) == (7, 0, 7, None)


def test_nothing_counts_that_is_not_durable(world: World) -> None:
    world.target.on_write = fail_at(world.events[5])
    pushed = world.push()
    assert isinstance(pushed.error, TargetError)
    assert (pushed.settled, pushed.events, world.letters) == (0, 0, [])
    assert world.target.durable == []


def test_what_failed_first_is_told_where_parts_are_settled(world: World) -> None:
    """For a trigger that sends again from there: the events before are durable, and none of the others is passed."""
    world.target.rejected = {world.events[0].event_id}
    world.target.on_write = fail_at(world.events[5])
    pushed = world.push(in_parts=True)
    assert isinstance(pushed.error, TargetError)
    assert (pushed.settled, pushed.events, pushed.rejections) == (4, 4, 1)
    assert world.target.durable == world.events[1:4]
    world.target.on_write = lambda events: None
    world.events = world.events[pushed.settled :]
    assert world.push(in_parts=True).settled == 3
    assert len(world.target.durable) == 6
    assert world.built == 2, "after a failure nothing of it is trusted"


def test_what_failed_in_the_first_part_is_the_first(world: World) -> None:
    world.target.on_flush = lambda: 1 / 0  # type: ignore[assignment, return-value]
    pushed = world.push(in_parts=True)
    assert (pushed.settled, world.target.durable) == (0, [])
    assert isinstance(pushed.error, TargetError)


def test_a_step_that_fails_settles_what_came_before(world: World) -> None:
    def midway(events: Sequence[ChangeEvent]) -> Any:
        for event in events:
            if event is world.events[3]:
                raise ValueError
            yield event

    world.steps = [midway]
    pushed = world.push(in_parts=True)
    assert isinstance(pushed.error, StepError)
    assert (pushed.settled, world.target.durable) == (2, world.events[:2])


def test_dead_letters_that_are_away_settle_nothing(world: World) -> None:
    world.target.rejected = {world.events[2].event_id}
    world.letters_error = StateStoreError("away")
    pushed = world.push(in_parts=True)
    assert pushed.error is world.letters_error
    assert (pushed.settled, pushed.rejections) == (2, 0)


def test_what_cannot_be_read_reaches_no_target(world: World) -> None:
    def read() -> Sequence[ChangeEvent]:
        raise ConfigError("no payload of mine")

    with pytest.raises(ConfigError):
        push(read, Context())
    assert world.built == 0


def test_the_parts_are_kept_and_closed_after_a_failure(world: World) -> None:
    world.push()
    world.push()
    assert (world.built, world.target.closed) == (1, 0)
    world.target.on_write = fail_at(world.events[0])
    world.push()
    assert world.target.closed >= 1


def test_what_is_late_may_not_act_any_more(world: World) -> None:
    seen: list[Any] = []
    world.target.on_write = lambda events: seen.append(current_run())
    world.push()
    assert len({id(run) for run in seen}) == 1
    with pytest.raises(CheckpointConflictError):
        seen[0].check_lease()


def test_metrics_are_of_what_is_durable(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    world.steps = [lambda events: events[:1]]
    world.target.on_write = fail_at(world.events[2])
    world.push()
    assert capsys.readouterr().out == "", "nothing is"
    world.push(in_parts=True)
    out = capsys.readouterr().out
    assert '"Events":[1.0]' in out.replace(" ", "") or '"Events":[1]' in out.replace(" ", "")
    assert "Filtered" in out


def test_the_lag_is_that_of_durable_events(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A target that takes long to make them durable is behind by that, too."""
    clock = [world.events[-1].cluster_time.as_datetime() + dt.timedelta(seconds=5)]
    monkeypatch.setattr(_push, "now", lambda: clock[0])

    def flush() -> None:
        clock[0] += dt.timedelta(seconds=20)

    world.target.on_flush = flush
    assert world.push().lag_s == 25


def test_a_step_that_has_a_targets_name_is_refused(world: World) -> None:
    world.steps = [each(lambda event: event, "list")]
    with pytest.raises(ConfigError, match="list"):
        world.push()
