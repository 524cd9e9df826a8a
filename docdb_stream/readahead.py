"""Reads ahead: fetches the next events while the current ones are delivered.

Owns the reader thread and the bound on what waits in memory. Does not decide when a run ends.
"""

from __future__ import annotations

import contextvars
import threading
from collections import deque
from dataclasses import replace

from bson import Timestamp

from docdb_stream.events import Batch
from docdb_stream.source import ChangeSource

READ_WAIT_S = 1.0
"""How long the server holds an empty reply back, waiting for events. PyMongo and the server use 1 s as well."""


class ReadAhead:
    """Batches of an open source, fetched ahead by a thread. A context manager; leaving it closes the source.

    Args:
        source: Already open.
        until: Stop reading once the position has reached this operation time; None reads for ever.
        batch_size: Events in one batch, at most. Small replies that wait are put together up to this size.
        max_bytes: Read no further while more BSON bytes than this wait.
    """

    def __init__(self, source: ChangeSource, *, until: Timestamp | None, batch_size: int, max_bytes: int) -> None:
        self._source = source
        self._until = until
        self._batch_size = batch_size
        self._max_bytes = max_bytes
        self._waiting: deque[Batch] = deque()
        self._waiting_bytes = 0
        self._changed = threading.Condition()
        self._stopped = False
        self._ended = False
        self._error: BaseException | None = None
        # The reader retries within the run's deadline, which is a context variable.
        context = contextvars.copy_context()
        self._thread = threading.Thread(target=context.run, args=(self._read,), name="reader", daemon=True)

    def __enter__(self) -> ReadAhead:
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        self._source.close()
        self._thread.join(timeout=2 * READ_WAIT_S)

    @property
    def caught_up(self) -> bool:
        """Whether ``until`` was reached and every batch up to there was taken."""
        with self._changed:
            return self._ended and not self._waiting and self._error is None

    def take(self, wait_s: float) -> Batch | None:
        """The next batch, of at most ``batch_size`` events; None when there is none within ``wait_s``.

        Raises:
            DocdbStreamError: What the source raised, after every batch read before it was taken.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._ended or self._error, timeout=wait_s)
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
        if not self._fits(batch, len(batch.events)):
            return batch
        events, size_bytes = list(batch.events), batch.size_bytes
        while self._fits(batch, len(events)):
            batch = self._waiting.popleft()
            events += batch.events
            size_bytes += batch.size_bytes
        return replace(batch, events=events, size_bytes=size_bytes)

    def _fits(self, before: Batch, count: int) -> bool:
        """Whether the next waiting batch can be put together with ``count`` events that end with ``before``."""
        if before.problem or not self._waiting:
            return False
        return count + len(self._waiting[0].events) <= self._batch_size

    def _read(self) -> None:
        try:
            while not self._stopped:
                batch = self._source.read(READ_WAIT_S)
                ended = self._reached(batch)
                with self._changed:
                    self._waiting.append(batch)
                    self._waiting_bytes += batch.size_bytes
                    self._ended = ended
                    self._changed.notify_all()
                    if ended:
                        return
                    self._changed.wait_for(lambda: self._stopped or self._waiting_bytes <= self._max_bytes)
        except BaseException as error:  # noqa: BLE001 - whatever it is, the thread that takes must see it
            with self._changed:
                self._error = None if self._stopped else error
                self._changed.notify_all()

    def _reached(self, batch: Batch) -> bool:
        if self._until is None:
            return False
        time = batch.position.operation_time
        return batch.quiet or (time is not None and time >= self._until)
