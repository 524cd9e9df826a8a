"""Amazon SQS: one message per event; FIFO queues keep the order of each document, standard queues none."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cached_property
from typing import Annotated, Any, Self

import orjson
from pydantic import AfterValidator, Field

from docdb_stream.events import ChangeEvent
from docdb_stream.format import Format
from docdb_stream.permissions import Permission, queue_arn
from docdb_stream.position import Namespace
from docdb_stream.settings import Settings, TargetSettings
from docdb_stream.settings.types import Address, OwnFormat, TemplateText
from docdb_stream.targets._aws.body import write_directly
from docdb_stream.targets._aws.client import Destination
from docdb_stream.targets._aws.messages import REQUEST_MESSAGES, failed, message, numbered
from docdb_stream.targets._aws.sender import Limits, Record, Refusal
from docdb_stream.targets._aws.target import BatchTarget
from docdb_stream.targets._names import key_of, order_cautions
from docdb_stream.template import Template, checked

REQUEST_BYTES = 1024 * 1024
"""Amazon SQS API reference, SendMessageBatch: 1 MiB together. One message: what the queue's attribute
MaximumMessageSize says, its attributes included."""

# The region, when the URL names it; a queue's region is then not for the environment to say.
_QUEUE_HOST = re.compile(r"https://sqs\.([a-z0-9-]+)\.amazonaws\.com")


_GROUPS = ("document_key", "collection")


def _group(text: str) -> str:
    if text not in _GROUPS and "{" not in text:
        raise ValueError("expected document_key, collection, or a template with a field such as {coll} in it")
    return text if text in _GROUPS else checked(text)


class SqsSettings(TargetSettings):
    """What can be set about the target sqs."""

    switch = "sqs_query_url"

    sqs_query_url: Annotated[str | None, Address()] = Field(
        default=None,
        description="SQS queue URL, standard or FIFO: switches the target on. Absent: off.",
        examples=["https://sqs.eu-central-1.amazonaws.com/123456789012/shop.fifo"],
    )
    sqs_message_group: Annotated[str, AfterValidator(_group)] = Field(
        default="document_key",
        description="FIFO queues: what shares a message group, and with it the order: document_key, collection, or a "
        "template: {db} {coll} {operation} {key} {document.PATH} (docs/targets.md). An event that has no such value is "
        "in its document's group.",
    )
    sqs_deduplication_id: TemplateText | None = Field(
        default=None,
        description="FIFO queues: by what a message is told to have been sent before, within five minutes, as a "
        "template. Absent: the event id, by which no event is taken for another.",
        examples=["{event_id}"],
    )
    sqs_payload_format: OwnFormat = None

    def cautions(self, scope: Namespace | None) -> Iterable[str]:
        """See ``TargetSettings``."""
        if self.sqs_message_group not in _GROUPS:
            yield from order_cautions(sqs_message_group=self.sqs_message_group)
        if self.sqs_deduplication_id is not None and "event_id" not in Template(self.sqs_deduplication_id).fields:
            yield (
                "SQS_DEDUPLICATION_ID: of several events within five minutes for which it says the same, FIFO queues "
                "keep the first only; with {event_id} in it none is lost"
            )


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
        payload_format: The format in which an event is written, or its name.
        message_group: FIFO queues: what shares an order: ``document_key``, ``collection``, or a template.
        deduplication_id: FIFO queues: the template of MessageDeduplicationId; None: the event_id.
        lanes: Requests side by side.
    """

    name = service = "sqs"
    settings_model = SqsSettings
    action = "sqs:SendMessage"

    def __init__(
        self,
        queue_url: str,
        *,
        payload_format: Format | str = "extended",
        message_group: str = "document_key",
        deduplication_id: str | None = None,
        lanes: int = 8,
    ) -> None:
        self._queue_url = queue_url
        self._is_fifo = queue_url.endswith(".fifo")
        self._by_collection = message_group == "collection"
        self._group = None if message_group in _GROUPS else Template(message_group)
        self._deduplication_id = None if deduplication_id is None else Template(deduplication_id)
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
            payload_format=settings.format_for(own.sqs_payload_format),
            message_group=own.sqs_message_group,
            deduplication_id=own.sqs_deduplication_id,
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
        if not self._is_fifo:
            return message(event, payload, "MessageBody", None)
        if self._by_collection:
            key = event.namespace.label or "_"
        elif self._group is not None:
            key = key_of(event, self._group, key) or key
        once = None if self._deduplication_id is None else key_of(event, self._deduplication_id, event.event_id)
        return message(event, payload, "MessageBody", key, once)

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
