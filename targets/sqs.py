"""Amazon SQS: one message per event; FIFO queues keep the order of each document, standard queues none."""

from __future__ import annotations

import re
from functools import cached_property
from typing import Annotated, Any, Literal, Self

import orjson
from pydantic import Field

from docdb_stream.events import ChangeEvent
from docdb_stream.permissions import Permission, queue_arn
from docdb_stream.settings import Settings, TargetSettings
from docdb_stream.settings.types import Address, OwnFormat
from docdb_stream.targets._aws.body import write_directly
from docdb_stream.targets._aws.client import Destination
from docdb_stream.targets._aws.messages import REQUEST_MESSAGES, failed, message, numbered
from docdb_stream.targets._aws.sender import Limits, Record, Refusal
from docdb_stream.targets._aws.target import BatchTarget

REQUEST_BYTES = 1024 * 1024
"""Amazon SQS API reference, SendMessageBatch: 1 MiB together. One message: what the queue's attribute
MaximumMessageSize says, its attributes included."""

# The region, when the URL names it; a queue's region is then not for the environment to say.
_QUEUE_HOST = re.compile(r"https://sqs\.([a-z0-9-]+)\.amazonaws\.com")


class SqsSettings(TargetSettings):
    """What can be set about the target sqs."""

    switch = "sqs_query_url"

    sqs_query_url: Annotated[str | None, Address()] = Field(
        default=None,
        description="SQS queue URL, standard or FIFO: switches the target on. Absent: off.",
        examples=["https://sqs.eu-central-1.amazonaws.com/123456789012/shop.fifo"],
    )
    sqs_message_group: Literal["document_key", "collection"] = Field(
        default="document_key",
        description="FIFO queues: what shares a message group, and with it the order: document_key or collection.",
    )
    sqs_payload_format: OwnFormat = None


class SqsTarget(BatchTarget):
    """Sends every event, of every operation, as a message whose body is the payload.

    The message attributes ``event_id``, ``operation`` and ``namespace`` say which event it is.

    - FIFO queues (their name ends in ``.fifo``): MessageGroupId is the namespace and the document key, so a document's
      events arrive in order; MessageDeduplicationId is the event_id, so an event sent again within five minutes
      arrives once. What does not fit an id is sent as its SHA-256. ``message_group="collection"`` keeps the order of
      a whole collection instead, at one message per round trip.
    - Standard queues: no order is promised, and an event can arrive more than once.

    SQS takes no U+FFFE and U+FFFF; within the JSON text they are written as escapes, which say the same.
    ``flush`` returns when every event is durable or rejected.

    Args:
        queue_url: The queue's URL.
        payload_format: The name of the format in which an event is written.
        message_group: FIFO queues: what shares an order.
        lanes: Requests side by side.
    """

    name = service = "sqs"
    settings_model = SqsSettings
    action = "sqs:SendMessage"

    def __init__(
        self,
        queue_url: str,
        *,
        payload_format: str = "extended",
        message_group: Literal["document_key", "collection"] = "document_key",
        lanes: int = 8,
    ) -> None:
        self._queue_url = queue_url
        self._is_fifo = queue_url.endswith(".fifo")
        self._message_group = message_group
        queue = queue_url.rpartition("/")[2]
        fifo = " --attributes FifoQueue=true" if self._is_fifo else ""
        destination = Destination(
            target=self.name,
            what=f"SQS queue {queue}",
            variable=SqsSettings.switch.upper(),
            create=f"aws sqs create-queue --queue-name {queue}{fifo}",
            capacity="switch on high throughput for the FIFO queue, or raise the quota",
        )
        named = _QUEUE_HOST.match(queue_url)
        super().__init__(destination, payload_format, lanes, named and named[1])

    @classmethod
    def from_settings(cls, settings: Settings) -> Self:
        """The target of a stream that has it switched on."""
        own = settings.of(SqsSettings)
        return cls(
            own.where,
            payload_format=own.sqs_payload_format or settings.payload_format,
            message_group=own.sqs_message_group,
        )

    @classmethod
    def permissions(cls, settings: Settings) -> list[Permission]:
        """What writing and ``check`` take. Raises ConfigError when the address is no queue's."""
        queue = queue_arn(settings.of(SqsSettings).where)
        return [Permission(("sqs:SendMessage", "sqs:GetQueueAttributes", "sqs:GetQueueUrl"), (queue,))]

    def check(self) -> None:
        """See that the queue exists; needs sqs:GetQueueAttributes, as writing does.

        Raises:
            TargetError: It does not exist, or may not be looked at.
        """
        with self._destination.errors("sqs:GetQueueAttributes"):
            self._attributes()

    @cached_property
    def _client(self) -> Any:
        made = super()._client
        write_directly(made, "SendMessageBatch", "Entries", orjson.dumps, _without_what_is_taken)
        return made

    def _limits(self) -> Limits:
        return Limits(REQUEST_MESSAGES, self._message_bytes, REQUEST_BYTES)

    @cached_property
    def _message_bytes(self) -> int:
        return int(self._destination.retry("sqs:GetQueueAttributes", self._attributes)["MaximumMessageSize"])

    def _attributes(self) -> dict[str, str]:
        answer = self._client.get_queue_attributes(QueueUrl=self._queue_url, AttributeNames=["MaximumMessageSize"])
        attributes: dict[str, str] = answer["Attributes"]
        return attributes

    def _record(self, event: ChangeEvent, payload: bytes, key: str) -> Record:
        if self._message_group == "collection":
            key = event.namespace.label or "_"
        return message(event, payload, "MessageBody", key if self._is_fifo else None)

    def _send(self, entries: list[dict[str, Any]]) -> list[Refusal]:
        return failed(self._client.send_message_batch(QueueUrl=self._queue_url, Entries=numbered(entries)))


def _without_what_is_taken(answer: bytes) -> bytes | None:
    """Of messages that were taken, the answer tells ids and checksums, which nobody asks for."""
    try:
        found = orjson.loads(answer)
    except orjson.JSONDecodeError:
        return None
    if not isinstance(found, dict) or not found.get("Successful") or found.get("Failed"):
        return None
    return b'{"Successful":[]}'
