"""A run with a snapshot beside its stream: what is delivered, what is saved, what operators ask for."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from typing import Any

import bson
import pytest
from bson import Timestamp
from clocks import Clock, limit
from scripted import STREAM, ListTarget, World, failing, lose_history_after

from docdb_stream.checkpoint import SnapshotRequest
from docdb_stream.context import Deadline
from docdb_stream.errors import ConfigError, SourceUnavailableError, TargetError
from docdb_stream.events import ChangeEvent, Position
from docdb_stream.position import Namespace, SnapshotProgress, SnapshotRange
from docdb_stream.snapshot import reader
from docdb_stream.snapshot.pages import Pages
from docdb_stream.source import Page
from docdb_stream.testing.source import ScriptedDocuments


@pytest.fixture
def world() -> World:
    world = World()
    world.happen(2)  # before the stream began
    world.hold(*range(100, 110))
    return world


def keys(events: list[ChangeEvent]) -> list[Any]:
    return [(event.document_key or {})["_id"] for event in events]


def progress(world: World) -> SnapshotProgress | None:
    position = world.position
    return None if position is None else position.snapshot


def ask(world: World, action: Any, id: str = "asked", **values: Any) -> None:
    assert world.store.ask(STREAM, SnapshotRequest(id, action, **values))


def test_a_new_stream_delivers_what_there_is_and_then_what_changes(world: World) -> None:
    with world.poller(start_at="snapshot", batch_size=3) as poller:
        result = poller.run()
        assert keys(world.target.durable) == [*range(100, 110)]
        assert {event.operation for event in world.target.durable} == {"insert"}
        assert (result.stopped_by, result.caught_up, result.snapshot_documents) == ("caught-up", True, 10)
        assert (result.events, result.read, result.snapshot) == (10, 10, None)
        [event] = world.happen(1)
        poller.run()
    assert world.target.durable[10:] == [event]
    assert progress(world) is None
    [entry] = world.store.ledger(STREAM)
    assert (entry.kind, "10 documents" in entry.reason) == ("snapshot", True)


def test_each_run_goes_on_where_the_last_one_saved_it(world: World) -> None:
    for count in (3, 6, 9):
        with world.poller(start_at="snapshot", batch_size=3, max_loop=1) as poller:
            result = poller.run()
        assert (result.stopped_by, result.caught_up) == ("max-loop", False)
        assert keys(world.target.durable) == [*range(100, 100 + count)]
        found = progress(world)
        assert found is not None
        assert (found.documents, found.estimate) == (count, 10)
        assert result.snapshot == found
    with world.poller(start_at="snapshot", batch_size=3) as poller:
        assert poller.run().caught_up
    assert keys(world.target.durable) == [*range(100, 110)]
    assert {event.snapshot_id for event in world.target.durable} == {found.id}


def test_what_is_not_durable_comes_again(world: World) -> None:
    world.target.on_flush = failing(TargetError("list", "no room"))
    with world.poller(start_at="snapshot", batch_size=3) as poller:
        with pytest.raises(TargetError):
            poller.run()
        found = progress(world)
        assert found is not None
        assert found.documents == 0
        world.target.on_flush = lambda: None
        poller.run()
    assert keys(world.target.durable) == [*range(100, 110)]


def test_several_ranges_are_delivered_side_by_side(world: World) -> None:
    with world.poller(start_at="snapshot", batch_size=2, snapshot_ranges=3) as poller:
        assert poller.run().caught_up
    assert sorted(keys(world.target.durable)) == [*range(100, 110)]


def test_a_request_begins_one_beside_a_stream_that_runs_already(world: World) -> None:
    world.start_at(world.at(world.events[-1]))
    world.target.on_write = lambda events: None
    ask(world, "start")
    with world.poller(batch_size=3) as poller:
        poller.run()
    assert keys(world.target.durable) == [*range(100, 110)]
    assert {event.snapshot_id for event in world.target.durable} == {"asked"}
    assert world.store.asked(STREAM) == []


def test_a_request_is_for_some_targets(world: World) -> None:
    other = ListTarget(world.journal, "other")
    world.targets.append(other)
    world.start_at(world.at(world.events[-1]))
    ask(world, "start", targets=("other",))
    with world.poller() as poller:
        poller.run()
        [event] = world.happen(1)
        poller.run()
    assert world.target.durable == [event]
    assert len(other.durable) == 11


def test_one_for_targets_that_are_gone_says_so(world: World) -> None:
    world.start_at(world.at(world.events[-1]))
    ask(world, "start", targets=("other",))
    with world.poller() as poller, pytest.raises(ConfigError, match="is for other"):
        poller.run()
    ask(world, "cancel", "no")
    with world.poller() as poller:
        poller.run()
    assert world.target.durable == []


def test_pause_resume_and_cancel(world: World) -> None:
    def ran(**values: Any) -> int:
        with world.poller(start_at="snapshot", batch_size=3, **values) as poller:
            poller.run()
        return len(world.target.durable)

    assert ran(max_loop=1) == 3
    ask(world, "pause", "1")
    assert ran() == 3
    found = progress(world)
    assert found is not None
    assert found.is_paused
    assert world.store.asked(STREAM) == []
    [event] = world.happen(1)
    assert ran() == 4
    assert world.target.durable[-1] == event
    ask(world, "resume", "2")
    assert ran(max_loop=1) == 7
    ask(world, "cancel", "3")
    assert ran() == 7
    assert progress(world) is None


def test_a_request_that_was_done_is_not_done_again(world: World) -> None:
    world.start_at(world.at(world.events[-1]))
    ask(world, "start")
    with world.poller(batch_size=3, max_loop=1) as poller:
        poller.run()
    ask(world, "start")  # it was saved, and nobody could take it away
    with world.poller(batch_size=3) as poller:
        poller.run()
    assert keys(world.target.durable) == [*range(100, 110)]


def test_lost_history_is_made_up_for(world: World) -> None:
    world.start_at()
    world.happen(2)
    lose_history_after(world, 1)
    with world.poller(on_history_lost="snapshot", batch_size=3) as poller:
        result = poller.run()
    assert result.caught_up
    assert keys(world.target.durable)[-10:] == [*range(100, 110)]
    lost = next(entry for entry in world.store.ledger(STREAM) if entry.kind == "history-lost")
    assert lost.after is not None
    assert "snapshot" in lost.reason
    assert "is delivered" in lost.reason


def test_documents_that_change_meanwhile_are_the_streams(world: World) -> None:
    log = world.log

    def change(events: Any) -> None:
        if not world.events[2:]:
            world.script(log.replace({"_id": 108, "held": False}), log.delete(109))
            assert world.documents is not None
            orders = next(iter(world.documents.contents.values()))
            orders[108] = {"_id": 108, "held": False}
            del orders[109]

    world.target.on_write = change
    with world.poller(start_at="snapshot", batch_size=2) as poller:
        assert poller.run().caught_up
    last = dict(zip(keys(world.target.durable), world.target.durable, strict=True))
    assert last[109].operation == "delete"
    assert (last[108].full_document or {})["held"] is False


def test_reading_that_fails_ends_the_run_and_nothing_is_passed(world: World) -> None:
    assert world.documents is not None
    fail = failing(SourceUnavailableError("away"))
    world.documents.read = lambda range, **_: fail()  # type: ignore[method-assign]
    with world.poller(start_at="snapshot") as poller, pytest.raises(SourceUnavailableError, match="away"):
        poller.run()
    found = progress(world)
    assert found is not None
    assert found.documents == 0


def test_a_source_without_documents_says_so(world: World) -> None:
    world.documents = None
    with world.poller(start_at="snapshot") as poller, pytest.raises(ConfigError, match="no snapshot"):
        poller.run()


def test_a_run_that_follows_takes_up_a_request(world: World) -> None:
    world.start_at(world.at(world.events[-1]))
    limit = Deadline.after(60)

    def seen(result: Any) -> None:
        if not world.store.asked(STREAM) and not world.target.durable and not result.snapshot_documents:
            ask(world, "start", "while-it-runs")
        if result.snapshot_documents and result.snapshot is None:
            limit.stop.set()
        world.happen(1)  # so that a checkpoint is due

    with world.poller(batch_size=5, state_sync_count=1) as poller:
        poller.run(limit=limit, follow=True, progress=seen)
    assert {*range(100, 110)} <= {*keys(world.target.durable)}  # some of them by the stream, if it has come to them
    assert {event.snapshot_id for event in world.target.durable if event.snapshot_id} == {"while-it-runs"}


def test_a_stream_of_inserts_gets_every_document(world: World) -> None:
    """Its update is left out by the stream, so it must not be left out of the page as well."""

    def change(events: Any) -> None:
        if not world.events[2:]:
            world.script(world.log.update({"_id": 108, "held": False}))

    world.target.on_write = change
    world.steps = [lambda events: [event for event in events if event.operation == "insert"]]
    with world.poller(start_at="snapshot", batch_size=2, operations="insert") as poller:
        assert poller.run().caught_up
    assert keys(world.target.durable) == [*range(100, 110)]


def test_one_of_nothing_ends(world: World) -> None:
    world.documents = None
    world.hold()
    assert world.documents is not None
    world.documents.contents.clear()
    with world.poller(start_at="snapshot") as poller:
        assert poller.run().caught_up
    assert progress(world) is None


def test_one_whose_collection_is_dropped_ends(world: World) -> None:
    def drop(events: Any) -> None:
        if not world.events[2:]:
            world.script(world.log.event("drop", None))
            assert world.documents is not None
            world.documents.contents.clear()

    world.target.on_write = drop
    with world.poller(start_at="snapshot", batch_size=2, max_loop=1) as poller:
        poller.run()
    assert progress(world) is not None
    with world.poller() as poller:
        assert poller.run().caught_up
    assert progress(world) is None
    assert world.target.durable[-1].operation == "drop"


@pytest.mark.parametrize("is_paused", [True, False])
def test_a_collection_that_is_renamed_before_anything_is_read_is_found_again(world: World, is_paused: bool) -> None:
    """Its documents have no other way to come: no event tells of them."""
    orders, archive = Namespace("shop", "orders"), Namespace("shop", "archive")
    begun = SnapshotProgress("first", (SnapshotRange(orders),), time=world.source.operation_time())
    world.start_at(replace(world.at(world.events[-1]), snapshot=replace(begun, is_paused=is_paused)))
    world.script(world.log.event("rename", None, to={"db": "shop", "coll": "archive"}))
    assert world.documents is not None
    world.documents.contents[archive] = world.documents.contents.pop(orders)
    with world.poller(watched_collection_name=None, stream_name=STREAM) as poller:
        if is_paused:
            poller.run()
            ask(world, "resume")
        assert poller.run().caught_up
    assert keys(world.target.durable[1:]) == [*range(100, 110)]
    assert {event.namespace for event in world.target.durable[1:]} == {archive}


def test_readers_that_a_silent_server_holds_up_are_waited_for_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sixteen of them one after the other would take the run past its deadline."""
    monkeypatch.setattr(reader, "END_WAIT_S", 0.5)
    answers = threading.Event()

    class Silent(ScriptedDocuments):
        def read(self, range: SnapshotRange, **_: Any) -> Page:
            answers.wait(60)
            raise SourceUnavailableError("silent")

    orders = Namespace("shop", "orders")
    ranges = tuple(SnapshotRange(orders, bson.encode({"_id": key})) for key in range(16))
    pages = Pages(
        SnapshotProgress("s", ranges, time=Timestamp(1, 0)),
        lambda _: True,
        page_documents=1,
        max_bytes=1,
        max_lag_s=1,
    )
    pages.saw((), Position(operation_time=Timestamp(1, 0)))
    silent = Silent({}, lambda: Timestamp(1, 0))
    began_s = time.monotonic()
    with reader.SnapshotReader(silent, pages, match=None, threads=16, came=lambda: None):
        pass
    assert time.monotonic() - began_s < 4  # one after the other: 8 s
    answers.set()


def test_requests_are_not_looked_for_with_each_checkpoint(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy stream makes many, and each look is a read of the state database."""
    looks: list[str] = []
    asked = world.store.asked
    monkeypatch.setattr(world.store, "asked", lambda stream: looks.append(stream) or asked(stream))
    world.start_at()
    world.happen(30)
    with world.poller(state_sync_count=1) as poller:
        result = poller.run(limit=limit(Clock()))
    assert result.checkpoints >= 30
    assert looks == [STREAM]


def test_a_request_that_no_command_would_have_left_says_what_is_wrong(world: World) -> None:
    world.start_at(world.at(world.events[-1]))
    ask(world, "start")
    with world.poller(full_document="default") as poller, pytest.raises(ConfigError, match="needs updates with their"):
        poller.run()
    assert world.store.asked(STREAM)
