"""What ``BatchTarget`` sends itself, what another thread sends for it, and when that is known."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from botocore.exceptions import ClientError

from docdb_stream.errors import TargetError
from docdb_stream.events import ChangeEvent
from docdb_stream.targets._aws.client import Destination
from docdb_stream.targets._aws.sender import Limits, Record, Refusal
from docdb_stream.targets._aws.target import BatchTarget
from docdb_stream.testing.events import ChangeLog

WAIT_S = 10.0
ONE_REQUEST = 10
EVENTS = ChangeLog().inserts(6 * ONE_REQUEST)


class Target(BatchTarget):
    """``on_request`` is called for each request, in the thread that makes it."""

    name = service = "fake"
    action = "fake:Put"

    def __init__(self, on_request: Callable[[list[Any]], list[Refusal]] = lambda entries: [], lanes: int = 1) -> None:
        super().__init__(Destination("fake", "Fake", "FAKE", "create", "more"), "extended", lanes)
        self.on_request = on_request
        self.sent: list[str] = []
        self.threads: set[int] = set()

    @property
    def _client(self) -> Any:
        return None

    def _limits(self) -> Limits:
        return Limits(ONE_REQUEST, 10_000, 100_000)

    def _record(self, event: ChangeEvent, payload: bytes, key: str) -> Record:
        return Record(event, key, len(payload), {"id": event.event_id})

    def _send(self, entries: list[dict[str, Any]]) -> list[Refusal]:
        refusals = self.on_request(entries)
        self.threads.add(threading.get_ident())
        self.sent += [entry["id"] for entry in entries]
        return refusals


def ids(events: Sequence[ChangeEvent]) -> list[str]:
    return [event.event_id for event in events]


def write_all(target: Target, events: Sequence[ChangeEvent]) -> None:
    target.write(events)
    target.flush()


def test_one_request_is_made_by_the_caller() -> None:
    target = Target()
    target.write(EVENTS[:ONE_REQUEST])
    assert target.sent == ids(EVENTS[:ONE_REQUEST])
    assert target.threads == {threading.get_ident()}
    target.close()


def test_more_are_made_while_the_caller_goes_on() -> None:
    go_on = threading.Event()

    def wait(_: list[Any]) -> list[Refusal]:
        assert go_on.wait(WAIT_S)
        return []

    target = Target(wait)
    target.write(EVENTS[:20])
    assert target.sent == []
    go_on.set()
    assert target.flush() == []
    assert target.sent == ids(EVENTS[:20])
    target.close()


def test_a_write_goes_on_when_two_requests_are_left_for_each_lane() -> None:
    begun: list[int] = []

    def begin(_: list[Any]) -> list[Refusal]:
        begun.append(len(target.sent))
        if len(begun) == 3:
            assert returned.wait(WAIT_S)
        return []

    returned = threading.Event()
    target = Target(begin)
    target.write(EVENTS[:40])
    assert len(target.sent) == 20, "the third request waits for this write to return"
    returned.set()
    target.flush()
    assert target.sent == ids(EVENTS[:40])
    target.close()


def test_a_write_is_sent_after_the_one_before_it() -> None:
    target = Target()
    for start in range(0, 60, 20):
        target.write(EVENTS[start : start + 20])
    target.write(EVENTS[:1])
    target.flush()
    assert target.sent == ids(EVENTS) + ids(EVENTS[:1])
    target.close()


def test_each_rejection_is_told_once() -> None:
    def refuse(entries: list[Any]) -> list[Refusal]:
        return [Refusal(0, "Bad", permanent=True)] if entries[0]["id"] == EVENTS[0].event_id else []

    target = Target(refuse)
    for _ in range(2):
        found = [*target.write(EVENTS[:20]), *target.write(EVENTS[20:40]), *target.flush()]
        assert [rejection.event for rejection in found] == [EVENTS[0]]
        assert target.flush() == []
    target.close()


def test_an_error_ends_all_that_was_written_and_is_told_once() -> None:
    def fail(_: list[Any]) -> list[Refusal]:
        raise ClientError({"Error": {"Code": "AccessDenied"}}, "Put")  # type: ignore[arg-type]

    target = Target(fail)

    for _ in range(2):
        with pytest.raises(TargetError, match="AccessDenied"):
            write_all(target, EVENTS[:20])
        assert target.flush() == []
    target.on_request = lambda entries: []
    write_all(target, EVENTS[20:40])
    assert target.sent == ids(EVENTS[20:40])
    target.close()


def test_an_error_is_told_when_no_request_is_under_way_any_more() -> None:
    entered, go_on = threading.Barrier(2, timeout=WAIT_S), threading.Event()
    under_way = 0

    def fail_or_wait(entries: list[Any]) -> list[Refusal]:
        nonlocal under_way
        entered.wait()
        if entries[0]["id"] == EVENTS[0].event_id:
            raise ClientError({"Error": {"Code": "AccessDenied"}}, "Put")  # type: ignore[arg-type]
        under_way += 1
        assert go_on.wait(WAIT_S)
        under_way -= 1
        return []

    target = Target(fail_or_wait, lanes=2)
    threading.Timer(0.05, go_on.set).start()
    with pytest.raises(TargetError, match="AccessDenied"):
        write_all(target, EVENTS[:20])
    assert under_way == 0
    assert target.sent == ids(EVENTS[10:20])
    target.close()


def test_after_closing_no_further_request_is_made() -> None:
    entered, go_on = threading.Event(), threading.Event()

    def wait(_: list[Any]) -> list[Refusal]:
        entered.set()
        assert go_on.wait(WAIT_S)
        return []

    target = Target(wait)
    target.write(EVENTS[:20])
    assert entered.wait(WAIT_S)
    lanes = [thread for thread in threading.enumerate() if thread.name == target.name]
    assert lanes
    target.close()
    go_on.set()
    for lane in lanes:
        lane.join(WAIT_S)
    assert target.sent == ids(EVENTS[:ONE_REQUEST])
    assert target.flush() == []
    target.on_request = lambda entries: []
    target.write(EVENTS[40:])
    target.flush()
    assert target.sent == ids(EVENTS[:ONE_REQUEST]) + ids(EVENTS[40:])
    target.close()
