from __future__ import annotations

import contextvars
import threading
import time

import pytest
from clocks import Clock, limit

from docdb_stream import context
from docdb_stream.context import (
    CLEANUP_LEAST_S,
    STOP_PATIENCE_S,
    Deadline,
    NoAnswerError,
    RunContext,
    answer_in_time,
    check_lease,
    current_deadline,
    current_run,
    deadline,
    running,
)

WAIT_S = 20.0


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
        inherited = contextvars.copy_context()
    thread = threading.Thread(target=inherited.run, args=(lambda: found.append(current_deadline()),))
    thread.start()
    thread.join()
    assert found == [limit]


# The lease


def test_the_lease_is_checked_where_there_is_one() -> None:
    def gone() -> None:
        raise LookupError("the lease is gone")

    check_lease()
    with running(RunContext(lease_check=gone)) as run:
        with pytest.raises(LookupError):
            check_lease()
        with pytest.raises(LookupError):
            answer_in_time(check_lease)  # in a thread of the run
        with deadline(Deadline()):  # what is no run, or outlives one
            check_lease()
        assert current_run() is run


# A stop


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
    monkeypatch.setattr(context, "STOP_PATIENCE_S", 0.05)
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
