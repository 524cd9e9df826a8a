from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any

import orjson
import pytest
from botocore.stub import ANY, Stubber
from contract.aws import Queue, Request, faults_between, new_name

from docdb_stream.errors import TargetError
from docdb_stream.local import AwsServer
from docdb_stream.settings import Settings
from docdb_stream.target import Checkable, Target
from docdb_stream.targets.eventbridge import EventBridgeTarget
from docdb_stream.testing.contract import Delivered, Faults, TargetContract, Verdict
from docdb_stream.testing.events import ChangeLog

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("aws_environment")]


class Bus:
    """A bus of the local server with a rule that sends what comes from docdb-stream to a queue."""

    def __init__(self, aws: AwsServer) -> None:
        self.name = new_name("bus")
        self._queue = Queue(aws, fifo=False)
        self.client = aws.client("events")
        self.arn: str = self.client.create_event_bus(Name=self.name)["EventBusArn"]
        pattern = orjson.dumps({"source": ["docdb-stream"]}).decode()
        self.client.put_rule(Name="all", EventBusName=self.name, EventPattern=pattern)
        self.client.put_targets(Rule="all", EventBusName=self.name, Targets=[{"Id": "q", "Arn": self._queue.arn}])

    def events(self) -> list[dict[str, Any]]:
        """The events that came through the rule."""
        return [orjson.loads(message["Body"]) for message in self._queue.receive()]


@pytest.fixture
def bus(aws: AwsServer) -> Iterator[Bus]:
    made = Bus(aws)
    yield made
    made.client.close()


def merged(request: Request, verdicts: list[Verdict], answer: Request | None) -> Request:
    taken = iter(answer["Entries"] if answer else [])
    refused = {"retry": {"ErrorCode": "InternalFailure"}, "reject": {"ErrorCode": "MalformedDetail"}}
    return {
        "FailedEntryCount": sum(verdict != "take" for verdict in verdicts),
        "Entries": [next(taken) if verdict == "take" else refused[verdict] for verdict in verdicts],
    }


class TestEventBridgeTarget(TargetContract):
    ordered = False
    oversized_bytes = 256 * 1024
    large_bytes = 60_000

    @pytest.fixture(autouse=True)
    def place(self, bus: Bus) -> None:
        self.bus = bus

    def make_target(self) -> Target:
        return EventBridgeTarget(self.bus.name)

    def read_back(self) -> list[Delivered]:
        details = [event["detail"] for event in self.bus.events()]
        return [Delivered(detail["_id"]["_data"], None, orjson.dumps(detail)) for detail in details]

    def same_payload(self, expected: bytes, found: bytes) -> bool:
        # A bus stores JSON, not bytes.
        return bool(orjson.loads(expected) == orjson.loads(found))

    def faults(self, target: Target, faults: Faults) -> AbstractContextManager[None]:
        assert isinstance(target, EventBridgeTarget)
        return faults_between(
            target._client,
            "put_events",
            "Entries",
            lambda entry: orjson.loads(entry["Detail"])["_id"]["_data"],
            merged,
            faults,
        )


def test_what_rules_can_match(bus: Bus) -> None:
    log = ChangeLog()
    events = [log.delete(1), log.drop_database(), log.invalidate()]
    target = EventBridgeTarget(bus.arn, payload_format="document")
    target.write(events)
    found = {event["detail-type"]: event for event in bus.events()}
    assert {name: event["resources"] for name, event in found.items()} == {
        "delete": ["shop.orders"],
        "dropDatabase": ["shop"],
        "invalidate": [],
    }
    assert found["delete"]["source"] == "docdb-stream"
    assert found["delete"]["detail"] == orjson.loads(events[0].render("document"))
    target.close()


def test_an_entry_has_the_cluster_time() -> None:
    event = ChangeLog().delete(1)
    target = EventBridgeTarget("orders")
    entry = {
        "EventBusName": "orders",
        "Source": "docdb-stream",
        "DetailType": "delete",
        "Detail": event.render("extended").decode(),
        "Resources": ["shop.orders"],
        "Time": event.cluster_time.as_datetime(),
    }
    with Stubber(target._client) as stub:
        stub.add_response("put_events", {"FailedEntryCount": 0, "Entries": []}, {"Entries": [entry]})
        target.write([event])
    target.close()


@pytest.mark.parametrize("event_bytes", [2048, 1024 * 1024])
def test_requests_stay_below_the_limit(event_bytes: int, bus: Bus) -> None:
    target = EventBridgeTarget(bus.name, event_bytes=event_bytes)
    # Besides the Detail: Source 12 bytes, DetailType 6, Resources 11, Time 14.
    spare_bytes = event_bytes - 1 - len(ChangeLog().inserts(1)[0].render("extended")) - 43
    [fits], [too_large] = (ChangeLog().inserts(1, size_bytes=spare_bytes + more) for more in (0, 1))
    [rejection] = target.write([fits, too_large])
    assert rejection.event is too_large
    assert [event["detail"] for event in bus.events()] == [orjson.loads(fits.render("extended"))]
    target.close()


def test_a_bus_that_vanished_fails_the_flush(bus: Bus) -> None:
    target = EventBridgeTarget(bus.name)
    target.write(ChangeLog().inserts(1))
    assert list(target.flush()) == []
    bus.client.remove_targets(Rule="all", EventBusName=bus.name, Ids=["q"])
    bus.client.delete_rule(Name="all", EventBusName=bus.name)
    bus.client.delete_event_bus(Name=bus.name)
    assert list(target.write(ChangeLog().inserts(1))) == [], "EventBridge takes it, and drops it"
    for _ in range(2):
        with pytest.raises(TargetError, match="ResourceNotFoundException") as caught:
            target.flush()
    assert "EVENTBRIDGE_BUS" in caught.value.hint
    target.close()


@pytest.mark.parametrize("bus", ["orders", "arn:aws:events:us-east-1:000000000000:event-bus/orders"])
def test_a_flush_without_events_asks_nothing(bus: str) -> None:
    target = EventBridgeTarget(bus)
    with Stubber(target._client) as stub:
        target.flush()
        target.write([])
        target.flush()
        stub.add_response("put_events", {"FailedEntryCount": 0, "Entries": []}, {"Entries": ANY})
        stub.add_response("describe_event_bus", {}, {"Name": bus})
        target.write(ChangeLog().inserts(1))
        target.flush()
        target.flush()
        stub.assert_no_pending_responses()
    target.close()


@pytest.mark.parametrize(
    "code", ["AccessDeniedException", "NotAuthorizedForSourceException", "InvalidAccountIdException"]
)
def test_a_refusal_that_is_no_event_s_fault_ends_the_write(code: str) -> None:
    target = EventBridgeTarget("orders")
    with Stubber(target._client) as stub:
        stub.add_response("put_events", {"FailedEntryCount": 1, "Entries": [{"ErrorCode": code}]})
        with pytest.raises(TargetError, match=code):
            target.write(ChangeLog().inserts(1))
    target.close()


def test_from_settings() -> None:
    target = EventBridgeTarget.from_settings(Settings(documentdb_uri="mongodb://x", eventbridge_bus="orders"))
    assert isinstance(target, EventBridgeTarget)
    assert isinstance(target, Checkable)
