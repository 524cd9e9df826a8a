"""What a stream that follows waits for, and what ends it: by scripted runs and a clock that only waits move."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from docdb_stream.context import Deadline
from docdb_stream.errors import (
    CheckpointConflictError,
    ConfigError,
    DocdbStreamError,
    HistoryLostError,
    LeaseHeldError,
    SourceUnavailableError,
    StateStoreError,
    TargetError,
    TargetGoneError,
)
from docdb_stream.follower import FIRST_WAIT_S, LEASE_WAIT_S, MAX_WAIT_S, Follower, Patience, Progress
from docdb_stream.result import RunResult, TargetFigures

AWAY = SourceUnavailableError("no usable server")
STATE_AWAY = StateStoreError("no usable server for the state")
TARGET_AWAY = TargetError("kafka", "no broker")
HELD = LeaseHeldError("another run")
LOST = CheckpointConflictError("the lease ran out")
REFUSED = SourceUnavailableError("refuses the password", refused=True)


class Stop(threading.Event):
    """A stop whose waits pass at once on the clock; ``at_s`` is when it is asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s, self.at_s = 1000.0, float("inf")
        self.waits: list[float] = []

    def wait(self, timeout: float | None = None) -> bool:
        assert timeout is not None
        self.waits.append(timeout)
        ends_s = min(self.now_s + timeout, max(self.at_s, self.now_s))
        self.now_s = ends_s
        if ends_s >= self.at_s:
            self.set()
        return self.is_set()


class World:
    """A stream whose runs are scripted: an error, or a function of the callback for progress. Then all is well."""

    def __init__(self, *script: DocdbStreamError | Callable[[Progress], RunResult]) -> None:
        self.script = list(script)
        self.stop = Stop()
        self.limit = Deadline(stop=self.stop, clock=lambda: self.stop.now_s)
        self.told: list[Any] = []
        self.seen: list[RunResult] = []
        self.runs = 0

    def attempt(self, progress: Progress) -> RunResult:
        self.runs += 1
        step = self.script.pop(0) if self.script else reads()
        if isinstance(step, DocdbStreamError):
            raise step
        if isinstance(step, looks):
            step.world = self
        return step(progress)

    def follow(self, patience: Patience | None = None) -> RunResult:
        return Follower(self.attempt, self.limit, patience or Patience(trouble=True), self).run()

    def progress(self, result: RunResult) -> None:
        self.seen.append(result)

    def waiting(self, error: DocdbStreamError, for_s: float) -> None:
        self.told.append((error, for_s))

    def goes_on(self, after_s: float) -> None:
        self.told.append(after_s)


class looks:
    """A run that fails after so many seconds, which may have worked until just before."""

    def __init__(self, error: DocdbStreamError, seconds: float, reads_first: bool = False) -> None:
        self.error, self.seconds, self.reads_first = error, seconds, reads_first
        self.world: World | None = None

    def __call__(self, progress: Progress) -> RunResult:
        assert self.world is not None
        self.world.stop.now_s += self.seconds
        if self.reads_first:
            progress(RunResult("s", checkpoints=1, began_at="checkpoint"))
        raise self.error


def reads(
    error: DocdbStreamError | None = None, *, checkpoints: int = 1, events: int = 0
) -> Callable[[Progress], RunResult]:
    """A run that comes as far as reading, and then ends."""

    def run(progress: Progress) -> RunResult:
        result = RunResult("s", events=events, read=events, checkpoints=checkpoints, began_at="checkpoint")
        result.targets = {"list": TargetFigures(events=events)}
        progress(result)
        if error is not None:
            raise error
        return result

    return run


@pytest.mark.parametrize("error", [AWAY, STATE_AWAY, TARGET_AWAY, LOST], ids=lambda error: error.kind)
@pytest.mark.parametrize("worked", [False, True])
def test_trouble_that_may_pass_is_waited_for(error: DocdbStreamError, worked: bool) -> None:
    world = World(reads(error) if worked else error, error, error)
    assert world.follow().stream == "s"
    assert world.runs == 4
    [(told, _), after_s] = world.told
    assert told is error
    assert after_s == sum(world.stop.waits)


@pytest.mark.parametrize(
    "error",
    [
        ConfigError("wrong"),
        HistoryLostError("lost"),
        REFUSED,
        StateStoreError("may not write", refused=True),
        HELD,
        TargetGoneError("stdout", "Broken pipe"),
        DocdbStreamError("a bug"),
    ],
    ids=str,
)
def test_trouble_that_needs_an_operator_ends_it(error: DocdbStreamError) -> None:
    world = World(error)
    with pytest.raises(type(error)):
        world.follow()
    assert (world.runs, world.told, world.stop.waits) == (1, [], [])


@pytest.mark.parametrize("error", [REFUSED, HELD, ConfigError("the secret cannot be read")], ids=str)
def test_what_worked_before_may_work_again(error: DocdbStreamError) -> None:
    world = World(reads(AWAY), error)
    world.follow()
    assert world.runs == 3


@pytest.mark.parametrize("error", [HistoryLostError("lost"), TargetGoneError("stdout", "x"), DocdbStreamError("a bug")])
def test_some_trouble_never_passes(error: DocdbStreamError) -> None:
    with pytest.raises(type(error)):
        World(reads(error)).follow()


def test_without_follow_only_a_lease_is_waited_for() -> None:
    patience = Patience(lease=True)
    world = World(HELD, HELD, HELD)
    world.follow(patience)
    assert world.stop.waits == [LEASE_WAIT_S] * 3
    assert len(world.told) == 2
    for error in (AWAY, TARGET_AWAY, REFUSED, LOST):
        with pytest.raises(type(error)):
            World(error).follow(patience)


def test_without_any_patience_nothing_is_waited_for() -> None:
    for error in (HELD, AWAY, TARGET_AWAY):
        with pytest.raises(type(error)):
            World(error).follow(Patience())


def test_the_waits_grow_and_are_bounded_and_start_small_again() -> None:
    world = World(*[AWAY] * 8, reads(AWAY))
    world.follow()
    assert world.stop.waits[:3] == [FIRST_WAIT_S, 2 * FIRST_WAIT_S, 4 * FIRST_WAIT_S]
    assert world.stop.waits[7] == MAX_WAIT_S
    assert world.stop.waits[8] == FIRST_WAIT_S


def test_one_outage_is_told_once_on_whichever_call_it_is_noticed() -> None:
    world = World(AWAY, STATE_AWAY, AWAY, HELD, HELD)
    world.follow(Patience(trouble=True, lease=True))
    assert [told[0] for told in world.told[:-1]] == [AWAY, HELD]


def test_a_target_is_back_once_a_checkpoint_was_made() -> None:
    """Reading goes well while a target is away: each run reads, and fails as it delivers."""
    world = World(*[reads(TARGET_AWAY, checkpoints=0)] * 5)
    world.follow()
    assert len(world.told) == 2
    assert world.stop.waits == [1, 2, 4, 8, 16]


@pytest.mark.parametrize("error", [AWAY, TARGET_AWAY, HELD, LOST], ids=lambda error: error.kind)
def test_a_stop_ends_the_wait_with_the_trouble(error: DocdbStreamError) -> None:
    world = World(*[error] * 200)
    world.stop.at_s = world.stop.now_s + 100
    with pytest.raises(type(error)):
        world.follow(Patience(trouble=True, lease=True))
    assert world.stop.now_s == 1100
    assert world.runs == len(world.stop.waits)


def test_a_stop_that_comes_with_the_trouble_is_not_waited_after() -> None:
    world = World(AWAY)
    world.stop.set()
    with pytest.raises(SourceUnavailableError):
        world.follow()
    assert (world.stop.waits, world.told) == ([], [])


def test_the_deadline_ends_the_wait_with_the_trouble() -> None:
    world = World(*[AWAY] * 50)
    world.limit.at_s = world.stop.now_s + 10
    with pytest.raises(SourceUnavailableError):
        world.follow()
    assert world.stop.now_s == world.limit.at_s


@pytest.mark.parametrize("seconds", [0, 0.5, 45])
def test_giving_up_counts_from_the_last_sign_of_life(seconds: float) -> None:
    world = World(*[AWAY] * 50)
    with pytest.raises(SourceUnavailableError):
        world.follow(Patience(trouble=True, give_up_after_s=seconds))
    assert world.stop.now_s == 1000 + seconds


@pytest.mark.parametrize(("seconds", "look_s", "runs"), [(3, 2.7, 1), (12, 10, 1), (45, 10, 4), (0.5, 2, 1)])
def test_no_look_is_begun_that_would_last_beyond_giving_up(seconds: float, look_s: float, runs: int) -> None:
    world = World(*[looks(AWAY, look_s)] * 50)
    with pytest.raises(SourceUnavailableError):
        world.follow(Patience(trouble=True, give_up_after_s=seconds))
    assert world.stop.now_s == pytest.approx(1000 + max(seconds, look_s))
    assert world.runs == runs


def test_a_stop_ends_the_wait_for_giving_up_too() -> None:
    world = World(looks(AWAY, 8))
    world.stop.at_s = world.stop.now_s + 9
    with pytest.raises(SourceUnavailableError):
        world.follow(Patience(trouble=True, give_up_after_s=12))
    assert (world.stop.now_s, world.runs) == (1009, 1)


def test_a_long_run_that_worked_is_no_long_look() -> None:
    world = World(looks(AWAY, 3600, reads_first=True), AWAY, AWAY)
    world.follow(Patience(trouble=True, give_up_after_s=45))
    assert world.runs == 4


def test_giving_up_starts_anew_with_each_trouble() -> None:
    world = World(AWAY, AWAY, AWAY, reads(AWAY), AWAY, AWAY)
    world.follow(Patience(trouble=True, give_up_after_s=10))
    assert world.runs == 7


def test_the_result_is_of_all_runs() -> None:
    world = World(reads(AWAY, events=3, checkpoints=2), AWAY, reads(LOST, events=2), reads(events=5))
    result = world.follow()
    assert (result.events, result.read, result.checkpoints) == (10, 10, 4)
    assert result.targets == {"list": TargetFigures(events=10)}
    assert result.duration_s == sum(world.stop.waits)
    assert [each.read for each in world.seen] == [3, 5, 10]
