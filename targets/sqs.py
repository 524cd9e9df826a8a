"""Amazon SQS: one message per event; FIFO queues keep the order of each document, standard queues none."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from functools import cached_property
from typing import Any, Literal, Self

from docdb_stream.events import ChangeEvent, PayloadFormat
from docdb_stream.settings import Settings
from docdb_stream.target import Rejection
from docdb_stream.targets._aws import BatchSender, Limits, Record, Refusal, rendered_with_keys
from docdb_stream.targets._aws_client import Place, client

REQUEST_MESSAGES = 10
REQUEST_BYTES = 1024 * 1024
"""Amazon SQS API reference, SendMessageBatch: 10 messages, 1 MiB together. One message: what the queue's attribute
MaximumMessageSize says, its attributes included."""

_ACTION = "sqs:SendMessage"

# Amazon SQS API reference, SendMessage: MessageGroupId and MessageDeduplicationId hold up to 128 alphanumeric and
# punctuation characters, which is ASCII without space and controls.
_ID = re.compile(r"[!-~]{1,128}")
# The region, when the URL names it; a queue's region is then not for the environment to say.
_QUEUE_HOST = re.compile(r"https://sqs\.([a-z0-9-]+)\.amazonaws\.com")


class SqsTarget:
    """Sends every event, of every operation, as a message whose body is the payload.

    The message attributes ``event_id``, ``operation`` and ``namespace`` say which event it is.

    - FIFO queues (their name ends in ``.fifo``): MessageGroupId is the namespace and the document key, so a document's
      events arrive in order; MessageDeduplicationId is the event_id, so an event sent again within five minutes
      arrives once. What does not fit an id is sent as its SHA-256. ``message_group="collection"`` keeps the order of
      a whole collection instead, at one message per round trip.
    - Standard queues: no order is promised, and an event can arrive more than once.

    SQS takes no U+FFFE and U+FFFF; within the JSON text they are written as escapes, which say the same.
    ``write`` returns when every event is durable or rejected.

    Args:
        queue_url: The queue's URL.
        payload_format: How an event is written.
        message_group: FIFO queues: what shares an order.
        lanes: Requests side by side.
    """

    name = "sqs"

    def __init__(
        self,
        queue_url: str,
        *,
        payload_format: PayloadFormat = "extended",
        message_group: Literal["document_key", "collection"] = "document_key",
        lanes: int = 8,
    ) -> None:
        self._queue_url = queue_url
        self._payload_format = payload_format
        self._is_fifo = queue_url.endswith(".fifo")
        self._message_group = message_group
        self._lanes = lanes
        queue = queue_url.rpartition("/")[2]
        fifo = " --attributes FifoQueue=true" if self._is_fifo else ""
        self._place = Place(
            target=self.name,
            what=f"SQS queue {queue}",
            variable="SQS_QUERY_URL",
            create=f"aws sqs create-queue --queue-name {queue}{fifo}",
            capacity="switch on high throughput for the FIFO queue, or raise the quota",
        )
        self._sender = BatchSender(self._place, _ACTION, self._send, lanes)

    @classmethod
    def from_settings(cls, settings: Settings) -> Self | None:
        """The target, or None when ``sqs_query_url`` is not set."""
        if settings.sqs_query_url is None:
            return None
        return cls(
            settings.sqs_query_url,
            payload_format=settings.payload_format,
            message_group=settings.sqs_message_group,
        )

    def check(self) -> None:
        """See that the queue exists; needs sqs:GetQueueAttributes, as writing does.

        Raises:
            TargetError: It does not exist, or may not be looked at.
        """
        with self._place.errors("sqs:GetQueueAttributes"):
            self._attributes()

    def write(self, events: Sequence[ChangeEvent]) -> Sequence[Rejection]:
        """Send the events; returns when each is durable or rejected, with the rejections.

        Raises:
            TargetError: The queue does not take messages, or not in time.
        """
        rendered, rejections = rendered_with_keys(events, self._payload_format, self.name)
        if rendered:
            records = [self._record(event, payload, key) for event, payload, key in rendered]
            rejections += self._sender.send(records, self._limits)
        return rejections

    def flush(self) -> Sequence[Rejection]:
        """Nothing is left to do: see ``write``."""
        return ()

    def close(self) -> None:
        """End the threads and connections. Safe to call twice."""
        self._sender.close()
        if "_client" in self.__dict__:
            self._client.close()

    @cached_property
    def _client(self) -> Any:
        named = _QUEUE_HOST.match(self._queue_url)
        return client("sqs", self._lanes, named and named[1])

    @cached_property
    def _limits(self) -> Limits:
        attributes = self._place.retry("sqs:GetQueueAttributes", self._attributes)
        return Limits(REQUEST_MESSAGES, int(attributes["MaximumMessageSize"]), REQUEST_BYTES)

    def _attributes(self) -> dict[str, str]:
        answer = self._client.get_queue_attributes(QueueUrl=self._queue_url, AttributeNames=["MaximumMessageSize"])
        attributes: dict[str, str] = answer["Attributes"]
        return attributes

    def _record(self, event: ChangeEvent, payload: bytes, key: str) -> Record:
        event_id = event.event_id
        namespace = event.namespace
        texts = {"event_id": event_id, "operation": event.operation}
        if namespace.db:
            texts["namespace"] = _without_noncharacters(str(namespace).encode()).decode()
        body = _without_noncharacters(payload)
        entry = {
            "MessageBody": body.decode(),
            "MessageAttributes": {name: {"DataType": "String", "StringValue": text} for name, text in texts.items()},
        }
        if not self._is_fifo:
            key = event_id  # each message is on its own
        else:
            key = _id(key if self._message_group == "document_key" else namespace.label or "_")
            entry["MessageGroupId"] = key
            entry["MessageDeduplicationId"] = _id(event_id)
        # Developer guide, "Amazon SQS message quotas": name, type and value of each attribute count.
        size_bytes = len(body) + sum(len(name) + len("String") + len(text.encode()) for name, text in texts.items())
        return Record(event, key, size_bytes, entry)

    def _send(self, entries: list[dict[str, Any]]) -> list[Refusal]:
        for number, entry in enumerate(entries):
            entry["Id"] = str(number)
        answer = self._client.send_message_batch(QueueUrl=self._queue_url, Entries=entries)
        return [
            Refusal(int(failed["Id"]), failed["Code"], failed["SenderFault"]) for failed in answer.get("Failed", ())
        ]


def _id(text: str) -> str:
    return text if _ID.fullmatch(text) else hashlib.sha256(text.encode()).hexdigest()


def _without_noncharacters(json_text: bytes) -> bytes:
    r"""UTF-8 in which U+FFFE and U+FFFF are written ``\ufffe`` and ``\uffff``.

    Amazon SQS API reference, SendMessageBatch: a body holds what XML 1.0 allows. Of the rest, JSON has the controls
    escaped already, and UTF-8 has no surrogates.
    """
    if b"\xef\xbf" not in json_text:
        return json_text
    return json_text.replace(b"\xef\xbf\xbe", rb"\ufffe").replace(b"\xef\xbf\xbf", rb"\uffff")
