"""Amazon Kinesis Data Streams: one record per event, in the order of each document."""

from __future__ import annotations

import re
from binascii import b2a_base64
from collections.abc import Iterable
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self

import orjson
from pydantic import Field

from docdb_stream.aws import arn_region
from docdb_stream.events import ChangeEvent
from docdb_stream.format import Format
from docdb_stream.permissions import Permission, named_arn
from docdb_stream.position import Namespace
from docdb_stream.settings import Settings, TargetSettings
from docdb_stream.settings.types import OwnFormat, TemplateText
from docdb_stream.targets._aws.body import write_directly
from docdb_stream.targets._aws.client import Destination
from docdb_stream.targets._aws.sender import Limits, Record, Refusal, refusals, within
from docdb_stream.targets._aws.target import BatchTarget
from docdb_stream.targets._names import key_of, order_cautions
from docdb_stream.template import Template

if TYPE_CHECKING:
    from docdb_stream.targets._aws.record import KinesisRecord

REQUEST_RECORDS = 500
REQUEST_BYTES = 10 * 1024 * 1024
"""Kinesis Data Streams API reference, PutRecords: 500 records, 10 MiB for the request, partition keys included."""
RECORD_BYTES = 1024 * 1024
"""The same, "Quotas and limits": 1 MiB unless raised with UpdateMaxRecordSize."""
PARTITION_KEY_CHARACTERS = 256
"""Kinesis Data Streams API reference, PutRecordsRequestEntry."""


class KinesisSettings(TargetSettings):
    """What can be set about the target kinesis."""

    switch = "kinesis_stream"

    kinesis_stream: str | None = Field(
        default=None,
        description="Kinesis data stream, name or ARN: switches the target on. Absent: off.",
        examples=["shop-changes"],
    )
    kinesis_record_bytes: int = Field(
        default=RECORD_BYTES,
        ge=1024,
        le=10 * 1024 * 1024,
        description="Largest record the stream takes, in bytes, partition key included: 1 MiB unless raised with "
        "UpdateMaxRecordSize, up to 10 MiB.",
    )
    kinesis_partition_key: TemplateText | None = Field(
        default=None,
        description="The partition key, as a template: {db} {coll} {operation} {key} {document.PATH} "
        "(docs/targets.md). An event that has no such value has the key it would have without. Absent: the namespace "
        "and the document key.",
        examples=["{document.customer.id}"],
    )
    kinesis_payload_format: OwnFormat = None

    def cautions(self, scope: Namespace | None) -> Iterable[str]:
        """See ``TargetSettings``."""
        yield from order_cautions(kinesis_partition_key=self.kinesis_partition_key)


class KinesisTarget(BatchTarget):
    """Sends every event, of every operation, as a record whose data is the payload and nothing else.

    The partition key is the namespace and the document key (hashed above 256 characters), so that a document's events
    are in one shard, in order; events about no single document (drop, rename, dropDatabase, invalidate, unknown ones)
    have the namespace as key, so they keep no order with the documents' events. PutRecords promises none within a
    request that fails in part, so two events of a document never share a request, and a later one is only sent once
    the earlier one is taken. After a crash or a timeout an event can be in the stream twice.

    ``flush`` returns when every event is durable or rejected.

    Args:
        stream: Name or ARN.
        payload_format: The format in which an event is written, or its name.
        partition_key: The template of the partition key; None: namespace and document key. Whatever it says, two events
            of a document are never in one request.
        record_bytes: The largest record the stream takes, partition key included.
        request_bytes: The largest request.
        lanes: Requests side by side.
    """

    name = service = "kinesis"
    settings_model = KinesisSettings
    action = "kinesis:PutRecords"

    def __init__(
        self,
        stream: str,
        *,
        payload_format: Format | str = "extended",
        partition_key: str | None = None,
        record_bytes: int = RECORD_BYTES,
        request_bytes: int = REQUEST_BYTES,
        lanes: int = 4,
    ) -> None:
        self._stream = {"StreamARN": stream} if stream.startswith("arn:") else {"StreamName": stream}
        self._partition_key = None if partition_key is None else Template(partition_key)
        self._fixed_limits = Limits(REQUEST_RECORDS, record_bytes, request_bytes)
        short_name = stream.rpartition("/")[2]
        destination = Destination(
            target=self.name,
            what=f"Kinesis stream {short_name}",
            variable=KinesisSettings.switch.upper(),
            create=f"aws kinesis create-stream --stream-name {short_name}",
            capacity="give the stream more shards or on-demand mode",
        )
        super().__init__(destination, payload_format, lanes, arn_region(stream))

    @classmethod
    def from_settings(cls, settings: Settings) -> Self:
        """The target of a stream that has it switched on."""
        own = settings.of(KinesisSettings)
        return cls(
            own.where,
            payload_format=settings.format_for(own.kinesis_payload_format),
            partition_key=own.kinesis_partition_key,
            record_bytes=own.kinesis_record_bytes,
        )

    @classmethod
    def permissions(cls, settings: Settings) -> list[Permission]:
        """What writing and ``check`` take."""
        stream = named_arn("kinesis", "stream/", settings.of(KinesisSettings).where)
        return [Permission(("kinesis:PutRecords", "kinesis:DescribeStreamSummary"), (stream,))]

    def check(self) -> None:
        """See that the stream exists; needs kinesis:DescribeStreamSummary, which writing does not.

        Raises:
            TargetError: It does not exist, is being deleted, or may not be described.
        """
        with self._destination.errors("kinesis:DescribeStreamSummary"):
            summary = self._client.describe_stream_summary(**self._stream)["StreamDescriptionSummary"]
        if summary["StreamStatus"] not in ("ACTIVE", "UPDATING"):
            raise self._destination.error("ResourceNotFoundException", "kinesis:DescribeStreamSummary")

    @cached_property
    def _client(self) -> Any:
        made = super()._client
        write_directly(made, "PutRecords", "Records", _json_records, _without_what_is_taken)
        return made

    def record(self) -> KinesisRecord:
        """See ``Recorded``. Reading takes kinesis:ListShards, kinesis:GetShardIterator and kinesis:GetRecords.

        Raises:
            ConfigError: The format has no event id.
        """
        from docdb_stream.targets._aws.record import KinesisRecord

        place = self._destination.what.removeprefix("Kinesis stream ")

        def place_of(event: ChangeEvent, payload: bytes) -> str | None:
            record = self._record(event, payload, event.ordering_key)
            return place if record.size_bytes <= self._fixed_limits.record_bytes else None

        return KinesisRecord(self._destination, self._format, place_of, lambda: self._client, stream=self._stream)

    def _limits(self) -> Limits:
        return self._fixed_limits

    def _record(self, event: ChangeEvent, payload: bytes, key: str) -> Record:
        partition_key = key if self._partition_key is None else key_of(event, self._partition_key, key) or key
        partition_key = within(partition_key, PARTITION_KEY_CHARACTERS)
        size_bytes = len(payload) + len(partition_key.encode())
        return Record(event, key, size_bytes, {"Data": payload, "PartitionKey": partition_key})

    def _send(self, entries: list[dict[str, Any]]) -> list[Refusal]:
        answer = self._client.put_records(Records=entries, **self._stream)
        # The only codes are ProvisionedThroughputExceededException and InternalFailure (API reference, PutRecords-
        # ResultEntry): never the record's fault.
        return refusals(answer["Records"]) if answer.get("FailedRecordCount") else []


_ALL_TAKEN = re.compile(rb'"FailedRecordCount"\s*:\s*0\s*[,}]')


def _json_records(entries: list[dict[str, Any]]) -> bytes:
    records = [
        b'{"Data":"%b","PartitionKey":%b}'
        % (b2a_base64(entry["Data"], newline=False), orjson.dumps(entry["PartitionKey"]))
        for entry in entries
    ]
    return b"[%b]" % b",".join(records)


def _without_what_is_taken(answer: bytes) -> bytes | None:
    """Of records that were taken, the answer tells shards and sequence numbers, which nobody asks for."""
    return b'{"FailedRecordCount":0,"Records":[]}' if _ALL_TAKEN.search(answer) else None
