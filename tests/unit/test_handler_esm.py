"""The Lambda behind a DocumentDB event source mapping, with targets that are lists."""

from __future__ import annotations

import io
import json
import logging
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

import bson
import pytest
from bson import json_util

from docdb_stream.context import RunContext, current_run
from docdb_stream.errors import CheckpointConflictError, ConfigError, TargetError, UnrenderableError
from docdb_stream.events import ChangeEvent
from docdb_stream.handlers import _push, esm
from docdb_stream.settings import Settings
from docdb_stream.target import Rejection
from docdb_stream.testing.events import ChangeLog, hostile_documents

SECRET = "tr0ub4dor"
CANONICAL = json_util.JSONOptions(
    json_mode=json_util.JSONMode.CANONICAL, datetime_conversion=bson.DatetimeConversion.DATETIME_AUTO
)
CODEC: bson.CodecOptions[dict[str, Any]] = bson.CodecOptions(datetime_conversion=bson.DatetimeConversion.DATETIME_AUTO)


class Context:
    function_name = "docdb-stream-esm"

    def __init__(self, remaining_ms: int = 60_000) -> None:
        self._remaining_ms = remaining_ms

    def get_remaining_time_in_millis(self) -> int:
        return self._remaining_ms


class ListTarget:
    name = "list"

    def __init__(self) -> None:
        self.batches: list[Sequence[ChangeEvent]] = []
        self.refused: set[str] = set()
        self.error: Exception | None = None
        self.close_error: Exception | None = None
        self.closed = 0
        self.run: RunContext | None = None

    @property
    def events(self) -> list[ChangeEvent]:
        return [event for batch in self.batches for event in batch]

    def write(self, events: Sequence[ChangeEvent]) -> Sequence[Rejection]:
        if self.error is not None:
            raise self.error
        self.run = current_run()
        self.run.check_lease()
        self.batches.append(events)
        return [Rejection(event, self.name, "no") for event in events if event.event_id in self.refused]

    def flush(self) -> Sequence[Rejection]:
        return ()

    def close(self) -> None:
        self.closed += 1
        if self.close_error is not None:
            raise self.close_error


class LetterBox:
    def __init__(self) -> None:
        self.written: list[tuple[str, Rejection]] = []

    def write(self, stream: str, rejections: Sequence[Rejection]) -> None:
        self.written += [(stream, rejection) for rejection in rejections]


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """A container that has just started."""
    monkeypatch.setattr(_push, "_kept", None)
    monkeypatch.setenv("WATCHED_DB_NAME", "shop")
    monkeypatch.setenv("WATCHED_COLLECTION_NAME", "orders")
    monkeypatch.setenv("STDOUT", "true")


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> list[ListTarget]:
    """Every target that was built."""
    made: list[ListTarget] = []

    def build_targets(settings: Settings) -> list[ListTarget]:
        made.append(ListTarget())
        return [made[-1]]

    monkeypatch.setattr(_push, "build_targets", build_targets)
    return made


@pytest.fixture
def box(monkeypatch: pytest.MonkeyPatch) -> LetterBox:
    found = LetterBox()
    monkeypatch.setenv("DEAD_LETTERS", "s3://letters/here")
    monkeypatch.setattr(_push, "dead_letters_for", lambda settings, connection: found)
    return found


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    """What the function logs, as CloudWatch gets it."""
    [handler] = logging.getLogger("docdb_stream").handlers
    stream_handler = cast("logging.StreamHandler[Any]", handler)
    text = io.StringIO()
    before = stream_handler.setStream(text)
    yield text
    stream_handler.setStream(before or sys.stdout)


def canonical(event: ChangeEvent) -> dict[str, Any]:
    """The event as Lambda sends it."""
    assert event.raw is not None
    found: dict[str, Any] = json.loads(json_util.dumps(bson.decode(event.raw, CODEC), json_options=CANONICAL))
    return found


def payload(events: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return {
        "eventSourceArn": "arn:aws:rds:eu-central-1:123456789012:cluster:shop",
        "eventSource": "aws:docdb",
        "events": [{"event": event} for event in events],
    }


# What it is given


@pytest.mark.parametrize("count", [1, 10, 2_345])
def test_a_batch_of_any_size_is_delivered_in_order(
    built: list[ListTarget], monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    monkeypatch.setenv("BATCH_SIZE", "1000")
    log = ChangeLog()
    event = canonical(log.insert({"_id": 0}))
    events = [{**event, "documentKey": {"_id": {"$numberInt": str(number)}}} for number in range(count)]
    answer = esm.handler(payload(events), Context())
    assert answer == {"stream": "shop.orders", "events": count, "rejections": 0}
    assert [found.document_key for found in built[0].events] == [{"_id": number} for number in range(count)]
    assert max(len(batch) for batch in built[0].batches) <= 1000


def test_the_state_of_docdb_stream_is_left_out(built: list[ListTarget]) -> None:
    """A dead letter in what is watched would otherwise be an event, and perhaps a dead letter again."""
    mine, others = ChangeLog("docdb_stream", "checkpoints_dead_letters"), ChangeLog("sync", "letters")
    event = ChangeLog().insert({"_id": 1, "docdb_stream_state": "sync.letters"})
    letters = [mine.insert({"_id": 1}), others.insert({"_id": 1, "docdb_stream_state": "sync.letters"})]
    assert esm.handler(payload([canonical(each) for each in (*letters, event)]), Context())["events"] == 1
    assert [found.event_id for found in built[0].events] == [event.event_id]


def test_the_function_leaves_out_what_the_mapping_cannot(
    built: list[ListTarget], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WATCHED_COLLECTION_NAME")
    monkeypatch.setenv("NAMESPACES", "shop.orders")
    monkeypatch.setenv("OPERATIONS", "insert")
    orders = ChangeLog()
    events = [orders.insert({"_id": 1}), orders.delete(1), ChangeLog("shop", "other").insert({"_id": 2})]
    answer = esm.handler(payload([canonical(event) for event in events]), Context())
    assert [found.event_id for found in built[0].events] == [events[0].event_id]
    assert answer["filtered_by"] == {"namespaces": 1, "operations": 1}


def test_an_empty_batch_is_no_error(built: list[ListTarget]) -> None:
    assert esm.handler(payload([]), Context())["events"] == 0


@pytest.mark.parametrize(
    "event", ChangeLog().every_operation(), ids=lambda event: f"{event.operation}-{event.event_id[10:26]}"
)
def test_every_operation_is_the_event_that_the_server_made(built: list[ListTarget], event: ChangeEvent) -> None:
    esm.handler(payload([canonical(event)]), Context())
    [found] = built[0].events
    assert (found.event_id, found.operation, found.namespace) == (event.event_id, event.operation, event.namespace)
    assert (found.key, found.cluster_time) == (event.key, event.cluster_time)
    assert found.raw == event.raw


LOSSY_IN_PYMONGO = {"old_types", "invalid_utf8", "duplicate_keys", "looks_like_extended_json"}


@pytest.mark.parametrize("name", sorted(set(hostile_documents()) - LOSSY_IN_PYMONGO))
def test_every_bson_type_comes_back_byte_for_byte(built: list[ListTarget], name: str) -> None:
    event = ChangeLog().hostile()[name]
    esm.handler(payload([canonical(event)]), Context())
    [found] = built[0].events
    assert found.render("extended") == event.render("extended")
    assert found.key == event.key


def test_the_deprecated_types_come_back_byte_for_byte(built: list[ListTarget]) -> None:
    event = ChangeLog().hostile()["old_types"]
    sent = canonical(event)
    sent["fullDocument"] = {
        "_id": {"$numberInt": "-1"},
        "undefined": {"$undefined": True},
        "symbol": {"$symbol": "sym"},
        "pointer": {"$dbPointer": {"$ref": "db.coll", "$id": {"$oid": bytes(range(12)).hex()}}},
    }
    esm.handler(payload([sent]), Context())
    assert built[0].events[0].raw == event.raw


def test_a_stored_document_that_looks_like_extended_json_stays_one(built: list[ListTarget]) -> None:
    """The poller refuses to render it, since it would read back as something else; so it is refused here."""
    event = ChangeLog().hostile()["looks_like_extended_json"]
    assert event.raw is not None
    sent = canonical(ChangeLog().insert({"_id": "hostile looks_like_extended_json"}))
    sent["fullDocument"] |= {
        "oid": {"$oid": "not an id"},
        "date": {"$date": {"$numberLong": "soon"}},
        "ref": {"$ref": "x", "$id": {"$numberInt": "1"}},
        "number": {"$numberInt": "1"},
    }
    esm.handler(payload([sent]), Context())
    [found] = built[0].events
    with pytest.raises(UnrenderableError):
        found.render("extended")
    full = found.full_document
    assert full is not None
    assert (full["oid"], full["date"]) == ({"$oid": "not an id"}, {"$date": {"$numberLong": "soon"}})


@pytest.mark.parametrize(
    "stored",
    [
        {"$regex": "a.c", "$options": "i"},
        {"$uuid": "a"},
        {"$numberInt": 5},
        {"$binary": "AA==", "$type": "00"},
        {"$ref": "a", "$id": "b", "x": "c"},
        {"x": "c", "$ref": "a"},
        {"$minKey": True},
        {"$undefined": 1},
        {"$code": "x", "other": "y"},
        {"$timestamp": {"t": -1, "i": 0}},
    ],
    ids=str,
)
def test_dollar_keys_that_are_no_wrapper_stay_a_document(built: list[ListTarget], stored: dict[str, Any]) -> None:
    sent = canonical(ChangeLog().insert({"_id": 1}))
    sent["fullDocument"]["stored"] = stored
    esm.handler(payload([sent]), Context())
    raw = built[0].events[0].raw
    assert raw is not None
    assert bson.encode({"stored": stored})[4:-1] in raw


FOREIGN: dict[str, tuple[Any, str]] = {
    "SNS": ({"Records": [{"EventSource": "aws:sns", "Sns": {}}]}, "nobody known"),
    "a schedule": ({"source": "aws.events"}, "nobody known"),
    "Kafka": ({"eventSource": "aws:kafka", "records": {}}, "aws:kafka"),
    "nothing": ({}, "nobody known"),
    "None": (None, "NoneType"),
    "a list": ([SECRET], "list"),
    "a text": (SECRET, "str"),
    "no events": ({"eventSource": "aws:docdb"}, "cannot be read"),
    "events that are none": ({"eventSource": "aws:docdb", "events": [SECRET]}, "cannot be read"),
    "events that are no list": ({"eventSource": "aws:docdb", "events": 3}, "cannot be read"),
    "an event that is none": (payload(cast("Any", [SECRET])), "cannot be read"),
    "an event without a token": (payload([{"operationType": "insert", "x": SECRET}]), "cannot be read"),
    "a token that is none": (payload([{"_id": SECRET, "operationType": "insert"}]), "cannot be read"),
    "an event without an operation": (payload([{"_id": {"_data": "01"}}]), "cannot be read"),
    "a number that BSON has not": (
        payload([{"_id": {"_data": "01"}, "operationType": "insert", "x": 2**70}]),
        "cannot be read",
    ),
    "a key that BSON has not": (payload([{"_id": {"_data": "01"}, "operationType": "x", "\0": 1}]), "cannot be read"),
}


@pytest.mark.parametrize(("event", "told"), FOREIGN.values(), ids=FOREIGN.keys())
def test_what_it_cannot_deliver_is_refused(built: list[ListTarget], log: io.StringIO, event: Any, told: str) -> None:
    with pytest.raises(ConfigError, match=told) as raised:
        esm.handler(event, Context())
    assert raised.value.hint
    assert built == [], "nothing was delivered"
    assert SECRET not in str(raised.value) + log.getvalue()


# The container stays warm


def test_targets_are_built_once_and_used_again(built: list[ListTarget]) -> None:
    event = canonical(ChangeLog().insert({"_id": 1}))
    for _ in range(3):
        esm.handler(payload([event]), Context())
    assert [(len(target.events), target.closed) for target in built] == [(3, 0)]


@pytest.mark.parametrize("error", [TargetError("list", "gone"), ValueError(SECRET[:2])])
def test_a_failure_is_raised_and_everything_is_built_anew(built: list[ListTarget], error: Exception) -> None:
    event = canonical(ChangeLog().insert({"_id": 1}))
    esm.handler(payload([event]), Context())
    built[0].error = error
    with pytest.raises(TargetError):
        esm.handler(payload([event]), Context())
    assert built[0].closed == 1
    esm.handler(payload([event]), Context())
    assert [len(target.events) for target in built] == [1, 1]


def test_what_a_target_does_late_is_not_sent(built: list[ListTarget]) -> None:
    """Lambda gives the batch to the next invocation: a request of this one must not overtake it."""
    event = canonical(ChangeLog().insert({"_id": 1}))
    esm.handler(payload([event]), Context())
    assert built[0].run is not None
    with pytest.raises(CheckpointConflictError):
        built[0].run.check_lease()


def test_what_fails_while_closing_does_not_hide_the_failure(built: list[ListTarget], log: io.StringIO) -> None:
    event = canonical(ChangeLog().insert({"_id": 1}))
    esm.handler(payload([event]), Context())
    built[0].error = TargetError("list", "gone")
    built[0].close_error = RuntimeError(SECRET)
    with pytest.raises(TargetError, match="gone"):
        esm.handler(payload([event]), Context())
    assert SECRET not in log.getvalue()


def test_a_target_that_hangs_ends_before_the_invocation_does(
    built: list[ListTarget], monkeypatch: pytest.MonkeyPatch
) -> None:
    event = canonical(ChangeLog().insert({"_id": 1}))
    esm.handler(payload([event]), Context())
    wakes = threading.Event()
    monkeypatch.setattr(built[0], "write", lambda events: wakes.wait(10) and ())
    with pytest.raises(TargetError, match="not durable by the run's deadline"):
        esm.handler(payload([event]), Context(remaining_ms=1))
    wakes.set()


# Rejections


def test_rejections_go_to_the_dead_letters(built: list[ListTarget], box: LetterBox) -> None:
    log = ChangeLog()
    events = log.inserts(4)
    esm.handler(payload([canonical(events[0])]), Context())
    built[0].refused = {events[2].event_id}
    answer = esm.handler(payload([canonical(event) for event in events]), Context())
    assert answer == {"stream": "shop.orders", "events": 4, "rejections": 1}
    [(stream, rejection)] = box.written
    assert (stream, rejection.event.event_id) == ("shop.orders", events[2].event_id)


@pytest.mark.parametrize("uri", [None, ""])
def test_without_a_place_for_dead_letters_a_rejection_fails_the_batch(
    built: list[ListTarget], monkeypatch: pytest.MonkeyPatch, uri: str | None
) -> None:
    if uri is not None:
        monkeypatch.setenv("DOCUMENTDB_URI", uri)
    event = ChangeLog().insert({"_id": 1})
    esm.handler(payload([]), Context())
    built[0].refused = {event.event_id}
    with pytest.raises(ConfigError, match="no place for dead letters") as raised:
        esm.handler(payload([canonical(event)]), Context())
    assert "DEAD_LETTERS" in raised.value.hint


# Settings, logs and metrics


def test_every_problem_of_the_environment_is_in_the_message(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PAYLOAD_FORMAT", "xml")
    monkeypatch.setenv("BATCH_SIZE", "many")
    with pytest.raises(ConfigError) as raised:
        esm.handler(payload([]), Context())
    assert "BATCH_SIZE" in str(raised.value)
    assert "PAYLOAD_FORMAT" in str(raised.value)
    assert "DOCUMENTDB_URI" not in str(raised.value), "Lambda reads the cluster"


def test_no_schema_ledger_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCHEMA_POLICY", "stop")
    with pytest.raises(ConfigError, match="SCHEMA_POLICY") as raised:
        esm.handler(payload([]), Context())
    assert "schedule" in raised.value.hint


def test_no_target_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("STDOUT")
    with pytest.raises(ConfigError, match="no target"):
        esm.handler(payload([]), Context())


def test_metrics_and_a_log_without_documents(
    built: list[ListTarget], box: LetterBox, log: io.StringIO, capsys: pytest.CaptureFixture[str]
) -> None:
    changes = ChangeLog()
    events = [changes.insert({"_id": number, "card": SECRET}) for number in range(3)]
    esm.handler(payload([]), Context())
    built[0].refused = {events[1].event_id}
    capsys.readouterr()
    esm.handler(payload([canonical(event) for event in events]), Context())
    out = capsys.readouterr().out
    [line] = [json.loads(text) for text in out.splitlines()]
    assert (line["stream"], line["Events"], line["Rejections"]) == ("shop.orders", [3], [1])
    assert line["Lag"][0] > 0
    assert line["_aws"]["CloudWatchMetrics"][0]["Dimensions"] == [["stream"]]
    assert json.loads(log.getvalue().splitlines()[-1])["result"]["events"] == 3
    assert SECRET not in out + log.getvalue()


def test_a_failure_is_told_to_people_once_although_the_batch_comes_again_and_again(
    built: list[ListTarget], monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []

    class Topic:
        def publish(self, **message: str) -> None:
            told.append(message["Message"])

    monkeypatch.setattr("docdb_stream.aws.client", lambda service, **options: Topic())
    monkeypatch.setattr(ListTarget, "write", lambda self, events: 1 / 0)
    monkeypatch.setenv("SNS_TOPIC_ARN_ALERT", "arn:aws:sns:eu-central-1:123456789012:esm-fails")
    event = canonical(ChangeLog().insert({"_id": 1}))
    for _ in range(3):
        with pytest.raises(TargetError, match="ZeroDivisionError"):
            esm.handler(payload([event]), Context())
    assert len(built) == 3
    assert len(told) == 1
    assert "stream: shop.orders" in told[0]
