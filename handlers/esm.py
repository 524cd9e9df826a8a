"""The Lambda behind a DocumentDB event source mapping: Lambda reads the change stream, this delivers.

Set ``docdb_stream.handlers.esm.handler`` as the function's handler and the targets as its environment. Lambda keeps the
position, so there is no checkpoint of ours; all else (steps, targets, payloads, dead letters) is as with the poller.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bson.errors import BSONError

from docdb_stream.errors import ConfigError
from docdb_stream.events import Events
from docdb_stream.formats.reader import to_bson
from docdb_stream.handlers._push import push


def handler(event: object, context: Any) -> dict[str, Any]:
    """Deliver one batch of 1 to 10,000 events to every target.

    Returns:
        ``stream``, ``events`` and ``rejections``, once everything is durable; ``filtered`` where steps left events out.

    Raises:
        DocdbStreamError: Something is not durable. Lambda sends the whole batch again: from DocumentDB it takes no
            answer that names a part of it.
    """
    pushed = push(lambda: _events(event), context)
    if pushed.error is not None:
        raise pushed.error
    return pushed.as_dict()


def _events(event: object) -> Events:
    """The change events of the payload, as if the server had sent them to us.

    Raises:
        ConfigError: The payload is another one's.
    """
    if not isinstance(event, Mapping) or event.get("eventSource") != "aws:docdb":
        source = event.get("eventSource", "nobody known") if isinstance(event, Mapping) else type(event).__name__
        raise ConfigError(
            f"this function delivers what a DocumentDB event source mapping sends, and was started by {source}",
            hint="for a schedule set the handler docdb_stream.handlers.poller.handler",
        )
    try:
        return Events.of([_raw(each["event"]) for each in event["events"]])
    except (KeyError, TypeError, ValueError, ArithmeticError, BSONError) as error:
        raise ConfigError(
            f"the event source mapping's payload cannot be read: {type(error).__name__}",
            hint='expected {"events": [{"event": {change event as Extended JSON}}]}',
        ) from error


def _raw(value: Mapping[str, Any]) -> bytes:
    if not isinstance(value["_id"], Mapping) or not isinstance(value["operationType"], str):
        raise ValueError("no change event")
    return to_bson(value)
