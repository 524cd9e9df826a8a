"""What ``BatchTarget`` sends itself, what another thread sends for it, and when that is known."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from botocore.exceptions import ClientError

from docdb_stream.errors import TargetError
from docdb_stream.events import ChangeEvent
from docdb_stream.targets._aws import Limits, Record, Refusal
from docdb_stream.targets._aws_client import Place
from docdb_stream.targets._aws_target import BatchTarget
from docdb_stream.testing.events import ChangeLog

WAIT_S = 10.0
ONE_REQUEST = 10
EVENTS = ChangeLog().inserts(6 * ONE_REQUEST)


class Target(BatchTarget):
    """``on_request`` is called for each request, in the thread that makes it."""

    name = service = "fake"
    action = "fake:Put"

    def __init__(self, on_request: Callable[[list[Any]], list[Refusal]] = lambda entries: []) -> None:
        super().__init__(Place("fake", "Fake", "FAKE", "create", "more"), "extended", lanes=1)
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
    target.write(EVENTS[:30])
    assert target.sent == []
    go_on.set()
    assert target.flush() == []
    assert target.sent == ids(EVENTS[:30])
    target.close()


def test_a_write_is_sent_after_the_one_before_it() -> None:
    target = Target()
    for start in range(0, 60, 20):
        target.write(EVENTS[start : start + 20])
    target.write(EVENTS[:1])
    assert target.sent == ids(EVENTS) + ids(EVENTS[:1])
    target.close()


def test_rejections_come_from_the_next_call() -> None:
    def refuse(entries: list[Any]) -> list[Refusal]:
        return [Refusal(0, "Bad", permanent=True)] if entries[0]["id"] == EVENTS[0].event_id else []

    target = Target(refuse)
    assert target.write(EVENTS[:20]) == []
    assert [rejection.event for rejection in target.write(EVENTS[20:40])] == [EVENTS[0]]
    assert target.flush() == []
    target.write(EVENTS[:20])
    assert [rejection.event for rejection in target.flush()] == [EVENTS[0]]
    assert target.flush() == []
    target.close()


def test_an_error_comes_from_the_next_call() -> None:
    def fail(_: list[Any]) -> list[Refusal]:
        raise ClientError({"Error": {"Code": "AccessDenied"}}, "Put")  # type: ignore[arg-type]

    target = Target(fail)
    target.write(EVENTS[:20])
    with pytest.raises(TargetError, match="AccessDenied"):
        target.flush()
    assert target.flush() == []
    target.write(EVENTS[:20])
    with pytest.raises(TargetError, match="AccessDenied"):
        target.write(EVENTS[20:40])
    target.close()


def test_after_closing_no_further_request_is_made() -> None:
    entered, go_on = threading.Event(), threading.Event()

    def wait(_: list[Any]) -> list[Refusal]:
        entered.set()
        assert go_on.wait(WAIT_S)
        return []

    target = Target(wait)
    target.write(EVENTS[:40])
    assert entered.wait(WAIT_S)
    background = target._background
    assert background is not None
    target.close()
    go_on.set()
    background.shutdown(wait=True)
    assert target.sent == ids(EVENTS[:ONE_REQUEST])
    assert target.flush() == []
    target.on_request = lambda entries: []
    target.write(EVENTS[40:])
    target.flush()
    assert target.sent == ids(EVENTS[:ONE_REQUEST]) + ids(EVENTS[40:])
    target.close()
