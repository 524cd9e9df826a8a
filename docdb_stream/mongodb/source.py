"""Where change streams of a MongoDB or Amazon DocumentDB cluster can begin, and opening them.

Asks the cluster for its time and for how far its log reaches back. The streams themselves are ``change_stream``'s.
"""

from __future__ import annotations

import datetime as dt
import time
from typing import Any

from bson import Timestamp
from pymongo import ReadPreference
from pymongo.errors import PyMongoError

from docdb_stream.context import NoAnswerError, answer_in_time
from docdb_stream.errors import HistoryLostError, SourceUnavailableError
from docdb_stream.mongodb.change_stream import MongoChangeStream
from docdb_stream.mongodb.connection import Connection
from docdb_stream.mongodb.diagnosis import HELLO, no_change_streams, unavailable
from docdb_stream.mongodb.errors import Verdict, classify
from docdb_stream.position import Position
from docdb_stream.settings import Settings
from docdb_stream.settings.types import StartAt
from docdb_stream.source import SLOW_OPEN_HINT

SLOW_OPEN_S = 60.0
"""A stream that failed to open after this long is told about with SLOW_OPEN_HINT: a server that is away is given up
sooner."""


class MongoChangeSource:
    """The change streams of MongoDB or Amazon DocumentDB over what the settings watch.

    Constructing does no network traffic.

    Args:
        settings: The cluster, what is watched, and BATCH_SIZE.
        connection: To the cluster; its owner closes it.
    """

    def __init__(self, settings: Settings, connection: Connection) -> None:
        self._settings = settings
        self._connection = connection

    def operation_time(self) -> Timestamp:
        """See ChangeSource. Raises SourceUnavailableError, also for a server without change streams.

        Of the primary, whatever the connection string prefers: a secondary may not know of the latest changes yet.
        """
        found = self._asked("ping").get("operationTime")
        if isinstance(found, Timestamp):
            return found
        hello = self._asked(HELLO)
        if "setName" not in hello and hello.get("msg") != "isdbgrid":
            raise no_change_streams("the server is a standalone mongod")
        raise SourceUnavailableError(
            "the server gives no operation time", hint="MongoDB 4.0 or later, or Amazon DocumentDB, is needed"
        )

    def start_position(self, start_at: StartAt) -> Position:
        """See ChangeSource."""
        if start_at == "now":
            return Position(operation_time=self.operation_time())
        if isinstance(start_at, dt.datetime):
            return Position(operation_time=Timestamp(int(start_at.timestamp()), 0))
        try:
            return Position(operation_time=answer_in_time(self._earliest))
        except NoAnswerError:
            raise SourceUnavailableError(
                "how far the change log reaches back was not found within the time that the run has",
                hint="raise the timeout: for each answer the server may have to go through all of its log",
            ) from None

    def open(self, position: Position) -> MongoChangeStream:
        """See ChangeSource."""
        stream = MongoChangeStream(self._settings, self._connection, position)
        began_s = time.monotonic()
        try:
            stream.open()
        except SourceUnavailableError as error:
            if time.monotonic() - began_s > SLOW_OPEN_S:
                error.hint = SLOW_OPEN_HINT
            raise
        return stream

    def _asked(self, command: str) -> dict[str, Any]:
        """The primary's answer to a command without arguments."""
        try:
            return self._connection.patiently(
                lambda: self._connection.client.admin.command(command, read_preference=ReadPreference.PRIMARY),
                passes=lambda error: classify(error) is Verdict.RESUME,
            )
        except PyMongoError as error:
            raise unavailable(error, self._connection.uri) from error

    def _earliest(self) -> Timestamp:
        """The time just before the earliest that the change log still reaches, to the second.

        Found by asking for ever later ones: needs no privilege beyond reading the stream, and works on servers that
        show their log and those that do not.
        """
        now = self.operation_time()
        lost_s, reached_s = 0, now.time + 1
        while reached_s - lost_s > 1:
            # The beginning first: most logs that are asked have not rolled over yet.
            middle_s = (lost_s + reached_s) // 2 if lost_s else 1
            if self._reaches(Position(operation_time=Timestamp(middle_s, 0))):
                reached_s = middle_s
            else:
                lost_s = middle_s
        return Timestamp(reached_s, 0) if reached_s <= now.time else now

    def _reaches(self, position: Position) -> bool:
        try:
            self.open(position).close()
        except HistoryLostError:
            return False
        return True
