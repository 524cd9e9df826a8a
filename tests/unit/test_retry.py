from __future__ import annotations

import contextvars
import threading
import time
from types import SimpleNamespace

import pytest

from docdb_stream import retry
from docdb_stream.retry import (
    BASE_DELAY_S,
    CLEANUP_LEAST_S,
    MAX_DELAY_S,
    STOP_PATIENCE_S,
    Backoff,
    Deadline,
    NoAnswerError,
    answer_in_time,
    current_deadline,
    deadline,
)

WAIT_S = 20.0


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
    monkeypatch.setattr(Deadline, "pause", lambda self, delay_s: clock.sleep(delay_s))
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


# A stop


def test_a_stop_leaves_some_patience(clock: Clock) -> None:
    stopped = limit(clock, patience_s=1000)
    backoff = Backoff(stopped, rng=lambda: 1.0)
    clock.sleep(100)
    assert backoff.wait()
    stopped.stop.set()
    while backoff.wait():
        pass
    assert 1100 < clock.now_s <= 1100 + MAX_DELAY_S + STOP_PATIENCE_S


def test_what_begins_after_a_stop_has_that_patience_too(clock: Clock) -> None:
    stopped = limit(clock, at_s=1100.0)
    assert stopped.give_up_at_s(1000.0) == 1100.0
    stopped.stop.set()
    assert stopped.stopping
    clock.sleep(50)
    assert stopped.give_up_at_s(1000.0) == 1000.0 + STOP_PATIENCE_S
    assert stopped.give_up_at_s(1050.0) == 1050.0 + STOP_PATIENCE_S
    assert stopped.give_up_at_s(1099.0) == 1100.0, "never past the deadline"


def test_tidying_up_gets_a_little_time_even_then(clock: Clock) -> None:
    assert limit(clock).cleanup_s(2.0) == 2.0
    assert limit(clock, at_s=1001.0).cleanup_s(2.0) == 1.0
    assert limit(clock, at_s=900.0).cleanup_s(2.0) == CLEANUP_LEAST_S
    stopped = limit(clock)
    stopped.stop.set()
    assert stopped.cleanup_s(2.0) == 2.0
    clock.sleep(STOP_PATIENCE_S)
    assert stopped.cleanup_s(2.0) == CLEANUP_LEAST_S


def test_a_stop_ends_a_wait() -> None:
    limit = Deadline(patience_s=1000)
    threading.Timer(0.05, limit.stop.set).start()
    began_s = time.monotonic()
    limit.pause(WAIT_S)
    assert time.monotonic() - began_s < WAIT_S / 2


# Waiting for an answer


def test_an_answer_or_an_error_comes_back() -> None:
    def fail() -> None:
        raise LookupError("no")

    assert answer_in_time(lambda: 7) == 7
    with pytest.raises(LookupError):
        answer_in_time(fail)


def test_it_is_asked_within_the_same_deadline() -> None:
    mine = Deadline.after(60)
    with deadline(mine):
        assert answer_in_time(current_deadline) is mine


@pytest.mark.parametrize("end", ["deadline", "stop", "at most"])
def test_an_answer_that_does_not_come_is_given_up(monkeypatch: pytest.MonkeyPatch, end: str) -> None:
    monkeypatch.setattr(retry, "STOP_PATIENCE_S", 0.05)
    never = threading.Event()
    limit = Deadline.after(0.05 if end == "deadline" else None)
    if end == "stop":
        threading.Timer(0.05, limit.stop.set).start()
    began_s = time.monotonic()
    with deadline(limit), pytest.raises(NoAnswerError):
        answer_in_time(lambda: never.wait(WAIT_S), at_most_s=0.05 if end == "at most" else None)
    assert time.monotonic() - began_s < WAIT_S / 2
    never.set()


def test_a_further_attempt_has_what_the_first_one_left() -> None:
    never = threading.Event()
    long_ago_s = time.monotonic() - 2 * STOP_PATIENCE_S
    limit = Deadline(stopped_at_s=long_ago_s)
    with deadline(limit), pytest.raises(NoAnswerError):
        answer_in_time(lambda: never.wait(WAIT_S), since_s=long_ago_s)
    never.set()
