"""From events to objects in a bucket: what S3's target holds until its next flush, and how it gets there.

Owns that objects are uploaded side by side, and what is known of them then. Their names are the target's.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from queue import SimpleQueue
from typing import Any

from docdb_stream.context import in_background
from docdb_stream.format import FileFormat
from docdb_stream.formats.facts import Facts
from docdb_stream.position import Namespace
from docdb_stream.snapshot_event import snapshot_of
from docdb_stream.targets._aws.client import Destination
from docdb_stream.targets._aws.objects import PendingObject, pending

ACTION = "s3:PutObject"


@dataclass(slots=True)
class Upload:
    """An object, to come or there.

    Attributes:
        content: What it holds.
        namespace: The first event's.
        first: The first event.
        last: The last event.
        rows: How many events.
        size_bytes: Of the object, once it is uploaded.
        etag: As S3 gave it then.
    """

    content: PendingObject
    namespace: Namespace
    first: Facts
    last: Facts
    rows: int = 0
    size_bytes: int = 0
    etag: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return {
            "key": self.content.key,
            "etag": self.etag,
            "bytes": self.size_bytes,
            "rows": self.rows,
            "namespace": {"db": self.namespace.db, "coll": self.namespace.coll},
            "first": _told(self.first),
            "last": _told(self.last),
            "snapshot": snapshot_of(self.first.event_id),
        }


def _told(facts: Facts) -> dict[str, str]:
    return {"event_id": facts.event_id, "time": facts.cluster_time.as_datetime().isoformat()}


class Uploads:
    """The objects that hold what came since the last flush, by whatever tells them apart.

    Args:
        destination: The bucket, for errors.
        bucket: Its name.
        client: boto3's client; called when it is needed.
        file_format: Of the objects.
        lanes: Uploads side by side.

    Attributes:
        held_bytes: Uncompressed bytes in them.
    """

    def __init__(
        self, destination: Destination, bucket: str, client: Callable[[], Any], file_format: FileFormat, lanes: int
    ) -> None:
        self.held_bytes = 0
        self._destination = destination
        self._bucket = bucket
        self._client = client
        self._file_format = file_format
        self._lanes = lanes
        self._uploads: dict[Any, Upload] = {}

    def has(self, group: Any) -> bool:
        """Whether there is an object for this group."""
        return group in self._uploads

    def begin(self, group: Any, key: str, first: Facts) -> None:
        """An object for a group, whose first event this is."""
        self._uploads[group] = Upload(pending(key, self._file_format), first.namespace, first, first)

    def add(self, group: Any, payloads: list[bytes], last: Facts) -> None:
        """Add events to a group's object."""
        upload = self._uploads[group]
        upload.content.append(payloads)
        upload.last = last
        upload.rows += len(payloads)
        self.held_bytes += sum(map(len, payloads)) + len(payloads)

    def flush(self) -> Sequence[Upload]:
        """Upload all of them; returns when they are durable. After an error, it can be called again.

        Raises:
            TargetError: The bucket does not take one of them, or not in time.
        """
        if not self._uploads:
            return ()
        with self._destination.errors(ACTION):
            self._client()  # made here, before there are several threads
        waiting = deque(self._uploads.values())
        results: SimpleQueue[BaseException | None] = SimpleQueue()
        for _ in range(min(self._lanes, len(waiting))):
            in_background(partial(self._upload_each, waiting, results), self._destination.target)
        found = [results.get() for _ in self._uploads]
        for error in found:
            if error is not None:
                raise error
        return [*self._uploads.values()]

    def forget(self) -> None:
        """Let go of what they hold."""
        for upload in self._uploads.values():
            upload.content.close()
        self._uploads.clear()
        self.held_bytes = 0

    def _upload_each(self, waiting: deque[Upload], results: SimpleQueue[BaseException | None]) -> None:
        while True:
            try:
                upload = waiting.popleft()
            except IndexError:
                return
            try:
                self._upload(upload)
            except BaseException as error:  # noqa: BLE001 - whatever it is, it is raised by flush
                results.put(error)
            else:
                results.put(None)

    def _upload(self, upload: Upload) -> None:
        content = upload.content
        body = content.finished()
        upload.size_bytes = body.seek(0, 2)

        def put() -> Any:
            body.seek(0)
            return self._client().put_object(
                Bucket=self._bucket, Key=content.key, Body=body, ContentType=content.content_type
            )

        upload.etag = self._destination.retry(ACTION, put).get("ETag", "").strip('"')
