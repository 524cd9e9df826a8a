"""The destinations that the demo's events go to: made empty, and read back with the services' own clients.

Each tells which settings switch its target on, and reads back everything it holds. Nothing here uses the targets' code.
"""

from __future__ import annotations

import base64
import contextlib
import datetime as dt
import gzip
import json
import threading
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from typing import Any, ClassVar, Protocol

from bson import Decimal128, ObjectId

from docdb_stream.errors import DocdbStreamError
from docdb_stream.local import AwsServer, KafkaBroker, LocalServers, OpenSearchServer
from docdb_stream.local.demo.background import background
from docdb_stream.local.demo.verify import Delivery, Json, Verdict, verify_documents, verify_events

READ_TIMEOUT_S = 120.0
SQS_BATCH = 10  # messages that one request may receive or delete
_SQS_PAUSE_S = 0.5  # lets some messages gather: the local server is slow per request, and slower the more it holds


class Destination(Protocol):
    """One target's end of the line."""

    name: ClassVar[str]
    """The target's name, as docdb-stream's results have it."""

    def create(self) -> Mapping[str, str]:
        """Make the destination, empty; return the settings that switch its target on."""
        ...

    def verdict(self, events: Sequence[Json], documents: Mapping[str, Mapping[str, Any]]) -> Verdict:
        """Read everything back and compare it.

        Args:
            events: The source's events in order.
            documents: The source's documents in the end: collection -> ``_id`` -> document.
        """
        ...


class KinesisDestination:
    """A data stream of four shards."""

    name: ClassVar[str] = "kinesis"
    _STREAM: ClassVar[str] = "shop"

    def __init__(self, aws: AwsServer) -> None:
        self._client = aws.client("kinesis")

    def create(self) -> Mapping[str, str]:
        """See Destination."""
        self._client.create_stream(StreamName=self._STREAM, ShardCount=4)
        waiter = self._client.get_waiter("stream_exists")
        waiter.wait(StreamName=self._STREAM, WaiterConfig={"Delay": 1, "MaxAttempts": 30})
        return {"kinesis_stream": self._STREAM}

    def verdict(self, events: Sequence[Json], documents: Mapping[str, Mapping[str, Any]]) -> Verdict:
        """See Destination."""
        return verify_events(self.name, events, list(self._read()), duplicates_allowed=True)

    def count(self) -> int:
        """How many records there are now."""
        return sum(1 for _ in self._read())

    def _read(self) -> Iterator[Delivery]:
        for shard in self._client.list_shards(StreamName=self._STREAM)["Shards"]:
            shard_id = shard["ShardId"]
            reply = self._client.get_shard_iterator(
                StreamName=self._STREAM, ShardId=shard_id, ShardIteratorType="TRIM_HORIZON"
            )
            iterator = reply["ShardIterator"]
            for _ in _until(READ_TIMEOUT_S, f"the end of Kinesis shard {shard_id}"):
                reply = self._client.get_records(ShardIterator=iterator)
                yield from (Delivery(shard_id, record["Data"]) for record in reply["Records"])
                iterator = reply["NextShardIterator"]
                if not reply["Records"] and reply["MillisBehindLatest"] == 0:
                    break


class SqsDestination:
    """A FIFO queue with a consumer, as queues have one: it takes messages out from the beginning on."""

    name: ClassVar[str] = "sqs"

    def __init__(self, aws: AwsServer) -> None:
        self._client = aws.client("sqs")
        self._queue = ""
        self._all_is_sent = threading.Event()
        self._consumed: Future[list[Delivery]] = Future()

    def create(self) -> Mapping[str, str]:
        """See Destination."""
        # Far longer than taking a message takes: one that came back would look like a duplicate.
        attributes = {"FifoQueue": "true", "VisibilityTimeout": "600"}
        self._queue = self._client.create_queue(QueueName="shop.fifo", Attributes=attributes)["QueueUrl"]
        self._consumed = background(self._consume)
        return {"sqs_query_url": self._queue}

    def verdict(self, events: Sequence[Json], documents: Mapping[str, Mapping[str, Any]]) -> Verdict:
        """See Destination."""
        self._all_is_sent.set()
        return verify_events(self.name, events, self._consumed.result(READ_TIMEOUT_S), duplicates_allowed=False)

    def _consume(self) -> list[Delivery]:
        consumed: list[Delivery] = []
        while True:
            may_be_over = self._all_is_sent.is_set()
            reply = self._client.receive_message(
                QueueUrl=self._queue, MaxNumberOfMessages=SQS_BATCH, MessageSystemAttributeNames=["MessageGroupId"]
            )
            messages = reply.get("Messages", [])
            if messages:
                consumed += [
                    Delivery(message["Attributes"]["MessageGroupId"], message["Body"].encode()) for message in messages
                ]
                self._client.delete_message_batch(
                    QueueUrl=self._queue,
                    Entries=[
                        {"Id": str(number), "ReceiptHandle": message["ReceiptHandle"]}
                        for number, message in enumerate(messages)
                    ],
                )
            elif may_be_over and self._is_empty():
                return consumed
            if len(messages) < SQS_BATCH:
                self._all_is_sent.wait(_SQS_PAUSE_S)

    def _is_empty(self) -> bool:
        names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
        reply = self._client.get_queue_attributes(QueueUrl=self._queue, AttributeNames=names)
        return not any(int(reply["Attributes"][name]) for name in names)


class KafkaDestination:
    """A broker; each collection has a topic. What is committed is read.

    Args:
        broker: The broker.
        once: It hides what was aborted, so that no event is found twice. The local one does not.
    """

    name: ClassVar[str] = "kafka"

    def __init__(self, broker: KafkaBroker, *, once: bool = False) -> None:
        self._broker = broker
        self._once = once

    def create(self) -> Mapping[str, str]:
        """See Destination. The broker makes topics when they are first written to."""
        return {"msk_bootstrap_srv": self._broker.bootstrap_servers}

    def verdict(self, events: Sequence[Json], documents: Mapping[str, Mapping[str, Any]]) -> Verdict:
        """See Destination."""
        return verify_events(self.name, events, list(self._read()), duplicates_allowed=not self._once)

    def _read(self) -> Iterator[Delivery]:
        with self._consumer() as consumer:
            partitions = self._partitions(consumer)
            consumer.assign(partitions)
            consumer.seek_to_beginning(*partitions)
            for _ in _until(READ_TIMEOUT_S, "the end of the Kafka topics"):
                for partition, records in consumer.poll(timeout_ms=500).items():
                    lane = f"{partition.topic}/{partition.partition}"
                    yield from (Delivery(lane, record.value) for record in records)
                # Not end_offsets(): the local broker's answer to that leaves out most of the last batch.
                ends = {partition: consumer.highwater(partition) for partition in partitions}
                if all(end is not None and consumer.position(partition) >= end for partition, end in ends.items()):
                    break

    def _partitions(self, consumer: Any) -> list[Any]:
        from kafka import TopicPartition

        topics = sorted(topic for topic in consumer.topics() if topic.startswith("shop-"))
        return [TopicPartition(topic, number) for topic in topics for number in consumer.partitions_for_topic(topic)]

    @contextlib.contextmanager
    def _consumer(self) -> Iterator[Any]:
        with warnings.catch_warnings():  # kafka-python reads its schemas in a way that Python 3.11 calls deprecated
            warnings.simplefilter("ignore", DeprecationWarning)
            from kafka import KafkaConsumer

            servers = self._broker.bootstrap_servers
            consumer = KafkaConsumer(bootstrap_servers=servers, isolation_level="read_committed")
            with contextlib.closing(consumer):
                yield consumer


class S3Destination:
    """A bucket of gzipped JSON Lines."""

    name: ClassVar[str] = "s3"
    _BUCKET: ClassVar[str] = "shop-events"

    def __init__(self, aws: AwsServer) -> None:
        self._client = aws.client("s3")

    def create(self) -> Mapping[str, str]:
        """See Destination."""
        self._client.create_bucket(Bucket=self._BUCKET)
        return {"bucket_name": self._BUCKET, "bucket_path": "changes"}

    def verdict(self, events: Sequence[Json], documents: Mapping[str, Mapping[str, Any]]) -> Verdict:
        """See Destination."""
        return verify_events(self.name, events, list(self._read()), duplicates_allowed=False)

    def _read(self) -> Iterator[Delivery]:
        # Listed by name, and the names sort by time.
        for page in self._client.get_paginator("list_objects_v2").paginate(Bucket=self._BUCKET):
            for entry in page.get("Contents", []):
                body = self._client.get_object(Bucket=self._BUCKET, Key=entry["Key"])["Body"].read()
                yield from (Delivery("", line) for line in gzip.decompress(body).splitlines())


class OpenSearchDestination:
    """A node; each collection has an index, which mirrors its documents."""

    name: ClassVar[str] = "opensearch"

    def __init__(self, server: OpenSearchServer) -> None:
        self._server = server

    def create(self) -> Mapping[str, str]:
        """See Destination. An index is made when it is first written to."""
        return {"elasticsearch_uri": self._server.url}

    def verdict(self, events: Sequence[Json], documents: Mapping[str, Mapping[str, Any]]) -> Verdict:
        """See Destination."""
        source = {
            f"shop-{collection}/{plain(_id)}": plain({key: value for key, value in document.items() if key != "_id"})
            for collection, found in documents.items()
            for _id, document in found.items()
        }
        return verify_documents(self.name, source, self._read())

    def _read(self) -> Iterator[tuple[str, Json]]:
        from opensearchpy import OpenSearch
        from opensearchpy.helpers import scan

        with OpenSearch(self._server.url) as client:
            client.indices.refresh(index="shop-*")
            for hit in scan(client, index="shop-*", size=1000):
                yield f"{hit['_index']}/{hit['_id']}", hit["_source"]


def all_destinations(servers: LocalServers) -> list[Destination]:
    """The five destinations of the demo."""
    return [
        KinesisDestination(servers.aws),
        SqsDestination(servers.aws),
        KafkaDestination(servers.kafka),
        S3Destination(servers.aws),
        OpenSearchDestination(servers.opensearch),
    ]


def plain(value: Any) -> Any:
    """A BSON value as plain JSON, the way a search engine wants it; written apart from docdb-stream's own rendering."""
    match value:
        case dict():
            return {key: plain(inner) for key, inner in value.items()}
        case list():
            return [plain(inner) for inner in value]
        case ObjectId() | Decimal128():
            return str(value)
        case dt.datetime():
            return value.isoformat(timespec="milliseconds") + "Z"
        case bytes():
            return base64.b64encode(value).decode()
    return json.loads(json.dumps(value))


def _until(timeout_s: float, what: str) -> Iterator[None]:
    """Repeat for at most ``timeout_s``; the caller breaks out when done."""
    deadline_s = time.monotonic() + timeout_s
    while time.monotonic() < deadline_s:
        yield
    raise DocdbStreamError(f"waited {timeout_s:.0f} s in vain for {what}")
