from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any

import orjson
import pytest
from contract.aws import Request, faults_between, new_name

from docdb_stream.local import AwsServer
from docdb_stream.settings import Settings
from docdb_stream.target import Checkable, Target
from docdb_stream.targets.kinesis import KinesisTarget
from docdb_stream.testing.contract import Delivered, Faults, TargetContract, Verdict
from docdb_stream.testing.events import ChangeLog

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("aws_environment")]

# The local server has the quota of before 2025, 5 MiB.
_REQUEST_BYTES = 5 * 1024 * 1024


@pytest.fixture
def stream(aws: AwsServer) -> Iterator[str]:
    name = new_name("stream")
    client = aws.client("kinesis")
    client.create_stream(StreamName=name, ShardCount=3)
    client.get_waiter("stream_exists").wait(StreamName=name, WaiterConfig={"Delay": 1})
    yield name
    client.delete_stream(StreamName=name)
    client.close()


def read_stream(aws: AwsServer, stream: str) -> list[Delivered]:
    """Shard after shard; a key is in one shard."""
    client = aws.client("kinesis")
    found = []
    for shard in client.list_shards(StreamName=stream)["Shards"]:
        iterator = client.get_shard_iterator(
            StreamName=stream, ShardId=shard["ShardId"], ShardIteratorType="TRIM_HORIZON"
        )["ShardIterator"]
        while True:
            answer = client.get_records(ShardIterator=iterator)
            if not answer["Records"]:
                break
            for record in answer["Records"]:
                event_id = orjson.loads(record["Data"])["_id"]["_data"]
                found.append(Delivered(event_id, record["PartitionKey"], record["Data"]))
            iterator = answer["NextShardIterator"]
    client.close()
    return found


def merged(request: Request, verdicts: list[Verdict], answer: Request | None) -> Request:
    # Kinesis has no refusal for ever: what the contract calls "reject" cannot happen.
    taken = {"SequenceNumber": "1", "ShardId": "shardId-000000000000"}
    refused = {"ErrorCode": "ProvisionedThroughputExceededException", "ErrorMessage": "Rate exceeded for shard"}
    return {
        "FailedRecordCount": sum(verdict != "take" for verdict in verdicts),
        "Records": [taken if verdict == "take" else refused for verdict in verdicts],
    }


class TestKinesisTarget(TargetContract):
    oversized_bytes = 1024 * 1024

    @pytest.fixture(autouse=True)
    def place(self, aws: AwsServer, stream: str) -> None:
        self.aws, self.stream = aws, stream

    def make_target(self) -> Target:
        return KinesisTarget(self.stream, request_bytes=_REQUEST_BYTES)

    def read_back(self) -> list[Delivered]:
        return read_stream(self.aws, self.stream)

    def faults(self, target: Target, faults: Faults) -> AbstractContextManager[None]:
        assert isinstance(target, KinesisTarget)
        if faults.reject:
            pytest.skip("Kinesis refuses no single record for ever: PutRecordsResultEntry has retriable codes only")
        return faults_between(
            target._client,
            "put_records",
            "Records",
            lambda entry: orjson.loads(entry["Data"])["_id"]["_data"],
            merged,
            faults,
        )


def test_partition_keys(aws: AwsServer, stream: str) -> None:
    log = ChangeLog()
    events = [log.insert({"_id": 1}), log.insert({"_id": "x" * 300}), log.drop(), log.drop_database(), log.invalidate()]
    target = KinesisTarget(stream)
    target.write(events)
    keys = {record.event_id: record.key for record in read_stream(aws, stream)}
    hashed = keys.pop(events[1].event_id)
    assert hashed is not None
    assert len(hashed) == 64
    assert list(map(keys.get, (events[index].event_id for index in (0, 2, 3, 4)))) == [
        'shop.orders/{"_id":1}',
        "shop.orders",
        "shop",
        "_",
    ]
    target.close()


def test_a_stream_by_its_arn_needs_no_region(aws: AwsServer, stream: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with_region = aws.client("kinesis")
    arn = with_region.describe_stream_summary(StreamName=stream)["StreamDescriptionSummary"]["StreamARN"]
    with_region.close()
    monkeypatch.delenv("AWS_DEFAULT_REGION")
    target = KinesisTarget(arn)
    target.check()
    assert list(target.write(ChangeLog().inserts(1))) == []
    assert len(read_stream(aws, stream)) == 1
    target.close()


def test_the_document_payload_arrives(aws: AwsServer, stream: str) -> None:
    target = KinesisTarget(stream, payload_format="document")
    event = ChangeLog().insert({"_id": 1, "operation": "overwritten"})
    target.write([event])
    client = aws.client("kinesis")
    [shard, *_] = [
        shard["ShardId"]
        for shard in client.list_shards(StreamName=stream)["Shards"]
        if _records(client, stream, shard["ShardId"])
    ]
    assert _records(client, stream, shard) == [event.render("document")]
    client.close()
    target.close()


def _records(client: Any, stream: str, shard: str) -> list[bytes]:
    iterator = client.get_shard_iterator(StreamName=stream, ShardId=shard, ShardIteratorType="TRIM_HORIZON")
    return [record["Data"] for record in client.get_records(ShardIterator=iterator["ShardIterator"])["Records"]]


def test_from_settings() -> None:
    target = KinesisTarget.from_settings(Settings(documentdb_uri="mongodb://x", kinesis_stream="orders"))
    assert isinstance(target, KinesisTarget)
    assert isinstance(target, Checkable)
