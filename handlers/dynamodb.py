"""The Lambda behind a DynamoDB Streams event source mapping: Lambda reads a table's stream, this delivers.

Set ``docdb_stream.handlers.dynamodb.handler`` as the function's handler, the targets as its environment, and
``ReportBatchItemFailures`` in the mapping. All else (steps, targets, payloads, dead letters) is as with the poller; see
docs/dynamodb-streams.md.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import bson
from bson.errors import BSONError

from docdb_stream.errors import ConfigError
from docdb_stream.events import ChangeEvent, Events, Rejection
from docdb_stream.handlers._dynamodb_record import all_are_records, change_event, parts_known, sequence_of
from docdb_stream.handlers._push import push
from docdb_stream.settings.cluster import TABLES_DATABASE
from docdb_stream.source import SOURCE


def handler(event: object, context: Any) -> dict[str, Any]:
    """Deliver one batch of up to 10,000 records to every target.

    Returns:
        ``batchItemFailures``: the lowest sequence number of what is not durable, if there is any, from which Lambda
        sends again; beside it ``stream``, ``events`` and ``rejections``.

    Raises:
        DocdbStreamError: Nothing is durable. Lambda sends the whole batch again.
    """
    records = _records(event)
    pushed = push(lambda: _events(records), context, in_parts=True, ordered=False, watched_db_name=TABLES_DATABASE)
    failures = []
    if pushed.error is not None and pushed.settled < len(records):
        left = [number for each in records[pushed.settled :] if (number := sequence_of(each)) is not None]
        if not pushed.settled or not left:
            raise pushed.error
        failures = [{"itemIdentifier": min(left, key=int)}]
    return {**pushed.as_dict(), "batchItemFailures": failures}


def _records(event: object) -> Sequence[Mapping[str, Any]]:
    records = event.get("Records") if isinstance(event, Mapping) else None
    if not isinstance(records, list) or not all_are_records(records):
        raise ConfigError(
            "this function delivers what a DynamoDB Streams event source mapping sends, and was started by another",
            hint="for a schedule set the handler docdb_stream.handlers.poller.handler, for DocumentDB that of esm",
        )
    return records


def _events(records: Sequence[Mapping[str, Any]]) -> Sequence[ChangeEvent | Rejection]:
    """The change events of the records, in their order; a rejection for each that cannot be read."""
    found: list[bytes | Rejection] = []
    for record in records:
        try:
            _check_images(record)
            found.append(change_event(record))
        except _UNREADABLE as error:
            reason = f"the record cannot be read as a change: {type(error).__name__}"
            found.append(Rejection(ChangeEvent(bson.encode(parts_known(record))), SOURCE, reason))
    raws = [each for each in found if isinstance(each, bytes)]
    if len(raws) == len(found):
        return Events.of(raws)
    events = iter(Events.of(raws))
    return [each if isinstance(each, Rejection) else next(events) for each in found]


_UNREADABLE = (KeyError, TypeError, ValueError, ArithmeticError, AttributeError, RecursionError, BSONError)


def _check_images(record: Mapping[str, Any]) -> None:
    """Raises ConfigError where the stream has no images of what items are since: targets would take them for gone."""
    wants_none = os.environ.get("FULL_DOCUMENT", "").strip().lower() == "default"
    view = record["dynamodb"].get("StreamViewType")
    if view in ("KEYS_ONLY", "OLD_IMAGE") and not wants_none:
        raise ConfigError(
            f"the table's stream is of {view}: its records do not say what an item is after a change",
            hint="have the table's stream made with NEW_AND_OLD_IMAGES; or set FULL_DOCUMENT = default, for targets "
            "that take changes without their documents",
        )
