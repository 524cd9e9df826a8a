"""The manifests of a stream in its bucket, and the files that they name: read, and never changed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from tempfile import SpooledTemporaryFile
from typing import IO, Final, cast

import orjson

from docdb_stream.aws import error_code, request_errors
from docdb_stream.errors import ConfigError, TargetError
from docdb_stream.position import Namespace
from docdb_stream.settings import Settings
from docdb_stream.targets._aws.bucket import BucketReader
from docdb_stream.targets._aws.manifest import FORMAT_VERSION, manifest_folder
from docdb_stream.targets._temporary import temporary_files
from docdb_stream.targets.s3 import S3Settings

_IN_MEMORY_BYTES: Final = 16 * 1024 * 1024
"""Of a file that is read; a larger one waits in a temporary file."""


@dataclass(frozen=True, slots=True)
class DataFile:
    """A file that a manifest names.

    Attributes:
        key: Its key in the bucket.
        namespace: The collection whose events it holds.
        rows: How many, as the manifest says.
    """

    key: str
    namespace: Namespace
    rows: int


@dataclass(frozen=True, slots=True)
class Manifest:
    """What one checkpoint made durable.

    Attributes:
        key: Its key in the bucket: tells it from all others.
        files: The files, by their keys.
    """

    key: str
    files: Sequence[DataFile]


class Manifests:
    """Those of one stream. Reading takes s3:ListBucket and s3:GetObject.

    Args:
        settings: The stream, whose S3 target writes Parquet.

    Raises:
        ConfigError: It does not.
    """

    def __init__(self, settings: Settings) -> None:
        own = settings.of(S3Settings)
        if not (own.is_on and own.makes_tables and own.has_manifests):
            raise ConfigError(
                f"stream {settings.stream_name} leaves no manifests of Parquet files, which are what is loaded",
                hint="set BUCKET_NAME and S3_FORMAT = parquet for it, and leave S3_MANIFESTS out",
            )
        if own.parquet_nested != "json":
            raise ConfigError(
                f"stream {settings.stream_name} writes structs and lists, which are not loaded",
                hint="set PARQUET_NESTED = json for it, or leave it out; a second stream may write structs elsewhere",
            )
        path = f"{own.bucket_path.strip('/')}/" if own.bucket_path.strip("/") else ""
        self._folder = manifest_folder(path, settings.stream_name)
        self._bucket = BucketReader(own.where, "the next load goes on")

    def listed(self) -> Iterator[str]:
        """The manifests' keys, in the order of the stream's checkpoints.

        Raises:
            TargetError: The bucket cannot be listed.
        """
        yield from (each["Key"] for each in self._bucket.objects(self._folder) if each["Key"].endswith(".json"))

    def read(self, key: str) -> Manifest:
        """A manifest.

        Raises:
            TargetError: It cannot be read, or is none.
        """
        with self._opened(key) as body:
            content = body.read()
        try:
            found = orjson.loads(content)
            if found["format"] > FORMAT_VERSION:
                raise ConfigError(
                    f"the manifest {key} has format {found['format']}, this docdb-stream knows up to {FORMAT_VERSION}",
                    hint="upgrade docdb-stream here to the version that wrote it",
                )
            files = [
                DataFile(each["key"], Namespace(each["namespace"]["db"], each["namespace"]["coll"]), int(each["rows"]))
                for each in found["objects"]
            ]
        except (ValueError, LookupError, TypeError) as error:
            raise TargetError(
                "s3",
                f"{key} is no manifest: {type(error).__name__}",
                hint="no docdb-stream wrote it like that: remove it",
            ) from error
        return Manifest(key, sorted(files, key=lambda each: each.key))

    @temporary_files("s3")
    def open(self, file: DataFile) -> IO[bytes]:
        """A file's content, as it is now; whoever gets it closes it.

        Raises:
            TargetError: It cannot be read.
        """
        body = self._opened(file.key)
        content = SpooledTemporaryFile(_IN_MEMORY_BYTES)  # noqa: SIM115
        try:
            with body, self._bucket.destination.errors("s3:GetObject"):
                while piece := body.read(1024 * 1024):
                    content.write(piece)
        except BaseException:
            content.close()
            raise
        content.seek(0)
        return cast("IO[bytes]", content)

    def close(self) -> None:
        """Let go of connections."""
        self._bucket.close()

    def _opened(self, key: str) -> IO[bytes]:
        try:
            return self._bucket.opened(key)
        except TargetError as error:
            cause = error.__cause__
            if isinstance(cause, request_errors()) and error_code(cause) in ("NoSuchKey", "404"):
                raise TargetError(
                    "s3",
                    f"object {key} is gone, which a manifest names",
                    hint="what was in it has to come again: docdb-stream snapshot start; then remove the manifest",
                ) from cause
            raise
