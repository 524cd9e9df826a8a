from __future__ import annotations

import pytest
from clocks import Clock, limit

from docdb_stream.context import STOP_PATIENCE_S, Deadline, RunContext, deadline, running
from docdb_stream.retry import BASE_DELAY_S, MAX_DELAY_S, Backoff


def test_the_delays_double_up_to_the_maximum(clock: Clock) -> None:
    backoff = Backoff(limit(clock, patience_s=1000), rng=lambda: 1.0)
    assert all(backoff.wait() for _ in range(12))
    assert clock.sleeps == [min(MAX_DELAY_S, BASE_DELAY_S * 2**attempt) for attempt in range(12)]
    assert clock.sleeps[-1] == MAX_DELAY_S


def test_the_jitter_is_full(clock: Clock) -> None:
    chances = iter([0.0, 0.5, 0.25])
    backoff = Backoff(limit(clock), rng=lambda: next(chances))
    assert all(backoff.wait() for _ in range(3))
    assert clock.sleeps == [0.0, 0.5 * BASE_DELAY_S * 2, 0.25 * BASE_DELAY_S * 4]


def test_the_service_may_ask_for_more(clock: Clock) -> None:
    backoff = Backoff(limit(clock), rng=lambda: 0.0)
    assert backoff.wait(at_least_s=7.0)
    assert clock.sleeps == [7.0]


def test_a_sleep_ends_when_nobody_waits_for_the_attempt_any_more(clock: Clock) -> None:
    backoff = Backoff(limit(clock), rng=lambda: 0.0, is_over=lambda: clock.now_s >= 1010)
    assert backoff.wait(at_least_s=7.5)
    assert clock.now_s == 1007.5
    assert not backoff.wait(at_least_s=20.0)
    assert clock.now_s == 1010.5
    assert not backoff.wait()
    assert clock.now_s == 1010.5


def test_a_stop_ends_a_sleep_that_may_end_otherwise(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    stopped = limit(clock)

    def pause(self: Deadline, delay_s: float) -> None:
        clock.sleep(delay_s)
        stopped.stop.set()

    monkeypatch.setattr(Deadline, "pause", pause)
    assert Backoff(stopped, rng=lambda: 0.0, is_over=lambda: False).wait(at_least_s=20.0)
    assert sum(clock.sleeps) == 1.0


def test_it_gives_up_when_patience_is_over_without_sleeping_first(clock: Clock) -> None:
    backoff = Backoff(limit(clock, patience_s=2.0), rng=lambda: 1.0)
    while backoff.wait():
        pass
    assert clock.now_s < 1002.0
    assert sum(clock.sleeps) == pytest.approx(0.05 + 0.1 + 0.2 + 0.4 + 0.8)
    assert not backoff.wait(), "it does not change its mind"


def test_the_deadline_is_nearer_than_patience(clock: Clock) -> None:
    backoff = Backoff(limit(clock, at_s=1001.0), rng=lambda: 1.0)
    while backoff.wait():
        pass
    assert clock.now_s < 1001.0


def test_there_is_no_time_at_all(clock: Clock) -> None:
    assert not Backoff(limit(clock, at_s=999.0), rng=lambda: 0.0).wait()
    assert not Backoff(limit(clock, patience_s=0.0), rng=lambda: 0.0).wait()
    assert not Backoff(limit(clock, at_s=1005.0)).wait(at_least_s=5.0)
    assert clock.sleeps == []


def test_progress_starts_patience_and_delays_anew(clock: Clock) -> None:
    backoff = Backoff(limit(clock, patience_s=1.0), rng=lambda: 1.0)
    for _ in range(50):
        assert backoff.wait()
        assert backoff.wait()
        backoff.progress()
        assert backoff.attempts == 0
    assert clock.sleeps == [BASE_DELAY_S, 2 * BASE_DELAY_S] * 50
    assert clock.now_s > 1005.0


def test_progress_does_not_move_the_deadline(clock: Clock) -> None:
    backoff = Backoff(limit(clock, at_s=1001.0), rng=lambda: 1.0)
    while backoff.wait():
        backoff.progress()
    assert clock.now_s < 1001.0


def test_backoff_takes_the_current_deadline(clock: Clock) -> None:
    with deadline(limit(clock, at_s=1000.01)):
        backoff = Backoff(rng=lambda: 1.0)
    assert not backoff.wait()


def test_a_stop_leaves_some_patience(clock: Clock) -> None:
    stopped = limit(clock, patience_s=1000)
    backoff = Backoff(stopped, rng=lambda: 1.0)
    clock.sleep(100)
    assert backoff.wait()
    stopped.stop.set()
    while backoff.wait():
        pass
    assert 1100 < clock.now_s <= 1100 + MAX_DELAY_S + STOP_PATIENCE_S


def test_a_run_counts_the_attempts_that_were_repeated_for_it(clock: Clock) -> None:
    with running(RunContext(limit(clock))) as run:
        for _ in range(2):
            Backoff().wait()
    assert run.retries == 2


def test_what_a_service_asks_for_makes_the_patience_longer_once(clock: Clock) -> None:
    backoff = Backoff(limit(clock, patience_s=30.0), rng=lambda: 0.0)
    assert backoff.wait(at_least_s=40.0)
    assert not backoff.wait(at_least_s=40.0)
    backoff.progress()
    assert backoff.wait(at_least_s=40.0)
    assert not Backoff(limit(clock, patience_s=30.0)).wait(at_least_s=float("inf"))
    assert not Backoff(limit(clock, at_s=clock() + 39.0)).wait(at_least_s=40.0)
