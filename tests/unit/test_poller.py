"""The run, with a scripted source, a store in memory and targets that are lists."""

from __future__ import annotations

import datetime as dt
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import orjson
import pytest
from bson import Timestamp
from scripted import BEFORE, STREAM, ListTarget, World, failing, lose_history_after, paced

from docdb_stream import poller as poller_module
from docdb_stream.context import Deadline, RunContext, check_lease, current_run
from docdb_stream.errors import (
    CheckpointConflictError,
    ConfigError,
    DocdbStreamError,
    HistoryLostError,
    LeaseHeldError,
    SourceUnavailableError,
    StateStoreError,
    TargetError,
)
from docdb_stream.events import Batch, ChangeEvent, Namespace, Position, ResumeToken
from docdb_stream.poller import Poller, RunResult
from docdb_stream.position import SnapshotProgress, SnapshotRange
from docdb_stream.settings import Settings
from docdb_stream.target import Rejection
from docdb_stream.testing.positions import KEYS
from docdb_stream.testing.source import ABORT, EMPTY, ScriptedSource

# The straight line


def test_everything_is_delivered_and_then_saved(five: World) -> None:
    result = five.poller().run()
    assert five.target.durable == five.events
    assert five.position == five.at(five.events[-1])
    assert five.journal == [("flush", 5), ("save", 5)]
    assert (result.events, result.read, result.loops, result.checkpoints) == (5, 5, 5, 1)
    assert (result.caught_up, result.lag_s, result.stopped_by, result.rejections) == (True, 0.0, "caught-up", 0)


def test_a_second_run_with_nothing_new_delivers_nothing(five: World) -> None:
    five.poller().run()
    result = five.poller().run()
    assert five.target.durable == five.events
    assert (result.events, result.loops, result.caught_up) == (0, 0, True)
    assert five.position is not None
    assert five.position.operation_time == five.events[-1].cluster_time


def test_the_next_run_goes_on_where_the_last_one_stopped(five: World) -> None:
    poller = five.poller()
    poller.run()
    five.happen(3)
    result = poller.run()
    assert result.events == 3
    assert five.target.durable == five.events
    assert five.source.opened[-1].token == five.events[4].token


def test_a_checkpoint_every_so_many_loops(five: World) -> None:
    result = five.poller(state_sync_count=2).run()
    assert five.journal == [("flush", 2), ("save", 2), ("flush", 2), ("save", 2), ("flush", 1), ("save", 1)]
    assert five.store.saved == [five.at(five.events[index]) for index in (1, 3, 4)]
    assert (result.events, result.checkpoints) == (5, 3)


def test_a_batch_is_one_loop_whatever_its_size(five: World) -> None:
    five.source = ScriptedSource(five.events, batch_size=5)
    result = five.poller(batch_size=5, state_sync_count=2).run()
    assert (result.loops, result.events, result.checkpoints) == (1, 5, 1)


def test_rejections_are_in_the_dead_letters_before_the_position_passes_them(five: World) -> None:
    five.target.rejected = {five.events[1].event_id, five.events[3].event_id}
    result = five.poller(state_sync_count=3).run()
    assert five.journal == [("flush", 2), ("letters", 1), ("save", 3), ("flush", 1), ("letters", 1), ("save", 2)]
    assert [rejection.event for rejection in five.letters.written] == [five.events[1], five.events[3]]
    assert five.target.durable == [five.events[index] for index in (0, 2, 4)]
    assert (result.rejections, result.events) == (2, 5)
    assert (result.targets["list"].events, result.targets["list"].rejections) == (3, 2)


# Without a target, or with two that cannot be told apart


@pytest.mark.parametrize("names", [[], ["list", "list"], ["a", "b", "a"]], ids=["none", "two", "among others"])
def test_targets_that_lose_or_confuse_events_are_refused(
    five: World, monkeypatch: pytest.MonkeyPatch, names: list[str]
) -> None:
    five.targets = [ListTarget(five.journal, name) for name in names]
    with pytest.raises(ConfigError, match="target") as caught:
        five.poller()
    assert caught.value.hint
    monkeypatch.setattr(poller_module, "Connection", failing(AssertionError("a connection that nobody closes")))
    with pytest.raises(ConfigError, match="target"):
        Poller.from_settings(Settings(documentdb_uri="mongodb://nowhere"), iter(five.targets))  # type: ignore[arg-type]
    assert five.position == BEFORE
    assert five.source.opened == []


# What fails saves nothing


@pytest.mark.parametrize("error", [TargetError("list", "full"), OSError("no space left")], ids=["target", "bug"])
@pytest.mark.parametrize("step", ["on_write", "on_flush"])
def test_nothing_is_saved_past_a_failing_target(five: World, step: str, error: Exception) -> None:
    setattr(five.target, step, failing(error))
    with pytest.raises(TargetError, match="target list"):
        five.poller(state_sync_count=2).run()
    assert five.position == BEFORE
    assert five.store.saved == []


@pytest.mark.parametrize("step", ["write", "flush"])
def test_a_target_cannot_say_that_history_is_lost(five: World, step: str) -> None:
    """The run would go on somewhere else, and what is between would be delivered nowhere."""
    setattr(five.target, f"on_{step}", failing(HistoryLostError("of something else")))
    with pytest.raises(TargetError, match="list"):
        five.poller(on_history_lost="now").run()
    assert five.position == BEFORE
    assert five.store.ledger() == []


def test_nothing_is_saved_past_the_event_that_fails(five: World) -> None:
    def refuse_fourth(events: Sequence[ChangeEvent]) -> None:
        if five.events[3] in events:
            raise TargetError("list", "not this one")

    five.target.on_write = refuse_fourth
    with pytest.raises(TargetError):
        five.poller(state_sync_count=2).run()
    assert five.store.saved == [five.at(five.events[1])]
    assert five.nothing_is_saved_past(five.target.durable)
    five.target.on_write = lambda events: None
    five.poller(state_sync_count=2).run()
    assert list(dict.fromkeys(five.target.durable)) == five.events
    assert five.position == five.at(five.events[-1])


def test_one_failing_target_holds_the_position_for_all(five: World) -> None:
    broken = ListTarget([], "broken")
    broken.on_flush = failing(TargetError("broken", "no"))
    five.targets.append(broken)
    with pytest.raises(TargetError, match="target broken"):
        five.poller().run()
    assert five.target.durable == five.events, "the other one's work is done all the same"
    assert five.position == BEFORE


def test_nothing_is_saved_past_dead_letters_that_cannot_be_kept(five: World) -> None:
    five.target.rejected = {five.events[2].event_id}
    five.letters.fail = True
    with pytest.raises(StateStoreError, match="dead letters"):
        five.poller(state_sync_count=2).run()
    assert five.store.saved == [five.at(five.events[1])]
    five.letters.fail = False
    five.poller().run()
    assert [rejection.event for rejection in five.letters.written] == [five.events[2]]


def test_a_save_that_fails_ends_the_run(five: World) -> None:
    five.store.fail_save = True
    with pytest.raises(StateStoreError):
        five.poller(state_sync_count=2).run()
    assert five.position == BEFORE
    five.store.fail_save = False
    five.poller().run()
    assert five.target.durable[-5:] == five.events


def test_a_source_that_fails_ends_the_run_after_what_it_gave(world: World) -> None:
    world.start_at()
    world.script(world.log.insert({"_id": 1}), ABORT, world.log.insert({"_id": 2}))
    with pytest.raises(SourceUnavailableError):
        world.poller(state_sync_count=1).run()
    assert world.position == world.at(world.events[0])
    world.poller().run()
    assert world.target.durable == world.events


@pytest.mark.parametrize("step", ["on_write", "on_flush"])
def test_after_every_failure_the_lease_is_free(five: World, step: str) -> None:
    setattr(five.target, step, failing(TargetError("list", "no")))
    with pytest.raises(TargetError):
        five.poller().run()
    found = five.store.load(STREAM)
    assert found is not None
    assert found.owner is None


def test_a_crash_after_any_step_loses_nothing(world: World) -> None:
    """Each run dies at a later step than the one before; at last one gets through."""
    world.start_at()
    world.happen(6)
    for steps in range(20):
        left = iter(range(steps))

        def die_at_last(*_: object, left: Any = left) -> None:
            if next(left, None) is None:
                raise TargetError("list", "the process died here")

        world.target.on_write = world.target.on_flush = die_at_last
        world.target.held = []
        try:
            world.poller(state_sync_count=2).run()
        except TargetError:
            assert world.nothing_is_saved_past(world.target.durable)
        else:
            break
    else:
        pytest.fail("no run got through")
    assert list(dict.fromkeys(world.target.durable)) == world.events
    assert world.position == world.at(world.events[-1])


# The lease


def test_a_held_lease_stops_the_run_before_it_does_anything(five: World) -> None:
    five.store.acquire(STREAM, Namespace("shop", "orders"), "another run", 60)
    with pytest.raises(LeaseHeldError):
        five.poller().run()
    assert five.source.opened == []
    assert five.target.durable == []


def test_a_lost_lease_saves_nothing(five: World) -> None:
    def steal() -> None:
        now = dt.datetime.now(dt.UTC) + dt.timedelta(hours=1)
        five.store._clock = lambda: now  # the lease has run out
        five.store.acquire(STREAM, Namespace("shop", "orders"), "thief", 60)

    five.target.on_flush = steal
    with pytest.raises(CheckpointConflictError):
        five.poller().run()
    assert five.position == BEFORE
    found = five.store.load(STREAM)
    assert found is not None
    assert found.owner == "thief", "the release of the loser changes nothing"


def test_every_thread_of_a_run_has_its_context_which_refuses_once_the_run_is_over(five: World) -> None:
    seen: list[RunContext] = []

    def look(events: Sequence[ChangeEvent]) -> None:
        check_lease()
        seen.append(current_run())

    five.target.on_write = look
    read, open_ = [], five.source.open

    def opened(position: Position) -> Any:
        read.append(current_run())
        return open_(position)

    five.source.open = opened  # type: ignore[method-assign]
    limits = [Deadline.after(60), Deadline.after(60)]
    limits[1].stop = limits[0].stop
    poller = five.poller()
    for limit in limits:
        five.happen(1)
        poller.run(limit=limit)
    assert len({id(run) for run in seen}) == 2, "one for each run"
    assert {id(run) for run in read} == {id(run) for run in seen}
    assert {run.deadline.at_s for run in seen} == {limit.at_s for limit in limits}
    for run in seen:
        with pytest.raises(CheckpointConflictError):
            run.check_lease()


# Where a stream starts


def test_the_first_position_is_saved_before_anything_is_delivered(world: World) -> None:
    world.happen(2)
    world.target.on_write = failing(TargetError("list", "no"))
    with pytest.raises(TargetError):
        world.poller(start_at="earliest").run()
    assert world.position == BEFORE


def test_a_first_position_that_cannot_be_opened_is_not_saved(world: World) -> None:
    world.happen(2)
    world.source.open = failing(SourceUnavailableError("cannot open"))  # type: ignore[method-assign]
    with pytest.raises(SourceUnavailableError):
        world.poller().run()
    assert world.position is None


def test_a_stop_while_the_stream_is_opened_saves_nothing_and_waits_for_nobody(world: World) -> None:
    """To open a stream the server may have to go through all of its log."""
    world.happen(2)
    limit, opening, answer = Deadline(), threading.Event(), threading.Event()
    original = world.source.open

    def slowly(position: Position) -> Any:
        opening.set()
        answer.wait(30)
        return original(position)

    world.source.open = slowly  # type: ignore[method-assign]
    threading.Thread(target=lambda: (opening.wait(30), limit.stop.set()), daemon=True).start()
    began_s = time.monotonic()
    result = world.poller(start_at="earliest").run(limit=limit, follow=True)
    assert time.monotonic() - began_s < 15
    answer.set()
    assert (result.stopped_by, result.caught_up) == ("signal", False)
    assert world.position is None


def test_a_stream_that_is_not_open_by_the_deadline_says_what_to_do(five: World) -> None:
    answer = threading.Event()
    original = five.source.open

    def slowly(position: Position) -> Any:
        answer.wait(30)
        return original(position)

    five.source.open = slowly  # type: ignore[method-assign]
    with pytest.raises(SourceUnavailableError, match="had not opened") as caught:
        five.poller().run(limit=Deadline.after(1.5))
    answer.set()
    assert "timeout" in caught.value.hint
    assert five.position == BEFORE


def test_what_a_reader_does_after_its_run_is_not_seen_by_the_next(five: World) -> None:
    """A reader that the server answers late must not move the stream of the run after it."""
    held, late = threading.Event(), threading.Event()
    original = five.source.open
    readers: list[threading.Thread] = []

    def open_(position: Position) -> Any:
        stream = original(position)
        read = stream.read

        def read_late(wait_s: float) -> Any:
            if not readers:
                readers.append(threading.current_thread())
                held.set()
                late.wait(30)
            return read(wait_s)

        stream.read = read_late  # type: ignore[method-assign]
        return stream

    five.source.open = open_  # type: ignore[method-assign]
    poller = five.poller()
    limit = Deadline()
    threading.Thread(target=lambda: (held.wait(30), limit.stop.set()), daemon=True).start()
    assert poller.run(limit=limit).stopped_by == "signal"

    def let_go(result: RunResult) -> None:
        late.set()
        readers[0].join(30)

    result = poller.run(progress=let_go)
    assert (result.events, result.caught_up) == (5, True)
    assert five.target.durable == five.events
    assert five.position == five.at(five.events[-1])


def test_a_new_position_after_lost_history_is_saved_once_it_opens(five: World) -> None:
    five.source._lost_before = five.events[2].cluster_time
    original = five.source.open

    def refuse_new(position: Position) -> Any:
        if position != BEFORE:
            raise SourceUnavailableError("cannot open")
        return original(position)

    five.source.open = refuse_new  # type: ignore[method-assign]
    with pytest.raises(SourceUnavailableError):
        five.poller(on_history_lost="earliest").run()
    assert five.position == BEFORE
    [entry] = five.store.ledger(STREAM)
    assert entry.after is None, "nothing was decided yet"
    five.source.open = original  # type: ignore[method-assign]
    five.poller(on_history_lost="earliest").run()
    [entry] = five.store.ledger(STREAM)
    assert entry.after is not None
    assert five.target.durable == five.events[3:]


def test_a_new_stream_starts_now(world: World) -> None:
    world.happen(2)
    result = world.poller().run()
    assert (result.events, world.target.durable) == (0, [])
    new = world.happen(3)
    world.poller().run()
    assert world.target.durable == new


def test_a_new_stream_may_start_at_the_earliest(world: World) -> None:
    world.happen(3)
    world.poller(start_at="earliest").run()
    assert world.target.durable == world.events


def test_a_new_stream_may_start_at_a_time(world: World) -> None:
    world.happen(25)
    at = world.events[12].cluster_time.as_datetime()
    world.poller(start_at=at.isoformat()).run()
    assert world.target.durable
    assert world.target.durable == [event for event in world.events if event.cluster_time > Timestamp(at, 0)]


def test_start_at_does_not_matter_once_there_is_a_checkpoint(five: World) -> None:
    five.start_at(five.at(five.events[2]))
    five.poller(start_at="earliest").run()
    assert five.target.durable == five.events[3:]


def test_a_stream_without_a_checkpoint_inherits_one(world: World) -> None:
    world.happen(4)
    world.store.inherited = Position.at_token(world.events[1].token)
    world.poller(start_at="earliest").run()
    assert world.target.durable == world.events[2:]
    world.happen(1)
    world.poller().run()
    assert world.target.durable == world.events[2:], "not twice from the inherited position"


def test_an_inherited_position_is_not_asked_for_when_there_is_a_checkpoint(five: World) -> None:
    five.store.inherited = Position.at_token(five.events[3].token)
    five.poller().run()
    assert five.target.durable == five.events


# History lost


def lost(world: World) -> None:
    world.start_at()
    world.happen(6)
    world.source._lost_before = world.events[3].cluster_time


def test_a_lost_position_is_never_passed_silently(world: World) -> None:
    lost(world)
    with pytest.raises(HistoryLostError) as caught:
        world.poller().run()
    assert caught.value.hint
    assert world.position == BEFORE
    assert world.target.durable == []
    [entry] = world.store.ledger(STREAM)
    assert (entry.kind, entry.before, entry.after) == ("history-lost", BEFORE, None)


@pytest.mark.parametrize(("choice", "delivered"), [("earliest", 2), ("now", 0)])
def test_a_lost_position_goes_on_where_the_operator_said(world: World, choice: str, delivered: int) -> None:
    lost(world)
    result = world.poller(on_history_lost=choice).run()
    assert world.target.durable == world.events[6 - delivered :]
    assert result.events == delivered
    [entry] = world.store.ledger(STREAM)
    assert entry.before == BEFORE
    assert entry.after is not None


# When a run ends


def test_history_that_is_lost_on_the_way_takes_nothing_with_it_that_was_read(world: World) -> None:
    world.start_at()
    world.happen(6)
    lose_history_after(world, 3)
    world.poller(on_history_lost="earliest", state_sync_count=100).run()
    assert world.target.durable[:3] == world.events[:3]


def test_what_was_read_before_history_was_lost_is_saved(world: World) -> None:
    world.start_at()
    world.happen(6)
    lose_history_after(world, 3)
    with pytest.raises(HistoryLostError):
        world.poller(state_sync_count=100).run()
    assert world.target.durable == world.events[:3]
    assert world.position == world.at(world.events[2])


# A snapshot beside the stream


def test_a_snapshots_progress_outlives_runs_that_do_nothing_for_it(five: World) -> None:
    orders = SnapshotRange(Namespace("shop", "orders"), until=KEYS["ObjectId"])
    snapshot = SnapshotProgress("s", (orders,), time=Timestamp(1, 0))
    five.start_at(replace(BEFORE, snapshot=snapshot))
    for _ in range(2):
        result = five.poller().run()
        assert (result.stopped_by, result.caught_up) == ("caught-up", False)
    assert five.store.saved[-1].token is not None
    assert [position.snapshot for position in five.store.saved] == [snapshot] * len(five.store.saved)
    saves = len(five.store.saved)
    five.poller().run()
    assert len(five.store.saved) == saves, "nothing moved, so nothing is saved"


def test_a_snapshots_progress_outlives_lost_history(world: World) -> None:
    """What it has still to deliver is in the collection; what was lost is told by the ledger."""
    lost(world)
    snapshot = SnapshotProgress("s", (SnapshotRange(Namespace("shop", "orders")),), time=Timestamp(1, 0))
    world.start_at(replace(BEFORE, snapshot=snapshot))
    assert world.poller(on_history_lost="earliest").run().stopped_by == "caught-up"
    # Its events are newer from now on than what was lost, which may be in what has been delivered before.
    newer = replace(snapshot, time=world.source.start_position("earliest").operation_time)
    assert [position.snapshot for position in world.store.saved[1:]] == [newer] * len(world.store.saved[1:])
    [entry] = world.store.ledger(STREAM)
    assert (entry.before, entry.after and entry.after.snapshot) == (BEFORE, None)


def test_max_loop(five: World) -> None:
    result = five.poller(max_loop=2).run()
    assert five.target.durable == five.events[:2]
    assert (result.stopped_by, result.loops, result.events, result.checkpoints) == ("max-loop", 2, 2, 1)
    assert not result.caught_up
    assert result.lag_s is not None
    assert five.position == five.at(five.events[1])


def test_max_loop_that_just_suffices_proves_nothing(five: World) -> None:
    """All events of a transaction have one cluster time: at the time that the run aimed at there may be more."""
    result = five.poller(max_loop=5).run()
    assert (result.stopped_by, result.caught_up, result.lag_s) == ("max-loop", False, 0.0)
    assert five.poller().run().caught_up


def test_max_loop_zero_is_no_limit(world: World) -> None:
    world.start_at()
    world.happen(120)
    result = world.poller(max_loop=0).run()
    assert (result.loops, result.stopped_by) == (120, "caught-up")


class OneBatch(ScriptedSource):
    """The last batch says itself that nothing follows, as a server's does that has no more."""

    def read(self, first: int, position: Position) -> tuple[int, Batch]:
        following, batch = super().read(first, position)
        return following, replace(batch, quiet=following == len(self._script))


def test_a_run_has_caught_up_only_once_the_rest_of_a_batch_is_handed_over(world: World) -> None:
    target = paced(world, 20)
    world.source = OneBatch(world.events, batch_size=100)
    result = world.poller(batch_size=100).run()
    assert (result.stopped_by, result.events) == ("caught-up", 20)
    assert target.durable == world.events


def test_empty_reads_are_no_loops_and_no_proof(world: World) -> None:
    world.start_at()
    a, b = world.log.inserts(2)
    world.script(EMPTY, EMPTY, a, EMPTY, EMPTY, EMPTY, EMPTY, b)
    result = world.poller().run()
    assert world.target.durable == [a, b]
    assert (result.loops, result.caught_up) == (2, True)


def test_the_lag_is_told_in_seconds_of_cluster_time(world: World) -> None:
    world.start_at()
    world.happen(31)  # ten events a second
    result = world.poller(max_loop=1).run()
    assert result.lag_s == 3.0


def test_the_deadline_ends_a_run_with_a_checkpoint(world: World) -> None:
    world.start_at()
    world.happen(10_000)
    world.target.on_write = lambda events: time.sleep(0.002)
    started_s = time.monotonic()
    # Enough for a loaded machine to begin: with 0.15 s the run could be over before its first batch.
    result = world.poller().run(limit=Deadline.after(4))
    assert time.monotonic() - started_s < 10  # all of them would take 20 s
    assert (result.stopped_by, result.caught_up) == ("deadline", False)
    assert 0 < result.events < 10_000
    assert world.position == world.at(world.events[result.events - 1])
    assert world.target.durable[: result.events] == world.events[: result.events]


def test_a_deadline_that_is_over_reads_nothing(five: World) -> None:
    result = five.poller().run(limit=Deadline.after(0))
    assert (result.stopped_by, result.events) == ("deadline", 0)
    assert five.position == BEFORE


def test_a_stop_ends_a_run_that_follows_with_a_checkpoint(five: World) -> None:
    limit = Deadline()
    seen: list[tuple[int, int]] = []

    def watch(result: RunResult) -> None:
        seen.append((result.read, result.checkpoints))
        if result.read == 5:
            limit.stop.set()

    result = five.poller(max_loop=2).run(limit=limit, follow=True, progress=watch)
    assert (result.stopped_by, result.events, result.loops) == ("signal", 5, 5)
    assert five.target.durable == five.events
    assert five.position == five.at(five.events[-1])
    assert [read for read, _ in seen][:5] == [1, 2, 3, 4, 5]


def test_a_stop_ends_a_run_whose_target_hangs(five: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("docdb_stream.context.STOP_PATIENCE_S", 0.05)
    gate, limit = threading.Event(), Deadline()

    def hang(events: Sequence[ChangeEvent]) -> None:
        limit.stop.set()
        gate.wait(30)

    five.target.on_write = hang
    with five.poller() as poller:
        result = poller.run(limit=limit, follow=True)
        gate.set()
    assert result.stopped_by == "signal"
    assert five.nothing_is_saved_past([])
    assert result.position == BEFORE


def test_what_a_target_still_does_for_a_failed_run_is_over_before_the_next_one_begins(five: World) -> None:
    """A poller that is kept on after a failure: each event arrives once, though the first run left a thread behind."""
    begun, gate, users = threading.Event(), threading.Event(), []
    most_users = 0

    def slowly(events: Sequence[ChangeEvent]) -> None:
        nonlocal most_users
        users.append(events)
        most_users = max(len(users), most_users)
        begun.set()
        gate.wait(30)
        users.remove(events)

    def fail(events: Sequence[ChangeEvent]) -> None:
        begun.wait(30)
        raise TargetError("failing", "down for a moment")

    slow, failing = five.target, ListTarget([], "failing")
    slow.on_write, failing.on_write = slowly, fail
    five.targets = [slow, failing]
    with five.poller() as poller:
        with pytest.raises(TargetError, match="down for a moment"):
            poller.run()
        failing.on_write = lambda events: None
        threading.Timer(0.2, gate.set).start()
        assert poller.run().caught_up
    assert slow.durable == five.events
    assert most_users == 1


def test_following_goes_on_after_catching_up(five: World) -> None:
    limit = Deadline()
    outcome: list[RunResult] = []
    thread = threading.Thread(
        target=lambda: outcome.append(five.poller(state_sync_count=1).run(limit=limit, follow=True))
    )
    thread.start()
    try:
        for count in (0, 2, 1):
            five.happen(count)
            give_up_at_s = time.monotonic() + 10
            while five.target.durable != five.events:
                assert time.monotonic() < give_up_at_s
                time.sleep(0.001)
    finally:
        limit.stop.set()
        thread.join(10)
    assert outcome[0].events == 8
    assert five.position is not None
    assert five.position.token == five.events[-1].token


def test_an_idle_streams_position_moves_on(five: World) -> None:
    five.start_at(Position(ResumeToken({"_data": five.events[-1].event_id}), Timestamp(5, 0)))
    result = five.poller().run()
    assert (result.events, result.checkpoints) == (0, 1)
    assert five.position is not None
    assert five.position.operation_time == five.events[-1].cluster_time


# Buffering targets


def test_a_full_target_forces_a_checkpoint(five: World) -> None:
    class Full(ListTarget):
        @property
        def wants_flush(self) -> bool:
            return len(self.held) >= 2

    # Each loop waits for the target, so that what it holds is known.
    full = Full(five.journal)
    five.targets[:] = [full]
    five.target = full
    written = threading.Semaphore(0)
    original = full.write

    def write(events: Sequence[ChangeEvent]) -> Sequence[Rejection]:
        found = original(events)
        written.release()
        return found

    full.write = write  # type: ignore[method-assign]
    seen = 0

    def wait(result: RunResult) -> None:
        nonlocal seen
        if result.read > seen:
            assert written.acquire(timeout=30)
            seen = result.read

    five.poller(state_sync_count=1000).run(progress=wait)
    assert full.durable == five.events
    assert five.journal == [("flush", 2), ("save", 2), ("flush", 2), ("save", 2), ("flush", 1), ("save", 1)]


# The result, and the end


def test_the_result_as_plain_values(five: World) -> None:
    result = five.poller(state_sync_count=2).run()
    values = orjson.loads(orjson.dumps(result.as_dict()))
    duration_s = values.pop("duration_s")
    assert 0 <= duration_s < 10
    figures = values.pop("targets")
    assert (values.pop("verified"), values.pop("stopped")) == ({}, {})
    assert values.pop("collections") == {"shop.orders": {"documents": 5, "bytes": 1420, "failures": 0}}
    assert set(figures) == {"list"}
    assert (figures["list"]["events"], figures["list"]["rejections"]) == (5, 0)
    assert values == {
        "stream": STREAM,
        "events": 5,
        "read": 5,
        "filtered": 0,
        "filtered_by": {},
        "filtered_on_server": [],
        "unsaved": 0,
        "loops": 5,
        "checkpoints": 3,
        "caught_up": True,
        "lag_s": 0.0,
        "rejections": 0,
        "retries": 0,
        "stopped_by": "caught-up",
        "began_at": "checkpoint",
        "snapshot": None,
        "snapshot_documents": 0,
        "position": {
            "token": five.events[-1].event_id,
            "time": five.events[-1].cluster_time.as_datetime().isoformat(),
        },
    }


def test_the_result_says_what_the_run_went_on_from(world: World) -> None:
    world.happen(1)
    assert world.poller().run().began_at == "start-at"
    assert world.poller().run().began_at == "checkpoint"


def test_it_says_so_while_the_run_goes_on(five: World) -> None:
    seen: list[str] = []
    five.poller().run(progress=lambda result: seen.append(result.began_at))
    assert set(seen) == {"checkpoint"}


def test_where_the_aws_sample_stopped_is_told_apart(world: World) -> None:
    world.store.inherited = BEFORE
    assert world.poller().run().began_at == "sample"


def test_the_result_before_anything_happened() -> None:
    values = RunResult("s").as_dict()
    assert values["position"] == {"token": None, "time": None}
    assert values["targets"] == {}


def test_closing_twice_is_safe(five: World) -> None:
    poller = five.poller()
    poller.run()
    poller.close()
    poller.close()
    assert five.target.closed == 2


def test_threads_end_with_the_run(five: World) -> None:
    before = threading.active_count()
    five.poller().run()
    five.target.on_flush = failing(TargetError("list", "no"))
    five.happen(1)
    with pytest.raises(TargetError):
        five.poller().run()
    give_up_at_s = time.monotonic() + 5
    while threading.active_count() > before:
        assert time.monotonic() < give_up_at_s
        time.sleep(0.001)


def test_every_error_of_a_run_is_one_of_ours(five: World) -> None:
    five.target.on_write = failing(RuntimeError("anything"))
    with pytest.raises(DocdbStreamError) as caught:
        five.poller().run()
    assert "RuntimeError: anything" in str(caught.value)


# Targets that take only so much at a time


def test_a_batch_is_handed_over_in_parts_to_a_target_that_takes_no_more(world: World) -> None:
    target = paced(world, 6)
    target.wants_flush = True
    result = world.poller(batch_size=100, state_sync_count=1000).run()
    assert target.durable == world.events
    assert (result.events, result.read, result.loops, result.caught_up) == (6, 6, 1, True)
    assert [entry for entry in world.journal if entry[0] == "save"] == [("save", 1), *[("save", 2)] * 2, ("save", 1)]
    assert [position.token for position in world.store.saved[:-1]] == [world.events[n].token for n in (0, 2, 4)]


def test_a_run_that_ends_within_a_batch_leaves_the_rest_to_the_next(world: World) -> None:
    target = paced(world, 200)
    target.beat_s = 0.02
    results = [world.poller(batch_size=1000).run(limit=Deadline.after(1.5)) for _ in range(2)]
    assert (results[0].stopped_by, results[0].caught_up) == ("deadline", False)
    assert sum(result.events for result in results) == len(target.durable)
    assert target.durable == world.events[: len(target.durable)], "nothing twice, nothing left out"


def test_a_position_within_a_batch_does_not_claim_that_all_is_delivered(world: World) -> None:
    """All have one cluster time, as those of a transaction: that it is reached says nothing about the rest."""
    target = paced(world, 0)
    with world.log.transaction():
        world.script(*world.log.inserts(40))
    stop = Deadline.after(60)
    target.on_write = lambda batch: stop.stop.set() if target.held else None
    result = world.poller(batch_size=1000).run(limit=stop)
    assert 0 < result.events < 40
    assert not result.caught_up
