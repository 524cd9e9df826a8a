"""Whatever a collection and a key are called, AWS takes what is made of them."""

from __future__ import annotations

import itertools
import re
from typing import Any

import pytest

from docdb_stream.events import ChangeEvent
from docdb_stream.settings import Settings
from docdb_stream.targets._aws.sender import Record
from docdb_stream.targets._aws.target import BatchTarget
from docdb_stream.targets.eventbridge import EventBridgeTarget
from docdb_stream.targets.kinesis import KinesisTarget
from docdb_stream.targets.s3 import S3Target, object_key
from docdb_stream.targets.sns import SnsTarget
from docdb_stream.targets.sqs import SqsTarget
from docdb_stream.testing.events import ChangeLog

# Amazon SQS API reference, SendMessage: #x9 | #xA | #xD | #x20 to #xD7FF | #xE000 to #xFFFD | #x10000 to #x10FFFF.
ALLOWED = re.compile("[\\t\\n\\r\\x20-\\ud7ff\\ue000-\\ufffd\\U00010000-\\U0010ffff]+")
CONTROLS = "".join(map(chr, range(1, 32))) + "\x7f\x80\x9f\ufffd\ufffe\uffff\U0001fffe\U0010ffff"
COLLECTIONS = {
    "controls": CONTROLS,
    "a_control_alone": "\x01",
    "punctuation": "!\"#%&'()*+,-./:;<=>?@[\\]^_`{|}~ ",
    "percent": "%2a",
    "long": "x" * 190,
    "long_and_quoted": "\u8868" * 63,
    "long_and_astral": "\U0001f600" * 48,
    "combining": "e\u0301\u202e\u2028",
}
IDS: dict[str, Any] = {
    "number": 1,
    "controls": CONTROLS + "\x00",
    "long": "k" * 4_000,
    "astral": "\U0001f600" * 110,  # less than 256 characters, more than 256 of UTF-16
    "document": {CONTROLS: {"": CONTROLS}},
}


EVENTS = [
    ChangeLog("d" * 63, coll).insert({"_id": id_, CONTROLS: CONTROLS})
    for coll in COLLECTIONS.values()
    for id_ in IDS.values()
]


def record(target: BatchTarget, event: ChangeEvent, payload_format: Any) -> Record:
    return target._record(event, event.render(payload_format), event.ordering_key)


def assert_is_taken(text: str, limit: int = 1 << 20) -> None:
    assert ALLOWED.fullmatch(text), text
    assert len(text.encode("utf-16-le")) // 2 <= limit


@pytest.mark.parametrize("payload_format", ["extended", "document"])
@pytest.mark.parametrize("suffix", ["", ".fifo"])
def test_messages(payload_format: Any, suffix: str) -> None:
    queue = SqsTarget(f"https://sqs.eu-central-1.amazonaws.com/1/orders{suffix}")
    by_collection = SqsTarget("https://sqs.eu-central-1.amazonaws.com/1/orders.fifo", message_group="collection")
    topic = SnsTarget(f"arn:aws:sns:eu-central-1:1:orders{suffix}")
    for target, event in itertools.product((queue, by_collection, topic), EVENTS):
        entry = record(target, event, payload_format).entry
        assert_is_taken(entry["Message" if target is topic else "MessageBody"])
        attributes = entry["MessageAttributes"]
        assert attributes.keys() == {"event_id", "operation", "namespace"}
        for attribute in attributes.values():
            assert_is_taken(attribute["StringValue"])
        for name in {"MessageGroupId", "MessageDeduplicationId"} & entry.keys():
            assert re.fullmatch("[!-~]{1,128}", entry[name])


def test_an_event_without_namespace_has_no_empty_attribute() -> None:
    target = SqsTarget("https://sqs.eu-central-1.amazonaws.com/1/orders")
    entry = record(target, ChangeLog().invalidate(), "extended").entry
    assert entry["MessageAttributes"].keys() == {"event_id", "operation"}


def test_different_names_stay_different() -> None:
    target = SqsTarget("https://sqs.eu-central-1.amazonaws.com/1/orders")
    events = [ChangeLog("shop", coll).insert({"_id": 1}) for coll in COLLECTIONS.values()]
    found = [record(target, event, "extended").entry["MessageAttributes"]["namespace"] for event in events]
    assert len({attribute["StringValue"] for attribute in found}) == len(COLLECTIONS)


@pytest.mark.parametrize("payload_format", ["extended", "document"])
def test_entries_of_eventbridge(payload_format: Any) -> None:
    target = EventBridgeTarget("bus")
    for event in EVENTS:
        entry = record(target, event, payload_format).entry
        for text in (entry["DetailType"], entry["Source"], *entry["Resources"]):
            assert_is_taken(text)


def test_partition_keys() -> None:
    target = KinesisTarget("stream")
    keys = [record(target, event, "extended").entry["PartitionKey"] for event in EVENTS]
    assert all(1 <= len(key.encode("utf-16-le")) // 2 <= 256 for key in keys)
    assert len(set(keys)) == len(EVENTS)


@pytest.mark.parametrize("path", ["", "raw/events", "p" * 400])
def test_object_keys(path: str) -> None:
    target = S3Target.from_settings(Settings(documentdb_uri="mongodb://x", bucket_name="b", bucket_path=path))
    assert target is not None
    target.write(EVENTS)
    keys = [made.content.key for made in target._uploads._uploads.values()]
    target.close()
    assert len(set(keys)) == len(COLLECTIONS)
    for key in keys:
        assert len(key.encode()) <= 1024
        assert key.isascii()
        assert key.isprintable()
        assert key.endswith(".jsonl.gz")


def test_object_keys_that_are_cut_stay_different() -> None:
    keys = {object_key(ChangeLog("shop", "\u8868" * 80 + end).insert({"_id": 1}), "p" * 400) for end in "ab"}
    assert len(keys) == 2
