"""The server's clock, by which leases run."""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Callable

from docdb_stream.lease import elapsed_s
from docdb_stream.mongodb.connection import Connection
from docdb_stream.mongodb.diagnosis import HELLO

TRUSTED_S = 300.0
"""How long one answer of the server is reckoned from: two quartz clocks part by some 0.03 s in that time."""

_STEP_S = 1.0
"""More than this between the clock that is set and the one that is not: one of them was stepped or stood still."""


class ServerClock:
    """The time of the cluster's primary, as a span that certainly holds it.

    Between two answers of the server it is reckoned by a clock of this machine that nobody sets. Where that clock stood
    still itself (a machine that was suspended), this machine's wall clock disagrees with it, and the server is asked
    again.

    Args:
        connection: To the cluster.
        elapsed: Seconds that only grow.
        wall: Seconds since the epoch, by the clock that people set.
    """

    def __init__(
        self,
        connection: Connection,
        elapsed: Callable[[], float] = elapsed_s,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._connection = connection
        self._elapsed = elapsed
        self._wall = wall
        self._answer: tuple[dt.datetime, float, float, float] | None = None

    def ask(self) -> None:
        """Ask the server, whatever is known already. Raises PyMongoError."""
        asked_s = self._elapsed()
        hello = self._connection.client.admin.command(HELLO)  # commands go to the primary, whatever the URI says
        answered_s = self._elapsed()
        wall_s, local = self._wall(), hello.get("localTime")
        given = local.replace(tzinfo=dt.UTC) if local is not None else dt.datetime.fromtimestamp(wall_s, dt.UTC)
        self._answer = (given, asked_s, answered_s, wall_s - answered_s)

    def earliest(self) -> dt.datetime:
        """It is at least this time: to judge whether somebody else's lease has run out. Raises PyMongoError."""
        local, _, answered_s, _ = self._known()
        return _later(local, self._elapsed() - answered_s)

    def latest(self) -> dt.datetime:
        """It is at most this time: to say how long one's own lease lasts. Raises PyMongoError."""
        local, asked_s, _, _ = self._known()
        return _later(local, self._elapsed() - asked_s + 0.002)  # the server cuts to milliseconds, and so does _later

    def _known(self) -> tuple[dt.datetime, float, float, float]:
        if self._answer is None or not self._is_trusted(self._answer):
            self.ask()
        assert self._answer is not None
        return self._answer

    def _is_trusted(self, answer: tuple[dt.datetime, float, float, float]) -> bool:
        _, asked_s, _, ahead_s = answer
        now_s = self._elapsed()
        return now_s - asked_s <= TRUSTED_S and abs(self._wall() - now_s - ahead_s) <= _STEP_S


def _later(time_: dt.datetime, seconds: float) -> dt.datetime:
    """In milliseconds, as BSON keeps times, so that one compares equal to itself after it was stored."""
    found = time_ + dt.timedelta(seconds=seconds)
    return found.replace(microsecond=found.microsecond // 1000 * 1000)
