"""Alerts: what they say, how often they are sent, and that they never get in the way."""

from __future__ import annotations

import datetime as dt
import itertools
import logging
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from docdb_stream.alerts import INTERVAL_S, LEAST_S, PATIENCE_S, Alerts
from docdb_stream.context import Deadline, current_deadline, deadline
from docdb_stream.errors import (
    DocdbStreamError,
    HistoryLostError,
    SourceUnavailableError,
    StateStoreError,
    TargetError,
)
from docdb_stream.settings import Settings

_numbers = itertools.count(1)


class Topic:
    """Stands for SNS: keeps what is published, or fails."""

    def __init__(self) -> None:
        self.messages: list[dict[str, Any]] = []
        self.error: Exception | None = None

    def publish(self, **message: Any) -> None:
        if self.error is not None:
            raise self.error
        self.messages.append(message)


@pytest.fixture
def topic(monkeypatch: pytest.MonkeyPatch) -> Topic:
    found = Topic()
    monkeypatch.setattr("docdb_stream.aws.client", lambda service, **options: found)
    return found


class Clock:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def settings(**values: Any) -> Settings:
    """A stream of its own, so that no test sees what another has sent."""
    defaults = {
        "documentdb_uri": "mongodb://reader:tr0ub4dor@cluster.example/",
        "watched_db_name": f"shop{next(_numbers)}",
        "sns_topic_arn_alert": "arn:aws:sns:eu-central-1:123456789012:alert",
    }
    return Settings(**{**defaults, **values})


def test_without_a_topic_nothing_is_sent(topic: Topic) -> None:
    assert Alerts(settings(sns_topic_arn_alert=None)).send(TargetError("s3", "gone")) is False
    assert topic.messages == []


def test_the_message_says_what_an_operator_needs(topic: Topic, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_REGION", "eu-central-1")
    monkeypatch.setenv("AWS_LAMBDA_LOG_GROUP_NAME", "/aws/lambda/docdb-stream-shop-orders")
    monkeypatch.setenv("AWS_LAMBDA_LOG_STREAM_NAME", "2026/01/31/[$LATEST]0123456789abcdef")
    stream = settings()
    error = TargetError("s3", "S3 bucket changes: AccessDenied", hint="allow s3:PutObject on it")
    error.position_time = dt.datetime(2026, 1, 31, 12, tzinfo=dt.UTC)
    assert Alerts(stream).send(error) is True
    [message] = topic.messages
    assert message["TopicArn"] == stream.sns_topic_arn_alert
    assert message["Subject"] == f"docdb-stream {stream.stream_name}: target"
    lines = message["Message"].splitlines()
    assert lines[:5] == [
        f"stream: {stream.stream_name}",
        "error: target s3: S3 bucket changes: AccessDenied",
        "kind: target",
        "position: 2026-01-31 12:00:00+00:00",
        "what to do: allow s3:PutObject on it",
    ]
    assert lines[5] == (
        "log: https://eu-central-1.console.aws.amazon.com/cloudwatch/home?region=eu-central-1#logsV2:log-groups/log-group/"
        "$252Faws$252Flambda$252Fdocdb-stream-shop-orders/log-events/"
        "2026$252F01$252F31$252F$255B$2524LATEST$255D0123456789abcdef"
    )
    assert "15 minutes" in lines[-1]
    assert "tr0ub4dor" not in str(message)


def test_outside_lambda_and_without_a_hint_there_are_no_empty_lines_about_them(
    topic: Topic, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_LAMBDA_LOG_GROUP_NAME", raising=False)
    Alerts(settings()).send(ValueError("what is this"))
    text = topic.messages[0]["Message"]
    assert "kind: ValueError" in text
    assert "position: as saved" in text
    assert "what to do" not in text
    assert "log:" not in text


@pytest.mark.parametrize(
    "name", ["shop.orders", "магазин.заказы", "x" * 300, "ümläut." + "y" * 200, "🔑" * 60], ids=lambda name: name[:12]
)
def test_the_subject_is_what_sns_takes(topic: Topic, name: str) -> None:
    assert Alerts(settings(stream_name=f"{name}{next(_numbers)}")).send(TargetError("s3", "gone"))
    subject = topic.messages[0]["Subject"]
    assert subject.isascii()
    assert subject.isprintable()
    assert 0 < len(subject) < 100
    assert subject.startswith("docdb-stream ")


# How often


def test_one_alert_per_kind_in_fifteen_minutes(topic: Topic) -> None:
    clock = Clock()
    alerts = Alerts(settings(), clock=clock)
    sent = []
    for _ in range(16):  # a run every two minutes, for half an hour
        sent.append(alerts.send(TargetError("s3", "gone")))
        clock.now_s += 120
    assert [number for number, was_sent in enumerate(sent) if was_sent] == [0, 8]
    assert len(topic.messages) == 2


def test_another_kind_is_told_at_once(topic: Topic) -> None:
    alerts = Alerts(settings(), clock=Clock())
    for error in (TargetError("s3", "gone"), HistoryLostError("lost"), TargetError("kinesis", "gone"), ValueError("x")):
        alerts.send(error)
    kinds = [message["Subject"].rpartition(" ")[2] for message in topic.messages]
    assert kinds == ["target", "history-lost", "ValueError"]


def test_another_stream_is_told_at_once(topic: Topic) -> None:
    for stream in (settings(), settings()):
        assert Alerts(stream, clock=Clock()).send(TargetError("s3", "gone"))
    assert len(topic.messages) == 2


def test_the_memory_is_the_processs(topic: Topic) -> None:
    """A Lambda that fails is built anew for each invocation, and must not tell everything each time."""
    stream, clock = settings(), Clock()
    sent = [Alerts(stream, clock=clock).send(SourceUnavailableError("away")) for _ in range(3)]
    assert sent == [True, False, False]


def test_an_alert_that_failed_does_not_count(topic: Topic) -> None:
    alerts = Alerts(settings(), clock=Clock())
    topic.error = RuntimeError("throttled")
    assert alerts.send(TargetError("s3", "gone")) is False
    topic.error = None
    assert alerts.send(TargetError("s3", "gone")) is True


def asks(answer: Callable[[], bool]) -> tuple[list[tuple[str, str, float]], Callable[[str, str, float], bool]]:
    asked: list[tuple[str, str, float]] = []

    def is_due(stream: str, kind: str, interval_s: float) -> bool:
        asked.append((stream, kind, interval_s))
        return answer()

    return asked, is_due


@pytest.mark.parametrize("due", [True, False])
def test_the_shared_state_is_asked_what_other_processes_have_sent(topic: Topic, due: bool) -> None:
    stream = settings()
    asked, is_due = asks(lambda: due)
    assert Alerts(stream, is_due, Clock()).send(HistoryLostError("lost")) is due
    assert asked == [(stream.stream_name, "history-lost", INTERVAL_S)]
    assert len(topic.messages) == int(due)


def test_the_shared_state_is_not_asked_about_what_this_process_has_sent(topic: Topic) -> None:
    asked, is_due = asks(lambda: True)
    alerts = Alerts(settings(), is_due, Clock())
    alerts.send(HistoryLostError("lost"))
    alerts.send(HistoryLostError("lost"))
    assert len(asked) == len(topic.messages) == 1


@pytest.mark.parametrize("error", [SourceUnavailableError("away"), StateStoreError("away")])
def test_the_cluster_is_not_asked_when_it_is_what_is_away(topic: Topic, error: DocdbStreamError) -> None:
    asked, is_due = asks(lambda: False)
    assert Alerts(settings(), is_due, Clock()).send(error) is True
    assert asked == []
    assert len(topic.messages) == 1


def test_a_state_that_cannot_be_asked_does_not_hold_the_alert_back(topic: Topic) -> None:
    def is_due(stream: str, kind: str, interval_s: float) -> bool:
        raise StateStoreError("away")

    assert Alerts(settings(), is_due, Clock()).send(TargetError("s3", "gone")) is True
    assert len(topic.messages) == 1


# It never gets in the way


@pytest.mark.parametrize("trouble", [RuntimeError("no"), KeyError("x"), OSError("net"), ValueError("bad ARN")])
def test_an_alert_that_cannot_be_sent_is_logged_and_raises_nothing(
    topic: Topic, caplog: pytest.LogCaptureFixture, trouble: Exception
) -> None:
    topic.error = trouble
    with caplog.at_level(logging.ERROR, "docdb_stream"):
        assert Alerts(settings()).send(TargetError("s3", "gone")) is False
    [record] = caplog.records
    assert "the alert could not be sent" in record.message
    assert type(trouble).__name__ in record.message


def test_a_question_that_fails_in_any_way_raises_nothing(topic: Topic) -> None:
    def is_due(stream: str, kind: str, interval_s: float) -> bool:
        raise RuntimeError("a bug")

    assert Alerts(settings(), is_due, Clock()).send(TargetError("s3", "gone")) is False


class Clogged(Topic):
    """An SNS that never answers: nothing comes out of it until the test is over."""

    def __init__(self) -> None:
        super().__init__()
        self.over = threading.Event()

    def publish(self, **message: Any) -> None:
        self.over.wait()


@pytest.mark.parametrize(("left_s", "at_most_s"), [(0.6, 0.6), (-5.0, LEAST_S), (float("inf"), PATIENCE_S)])
def test_a_topic_that_never_answers_holds_nobody(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, left_s: float, at_most_s: float
) -> None:
    clogged = Clogged()
    monkeypatch.setattr("docdb_stream.aws.client", lambda service, **options: clogged)
    monkeypatch.setattr("docdb_stream.alerts.PATIENCE_S", 1.0)
    started_s = time.monotonic()
    with deadline(Deadline.after(left_s)):
        assert Alerts(settings()).send(TargetError("s3", "gone")) is False
    assert time.monotonic() - started_s < at_most_s + 5.0
    assert "no answer within" in caplog.text
    clogged.over.set()


def test_the_shared_state_is_asked_within_the_same_time(topic: Topic) -> None:
    left_s: list[float] = []

    def is_due(stream: str, kind: str, interval_s: float) -> bool:
        left_s.append(current_deadline().remaining_s)
        return True

    with deadline(Deadline.after(3.0)):
        Alerts(settings(), is_due).send(HistoryLostError("lost"))
    assert 0 < left_s[0] <= 3.0


def test_the_topic_names_its_region(monkeypatch: pytest.MonkeyPatch, topic: Topic) -> None:
    regions: list[str] = []
    monkeypatch.setattr("docdb_stream.aws.client", lambda service, region, **options: regions.append(region) or topic)
    assert Alerts(settings()).send(TargetError("s3", "gone"))
    assert regions == ["eu-central-1"]
