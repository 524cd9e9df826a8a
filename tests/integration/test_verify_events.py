"""Comparing logs with the source by the ids of their events, on real local servers."""

from __future__ import annotations

import gzip
import json
import socket
import time
import uuid
from collections.abc import Callable
from typing import Any

import pytest
from integration.test_verify import Stream, count_of
from pymongo import MongoClient

from docdb_stream.admin.reset import reset
from docdb_stream.context import Deadline
from docdb_stream.errors import ConfigError, TargetError
from docdb_stream.local import AwsServer, KafkaBroker, ReplicaSet
from docdb_stream.local.process import wait_until
from docdb_stream.snapshot_event import PREFIX

pytestmark = pytest.mark.integration

Mongo = MongoClient[dict[str, Any]]
Make = Callable[..., Stream]
TARGETS = ("kafka", "kinesis", "s3")


@pytest.fixture
def places(
    aws: AwsServer, aws_environment: dict[str, str], kafka_broker: KafkaBroker
) -> Callable[[str], dict[str, Any]]:
    """Settings that switch a target on, over a place that is made for the test."""
    name = f"v{uuid.uuid4().hex[:8]}"

    def settings_of(target: str) -> dict[str, Any]:
        if target == "kafka":
            return {"msk_bootstrap_srv": kafka_broker.bootstrap_servers, "kafka_topic_prefix": f"{name}-"}
        if target == "kinesis":
            client = aws.client("kinesis")
            client.create_stream(StreamName=name, ShardCount=3)
            client.get_waiter("stream_exists").wait(StreamName=name, WaiterConfig={"Delay": 1, "MaxAttempts": 30})
            return {"kinesis_stream": name}
        aws.client("s3").create_bucket(Bucket=name)
        return {"bucket_name": name, "bucket_path": "changes"}

    return settings_of


@pytest.fixture(params=TARGETS)
def make(request: pytest.FixtureRequest, replica_set: ReplicaSet, mongo: Mongo, db_name: str, places: Any) -> Make:
    return lambda **values: Stream(replica_set.uri, mongo, db_name, **places(request.param), **values)


def begin(stream: Stream) -> None:
    """Run a new stream, and come to the second after: when a stream began is known to the second."""
    stream.run()
    began = stream.mongo.admin.command("ping")["operationTime"]

    def is_over() -> bool:
        stream.mongo[f"{stream.db.name}_ticks"].ticks.insert_one({})
        return bool(stream.mongo.admin.command("ping")["operationTime"].time > began.time)

    wait_until(is_over, "the next second begins", timeout_s=10)


def write(stream: Stream, first: int, count: int = 60) -> None:
    """Events of every operation, over two collections."""
    for coll in ("orders", "others"):
        stream.db[coll].insert_many([{"_id": n, "total": n} for n in range(first, first + count)])
    stream.db.orders.update_many({"_id": {"$gte": first, "$lt": first + 10}}, {"$set": {"seen": True}})
    stream.db.orders.replace_one({"_id": first}, {"total": -1})
    stream.db.others.delete_many({"_id": {"$gte": first, "$lt": first + 5}})


EVENTS = 60 + 60 + 10 + 1 + 5


@pytest.mark.parametrize("payload_format", ["extended", "debezium", "cloudevents"])
def test_each_event_is_there(make: Make, payload_format: str) -> None:
    stream = make(payload_format=payload_format)
    begin(stream)
    write(stream, 0)
    stream.run()
    result = stream.verify()
    assert (count_of(result), result.documents, result.again, result.is_equal) == ({}, EVENTS, 0, True)
    assert result.verified_through is not None


def test_what_was_passed_over_is_missing(make: Make) -> None:
    stream = make()
    begin(stream)
    write(stream, 0)
    stream.run()
    stream.db.orders.insert_many([{"_id": f"lost{n}"} for n in range(3)])
    reset(stream.settings, to="now")
    write(stream, 100)
    stream.run()
    result = stream.verify()
    assert (count_of(result), result.is_equal, result.verified_through) == ({"missing": 3}, False, None)
    assert len(result.examples["missing"]) == 3
    done = stream.command("verify", stream.settings.stream_name, "--json")
    assert (done.exit_code, json.loads(done.stdout)["equal"]) == (7, False)
    shown = stream.command("verify", stream.settings.stream_name, "-v")
    assert (shown.exit_code, "events" in shown.output, shown.output.count("missing: ")) == (7, True, 3)


def test_what_comes_again_is_no_difference(make: Make) -> None:
    stream = make()
    begin(stream)
    write(stream, 0)
    stream.run()
    reset(stream.settings, to="earliest")
    stream.run()
    result = stream.verify()
    assert (count_of(result), result.documents, result.is_equal) == ({}, EVENTS, True)
    if "BUCKET_NAME" in stream.environment:  # where the same objects are written again
        assert result.again <= EVENTS
    else:
        assert result.again == EVENTS


def test_steps_say_what_is_to_be_there(make: Make) -> None:
    stream = make(operations=["insert", "delete"], fields_drop=["total"], namespaces=[])
    begin(stream)
    write(stream, 0)
    stream.run()
    result = stream.verify()
    assert (count_of(result), result.documents) == ({}, 125)


def test_an_update_that_is_judged_by_its_document_today_may_be_missing(make: Make) -> None:
    stream = make(match='{"fullDocument.total": {"$gte": 100}}')
    begin(stream)
    stream.db.orders.insert_many([{"_id": n, "total": 50} for n in range(4)])
    stream.db.orders.update_one({"_id": 0}, {"$set": {"seen": 1}})  # not delivered
    stream.db.orders.insert_one({"_id": 9, "total": 500})
    stream.run()
    stream.db.orders.update_many({}, {"$set": {"total": 200}})  # ... and it would be today
    stream.run()
    result = stream.verify()
    assert (count_of(result), result.is_equal) == ({"unsure": 1}, True)


def test_documents_of_a_snapshot_are_no_events_of_the_window(make: Make) -> None:
    stream = make(start_at="snapshot")
    stream.db.orders.insert_many([{"_id": n} for n in range(30)])
    assert stream.run().snapshot_documents == 30
    write(stream, 100)
    stream.run()
    result = stream.verify()
    assert set(count_of(result)) <= {"unsure"}  # of the inserts that were in the second in which the stream began
    assert result.is_equal
    assert not any(PREFIX in key for keys in result.examples.values() for key in keys)


def test_an_object_that_was_changed(
    replica_set: ReplicaSet, mongo: Mongo, db_name: str, places: Any, aws: AwsServer
) -> None:
    """A line less, an object less, an object that is cut."""
    given = places("s3")
    stream, s3 = Stream(replica_set.uri, mongo, db_name, **given), aws.client("s3")
    begin(stream)
    write(stream, 0)
    stream.run()
    bucket = given["bucket_name"]
    keys = sorted(each["Key"] for each in s3.list_objects_v2(Bucket=bucket)["Contents"])
    orders = next(key for key in keys if "/orders/" in key)
    whole = s3.get_object(Bucket=bucket, Key=orders)["Body"].read()
    lines = gzip.decompress(whole).splitlines(keepends=True)
    s3.put_object(Bucket=bucket, Key=orders, Body=gzip.compress(b"".join(lines[1:])))
    assert count_of(stream.verify()) == {"missing": 1}
    s3.put_object(Bucket=bucket, Key=orders, Body=whole[: len(whole) // 2])
    with pytest.raises(TargetError, match="cannot be read: EOFError"):
        stream.verify()
    s3.delete_object(Bucket=bucket, Key=orders)
    assert count_of(stream.verify()) == {"missing": len(lines)}


def test_tombstones_are_their_deletes(replica_set: ReplicaSet, mongo: Mongo, db_name: str, places: Any) -> None:
    stream = Stream(replica_set.uri, mongo, db_name, **places("kafka"), kafka_tombstones=True)
    begin(stream)
    write(stream, 0)
    stream.run()
    result = stream.verify()
    assert (count_of(result), result.again) == ({}, 0)


def test_a_stream_that_runs_within_transactions(
    replica_set: ReplicaSet, mongo: Mongo, db_name: str, places: Any
) -> None:
    """Whose open transaction ends what there is to read."""
    stream = Stream(replica_set.uri, mongo, db_name, **places("kafka"))
    stream.run()
    with stream.running():
        write(stream, 0)
        for _ in range(3):
            assert count_of(stream.verify()) == {}


def test_what_cannot_be_compared_is_said(replica_set: ReplicaSet, mongo: Mongo, db_name: str, places: Any) -> None:
    stream = Stream(replica_set.uri, mongo, db_name, **places("s3"), **places("kafka"), s3_payload_format="document")
    begin(stream)
    write(stream, 0)
    stream.run()
    for values, message in (
        ({"target": "s3"}, "document has no event id"),
        ({"target": "kafka", "repair": True}, "nothing to repair"),
        ({"sample": 5}, "no target of stream"),
    ):
        with pytest.raises(ConfigError, match=message):
            stream.verify(**values)
    assert stream.verify().target == "kafka"  # the other one is passed over
    refused = stream.command("verify", stream.settings.stream_name, "--window", "soon")
    assert (refused.exit_code, "expected a length" in refused.output) == (2, True)


def test_brokers_that_say_nothing(replica_set: ReplicaSet, mongo: Mongo, db_name: str, places: Any) -> None:
    stream = Stream(replica_set.uri, mongo, db_name, **places("kafka"))
    begin(stream)
    write(stream, 0)
    stream.run()
    with socket.create_server(("127.0.0.1", 0)) as silent:  # connections are accepted by the system alone
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        stream = Stream(replica_set.uri, mongo, db_name, msk_bootstrap_srv=address)
        began_s = time.monotonic()
        with pytest.raises(TargetError, match="cannot be read"):
            stream.verify(limit=Deadline.after(4))
        assert time.monotonic() - began_s < 20
