"""Keeps the events that a target refused for good, so that a stream can go on without losing them.

Owns the contract and the two places that need no AWS: a collection beside the checkpoints (the default) and a file.
Those in AWS are in ``dead_letters_aws``; what a letter says is ``letter``'s.
"""

from __future__ import annotations

import datetime as dt
import json
import logging
import math
import os
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

from bson.errors import BSONError
from pymongo.errors import PyMongoError

from docdb_stream.appending import lock, make_entry_durable, write_all
from docdb_stream.connection import Connection
from docdb_stream.diagnosis import unavailable
from docdb_stream.errors import StateStoreError
from docdb_stream.letter import Letter, letter, letter_from, letter_from_json
from docdb_stream.retry import Backoff
from docdb_stream.server_errors import Verdict, classify
from docdb_stream.settings import Settings
from docdb_stream.state import StateCollection
from docdb_stream.target import Rejection

logger = logging.getLogger(__name__)

T = TypeVar("T")


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


class MongoDeadLetters:
    """Dead letters in ``STATE_DB``, collection STATE_COLLECTION + ``_dead_letters``: one document per event and target.

    An event that is too large for a document is in further documents, its parts (``part_of``, ``content``).

    Args:
        settings: The cluster and the state database.
        connection: To the cluster; its owner closes it.
    """

    LIMIT_BYTES = 15 * 1024 * 1024
    """Of an event, or of a part of it. A document holds 16 MiB (MongoDB limits), and a letter has other fields."""

    def __init__(self, settings: Settings, connection: Connection) -> None:
        self._settings = settings
        self._connection = connection

    def write(self, stream: str, rejections: Sequence[Rejection]) -> None:
        """See DeadLetters."""
        for rejection in rejections:
            found = letter(stream, rejection, content_bytes=math.inf)
            for document in [*self._split(found), {"_id": found["id"], **found}]:
                # One by one: each may be near the size limit of a request.
                self._ask(
                    lambda document=document: self._collection().replace_one(  # type: ignore[misc]
                        {"_id": document["_id"]}, document, upsert=True
                    )
                )

    def letters(self, stream: str | None = None) -> Iterator[Letter]:
        """See DeadLetters."""
        query = {"part_of": {"$exists": False}} | ({} if stream is None else {"stream": stream})
        # Their names first, so that a failover while they are worked on neither ends the list nor hides its end.
        for named in self._ask(lambda: list(self._collection().find(query, {"_id": 1}))):
            document = self._ask(lambda named=named: self._collection().find_one(named, {"_id": 0}))  # type: ignore[misc]
            found = letter_from(document)
            if found is not None:
                yield self._whole(found)
            elif document is not None:
                logger.warning("dead letters: a document of %s is none", self._settings.dead_letters_collection)

    def remove(self, letter: Letter) -> None:
        """See DeadLetters."""
        id_ = letter["id"]
        parts = {"_id": {"$gt": f"{id_}/", "$lt": f"{id_}0"}, "part_of": id_}  # "0" is what follows "/"
        self._ask(lambda: self._collection().delete_many({"$or": [{"_id": id_}, parts]}))

    def _split(self, found: Letter) -> Iterator[dict[str, Any]]:
        """Take an event that is too large out of its letter; returns its parts."""
        for name in {"event", "raw"} & found.keys():
            content = found[name].encode()
            if len(content) > self.LIMIT_BYTES:
                parts = [content[at : at + self.LIMIT_BYTES] for at in range(0, len(content), self.LIMIT_BYTES)]
                del found[name]
                found[_PARTS] = {"of": name, "count": len(parts)}
                for number, part in enumerate(parts):
                    yield {"_id": _part_id(found, number), "part_of": found["id"], "content": part}

    def _whole(self, found: Letter) -> Letter:
        """Put an event that is in parts into its letter."""
        parts = found.pop(_PARTS, None)
        if parts is not None:
            ids = [_part_id(found, number) for number in range(parts["count"])]
            read = [self._ask(lambda id_=id_: self._collection().find_one({"_id": id_})) for id_ in ids]  # type: ignore[misc]
            there = [part["content"] for part in read if part is not None]
            if len(there) < len(read):
                found["event_omitted"] = "a part of it is not there any more"
            else:
                found[parts["of"]] = b"".join(there).decode()
        return found

    def _collection(self) -> StateCollection:
        return StateCollection(self._connection, self._settings.state_db, self._settings.dead_letters_collection)

    def _ask(self, request: Callable[[], T]) -> T:
        """The answer to a request that is safe to repeat, which is done while its trouble passes."""
        try:
            return self._connection.patiently(request, passes=lambda error: classify(error) is Verdict.RESUME)
        except PyMongoError as error:
            trouble = unavailable(error, self._connection.uri)
            raise StateStoreError(f"dead letters: {trouble}", hint=trouble.hint) from error
        except (BSONError, ValueError, OverflowError) as error:  # PyMongo's own errors are not all PyMongoErrors
            raise StateStoreError(f"dead letters: {type(error).__name__}", hint=_UNEXPECTED_HINT) from error


_PARTS = "event_in_parts"
_UNEXPECTED_HINT = "set DEAD_LETTERS to a file, s3://bucket/prefix or an SQS queue URL to go on, and report this"


def _part_id(found: Letter, number: int) -> str:
    return f"{found['id']}/{number}"


class FileDeadLetters:
    """Dead letters appended to a file as JSON Lines. A letter that was delivered after all stays, with a line after it
    that says so: nothing is ever rewritten, so a run may add letters meanwhile, and a crash loses none. Several
    processes may write to one file.

    Args:
        path: The file; its folder must exist. It may be a pipe or a device, which nothing can be read from again.
    """

    def __init__(self, path: str) -> None:
        self._path = Path(path)

    def write(self, stream: str, rejections: Sequence[Rejection]) -> None:
        """See DeadLetters."""
        if rejections:
            self._append([letter(stream, each, content_bytes=math.inf) for each in rejections])

    def letters(self, stream: str | None = None) -> Iterator[Letter]:
        """See DeadLetters. A line that a crash has torn is passed over: what it was of, is written again."""
        kept: dict[str, Letter] = {}
        for line in self._lines():
            found = letter_from_json(line)
            if found is not None:
                kept[found["id"]] = found
            elif (removed := _removed(line)) is not None:
                kept.pop(removed, None)
            elif line.strip():
                logger.warning("dead letters: a line of %s is torn", self._path)
        yield from (found for found in kept.values() if stream in (None, found["stream"]))

    def remove(self, letter: Letter) -> None:
        """See DeadLetters."""
        self._append([{"removed": letter["id"], "removed_at": dt.datetime.now(dt.UTC).isoformat()}])

    def _lines(self) -> Iterator[bytes]:
        try:
            if self._path.is_file() or self._path.is_dir():  # reading a pipe or a terminal would wait for ever
                with self._path.open("rb") as file:
                    yield from file
        except OSError as error:
            raise self._trouble(error) from error

    def _append(self, lines: Sequence[Mapping[str, Any]]) -> None:
        text = b"".join(json.dumps(line).encode() + b"\n" for line in lines)
        try:
            is_new = not self._path.exists()
            with open(os.open(self._path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o666), "wb", buffering=0) as file:
                if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                    write_all(file.fileno(), text)
                    return
                _lock_patiently(file.fileno())  # another process's line in the making would look torn
                size_bytes = os.fstat(file.fileno()).st_size
                if size_bytes and os.pread(file.fileno(), 1, size_bytes - 1) != b"\n":
                    text = b"\n" + text  # a crash tore the last line; it must not spoil the next one
                write_all(file.fileno(), text)
                os.fsync(file.fileno())
            if is_new:
                make_entry_durable(self._path)
        except (OSError, ValueError) as error:  # ValueError: the path holds a NUL
            raise self._trouble(error) from error

    def _trouble(self, error: OSError | ValueError) -> StateStoreError:
        return StateStoreError(
            f"dead letters: {self._path}: {getattr(error, 'strerror', None) or error}",
            hint="check DEAD_LETTERS: its folder must exist, may be written to, and has room",
        )


def _removed(line: bytes) -> str | None:
    """The id of the letter that a line says is removed; None where it says something else."""
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return found["removed"] if isinstance(found, dict) and isinstance(found.get("removed"), str) else None


def _lock_patiently(descriptor: int) -> None:
    """Wait for whoever has the file, as long as trouble is waited for."""
    backoff = Backoff()
    while True:
        try:
            lock(descriptor)
            return
        except BlockingIOError:
            if not backoff.wait():
                raise


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
