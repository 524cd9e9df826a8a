"""Where the targets deliver to: a new, empty destination for each measurement, on servers of their own.

New ones because the local servers get slower the more a stream, queue or topic holds. Each AWS service has a server to
itself, as at AWS; else the slowest of them would pace the others.
"""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Iterator
from typing import Any, Self

from bench.source import NAME
from docdb_stream.local import AwsServer, KafkaBroker, OpenSearchServer, ReplicaSet
from docdb_stream.targets._client import import_client

TARGETS = ("kinesis", "sqs", "kafka", "opensearch", "s3")
"""The five that are measured together, too."""
MIRROR = "mongodb"
_AWS = ("kinesis", "sqs", "s3")
_PARTITIONS = 4
_numbers = itertools.count(1)


class Servers:
    """The servers of some targets, running within the block; this process's boto3 finds them.

    Args:
        targets: Which; the five by default.
        fifo: Whether queues are FIFO queues.
        searchable: Whether indexes take up every field, as they do by default; if not, they only keep the documents.
    """

    def __init__(self, *targets: str, fifo: bool = True, searchable: bool = True) -> None:
        self._targets = targets or TARGETS
        self._fifo = fifo
        self._searchable = searchable
        self._running = contextlib.ExitStack()

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as started:
            self.environment: dict[str, str] = {}
            self._aws: dict[str, Any] = {}
            for service in _AWS:
                if service in self._targets:
                    server = started.enter_context(AwsServer())
                    self.environment |= server.environment()
                    self.environment[f"AWS_ENDPOINT_URL_{service.upper()}"] = server.endpoint_url
                    self._aws[service] = server.client(service)
            if "kafka" in self._targets:
                self._kafka = started.enter_context(KafkaBroker())
            if "opensearch" in self._targets:
                self._opensearch = started.enter_context(OpenSearchServer())
            if MIRROR in self._targets:
                self._mirror = started.enter_context(ReplicaSet())
            started.enter_context(_environment(self.environment))
            self._running = started.pop_all()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._running.close()

    @contextlib.contextmanager
    def new(self, *targets: str) -> Iterator[dict[str, Any]]:
        """Empty destinations for these targets, all by default, gone again after the block.

        Yields:
            The settings that switch the targets on.
        """
        with contextlib.ExitStack() as stack:
            settings: dict[str, Any] = {}
            for target in targets or self._targets:
                settings |= stack.enter_context(getattr(self, f"_new_{target}")(f"bench-{next(_numbers)}"))
            yield settings

    @contextlib.contextmanager
    def _new_kinesis(self, name: str) -> Iterator[dict[str, Any]]:
        kinesis = self._aws["kinesis"]
        kinesis.create_stream(StreamName=name, ShardCount=_PARTITIONS)
        kinesis.get_waiter("stream_exists").wait(StreamName=name, WaiterConfig={"Delay": 1})
        yield {"kinesis_stream": name}
        kinesis.delete_stream(StreamName=name)

    @contextlib.contextmanager
    def _new_sqs(self, name: str) -> Iterator[dict[str, Any]]:
        sqs = self._aws["sqs"]
        if self._fifo:
            # High throughput, as a queue of many events is set up.
            high = {"DeduplicationScope": "messageGroup", "FifoThroughputLimit": "perMessageGroupId"}
            url = sqs.create_queue(QueueName=f"{name}.fifo", Attributes={"FifoQueue": "true", **high})["QueueUrl"]
        else:
            url = sqs.create_queue(QueueName=name)["QueueUrl"]
        yield {"sqs_query_url": url}
        sqs.delete_queue(QueueUrl=url)

    @contextlib.contextmanager
    def _new_kafka(self, name: str) -> Iterator[dict[str, Any]]:
        import_client("kafka", "kafka", "kafka")
        from kafka.admin import KafkaAdminClient, NewTopic

        with contextlib.closing(KafkaAdminClient(bootstrap_servers=self._kafka.bootstrap_servers)) as admin:
            admin.create_topics([NewTopic(f"{name}-{NAME}", _PARTITIONS, 1)])
        yield {"msk_bootstrap_srv": self._kafka.bootstrap_servers, "kafka_topic_prefix": f"{name}-"}

    @contextlib.contextmanager
    def _new_opensearch(self, name: str) -> Iterator[dict[str, Any]]:
        from opensearchpy import OpenSearch

        with OpenSearch(self._opensearch.url) as client:
            if not self._searchable:
                client.indices.create(index=f"{name}-{NAME}", body={"mappings": {"dynamic": False}})
            yield {"elasticsearch_uri": self._opensearch.url, "opensearch_index_prefix": f"{name}-"}
            client.indices.delete(index=f"{name}-*", ignore_unavailable=True)

    @contextlib.contextmanager
    def _new_mongodb(self, name: str) -> Iterator[dict[str, Any]]:
        yield {
            "mongodb_target_uri": self._mirror.uri,
            "mongodb_target_namespace": f"{name}_{{db}}.{{coll}}",
            "mongodb_target_state": f"{name}_state.state",
        }
        with self._mirror.client() as client:
            for database in client.list_database_names():
                if database.startswith(f"{name}_"):
                    client.drop_database(database)

    @contextlib.contextmanager
    def _new_s3(self, name: str) -> Iterator[dict[str, Any]]:
        s3 = self._aws["s3"]
        s3.create_bucket(Bucket=name)
        yield {"bucket_name": name}
        for page in s3.get_paginator("list_objects_v2").paginate(Bucket=name):
            for entry in page.get("Contents", ()):
                s3.delete_object(Bucket=name, Key=entry["Key"])
        s3.delete_bucket(Bucket=name)


@contextlib.contextmanager
def _environment(variables: dict[str, str]) -> Iterator[None]:
    before = dict(os.environ)
    os.environ.update(variables)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
