"""Reads a change stream: from a position on, in order, across failovers.

Owns where a stream stands while it is read. What the server is asked for is ``opening``'s, the commands are
``cursor``'s, how much to ask for ``reply_size``'s, the meaning of errors ``errors``', events too large to read
``oversize``'s.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, TypeVar

from bson import Timestamp
from pymongo.errors import AutoReconnect, OperationFailure, PyMongoError

from docdb_stream.errors import DocdbStreamError, HistoryLostError, SourceUnavailableError
from docdb_stream.events import Batch, ChangeEvent, Events
from docdb_stream.mongodb.connection import Connection
from docdb_stream.mongodb.cursor import ChangeStreamCursor, Reply
from docdb_stream.mongodb.diagnosis import no_change_streams, no_image, no_images, server_message, unavailable
from docdb_stream.mongodb.errors import Verdict, classify, is_cut_off
from docdb_stream.mongodb.opening import Opening, Request
from docdb_stream.mongodb.oversize import CUTS, OversizeEventError, read_oversize
from docdb_stream.mongodb.reply_size import ReplySize
from docdb_stream.mongodb.state import StateEvents
from docdb_stream.position import Position, ResumeToken
from docdb_stream.settings import Settings

logger = logging.getLogger(__name__)

T = TypeVar("T")

QUIET_REPLIES = 3
"""Empty replies in a row, each after the full wait, after which a stream counts as quiet. One is not enough: a server
may return an empty batch while events are still to come."""
QUIET_WAIT_S = 0.9
"""What counts as a full wait."""

CUT_OFF_SOON_S = 30.0
"""A reply that is too large fails as soon as it is made; balancers and firewalls cut off what is quiet for a minute or
more (AWS, "Network Load Balancers", connection idle timeout: 350 s, 60 s at least)."""


class MongoChangeStream:
    """One change stream of MongoDB or Amazon DocumentDB, from a position on. Made by ``source.MongoChangeSource.open``.

    Args:
        settings: The cluster, what is watched, and BATCH_SIZE.
        connection: To the cluster; its owner closes it.
        position: Where it begins.
        opening: How it is opened, there and wherever it goes on.
    """

    def __init__(self, settings: Settings, connection: Connection, position: Position, opening: Opening) -> None:
        self._settings = settings
        self._connection = connection
        self._cursor = ChangeStreamCursor(connection, settings.scope)
        # Left out here rather than by $match: a server can judge a token invalid that its filter would not let pass.
        self._state_events = StateEvents(settings) if settings.scope is None or settings.scope.coll is None else None
        self._position = position
        self._size = ReplySize(settings.batch_size)
        self._skip_until: Timestamp | None = None
        self._primary_time: Timestamp | None = None
        self._opening = opening
        self._request = opening.at(position)
        self._quiet_replies = 0
        self._quiet_since: Timestamp | None = None
        self._cuts = 0
        self._closed = False

    @property
    def filtered_on_server(self) -> tuple[str, ...]:
        """See ChangeStream."""
        return self._opening.filtered

    def open(self) -> None:
        """Open the stream on the server. Raises as ``ChangeSource.open`` does."""
        try:
            self._patiently(self._open_cursor)
        except OversizeEventError:
            self._size.failed()

    def read(self, wait_s: float) -> Batch:
        """See ChangeStream."""
        try:
            return self._read(wait_s)
        except OversizeEventError as error:
            self._cursor.kill()
            if self._opening.without_match():
                return Batch([], self._position)
            if self._size.events > 1:
                self._size.failed()
                self._cuts = 0 if error.certain else CUTS - 1
                return Batch([], self._position)
            message, certain = str(error), error.certain
            required = [name for name, how in self._opening.images.items() if how == "required"]
            batch = self._patiently(
                lambda: read_oversize(self._open_after, self._position, message, certain=certain, required=required)
            )
            self._cursor.kill()  # it reads in that other way; the next read opens the stream as usual
            self._position = batch.position
            self._size.passed()
            wanted = {id(event) for event in self._wanted([each.event for each in batch.rejected])}
            rejected = [each for each in batch.rejected if id(each.event) in wanted]
            events = self._wanted(batch.events)
            concerned = rejected or (events and not batch.rejected)
            return replace(batch, events=events, rejected=rejected, gap=batch.gap if concerned else None)

    def close(self) -> None:
        """See ChangeStream."""
        self._closed = True
        self._cursor.kill()

    # Reading

    def _read(self, wait_s: float) -> Batch:
        started_s = time.monotonic()
        reply = self._patiently(lambda: self._next(wait_s))
        full_wait = time.monotonic() - started_s >= QUIET_WAIT_S
        events = self._wanted(Events.of(reply.events))
        position = self._after(reply)
        quiet = self._is_quiet(reply, position, full_wait)
        if quiet and reply.post_batch_token is None and self._quiet_since is not None:
            # The server does not say how far it has looked; that nothing came for several waits has to do.
            reached = self._position.operation_time
            position = Position(operation_time=max(self._quiet_since, reached or self._quiet_since))
            self._quiet_replies = 0
        if position != self._position:
            self._cuts = 0
        self._position = position
        drained = not reply.events and reply.post_batch_token is not None
        size_bytes = reply.size_bytes if reply.events else 0
        return Batch(events, position, size_bytes, quiet, drained=drained, read_at=reply.operation_time)

    def _next(self, wait_s: float) -> Reply:
        if not self._cursor.is_open:
            self._open_cursor()
        with self._cuts_counted():
            reply = self._cursor.next(wait_s, self._size.events)
        self._size.came(reply)
        return reply

    def _wanted(self, events: Sequence[ChangeEvent]) -> Events:
        """The events that are the stream's: no docdb-stream's state, and none from before the position."""
        wanted = events if isinstance(events, Events) else Events(events)
        if self._state_events is not None and self._state_events.may_have(wanted.raws):
            wanted = Events(event for event in wanted if not self._state_events.has(event))
        if self._skip_until is not None and wanted:
            skip_until = self._skip_until
            wanted = Events(event for event in wanted if event.cluster_time > skip_until)
            if wanted:
                self._skip_until = None
        return wanted

    def _after(self, reply: Reply) -> Position:
        """The position after a reply."""
        # Looked at alone: what it came with is decoded when it is delivered, once its targets' formats are known.
        last = ChangeEvent(reply.events[-1]) if reply.events else None
        invalidated = last is not None and b"invalidate" in reply.events[-1] and last.operation == "invalidate"
        if reply.post_batch_token is not None:
            token = ResumeToken(reply.post_batch_token)
            if last is None and token == self._position.token:
                return self._position  # which may be after an invalidate still
            return Position.at_token(token, after_invalidate=invalidated)
        if last is not None:
            return Position.at_token(last.token, time=last.cluster_time, after_invalidate=invalidated)
        return self._position

    def _is_quiet(self, reply: Reply, position: Position, full_wait: bool) -> bool:
        """Whether nothing happened for QUIET_REPLIES full waits in a row; remembers the time before the first.

        A secondary has to have come to where the primary was at the first: one that is behind is quiet, too.
        """
        if reply.events or position != self._position or not full_wait:
            self._quiet_replies = 0
            self._quiet_since = reply.operation_time
            return False
        self._quiet_replies += 1
        if self._quiet_replies == 1:
            self._primary_time = self._patiently(self._cursor.primary_time)
        is_behind = reply.operation_time and self._primary_time and reply.operation_time < self._primary_time
        return self._quiet_replies >= QUIET_REPLIES and not is_behind

    # Opening

    def _open_cursor(self) -> None:
        """Open the change stream at the position."""
        self._quiet_replies, self._quiet_since = 0, None
        with self._cuts_counted():
            while True:
                try:
                    self._open_with(self._opening.at(self._position), self._size.events)
                except OperationFailure as error:
                    if not self._opening.asks_for_less(error, self._request):
                        raise
                else:
                    return self._opening.opened()

    def _open_after(
        self, position: Position, *, images: Collection[str], stages: Sequence[dict[str, Any]]
    ) -> Callable[[float], Reply]:
        """Open the change stream in another way, one event at a time; returns what gives the next reply."""
        if self._closed:
            raise SourceUnavailableError("the stream was closed while a large event was read")
        self._cursor.kill()
        self._open_with(self._opening.in_part(position, images, stages), 1)
        return lambda wait_s: self._cursor.next(wait_s, 1)

    def _open_with(self, request: Request, batch_size: int) -> None:
        self._request, self._skip_until = request, request.skip_until
        self._cursor.open(request.stage, request.stages, batch_size, on_primary=request.on_primary)

    # Errors

    @contextmanager
    def _cuts_counted(self) -> Iterator[None]:
        """CUTS replies cut off at one position are no accident of the network any more. To read what is there as if it
        were too large loses nothing where they are one. One that took long was cut off for that, on the way."""
        began_s = time.monotonic()
        try:
            yield
        except AutoReconnect as error:
            is_soon = time.monotonic() - began_s < CUT_OFF_SOON_S
            self._cuts = self._cuts + 1 if is_soon and is_cut_off(error) else 0
            if self._cuts < CUTS:
                raise
            self._cuts = 0
            raise OversizeEventError(str(error), certain=False) from error

    def _patiently(self, attempt: Callable[[], T]) -> T:
        """Run ``attempt``; on trouble that passes, reopen at the position and try again until the deadline."""
        try:
            return self._connection.patiently(
                attempt,
                passes=self._passes,
                before_retry=self._reopen,
                through=lambda: self._cursor.client,
                blocks=True,
            )
        except PyMongoError as error:
            raise self._for_operator(error) from error

    def _passes(self, error: PyMongoError) -> bool:
        if self._closed:
            return False
        if isinstance(error, OperationFailure) and classify(error) is Verdict.HISTORY_LOST:
            # Servers also look for the position's event only when they are asked for more.
            return self._opening.asks_for_less(error, self._request)
        return classify(error) is Verdict.RESUME

    def _reopen(self) -> None:
        """Let the next read open the stream at the position again."""
        logger.info("stream %s: interrupted, resuming at %s", self._settings.stream_name, self._position.time)
        self._cursor.forget()

    def _for_operator(self, error: PyMongoError) -> DocdbStreamError | OversizeEventError:
        verdict = classify(error)
        if not isinstance(error, OperationFailure):
            return unavailable(error, self._connection.uri)
        if verdict is Verdict.OVERSIZE:
            return OversizeEventError(server_message(error))
        if verdict is Verdict.NO_CHANGE_STREAMS:
            return no_change_streams(server_message(error))
        if verdict is Verdict.NO_IMAGE:
            return no_image(server_message(error))
        if verdict is Verdict.NO_IMAGES:
            return no_images(server_message(error))
        if verdict is Verdict.HISTORY_LOST:
            since = self._position.time.isoformat() if self._position.time else "unknown"
            return HistoryLostError(
                f"the position of stream {self._settings.stream_name} ({since}) is no longer in the change log: "
                f"{server_message(error)} (code {error.code})",
                hint="the events since then are lost to this stream: load the collection anew if they matter, then "
                f"docdb-stream reset '{self._settings.stream_name}' --to now|earliest|TIMESTAMP",
            )
        return unavailable(error, self._connection.uri)
