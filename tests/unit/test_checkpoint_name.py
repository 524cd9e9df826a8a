"""What names the checkpoint that a run goes on from: the same after a crash, another one after whatever was saved."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
from scripted import STREAM, World

from docdb_stream.context import Deadline, RunContext, current_run, running
from docdb_stream.errors import StateStoreError
from docdb_stream.events import ChangeEvent, Namespace, Position
from docdb_stream.lease import held_lease
from docdb_stream.position import SnapshotProgress, SnapshotRange


@pytest.fixture
def world() -> World:
    world = World()
    world.start_at()
    world.happen(4)
    return world


def names_of_a_run(world: World, **settings: int) -> list[str]:
    """The names under which events are written, one after the other."""
    names: list[str] = []

    def note(events: Sequence[ChangeEvent]) -> None:
        if events:
            names.append(current_run().checkpoint)

    world.target.on_write = note
    with world.poller(**settings) as poller:
        poller.run(limit=Deadline.after(30))
    return names


def reset(world: World, position: Position) -> None:
    lease = world.store.acquire(STREAM, Namespace("shop", "orders"), "an operator", 60)
    world.store.save(lease, position)
    world.store.release(lease)


def test_it_is_the_same_until_something_is_saved(world: World) -> None:
    first, second, third, fourth = names_of_a_run(world, state_sync_count=2)
    assert first == second != third == fourth
    assert len(first) == 32


def test_a_run_after_a_crash_goes_on_from_the_same(world: World) -> None:
    world.store.fail_save = True
    with pytest.raises(StateStoreError):
        names_of_a_run(world)
    world.store.fail_save = False
    before = current_of(world)
    assert set(names_of_a_run(world)) == {before}
    assert current_of(world) != before


def test_set_back_to_where_it_stood_it_is_another(world: World) -> None:
    began_at = world.position
    assert began_at is not None
    before = set(names_of_a_run(world))
    reset(world, began_at)
    assert before.isdisjoint({current_of(world)})


def test_begun_anew_it_is_another(world: World) -> None:
    before = current_of(world)
    world.store._checkpoints.clear()
    world.start_at()
    assert current_of(world) != before


def test_outside_a_run_there_is_none() -> None:
    assert current_run().checkpoint == ""
    with running(RunContext()):
        assert current_run().checkpoint == ""


def current_of(world: World) -> str:
    found = world.store.load(STREAM)
    assert found is not None
    return found.name


def test_targets_see_how_far_the_snapshot_is_saved_and_will_be(world: World) -> None:
    def at(last: int) -> SnapshotProgress:
        return SnapshotProgress("a1b2c3d4e5f6", (SnapshotRange(Namespace("shop", "orders"), b"%d" % last),))

    assert world.position is not None
    positions = [replace(world.position, snapshot=each) for each in (at(1), at(2))]
    reset(world, positions[0])
    with running(RunContext()), held_lease(world.store, STREAM, None, "owner", 60) as keeper:
        keeper.load()
        run = current_run()
        assert (run.snapshot, run.next_snapshot) == (at(1), None)
        keeper.announce(positions[1], 0)
        assert (run.snapshot, run.next_snapshot) == (at(1), at(2))
        keeper.save(positions[1], 0)
        assert (run.snapshot, run.next_snapshot) == (at(2), None)
        keeper.announce(positions[0].in_log(), 0)
        keeper.save(positions[0].in_log(), 0)
        assert (run.snapshot, run.next_snapshot) == (None, None)
