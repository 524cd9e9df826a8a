"""The board: what happens now, gathered once a second for whoever looks at the page."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from live import Viewers
from programs import FUNCTIONS, Programs
from recommendations import Recommendations
from shop import Shop

from docdb_stream import Settings
from docdb_stream.admin.status import stream_statuses

KEPT_S = 120
POLLED = {"profiles": "the graph", "sessions": "Redis", "events": "Cassandra"}
"""The streams of config.ini and events.ini, and what they deliver to."""


class Board:
    """Args: streams: The settings of the polled streams.

    Attributes:
        down: The databases that are stopped just now.
        viewers: Who writes the live events; None before there are any.
        delivered: How many events each polled stream has delivered, by its checkpoint.
        quiet_rates: Live events written in each second in which all databases were up.
    """

    def __init__(self, shop: Shop, programs: Programs, graph: Recommendations, streams: list[Settings]) -> None:
        self.down: set[str] = set()
        self.viewers: Viewers | None = None
        self.delivered: dict[str, int] = {}
        self.quiet_rates: list[float] = []
        self.closed = threading.Event()
        self._shop, self._programs, self._graph, self._streams = shop, programs, graph, streams
        self._rates: deque[float] = deque([0.0], maxlen=KEPT_S)
        self._polled: list[dict[str, Any]] = []
        self._recommended: list[dict[str, Any]] = []

    def count(self) -> None:
        """See once a second how many live events there are, until it is closed."""
        written, at_s = 0, time.monotonic()
        while not self.closed.wait(1.0):
            now, now_s = self.viewers.written if self.viewers else 0, time.monotonic()
            rate = (now - written) / (now_s - at_s)
            self._rates.append(rate)
            if self.viewers and not self.down and not self._shop.closed.is_set():
                self.quiet_rates.append(rate)
            written, at_s = now, now_s

    def look(self) -> None:
        """Ask those who can say how far things have come, until it is closed. One that is down makes it wait."""
        while not self.closed.wait(0.5):
            self._polled = _or_as_before(self._look_at_streams, self._polled)
            self._recommended = _or_as_before(self._recommend, self._recommended)

    def figures(self) -> dict[str, Any]:
        """All that the page shows, ready for JSON."""
        return {
            "orders": len(self._shop.placed),
            "answers": {answer.value: count for answer, count in self._shop.answers.items()},
            "events": self.viewers.written if self.viewers else 0,
            "events_per_s": [round(rate) for rate in self._rates],
            "lags": [*self._mapped(), *self._polled],
            "recommendations": self._recommended,
            "down": sorted(self.down),
        }

    def _look_at_streams(self) -> list[dict[str, Any]]:
        found = {each.stream: each for each in stream_statuses(self._streams)}
        self.delivered = {name: each.checkpoint.events for name, each in found.items() if each.checkpoint}
        rows = []
        for name in (each.stream_name for each in self._streams):
            at, touched = found[name].position_time, self._shop.touched.get(name)
            is_behind = touched is not None and (at is None or at.timestamp() < int(touched))
            rows.append(_row(name, POLLED[name], (at.timestamp() if at else touched) if is_behind else None))
        return rows

    def _mapped(self) -> list[dict[str, Any]]:
        records = len(self._shop.placed) + len(self._shop.paid)
        rows = []
        for name, target in FUNCTIONS.items():
            found = self._programs.progress(name)
            since = found.get("at") or self._shop.touched.get("orders")
            rows.append(_row(name, target, since if found["records"] < records else None))
        return rows

    def _recommend(self) -> list[dict[str, Any]]:
        bought = [product for _, product in [*self._shop.placed.values()][-3:]]
        return [
            {"product": product, "also": [other for other, _ in self._graph.also_bought(product)]}
            for product in dict.fromkeys(reversed(bought))
        ]


def _row(stream: str, target: str, since: float | None) -> dict[str, Any]:
    """How far behind a target is: for as long as what comes next may have waited; None: nothing waits."""
    return {"stream": stream, "to": target, "lag_s": 0.0 if since is None else max(0.0, time.time() - since)}


def _or_as_before(look: Callable[[], list[dict[str, Any]]], before: list[dict[str, Any]]) -> list[dict[str, Any]]:
    try:
        return look()
    except Exception:  # noqa: BLE001 - a database that is down is what this is to be looked at with
        return before
