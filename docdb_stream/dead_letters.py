"""Keeps the events that a target refused for good, so that a stream can go on without losing them.

Owns the contract, what a letter says, and the two places that need no AWS: a collection beside the checkpoints (the
default) and a file. Those in AWS are in ``dead_letters_aws``.
"""

from __future__ import annotations

import base64
import datetime as dt
import json
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import bson
from bson import json_util
from bson.errors import BSONError
from pymongo import WriteConcern
from pymongo.errors import AutoReconnect, PyMongoError

from docdb_stream.connection import Connection
from docdb_stream.diagnosis import unavailable
from docdb_stream.encoding import UnrenderableError
from docdb_stream.errors import StateStoreError
from docdb_stream.events import ChangeEvent
from docdb_stream.settings import Settings
from docdb_stream.target import Rejection

logger = logging.getLogger(__name__)

Letter = dict[str, Any]
"""A rejection as JSON values: id, stream, target, event_id, reason, operation, namespace, cluster_time, found_at,
document_key (for events about a document), and one of ``event`` (its Extended JSON, as text), ``raw`` (its BSON, as
Base64, where that text would not say all of it) or ``event_omitted`` (why neither is there)."""


class DeadLetters(Protocol):
    """Where rejections are kept.

    Each method raises StateStoreError when the place cannot be reached or refuses.
    """

    def write(self, stream: str, rejections: Sequence[Rejection]) -> None:
        """Make them durable; called before the checkpoint that passes them. Writing one again changes nothing, or adds
        a letter with the same ``id`` where the place cannot overwrite (an SQS queue, unless FIFO and within five
        minutes).

        Raises:
            StateStoreError: They are not durable; the checkpoint is not moved.
        """
        ...

    def letters(self, stream: str | None = None) -> Iterator[Letter]:
        """Every letter, of one stream or of all, in no particular order."""
        ...

    def remove(self, letter: Letter) -> None:
        """Forget a letter that was delivered after all. It was got from ``letters`` of the same object."""
        ...


def letter(stream: str, rejection: Rejection, *, limit_bytes: int) -> Letter:
    """A rejection as a letter.

    Args:
        stream: The stream's name.
        rejection: The event and the target's verdict.
        limit_bytes: What the place takes; an event above it is left out, and its key says where to find it.
    """
    event = rejection.event
    found: Letter = {
        "id": f"{stream}/{rejection.target}/{event.event_id}",
        "stream": stream,
        "target": rejection.target,
        "event_id": event.event_id,
        "reason": rejection.reason,
        "operation": event.operation,
        "namespace": str(event.namespace),
        "cluster_time": event.cluster_time.as_datetime().isoformat(),
        "found_at": dt.datetime.now(dt.UTC).isoformat(timespec="milliseconds"),
    }
    try:
        key = event.key
    except UnrenderableError:  # which may be why it was rejected
        key = None
    if key is not None:
        found["document_key"] = key
    found |= _content(event, limit_bytes)
    return found


def _content(event: ChangeEvent, limit_bytes: int) -> Letter:
    try:
        rendered = event.extended_json()
    except UnrenderableError:
        rendered = b""
    if 0 < len(rendered) <= limit_bytes:
        content = {"event": rendered.decode()}
        if _says_all(content, rendered):
            return content
    if event.raw is not None and len(event.raw) * 4 // 3 + 4 <= limit_bytes:
        return {"raw": base64.b64encode(event.raw).decode()}
    return {"event_omitted": "larger than a dead letter holds here; read the document by its document_key"}


def _says_all(content: Letter, rendered: bytes) -> bool:
    """Whether the event read back from its text is the same: not with symbols or a key that occurs twice, say."""
    try:
        found = event_of(content)
        return found is not None and found.extended_json() == rendered
    except (ValueError, TypeError, ArithmeticError, BSONError):
        return False


def event_of(found: Mapping[str, Any]) -> ChangeEvent | None:
    """The event of a letter, to be delivered again; None where the letter does not hold it."""
    if "raw" in found:
        return ChangeEvent(base64.b64decode(found["raw"]))
    if "event" in found:
        return ChangeEvent(bson.encode(json_util.loads(found["event"], json_options=_READ_OPTIONS)))
    return None


_READ_OPTIONS = json_util.JSONOptions(
    json_mode=json_util.JSONMode.RELAXED,
    tz_aware=False,
    datetime_conversion=bson.DatetimeConversion.DATETIME_AUTO,
)


class MongoDeadLetters:
    """Dead letters in ``STATE_DB``, collection STATE_COLLECTION + ``_dead_letters``: one document per event and target.

    Args:
        settings: The cluster and the state database.
        connection: To the cluster; its owner closes it.
    """

    LIMIT_BYTES = 15 * 1024 * 1024
    """A document holds 16 MiB (MongoDB limits), and a letter has other fields."""

    def __init__(self, settings: Settings, connection: Connection) -> None:
        self._settings = settings
        self._connection = connection

    def write(self, stream: str, rejections: Sequence[Rejection]) -> None:
        """See DeadLetters."""
        try:
            for rejection in rejections:  # one by one: each may be near the size limit of a request
                found = letter(stream, rejection, limit_bytes=self.LIMIT_BYTES)
                self._connection.patiently(
                    partial(self._replace, found),
                    passes=lambda error: isinstance(error, AutoReconnect),
                )
        except PyMongoError as error:
            raise self._trouble(error) from error

    def _replace(self, found: Letter) -> None:
        self._collection().replace_one({"_id": found["id"]}, found, upsert=True)

    def letters(self, stream: str | None = None) -> Iterator[Letter]:
        """See DeadLetters."""
        try:
            yield from self._collection().find({} if stream is None else {"stream": stream}, {"_id": 0})
        except PyMongoError as error:
            raise self._trouble(error) from error

    def remove(self, letter: Letter) -> None:
        """See DeadLetters."""
        try:
            self._collection().delete_one({"_id": letter["id"]})
        except PyMongoError as error:
            raise self._trouble(error) from error

    def _collection(self) -> Any:
        return self._connection.client[self._settings.state_db].get_collection(
            self._settings.dead_letters_collection, write_concern=WriteConcern(w="majority")
        )

    def _trouble(self, error: PyMongoError) -> StateStoreError:
        trouble = unavailable(error, self._connection.uri)
        return StateStoreError(f"dead letters: {trouble}", hint=trouble.hint)


class FileDeadLetters:
    """Dead letters appended to a file as JSON Lines. A letter that was delivered after all stays, with a line after it
    that says so: nothing is ever rewritten, so a run may add letters meanwhile, and a crash loses none.

    Args:
        path: The file; its folder must exist.
    """

    LIMIT_BYTES = 1 << 40

    def __init__(self, path: str) -> None:
        self._path = Path(path)

    def write(self, stream: str, rejections: Sequence[Rejection]) -> None:
        """See DeadLetters."""
        self._append([letter(stream, each, limit_bytes=self.LIMIT_BYTES) for each in rejections])

    def letters(self, stream: str | None = None) -> Iterator[Letter]:
        """See DeadLetters. A line that a crash has torn is passed over: what it was of, is written again."""
        try:
            lines = self._path.read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            return
        except OSError as error:
            raise self._trouble(error) from error
        kept: dict[str, Letter] = {}
        for line in lines:
            try:
                found = json.loads(line)
            except ValueError:
                if line:
                    logger.warning("dead letters: a line of %s is torn", self._path)
                continue
            if "removed" in found:
                kept.pop(found["removed"], None)
            else:
                kept[found["id"]] = found
        yield from (found for found in kept.values() if stream in (None, found["stream"]))

    def remove(self, letter: Letter) -> None:
        """See DeadLetters."""
        self._append([{"removed": letter["id"], "removed_at": dt.datetime.now(dt.UTC).isoformat()}])

    def _append(self, lines: Sequence[Mapping[str, Any]]) -> None:
        try:
            with self._path.open("ab+") as file:
                if file.tell():
                    file.seek(-1, os.SEEK_END)
                    if file.read(1) != b"\n":  # a crash tore the last line; it must not spoil the next one
                        file.write(b"\n")
                file.write(b"".join(json.dumps(line).encode() + b"\n" for line in lines))
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise self._trouble(error) from error

    def _trouble(self, error: OSError) -> StateStoreError:
        return StateStoreError(f"dead letters: {self._path}: {error.strerror}", hint="check DEAD_LETTERS")


def dead_letters_for(settings: Settings, connection: Connection | None) -> DeadLetters:
    """The place that DEAD_LETTERS names: ``s3://bucket/prefix``, an SQS queue URL, a file, or by default the
    collection beside the checkpoints, which alone needs the connection. Does no network traffic."""
    place = settings.dead_letters
    if place is None:
        assert connection is not None
        return MongoDeadLetters(settings, connection)
    if place.startswith("s3://"):
        from docdb_stream.dead_letters_aws import S3DeadLetters

        return S3DeadLetters(place)
    if place.startswith(("https://", "http://")):
        from docdb_stream.dead_letters_aws import SqsDeadLetters

        return SqsDeadLetters(place)
    return FileDeadLetters(place)
