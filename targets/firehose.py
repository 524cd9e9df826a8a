"""Amazon Data Firehose: one line of JSON per event, in no promised order."""

from __future__ import annotations

from typing import Any, Self

from pydantic import Field

from docdb_stream.aws import arn_region
from docdb_stream.errors import TargetError
from docdb_stream.events import ChangeEvent
from docdb_stream.format import Format
from docdb_stream.permissions import Permission, named_arn
from docdb_stream.settings import Settings, TargetSettings
from docdb_stream.settings.types import OwnFormat
from docdb_stream.targets._aws.client import Destination
from docdb_stream.targets._aws.sender import Limits, Record, Refusal, refusals
from docdb_stream.targets._aws.target import BatchTarget

REQUEST_RECORDS = 500
REQUEST_BYTES = 4 * 1024 * 1024
RECORD_BYTES = 1000 * 1024
"""Amazon Data Firehose API reference, PutRecordBatch: 500 records and 4 MiB a request, 1,000 KiB a record before
base64. They cannot be raised."""


class FirehoseSettings(TargetSettings):
    """What can be set about the target firehose."""

    switch = "firehose_stream"

    firehose_stream: str | None = Field(
        default=None,
        description="Firehose stream with source Direct PUT, name or ARN: switches the target on. No order is kept. "
        "Absent: off.",
        examples=["shop-changes"],
    )
    firehose_payload_format: OwnFormat = None


class FirehoseTarget(BatchTarget):
    """Sends every event, of every operation, as a record that is the payload and a newline: Firehose puts records
    together without anything between them.

    Firehose promises its destination no order, and gives a record nothing to order by. So none is kept on the way
    either, which would cost a round trip for each change of a document and gain nothing: several events of a document
    may share a request, and one that was refused goes again after later ones. Who needs the order sorts by the events'
    ``clusterTime``, then by ``_id._data``.

    ``flush`` returns when every event is durable, in Firehose, or rejected. That the destination takes it is between
    the two: Firehose tries for up to 24 hours, and writes what it gives up to its error output. After a crash, a
    timeout or an unclear answer an event can be there twice.

    Args:
        stream: Name or ARN of a stream whose source is Direct PUT.
        payload_format: The format in which an event is written, or its name.
        lanes: Requests side by side.
    """

    name = service = "firehose"
    settings_model = FirehoseSettings
    action = "firehose:PutRecordBatch"

    def __init__(self, stream: str, *, payload_format: Format | str = "extended", lanes: int = 4) -> None:
        self._stream = stream.rpartition("/")[2]  # requests take names only
        destination = Destination(
            target=self.name,
            what=f"Firehose stream {self._stream}",
            variable=FirehoseSettings.switch.upper(),
            create=f"aws firehose create-delivery-stream --delivery-stream-name {self._stream} "
            "--extended-s3-destination-configuration ...",
            capacity="raise the stream's quota (Service Quotas, Amazon Data Firehose)",
        )
        super().__init__(destination, payload_format, lanes, arn_region(stream))

    @classmethod
    def from_settings(cls, settings: Settings) -> Self:
        """The target of a stream that has it switched on."""
        own = settings.of(FirehoseSettings)
        return cls(own.where, payload_format=settings.format_for(own.firehose_payload_format))

    @classmethod
    def permissions(cls, settings: Settings) -> list[Permission]:
        """What writing and ``check`` take."""
        stream = named_arn("firehose", "deliverystream/", settings.of(FirehoseSettings).where)
        return [Permission(("firehose:PutRecordBatch", "firehose:DescribeDeliveryStream"), (stream,))]

    def check(self) -> None:
        """See that the stream exists and takes records; needs firehose:DescribeDeliveryStream, which writing does not.

        Raises:
            TargetError: It does not exist, is not active, reads from a source of its own, or may not be described.
        """
        with self._destination.errors("firehose:DescribeDeliveryStream"):
            found = self._client.describe_delivery_stream(DeliveryStreamName=self._stream)["DeliveryStreamDescription"]
        if found["DeliveryStreamStatus"] != "ACTIVE":
            raise self._destination.error("ResourceNotFoundException", "firehose:DescribeDeliveryStream")
        if found["DeliveryStreamType"] != "DirectPut":
            raise TargetError(
                self.name,
                f"{self._destination.what} takes records from its own source only: {found['DeliveryStreamType']}",
                hint="set FIREHOSE_STREAM to a stream whose source is Direct PUT, or write to that source instead",
            )

    def _limits(self) -> Limits:
        return Limits(REQUEST_RECORDS, RECORD_BYTES, REQUEST_BYTES)

    def _record(self, event: ChangeEvent, payload: bytes, key: str) -> Record:
        return Record(event, event.event_id, len(payload) + 1, {"Data": payload + b"\n"})

    def _send(self, entries: list[dict[str, Any]]) -> list[Refusal]:
        answer = self._client.put_record_batch(DeliveryStreamName=self._stream, Records=entries)
        # The only codes are ServiceUnavailableException and InternalFailure (API reference, PutRecordBatch): never the
        # record's fault.
        return refusals(answer["RequestResponses"]) if answer["FailedPutCount"] else []
