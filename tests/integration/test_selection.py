"""Which events a stream reads and delivers: by the server or by docdb-stream, with which images of the documents."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from pymongo import MongoClient
from pymongo.monitoring import CommandListener

from docdb_stream.admin.doctor import checks
from docdb_stream.cli.outcome import say_result
from docdb_stream.context import Deadline
from docdb_stream.errors import Caution, ConfigError, SourceUnavailableError
from docdb_stream.events import ChangeEvent, Position
from docdb_stream.local import ReplicaSet
from docdb_stream.mongodb.connection import Connection
from docdb_stream.mongodb.source import MongoChangeSource
from docdb_stream.poller import Poller
from docdb_stream.result import RunResult
from docdb_stream.settings import Settings
from docdb_stream.testing.targets import ListTarget

pytestmark = pytest.mark.integration

Mongo = MongoClient[dict[str, Any]]


class Pipelines(CommandListener):
    """The pipelines of the change streams that were opened."""

    def __init__(self) -> None:
        self.seen: list[list[dict[str, Any]]] = []

    def started(self, event: Any) -> None:
        pipeline = event.command.get("pipeline", [])
        if event.command_name == "aggregate" and "$changeStream" in pipeline[0]:
            self.seen.append(pipeline)

    def succeeded(self, event: Any) -> None: ...
    def failed(self, event: Any) -> None: ...


class Stream:
    """A stream over the test's database, read again and again; what arrives of it, and what was asked of the server."""

    def __init__(self, uri: str, mongo: Mongo, db_name: str) -> None:
        self.uri, self.db_name, self.db = uri, db_name, mongo[db_name]
        self.target, self.pipelines = ListTarget(), Pipelines()

    def settings(self, **values: Any) -> Settings:
        given = {"watched_db_name": self.db_name, "state_db": f"{self.db_name}_state", "max_loop": 0, **values}
        return Settings(documentdb_uri=self.uri, **given)

    def run(self, **values: Any) -> RunResult:
        settings = self.settings(**values)
        self.pipelines.seen.clear()
        client: Mongo = MongoClient(self.uri, event_listeners=[self.pipelines], retryWrites=False)
        with Connection(settings, client) as connection:
            poller = Poller.from_settings(settings, targets=[self.target], connection=connection)
            try:
                return poller.run()
            finally:
                poller.close()

    def took(self) -> list[tuple[str, str | None, Any]]:
        """What arrived since the last time: operation, collection, _id."""
        events, self.target.events[:] = list(self.target.events), []
        return [(each.operation, each.namespace.coll, (each.document_key or {}).get("_id")) for each in events]

    @property
    def matches(self) -> list[bool]:
        """Of each stream that was opened, whether the server was to leave events out."""
        return [any("$match" in stage for stage in pipeline) for pipeline in self.pipelines.seen]


@pytest.fixture
def version(mongo: Mongo) -> tuple[int, ...]:
    return tuple(mongo.server_info()["versionArray"][:3])


@pytest.fixture
def stream(replica_set: ReplicaSet, mongo: Mongo, db_name: str) -> Stream:
    return Stream(replica_set.uri, mongo, db_name)


def test_several_collections_of_a_database(stream: Stream, capsys: pytest.CaptureFixture[str]) -> None:
    namespaces = f"{stream.db_name}.orders, {stream.db_name}.a.*"
    stream.run(namespaces=namespaces)
    for coll in ("orders", "a.b", 'a."ü*', "order", "aXb", "orders2"):
        stream.db[coll].insert_one({"_id": 1})
    stream.db.orders2.rename("a.c")
    stream.db.order.drop()
    result = stream.run(namespaces=namespaces)
    expected = [("insert", "orders", 1), ("insert", "a.b", 1), ("insert", 'a."ü*', 1), ("rename", "orders2", None)]
    assert stream.took() == expected
    assert (result.caught_up, result.read, result.filtered) == (True, 4, 0)
    assert result.filtered_on_server == ["namespaces"]
    assert json.loads(json.dumps(result.as_dict()))["filtered_on_server"] == ["namespaces"]
    say_result(result, stream.settings(namespaces=namespaces))
    assert "left out by the server, uncounted: namespaces" in capsys.readouterr().err


def test_the_client_counts_what_it_leaves_out(stream: Stream) -> None:
    values = {"namespaces": f"{stream.db_name}.orders", "operations": "insert, delete", "filter_at": "client"}
    stream.run(**values)
    for coll in ("orders", "other"):
        stream.db[coll].insert_one({"_id": 1})
        stream.db[coll].update_one({"_id": 1}, {"$set": {"a": 1}})
        stream.db[coll].delete_one({"_id": 1})
    result = stream.run(**values)
    assert stream.took() == [("insert", "orders", 1), ("delete", "orders", 1)]
    assert (result.read, result.filtered_by) == (6, {"namespaces": 3, "operations": 1})
    assert result.filtered_on_server == []
    assert True not in stream.matches


def test_rules_that_change_between_runs_lose_nothing_and_repeat_nothing(stream: Stream) -> None:
    """Each run stops at an event that the filter of the next would not let pass, which MongoDB calls a lost token."""
    db, name = stream.db, stream.db_name
    stream.run()
    for number in range(4):
        db.a.insert_one({"_id": number})
        db.b.insert_one({"_id": number})
        db.a.update_one({"_id": number}, {"$set": {"x": 1}})
    rules: Sequence[dict[str, Any]] = [
        {"namespaces": f"{name}.a"},
        {"namespaces": f"{name}.b"},
        {"operations": "delete"},
        {"namespaces": f"{name}.a", "operations": "update"},
        {},
        {"operations": "insert"},
    ]
    positions: list[Position] = []
    for rule in rules:
        result = stream.run(**rule, filter_at="server", batch_size=1, max_loop=1)
        assert result.position is not None
        positions.append(result.position)
        assert (
            len([pipeline for pipeline in stream.pipelines.seen if "resumeAfter" in pipeline[0]["$changeStream"]]) <= 1
        )
    assert stream.took() == [("insert", "a", 0), ("insert", "b", 0)], "and then all is read, without any delete"
    assert all(result.caught_up for result in [stream.run()])
    for at, rule in [(positions[0], rules[1]), (positions[0], rules[2]), (positions[1], rules[3])]:
        with Connection(stream.settings()) as connection:
            source = MongoChangeSource(stream.settings(**rule, filter_at="server"), connection)
            opened = source.open(at)
            found: list[ChangeEvent] = []
            for _ in range(5):
                found += opened.read(0.05).events
            opened.close()
            assert opened.filtered_on_server, "the server still does it"
        ids = [(each.operation, each.namespace.coll, (each.document_key or {})["_id"]) for each in found]
        expected = {1: [("insert", "b", n) for n in range(4)], 2: [], 3: [("update", "a", n) for n in range(4)]}
        assert ids == expected[rules.index(rule)]


def test_where_the_server_refuses_the_filter_docdb_stream_does_it(
    stream: Stream, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from docdb_stream.mongodb import pipeline

    monkeypatch.setattr(pipeline, "_value", lambda text: {"$no_such_operator": text})
    values = {"namespaces": f"{stream.db_name}.orders"}
    stream.run(**values)
    stream.db.other.insert_one({"_id": 1})
    stream.db.orders.insert_one({"_id": 1})
    result = stream.run(**values)
    assert stream.took() == [("insert", "orders", 1)]
    assert (result.filtered_by, result.filtered_on_server) == ({"namespaces": 1}, [])
    assert "namespaces is left to docdb-stream" in caplog.text


def test_a_token_that_only_the_filter_hides_is_no_lost_history(
    stream: Stream, version: tuple[int, ...], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As if the position's time were not let pass. MongoDB before 6.0 looks for the token before it filters."""
    from docdb_stream.mongodb.pipeline import ServerFilter

    stages = ServerFilter.stages
    monkeypatch.setattr(ServerFilter, "stages", lambda self, position: stages(self, Position()))
    stream.run(start_at="now")
    stream.db.a.insert_one({"_id": 1})
    stream.db.a.insert_one({"_id": 2})
    stream.db.b.insert_one({"_id": 1})
    stream.run(batch_size=1, max_loop=1)
    result = stream.run(namespaces=f"{stream.db_name}.b")
    assert stream.took() == [("insert", "a", 1), ("insert", "b", 1)]
    hides_it = version >= (6,)
    assert result.filtered_by == ({"namespaces": 1} if hides_it else {})
    assert ("resume token was not found" in caplog.text) == hides_it


@pytest.mark.parametrize("filter_at", ["client", "server"])
def test_a_stream_of_which_nothing_passes_moves_on(stream: Stream, filter_at: str) -> None:
    values = {"operations": "delete", "filter_at": filter_at, "watched_collection_name": "orders"}
    first = stream.run(**values)
    stream.db.orders.insert_many([{"_id": number} for number in range(25)])
    result = stream.run(**values, batch_size=10, max_loop=2)
    assert stream.took() == []
    counted = filter_at == "client"
    assert (result.loops, result.filtered, result.caught_up) == ((2, 20, False) if counted else (0, 0, True))
    assert result.checkpoints > 0
    assert first.position is not None
    assert result.position is not None
    assert (result.position.operation_time or 0) > (first.position.operation_time or 0)
    assert stream.run(**values).filtered == (5 if counted else 0)


@pytest.mark.parametrize("filter_at", ["client", "server"])
def test_a_stream_goes_on_after_an_invalidate_that_nobody_wants(stream: Stream, filter_at: str) -> None:
    values = {"operations": "insert", "filter_at": filter_at, "watched_collection_name": "orders"}
    stream.run(**values)
    stream.db.orders.insert_one({"_id": 1})
    stream.db.orders.drop()
    stream.db.orders.insert_one({"_id": 2})
    assert stream.run(**values).caught_up
    assert stream.took() == [("insert", "orders", 1), ("insert", "orders", 2)]


# Images of documents


def test_nobody_looks_up_what_nobody_sees(stream: Stream) -> None:
    stream.run(operations="insert, delete", full_document_before_change="off")
    assert stream.pipelines.seen
    assert not any("fullDocument" in pipeline[0]["$changeStream"] for pipeline in stream.pipelines.seen)
    stream.run(full_document="default")
    assert not any("fullDocument" in pipeline[0]["$changeStream"] for pipeline in stream.pipelines.seen)
    stream.run()
    assert stream.pipelines.seen[-1][0]["$changeStream"]["fullDocument"] == "updateLookup"


@pytest.fixture
def keeps_images(mongo: Mongo, version: tuple[int, ...]) -> Callable[[str, str], None]:
    if version < (6,):
        pytest.skip("pre- and post-images came with MongoDB 6.0")

    def create(db: str, coll: str) -> None:
        mongo[db].create_collection(coll, changeStreamPreAndPostImages={"enabled": True})

    return create


REQUIRED = {"full_document": "required", "full_document_before_change": "required"}


def test_the_documents_before_and_right_after_a_change(stream: Stream, keeps_images: Callable[..., None]) -> None:
    keeps_images(stream.db_name, "orders")
    stream.run(**REQUIRED, watched_collection_name="orders")
    stream.db.orders.insert_one({"_id": 1, "n": 1})
    stream.db.orders.update_one({"_id": 1}, {"$set": {"n": 2}})
    stream.db.orders.replace_one({"_id": 1}, {"n": 3})
    stream.db.orders.delete_one({"_id": 1})
    stream.run(**REQUIRED, watched_collection_name="orders")
    shown = [(each.full_document, each.document.get("fullDocumentBeforeChange")) for each in stream.target.events]
    one, two, three = ({"_id": 1, "n": number} for number in (1, 2, 3))
    assert shown == [(one, None), (two, one), (three, two), (None, three)]
    assert b"fullDocumentBeforeChange" in stream.target.events[-1].render("extended")


@pytest.mark.usefixtures("keeps_images")
def test_a_required_image_that_is_not_there_ends_the_run_and_keeps_the_position(stream: Stream) -> None:
    stream.run(watched_collection_name="orders")
    stream.db.orders.insert_one({"_id": 1})
    stream.db.orders.update_one({"_id": 1}, {"$set": {"n": 2}})
    for _ in range(2):
        with pytest.raises(SourceUnavailableError, match="image") as caught:
            stream.run(**REQUIRED, watched_collection_name="orders")
        assert "collMod" in caught.value.hint
        assert caught.value.refused, "whoever follows need not wait for it"
    result = stream.run(watched_collection_name="orders", full_document="when_available")
    assert (result.events, [each.full_document for each in stream.target.events][1]) == (2, None)


def test_images_are_required_of_what_is_wanted_alone(stream: Stream, keeps_images: Callable[..., None]) -> None:
    """Neither of the state, which the stream covers, nor of other collections."""
    values = {
        **REQUIRED,
        "namespaces": f"{stream.db_name}.orders",
        "watched_db_name": None,
        "stream_name": stream.db_name,
    }
    keeps_images(stream.db_name, "orders")
    stream.run(**values)
    stream.db.other.insert_one({"_id": 1})
    stream.db.other.update_one({"_id": 1}, {"$set": {"n": 2}})
    stream.db.orders.insert_one({"_id": 1})
    for expected in (1, 0):
        result = stream.run(**values)
        assert (result.events, result.caught_up) == (expected, True)


def test_a_stream_that_requires_images_does_not_stumble_over_its_own_state(
    stream: Stream, keeps_images: Callable[..., None]
) -> None:
    keeps_images(stream.db_name, "orders")
    for filter_at in ("auto", "client"):
        values = {**REQUIRED, "state_db": stream.db_name, "filter_at": filter_at}
        for number in range(3):
            stream.db.orders.insert_one({"_id": f"{filter_at}{number}"})
            stream.run(**values, start_at="earliest")
    assert [each for each in stream.took() if each[1] != "orders"] == []


def test_documents_that_are_too_large_together(stream: Stream, keeps_images: Callable[..., None]) -> None:
    keeps_images(stream.db_name, "orders")
    values = {**REQUIRED, "watched_collection_name": "orders"}
    stream.run(**values)
    text = "x" * 9_000_000
    stream.db.orders.insert_one({"_id": 1, "text": text})
    stream.db.orders.update_one({"_id": 1}, {"$set": {"n": 1}})
    stream.db.orders.delete_one({"_id": 1})
    result = stream.run(**values)
    assert (result.events, result.rejections, result.caught_up) == (3, 0, True)
    _, update, delete = stream.target.events
    assert update.full_document == {"_id": 1, "text": text, "n": 1}
    assert update.document["fullDocumentBeforeChange"] == {"_id": 1, "text": text}
    assert delete.document["fullDocumentBeforeChange"]["n"] == 1


@pytest.mark.parametrize("filter_at", ["auto", "client"])
def test_a_large_event_among_those_of_others(stream: Stream, filter_at: str) -> None:
    values = {"namespaces": f"{stream.db_name}.orders", "filter_at": filter_at}
    stream.run(**values)
    for number in range(2):
        for coll in ("other", "orders", "third"):
            stream.db[coll].insert_one({"_id": number})
            stream.db[coll].update_one({"_id": number}, {"$set": {"text": "x" * 9_000_000}})
    result = stream.run(**values)
    assert (result.events, result.rejections, result.caught_up) == (4, 0, True)
    assert result.filtered_by == ({} if filter_at == "auto" else {"namespaces": 8})
    expected = [(operation, "orders", number) for number in range(2) for operation in ("insert", "update")]
    assert [len((each.full_document or {}).get("text", "")) for each in stream.target.events] == [0, 9_000_000] * 2
    assert stream.took() == expected


def test_a_match_on_the_server_judges_documents_alone_and_gives_way_to_large_events(stream: Stream) -> None:
    match = '{"fullDocument.total": {"$gte": {"$numberLong": "100"}}}'
    settings = stream.settings(match=match, filter_at="server", on_exit="ignore", watched_collection_name="orders")
    with Connection(settings) as connection:
        source = MongoChangeSource(settings, connection)
        start = source.start_position("now")
        orders = stream.db.orders
        orders.insert_many([{"_id": 1, "total": 5}, {"_id": 2, "total": 500}, {"_id": 3, "total": 7}])
        orders.update_one({"_id": 1}, {"$set": {"total": 4}})
        orders.delete_one({"_id": 3})
        opened = source.open(start)
        found: list[ChangeEvent] = []
        limit = Deadline.after(30)
        while len(found) < 2 and limit.remaining_s > 0:
            found += opened.read(1.0).events
        assert [(each.operation, (each.document_key or {})["_id"]) for each in found] == [("insert", 2), ("delete", 3)]
        assert opened.filtered_on_server == ("match",)
        orders.update_one({"_id": 2}, {"$set": {"text": "x" * 9_000_000}})
        orders.insert_one({"_id": 4, "total": 1})
        found.clear()
        while not any((each.document_key or {})["_id"] == 4 for each in found):
            found += opened.read(1.0).events
        opened.close()
    large, after = found
    assert len((large.full_document or {})["text"]) == 9_000_000
    assert (large.full_document or {})["total"] == 500
    assert after.full_document == {"_id": 4, "total": 1}, "which is the step's to leave out from then on"


@pytest.mark.parametrize("values", [{"full_document": "required"}, {"full_document_before_change": "when_available"}])
def test_a_server_without_images_is_told_of_as_such(
    stream: Stream, version: tuple[int, ...], monkeypatch: pytest.MonkeyPatch, values: dict[str, str]
) -> None:
    from docdb_stream.mongodb import source

    if version >= (6,):
        monkeypatch.setattr(source, "_WITH_IMAGES", 999)
    with pytest.raises(ConfigError, match="no pre- and post-images") as caught:
        stream.run(**values)
    assert "MongoDB 6.0" in caught.value.hint


def test_doctor_names_the_collections_without_images(stream: Stream, keeps_images: Callable[..., None]) -> None:
    keeps_images(stream.db_name, "kept")
    stream.db.orders.insert_one({"_id": 1})
    stream.db.other.insert_one({"_id": 1})

    def told(**values: Any) -> tuple[type | None, str]:
        settings = stream.settings(namespaces=f"{stream.db_name}.kept, {stream.db_name}.o*s", stdout=True, **values)
        [error] = [found.error for found in checks(settings) if found.what == "pre- and post-images"]
        return (None if error is None else type(error)), str(error)

    kind, message = told(full_document="when_available")
    assert (kind, f"for {stream.db_name}.orders:" in message) == (Caution, True)
    assert told(full_document="required")[0] is SourceUnavailableError
    stream.db.command("collMod", "orders", changeStreamPreAndPostImages={"enabled": True})
    assert told(full_document="required")[0] is None
