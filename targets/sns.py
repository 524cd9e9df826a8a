"""Amazon SNS: one message per event; FIFO topics keep the order of each document, standard topics none."""

from __future__ import annotations

from functools import cached_property
from typing import Any, Self

from pydantic import Field

from docdb_stream.aws import arn_region
from docdb_stream.errors import ConfigError
from docdb_stream.events import ChangeEvent
from docdb_stream.format import Format
from docdb_stream.permissions import Permission
from docdb_stream.settings import Settings, TargetSettings
from docdb_stream.settings.types import OwnFormat
from docdb_stream.targets._aws.client import Destination
from docdb_stream.targets._aws.messages import REQUEST_MESSAGES, failed, message, numbered
from docdb_stream.targets._aws.sender import Limits, Record, Refusal
from docdb_stream.targets._aws.target import BatchTarget

MESSAGE_BYTES = 256 * 1024
"""Amazon SNS API reference, PublishBatch: 256 KiB for one message and for all of a request, attributes included, unless
the topic's attribute MaximumMessageSize says more (1 MiB at most)."""


class SnsSettings(TargetSettings):
    """What can be set about the target sns."""

    switch = "sns_topic_arn_event"

    sns_topic_arn_event: str | None = Field(
        default=None,
        description="ARN of the SNS topic for events, standard or FIFO: switches the target on. Absent: off.",
        examples=["arn:aws:sns:eu-central-1:123456789012:shop-changes.fifo"],
    )
    sns_payload_format: OwnFormat = None


class SnsTarget(BatchTarget):
    """Publishes every event, of every operation, as a message whose text is the payload.

    The message attributes ``event_id``, ``operation`` and ``namespace`` say which event it is; subscriptions can filter
    by them.

    - FIFO topics (their name ends in ``.fifo``): MessageGroupId is the namespace and the document key, so a document's
      events arrive in order; MessageDeduplicationId is the event_id, so an event published again within five minutes
      arrives once. What does not fit an id is sent as its SHA-256.
    - Standard topics: no order is promised, and an event can arrive more than once.

    U+FFFE and U+FFFF, which SQS would not take, are written as escapes within the JSON text, which say the same.
    ``flush`` returns when every event is durable, in SNS, or rejected. Without a subscription, SNS forgets it at once.

    Args:
        topic_arn: The topic's ARN.
        payload_format: The format in which an event is written, or its name.
        lanes: Requests side by side.

    Raises:
        ConfigError: It is no ARN.
    """

    name = service = "sns"
    settings_model = SnsSettings
    action = "sns:Publish"

    def __init__(self, topic_arn: str, *, payload_format: Format | str = "extended", lanes: int = 8) -> None:
        if not topic_arn.startswith("arn:"):
            hint = "give the topic's ARN, arn:aws:sns:REGION:ACCOUNT:NAME"
            raise ConfigError(f"SNS_TOPIC_ARN_EVENT is no ARN: {topic_arn}", hint=hint)
        self._topic_arn = topic_arn
        self._is_fifo = topic_arn.endswith(".fifo")
        topic = topic_arn.rpartition(":")[2]
        fifo = " --attributes FifoTopic=true" if self._is_fifo else ""
        destination = Destination(
            target=self.name,
            what=f"SNS topic {topic}",
            variable=SnsSettings.switch.upper(),
            create=f"aws sns create-topic --name {topic}{fifo}",
            capacity="set the FIFO topic's FifoThroughputScope to MessageGroup, or raise the quota",
        )
        super().__init__(destination, payload_format, lanes, arn_region(topic_arn))

    @classmethod
    def from_settings(cls, settings: Settings) -> Self:
        """The target of a stream that has it switched on."""
        own = settings.of(SnsSettings)
        return cls(own.where, payload_format=settings.format_for(own.sns_payload_format))

    @classmethod
    def permissions(cls, settings: Settings) -> list[Permission]:
        """What writing and ``check`` take."""
        return [Permission(("sns:Publish", "sns:GetTopicAttributes"), (settings.of(SnsSettings).where,))]

    def check(self) -> None:
        """See that the topic exists; needs sns:GetTopicAttributes, as writing does.

        Raises:
            TargetError: It does not exist, or may not be looked at.
        """
        with self._destination.errors("sns:GetTopicAttributes"):
            self._attributes()

    def _limits(self) -> Limits:
        return Limits(REQUEST_MESSAGES, self._message_bytes, self._message_bytes)

    @cached_property
    def _message_bytes(self) -> int:
        attributes = self._destination.retry("sns:GetTopicAttributes", self._attributes)
        return int(attributes.get("MaximumMessageSize", MESSAGE_BYTES))

    def _attributes(self) -> dict[str, str]:
        attributes: dict[str, str] = self._client.get_topic_attributes(TopicArn=self._topic_arn)["Attributes"]
        return attributes

    def _record(self, event: ChangeEvent, payload: bytes, key: str) -> Record:
        return message(event, payload, "Message", key if self._is_fifo else None)

    def _send(self, entries: list[dict[str, Any]]) -> list[Refusal]:
        entries = numbered(entries)
        return failed(self._client.publish_batch(TopicArn=self._topic_arn, PublishBatchRequestEntries=entries))
