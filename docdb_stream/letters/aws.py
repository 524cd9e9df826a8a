"""Dead letters in AWS: objects in S3, messages in SQS. Imported only when DEAD_LETTERS names one of them."""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar
from urllib.parse import quote, urlsplit

from botocore.exceptions import ClientError

from docdb_stream import aws
from docdb_stream.context import NoAnswerError, answer_in_time
from docdb_stream.dead_letters import SHORT_TEXT_BYTES, TEXT_BYTES, Letter, bounded, letter, letter_from_json
from docdb_stream.errors import StateStoreError
from docdb_stream.target import Rejection

logger = logging.getLogger(__name__)

T = TypeVar("T")


def _asked(place: str, hint: str, request: Callable[[], T]) -> T:
    """The answer to a request to AWS, made again while its trouble passes and the run has time."""
    try:
        return answer_in_time(lambda: aws.patiently(request))
    except NoAnswerError:
        raise StateStoreError(f"dead letters: {place}: no answer within the time that the run has", hint=hint) from None
    except (*aws.request_errors(), ValueError) as error:
        raise StateStoreError(f"dead letters: {place}: {aws.message(error)}", hint=hint) from error


class S3DeadLetters:
    """One JSON object per letter under ``s3://bucket/prefix/stream/target/``; a letter written again overwrites itself.

    Args:
        place: ``s3://bucket/prefix``.
    """

    KEY_BYTES = 1024
    """S3 user guide, "Naming Amazon S3 objects"."""
    TARGET_BYTES = 128
    """How much of a key a target's name may take; a stream's takes what is left."""
    HINT = "check DEAD_LETTERS; the role needs s3:PutObject on it (to list and redrive also ListBucket, Get and Delete)"

    def __init__(self, place: str) -> None:
        parts = urlsplit(place)
        self._place, self._bucket = place, parts.netloc
        self._prefix = parts.path.strip("/") + "/" if parts.path.strip("/") else ""
        self._s3 = aws.Service("s3")

    @property
    def _client(self) -> Any:
        return self._s3.client

    def write(self, stream: str, rejections: Sequence[Rejection]) -> None:
        """See DeadLetters."""
        for rejection in rejections:
            found = letter(stream, rejection, content_bytes=math.inf)  # an object holds 5 GB, many times an event
            body = json.dumps(found).encode()
            self._ask(
                lambda found=found, body=body: self._client.put_object(  # type: ignore[misc]
                    Bucket=self._bucket, Key=self._key(found), Body=body, ContentType="application/json"
                )
            )

    def letters(self, stream: str | None = None) -> Iterator[Letter]:
        """See DeadLetters."""
        prefix = self._prefix if stream is None else self._folder(stream)
        for key in self._ask(lambda: self._keys(prefix)):
            read = self._ask(lambda key=key: self._client.get_object(Bucket=self._bucket, Key=key)["Body"].read())  # type: ignore[misc]
            found = letter_from_json(read)
            if found is None:
                logger.warning("dead letters: %s holds none: %s", self._place, key)
            else:
                yield found

    def remove(self, letter: Letter) -> None:
        """See DeadLetters."""
        self._ask(lambda: self._client.delete_object(Bucket=self._bucket, Key=self._key(letter)))

    def _keys(self, prefix: str) -> list[str]:
        pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=self._bucket, Prefix=prefix)
        return [each["Key"] for page in pages for each in page.get("Contents", [])]

    def _key(self, found: Letter) -> str:
        name = hashlib.sha256(found["event_id"].encode()).hexdigest()[:32]
        return (
            f"{self._folder(found['stream'])}{bounded(quote(found['target'], safe=''), self.TARGET_BYTES)}/{name}.json"
        )

    def _folder(self, stream: str) -> str:
        room = self.KEY_BYTES - len(self._prefix.encode()) - self.TARGET_BYTES - len("//" + 32 * "0" + ".json")
        return f"{self._prefix}{bounded(quote(stream, safe='.'), room)}/"

    def _ask(self, request: Callable[[], T]) -> T:
        return _asked(self._place, self.HINT, request)


class SqsDeadLetters:
    """One message per letter in an SQS queue, standard or FIFO.

    Args:
        url: The queue's URL.
    """

    MESSAGE_BYTES = 256 * 1024
    """What a queue takes unless its MaximumMessageSize says otherwise (SQS developer guide, "Amazon SQS message
    quotas"; 1 MiB since August 2025, for queues made since). A letter above it is sent without its event."""
    SIZES = ((MESSAGE_BYTES, TEXT_BYTES), (0, TEXT_BYTES), (0, SHORT_TEXT_BYTES))
    """What a letter may hold of the event and of each text, tried in this order until the queue takes it."""
    TOO_LARGE = frozenset(
        {"InvalidParameterValue", "InvalidMessageContents", "BatchRequestTooLong", "InvalidParameter"}
    )
    """What SQS calls a message that is larger than the queue's MaximumMessageSize, or that it cannot take otherwise."""
    HINT = "check DEAD_LETTERS; the role needs sqs:SendMessage (to list and redrive also ReceiveMessage, DeleteMessage)"
    READING_S = 30
    """How long a message that was listed stays hidden from other readers."""
    WAIT_S = 1
    """How long the queue is asked for more before it counts as read: waiting asks all of SQS' servers (its developer
    guide, "long polling"), so that no message is overlooked."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._sqs = aws.Service("sqs")
        self._handles: dict[str, dict[str, str]] = {}  # by letter and message

    @property
    def _client(self) -> Any:
        return self._sqs.client

    def write(self, stream: str, rejections: Sequence[Rejection]) -> None:
        """See DeadLetters."""
        for rejection in rejections:
            self._ask(lambda rejection=rejection: self._send(stream, rejection))  # type: ignore[misc]

    def _send(self, stream: str, rejection: Rejection) -> None:
        """Send as much of a letter as the queue takes."""
        for content_bytes, text_bytes in self.SIZES:
            found = letter(stream, rejection, content_bytes=content_bytes, text_bytes=text_bytes)
            body = json.dumps(found)
            is_last = text_bytes == SHORT_TEXT_BYTES
            if len(body) > self.MESSAGE_BYTES and not is_last:  # ASCII: a byte a character
                continue
            fifo: dict[str, str] = {}
            if self._url.endswith(".fifo"):
                name = hashlib.sha256(found["id"].encode()).hexdigest()
                fifo = {"MessageGroupId": name, "MessageDeduplicationId": name}
            try:
                self._client.send_message(QueueUrl=self._url, MessageBody=body, **fifo)
                return
            except ClientError as error:
                if aws.error_code(error) not in self.TOO_LARGE or is_last:
                    raise

    def letters(self, stream: str | None = None) -> Iterator[Letter]:
        """See DeadLetters. The messages stay in the queue, hidden from other readers for READING_S."""
        seen: set[str] = set()
        while True:
            answer = self._ask(
                lambda: self._client.receive_message(
                    QueueUrl=self._url,
                    MaxNumberOfMessages=10,
                    VisibilityTimeout=self.READING_S,
                    WaitTimeSeconds=self.WAIT_S,
                )
            )
            messages = answer.get("Messages", [])
            if seen.issuperset(message["MessageId"] for message in messages):
                return  # none, or those that were hidden long enough
            for message in messages:
                found = letter_from_json(message["Body"])
                if found is None:
                    logger.warning("dead letters: a message of %s is none: %s", self._url, message["MessageId"])
                else:
                    self._handles.setdefault(found["id"], {})[message["MessageId"]] = message["ReceiptHandle"]
                    if message["MessageId"] not in seen and stream in (None, found["stream"]):
                        yield found
                seen.add(message["MessageId"])

    def remove(self, letter: Letter) -> None:
        """See DeadLetters."""
        for handle in self._handles.pop(letter["id"], {}).values():
            self._ask(lambda handle=handle: self._client.delete_message(QueueUrl=self._url, ReceiptHandle=handle))  # type: ignore[misc]

    def _ask(self, request: Callable[[], T]) -> T:
        return _asked(self._url, self.HINT, request)
