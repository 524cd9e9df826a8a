"""The deployment, for real on a local cloud: the synthesized template, the real package, the clock, the functions.

What AWS does here, the local server does: CloudFormation makes the stack, EventBridge's rule ticks, SNS starts the
functions, which run as processes of their own from the package's content. MongoDB is real.
"""

from __future__ import annotations

import collections
import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from e2e.deployment import ACCOUNT, deploy, eventually, here
from pymongo import MongoClient

from docdb_stream.local import AwsServer, ReplicaSet
from docdb_stream.registry import TARGETS, switches

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

BUCKET = "shop-changes"
STREAM = "shop.orders"
FUNCTION = "docdb-stream-shop-orders"
BROKEN_FUNCTION = "docdb-stream-broken"

CONFIG = """
[docdb-stream]
documentdb_uri = {uri}
state_db = {db}_state
start_at = earliest

[deploy]
enabled = true
every_minutes = 1
timeout_seconds = 60
python = {python}
architecture = {architecture}

[stream shop.orders]
watched_db_name = {db}
watched_collection_name = orders
kinesis_stream = changes
sqs_query_url = {queue}
bucket_name = shop-changes
{firehose}

[stream broken]
watched_db_name = {db}
watched_collection_name = orders
kinesis_stream = missing
"""

Arrived = list[tuple[str, int]]
"""Document and version of each event, in the order of arrival."""


@dataclass
class Deployed:
    """The stack on the local cloud."""

    aws: AwsServer
    outputs: dict[str, str]
    queue: str
    alerts: str

    def start_all(self) -> None:
        """As the rule does it: a message to the trigger topic."""
        self.aws.client("sns").publish(TopicArn=self.outputs["TriggerTopicArn"], Message="{}")

    def invoke(self) -> dict[str, Any]:
        """Run the function and wait for its answer; empty when it is throttled."""
        lambda_ = self.aws.client("lambda")
        try:
            answer = lambda_.invoke(FunctionName=FUNCTION, Payload=b"{}")
        except lambda_.exceptions.TooManyRequestsException:
            return {}
        payload = json.loads(answer["Payload"].read())
        assert "FunctionError" not in answer, payload
        return dict(payload)

    def in_kinesis(self) -> Arrived:
        kinesis = self.aws.client("kinesis")
        arrived: Arrived = []
        for shard in kinesis.list_shards(StreamName="changes")["Shards"]:
            place = kinesis.get_shard_iterator(
                StreamName="changes", ShardId=shard["ShardId"], ShardIteratorType="TRIM_HORIZON"
            )["ShardIterator"]
            while True:
                answer = kinesis.get_records(ShardIterator=place, Limit=10_000)
                arrived += [_version(record["Data"]) for record in answer["Records"]]
                place = answer.get("NextShardIterator")
                if not answer["Records"]:
                    break
        return arrived

    def in_s3(self, prefix: str = "") -> Arrived:
        import gzip

        s3 = self.aws.client("s3")
        pages = s3.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=prefix)
        bodies = [
            s3.get_object(Bucket=BUCKET, Key=found["Key"])["Body"].read()
            for page in pages
            for found in page.get("Contents", [])
        ]
        texts = [gzip.decompress(body) if body[:2] == b"\x1f\x8b" else body for body in bodies]
        return [_version(line) for text in texts for line in text.splitlines()]

    def in_sqs(self) -> Arrived:
        """Takes them out of the queue."""
        return [_version(body) for body in self.messages(self.queue)]

    def messages(self, url: str) -> list[str]:
        sqs = self.aws.client("sqs")
        found: list[str] = []
        while True:
            messages = sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10).get("Messages", [])
            for message in messages:
                found.append(message["Body"])
                sqs.delete_message(QueueUrl=url, ReceiptHandle=message["ReceiptHandle"])
            if not messages:
                return found


def _version(event: bytes | str) -> tuple[str, int]:
    document = json.loads(event)["fullDocument"]
    return document["_id"], document["version"]


class Writer(threading.Thread):
    """Inserts documents and replaces each some times, until it is stopped."""

    VERSIONS = 3

    def __init__(self, collection: Any) -> None:
        super().__init__()
        self.written: Arrived = []
        self._collection = collection
        self._stop_asked = threading.Event()

    def run(self) -> None:
        number = 0
        while not self._stop_asked.wait(0.1):
            number += 1
            for version in range(self.VERSIONS):
                self.write(f"order {number}", version)

    def write(self, name: str, version: int) -> None:
        self._collection.replace_one({"_id": name}, {"_id": name, "version": version}, upsert=True)
        self.written.append((name, version))

    def stop(self) -> None:
        self._stop_asked.set()
        self.join()


@pytest.fixture(scope="module")
def aws() -> Iterator[AwsServer]:
    """An account for this module alone: its clock keeps starting functions until the server ends."""
    with AwsServer() as started:
        yield started


@pytest.fixture
def deployed(aws: AwsServer, replica_set: ReplicaSet, db_name: str, tmp_path: Path) -> Deployed:
    """Package, synthesize, deploy: what ``make lambda synth`` and ``cdk deploy`` do."""
    aws.client("kinesis").create_stream(StreamName="changes", ShardCount=1)
    queue = aws.client("sqs").create_queue(QueueName="changes")["QueueUrl"]
    aws.client("s3").create_bucket(Bucket=BUCKET)
    text = CONFIG.format(
        uri=replica_set.uri,
        db=db_name,
        queue=queue,
        **here(),
        firehose=_with_firehose(aws),
    )
    outputs = deploy(aws, text, tmp_path)
    alerts = _subscribed(aws, outputs["AlertTopicArn"])
    return Deployed(aws, outputs, queue, alerts)


def _with_firehose(aws: AwsServer) -> str:
    """The setting of a Firehose stream into the bucket, if there is such a target."""
    if "firehose" not in TARGETS:
        return ""
    aws.client("firehose").create_delivery_stream(
        DeliveryStreamName="changes",
        ExtendedS3DestinationConfiguration={
            "RoleARN": f"arn:aws:iam::{ACCOUNT}:role/firehose",
            "BucketARN": f"arn:aws:s3:::{BUCKET}",
            "Prefix": "firehose/",
            "BufferingHints": {"IntervalInSeconds": 1, "SizeInMBs": 1},
        },
    )
    return f"{switches()['firehose']} = changes"


def _subscribed(aws: AwsServer, topic: str) -> str:
    """The URL of a queue that hears the topic."""
    url = str(aws.client("sqs").create_queue(QueueName="alerts")["QueueUrl"])
    aws.client("sns").subscribe(
        TopicArn=topic,
        Protocol="sqs",
        Endpoint=f"arn:aws:sqs:{aws.region}:{ACCOUNT}:alerts",
        ReturnSubscriptionArn=True,
    )
    return url


def _in_order(arrived: Arrived) -> dict[str, list[int]]:
    versions = collections.defaultdict(list)
    for name, version in arrived:
        versions[name].append(version)
    return versions


def test_a_deployed_stream(deployed: Deployed, mongo: MongoClient[dict[str, Any]], db_name: str):
    writer = Writer(mongo[db_name].orders)
    writer.start()
    try:
        # Started through the topic, as the rule does it, while documents are written.
        deployed.start_all()
        eventually(deployed.in_kinesis, "events arrive after the topic was told", timeout_s=60)
        # Two at once: the stream's lease lets one of them work.
        with ThreadPoolExecutor() as pool:
            answers = list(pool.map(lambda _: deployed.invoke(), range(4)))
        assert {answer.get("stopped_by", "throttled") for answer in answers} <= {
            *("caught-up", "max-loop"),
            *("lease-held", "throttled"),
        }
        assert any(answer.get("stopped_by") == "caught-up" for answer in answers)
    finally:
        writer.stop()
    # Nobody starts anything any more but the clock.
    writer.write("the last", 0)
    eventually(lambda: ("the last", 0) in deployed.in_kinesis(), "the schedule starts the function", timeout_s=90)

    wanted = _in_order(writer.written)
    places: dict[str, Callable[[], Arrived]] = {"kinesis": deployed.in_kinesis, "s3": lambda: deployed.in_s3(db_name)}
    for place, read in places.items():
        # Nothing is missing, nothing is there twice, every document's versions are in order.
        assert _in_order(read()) == wanted, place
    in_sqs: Arrived = []
    eventually(lambda: in_sqs.extend(deployed.in_sqs()) or len(in_sqs) >= len(writer.written), "SQS", timeout_s=30)
    assert sorted(in_sqs) == sorted(writer.written)  # a standard queue has no order
    if "firehose" in TARGETS:
        eventually(lambda: len(deployed.in_s3("firehose/")) >= len(writer.written), "Firehose", timeout_s=30)
        assert sorted(deployed.in_s3("firehose/")) == sorted(writer.written)

    _assert_failure_is_told(deployed)


def _assert_failure_is_told(deployed: Deployed) -> None:
    """The stream whose target does not exist: its invocations end in the queue, and somebody hears of it."""
    # SNS invokes a function in this way. The local SNS does so without the retries and the queue, which are Lambda's.
    deployed.aws.client("lambda").invoke(FunctionName=BROKEN_FUNCTION, InvocationType="Event", Payload=b"{}")
    url = deployed.outputs["FailureQueueUrl"]
    (failed,) = eventually(lambda: deployed.messages(url), "the failed invocation is in the queue", timeout_s=60)
    record = json.loads(failed)
    assert record["requestContext"]["functionArn"].endswith(BROKEN_FUNCTION)
    assert "missing" in record["responsePayload"]["errorMessage"]
    # One alert, though the schedule, the topic, and both attempts of the above failed.
    (alert,) = (json.loads(body) for body in deployed.messages(deployed.alerts))
    assert alert["Subject"].startswith("docdb-stream broken")
    assert "missing" in alert["Message"]
