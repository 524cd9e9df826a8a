"""What the client libraries do by themselves with payloads that were rendered beforehand: at best, and at worst.

At best: requests as large as the service takes, by the library that our target uses, with the same configuration and as
many side by side. It keeps no order, retries nothing and reads nothing: what remains is the price of the library and of
the server. At worst: one call for each event.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, closing, contextmanager
from typing import Any

import boto3
import orjson
from bson.raw_bson import RawBSONDocument
from pymongo import MongoClient
from pymongo.collection import Collection

from bench.rounds import rate_of
from bench.source import BATCH_SIZE, COLLECTION, DB, NAME
from docdb_stream import Settings
from docdb_stream.events import ChangeEvent
from docdb_stream.formats.decoded import field_of
from docdb_stream.targets._aws.client import client
from docdb_stream.targets._aws.messages import REQUEST_MESSAGES, message
from docdb_stream.targets._aws.objects import compressor
from docdb_stream.targets._client import import_client
from docdb_stream.targets._versioned import document_version
from docdb_stream.targets.kinesis import REQUEST_RECORDS

Destination = Mapping[str, Any]
"""The settings that switch the target on."""
Send = Callable[[Sequence[Any]], object]

KINESIS_LANES, SQS_LANES = 4, 8
"""As the targets' ``lanes``."""
FLUSHED_TOGETHER = BATCH_SIZE * int(Settings.model_fields["state_sync_count"].default)
"""Events from one checkpoint to the next, so in one object."""

KAFKA_BATCH_BYTES, KAFKA_LINGER_MS = 512 * 1024, 100
"""As KafkaTarget has them."""
OPENSEARCH_DOCUMENTS = 1000
"""In one request. More are slower: the local server takes 1,900 documents/s in requests of 1,000, 1,700 in requests of
20,000 (10 MB)."""


def best_rate(client_name: str, destination: Destination, payloads: Sequence[Any]) -> float:
    """Events per second of a client at its best, a target's or ``confluent``; making and closing it does not count."""
    with _CLIENTS[client_name](destination) as send:
        return rate_of(len(payloads), lambda: send(payloads))


@contextmanager
def _kinesis(destination: Destination) -> Iterator[Send]:
    stream = destination["kinesis_stream"]
    with closing(client("kinesis", KINESIS_LANES)) as kinesis, ThreadPoolExecutor(KINESIS_LANES) as threads:

        def put(records: Sequence[Any]) -> None:
            _no_failures(kinesis.put_records(StreamName=stream, Records=records)["FailedRecordCount"])

        yield lambda payloads: list(threads.map(put, chunks(payloads, REQUEST_RECORDS)))


@contextmanager
def _sqs(destination: Destination) -> Iterator[Send]:
    queue = destination["sqs_query_url"]
    with closing(client("sqs", SQS_LANES)) as sqs, ThreadPoolExecutor(SQS_LANES) as threads:

        def put(messages: Sequence[Any]) -> None:
            entries = [{**message, "Id": str(number)} for number, message in enumerate(messages)]
            _no_failures(sqs.send_message_batch(QueueUrl=queue, Entries=entries).get("Failed"))

        yield lambda payloads: list(threads.map(put, chunks(payloads, REQUEST_MESSAGES)))


@contextmanager
def _kafka(destination: Destination) -> Iterator[Send]:
    topic = topic_of(destination)
    with closing(kafka_producer(destination, batch_size=KAFKA_BATCH_BYTES, linger_ms=KAFKA_LINGER_MS)) as producer:

        def send(payloads: Sequence[Any]) -> None:
            futures = [producer.send(topic, value, key, headers) for value, key, headers in payloads]
            producer.flush()
            _no_failures(sum(not future.succeeded() for future in futures))

        yield send


@contextmanager
def _confluent(destination: Destination) -> Iterator[Send]:
    from confluent_kafka import Producer

    topic = topic_of(destination)
    # All else is librdkafka's default, as the target has it; the queue is large enough never to wait for room.
    config = {
        "bootstrap.servers": destination["msk_bootstrap_srv"],
        "enable.idempotence": True,
        "queue.buffering.max.messages": 1_000_000,
    }
    producer = Producer(config)
    failures: list[object] = []

    def confirmed(error: object, record: object) -> None:
        if error is not None:
            failures.append(error)

    def send(payloads: Sequence[Any]) -> None:
        for value, key, headers in payloads:
            producer.produce(topic, value, key, headers=headers, on_delivery=confirmed)
            producer.poll(0)
        _no_failures(producer.flush() + len(failures))

    yield send


@contextmanager
def _opensearch(destination: Destination) -> Iterator[Send]:
    from opensearchpy import OpenSearch

    index = index_of(destination)
    path = f"/{index}/_bulk?filter_path=errors"
    headers = {"content-type": "application/x-ndjson"}
    with closing(OpenSearch(destination["elasticsearch_uri"], max_retries=0, timeout=60)) as opensearch:

        def send(payloads: Sequence[Any]) -> None:
            for documents in chunks(payloads, OPENSEARCH_DOCUMENTS):
                body = b"".join(action + source for _, action, source in documents)
                answer = opensearch.transport.perform_request("POST", path, body=body, headers=headers)
                _no_failures(answer["errors"])

        yield send


@contextmanager
def _s3(destination: Destination) -> Iterator[Send]:
    with closing(client("s3", 1)) as s3:

        def send(payloads: Sequence[Any]) -> None:
            for number, lines in enumerate(chunks(payloads, FLUSHED_TOGETHER)):
                gzip = compressor()
                body = gzip.compress(b"".join(lines)) + gzip.flush()
                s3.put_object(Bucket=destination["bucket_name"], Key=f"{number:06}.jsonl.gz", Body=body)

        yield send


@contextmanager
def _mongodb(destination: Destination) -> Iterator[Send]:
    with _mirrored(destination) as collection:

        def send(payloads: Sequence[Any]) -> None:
            for documents in chunks(payloads, BATCH_SIZE):
                collection.insert_many(documents, ordered=False)

        yield send


_CLIENTS: dict[str, Callable[[Destination], AbstractContextManager[Send]]] = {
    "kinesis": _kinesis,
    "sqs": _sqs,
    "kafka": _kafka,
    "confluent": _confluent,
    "opensearch": _opensearch,
    "s3": _s3,
    "mongodb": _mongodb,
}


def kafka_producer(destination: Destination, **config: Any) -> Any:
    """An idempotent producer of kafka-python that waits for all replicas, as KafkaTarget has it."""
    kafka = import_client("kafka", "kafka", "kafka")
    return kafka.KafkaProducer(
        bootstrap_servers=destination["msk_bootstrap_srv"], enable_idempotence=True, acks="all", **config
    )


def topic_of(destination: Destination) -> str:
    return f"{destination['kafka_topic_prefix']}{NAME}"


def index_of(destination: Destination) -> str:
    return f"{destination['opensearch_index_prefix']}{NAME}"


@contextmanager
def _mirrored(destination: Destination) -> Iterator[Collection[RawBSONDocument]]:
    """Where the documents go, without a version of each and without transactions."""
    database = destination["mongodb_target_namespace"].partition(".")[0].format(db=DB)
    uri = destination["mongodb_target_uri"]
    with closing(MongoClient(uri, document_class=RawBSONDocument, w="majority")) as mongo:
        yield mongo[database][COLLECTION]


def _no_failures(failures: object) -> None:
    if failures:
        raise RuntimeError(f"the bare client lost events: {failures}")


# One call for each event

Call = Callable[[Any], object]


def one_call_rate(target: str, destination: Destination, payloads: Sequence[Any]) -> float:
    """Events per second with one call for each event, as the AWS sample does it, by a client that is made already."""
    with _CALLS[target](destination) as call:
        call(payloads[0])  # connects
        rest = payloads[1:]

        def send() -> None:
            for payload in rest:
                call(payload)

        return rate_of(len(rest), send)


@contextmanager
def _one_kinesis(destination: Destination) -> Iterator[Call]:
    with closing(boto3.client("kinesis")) as kinesis:
        yield lambda record: kinesis.put_record(StreamName=destination["kinesis_stream"], **record)


@contextmanager
def _one_sqs(destination: Destination) -> Iterator[Call]:
    with closing(boto3.client("sqs")) as sqs:
        yield lambda message: sqs.send_message(QueueUrl=destination["sqs_query_url"], **message)


@contextmanager
def _one_kafka(destination: Destination) -> Iterator[Call]:
    topic = topic_of(destination)
    with closing(kafka_producer(destination)) as producer:
        yield lambda record: producer.send(topic, *record).get(60)


@contextmanager
def _one_opensearch(destination: Destination) -> Iterator[Call]:
    from opensearchpy import OpenSearch

    index = index_of(destination)
    with closing(OpenSearch(destination["elasticsearch_uri"])) as opensearch:
        yield lambda document: opensearch.index(index=index, id=document[0], body=document[2])


@contextmanager
def _one_s3(destination: Destination) -> Iterator[Call]:
    numbers = iter(range(1_000_000))
    with closing(boto3.client("s3")) as s3:
        yield lambda line: s3.put_object(Bucket=destination["bucket_name"], Key=f"{next(numbers)}.json", Body=line)


@contextmanager
def _one_mongodb(destination: Destination) -> Iterator[Call]:
    with _mirrored(destination) as collection:
        yield collection.insert_one


_CALLS: dict[str, Callable[[Destination], AbstractContextManager[Call]]] = {
    "kinesis": _one_kinesis,
    "sqs": _one_sqs,
    "kafka": _one_kafka,
    "opensearch": _one_opensearch,
    "s3": _one_s3,
    "mongodb": _one_mongodb,
}


# What the targets send for some events


def kinesis_records(events: Sequence[ChangeEvent]) -> list[dict[str, Any]]:
    return [{"Data": event.render("extended"), "PartitionKey": _key(event)} for event in events]


def sqs_messages(events: Sequence[ChangeEvent]) -> list[dict[str, Any]]:
    """The messages of a FIFO queue, without the ids that they have within a request."""
    return [message(event, event.render("extended"), "MessageBody", _key(event)).entry for event in events]


def kafka_records(events: Sequence[ChangeEvent]) -> list[tuple[bytes, bytes, list[tuple[str, bytes]]]]:
    """Value, key and headers of each record."""
    return [(event.render("extended"), (event.key or "").encode(), _headers(event)) for event in events]


def opensearch_documents(events: Sequence[ChangeEvent]) -> list[tuple[str, bytes, bytes]]:
    """Id, action line and source line of each document."""
    found = []
    for event in events:
        source = orjson.loads(event.render("plain"))
        document_id = str(source.pop("_id"))
        version = document_version(event.cluster_time)
        action = {"index": {"_id": document_id, "version": version, "version_type": "external_gte"}}
        found.append((document_id, orjson.dumps(action) + b"\n", orjson.dumps(source) + b"\n"))
    return found


def lines(events: Sequence[ChangeEvent]) -> list[bytes]:
    return [event.render("extended") + b"\n" for event in events]


def documents(events: Sequence[ChangeEvent]) -> list[RawBSONDocument]:
    return [RawBSONDocument(field_of(event.raw or b"", "fullDocument") or b"") for event in events]


def _key(event: ChangeEvent) -> str:
    return f"{event.namespace}/{event.key}"


def _headers(event: ChangeEvent) -> list[tuple[str, bytes]]:
    time = event.cluster_time
    return [
        ("event_id", event.event_id.encode()),
        ("operation", event.operation.encode()),
        ("cluster_time", b"%d.%d" % (time.time, time.inc)),
        ("namespace", str(event.namespace).encode()),
    ]


PAYLOADS: dict[str, Callable[[Sequence[ChangeEvent]], list[Any]]] = {
    "kinesis": kinesis_records,
    "sqs": sqs_messages,
    "kafka": kafka_records,
    "opensearch": opensearch_documents,
    "s3": lines,
    "mongodb": documents,
}
"""Target -> what it sends for some events, one item for each."""


def chunks(items: Sequence[Any], size: int) -> Iterable[Sequence[Any]]:
    return (items[start : start + size] for start in range(0, len(items), size))
