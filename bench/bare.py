"""What the client libraries can do at best: payloads rendered beforehand, in requests as large as the service takes.

Each sends what our target sends, by the same library with the same configuration and as many requests side by side.
It keeps no order, retries nothing and reads nothing: what remains is the price of the library and of the server.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, closing, contextmanager
from typing import Any

from bench.payloads import chunks
from bench.rounds import rate_of
from bench.source import BATCH_SIZE, NAME
from docdb_stream import Settings
from docdb_stream.targets import s3 as s3_target
from docdb_stream.targets._aws.client import client
from docdb_stream.targets._aws.messages import REQUEST_MESSAGES
from docdb_stream.targets._client import import_client
from docdb_stream.targets.kinesis import REQUEST_RECORDS

Place = Mapping[str, Any]
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


def rate(client_name: str, place: Place, payloads: Sequence[Any]) -> float:
    """Events per second of a client; making and closing it does not count.

    Args:
        client_name: A target's name, or ``confluent``.
        place: Where to send.
        payloads: What to send; see ``payloads``.
    """
    with _CLIENTS[client_name](place) as send:
        return rate_of(len(payloads), lambda: send(payloads))


@contextmanager
def _kinesis(place: Place) -> Iterator[Send]:
    stream = place["kinesis_stream"]
    with closing(client("kinesis", KINESIS_LANES)) as kinesis, ThreadPoolExecutor(KINESIS_LANES) as threads:

        def put(records: Sequence[Any]) -> None:
            _no_failures(kinesis.put_records(StreamName=stream, Records=records)["FailedRecordCount"])

        yield lambda payloads: list(threads.map(put, chunks(payloads, REQUEST_RECORDS)))


@contextmanager
def _sqs(place: Place) -> Iterator[Send]:
    queue = place["sqs_query_url"]
    with closing(client("sqs", SQS_LANES)) as sqs, ThreadPoolExecutor(SQS_LANES) as threads:

        def put(messages: Sequence[Any]) -> None:
            entries = [{**message, "Id": str(number)} for number, message in enumerate(messages)]
            _no_failures(sqs.send_message_batch(QueueUrl=queue, Entries=entries).get("Failed"))

        yield lambda payloads: list(threads.map(put, chunks(payloads, REQUEST_MESSAGES)))


@contextmanager
def _kafka(place: Place) -> Iterator[Send]:
    topic = topic_of(place)
    with closing(kafka_producer(place, batch_size=KAFKA_BATCH_BYTES, linger_ms=KAFKA_LINGER_MS)) as producer:

        def send(payloads: Sequence[Any]) -> None:
            futures = [producer.send(topic, value, key, headers) for value, key, headers in payloads]
            producer.flush()
            _no_failures(sum(not future.succeeded() for future in futures))

        yield send


@contextmanager
def _confluent(place: Place) -> Iterator[Send]:
    from confluent_kafka import Producer

    topic = topic_of(place)
    # All else is librdkafka's default, as the target has it; the queue is large enough never to wait for room.
    config = {
        "bootstrap.servers": place["msk_bootstrap_srv"],
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
def _opensearch(place: Place) -> Iterator[Send]:
    from opensearchpy import OpenSearch

    index = index_of(place)
    path = f"/{index}/_bulk?filter_path=errors"
    headers = {"content-type": "application/x-ndjson"}
    with closing(OpenSearch(place["elasticsearch_uri"], max_retries=0, timeout=60)) as opensearch:

        def send(payloads: Sequence[Any]) -> None:
            for documents in chunks(payloads, OPENSEARCH_DOCUMENTS):
                body = b"".join(action + source for _, action, source in documents)
                answer = opensearch.transport.perform_request("POST", path, body=body, headers=headers)
                _no_failures(answer["errors"])

        yield send


@contextmanager
def _s3(place: Place) -> Iterator[Send]:
    with closing(client("s3", 1)) as s3:

        def send(payloads: Sequence[Any]) -> None:
            for number, lines in enumerate(chunks(payloads, FLUSHED_TOGETHER)):
                compressor = s3_target._compressor()
                body = compressor.compress(b"".join(lines)) + compressor.flush()
                s3.put_object(Bucket=place["bucket_name"], Key=f"{number:06}.jsonl.gz", Body=body)

        yield send


_CLIENTS: dict[str, Callable[[Place], AbstractContextManager[Send]]] = {
    "kinesis": _kinesis,
    "sqs": _sqs,
    "kafka": _kafka,
    "confluent": _confluent,
    "opensearch": _opensearch,
    "s3": _s3,
}


def kafka_producer(place: Place, **config: Any) -> Any:
    """An idempotent producer of kafka-python that waits for all replicas, as KafkaTarget has it."""
    kafka = import_client("kafka", "kafka", "kafka")
    return kafka.KafkaProducer(
        bootstrap_servers=place["msk_bootstrap_srv"], enable_idempotence=True, acks="all", **config
    )


def topic_of(place: Place) -> str:
    """The topic that KafkaTarget writes to."""
    return f"{place['kafka_topic_prefix']}{NAME}"


def index_of(place: Place) -> str:
    """The index that OpenSearchTarget writes to."""
    return f"{place['opensearch_index_prefix']}{NAME}"


def _no_failures(failures: object) -> None:
    if failures:
        raise RuntimeError(f"the bare client lost events: {failures}")
