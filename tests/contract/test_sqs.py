from __future__ import annotations

from contextlib import AbstractContextManager

import orjson
import pytest
from bson import ObjectId
from contract.aws import Queue, faults_between, merged_messages, same_message

from docdb_stream.local import AwsServer
from docdb_stream.settings import Settings
from docdb_stream.target import Checkable, Target
from docdb_stream.targets.sqs import SqsTarget
from docdb_stream.testing.contract import Delivered, Faults, TargetContract
from docdb_stream.testing.events import ChangeLog

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("aws_environment")]


class SqsContract(TargetContract):
    fifo: bool
    oversized_bytes = 1024 * 1024
    large_bytes = 200_000
    large_count = 30

    @pytest.fixture(autouse=True)
    def place(self, aws: AwsServer) -> None:
        self.queue = Queue(aws, fifo=self.fifo)

    def make_target(self) -> Target:
        return SqsTarget(self.queue.url)

    def read_back(self) -> list[Delivered]:
        return self.queue.delivered()

    def same_payload(self, expected: bytes, found: bytes) -> bool:
        return same_message(expected, found)

    def faults(self, target: Target, faults: Faults) -> AbstractContextManager[None]:
        assert isinstance(target, SqsTarget)
        return faults_between(
            target._client,
            "send_message_batch",
            "Entries",
            lambda entry: entry["MessageAttributes"]["event_id"]["StringValue"],
            merged_messages("Entries"),
            faults,
        )


class TestFifoQueue(SqsContract):
    fifo = True

    def test_10_a_replay_within_five_minutes_arrives_once(self, log: ChangeLog) -> None:
        events = [log.update({"_id": number % 3, "version": number}) for number in range(20)]
        for _ in range(2):
            target = self.make_target()
            target.write(events)
            target.flush()
            target.close()
        assert len(self.read_back()) == len(events)

    def test_message_groups(self, log: ChangeLog) -> None:
        oid = ObjectId("65b9f0000000000000000009")
        events = [
            log.insert({"_id": oid}),
            log.insert({"_id": "with a space"}),
            log.insert({"_id": "x" * 200}),
            log.drop(),
            log.invalidate(),
        ]
        self.make_target().write(events)
        groups = {record.event_id: record.key for record in self.read_back()}
        plain, spaced, long, dropped, invalidated = (groups[event.event_id] for event in events)
        assert plain == 'shop.orders/{"_id":{"$oid":"65b9f0000000000000000009"}}'
        assert spaced is not None
        assert long is not None
        assert len(spaced) == len(long) == 64
        assert (dropped, invalidated) == ("shop.orders", "_")

    def test_grouped_by_collection(self, log: ChangeLog) -> None:
        target = SqsTarget(self.queue.url, message_group="collection")
        events = log.inserts(12)
        target.write(events)
        target.flush()
        assert [(record.event_id, record.key) for record in self.read_back()] == [
            (event.event_id, "shop-orders") for event in events
        ]
        target.close()


class TestStandardQueue(SqsContract):
    fifo = False
    ordered = False

    def test_attributes(self, log: ChangeLog) -> None:
        events = [log.delete(1), log.invalidate()]
        self.make_target().write(events)
        found = {
            attributes["operation"]: (attributes["event_id"], attributes.get("namespace"))
            for message in self.queue.receive()
            if (attributes := {name: value["StringValue"] for name, value in message["MessageAttributes"].items()})
        }
        assert found == {
            "delete": (events[0].event_id, "shop.orders"),
            "invalidate": (events[1].event_id, None),
        }

    def test_noncharacters_are_escaped(self, log: ChangeLog) -> None:
        key, text = "k\ufffe", "a\ufffe\uffff\\\ufffe\x00\x0b\ufffd"
        event = log.insert({"_id": 1, key: text})
        target = self.make_target()
        assert list(target.write([event])) == []
        [message] = self.queue.receive()
        assert orjson.loads(message["Body"])["fullDocument"] == {"_id": 1, key: text}


def test_the_queue_s_own_size_limit_counts(aws: AwsServer) -> None:
    queue = Queue(aws, fifo=False, MaximumMessageSize="2048")
    target = SqsTarget(queue.url)
    small, large = ChangeLog().inserts(1), ChangeLog().inserts(1, size_bytes=1900)
    [rejection] = target.write([*small, *large])
    assert rejection.event is large[0]
    assert "takes 2048" in rejection.reason
    assert len(queue.receive()) == 1
    target.close()


def test_from_settings() -> None:
    target = SqsTarget.from_settings(Settings(documentdb_uri="mongodb://x", sqs_query_url="https://q/1/orders.fifo"))
    assert isinstance(target, SqsTarget)
    assert isinstance(target, Checkable)
