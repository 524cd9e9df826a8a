from __future__ import annotations

from docdb_stream.targets._kafka.pace import FIRST_BYTES, Pace
from docdb_stream.targets._kafka.producer import IN_FLIGHT_BYTES, Record
from docdb_stream.testing.events import ChangeLog

EVENT = ChangeLog().insert({"_id": 1})


class Broker:
    """Takes ``rate`` bytes a second after a first burst, as one with a quota: at once, and then nothing for a while.

    ``tells`` whether it says for how long.
    """

    def __init__(self, rate: float, *, burst_bytes: int = 0, tells: bool = True) -> None:
        self.now_s = 0.0
        self.pace = Pace(clock=lambda: self.now_s)
        self.longest_s = 0.0
        self.taken_bytes = 0
        self._rate, self._burst_bytes, self._tells = rate, burst_bytes, tells
        self._reads_again_s = 0.0

    def send(self, count: int, size_bytes: int = 500) -> None:
        records = [Record(EVENT, "t", b"", bytes(size_bytes), {})] * count
        sent = 0
        for part in self.pace.parts(records):
            started_s = self.now_s
            with self.pace.timed():
                self.now_s = max(self.now_s + 0.002, self._reads_again_s)
                self._take(len(part) * size_bytes)
            sent += len(part)
            if self.pace.is_due:
                self.settle()
            self.longest_s = max(self.longest_s, self.now_s - started_s)
        assert sent == count

    def settle(self) -> None:
        self.pace.settled(max(0.0, self._reads_again_s - self.now_s) if self._tells else 0.0)

    def _take(self, size_bytes: int) -> None:
        self.taken_bytes += size_bytes
        within_bytes = min(self._burst_bytes, size_bytes)
        self._burst_bytes -= within_bytes
        self._reads_again_s = self.now_s + (size_bytes - within_bytes) / self._rate


def test_a_tombstone_goes_with_its_delete() -> None:
    pace = Pace(clock=lambda: 0.0)
    pair = [Record(EVENT, "t", b"", bytes(FIRST_BYTES), {}), Record(EVENT, "t", b"", None, {})]
    assert [*pace.parts(pair * 3)] == [pair] * 3


def test_a_broker_without_a_quota_is_soon_given_all_there_is() -> None:
    broker = Broker(float("inf"))
    broker.send(100_000)
    assert broker.pace.limit_bytes == IN_FLIGHT_BYTES
    assert broker.now_s < 0.05
    assert not broker.pace.is_slow


def test_a_throttled_part_takes_seconds_whatever_the_quota() -> None:
    for rate in (2_000, 10_000, 100_000, 1_000_000):
        broker = Broker(rate, burst_bytes=11 * rate)
        broker.send(60 * rate // 500)
        assert broker.longest_s < max(13.0, 1.1 * FIRST_BYTES / rate), (
            "what went through before the quota is waited for"
        )
        broker.longest_s = 0.0
        broker.send(60 * rate // 500)
        assert broker.longest_s < 2.1
        assert broker.taken_bytes / broker.now_s > 0.9 * rate, "all of the quota is used"


def test_a_broker_that_does_not_say_for_how_long_it_throttles_is_found_out_by_the_time() -> None:
    broker = Broker(100_000, burst_bytes=1_100_000, tells=False)
    broker.send(20_000)
    broker.longest_s = 0.0
    broker.send(20_000)
    assert broker.longest_s < 4
    assert broker.taken_bytes / broker.now_s > 90_000


def test_events_that_come_by_and_by_are_not_waited_for() -> None:
    pace = Pace(clock=lambda: 0.0)
    record = Record(EVENT, "t", b"", bytes(500), {})
    for _ in range(FIRST_BYTES // 500):
        assert [len(part) for part in pace.parts([record])] == [1]
        assert not pace.is_due
    assert [len(part) for part in pace.parts([record])] == [1]
    assert pace.is_due


def test_a_record_above_the_limit_goes_alone() -> None:
    pace = Pace(clock=lambda: 0.0)
    parts = list(pace.parts([Record(EVENT, "t", b"", bytes(2 * FIRST_BYTES), {})] * 3))
    assert [len(part) for part in parts] == [1, 1, 1]


def test_what_is_found_is_forgotten_with_the_producer() -> None:
    pace = Pace(clock=lambda: 0.0)
    assert len(list(pace.parts([Record(EVENT, "t", b"", bytes(FIRST_BYTES), {})]))) == 1
    pace.settled(8.0)
    assert (pace.limit_bytes, pace.is_slow) == (FIRST_BYTES // 8, True)
    pace.start_again()
    assert (pace.limit_bytes, pace.is_slow, pace.is_due) == (FIRST_BYTES, False, False)


def test_a_checkpoint_between_two_parts_leaves_the_limit() -> None:
    pace = Pace(clock=lambda: 0.0)
    pace.settled(5.0)
    assert pace.limit_bytes == FIRST_BYTES
    assert not pace.is_slow
