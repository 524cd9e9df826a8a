"""One change stream's cursor on the server: the ``aggregate`` and ``getMore`` commands and their raw replies.

Commands rather than PyMongo's ``watch()``: their replies show ``postBatchResumeToken`` openly and come as raw BSON, and
DocumentDB does not label its errors as resumable, so resuming has to be ours anyway. Knows nothing of positions.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import bson
import pymongo
from bson import Int64, Timestamp
from bson.codec_options import CodecOptions
from bson.raw_bson import RawBSONDocument
from pymongo import ReadPreference
from pymongo.client_session import ClientSession
from pymongo.errors import PyMongoError

from docdb_stream.context import NoAnswerError, answer_in_time, current_deadline
from docdb_stream.formats import rawbson
from docdb_stream.mongodb.connection import Client, Connection
from docdb_stream.position import Namespace

OPEN_TIMEOUT_S = 3600.0
"""To open a stream, or to find the next event of a quiet collection, the server goes through all of the log since then
in one call, and tells of no progress meanwhile: 1 to 4 million entries in 10 s (MongoDB 6). So only the run's own
deadline bounds it, or this. Sent as maxTimeMS too, before which a server's defaultMaxTimeMS (MongoDB 8) gives way."""

KILL_TIMEOUT_S = 1.0
"""How long to wait for the server to drop a cursor. It drops an idle one by itself after ten minutes."""

logger = logging.getLogger(__name__)

ReadPreferences = Any
"""What ``ReadPreference`` has; PyMongo gives the type no public name."""

_RAW: CodecOptions[RawBSONDocument] = CodecOptions(document_class=RawBSONDocument)


@dataclass(frozen=True, slots=True)
class Reply:
    """What the server answered.

    Attributes:
        events: The change events, as BSON.
        size_bytes: How much of it that is, or a little more.
        post_batch_token: The position after the reply, from servers that give it.
        operation_time: The server's operation time when it answered.
        alive: Whether more can come; an ``invalidate`` ends a cursor.
    """

    events: Sequence[bytes]
    size_bytes: int
    post_batch_token: Mapping[str, Any] | None
    operation_time: Timestamp | None
    alive: bool


class ChangeStreamCursor:
    """A cursor that can be opened again and again. Every method may raise PyMongoError.

    Args:
        connection: To the cluster.
        scope: What to watch; None is the whole deployment.
    """

    def __init__(self, connection: Connection, scope: Namespace | None) -> None:
        self._connection = connection
        self._db = "admin" if scope is None else scope.db
        self._watched: str | int = 1 if scope is None or scope.coll is None else scope.coll
        self._client: Client | None = None
        self._read_preference: ReadPreferences = ReadPreference.PRIMARY
        self._session: ClientSession | None = None
        self._id = 0
        self._name = ""
        self._first: Reply | None = None

    @property
    def client(self) -> Client:
        """The client that is asked next: the connection may have a newer one, which does not know the cursor."""
        return self._client if self.is_open and self._client is not None else self._connection.client

    @property
    def is_open(self) -> bool:
        """Whether ``next`` has something to ask or to give."""
        return self._id != 0 or self._first is not None

    def open(
        self,
        stage: Mapping[str, Any],
        stages: Sequence[Mapping[str, Any]],
        batch_size: int,
        *,
        on_primary: bool = False,
    ) -> None:
        """Open the change stream, with further pipeline stages after ``$changeStream``.

        The connection string's readPreference says where (a command by itself would go to the primary); what comes
        after goes there, too, as long as the same members can be chosen. Where others can, the cursor is not found.
        """
        self.forget()
        self._client = self._connection.client
        self._read_preference = ReadPreference.PRIMARY if on_primary else self._client.read_preference
        # A cursor belongs to the session that made it; a session of its own lets getMore name it explicitly.
        self._session = self._client.start_session()
        # Looks for a server with the usual patience; within the time-out below, it would take all of that for it.
        self._client.admin.command("ping", read_preference=self._read_preference)
        with pymongo.timeout(min(OPEN_TIMEOUT_S, max(1.0, current_deadline().remaining_s))):
            reply = self._client[self._db].command(
                "aggregate",
                self._watched,
                pipeline=[{"$changeStream": stage}, *stages],
                cursor={"batchSize": batch_size},
                session=self._session,
                codec_options=_RAW,
                read_preference=self._read_preference,
            )
        self._first = self._reply(reply)

    def next(self, wait_s: float, batch_size: int) -> Reply:
        """The next reply: what came with opening, then one getMore each, held back up to ``wait_s`` for events."""
        if self._first is not None:
            first, self._first = self._first, None
            return first
        assert self._client is not None, "open() comes first"
        reply = self._client[self._db].command(
            "getMore",
            Int64(self._id),
            collection=self._name,
            batchSize=batch_size,
            maxTimeMS=max(1, int(wait_s * 1000)),
            session=self._session,
            codec_options=_RAW,
            read_preference=self._read_preference,
        )
        return self._reply(reply)

    def primary_time(self) -> Timestamp | None:
        """The primary's operation time now, where the stream may be read from a secondary; None where it is not."""
        if self._read_preference == ReadPreference.PRIMARY:
            return None
        found = self.client.admin.command("ping", read_preference=ReadPreference.PRIMARY)
        return found.get("operationTime")

    def kill(self) -> None:
        """Tell the server to drop the cursor; a ``next`` under way in another thread then ends with an error."""
        cursor_id, self._id, self._first = self._id, 0, None
        client, name = self._client, self._name
        if cursor_id and client is not None:
            try:
                answer_in_time(
                    lambda: client[self._db].command(
                        "killCursors", name, cursors=[Int64(cursor_id)], read_preference=self._read_preference
                    ),
                    at_most_s=current_deadline().cleanup_s(KILL_TIMEOUT_S),
                )
            except (PyMongoError, NoAnswerError) as error:
                logger.debug("could not kill the cursor: %s", type(error).__name__)

    def forget(self) -> None:
        """Drop the cursor without asking the server, which has dropped it or cannot be reached."""
        self._id, self._first = 0, None
        if self._session is not None:
            self._session.end_session()
            self._session = None

    def _reply(self, reply: Mapping[str, Any]) -> Reply:
        # Looked at as bytes: decoding it, even as RawBSONDocument, makes an object of each event, which costs more than
        # all else here.
        cursor = bytes(reply["cursor"].raw)
        fields = rawbson.elements(cursor)
        start, end = fields.get("nextBatch") or fields["firstBatch"]
        token = fields.get("postBatchResumeToken")
        self._id = int.from_bytes(cursor[slice(*fields["id"])], "little", signed=True)
        self._name = cursor[slice(*fields["ns"])][4:-1].decode().partition(".")[2]
        return Reply(
            events=rawbson.documents(cursor[start:end]),
            size_bytes=end - start,
            post_batch_token=None if token is None else bson.decode(cursor[slice(*token)]),
            operation_time=reply.get("operationTime"),
            alive=self._id != 0,
        )
