"""What an operator asks for, asked by a program: settings in, values out, nothing printed."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from pymongo import MongoClient

from docdb_stream import Deadline, LeaseHeldError, Patience, Rejection, Settings, TargetError, run_streams
from docdb_stream.admin.doctor import checks
from docdb_stream.admin.redrive import dead_letters, redrive
from docdb_stream.admin.reset import reset
from docdb_stream.admin.status import ledger_entries, stream_statuses
from docdb_stream.events import ChangeEvent
from docdb_stream.local import ReplicaSet
from docdb_stream.mongodb.connection import Connection
from docdb_stream.stores.mongodb import MongoCheckpointStore
from docdb_stream.testing.targets import ListTarget

pytestmark = pytest.mark.integration

Mongo = MongoClient[dict[str, Any]]
Stream = Callable[..., Settings]


@pytest.fixture
def stream(replica_set: ReplicaSet, db_name: str) -> Stream:
    def make(collection: str, **values: Any) -> Settings:
        given = {
            "documentdb_uri": replica_set.uri,
            "watched_db_name": db_name,
            "watched_collection_name": collection,
            "state_db": f"{db_name}_state",
            "start_at": "earliest",
        }
        return Settings(**{**given, **values})

    return make


@pytest.fixture(autouse=True)
def _nothing_is_printed(capfd: pytest.CaptureFixture[str]) -> Any:
    yield
    assert capfd.readouterr() == ("", "")


class Refusing(ListTarget):
    """Takes no event with the ``_id`` 13, or while it is down nothing at all."""

    refuses, is_down = True, False

    def write(self, events: Sequence[ChangeEvent]) -> Sequence[Rejection]:
        if self.is_down:
            raise TargetError(self.name, "is down")
        bad = [event for event in events if self.refuses and event.document_key == {"_id": 13}]
        super().write([event for event in events if event not in bad])
        return [Rejection(event, self.name, "unlucky") for event in bad]


def test_streams_run_side_by_side_and_each_has_its_outcome(stream: Stream, mongo: Mongo, db_name: str) -> None:
    for name in ("a", "b", "c"):
        mongo[db_name][name].insert_many([{"_id": number} for number in range(3)])
    streams = [stream("a"), stream("b"), stream("c")]
    targets = {each.stream_name: ListTarget() for each in streams}
    with Connection(streams[2]) as connection:
        store = MongoCheckpointStore(streams[2], connection)
        lease = store.acquire(streams[2].stream_name, streams[2].scope, "another-machine:1", 600)
        outcomes = run_streams(streams, targets=lambda found: [targets[found.stream_name]])
        store.release(lease)
    assert [outcome.exit_code for outcome in outcomes] == [0, 0, 6]
    assert isinstance(outcomes[2].error, LeaseHeldError)
    assert [len(target.events) for target in targets.values()] == [3, 3, 0]
    [again] = run_streams(streams[2:], targets=lambda found: [targets[found.stream_name]])
    assert again.result is not None
    assert (again.result.events, len(targets[streams[2].stream_name].events)) == (3, 3)


def test_streams_follow_until_they_are_stopped(stream: Stream, mongo: Mongo, db_name: str) -> None:
    mongo[db_name].a.insert_one({"_id": 1})
    limit = Deadline()

    class Stopping(ListTarget):
        def flush(self) -> Sequence[Rejection]:
            if self.events:
                limit.stop.set()
            return super().flush()

    patience = Patience(trouble=True, give_up_after_s=30)
    [outcome] = run_streams([stream("a")], limit=limit, follow=True, patience=patience, targets=lambda _: [Stopping()])
    assert outcome.result is not None, outcome.error
    assert (outcome.result.stopped_by, outcome.result.events) == ("signal", 1)


def test_where_streams_stand_and_moving_one(stream: Stream, mongo: Mongo, db_name: str) -> None:
    mongo[db_name].a.insert_one({"_id": 1})
    settings = stream("a")
    [before] = stream_statuses([settings])
    assert (before.checkpoint, before.as_dict()["events"]) == (None, 0)
    run_streams([settings], targets=lambda _: [ListTarget()])
    [after] = stream_statuses([settings])
    assert after.as_dict()["events"] == 1
    assert after.lease == "free"
    position = reset(settings, to="now")
    assert position.operation_time is not None
    [entry] = ledger_entries([settings], settings.stream_name)
    assert (entry["kind"], entry["stream"]) == ("reset", settings.stream_name)
    assert ledger_entries([settings], "another") == []


def test_a_checkpoint_that_cannot_be_read_does_not_hide_the_others(
    stream: Stream, mongo: Mongo, db_name: str, cli: Any, replica_set: ReplicaSet
) -> None:
    mongo[db_name].a.insert_one({"_id": 1})
    settings = stream("a")
    run_streams([settings], targets=lambda _: [ListTarget()])
    state = mongo[settings.state_db][settings.state_collection]
    state.insert_one({"_id": "by hand", "version": 1, "scope": {}, "epoch": 1, "position": {"token": "0163eeb6"}})
    environment = {"DOCUMENTDB_URI": replica_set.uri, "STATE_DB": settings.state_db}
    done = cli.run("status", "--json", **environment)
    rows = {row["stream"]: row for row in map(json.loads, done.stdout.splitlines())}
    assert rows[settings.stream_name]["events"] == 1
    assert "by hand cannot be read" in rows["by hand"]["error"]
    assert (done.returncode, rows[settings.stream_name]["error"]) == (3, None)
    table = cli.run("status", **environment)
    assert "unreadable" in table.stdout
    assert "docdb-stream reset 'by hand'" in table.stderr
    assert cli.run("status", "--stream", settings.stream_name, **environment).returncode == 0


def test_would_it_work(stream: Stream, mongo: Mongo, db_name: str) -> None:
    mongo[db_name].a.insert_one({"_id": 1})
    found = list(checks(stream("a", stdout=True)))
    assert [each.what for each in found if each.error is not None] == []
    assert "state database" in [each.what for each in found]
    [*_, last] = checks(stream("a", extra_targets=("pigeon",)))
    assert (last.what, last.error.kind) == ("targets", "settings")


def test_dead_letters_are_seen_and_delivered_again(stream: Stream, mongo: Mongo, db_name: str) -> None:
    mongo[db_name].a.insert_many([{"_id": number} for number in (12, 13, 14)])
    settings, target = stream("a"), Refusing()
    run_streams([settings], targets=lambda _: [target])
    [letter] = dead_letters(settings)
    assert (letter["reason"], letter["stream"]) == ("unlucky", settings.stream_name)
    refused = redrive(settings, [target])
    assert (refused.refused, refused.left) == (1, 1)
    target.is_down = True
    with pytest.raises(TargetError, match="is down"):
        redrive(settings, [target])
    assert len(list(dead_letters(settings))) == 1, "what was not delivered stays"
    target.is_down = target.refuses = False
    done = redrive(settings, [target])
    assert (done.delivered, done.left) == (1, 0)
    assert list(dead_letters(settings)) == []
    assert [event.document_key["_id"] for event in target.events] == [12, 14, 13]
