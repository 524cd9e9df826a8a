from __future__ import annotations

import contextvars
import threading
from types import SimpleNamespace

import pytest

from docdb_stream import retry
from docdb_stream.retry import BASE_DELAY_S, MAX_DELAY_S, Backoff, Deadline, current_deadline, deadline


class Clock:
    """A clock that only sleeping moves."""

    def __init__(self) -> None:
        self.now_s = 1000.0
        self.sleeps: list[float] = []

    def __call__(self) -> float:
        return self.now_s

    def sleep(self, delay_s: float) -> None:
        self.sleeps.append(delay_s)
        self.now_s += delay_s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(retry, "time", SimpleNamespace(sleep=clock.sleep, monotonic=clock))
    return clock


def limit(clock: Clock, at_s: float = float("inf"), patience_s: float = 30.0) -> Deadline:
    return Deadline(at_s, patience_s=patience_s, clock=clock)


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


# Deadlines


def test_a_deadline_after_some_seconds(clock: Clock) -> None:
    found = Deadline.after(5, clock=clock)
    assert found.remaining_s == pytest.approx(5.0)
    clock.sleep(6)
    assert found.remaining_s == pytest.approx(-1.0)
    assert Deadline.after(None).remaining_s == float("inf")


def test_the_current_deadline_is_the_innermost() -> None:
    outer, inner = Deadline(1.0), Deadline(2.0)
    assert current_deadline().at_s == float("inf")
    with deadline(outer):
        assert current_deadline() is outer
        with deadline(inner) as found:
            assert current_deadline() is found is inner
        assert current_deadline() is outer
        with pytest.raises(ZeroDivisionError), deadline(inner):
            _ = 1 / 0
        assert current_deadline() is outer
    assert current_deadline().at_s == float("inf")


def test_a_thread_inherits_it_with_its_context() -> None:
    found: list[Deadline] = []
    limit = Deadline(1.0)
    with deadline(limit):
        context = contextvars.copy_context()
    thread = threading.Thread(target=context.run, args=(lambda: found.append(current_deadline()),))
    thread.start()
    thread.join()
    assert found == [limit]


def test_backoff_takes_the_current_deadline(clock: Clock) -> None:
    with deadline(limit(clock, at_s=1000.01)):
        backoff = Backoff(rng=lambda: 1.0)
    assert not backoff.wait()


def test_check_asks_the_guard() -> None:
    def gone() -> None:
        raise LookupError("the lease is gone")

    Deadline().check()
    with pytest.raises(LookupError):
        Deadline(guard=gone).check()
