"""Requests that are written directly, beside those that botocore writes; no server hears of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import orjson
import pytest
from botocore.exceptions import ClientError
from botocore.parsers import ResponseParserError

from docdb_stream.targets._aws.client import client
from docdb_stream.targets.kinesis import KinesisTarget
from docdb_stream.targets.sqs import SqsTarget

STREAM_ARN = "arn:aws:kinesis:us-east-1:123456789012:stream/changes"
QUEUE_URL = "https://sqs.us-east-1.amazonaws.com/123456789012/changes.fifo"
TEXTS = ["", 'quote " backslash \\ \n \u2028 \ufffd \U0001f600', "shop.orders {}"]
RECORDS = [
    {"Data": data, "PartitionKey": key}
    for data, key in zip([b"", bytes(range(256)) * 5, '{"é": "\x00"}'.encode()], TEXTS, strict=True)
]
MESSAGES = [
    {
        "Id": str(number),
        "MessageBody": text,
        "MessageAttributes": {"event_id": {"DataType": "String", "StringValue": text}},
        "MessageGroupId": "group",
        "MessageDeduplicationId": f"{number}",
    }
    for number, text in enumerate(TEXTS)
]


class Service(NamedTuple):
    """A target, and how its client is called.

    Attributes:
        make: Makes the target.
        event: What botocore calls the request.
        call: Calls a client with the records.
    """

    make: Callable[[], Any]
    event: str
    call: Callable[[Any], Any]


KINESIS = Service(
    lambda: KinesisTarget("changes"),
    "kinesis.PutRecords",
    lambda made: made.put_records(Records=RECORDS, StreamName="changes"),
)
KINESIS_BY_ARN = KINESIS._replace(call=lambda made: made.put_records(Records=RECORDS, StreamARN=STREAM_ARN))
SQS = Service(
    lambda: SqsTarget(QUEUE_URL),
    "sqs.SendMessageBatch",
    lambda made: made.send_message_batch(QueueUrl=QUEUE_URL, Entries=MESSAGES),
)
SERVICES = [pytest.param(KINESIS, id="kinesis"), pytest.param(KINESIS_BY_ARN, id="ARN"), pytest.param(SQS, id="sqs")]


class Answered:
    """An HTTP response."""

    def __init__(self, body: bytes, status_code: int = 200) -> None:
        self.content, self.status_code = body, status_code
        self.headers = {"content-type": "application/x-amz-json-1.1"}


@pytest.fixture(autouse=True)
def _account(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")


def requested(made: Any, service: Service, answer: Answered) -> tuple[Any, Any]:
    """What a client sends, and what it makes of the answer."""
    sent: list[Any] = []

    def answered(request: Any, **_: Any) -> Answered:
        sent.append(orjson.loads(request.body))
        assert request.headers["Authorization"]
        return answer

    made.meta.events.register(f"before-send.{service.event}", answered)
    return service.call(made), sent[0]


@pytest.mark.parametrize("service", SERVICES)
def test_requests_are_those_that_botocore_makes(service: Service) -> None:
    target = service.make()
    answer = Answered(b"{}")
    _, sent = requested(client(target.service, 1), service, answer)
    _, sent_directly = requested(target._client, service, answer)
    target.close()
    assert sent_directly == sent


@pytest.mark.parametrize(
    ("service", "body"),
    [
        (KINESIS, b'{"FailedRecordCount": 0, "Records": [{"SequenceNumber": "1", "ShardId": "s"}]}'),
        (KINESIS, b'{"Records":[{"SequenceNumber":"1","ShardId":"s"}],"FailedRecordCount":0}'),
        (SQS, b'{"Successful": [{"Id": "0", "MessageId": "m", "MD5OfMessageBody": "d"}]}'),
        (SQS, b'{"Successful": [{"Id": "0", "MessageId": "m", "MD5OfMessageBody": "d"}], "Failed": []}'),
    ],
)
def test_what_was_taken_is_not_gone_through(service: Service, body: bytes) -> None:
    target = service.make()
    found, _ = requested(target._client, service, Answered(body))
    target.close()
    assert not found.get("FailedRecordCount")
    assert not found.get("Failed")
    assert not found.get("Records")
    assert not found.get("Successful")


@pytest.mark.parametrize(
    ("service", "body"),
    [
        (
            KINESIS,
            b'{"FailedRecordCount":10,"Records":[{"ErrorCode":"InternalFailure",'
            b'"ErrorMessage":"\\"FailedRecordCount\\":0,"}]}',
        ),
        (
            SQS,
            b'{"Successful":[{"Id":"0","MessageId":"m","MD5OfMessageBody":"d"}],"Failed":[{"Id":"1","Code":"Bad",'
            b'"SenderFault":true,"Message":"no"}]}',
        ),
        (SQS, b'{"Failed":[{"Id":"1","Code":"Bad","SenderFault":true}]}'),
    ],
)
def test_what_was_refused_is_told_as_botocore_tells_it(service: Service, body: bytes) -> None:
    target = service.make()
    found, _ = requested(client(target.service, 1), service, Answered(body))
    found_directly, _ = requested(target._client, service, Answered(body))
    target.close()
    assert found_directly == found


@pytest.mark.parametrize("service", SERVICES)
def test_errors_are_told_as_botocore_tells_them(service: Service) -> None:
    target = service.make()
    refused = Answered(b'{"__type": "ResourceNotFoundException", "message": "no such thing"}', 400)
    with pytest.raises(ClientError, match="ResourceNotFoundException"):
        requested(target._client, service, refused)
    target.close()


@pytest.mark.parametrize("service", SERVICES)
@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b'{"Successful":[', b'"FailedRecordCount"'])
def test_an_answer_that_is_none_never_counts_as_taken(service: Service, body: bytes) -> None:
    target = service.make()
    try:
        expected, _ = requested(client(target.service, 1), service, Answered(body))
    except (ResponseParserError, AttributeError) as error:  # botocore looks into whatever JSON says
        with pytest.raises(type(error)):
            requested(target._client, service, Answered(body))
    else:
        assert requested(target._client, service, Answered(body))[0] == expected
    target.close()
