"""Keeps the events that a target refused for good, so that a stream can go on without losing them.

Owns the contract and the default store, a collection beside the checkpoints.
"""

from __future__ import annotations

import datetime as dt
import logging
from collections.abc import Sequence
from typing import Any, Protocol

from bson import Binary
from pymongo import ReplaceOne, WriteConcern
from pymongo.errors import PyMongoError

from docdb_stream.connection import Connection
from docdb_stream.diagnosis import unavailable
from docdb_stream.encoding import UnrenderableError
from docdb_stream.errors import StateStoreError
from docdb_stream.settings import Settings
from docdb_stream.target import Rejection

logger = logging.getLogger(__name__)

MAX_EVENT_BYTES = 15 * 1024 * 1024
"""An event above this is kept without its content: a document holds 16 MiB (MongoDB limits), and the letter has other
fields. The document key and the token say where to find it."""


class DeadLetters(Protocol):
    """Where rejections are kept."""

    def write(self, stream: str, rejections: Sequence[Rejection]) -> None:
        """Make them durable; called before the checkpoint that passes them. Writing one again changes nothing.

        Raises:
            StateStoreError: They are not durable; the checkpoint is not moved.
        """
        ...


class MongoDeadLetters:
    """Dead letters in ``STATE_DB``, collection STATE_COLLECTION + ``_dead_letters``: one document per event and target.

    Args:
        settings: The cluster and the state database.
        connection: To the cluster; its owner closes it.
    """

    def __init__(self, settings: Settings, connection: Connection) -> None:
        self._settings = settings
        self._connection = connection

    def write(self, stream: str, rejections: Sequence[Rejection]) -> None:
        """See DeadLetters."""
        letters = [letter(stream, rejection) for rejection in rejections]
        collection = self._connection.client[self._settings.state_db].get_collection(
            self._settings.dead_letters_collection, write_concern=WriteConcern(w="majority")
        )
        try:
            for document in letters:  # one by one: each may be near the size limit of a request
                collection.bulk_write([ReplaceOne({"_id": document["_id"]}, document, upsert=True)])
        except PyMongoError as error:
            trouble = unavailable(error, self._connection.uri)
            raise StateStoreError(f"dead letters: {trouble}", hint=trouble.hint) from error
        for document in letters:
            logger.warning(
                "event rejected: stream=%s target=%s event_id=%s reason=%s",
                stream,
                document["target"],
                document["event_id"],
                document["reason"],
            )


def letter(stream: str, rejection: Rejection) -> dict[str, Any]:
    """A rejection as a document: which event, why, and the event itself.

    ``event`` is its Extended JSON; where it cannot be rendered, ``raw`` is its BSON.
    """
    event = rejection.event
    document: dict[str, Any] = {
        "_id": f"{stream}/{rejection.target}/{event.event_id}",
        "stream": stream,
        "target": rejection.target,
        "event_id": event.event_id,
        "reason": rejection.reason,
        "operation": event.operation,
        "namespace": str(event.namespace),
        "cluster_time": event.cluster_time,
        "found_at": dt.datetime.now(dt.UTC),
    }
    if event.key is not None:
        document["document_key"] = event.key
    try:
        rendered = event.extended_json()
        if len(rendered) <= MAX_EVENT_BYTES:
            return {**document, "event": rendered.decode()}
    except UnrenderableError:
        pass
    if event.raw is not None and len(event.raw) <= MAX_EVENT_BYTES:
        return {**document, "raw": Binary(event.raw)}
    return {**document, "event_omitted": "larger than a dead letter holds; read the document by its document_key"}
