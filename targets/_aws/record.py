"""What Kinesis and S3 tell of events, for comparing: see ``recorded.Record``.

Owns how they are read. Reading takes permissions that writing does not; the errors name them.
"""

from __future__ import annotations

import datetime as dt
import gzip
import zlib
from collections.abc import Callable, Collection, Iterator, Sequence
from shutil import copyfileobj
from tempfile import SpooledTemporaryFile
from typing import IO, Any, Final, cast

from docdb_stream.errors import TargetError
from docdb_stream.events import ChangeEvent
from docdb_stream.format import FileFormat, Format, Identified, Tabular
from docdb_stream.targets._aws.client import Destination
from docdb_stream.targets._aws.objects import suffix_of
from docdb_stream.targets._payload import PlaceOf, identified, places_of

_SKEW: Final = dt.timedelta(minutes=5)
"""By how much the clocks of the cluster and of AWS may differ; AWS refuses signatures that are further off."""


class AwsRecord:
    """What both have in common.

    Args:
        destination: What is read.
        payload_format: The target's format; it has to say which event bytes are of.
        place_of: Where the target tells an event.
        client: boto3's client; called when it is needed.
    """

    def __init__(
        self, destination: Destination, payload_format: Format, place_of: PlaceOf, client: Callable[[], Any]
    ) -> None:
        self._destination = destination
        self._identified: Identified = identified(payload_format, destination.what)
        self._format = payload_format
        self._place_of = place_of
        self._made = client

    def places(self, events: Sequence[ChangeEvent]) -> Sequence[str | None]:
        """See Record."""
        return places_of(events, self._format, self._place_of)

    def _ask(self, action: str, **parameters: Any) -> Any:
        """One request, as often as it takes."""
        service, _, operation = action.partition(":")
        with self._destination.errors(action):
            method = getattr(self._made(), _METHODS.get(operation, operation))
        return self._destination.retry(f"{service}:{operation}", lambda: method(**parameters))

    def _ids(self, payloads: Collection[bytes]) -> Sequence[str]:
        return [found for found in map(self._identified.event_id, payloads) if found is not None]


_METHODS: Final = {
    "ListShards": "list_shards",
    "GetShardIterator": "get_shard_iterator",
    "GetRecords": "get_records",
    "ListBucket": "list_objects_v2",
    "GetObject": "get_object",
}
"""boto3's names of what is asked for, by the IAM action that it takes."""


class KinesisRecord(AwsRecord):
    """Of a data stream. Each shard is read from the time on, closed ones too.

    Args:
        stream: Says which, in requests.
    """

    def __init__(self, *of_all: Any, stream: dict[str, str]) -> None:
        super().__init__(*of_all)
        self._stream = stream

    def told(self, places: Collection[str], since: dt.datetime) -> Iterator[Sequence[str]]:
        """See Record."""
        for shard in self._shards():
            at = {"ShardIteratorType": "AT_TIMESTAMP", "Timestamp": since - _SKEW}
            found = self._ask("kinesis:GetShardIterator", **self._stream, ShardId=shard, **at)
            iterator = found["ShardIterator"]
            while iterator:  # a closed shard has an end
                answer = self._ask("kinesis:GetRecords", ShardIterator=iterator)
                yield self._ids([each["Data"] for each in answer["Records"]])
                iterator = answer.get("NextShardIterator") if answer.get("MillisBehindLatest") else None

    def _shards(self) -> Iterator[str]:
        answer = self._ask("kinesis:ListShards", **self._stream)
        while True:
            yield from [each["ShardId"] for each in answer["Shards"]]
            if not answer.get("NextToken"):
                return
            answer = self._ask("kinesis:ListShards", NextToken=answer["NextToken"])


class S3Record(AwsRecord):
    """Of a bucket. A place is a folder of one day.

    Args:
        bucket: The bucket.
        file_format: Of the objects.
    """

    def __init__(self, *of_all: Any, bucket: str, file_format: FileFormat) -> None:
        super().__init__(*of_all)
        self._bucket = bucket
        self._suffix = suffix_of(file_format)
        self._tabular = file_format if isinstance(file_format, Tabular) else None

    def told(self, places: Collection[str], since: dt.datetime) -> Iterator[Sequence[str]]:
        """See Record."""
        for place in places:
            for key, written_at in self._objects(f"{place}/"):
                # What was written before cannot tell of what came after.
                if written_at >= since - _SKEW and key.endswith(self._suffix):
                    yield from self._told_by(key)

    def _objects(self, prefix: str) -> Iterator[tuple[str, dt.datetime]]:
        more: dict[str, str] = {}
        while True:
            answer = self._ask("s3:ListBucket", Bucket=self._bucket, Prefix=prefix, **more)
            yield from [(each["Key"], each["LastModified"]) for each in answer.get("Contents", ())]
            if not answer.get("IsTruncated"):
                return
            more = {"ContinuationToken": answer["NextContinuationToken"]}

    def _told_by(self, key: str) -> Iterator[Sequence[str]]:
        """What one object tells, read as a stream; what is read again after trouble is told once."""
        told = 0
        for attempt in range(_ATTEMPTS):
            body = self._ask("s3:GetObject", Bucket=self._bucket, Key=key)["Body"]
            seen = 0
            try:
                with body:
                    for found in self._ids_in(body):
                        seen += len(found)
                        if seen > told:
                            yield found[len(found) - (seen - told) :]
                            told = seen
                return
            except _broken_off() as error:
                if attempt == _ATTEMPTS - 1:
                    raise TargetError(
                        "s3",
                        f"object {key} cannot be read: {type(error).__name__}",
                        hint=f"is it a whole {self._suffix} file? An object that was cut is missing events: "
                        "docdb-stream reset to a time before it delivers them again",
                    ) from error

    def _ids_in(self, body: IO[bytes]) -> Iterator[Sequence[str]]:
        if self._tabular is None:
            with gzip.GzipFile(fileobj=body) as content:
                for line in content:
                    yield self._ids([line])
            return
        with SpooledTemporaryFile(_IN_MEMORY_BYTES) as file:  # it is read from its end
            copyfileobj(body, file)
            try:
                yield from self._tabular.event_ids(cast("IO[bytes]", file))
            except ValueError as error:  # as pyarrow's are
                raise EOFError(str(error)) from error


_IN_MEMORY_BYTES: Final = 4 * 1024 * 1024
"""Of an object that is read as a whole; a larger one is in a temporary file."""
_ATTEMPTS: Final = 3
"""How often an object is read whose reading is broken off."""


def _broken_off() -> tuple[type[Exception], ...]:
    """What is raised amid an object: by gzip where it is none or ends early, and by boto3."""
    from botocore.exceptions import HTTPClientError, IncompleteReadError

    return OSError, EOFError, zlib.error, HTTPClientError, IncompleteReadError
