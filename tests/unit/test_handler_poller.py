"""The scheduled Lambda, with a poller that is faked or made of a scripted source and lists."""

from __future__ import annotations

import io
import json
import logging
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast

import pytest

from docdb_stream.alerts import Alerts
from docdb_stream.context import Deadline
from docdb_stream.errors import (
    CheckpointConflictError,
    ConfigError,
    HistoryLostError,
    LeaseHeldError,
    SourceUnavailableError,
    TargetError,
)
from docdb_stream.events import ChangeEvent
from docdb_stream.handlers import _runtime
from docdb_stream.handlers import poller as handler_module
from docdb_stream.poller import Poller
from docdb_stream.result import RunResult
from docdb_stream.settings import Settings
from docdb_stream.stores.memory import MemoryCheckpointStore
from docdb_stream.target import Rejection
from docdb_stream.testing.events import ChangeLog
from docdb_stream.testing.source import ScriptedSource

SECRET = "tr0ub4dor"
ENVIRONMENT = {
    "DOCUMENTDB_URI": "mongodb://cluster.example:27017/?replicaSet=rs0",
    "WATCHED_DB_NAME": "shop",
    "WATCHED_COLLECTION_NAME": "orders",
    "STDOUT": "true",
}


class Context:
    """What Lambda passes besides the event."""

    function_name = "docdb-stream-shop-orders"

    def __init__(self, remaining_ms: int = 60_000) -> None:
        self._remaining_ms = remaining_ms

    def get_remaining_time_in_millis(self) -> int:
        return self._remaining_ms


class FakePoller:
    """Answers each run with what it was told: a result or an error."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.alerts = Alerts(settings)
        self.limits: list[Deadline] = []
        self.answers: list[RunResult | Exception] = []
        self.closed = 0
        self.close_error: Exception | None = None

    def run(self, *, limit: Deadline, alert: bool) -> RunResult:
        assert not alert, "the handler sends it, after its log line"
        self.limits.append(limit)
        answer = self.answers.pop(0) if self.answers else RunResult(self.settings.stream_name, stopped_by="caught-up")
        if isinstance(answer, Exception):
            raise answer
        return answer

    def close(self) -> None:
        self.closed += 1
        if self.close_error is not None:
            raise self.close_error


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """A container that has just started."""
    monkeypatch.setattr(handler_module, "_runtime", _runtime.Runtime())
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> list[FakePoller]:
    """Every poller that was built."""
    made: list[FakePoller] = []

    def from_settings(settings: Settings) -> FakePoller:
        made.append(FakePoller(settings))
        return made[-1]

    monkeypatch.setattr(_runtime.Poller, "from_settings", from_settings)
    return made


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    """What the function logs, as CloudWatch gets it."""
    [handler] = logging.getLogger("docdb_stream").handlers
    stream_handler = cast("logging.StreamHandler[Any]", handler)
    text = io.StringIO()
    before = stream_handler.setStream(text)
    yield text
    stream_handler.setStream(before or sys.stdout)


def lines(log: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log.getvalue().splitlines()]


# What starts it


SCHEDULED = {
    "version": "0",
    "id": "53dc4d37-cffa-4f76-80c9-8b7d4a4d2eaa",
    "detail-type": "Scheduled Event",
    "source": "aws.events",
    "account": "123456789012",
    "time": "2026-01-31T12:00:00Z",
    "region": "eu-central-1",
    "resources": ["arn:aws:events:eu-central-1:123456789012:rule/docdb-stream"],
    "detail": {},
}
STARTERS: dict[str, Any] = {
    "EventBridge through SNS": {
        "Records": [
            {
                "EventSource": "aws:sns",
                "EventVersion": "1.0",
                "EventSubscriptionArn": "arn:aws:sns:eu-central-1:123456789012:trigger:1",
                "Sns": {"Type": "Notification", "MessageId": "1", "Message": json.dumps(SCHEDULED)},
            }
        ]
    },
    "EventBridge": SCHEDULED,
    "EventBridge Scheduler": {**SCHEDULED, "source": "aws.scheduler", "resources": ["arn:aws:scheduler:::schedule/s"]},
    "what a user wrote": {"please": "run", "source": "my.cron"},
    "a test event": {},
    "nothing": None,
}


@pytest.mark.parametrize("event", STARTERS.values(), ids=STARTERS.keys())
def test_whoever_starts_it_it_runs_once(built: list[FakePoller], event: Any) -> None:
    answer = handler_module.handler(event, Context())
    assert (answer["stream"], answer["stopped_by"]) == ("shop.orders", "caught-up")
    assert json.loads(json.dumps(answer)) == answer
    assert [len(poller.limits) for poller in built] == [1]


FOREIGN: dict[str, tuple[Any, str]] = {
    "SQS": ({"Records": [{"eventSource": "aws:sqs", "body": SECRET}]}, "aws:sqs"),
    "S3": ({"Records": [{"eventSource": "aws:s3", "s3": {"object": {"key": SECRET}}}]}, "aws:s3"),
    "Kinesis": ({"Records": [{"eventSource": "aws:kinesis", "kinesis": {}}]}, "aws:kinesis"),
    "Kafka": ({"eventSource": "aws:kafka", "records": {}}, "aws:kafka"),
    "DocumentDB": ({"eventSource": "aws:docdb", "events": [{"event": {"x": SECRET}}]}, "event source mapping"),
    "records of nobody": ({"Records": [{"body": SECRET}]}, "unknown"),
    "no records": ({"Records": []}, "unknown"),
    "records that are none": ({"Records": [SECRET]}, "unknown"),
    "records that are no list": ({"Records": SECRET}, "unknown"),
    "SNS without a message": ({"Records": [{"EventSource": "aws:sns"}]}, "without a message"),
    "SNS with a message that is none": ({"Records": [{"EventSource": "aws:sns", "Sns": SECRET}]}, "without a message"),
    "SNS, the second record": ({"Records": [{"EventSource": "aws:sns", "Sns": {}}, SECRET]}, "unknown"),
    "a list": ([SECRET], "list"),
    "a text": (SECRET, "str"),
}


@pytest.mark.parametrize(("event", "told"), FOREIGN.values(), ids=FOREIGN.keys())
def test_an_event_it_would_throw_away_is_refused(
    built: list[FakePoller], log: io.StringIO, event: Any, told: str
) -> None:
    with pytest.raises(ConfigError, match=told) as raised:
        handler_module.handler(event, Context())
    assert raised.value.hint
    assert built == [], "nothing was run"
    assert SECRET not in str(raised.value)
    assert SECRET not in log.getvalue()


# The container stays warm


def test_the_poller_is_built_once_and_used_again(built: list[FakePoller]) -> None:
    for _ in range(3):
        handler_module.handler({}, Context())
    assert [(len(poller.limits), poller.closed) for poller in built] == [(3, 0)]


@pytest.mark.parametrize(
    "error", [TargetError("s3", "gone"), SourceUnavailableError("away"), HistoryLostError("lost"), ValueError("what")]
)
def test_a_failure_is_raised_and_everything_is_built_anew(built: list[FakePoller], error: Exception) -> None:
    handler_module.handler({}, Context())
    built[0].answers = [error]
    with pytest.raises(type(error)) as raised:
        handler_module.handler({}, Context())
    assert raised.value is error, "Lambda's retry and the on-failure destination see it"
    assert built[0].closed == 1
    handler_module.handler({}, Context())
    assert [len(poller.limits) for poller in built] == [2, 1]


def test_what_fails_while_closing_does_not_hide_the_failure(built: list[FakePoller], log: io.StringIO) -> None:
    handler_module.handler({}, Context())
    built[0].answers = [TargetError("s3", "gone")]
    built[0].close_error = RuntimeError(SECRET)
    with pytest.raises(TargetError, match="gone"):
        handler_module.handler({}, Context())
    assert [line["message"] for line in lines(log)][-1] == "closing after a failure: RuntimeError"


def test_a_held_lease_is_no_failure(built: list[FakePoller], capsys: pytest.CaptureFixture[str]) -> None:
    handler_module.handler({}, Context())
    capsys.readouterr()
    built[0].answers = [LeaseHeldError("stream shop.orders is being worked on by another")]
    answer = handler_module.handler(STARTERS["EventBridge through SNS"], Context())
    assert answer == {"stream": "shop.orders", "stopped_by": "lease-held"}
    assert built[0].closed == 0, "nothing was done, so nothing has to be built anew"
    assert capsys.readouterr().out == "", "nothing was done, so there is nothing to measure"


def test_a_lost_lease_is_no_failure_but_what_the_targets_hold_is_dropped(built: list[FakePoller]) -> None:
    handler_module.handler({}, Context())
    built[0].answers = [CheckpointConflictError("another run took it")]
    assert handler_module.handler({}, Context()) == {"stream": "shop.orders", "stopped_by": "lease-lost"}
    assert built[0].closed == 1


def test_what_was_not_durable_by_the_deadline_is_dropped(built: list[FakePoller]) -> None:
    """The next run reads those events again: a target that still held them would deliver them twice."""
    handler_module.handler({}, Context())
    built[0].answers = [RunResult("shop.orders", events=10, read=12, unsaved=2, stopped_by="deadline")]
    assert handler_module.handler({}, Context())["stopped_by"] == "deadline"
    assert built[0].closed == 1
    handler_module.handler({}, Context())
    assert len(built) == 2


def test_the_invocations_time_is_the_runs_deadline(built: list[FakePoller]) -> None:
    handler_module.handler({}, Context(remaining_ms=20_000))
    [limit] = built[0].limits
    assert 18.0 < limit.remaining_s <= 20.0 - _runtime.RESERVE_S


def test_a_container_without_any_time_left_still_gets_a_deadline(built: list[FakePoller]) -> None:
    handler_module.handler({}, Context(remaining_ms=3))
    assert built[0].limits[0].remaining_s <= 0.1


# Settings


def test_every_problem_of_the_environment_is_in_the_message(monkeypatch: pytest.MonkeyPatch, log: io.StringIO) -> None:
    monkeypatch.delenv("DOCUMENTDB_URI")
    monkeypatch.delenv("WATCHED_DB_NAME")
    monkeypatch.setenv("BATCH_SIZE", "many")
    monkeypatch.setenv("START_AT", "tomorrow")
    with pytest.raises(ConfigError) as raised:
        handler_module.handler({}, Context())
    for word in ("DOCUMENTDB_URI", "BATCH_SIZE", "START_AT"):
        assert word in str(raised.value), "Lambda shows the message and nothing else"
    assert raised.value.hint
    assert (lines(log)[-1]["kind"], lines(log)[-1]["hint"]) == ("settings", raised.value.hint)


def test_settings_that_were_corrected_are_read_again(built: list[FakePoller], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DOCUMENTDB_URI")
    with pytest.raises(ConfigError):
        handler_module.handler({}, Context())
    monkeypatch.setenv("DOCUMENTDB_URI", ENVIRONMENT["DOCUMENTDB_URI"])
    assert handler_module.handler({}, Context())["stream"] == "shop.orders"
    assert len(built) == 1


def test_no_target_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("STDOUT")
    with pytest.raises(ConfigError, match="no target") as raised:
        handler_module.handler({}, Context())
    assert "KINESIS_STREAM" in raised.value.hint


def test_a_secret_without_a_password_is_told_and_not_shown(monkeypatch: pytest.MonkeyPatch, log: io.StringIO) -> None:
    monkeypatch.setenv("DOCUMENTDB_SECRET", "env:MY_SECRET")
    monkeypatch.setenv("MY_SECRET", json.dumps({"username": "reader", "passwort": SECRET}))
    with pytest.raises(ConfigError, match="does not hold username and password") as raised:
        handler_module.handler({}, Context())
    assert "password" in raised.value.hint
    assert SECRET not in str(raised.value) + raised.value.hint + log.getvalue()
    assert SECRET not in repr(raised.value.__cause__)


def test_what_cannot_be_built_is_told_to_people_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """There is no poller yet that could send an alert."""
    told: list[str] = []

    class Topic:
        def publish(self, **message: str) -> None:
            told.append(message["Message"])

    monkeypatch.setattr("docdb_stream.aws.client", lambda service, **options: Topic())
    monkeypatch.setenv("SNS_TOPIC_ARN_ALERT", "arn:aws:sns:eu-central-1:123456789012:cannot-be-built")
    monkeypatch.delenv("STDOUT")
    for _ in range(3):
        with pytest.raises(ConfigError):
            handler_module.handler({}, Context())
    assert len(told) == 1
    assert "no target" in told[0]


def test_a_failure_is_in_the_log_before_anybody_is_told(
    built: list[FakePoller], monkeypatch: pytest.MonkeyPatch, log: io.StringIO
) -> None:
    logged: list[bool] = []

    class Topic:
        def publish(self, **message: str) -> None:
            logged.append("run failed" in log.getvalue())

    monkeypatch.setattr("docdb_stream.aws.client", lambda service, **options: Topic())
    monkeypatch.setenv("SNS_TOPIC_ARN_ALERT", "arn:aws:sns:eu-central-1:123456789012:log-first")
    handler_module.handler({}, Context())
    built[0].answers.append(TargetError("list", "gone"))
    with pytest.raises(TargetError):
        handler_module.handler({}, Context())
    assert logged == [True]


def test_a_topic_that_never_answers_does_not_outlast_the_invocation(
    built: list[FakePoller], monkeypatch: pytest.MonkeyPatch, log: io.StringIO
) -> None:
    over = threading.Event()

    class Topic:
        def publish(self, **message: str) -> None:
            over.wait()

    monkeypatch.setattr("docdb_stream.aws.client", lambda service, **options: Topic())
    monkeypatch.setenv("SNS_TOPIC_ARN_ALERT", "arn:aws:sns:eu-central-1:123456789012:never-answers")
    handler_module.handler({}, Context())
    built[0].answers.append(TargetError("list", "gone"))
    started_s = time.monotonic()
    with pytest.raises(TargetError):
        handler_module.handler({}, Context(remaining_ms=1_500))
    assert time.monotonic() - started_s < 5.0
    assert [line["message"] for line in lines(log)][-2:] == ["run failed", lines(log)[-1]["message"]]
    assert "could not be sent" in lines(log)[-1]["message"]
    over.set()


def test_time_is_kept_free_for_an_alert(built: list[FakePoller], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SNS_TOPIC_ARN_ALERT", "arn:aws:sns:eu-central-1:123456789012:reserve")
    handler_module.handler({}, Context(20_000))
    assert built[0].limits[0].remaining_s <= 20.0 - _runtime.RESERVE_S - 1.9


# Logs and metrics


class ListTarget:
    """Takes what it is not told to refuse."""

    name = "list"

    def __init__(self) -> None:
        self.verdict: Callable[[ChangeEvent], bool] = lambda event: True
        self.error: Exception | None = None

    def write(self, events: Sequence[ChangeEvent]) -> Sequence[Rejection]:
        if self.error is not None:
            raise self.error
        return [Rejection(event, self.name, "too large") for event in events if not self.verdict(event)]

    def flush(self) -> Sequence[Rejection]:
        return ()

    def close(self) -> None:
        pass


class LetterBox:
    def __init__(self) -> None:
        self.letters: list[Rejection] = []

    def write(self, stream: str, rejections: Sequence[Rejection]) -> None:
        self.letters += rejections


@pytest.fixture
def target(monkeypatch: pytest.MonkeyPatch) -> ListTarget:
    """The target of a real poller over a script of five inserts whose documents hold SECRET."""
    target, store, box = ListTarget(), MemoryCheckpointStore(), LetterBox()
    changes = ChangeLog()
    events = [changes.insert({"_id": number, "card": SECRET}) for number in range(5)]

    def from_settings(settings: Settings) -> Poller:
        return Poller(
            settings,
            source=ScriptedSource(events),
            store=store,
            targets=[target],
            dead_letters=cast("Any", box),
        )

    monkeypatch.setenv("START_AT", "earliest")
    monkeypatch.setattr(_runtime.Poller, "from_settings", from_settings)
    return target


def test_metrics_are_lines_of_the_embedded_metric_format(
    target: ListTarget, capsys: pytest.CaptureFixture[str]
) -> None:
    target.verdict = lambda event: event.document_key != {"_id": 3}
    answer = handler_module.handler({}, Context())
    assert (answer["events"], answer["rejections"], answer["caught_up"]) == (5, 1, True)
    found: dict[str, tuple[float, dict[str, str]]] = {}
    for text in capsys.readouterr().out.splitlines():
        line = json.loads(text)
        [directive] = line["_aws"]["CloudWatchMetrics"]
        assert isinstance(line["_aws"]["Timestamp"], int)
        assert directive["Namespace"] == "docdb-stream"
        [dimensions] = directive["Dimensions"]
        for metric in directive["Metrics"]:
            [value] = line[metric["Name"]]
            found[metric["Name"]] = (value, {name: line[name] for name in dimensions})
            assert metric["Unit"]
    assert found["Events"] == (5, {"stream": "shop.orders"})
    assert found["Rejections"] == (1, {"stream": "shop.orders"})
    assert found["CaughtUp"] == (1, {"stream": "shop.orders"})
    assert found["TargetLatency"][1] == {"stream": "shop.orders", "target": "list"}
    for name in ("Loops", "Checkpoints", "Retries", "Lag", "CheckpointAge", "RetentionHeadroom"):
        assert found[name][1] == {"stream": "shop.orders"}


def test_the_log_is_json_and_holds_no_document(
    target: ListTarget, log: io.StringIO, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    target.verdict = lambda event: event.document_key != {"_id": 3}
    handler_module.handler({}, Context())
    found = lines(log)
    assert {line["level"] for line in found} <= {"INFO", "WARNING"}
    assert found[-1]["message"] == "run"
    assert found[-1]["result"]["events"] == 5
    assert any("event rejected" in line["message"] for line in found)
    printed = capsys.readouterr()
    for text in (log.getvalue(), caplog.text, printed.out, printed.err):
        assert SECRET not in text


@pytest.mark.parametrize("error", [TargetError("list", "does not answer", hint="wake it"), OSError(28, "full")])
def test_the_log_of_a_failure_says_what_to_do_and_holds_no_document(
    target: ListTarget, log: io.StringIO, capsys: pytest.CaptureFixture[str], error: Exception
) -> None:
    target.error = error
    with pytest.raises(TargetError) as raised:
        handler_module.handler({}, Context())
    failure = lines(log)[-1]
    assert (failure["message"], failure["level"]) == ("run failed", "ERROR")
    assert (failure["kind"], failure["error"]) == ("target", str(raised.value))
    assert failure["hint"] == raised.value.hint
    assert failure["position_time"] != "None", "where the stream stands"
    printed = capsys.readouterr()
    assert SECRET not in log.getvalue() + printed.out + printed.err
