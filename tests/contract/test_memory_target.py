"""The smallest target that passes the contract: a list. Also the contract's own test, faults included."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pytest

from docdb_stream.errors import TargetError
from docdb_stream.events import ChangeEvent
from docdb_stream.formats import format_named
from docdb_stream.retry import Backoff
from docdb_stream.target import Rejection, Target
from docdb_stream.targets._payload import render_all
from docdb_stream.testing.contract import Delivered, Faults, TargetContract, Verdict


class ListTarget:
    """Appends to a list, at most ten at a time; each may be refused."""

    name = "list"
    largest_bytes = 100_000

    def __init__(self, place: list[Delivered]) -> None:
        self.place = place
        self.answer = lambda event_ids: ["take"] * len(event_ids)

    def write(self, events: Sequence[ChangeEvent]) -> Sequence[Rejection]:
        rendered, rejections = render_all(events, format_named("extended"), self.name)
        for event, payload in rendered:
            if len(payload) > self.largest_bytes:
                reason = f"{len(payload)} bytes, limit {self.largest_bytes}"
                rejections.append(Rejection(event, self.name, reason))
            elif self._send(event, payload) == "reject":
                rejections.append(Rejection(event, self.name, "the list does not want it"))
        return rejections

    def _send(self, event: ChangeEvent, payload: bytes) -> Verdict:
        backoff = Backoff()
        while (verdict := (self.answer([event.event_id]) or ["retry"])[0]) == "retry":
            if not backoff.wait():
                raise TargetError(self.name, "the list takes nothing", hint="ask the list")
        if verdict == "take":
            self.place.append(Delivered(event.event_id, event.key, payload))
        return verdict

    def flush(self) -> Sequence[Rejection]:
        return ()

    def close(self) -> None:
        pass


class TestListTarget(TargetContract):
    oversized_bytes = ListTarget.largest_bytes
    large_bytes = 50_000

    @pytest.fixture(autouse=True)
    def place(self) -> None:
        self.list: list[Delivered] = []

    def make_target(self) -> Target:
        return ListTarget(self.list)

    def read_back(self) -> list[Delivered]:
        return list(self.list)

    @contextmanager
    def faults(self, target: Target, faults: Faults) -> Iterator[None]:
        assert isinstance(target, ListTarget)
        take, target.answer = target.answer, faults.answer
        yield
        target.answer = take
