"""The messages of SQS and SNS, which differ in nothing but the name of their body."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import Any, Literal

from docdb_stream.events import ChangeEvent
from docdb_stream.targets._aws.sender import Record, Refusal, xml_text

REQUEST_MESSAGES = 10
"""API references of Amazon SQS, SendMessageBatch, and Amazon SNS, PublishBatch."""

# The same, SendMessage and Publish: MessageGroupId and MessageDeduplicationId hold up to 128 alphanumeric and
# punctuation characters, which is ASCII without space and controls.
_ID = re.compile(r"[!-~]{1,128}")


def message(
    event: ChangeEvent,
    payload: bytes,
    body_name: Literal["Message", "MessageBody"],
    group: str | None,
    once: str | None = None,
) -> Record:
    """An event as an entry of a request.

    The message attributes ``event_id``, ``operation`` and, where there is one, ``namespace`` say which event it is;
    characters that XML has not are in them as JSON escapes them.
    In a FIFO queue or topic, MessageDeduplicationId is the event_id, so that an event sent again within five minutes
    arrives once. What does not fit an id is sent as its SHA-256.

    Args:
        event: The event.
        payload: Its bytes.
        body_name: What the service calls the body.
        group: FIFO: what shares an order. None: nothing does.
        once: FIFO: by what the event is told to have been sent before. None: by its id.
    """
    event_id = event.event_id
    # Amazon SQS and SNS API references, MessageAttributeValue: as a body, and not empty.
    given = {"event_id": event_id, "operation": event.operation, "namespace": str(event.namespace)}
    texts = {name: xml_text(text) for name, text in given.items() if text}
    body = _without_noncharacters(payload)
    entry: dict[str, Any] = {
        body_name: body.decode(),
        "MessageAttributes": {name: {"DataType": "String", "StringValue": text} for name, text in texts.items()},
    }
    if group is None:
        key = event_id  # each message is on its own
    else:
        entry["MessageGroupId"] = key = _id(group)
        entry["MessageDeduplicationId"] = _id(once or event_id)
    # Developer guides of SQS, "Amazon SQS message quotas", and SNS, "Amazon SNS message attributes": name, type and
    # value of each attribute count.
    size_bytes = len(body) + sum(len(name) + len("String") + len(text.encode()) for name, text in texts.items())
    return Record(event, key, size_bytes, entry)


def numbered(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The entries of a request, with their places in it as their ids."""
    for number, entry in enumerate(entries):
        entry["Id"] = str(number)
    return entries


def failed(answer: Mapping[str, Any]) -> list[Refusal]:
    """The refusals in the answer to a request whose entries are ``numbered``."""
    return [Refusal(int(one["Id"]), one["Code"], one["SenderFault"]) for one in answer.get("Failed", ())]


def _id(text: str) -> str:
    return text if _ID.fullmatch(text) else hashlib.sha256(text.encode()).hexdigest()


def _without_noncharacters(json_text: bytes) -> bytes:
    r"""UTF-8 in which U+FFFE and U+FFFF are written ``\ufffe`` and ``\uffff``.

    Amazon SQS API reference, SendMessageBatch: a body holds what XML 1.0 allows (and SNS delivers to SQS). Of the rest,
    JSON has the controls escaped already, and UTF-8 has no surrogates.
    """
    if b"\xef\xbf" not in json_text:
        return json_text
    return json_text.replace(b"\xef\xbf\xbe", rb"\ufffe").replace(b"\xef\xbf\xbf", rb"\uffff")
