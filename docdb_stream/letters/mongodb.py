"""Dead letters in a collection beside the checkpoints: the default."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from bson.errors import BSONError
from pymongo.errors import PyMongoError

from docdb_stream.dead_letters import Letter, letter, letter_from
from docdb_stream.errors import StateStoreError
from docdb_stream.mongodb.connection import Connection
from docdb_stream.mongodb.diagnosis import unavailable
from docdb_stream.mongodb.errors import Verdict, classify
from docdb_stream.mongodb.state import StateCollection
from docdb_stream.settings import Settings
from docdb_stream.target import Rejection

logger = logging.getLogger(__name__)

T = TypeVar("T")


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
