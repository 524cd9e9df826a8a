"""Where change streams of a MongoDB or Amazon DocumentDB cluster can begin, and opening them.

Asks the cluster for its time and for how far its log reaches back. The streams themselves are ``change_stream``'s.
"""

from __future__ import annotations

import datetime as dt
import logging
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from bson import Timestamp
from pymongo import ReadPreference
from pymongo.errors import OperationFailure, PyMongoError

from docdb_stream.context import NoAnswerError, answer_in_time
from docdb_stream.errors import HistoryLostError, SourceUnavailableError
from docdb_stream.mongodb.change_stream import MongoChangeStream
from docdb_stream.mongodb.connection import Connection
from docdb_stream.mongodb.cursor import ChangeStreamCursor
from docdb_stream.mongodb.diagnosis import HELLO, no_change_streams, no_images, unavailable
from docdb_stream.mongodb.errors import Verdict, classify
from docdb_stream.mongodb.opening import Opening
from docdb_stream.mongodb.pipeline import ServerFilter, kept_images, server_filter
from docdb_stream.position import Position
from docdb_stream.settings import Settings
from docdb_stream.settings.types import StartAt
from docdb_stream.source import SLOW_OPEN_HINT

logger = logging.getLogger(__name__)

_WITH_IMAGES = 17
"""The wire version of MongoDB 6.0, which brought pre- and post-images. 4.4 and 5.0 take one of the options and send
nothing for it."""
_PRIMARY_ONLY = 7
"""The wire version of MongoDB and DocumentDB 4.0. Change streams of DocumentDB 3.6 and 4.0 can be read from the primary
alone (its developer guide, "Limitations"), whose console gives a connection string that prefers secondaries."""

EVENTS_OF_A_SECOND = 1 << 20
"""More than a cluster writes in one: how far increments of cluster times are looked through."""
SLOW_OPEN_S = 60.0
"""A stream that failed to open after this long is told about with SLOW_OPEN_HINT: a server that is away is given up
sooner."""


class _Server(NamedTuple):
    """What a source has found out."""

    is_read_anywhere: bool
    can_filter: bool


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
        self._server: _Server | None = None

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
        return self._opened(position, self._opening())

    def _opened(self, position: Position, opening: Opening) -> MongoChangeStream:
        stream = MongoChangeStream(self._settings, self._connection, position, opening)
        began_s = time.monotonic()
        try:
            stream.open()
        except SourceUnavailableError as error:
            if time.monotonic() - began_s > SLOW_OPEN_S:
                error.hint = SLOW_OPEN_HINT
            raise
        return stream

    def check_documents(self) -> None:
        """See that the server can send the documents that the settings want with changes.

        Raises:
            ConfigError: It keeps no pre- and post-images.
            SourceUnavailableError: As ``ChangeStream.read``.
        """
        if kept_images(self._settings):
            wire = self._wire_version()
            if wire < _WITH_IMAGES:
                raise no_images(f"it speaks the wire protocol of version {wire}, and has to speak {_WITH_IMAGES}")

    @property
    def is_read_anywhere(self) -> bool:
        """Whether the connection string's readPreference lets a secondary be read, and the server does, too."""
        preference = self._connection.client.read_preference
        return preference != ReadPreference.PRIMARY and self._wire_version() > _PRIMARY_ONLY

    def says_how_far_it_looked(self) -> bool:
        """Whether the server gives post-batch tokens. Without them a filter there would keep the position of a stream
        where it is while others' events are passed over (docs/adr/0003).

        MongoDB does from 4.0.7 on, DocumentDB from 5.0 patch 3.0.11800 on, which no version number tells.
        """
        cursor = ChangeStreamCursor(self._connection, self._settings.scope)
        stage = {"allChangesForCluster": True} if self._settings.scope is None else {}

        def look() -> bool:
            cursor.open(stage, (), 1, on_primary=True)
            return cursor.next(0.0, 1).post_batch_token is not None

        try:
            return self._connection.patiently(look, passes=lambda error: classify(error) is Verdict.RESUME)
        except OperationFailure:
            return False  # to open the stream will fail, too, and tell why
        except PyMongoError as error:
            raise unavailable(error, self._connection.uri) from error
        finally:
            cursor.kill()
            cursor.forget()

    def _opening(self) -> Opening:
        """How a stream is opened on this server, of which this is asked once, and only where it matters."""
        wanted = server_filter(self._settings)
        if self._server is None:
            self.check_documents()
            self._server = _Server(self.is_read_anywhere, not wanted.rules or self.says_how_far_it_looked())
            if not self._server.can_filter:
                level = logging.WARNING if self._settings.filter_at == "server" else logging.INFO
                logger.log(
                    level,
                    "stream %s: the server does not say how far it has looked, so docdb-stream filters by itself",
                    self._settings.stream_name,
                )
        filter_ = wanted if self._server.can_filter else wanted.without(*wanted.rules)
        return Opening(self._settings, filter_, on_primary=not self._server.is_read_anywhere)

    def _wire_version(self) -> int:
        return int(self._asked(HELLO).get("maxWireVersion", 0))

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
        """The time just before the earliest event that the change log still has.

        Found by asking for ever later ones: needs no privilege beyond reading the stream, and works on servers that
        show their log and those that do not.
        """
        now = self.operation_time()
        second = _least(now.time + 1, lambda time_s: self._reaches(Timestamp(time_s, 0)))
        if second == 1:  # nothing has left the log
            return Timestamp(second, 0)
        # Of the second before, the log may still have the end.
        last = now.inc if second > now.time else EVENTS_OF_A_SECOND
        if second <= now.time and not self._reaches(Timestamp(second - 1, last)):
            return Timestamp(second, 0)
        return Timestamp(second - 1, _least(last, lambda inc: self._reaches(Timestamp(second - 1, inc))))

    def _reaches(self, time: Timestamp) -> bool:
        # The log is all that is asked about: no images, which need not be there, and no filter.
        plain = self._settings.model_copy(update={"full_document": "default", "full_document_before_change": "off"})
        try:
            self._opened(Position(operation_time=time), Opening(plain, ServerFilter({}), on_primary=True)).close()
        except HistoryLostError:
            return False
        return True


def _least(reached: int, reaches: Callable[[int], bool]) -> int:
    """The least number from 1 on that reaches, where ``reached`` does, and what is greater than one that does."""
    lost = 0
    while reached - lost > 1:
        # The beginning first: most logs that are asked have not rolled over yet.
        middle = (lost + reached) // 2 if lost else 1
        if reaches(middle):
            reached = middle
        else:
            lost = middle
    return reached
