from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager

import pytest
from contract.webhook import Receiver, key

from docdb_stream.formats import format_named
from docdb_stream.settings import Settings
from docdb_stream.target import Checkable, Rendering, Target
from docdb_stream.targets.webhook import WebhookTarget
from docdb_stream.testing.contract import Delivered, Faults, TargetContract
from docdb_stream.testing.events import ChangeLog


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    monkeypatch.setenv("WEBHOOK_KEYS", f"{key(1)} {key(2)}")
    started = Receiver()
    started.key = key(2)
    yield started
    started.close()


class WebhookContract(TargetContract):
    oversized_bytes = 256 * 1024
    large_bytes = 60_000
    many_count = 403
    events_a_request = 1

    @pytest.fixture(autouse=True)
    def place(self, receiver: Receiver) -> None:
        self.receiver = receiver

    def make_target(self) -> Target:
        return WebhookTarget(
            self.receiver.url,
            secret="env:WEBHOOK_KEYS",
            stream="orders",
            events=self.events_a_request,
            allow_addresses=["127.0.0.1"],
        )

    def read_back(self) -> list[Delivered]:
        return [
            Delivered(event_id, None, payload)
            for request in self.receiver.taken
            for event_id, payload in zip(request.event_ids, self.payloads(request.body), strict=True)
        ]

    def payloads(self, body: bytes) -> list[bytes]:
        return [body]


class TestOneByOne(WebhookContract):
    def faults(self, target: Target, faults: Faults) -> AbstractContextManager[None]:
        return self.receiver.faults(faults)

    def test_10_a_replay_has_the_same_webhook_ids(self, log: ChangeLog) -> None:
        events = log.inserts(20)
        for _ in range(2):
            target = self.make_target()
            self._deliver(target, events)
            target.close()
        ids = [request.headers["webhook-id"] for request in self.receiver.taken]
        assert len(ids) == 40
        assert len(set(ids)) == 20
        assert not any("." in each for each in ids)


class TestArrays(WebhookContract):
    events_a_request = 50

    def payloads(self, body: bytes) -> list[bytes]:
        return _elements(body)


def _elements(array: bytes) -> list[bytes]:
    """The texts of an array's elements: those of objects, which the formats make."""
    assert array[:1] == b"["
    assert array[-1:] == b"]"
    found, depth, start, in_text, is_escaped = [], 0, 0, False, False
    for index, byte in enumerate(array[1:-1], 1):
        if in_text:
            in_text = is_escaped or byte != ord('"')
            is_escaped = not is_escaped and byte == ord("\\")
        elif byte == ord('"'):
            in_text = True
        elif byte in b"{[":
            start = index if depth == 0 else start
            depth += 1
        elif byte in b"}]":
            depth -= 1
            if depth == 0:
                found.append(array[start : index + 1])
    return found


def test_from_settings() -> None:
    settings = Settings(
        documentdb_uri="mongodb://x",
        stream_name="orders",
        webhook_url="https://hooks.example.com/shop",
        payload_format="cloudevents",
    )
    target = WebhookTarget.from_settings(settings)
    assert isinstance(target, Checkable)
    assert isinstance(target, Rendering)
    assert target.formats[0] is format_named("cloudevents", "orders")
    target.close()
