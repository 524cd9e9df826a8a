"""The place in the stream's bucket where rows wait for a warehouse to copy them."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import cached_property
from typing import IO, Any, Final

from docdb_stream.aws import request_errors
from docdb_stream.settings import Settings
from docdb_stream.targets._aws.bucket import bucket_destination
from docdb_stream.targets._aws.client import client
from docdb_stream.targets.s3 import S3Settings

FOLDER: Final = "_load"

logger = logging.getLogger(__name__)


class Staging:
    """Objects below ``BUCKET_PATH/_load/``. Takes s3:PutObject and s3:DeleteObject there; a rule of the bucket's
    lifecycle may remove what a load that died has left.

    Args:
        settings: The stream, which has a bucket.
    """

    def __init__(self, settings: Settings) -> None:
        own = settings.of(S3Settings)
        self.bucket = own.where
        path = own.bucket_path.strip("/")
        self._folder = f"{path}/{FOLDER}/" if path else f"{FOLDER}/"
        self._destination = bucket_destination(self.bucket, "the next load goes on")

    @cached_property
    def _client(self) -> Any:
        return client("s3", 8)

    def put(self, name: str, content: IO[bytes]) -> str:
        """Write an object; returns its key.

        Raises:
            TargetError: The bucket does not take it.
        """
        key = self._folder + name

        def put() -> None:
            content.seek(0)
            self._client.put_object(Bucket=self.bucket, Key=key, Body=content)

        self._destination.retry("s3:PutObject", put)
        return key

    def uri(self, key: str) -> str:
        """An object's address."""
        return f"s3://{self.bucket}/{key}"

    def remove(self, keys: Sequence[str]) -> None:
        """Remove objects. What cannot be removed stays: nobody reads it any more."""
        try:
            for key in keys:
                self._client.delete_object(Bucket=self.bucket, Key=key)
        except request_errors() as error:
            logger.warning("what was loaded stays in the bucket: bucket=%s error=%s", self.bucket, type(error).__name__)

    def close(self) -> None:
        """Let go of connections."""
        if "_client" in self.__dict__:
            self._client.close()
