"""Reads ahead: fetches the next events while the current ones are delivered.

Owns the reader thread and the bound on what waits in memory. Does not decide when a run ends.
"""

from __future__ import annotations

import contextvars
import threading
from collections import deque
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace

from bson import Timestamp

from docdb_stream.context import current_deadline
from docdb_stream.events import Batch
from docdb_stream.mongodb import tuning
from docdb_stream.position import Position
from docdb_stream.source import BATCH_BYTES, ChangeSource, ChangeStream

READ_WAIT_S = 1.0
"""How long the server holds an empty reply back, waiting for events. PyMongo and the server use 1 s as well."""
PROOF_WAIT_S = 0.05
"""How long, where a run would end with an empty reply: most servers prove with it that nothing is left, and then a
longer wait would only be paid for. One that does not is asked again, with the full wait."""

HURRIED_WAIT_S = 0.02
"""How long, where somebody waits for the position to move: each answer says how far the server has looked."""

END_WAIT_S = 2 * READ_WAIT_S
"""How long to wait for the reader at the end. One that a silent server holds up is left behind: its stream is its own,
so nothing it still does is seen by another run."""


class ReadAhead:
    """Batches of a stream, fetched ahead by a thread, which opens the stream as well: both can take long. A context
    manager; leaving it closes the stream.

    Args:
        source: Where the stream is opened.
        position: After which position.
        until: Stop reading once every event up to this operation time was read; None reads for ever.
        batch_size: Events in one batch, at most. Small replies that wait are put together up to this, and BATCH_BYTES.
        max_bytes: Read no further while more BSON bytes than this wait.
    """

    def __init__(
        self,
        source: ChangeSource,
        position: Position,
        *,
        until: Timestamp | None,
        batch_size: int,
        max_bytes: int,
    ) -> None:
        self._source = source
        self._position = position
        self._stream: ChangeStream | None = None
        self._until = until
        self._batch_size = batch_size
        self._max_bytes = max_bytes
        self._waiting: deque[Batch] = deque()
        self._waiting_bytes = 0
        self._changed = threading.Condition()
        self._stopped = False
        self._ended = False
        self._is_hurried = self._is_woken = False
        self._error: BaseException | None = None
        # The reader retries within the run's deadline, which is a context variable.
        context = contextvars.copy_context()
        self._thread = threading.Thread(target=context.run, args=(self._read,), name="reader", daemon=True)

    def __enter__(self) -> ReadAhead:
        tuning.reader_began()
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        with self._changed:
            self._stopped = True
            stream = self._stream
            self._changed.notify_all()
        try:
            if stream is not None and self._thread.is_alive():
                stream.close()
            self._thread.join(timeout=current_deadline().cleanup_s(END_WAIT_S))
        finally:
            tuning.reader_ended()

    @property
    def is_open(self) -> bool:
        """Whether the server has opened the stream at the position."""
        with self._changed:
            return self._stream is not None

    @property
    def filtered_on_server(self) -> Sequence[str]:
        """See ChangeStream."""
        with self._changed:
            return () if self._stream is None else self._stream.filtered_on_server

    @property
    def ends(self) -> bool:
        """Whether it stops by itself, and ``caught_up`` says so."""
        return self._until is not None

    @property
    def caught_up(self) -> bool:
        """Whether ``until`` was reached and every batch up to there was taken."""
        with self._changed:
            return self._ended and not self._waiting and self._error is None

    def hurry(self, is_hurried: bool) -> None:
        """Whether somebody waits for the position to move: the server is then asked more often while it has nothing."""
        self._is_hurried = is_hurried

    def wake(self) -> None:
        """End a ``take`` under way, or the next one, though there is no batch: there is something else to do."""
        with self._changed:
            self._is_woken = True
            self._changed.notify_all()

    def take(self, wait_s: float) -> Batch | None:
        """The next batch, of at most ``batch_size`` events; None when there is none within ``wait_s``, or before
        ``wake``.

        Raises:
            DocdbStreamError: What the source raised, after every batch read before it was taken.
        """
        with self._changed:
            self._changed.wait_for(
                lambda: self._waiting or self._ended or self._error or self._is_woken, timeout=wait_s
            )
            self._is_woken = False
            if not self._waiting:
                if self._error is not None:
                    raise self._error
                return None
            batch = self._merged()
            self._waiting_bytes -= batch.size_bytes
            self._changed.notify_all()
            return batch

    def _merged(self) -> Batch:
        batch = self._waiting.popleft()
        if not self._fits(batch, len(batch.events), batch.size_bytes):
            return batch
        events, size_bytes = list(batch.events), batch.size_bytes
        while self._fits(batch, len(events), size_bytes):
            batch = self._waiting.popleft()
            events += batch.events
            size_bytes += batch.size_bytes
        return replace(batch, events=events, size_bytes=size_bytes)

    def _fits(self, before: Batch, count: int, size_bytes: int) -> bool:
        """Whether the next waiting batch can be put together with these events, which end with ``before``."""
        if before.gap or before.rejected or not self._waiting:
            return False
        following = self._waiting[0]
        return count + len(following.events) <= self._batch_size and size_bytes + following.size_bytes <= BATCH_BYTES

    def _read(self) -> None:
        try:
            with closing(self._source.open(self._position)) as stream:
                with self._changed:
                    self._stream = stream
                    self._changed.notify_all()
                self._fetch(stream)
        except BaseException as error:  # noqa: BLE001 - whatever it is, the thread that takes must see it
            with self._changed:
                self._error = None if self._stopped else error
                self._changed.notify_all()

    def _fetch(self, stream: ChangeStream) -> None:
        wait_s = shortest_s = READ_WAIT_S if self._until is None else PROOF_WAIT_S
        position: Position | None = None
        while not self._stopped:
            batch = stream.read(wait_s)
            ended = self._reached(batch)
            if batch.events or (self._is_hurried and batch.drained):
                wait_s = HURRIED_WAIT_S if self._is_hurried else shortest_s
            else:
                # A server that has much to go through answers when the time is over, too: longer each time.
                wait_s = READ_WAIT_S if batch.position == position else min(2 * wait_s, READ_WAIT_S)
            position = batch.position
            with self._changed:
                self._waiting.append(batch)
                self._waiting_bytes += batch.size_bytes
                self._ended = ended
                self._changed.notify_all()
                if ended:
                    return
                self._changed.wait_for(lambda: self._stopped or self._waiting_bytes <= self._max_bytes)

    def _reached(self, batch: Batch) -> bool:
        if self._until is None:
            return False
        time = batch.position.operation_time
        if time is None or batch.quiet:
            return batch.quiet
        # All events of a transaction have one cluster time: that it is reached does not mean that it is over.
        return time > self._until or (time == self._until and batch.drained)
