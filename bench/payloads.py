"""What the targets send for some events, rendered beforehand, for clients that do nothing but send."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import orjson

from docdb_stream.events import ChangeEvent
from docdb_stream.targets._aws.messages import message
from docdb_stream.targets._opensearch.names import document_version


def kinesis_records(events: Sequence[ChangeEvent]) -> list[dict[str, Any]]:
    """The records of a PutRecords request."""
    return [{"Data": event.extended_json(), "PartitionKey": _key(event)} for event in events]


def sqs_messages(events: Sequence[ChangeEvent]) -> list[dict[str, Any]]:
    """The messages of a FIFO queue, without the ids that they have within a request."""
    return [message(event, event.extended_json(), "MessageBody", _key(event)).entry for event in events]


def kafka_records(events: Sequence[ChangeEvent]) -> list[tuple[bytes, bytes, list[tuple[str, bytes]]]]:
    """Value, key and headers of each record."""
    return [(event.extended_json(), (event.key or "").encode(), _headers(event)) for event in events]


def opensearch_documents(events: Sequence[ChangeEvent]) -> list[tuple[str, bytes, bytes]]:
    """Id, action line and source line of each document."""
    found = []
    for event in events:
        source = orjson.loads(event.full_document_json() or b"{}")
        document_id = str(source.pop("_id"))
        version = document_version(event.cluster_time)
        action = {"index": {"_id": document_id, "version": version, "version_type": "external_gte"}}
        found.append((document_id, orjson.dumps(action) + b"\n", orjson.dumps(source) + b"\n"))
    return found


def lines(events: Sequence[ChangeEvent]) -> list[bytes]:
    """JSON Lines."""
    return [event.extended_json() + b"\n" for event in events]


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
}
"""Target -> what it sends for some events, one item for each."""


def chunks(items: Sequence[Any], size: int) -> Iterable[Sequence[Any]]:
    """The items, ``size`` at a time."""
    return (items[start : start + size] for start in range(0, len(items), size))
