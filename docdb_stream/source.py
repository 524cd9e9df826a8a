"""Reads change streams: from a position on, in order, across failovers.

Owns the change stream's cursor, its resuming, and what the server's errors mean. Uses the ``aggregate`` and ``getMore``
commands rather than PyMongo's ``watch()``: their replies show ``postBatchResumeToken`` openly and come as raw BSON, and
DocumentDB does not label its errors as resumable, so resuming has to be ours anyway.
"""

from __future__ import annotations

import datetime as dt
import enum
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TypeVar

import bson
from bson import Int64, Timestamp
from bson.codec_options import CodecOptions
from bson.raw_bson import RawBSONDocument
from pymongo.errors import AutoReconnect, OperationFailure, PyMongoError

from docdb_stream.connection import Connection
from docdb_stream.diagnosis import NO_CHANGE_STREAMS_HINT, server_message, unavailable
from docdb_stream.errors import DocdbStreamError, HistoryLostError, SourceUnavailableError
from docdb_stream.events import Batch, ChangeEvent, Namespace, Position, ResumeToken
from docdb_stream.settings import Settings, StartAt

logger = logging.getLogger(__name__)

T = TypeVar("T")

_RAW: CodecOptions[RawBSONDocument] = CodecOptions(document_class=RawBSONDocument)

QUIET_REPLIES = 3
"""Empty replies in a row, each after the full wait, after which a stream counts as quiet where the server gives no
post-batch token. One is not enough: a server may return an empty batch while events are still to come."""

# Codes of the MongoDB server's error_codes.yml, which DocumentDB shares as far as it has them.
_HISTORY_LOST_CODES = {
    136: "CappedPositionLost (DocumentDB: the position left the change stream log)",
    286: "ChangeStreamHistoryLost",
    280: "ChangeStreamFatalError",
    260: "InvalidResumeToken",
    50811: "the token is not one of this server's (it was made by another product)",
}
_FOREIGN_TOKEN_CODE = 9  # FailedToParse; DocumentDB: "Invalid resume token"
_RESUMABLE_CODES = frozenset(
    # The list of the change streams specification, "Resumable Error", for servers that set no label.
    {6, 7, 43, 63, 89, 91, 133, 150, 189, 234, 262, 9001, 10107, 11600, 11602, 13388, 13435, 13436}
    # CursorKilled, CursorInUse, MaxTimeMSExpired, ReadConcernMajorityNotAvailableYet, SnapshotUnavailable
    | {237, 12051, 50, 134, 246}
)
_RESUMABLE_LABEL = "ResumableChangeStreamError"
_NOT_A_REPLICA_SET_CODE = 40573


class Verdict(enum.Enum):
    """What an error of the server means for a change stream."""

    RESUME = "resume"
    HISTORY_LOST = "history lost"
    FATAL = "fatal"


def classify(error: PyMongoError) -> Verdict:
    """What to do about ``error``: the whole policy of resuming, in one pure function."""
    if not isinstance(error, OperationFailure):
        return Verdict.RESUME if isinstance(error, AutoReconnect) else Verdict.FATAL
    message = server_message(error).lower()
    if error.code in _HISTORY_LOST_CODES or (error.code == _FOREIGN_TOKEN_CODE and "resume token" in message):
        return Verdict.HISTORY_LOST
    if "resume of change stream was not possible" in message or "resume point may no longer be in the oplog" in message:
        return Verdict.HISTORY_LOST
    if error.code in _RESUMABLE_CODES or error.has_error_label(_RESUMABLE_LABEL):
        return Verdict.RESUME
    return Verdict.FATAL


class ChangeSource(Protocol):
    """Where change events are read from. One thread at a time uses it."""

    def operation_time(self) -> Timestamp:
        """The cluster's operation time now: every change committed so far has a cluster time up to it."""
        ...

    def start_position(self, start_at: StartAt) -> Position:
        """The position of a stream that has no checkpoint yet."""
        ...

    def open(self, position: Position) -> None:
        """Go on reading after ``position``."""
        ...

    def read(self, wait_s: float) -> Batch:
        """The next events, after waiting at most about ``wait_s`` for the first; the batch may be empty.

        Raises:
            HistoryLostError: The position is no longer in the change log.
            SourceUnavailableError: The cluster stayed away for longer than the deadline allows.
        """
        ...

    def close(self) -> None:
        """Stop reading; a ``read`` under way in another thread ends early. Safe to call twice."""
        ...


class MongoChangeSource:
    """Reads one change stream of MongoDB or Amazon DocumentDB.

    Constructing does no network traffic.

    Args:
        settings: The cluster, what is watched, and BATCH_SIZE.
        connection: To the cluster; its owner closes it.
    """

    def __init__(self, settings: Settings, connection: Connection) -> None:
        self._settings = settings
        self._connection = connection
        self._scope = settings.scope
        self._db = "admin" if self._scope is None else self._scope.db
        # A stream that covers the state database would otherwise deliver every checkpoint, and each delivery makes one.
        # Left out here rather than by $match: a server can judge a token invalid that its filter would not let pass.
        self._own_namespaces = _covered_state_namespaces(settings)
        self._position: Position | None = None
        self._cursor_id = 0
        self._cursor_name = "$cmd.aggregate"
        self._session: Any = None
        self._skip_until: Timestamp | None = None
        self._first: RawBSONDocument | None = None
        self._quiet_replies = 0
        self._quiet_since: Timestamp | None = None
        self._closed = False

    # What the poller calls

    def operation_time(self) -> Timestamp:
        """See ChangeSource. Raises SourceUnavailableError, also for a server without change streams."""
        reply = self._patiently(lambda: self._connection.client.admin.command("ping"))
        found = reply.get("operationTime")
        if isinstance(found, Timestamp):
            return found
        hello = self._patiently(lambda: self._connection.client.admin.command("hello"))
        if "setName" not in hello and hello.get("msg") != "isdbgrid":
            raise self._no_change_streams("the server is a standalone mongod")
        raise SourceUnavailableError(
            "the server gives no operation time", hint="MongoDB 4.0 or later, or Amazon DocumentDB, is needed"
        )

    def start_position(self, start_at: StartAt) -> Position:
        """See ChangeSource."""
        if start_at == "now":
            return Position(operation_time=self.operation_time())
        if isinstance(start_at, dt.datetime):
            return Position(operation_time=Timestamp(int(start_at.timestamp()), 0))
        return Position(operation_time=self._earliest())

    def open(self, position: Position) -> None:
        """See ChangeSource."""
        self._closed = False
        self._position = position
        self._patiently(self._aggregate)

    def read(self, wait_s: float) -> Batch:
        """See ChangeSource."""
        assert self._position is not None, "open() comes first"
        started = time.monotonic()
        cursor, operation_time = self._patiently(lambda: self._next(wait_s))
        raws = cursor.get("nextBatch", cursor.get("firstBatch"))
        full_wait = time.monotonic() - started >= 0.9 * wait_s
        events = self._events(raws)
        position = self._after(cursor, events)
        quiet = self._is_quiet(events, position, operation_time, full_wait)
        if quiet and position.token is not None and "postBatchResumeToken" not in cursor and self._quiet_since:
            # The server does not say how far it has looked; that nothing came for several waits has to do.
            position = Position(operation_time=max(self._quiet_since, position.operation_time or self._quiet_since))
        self._position = position
        if int(cursor["id"]) == 0:
            self._cursor_id = 0
        return Batch(events, position, sum(len(raw.raw) for raw in raws), quiet)

    def close(self) -> None:
        """See ChangeSource."""
        self._closed = True
        cursor_id, self._cursor_id = self._cursor_id, 0
        if cursor_id:
            try:
                self._connection.client[self._db].command("killCursors", self._cursor_name, cursors=[Int64(cursor_id)])
            except PyMongoError as error:  # the server ends an idle cursor by itself after ten minutes
                logger.debug("could not kill the cursor: %s", type(error).__name__)

    # The cursor

    def _aggregate(self) -> None:
        """Open the change stream at the position."""
        self._cursor_id = 0
        self._quiet_replies = 0
        # A cursor belongs to the session that made it; a session of its own lets getMore name it explicitly.
        if self._session is not None:
            self._session.end_session()
        self._session = self._connection.client.start_session()
        reply = self._connection.client[self._db].command(
            "aggregate",
            self._target_collection(),
            pipeline=[{"$changeStream": self._change_stream_stage()}],
            cursor={"batchSize": self._settings.batch_size},
            session=self._session,
            codec_options=_RAW,
        )
        self._first = reply
        cursor = reply["cursor"]
        self._cursor_id = int(cursor["id"])
        self._cursor_name = str(cursor["ns"]).partition(".")[2] or "$cmd.aggregate"

    def _target_collection(self) -> str | int:
        return self._scope.coll if self._scope is not None and self._scope.coll is not None else 1

    def _change_stream_stage(self) -> dict[str, Any]:
        """The ``$changeStream`` stage. An absent option is left out: DocumentDB does not take null."""
        stage: dict[str, Any] = {"fullDocument": "updateLookup"}
        if self._scope is None:
            stage["allChangesForCluster"] = True
        position = self._position
        assert position is not None
        self._skip_until = None
        if position.token is not None and not position.after_invalidate:
            stage["resumeAfter"] = position.token.document
        elif position.token is not None:
            stage["startAfter"] = position.token.document
        elif position.operation_time is not None:
            # The server includes the time itself, a position excludes it.
            stage["startAtOperationTime"] = self._skip_until = position.operation_time
        return stage

    def _next(self, wait_s: float) -> tuple[Mapping[str, Any], Timestamp | None]:
        """The next reply's cursor: that of the aggregate first, then one getMore each."""
        if self._first is None and self._cursor_id == 0:
            self._aggregate()
        reply, self._first = self._first, None
        if reply is None:
            reply = self._connection.client[self._db].command(
                "getMore",
                Int64(self._cursor_id),
                collection=self._cursor_name,
                batchSize=self._settings.batch_size,
                maxTimeMS=max(1, int(wait_s * 1000)),
                session=self._session,
                codec_options=_RAW,
            )
        return reply["cursor"], reply.get("operationTime")

    def _events(self, raws: Sequence[RawBSONDocument]) -> list[ChangeEvent]:
        events = [ChangeEvent(bytes(raw.raw)) for raw in raws]
        if self._own_namespaces:
            events = [event for event in events if event.namespace not in self._own_namespaces]
        if self._skip_until is not None and events:
            skip_until = self._skip_until
            events = [event for event in events if event.cluster_time > skip_until]
            if events:
                self._skip_until = None
        return events

    def _after(self, cursor: Mapping[str, Any], events: Sequence[ChangeEvent]) -> Position:
        """The position after a reply."""
        assert self._position is not None
        invalidated = bool(events) and events[-1].operation == "invalidate"
        post_batch = cursor.get("postBatchResumeToken")
        if post_batch is not None:
            return Position.at_token(ResumeToken(bson.decode(post_batch.raw)), after_invalidate=invalidated)
        if events:
            last = events[-1]
            return Position.at_token(last.token, time=last.cluster_time, after_invalidate=invalidated)
        return self._position

    def _is_quiet(
        self, events: Sequence[ChangeEvent], position: Position, operation_time: Timestamp | None, full_wait: bool
    ) -> bool:
        """Whether nothing happened for QUIET_REPLIES full waits in a row; remembers the time before the first."""
        if events or position != self._position:
            self._quiet_replies = 0
            self._quiet_since = operation_time
        elif full_wait:
            self._quiet_replies += 1
        return self._quiet_replies >= QUIET_REPLIES

    def _earliest(self) -> Timestamp:
        """The earliest time the change log still reaches, to the second, found by asking for ever later ones.

        Needs no privilege beyond reading the stream, and works on servers that show their log and those that do not.
        """
        lost, reached = 1, self.operation_time().time
        if self._reaches(lost):
            return Timestamp(lost, 0)
        while reached - lost > 1:
            middle = (lost + reached) // 2
            if self._reaches(middle):
                reached = middle
            else:
                lost = middle
        return Timestamp(reached, 0)

    def _reaches(self, time_s: int) -> bool:
        try:
            self._position = Position(operation_time=Timestamp(time_s, 1))
            self._patiently(self._aggregate)
        except HistoryLostError:
            return False
        self._first = None
        return True

    # Errors

    def _patiently(self, attempt: Callable[[], T]) -> T:
        """Run ``attempt``; on trouble that passes, reopen at the position and try again until the deadline."""
        try:
            return self._connection.patiently(attempt, passes=self._passes, before_retry=self._reopen)
        except PyMongoError as error:
            raise self._for_operator(error) from error

    def _passes(self, error: PyMongoError) -> bool:
        return classify(error) is Verdict.RESUME and not self._closed

    def _reopen(self) -> None:
        """Let the next read open the stream at the position again."""
        logger.info("stream %s: interrupted, resuming at %s", self._settings.stream_name, self._position)
        self._cursor_id, self._first = 0, None

    def _for_operator(self, error: PyMongoError) -> DocdbStreamError:
        if classify(error) is Verdict.HISTORY_LOST:
            assert isinstance(error, OperationFailure)
            since = self._position.time.isoformat() if self._position and self._position.time else "unknown"
            return HistoryLostError(
                f"the position of stream {self._settings.stream_name} ({since}) is no longer in the change log: "
                f"{server_message(error)} (code {error.code})",
                hint="the events since then are lost to this stream; load the collection anew if they matter, then "
                "choose where to start again with ON_HISTORY_LOST",
            )
        if isinstance(error, OperationFailure) and error.code == _NOT_A_REPLICA_SET_CODE:
            return self._no_change_streams(server_message(error))
        return unavailable(error, self._connection.uri)

    def _no_change_streams(self, why: str) -> SourceUnavailableError:
        return SourceUnavailableError(f"this server has no change streams: {why}", hint=NO_CHANGE_STREAMS_HINT)


def _covered_state_namespaces(settings: Settings) -> frozenset[Namespace]:
    """The namespaces of this package's own state that lie within what is watched as a whole."""
    scope = settings.scope
    if scope is not None and (scope.coll is not None or scope.db != settings.state_db):
        return frozenset()
    names = (settings.state_collection, settings.dead_letters_collection)
    return frozenset(Namespace(settings.state_db, name) for name in names)
