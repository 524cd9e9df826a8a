"""Amazon Kinesis Data Streams: one record per event, in the order of each document."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any, Self

from docdb_stream.events import ChangeEvent, PayloadFormat
from docdb_stream.settings import Settings
from docdb_stream.target import Rejection
from docdb_stream.targets._aws import BatchSender, Limits, Record, Refusal, rendered_with_keys, within
from docdb_stream.targets._aws_client import Place, client

REQUEST_RECORDS = 500
REQUEST_BYTES = 10 * 1024 * 1024
"""Kinesis Data Streams API reference, PutRecords: 500 records, 10 MiB for the request, partition keys included."""
RECORD_BYTES = 1024 * 1024
"""The same, "Quotas and limits": 1 MiB unless raised with UpdateMaxRecordSize."""
PARTITION_KEY_CHARACTERS = 256
"""Kinesis Data Streams API reference, PutRecordsRequestEntry."""

_ACTION = "kinesis:PutRecords"


class KinesisTarget:
    """Sends every event, of every operation, as a record whose data is the payload and nothing else.

    The partition key is the namespace and the document key (hashed above 256 characters), so that a document's events
    are in one shard, in order; events about no single document (drop, rename, dropDatabase, invalidate, unknown ones)
    have the namespace as key, so they keep no order with the documents' events. PutRecords promises none within a
    request that fails in part, so two events of a document never share a request, and a later one is only sent once
    the earlier one is taken. After a crash or a timeout an event can be in the stream twice.

    ``write`` returns when every event is durable or rejected.

    Args:
        stream: Name or ARN.
        payload_format: How an event is written.
        record_bytes: The largest record the stream takes, partition key included.
        request_bytes: The largest request.
        lanes: Requests side by side.
    """

    name = "kinesis"

    def __init__(
        self,
        stream: str,
        *,
        payload_format: PayloadFormat = "extended",
        record_bytes: int = RECORD_BYTES,
        request_bytes: int = REQUEST_BYTES,
        lanes: int = 4,
    ) -> None:
        self._stream = {"StreamARN": stream} if stream.startswith("arn:") else {"StreamName": stream}
        # arn:aws:kinesis:REGION:ACCOUNT:stream/NAME
        self._region = stream.split(":")[3] if stream.startswith("arn:") else None
        self._payload_format = payload_format
        self._limits = Limits(REQUEST_RECORDS, record_bytes, request_bytes)
        self._lanes = lanes
        short_name = stream.rpartition("/")[2]
        self._place = Place(
            target=self.name,
            what=f"Kinesis stream {short_name}",
            variable="KINESIS_STREAM",
            create=f"aws kinesis create-stream --stream-name {short_name}",
            capacity="give the stream more shards or on-demand mode",
        )
        self._sender = BatchSender(self._place, _ACTION, self._put, lanes)

    @classmethod
    def from_settings(cls, settings: Settings) -> Self | None:
        """The target, or None when ``kinesis_stream`` is not set."""
        if settings.kinesis_stream is None:
            return None
        return cls(
            settings.kinesis_stream,
            payload_format=settings.payload_format,
            record_bytes=settings.kinesis_record_bytes,
        )

    def check(self) -> None:
        """See that the stream exists; needs kinesis:DescribeStreamSummary, which writing does not.

        Raises:
            TargetError: It does not exist, is being deleted, or may not be described.
        """
        with self._place.errors("kinesis:DescribeStreamSummary"):
            summary = self._client.describe_stream_summary(**self._stream)["StreamDescriptionSummary"]
        if summary["StreamStatus"] not in ("ACTIVE", "UPDATING"):
            raise self._place.error("ResourceNotFoundException", "kinesis:DescribeStreamSummary")

    def write(self, events: Sequence[ChangeEvent]) -> Sequence[Rejection]:
        """Send the events; returns when each is durable or rejected, with the rejections.

        Raises:
            TargetError: The stream does not take records, or not in time.
        """
        rendered, rejections = rendered_with_keys(events, self._payload_format, self.name)
        records = []
        for event, payload, text in rendered:
            key = within(text, PARTITION_KEY_CHARACTERS)
            size_bytes = len(payload) + len(key.encode())
            records.append(Record(event, key, size_bytes, {"Data": payload, "PartitionKey": key}))
        if records:
            with self._place.errors(_ACTION):
                self._client  # noqa: B018 - made here, before there are several threads
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
        return client("kinesis", self._lanes, self._region)

    def _put(self, entries: list[dict[str, Any]]) -> list[Refusal]:
        answer = self._client.put_records(Records=entries, **self._stream)
        if not answer.get("FailedRecordCount"):
            return []
        # The only codes are ProvisionedThroughputExceededException and InternalFailure (API reference, PutRecords-
        # ResultEntry): never the record's fault.
        records = enumerate(answer["Records"])
        return [Refusal(number, record["ErrorCode"]) for number, record in records if record.get("ErrorCode")]
