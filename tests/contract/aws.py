"""What the contract tests of the AWS targets share: faults put between the target and the local server, and queues."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import orjson
import pytest
from botocore.exceptions import ClientError

from docdb_stream.local import AwsServer
from docdb_stream.testing.contract import Delivered, Faults, Verdict

Request = dict[str, Any]

_numbers = itertools.count()


def new_name(kind: str, *, fifo: bool = False) -> str:
    """A name that no other test uses."""
    return f"{kind}-{next(_numbers)}" + (".fifo" if fifo else "")


class Queue:
    """A queue of the local server, and everything that was ever received from it."""

    def __init__(self, aws: AwsServer, *, fifo: bool, **attributes: str) -> None:
        self.client = aws.client("sqs")
        if fifo:
            attributes["FifoQueue"] = "true"
        name = new_name("queue", fifo=fifo)
        self.url: str = self.client.create_queue(QueueName=name, Attributes=attributes)["QueueUrl"]
        self.messages: list[dict[str, Any]] = []

    @property
    def arn(self) -> str:
        attributes = self.client.get_queue_attributes(QueueUrl=self.url, AttributeNames=["QueueArn"])["Attributes"]
        return str(attributes["QueueArn"])

    def receive(self) -> list[dict[str, Any]]:
        while received := self.client.receive_message(
            QueueUrl=self.url, MaxNumberOfMessages=10, MessageAttributeNames=["All"], AttributeNames=["All"]
        ).get("Messages"):
            self.messages += received
            entries = [{"Id": str(n), "ReceiptHandle": one["ReceiptHandle"]} for n, one in enumerate(received)]
            self.client.delete_message_batch(QueueUrl=self.url, Entries=entries)
        return self.messages

    def delivered(self) -> list[Delivered]:
        """The messages received, as SQS and SNS targets send them."""
        return [
            Delivered(
                message["MessageAttributes"]["event_id"]["StringValue"],
                message["Attributes"].get("MessageGroupId"),
                message["Body"].encode(),
            )
            for message in self.receive()
        ]


def same_message(expected: bytes, found: bytes) -> bool:
    """U+FFFE and U+FFFF are escaped on the way."""
    return expected == found or (b"\\uff" in found and orjson.loads(expected) == orjson.loads(found))


def merged_messages(entries: str) -> Callable[[Request, list[Verdict], Request | None], Request]:
    """How SQS and SNS tell the verdicts on the entries of a request."""

    def merged(request: Request, verdicts: list[Verdict], answer: Request | None) -> Request:
        failed = [
            {"Id": entry["Id"], "Code": "InternalError", "SenderFault": False}
            if verdict == "retry"
            else {"Id": entry["Id"], "Code": "InvalidMessageContents", "SenderFault": True}
            for entry, verdict in zip(request[entries], verdicts, strict=True)
            if verdict != "take"
        ]
        return {"Successful": answer["Successful"] if answer else [], "Failed": failed}

    return merged


def throttled(operation: str) -> ClientError:
    response = {"Error": {"Code": "ThrottlingException", "Message": "Rate exceeded"}}
    return ClientError(response, operation)  # type: ignore[arg-type]


@contextmanager
def faults_between(
    client: Any,
    operation: str,
    entries: str,
    event_id: Callable[[Request], str],
    merged: Callable[[Request, list[Verdict], Request | None], Request],
    faults: Faults,
) -> Iterator[None]:
    """Answer ``client.operation`` as ``faults`` says, and pass what is to be taken on to the real server.

    Args:
        client: The target's boto3 client.
        operation: Its method.
        entries: The parameter with the request's records.
        event_id: Which event a record is of.
        merged: The answer to a request, made of the verdicts and of the server's own answer to those it took.
        faults: What is to happen.
    """
    original = getattr(client, operation)

    def answered(**request: Any) -> Request:
        verdicts = faults.answer([event_id(entry) for entry in request[entries]])
        if verdicts is None:
            raise throttled(operation)
        taken = [entry for entry, verdict in zip(request[entries], verdicts, strict=True) if verdict == "take"]
        answer = original(**{**request, entries: taken}) if taken else None
        return merged(request, verdicts, answer)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(client, operation, answered)
        yield
