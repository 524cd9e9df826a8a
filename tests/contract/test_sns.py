from __future__ import annotations

from contextlib import AbstractContextManager

import pytest
from botocore.stub import Stubber
from contract.aws import Queue, faults_between, merged_messages, new_name, same_message

from docdb_stream.errors import ConfigError
from docdb_stream.local import AwsServer
from docdb_stream.settings import Settings
from docdb_stream.target import Checkable, Target
from docdb_stream.targets.sns import SnsTarget
from docdb_stream.testing.contract import Delivered, Faults, TargetContract
from docdb_stream.testing.events import ChangeLog

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("aws_environment")]

ARN = "arn:aws:sns:us-east-1:000000000000:orders"


class SnsContract(TargetContract):
    fifo: bool
    oversized_bytes = 256 * 1024
    large_bytes = 60_000

    @pytest.fixture(autouse=True)
    def place(self, aws: AwsServer) -> None:
        self.queue = Queue(aws, fifo=self.fifo)
        client = aws.client("sns")
        attributes = {"FifoTopic": "true"} if self.fifo else {}
        self.topic_arn = client.create_topic(Name=new_name("topic", fifo=self.fifo), Attributes=attributes)["TopicArn"]
        client.subscribe(
            TopicArn=self.topic_arn,
            Protocol="sqs",
            Endpoint=self.queue.arn,
            Attributes={"RawMessageDelivery": "true"},
        )
        client.close()

    def make_target(self) -> Target:
        return SnsTarget(self.topic_arn)

    def read_back(self) -> list[Delivered]:
        return self.queue.delivered()

    def same_payload(self, expected: bytes, found: bytes) -> bool:
        return same_message(expected, found)

    def faults(self, target: Target, faults: Faults) -> AbstractContextManager[None]:
        assert isinstance(target, SnsTarget)
        return faults_between(
            target._client,
            "publish_batch",
            "PublishBatchRequestEntries",
            lambda entry: entry["MessageAttributes"]["event_id"]["StringValue"],
            merged_messages("PublishBatchRequestEntries"),
            faults,
        )


class TestFifoTopic(SnsContract):
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
        events = [log.insert({"_id": 1}), log.drop(), log.invalidate()]
        self.make_target().write(events)
        groups = {record.event_id: record.key for record in self.read_back()}
        assert [groups[event.event_id] for event in events] == ['shop.orders/{"_id":1}', "shop.orders", "_"]


class TestStandardTopic(SnsContract):
    fifo = False
    ordered = False

    def test_attributes(self, log: ChangeLog) -> None:
        events = [log.delete(1), log.invalidate()]
        self.make_target().write(events)
        found = [
            {name: value["StringValue"] for name, value in message["MessageAttributes"].items()}
            for message in self.queue.receive()
        ]
        assert {attributes["operation"]: attributes for attributes in found} == {
            "delete": {"event_id": events[0].event_id, "operation": "delete", "namespace": "shop.orders"},
            "invalidate": {"event_id": events[1].event_id, "operation": "invalidate"},
        }


def test_the_topic_s_own_size_limit_counts() -> None:
    target = SnsTarget(ARN)
    small, large = ChangeLog().inserts(1), ChangeLog().inserts(1, size_bytes=1900)
    with Stubber(target._client) as stub:
        stub.add_response("get_topic_attributes", {"Attributes": {"MaximumMessageSize": "2048"}})
        stub.add_response("publish_batch", {"Successful": [], "Failed": []})
        [rejection] = target.write([*small, *large])
        stub.assert_no_pending_responses()
    assert rejection.event is large[0]
    assert "takes 2048" in rejection.reason
    target.close()


def test_a_name_is_no_arn() -> None:
    with pytest.raises(ConfigError, match="SNS_TOPIC_ARN_EVENT") as caught:
        SnsTarget("orders")
    assert "arn:aws:sns:" in caught.value.hint


def test_from_settings() -> None:
    target = SnsTarget.from_settings(Settings(documentdb_uri="mongodb://x", sns_topic_arn_event=ARN))
    assert isinstance(target, SnsTarget)
    assert isinstance(target, Checkable)
