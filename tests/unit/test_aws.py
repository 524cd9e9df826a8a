"""The way to boto3: regions, time-outs within the deadline, and what is asked again."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError, EndpointConnectionError, NoRegionError, ReadTimeoutError

from docdb_stream import aws
from docdb_stream.context import Deadline, RunContext, deadline, running
from docdb_stream.errors import CheckpointConflictError, ConfigError, StateStoreError
from docdb_stream.letters.aws import S3DeadLetters, SqsDeadLetters
from docdb_stream.mongodb.ca import ca_file
from docdb_stream.secret import read_credentials

ENOUGH_S = 15.0
"""For a loaded machine; what is tested used to take minutes."""


@pytest.fixture(autouse=True)
def account(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "AWS_ACCESS_KEY_ID": "id",
        "AWS_SECRET_ACCESS_KEY": "key",
        "AWS_DEFAULT_REGION": "eu-central-1",
        "AWS_CONFIG_FILE": "/nonexistent",
    }.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def silent(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A service that accepts connections and never answers, as in a VPC with a security group in the way."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        yield url


# The region


@pytest.mark.parametrize(
    ("environment", "region"),
    [
        ({"AWS_REGION": "eu-west-1"}, "eu-west-1"),
        ({"AWS_DEFAULT_REGION": "eu-west-2"}, "eu-west-2"),
        ({"AWS_DEFAULT_REGION": "eu-west-2", "AWS_REGION": "eu-west-1"}, "eu-west-2"),
        ({"AWS_CONFIG_FILE": "PROFILE"}, "eu-north-1"),
        ({"AWS_CONFIG_FILE": "PROFILE", "AWS_REGION": "eu-west-1"}, "eu-west-1"),
    ],
)
def test_the_region_is_found_by_either_variable_or_the_profile(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, environment: dict[str, str], region: str
) -> None:
    profile = tmp_path / "config"
    profile.write_text("[default]\nregion = eu-north-1\n", encoding="utf-8")
    monkeypatch.delenv("AWS_DEFAULT_REGION")
    for name, value in environment.items():
        monkeypatch.setenv(name, value.replace("PROFILE", str(profile)))
    assert aws.session().region_name == region
    made = aws.client("sns")
    assert made.meta.region_name == region
    made.close()


def test_a_service_can_be_in_another_region() -> None:
    assert aws.Service("sns", region="eu-west-1").client.meta.region_name == "eu-west-1"
    assert aws.arn_region("arn:aws:sns:eu-west-1:123456789012:alert") == "eu-west-1"
    assert aws.arn_region("docdb/reader") is None
    assert aws.arn_region("arn:aws") is None


def test_no_region_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_DEFAULT_REGION")
    with pytest.raises(NoRegionError):
        aws.client("sns")


# Time-outs


def time_outs_s(made: Any) -> tuple[float, float]:
    return made.meta.config.connect_timeout, made.meta.config.read_timeout


def test_a_client_asks_once_and_has_time_outs() -> None:
    made = aws.client("sns")
    assert time_outs_s(made) == (aws.CONNECT_TIMEOUT_S, aws.READ_TIMEOUT_S)
    assert made.meta.config.retries["total_max_attempts"] == 1


def test_a_service_is_asked_for_no_longer_than_the_run_has_left() -> None:
    service = aws.Service("sns")
    now_s = 0.0
    with deadline(Deadline(at_s=100.0, clock=lambda: now_s)):
        found = []
        for now_s in (0.0, 50.0, 70.0, 95.0, 99.5, 200.0):
            connect_s, read_s = time_outs_s(service.client)
            assert connect_s + read_s <= max(1.0, 100.0 - now_s)
            found.append(read_s)
        assert found == [20.0, 20.0, 10.0, 2.0, 0.5, 0.5]
        now_s = 0.0
        assert service.client is service.client, "kept"


@pytest.mark.parametrize(
    ("ask", "expected"),
    [
        (lambda: read_credentials("docdb/reader"), ConfigError),
        (lambda: ca_file("s3://certificates/global-bundle.pem"), ConfigError),
        (lambda: list(S3DeadLetters("s3://letters/refused").letters()), StateStoreError),
        (lambda: list(SqsDeadLetters("https://sqs.eu-central-1.amazonaws.com/1/letters").letters()), StateStoreError),
    ],
    ids=["secret", "certificate", "letters in S3", "letters in SQS"],
)
def test_a_service_that_never_answers_holds_nobody_past_the_deadline(
    silent: str, ask: Any, expected: type[Exception]
) -> None:
    started_s = time.monotonic()
    with deadline(Deadline.after(2.0)), pytest.raises(expected) as caught:
        ask()
    assert time.monotonic() - started_s < ENOUGH_S
    assert any(words in str(caught.value) for words in ("imeout", "timed out", "no answer within"))
    assert caught.value.hint  # type: ignore[attr-defined]


# Asking again


def refused(code: str, status: int = 400) -> ClientError:
    return ClientError({"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}, "Publish")


@pytest.mark.parametrize(
    "trouble",
    [
        refused("Throttling"),
        refused("SomethingNew", 503),
        ReadTimeoutError(endpoint_url="x"),
        EndpointConnectionError(endpoint_url="x"),
    ],
)
def test_what_passes_is_asked_again(monkeypatch: pytest.MonkeyPatch, trouble: Exception) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    answers: list[Any] = [trouble, trouble, "done"]

    def request() -> Any:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    assert aws.patiently(request) == "done"


@pytest.mark.parametrize("limit", [Deadline(at_s=0.0), Deadline(patience_s=0.0)])
def test_nothing_is_asked_again_when_there_is_no_time(limit: Deadline) -> None:
    asked = []

    def request() -> None:
        asked.append(1)
        raise refused("Throttling")

    with deadline(limit), pytest.raises(ClientError):
        aws.patiently(request)
    assert len(asked) == 1


def test_what_does_not_pass_is_told_at_once() -> None:
    def request() -> None:
        raise refused("AccessDenied", 403)

    with pytest.raises(ClientError):
        aws.patiently(request)


def test_nothing_is_sent_without_the_lease(silent: str) -> None:
    def lost() -> None:
        raise CheckpointConflictError("the lease is lost")

    with running(RunContext(Deadline.after(10.0), lost)), pytest.raises(CheckpointConflictError):
        aws.patiently(lambda: aws.Service("sns").client.publish(TopicArn="arn", Message="x"))
