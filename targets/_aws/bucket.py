"""A bucket of S3: what is said of it where it refuses, and how objects in it are listed and read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import IO, Any

from docdb_stream.targets._aws.client import Destination, client

_CONNECTIONS = 8


def bucket_destination(name: str, capacity: str) -> Destination:
    """A bucket in the words that errors need; ``capacity`` says what to do when it has too little of that."""
    return Destination(
        target="s3",
        what=f"S3 bucket {name}",
        variable="BUCKET_NAME",
        create=f"aws s3 mb s3://{name}",
        capacity=capacity,
    )


class BucketReader:
    """Reads a bucket, which takes s3:ListBucket and s3:GetObject. Every method raises TargetError where it cannot.

    Attributes:
        name: The bucket.
        destination: The same for errors.

    Args:
        name: The bucket.
        capacity: See ``bucket_destination``.
    """

    def __init__(self, name: str, capacity: str) -> None:
        self.name = name
        self.destination = bucket_destination(name, capacity)

    @cached_property
    def _client(self) -> Any:
        return client("s3", _CONNECTIONS)

    def objects(self, prefix: str) -> Iterator[Mapping[str, Any]]:
        """What S3 says of each object below a prefix, sorted by their keys."""
        more: dict[str, str] = {}
        while True:
            answer = self._ask("s3:ListBucket", "list_objects_v2", Prefix=prefix, **more)
            yield from answer.get("Contents", ())
            if not answer.get("IsTruncated"):
                return
            more = {"ContinuationToken": answer["NextContinuationToken"]}

    def opened(self, key: str) -> IO[bytes]:
        """An object's content, to be read once and closed."""
        body: IO[bytes] = self._ask("s3:GetObject", "get_object", Key=key)["Body"]
        return body

    def close(self) -> None:
        """Let go of connections."""
        if "_client" in self.__dict__:
            self._client.close()

    def _ask(self, action: str, method: str, **parameters: Any) -> Any:
        with self.destination.errors(action):
            ask = getattr(self._client, method)
        return self.destination.retry(action, lambda: ask(Bucket=self.name, **parameters))
