"""How far the change log reaches back, found by asking."""

from __future__ import annotations

from typing import Any, cast

import pytest
from bson import Timestamp

from docdb_stream.mongodb.source import MongoChangeSource
from docdb_stream.settings import Settings

NOW = Timestamp(1_769_860_800, 900)


class Log(MongoChangeSource):
    """A change log that begins with an event of this time."""

    def __init__(self, oldest: Timestamp) -> None:
        super().__init__(Settings(documentdb_uri="h"), cast("Any", None))
        self.oldest = oldest
        self.asked = 0

    def operation_time(self) -> Timestamp:
        return NOW

    def _reaches(self, time: Timestamp) -> bool:
        self.asked += 1
        return Timestamp(time.time, time.inc + 1) >= self.oldest  # what comes after it has to be there


@pytest.mark.parametrize(
    ("oldest", "found"),
    [
        (Timestamp(1, 1), Timestamp(1, 0)),
        (Timestamp(NOW.time - 1, 1), Timestamp(NOW.time - 1, 0)),
        # The beginning of a second has left the log, and its end is there.
        (Timestamp(NOW.time - 3600, 2), Timestamp(NOW.time - 3600, 1)),
        (Timestamp(NOW.time - 3600, 7), Timestamp(NOW.time - 3600, 6)),
        (Timestamp(NOW.time - 1, 500_000), Timestamp(NOW.time - 1, 499_999)),
        (Timestamp(NOW.time - 1, 2**32 - 1), Timestamp(NOW.time, 0)),  # so many are in no second
        (Timestamp(NOW.time, 1), Timestamp(NOW.time, 0)),
        # All that is left is of this second, in which there may be much.
        (Timestamp(NOW.time, 2), Timestamp(NOW.time, 1)),
        (Timestamp(NOW.time, 3), Timestamp(NOW.time, 2)),
        (Timestamp(NOW.time, 450), Timestamp(NOW.time, 449)),
        (Timestamp(NOW.time, 899), Timestamp(NOW.time, 898)),
        (NOW, Timestamp(NOW.time, NOW.inc - 1)),
    ],
)
def test_what_is_still_there_comes_after_it(oldest: Timestamp, found: Timestamp) -> None:
    log = Log(oldest)
    assert log.start_position("earliest").operation_time == found
    assert log._reaches(found)
    assert log.asked < 60
