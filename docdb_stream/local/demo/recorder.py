"""The recorder: what really happened, as the server's own driver tells it.

It watches with plain PyMongo and renders with PyMongo's ``json_util``, and shares no code with docdb-stream's reading
and rendering, so that a fault there cannot hide in both.
"""

from __future__ import annotations

import json
import threading
from typing import Any

from bson import json_util
from pymongo.database import Database

Document = dict[str, Any]


class Recorder:
    """Records every change of a database from its construction on."""

    def __init__(self, database: Database[Document]) -> None:
        self._stream = database.watch(max_await_time_ms=100)
        self._events: list[Document] = []

    def run(self, stop: threading.Event) -> None:
        """Record until ``stop`` is set."""
        with self._stream:
            while not stop.is_set():
                event = self._stream.try_next()
                if event is not None:
                    self._events.append(event)

    def __len__(self) -> int:
        return len(self._events)

    def events(self) -> list[Document]:
        """Each event so far, in the server's order, as parsed relaxed Extended JSON."""
        options = json_util.RELAXED_JSON_OPTIONS
        return [json.loads(json_util.dumps(event, json_options=options)) for event in self._events]
