"""The events that the target s3 has written, read back: what a target is rebuilt of.

Owns how objects become events again. Who delivers them is ``restore``.
"""

from __future__ import annotations

import gzip
import json
import logging
import zlib
from collections.abc import Iterator, Sequence
from shutil import copyfileobj
from tempfile import SpooledTemporaryFile
from typing import IO, Final, cast

from bson.errors import BSONError

from docdb_stream.aws import network_errors
from docdb_stream.errors import ConfigError, TargetError, UnrenderableError
from docdb_stream.events import ChangeEvent
from docdb_stream.formats.extended import EXTENDED
from docdb_stream.formats.reader import to_bson
from docdb_stream.settings import Settings
from docdb_stream.targets._aws.bucket import BucketReader
from docdb_stream.targets._aws.manifest import FOLDER as MANIFESTS
from docdb_stream.targets.s3 import S3Settings

_SUFFIXES: Final = {"jsonl": ".jsonl.gz", "parquet": ".parquet"}
_NO_EVENTS: Final = (f"{MANIFESTS}/", "_load/")
"""What other parts of docdb-stream keep below the path."""
_BATCH_EVENTS: Final = 100
"""Few, so that a target which writes them in a transaction is soon done, and a stream beside it has its turn."""
_BATCH_BYTES: Final = 8 * 1024 * 1024
_IN_MEMORY_BYTES: Final = 16 * 1024 * 1024
"""Of a Parquet file, which is read from its end; a larger one waits in a temporary file."""
_NO_EVENT: Final = (ValueError, TypeError, KeyError, AttributeError, ArithmeticError, RecursionError, BSONError)
_CUT: Final = (OSError, EOFError, zlib.error)

logger = logging.getLogger(__name__)


class Archive:
    """What a stream's settings say that it writes to S3. Reading takes s3:ListBucket and s3:GetObject.

    Attributes:
        alien: Lines that were met so far that are no events.

    Args:
        settings: The stream.

    Raises:
        ConfigError: It writes nothing there, or nothing of which events can be made again.
    """

    def __init__(self, settings: Settings) -> None:
        own = settings.of(S3Settings)
        if not own.is_on:
            raise ConfigError(
                f"stream {settings.stream_name} has no archive", hint="BUCKET_NAME says where its events are kept"
            )
        written = settings.format_for(own.s3_payload_format)
        if own.s3_format not in _SUFFIXES or (own.s3_format == "jsonl" and written is not EXTENDED):
            raise ConfigError(
                f"of S3_FORMAT = {own.s3_format} with {written.name} no events are made again",
                hint="an archive to restore from has S3_FORMAT = jsonl with PAYLOAD_FORMAT = extended, or parquet",
            )
        self.alien = 0
        path = own.bucket_path.strip("/")
        self._prefix = f"{path}/" if path else ""
        self._format = own.s3_format
        self._settings = settings
        self._bucket = BucketReader(own.where, "run it again")

    def objects(self) -> Iterator[str]:
        """The keys of its objects, sorted: of a collection they have the stream's order. Raises TargetError."""
        for each in self._bucket.objects(self._prefix):
            name = each["Key"].removeprefix(self._prefix)
            if name.endswith(_SUFFIXES[self._format]) and not name.startswith(_NO_EVENTS):
                yield each["Key"]

    def events(self, key: str) -> Iterator[Sequence[ChangeEvent]]:
        """The events of an object that are of what the stream watches, in their order, some at a time.

        Raises:
            TargetError: It cannot be read, or not to its end: events are missing.
        """
        batch: list[ChangeEvent] = []
        size_bytes = 0
        try:
            with self._bucket.opened(key) as body:
                for text in self._texts(body):
                    event = self._event(key, text)
                    if event is None:
                        continue
                    batch.append(event)
                    size_bytes += event.size_bytes
                    if len(batch) >= _BATCH_EVENTS or size_bytes >= _BATCH_BYTES:
                        yield batch
                        batch, size_bytes = [], 0
        except (*_CUT, *network_errors()) as error:
            raise TargetError(
                "s3",
                f"object {key} cannot be read to its end: {type(error).__name__}",
                hint="run it again; is it cut, docdb-stream snapshot start delivers what it has lost",
            ) from error
        if batch:
            yield batch

    def close(self) -> None:
        """Let go of connections."""
        self._bucket.close()

    def _texts(self, body: IO[bytes]) -> Iterator[str | bytes]:
        if self._format == "jsonl":
            with gzip.GzipFile(fileobj=body) as content:
                yield from content
            return
        from docdb_stream.formats.cells import arrow

        arrow()
        from pyarrow.parquet import ParquetFile

        with SpooledTemporaryFile(_IN_MEMORY_BYTES) as file:
            copyfileobj(body, file)
            try:
                with ParquetFile(cast("IO[bytes]", file)) as content:
                    for part in content.iter_batches(_BATCH_EVENTS, columns=["_raw"]):
                        yield from part.column(0).to_pylist()
            except ValueError as error:  # as pyarrow's are
                raise EOFError(str(error)) from error

    def _event(self, key: str, text: str | bytes) -> ChangeEvent | None:
        """The event; None where it is another stream's, or none."""
        try:
            event = ChangeEvent(to_bson(json.loads(text)))
            event.event_id, event.operation, event.cluster_time  # noqa: B018 - raise where this is no change event
            return event if self._settings.watches(event.namespace) else None
        except (*_NO_EVENT, UnrenderableError) as error:
            self.alien += 1
            logger.warning("a line that is no event is passed over: object=%s error=%s", key, type(error).__name__)
            return None
