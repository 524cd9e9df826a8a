"""Amazon EventBridge: one event of the bus per change event, in no promised order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

from pydantic import Field

from docdb_stream.aws import arn_region
from docdb_stream.events import ChangeEvent
from docdb_stream.format import Format
from docdb_stream.permissions import Permission, named_arn
from docdb_stream.settings import Settings, TargetSettings
from docdb_stream.settings.types import OwnFormat
from docdb_stream.target import Rejection
from docdb_stream.targets._aws.client import Destination
from docdb_stream.targets._aws.sender import Limits, Record, Refusal, refusals, xml_text
from docdb_stream.targets._aws.target import BatchTarget

REQUEST_EVENTS = 10
"""Amazon EventBridge API reference, PutEvents."""
EVENT_BYTES = 256 * 1024
"""Amazon EventBridge user guide, "Calculating PutEvents event entry size": the entries of a request are smaller than
this together. Since January 2026 the API reference says 1 MB."""
TIME_BYTES = 14
"""The same: what Time counts for."""
SOURCE = "docdb-stream"

# Amazon EventBridge API reference, PutEventsResultEntry: refusals that another attempt, or another role, cannot change.
_AT_FAULT = frozenset({"InvalidArgument", "MalformedDetail"})


class EventBridgeSettings(TargetSettings):
    """What can be set about the target eventbridge."""

    switch = "eventbridge_bus"

    eventbridge_bus: str | None = Field(
        default=None,
        description="EventBridge event bus, name or ARN: switches the target on. No order is kept. Absent: off.",
        examples=["shop-changes"],
    )
    eventbridge_event_bytes: int = Field(
        default=EVENT_BYTES,
        ge=1024,
        le=1024 * 1024,
        description="Bytes that events, and the requests they share, stay below: 256 KiB, or up to 1 MiB where "
        "EventBridge takes it (since January 2026).",
    )
    eventbridge_payload_format: OwnFormat = None


class EventBridgeTarget(BatchTarget):
    """Puts every change event, of every operation, on a bus.

    Source is ``docdb-stream``, DetailType the operation, Detail the payload, Time the cluster time, and Resources holds
    the namespace (``db.coll``), where there is one: rules can match all of them. Control characters in a name are
    written as JSON escapes them.

    EventBridge delivers in no promised order, and an event can arrive more than once. So no order is kept on the way
    either: several events of a document may share a request.

    ``flush`` returns when every event is taken or rejected. Which rules match is EventBridge's matter: an event that
    none matches is gone, unless the bus has an archive. PutEvents also takes events for a bus that does not exist, and
    drops them; so ``flush`` sees that the bus is there.

    Args:
        bus: Name or ARN.
        payload_format: The format in which an event is written, or its name.
        event_bytes: What the entries of a request, and so each event, are smaller than.
        lanes: Requests side by side.
    """

    name = "eventbridge"
    settings_model = EventBridgeSettings
    service = "events"
    action = "events:PutEvents"

    def __init__(
        self,
        bus: str,
        *,
        payload_format: Format | str = "extended",
        event_bytes: int = EVENT_BYTES,
        lanes: int = 8,
    ) -> None:
        self._bus = bus
        self._event_bytes = event_bytes
        self._is_bus_seen = True
        short_name = bus.rpartition("/")[2]
        destination = Destination(
            target=self.name,
            what=f"EventBridge bus {short_name}",
            variable=EventBridgeSettings.switch.upper(),
            create=f"aws events create-event-bus --name {short_name}",
            capacity="raise the quota of PutEvents (Service Quotas, Amazon EventBridge)",
        )
        super().__init__(destination, payload_format, lanes, arn_region(bus))

    @classmethod
    def from_settings(cls, settings: Settings) -> Self:
        """The target of a stream that has it switched on."""
        own = settings.of(EventBridgeSettings)
        return cls(
            own.where,
            payload_format=settings.format_for(own.eventbridge_payload_format),
            event_bytes=own.eventbridge_event_bytes,
        )

    @classmethod
    def permissions(cls, settings: Settings) -> list[Permission]:
        """What writing and ``check`` take."""
        bus = named_arn("events", "event-bus/", settings.of(EventBridgeSettings).where)
        return [Permission(("events:PutEvents", "events:DescribeEventBus"), (bus,))]

    def check(self) -> None:
        """See that the bus exists; needs events:DescribeEventBus, as ``flush`` does.

        Raises:
            TargetError: It does not exist, or may not be described.
        """
        with self._destination.errors("events:DescribeEventBus"):
            self._describe()

    def write(self, events: Sequence[ChangeEvent]) -> Sequence[Rejection]:
        """See ``BatchTarget``."""
        self._is_bus_seen = self._is_bus_seen and not events
        return super().write(events)

    def flush(self) -> Sequence[Rejection]:
        """Wait for what is being sent, and see that the bus, for which EventBridge took events, is there.

        Raises:
            TargetError: It is not, or may not be described.
        """
        rejections = super().flush()
        if not self._is_bus_seen:
            self._destination.retry("events:DescribeEventBus", self._describe)
            self._is_bus_seen = True
        return rejections

    def _describe(self) -> None:
        self._client.describe_event_bus(Name=self._bus)

    def _limits(self) -> Limits:
        return Limits(REQUEST_EVENTS, self._event_bytes - 1, self._event_bytes - 1)

    def _record(self, event: ChangeEvent, payload: bytes, key: str) -> Record:
        resources = [xml_text(str(event.namespace))] if event.namespace.db else []
        operation = xml_text(event.operation)
        entry = {
            "EventBusName": self._bus,
            "Source": SOURCE,
            "DetailType": operation,
            "Detail": payload.decode(),
            "Resources": resources,
            "Time": event.cluster_time.as_datetime(),
        }
        texts = (SOURCE, operation, *resources)
        size_bytes = len(payload) + TIME_BYTES + sum(len(text.encode()) for text in texts)
        return Record(event, event.event_id, size_bytes, entry)

    def _send(self, entries: list[dict[str, Any]]) -> list[Refusal]:
        answer = self._client.put_events(Entries=entries)
        return refusals(answer["Entries"], _AT_FAULT) if answer["FailedEntryCount"] else []
