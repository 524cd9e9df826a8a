"""Reads a snapshot's pages while the stream is delivered.

Owns the threads. Which page is next, and when it may be delivered, is ``pages``'.
"""

from __future__ import annotations

import contextvars
import threading
import time
from collections.abc import Callable
from typing import Self

from docdb_stream.context import current_deadline
from docdb_stream.snapshot.pages import Pages
from docdb_stream.source import DocumentSource

LOOK_EVERY_S = 0.05
"""How soon it is noticed that a page may be read, where nobody tells."""

END_WAIT_S = 2.0
"""How long to wait for the readers at the end, all of them together; one that a silent server holds up is left behind,
and what it still reads is nobody's."""


class SnapshotReader:
    """Threads that read pages, as many ranges side by side as there are threads. A context manager.

    Args:
        source: Where documents are read from.
        pages: What is to be read, and takes it.
        match: See ``SnapshotProgress``.
        threads: How many.
        came: Called, from a thread, when a page has come or reading has failed.
    """

    def __init__(
        self, source: DocumentSource, pages: Pages, *, match: str | None, threads: int, came: Callable[[], object]
    ) -> None:
        self._source = source
        self._pages = pages
        self._match = match
        self._came = came
        self._changed = threading.Condition()
        self._stopped = False
        self._error: BaseException | None = None
        self._threads = []
        for _ in range(threads):
            context = contextvars.copy_context()
            self._threads.append(threading.Thread(target=context.run, args=(self._read,), name="pages", daemon=True))

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        until_s = time.monotonic() + current_deadline().cleanup_s(END_WAIT_S)
        for thread in self._threads:
            thread.join(timeout=max(0.0, until_s - time.monotonic()))

    def more(self) -> None:
        """A page was delivered: another may be read.

        Raises:
            DocdbStreamError: Reading one has failed.
        """
        with self._changed:
            if self._error is not None:
                raise self._error
            self._changed.notify_all()

    def _read(self) -> None:
        try:
            while not self._stopped:
                reading = self._pages.begin()
                if reading is None:
                    with self._changed:
                        self._changed.wait(LOOK_EVERY_S)
                    continue
                try:
                    page = self._source.read(reading.range, since=reading.since, match=self._match, limit=reading.limit)
                except BaseException:
                    self._pages.failed(reading)
                    raise
                self._pages.came(reading, page)
                with self._changed:
                    self._changed.notify()
                self._pages.prepare(reading, page)
                self._came()
        except BaseException as error:  # noqa: BLE001 - whatever it is, the run must see it
            with self._changed:
                self._error = None if self._stopped else error
            self._came()
