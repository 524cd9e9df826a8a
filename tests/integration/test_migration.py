"""From the AWS sample to docdb-stream: its environment, its state document, its payload."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from bson import Decimal128, Int64, ObjectId, json_util
from pymongo import MongoClient

from docdb_stream.context import Deadline
from docdb_stream.handlers import _runtime
from docdb_stream.handlers import poller as poller_handler
from docdb_stream.local import AwsServer, ReplicaSet

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("aws_environment")]

Mongo = MongoClient[dict[str, Any]]

# The names of the sample's stacks: of 2020, one function per collection, and since October 2020.
ERAS = {
    "2020": {"MAX_LOOP": "60", "STATE_SYNC_COUNT": "15"},
    "since": {"Documents_per_run": "1000", "Iterations_per_sync": "15"},
}


class Context:
    function_name = "docdb-stream"

    def get_remaining_time_in_millis(self) -> int:
        return 60_000


def sample_payload(event: dict[str, Any]) -> dict[str, Any]:
    """The sample's own lines (its lambda_handler), for insert, update and delete."""
    seconds = event["clusterTime"].time
    readable = dt.datetime.fromtimestamp(seconds, dt.UTC).replace(tzinfo=None).isoformat()  # a Lambda's zone is UTC
    metadata = {"operation": event["operationType"], "timestamp": str(seconds), "timestampReadable": readable}
    if event["operationType"] == "delete":
        return {"_id": str(event["documentKey"]["_id"]), **metadata}
    document = dict(event["fullDocument"])
    payload = {"_id": str(document.pop("_id", None))}
    document.update(metadata)
    payload.update(document)
    return payload


def dumped(payload: dict[str, Any]) -> str:
    """As json_util of PyMongo 3.10, which the sample ran on, writes it."""
    return json_util.dumps(payload, json_options=json_util.LEGACY_JSON_OPTIONS)


class Sample:
    """The sample's function: reads change events one by one and leaves its state document."""

    def __init__(self, mongo: Mongo, db_name: str, era: str, coll: str | None) -> None:
        self._watched: Any = mongo[db_name] if coll is None else mongo[db_name][coll]
        self._state = mongo[f"{db_name}_state"].statecol
        self._key: dict[str, Any] = {"dbWatched": db_name}
        if coll is not None:
            self._key["collectionWatched"] = coll
        document = {**self._key, "currentState": True, "lastProcessed": None}
        if era == "since":
            document["db_level"] = coll is None
        self._state.insert_one(document)

    def run(self, count: int) -> list[str]:
        """Deliver ``count`` events and store the token, as the end of a run does; returns the payloads."""
        found = self._state.find_one(self._key)
        assert found is not None
        token = found["lastProcessed"]
        with self._watched.watch(
            full_document="updateLookup", resume_after=token, start_at_operation_time=None
        ) as changes:
            if token is None:
                self._state.update_one(self._key, {"$set": {"lastProcessed": changes.resume_token}})
                return []
            delivered = [dumped(sample_payload(next(changes))) for _ in range(count)]
            self._state.update_one(self._key, {"$set": {"lastProcessed": changes.resume_token}})
        return delivered


@pytest.fixture
def queue(aws: AwsServer, db_name: str) -> Iterator[tuple[Any, str]]:
    client = aws.client("sqs")
    yield client, client.create_queue(QueueName=f"{db_name}.fifo", Attributes={"FifoQueue": "true"})["QueueUrl"]
    client.close()


@pytest.fixture(autouse=True)
def container(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(poller_handler, "_runtime", _runtime.Runtime())
    yield
    poller_handler._runtime.discard(Deadline.after(10))


@pytest.mark.parametrize(("era", "coll"), [("2020", "orders"), ("since", "orders"), ("since", None)])
def test_delivery_goes_on_exactly_where_the_sample_stopped_with_its_payload(
    replica_set: ReplicaSet,
    mongo: Mongo,
    db_name: str,
    queue: tuple[Any, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    era: str,
    coll: str | None,
) -> None:
    client, url = queue
    state = mongo[f"{db_name}_state"].statecol
    sample = Sample(mongo, db_name, era, coll)
    sample.run(0)
    orders = mongo[db_name].orders
    ids = [ObjectId(), ObjectId(), "c"]
    orders.insert_many(
        [
            {"_id": ids[0], "total": 1.5, "at": dt.datetime(2026, 1, 31, 12, 0, 0, 250_000)},
            {"_id": ids[1], "count": Int64(2**40), "price": Decimal128("1.10"), "nested": {"a": [1, None, True]}},
            {"_id": ids[2], "operation": "theirs", "timestamp": 7},
        ]
    )
    orders.update_one({"_id": ids[0]}, {"$set": {"total": 2.5}})
    orders.delete_one({"_id": ids[1]})
    orders.insert_one({"_id": 4, "at": dt.datetime(1960, 1, 1)})
    by_sample = sample.run(3)
    [before] = state.find()
    with mongo[db_name].watch(full_document="updateLookup", resume_after=before["lastProcessed"]) as changes:
        rest = [next(changes) for _ in range(3)]

    environment = {
        "DOCUMENTDB_URI": replica_set.uri,
        "STATE_DB": f"{db_name}_state",
        "STATE_COLLECTION": "statecol",
        "WATCHED_DB_NAME": db_name,
        "SNS_TOPIC_ARN_ALERT": "arn:aws:sns:us-east-1:000000000000:alert",
        "SQS_QUERY_URL": url,
        **ERAS[era],
        **({} if coll is None else {"WATCHED_COLLECTION_NAME": coll}),
        # What is new:
        "PAYLOAD_FORMAT": "document",
        "SQS_MESSAGE_GROUP": "collection",
        "FILE_PATH": str(tmp_path / "changes.jsonl"),
    }
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    result = poller_handler.handler({}, Context())
    assert (result["stream"], result["events"]) == (f"{db_name}.{coll or '*'}", 3)

    lines = (tmp_path / "changes.jsonl").read_text().splitlines()
    assert lines == [dumped(sample_payload(event)) for event in rest]
    assert [json.loads(line)["operation"] for line in [*by_sample, *lines]] == [
        *("insert", "insert", "insert"),
        *("update", "delete", "insert"),
    ]
    messages = client.receive_message(QueueUrl=url, MaxNumberOfMessages=10, AttributeNames=["All"])["Messages"]
    assert [message["Body"] for message in messages] == lines
    assert {message["Attributes"]["MessageGroupId"] for message in messages} == {f"{db_name}-orders"}
    assert [message["Attributes"]["MessageDeduplicationId"] for message in messages] == [
        event["_id"]["_data"] for event in rest
    ]

    assert state.find_one({"_id": before["_id"]}) == before, "the sample's document is only read"
    orders.insert_one({"_id": 5})
    assert poller_handler.handler({}, Context())["events"] == 1, "from then on by our own checkpoint"


def test_the_sample_can_go_on_if_the_switch_is_undone(
    replica_set: ReplicaSet, mongo: Mongo, db_name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its state document is where it was, so it delivers again what docdb-stream has delivered since."""
    sample = Sample(mongo, db_name, "since", "orders")
    sample.run(0)
    orders = mongo[db_name].orders
    orders.insert_many([{"_id": number} for number in range(4)])
    sample.run(2)
    for name, value in {
        "DOCUMENTDB_URI": replica_set.uri,
        "STATE_DB": f"{db_name}_state",
        "STATE_COLLECTION": "statecol",
        "WATCHED_DB_NAME": db_name,
        "WATCHED_COLLECTION_NAME": "orders",
        "PAYLOAD_FORMAT": "document",
        "FILE_PATH": str(tmp_path / "changes.jsonl"),
    }.items():
        monkeypatch.setenv(name, value)
    assert poller_handler.handler({}, Context())["events"] == 2
    assert sample.run(2) == (tmp_path / "changes.jsonl").read_text().splitlines()
