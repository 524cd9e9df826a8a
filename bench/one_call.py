"""One call for each event, as the AWS sample does it: what someone has who writes the loop by hand.

In its favour: the payloads are rendered beforehand, the client is made already, and nothing is read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from typing import Any

import boto3

from bench.bare import Place, index_of, kafka_producer, topic_of
from bench.rounds import rate_of

Call = Callable[[Any], object]


def rate(target: str, place: Place, payloads: Sequence[Any]) -> float:
    """Events per second."""
    with _CALLS[target](place) as call:
        call(payloads[0])  # connects
        rest = payloads[1:]

        def send() -> None:
            for payload in rest:
                call(payload)

        return rate_of(len(rest), send)


@contextmanager
def _kinesis(place: Place) -> Iterator[Call]:
    with closing(boto3.client("kinesis")) as kinesis:
        yield lambda record: kinesis.put_record(StreamName=place["kinesis_stream"], **record)


@contextmanager
def _sqs(place: Place) -> Iterator[Call]:
    with closing(boto3.client("sqs")) as sqs:
        yield lambda message: sqs.send_message(QueueUrl=place["sqs_query_url"], **message)


@contextmanager
def _kafka(place: Place) -> Iterator[Call]:
    topic = topic_of(place)
    with closing(kafka_producer(place)) as producer:
        yield lambda record: producer.send(topic, *record).get(60)


@contextmanager
def _opensearch(place: Place) -> Iterator[Call]:
    from opensearchpy import OpenSearch

    index = index_of(place)
    with closing(OpenSearch(place["elasticsearch_uri"])) as opensearch:
        yield lambda document: opensearch.index(index=index, id=document[0], body=document[2])


@contextmanager
def _s3(place: Place) -> Iterator[Call]:
    numbers = iter(range(1_000_000))
    with closing(boto3.client("s3")) as s3:
        yield lambda line: s3.put_object(Bucket=place["bucket_name"], Key=f"{next(numbers)}.json", Body=line)


_CALLS: dict[str, Callable[[Place], AbstractContextManager[Call]]] = {
    "kinesis": _kinesis,
    "sqs": _sqs,
    "kafka": _kafka,
    "opensearch": _opensearch,
    "s3": _s3,
}
