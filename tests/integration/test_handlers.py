"""The Lambda handlers against a real replica set and a local AWS account."""

from __future__ import annotations

import gzip
import io
import json
import logging
import sys
from collections.abc import Iterator, Sequence
from typing import Any, cast

import bson
import pytest
from botocore.exceptions import ClientError
from bson import json_util
from bson.codec_options import CodecOptions
from bson.raw_bson import RawBSONDocument
from pymongo import MongoClient

from docdb_stream.checkpoint import Checkpoint
from docdb_stream.context import Deadline
from docdb_stream.errors import DocdbStreamError, SourceUnavailableError, StateStoreError, TargetError
from docdb_stream.events import ChangeEvent
from docdb_stream.handlers import _push, _runtime, esm
from docdb_stream.handlers import poller as poller_handler
from docdb_stream.local import AwsServer, ReplicaSet
from docdb_stream.mongodb.connection import Connection
from docdb_stream.settings import Settings
from docdb_stream.stores.mongodb import MongoCheckpointStore
from docdb_stream.testing.events import ChangeLog, hostile_documents

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("aws_environment")]

Mongo = MongoClient[dict[str, Any]]
SECRET = "tr0ub4dor"
THROUGH_SNS = {"Records": [{"EventSource": "aws:sns", "Sns": {"Message": '{"source": "aws.events"}'}}]}
CANONICAL = json_util.JSONOptions(
    json_mode=json_util.JSONMode.CANONICAL, datetime_conversion=bson.DatetimeConversion.DATETIME_AUTO
)
CODEC: CodecOptions[dict[str, Any]] = CodecOptions(datetime_conversion=bson.DatetimeConversion.DATETIME_AUTO)


class Context:
    function_name = "docdb-stream"

    def __init__(self, remaining_ms: int = 60_000) -> None:
        self._remaining_ms = remaining_ms

    def get_remaining_time_in_millis(self) -> int:
        return self._remaining_ms


class Account:
    """The places of one test in the local account, and what is in them."""

    def __init__(self, clients: dict[str, Any], name: str) -> None:
        self.name = name
        self.kinesis, self.sqs, self.s3 = (clients[service] for service in ("kinesis", "sqs", "s3"))
        self.kinesis.create_stream(StreamName=name, ShardCount=2)
        self.queue = self.sqs.create_queue(QueueName=f"{name}.fifo", Attributes={"FifoQueue": "true"})["QueueUrl"]
        self.s3.create_bucket(Bucket=name)
        self.s3.create_bucket(Bucket=f"{name}-letters")

    def in_kinesis(self) -> list[bytes]:
        found: list[bytes] = []
        for shard in self.kinesis.list_shards(StreamName=self.name)["Shards"]:
            iterator = self.kinesis.get_shard_iterator(
                StreamName=self.name, ShardId=shard["ShardId"], ShardIteratorType="TRIM_HORIZON"
            )["ShardIterator"]
            while records := (answer := self.kinesis.get_records(ShardIterator=iterator))["Records"]:
                found += [record["Data"] for record in records]
                iterator = answer["NextShardIterator"]
        return found

    def in_sqs(self) -> list[bytes]:
        found: list[bytes] = []
        while messages := self.sqs.receive_message(QueueUrl=self.queue, MaxNumberOfMessages=10).get("Messages"):
            for message in messages:
                found.append(message["Body"].encode())
                self.sqs.delete_message(QueueUrl=self.queue, ReceiptHandle=message["ReceiptHandle"])
        return found

    def in_s3(self) -> list[bytes]:
        return [line for body in self._objects(self.name) for line in gzip.decompress(body).split(b"\n") if line]

    def letters(self) -> list[dict[str, Any]]:
        return [json.loads(body) for body in self._objects(f"{self.name}-letters")]

    def _objects(self, bucket: str) -> list[bytes]:
        pages = self.s3.get_paginator("list_objects_v2").paginate(Bucket=bucket)
        keys = sorted(each["Key"] for page in pages for each in page.get("Contents", ()))
        return [self.s3.get_object(Bucket=bucket, Key=key)["Body"].read() for key in keys]


@pytest.fixture(scope="module")
def clients(aws: AwsServer) -> Iterator[dict[str, Any]]:
    found = {service: aws.client(service) for service in ("kinesis", "sqs", "s3")}
    yield found
    for client in found.values():
        client.close()


@pytest.fixture
def account(clients: dict[str, Any], db_name: str) -> Account:
    return Account(clients, f"handlers-{db_name}")


@pytest.fixture(autouse=True)
def containers(
    replica_set: ReplicaSet, db_name: str, monkeypatch: pytest.MonkeyPatch, account: Account
) -> Iterator[None]:
    """Two containers that have just started, with one environment; what they kept warm is closed at the end."""
    monkeypatch.setattr(poller_handler, "_runtime", _runtime.Runtime())
    monkeypatch.setattr(_push, "_kept", None)
    for name, value in {
        "DOCUMENTDB_URI": replica_set.uri,
        "STATE_DB": f"{db_name}_state",
        "WATCHED_DB_NAME": db_name,
        "WATCHED_COLLECTION_NAME": "orders",
        "DEAD_LETTERS": f"s3://{account.name}-letters/here",
        "KINESIS_STREAM": account.name,
        "SQS_QUERY_URL": account.queue,
        "BUCKET_NAME": account.name,
    }.items():
        monkeypatch.setenv(name, value)
    yield
    poller_handler._runtime.discard(Deadline.after(10))
    _push._discard(Deadline.after(10))


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    """What the functions log, as CloudWatch gets it."""
    [handler] = logging.getLogger("docdb_stream").handlers
    stream_handler = cast("logging.StreamHandler[Any]", handler)
    text = io.StringIO()
    before = stream_handler.setStream(text)
    yield text
    stream_handler.setStream(before or sys.stdout)


def checkpoint() -> Checkpoint:
    settings = Settings.from_env()
    with Connection(settings) as connection:
        found = MongoCheckpointStore(settings, connection).load(settings.stream_name)
    assert found is not None
    return found


def canonical(raw: bytes) -> dict[str, Any]:
    """The event as Lambda sends it."""
    found: dict[str, Any] = json.loads(json_util.dumps(bson.decode(raw, CODEC), json_options=CANONICAL))
    return found


def payload(events: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return {
        "eventSourceArn": "arn:aws:rds:us-east-1:000000000000:cluster:shop",
        "eventSource": "aws:docdb",
        "events": [{"event": event} for event in events],
    }


def denied(operation: str) -> ClientError:
    response = {"Error": {"Code": "AccessDeniedException", "Message": f"not allowed: {SECRET}"}}
    return ClientError(response, operation)  # type: ignore[arg-type]


# The poller


def test_a_schedule_through_sns_delivers_to_every_target(
    mongo: Mongo, db_name: str, account: Account, log: io.StringIO, capsys: pytest.CaptureFixture[str]
) -> None:
    first = poller_handler.handler(THROUGH_SNS, Context())
    assert (first["events"], first["caught_up"]) == (0, True)
    orders = mongo[db_name].orders
    orders.insert_many([{"_id": number, "card": SECRET} for number in range(120)])
    orders.replace_one({"_id": 1}, {"a": 1})
    orders.delete_one({"_id": 2})
    result = poller_handler.handler(THROUGH_SNS, Context())
    assert (result["stream"], result["events"], result["caught_up"]) == (f"{db_name}.orders", 122, True)
    assert {name: figures["events"] for name, figures in result["targets"].items()} == dict.fromkeys(
        ("kinesis", "sqs", "s3"), 122
    )
    assert json.loads(json.dumps(result)) == result
    lines = account.in_s3()
    ids = [json.loads(line)["documentKey"]["_id"] for line in lines]
    assert ids == [*range(120), 1, 2]
    assert sorted(account.in_kinesis()) == sorted(account.in_sqs()) == sorted(lines)
    assert poller_handler.handler(THROUGH_SNS, Context())["events"] == 0
    assert checkpoint().events == 122
    printed = capsys.readouterr()
    assert SECRET not in log.getvalue() + printed.out + printed.err
    measured = [json.loads(line) for line in printed.out.splitlines() if '"_aws"' in line]
    assert any(line.get("Events") == [122] and line["stream"] == f"{db_name}.orders" for line in measured)


def test_another_invocation_meanwhile_changes_nothing(mongo: Mongo, db_name: str, account: Account) -> None:
    poller_handler.handler({}, Context())
    mongo[db_name].orders.insert_one({"_id": 1})
    before = checkpoint()
    settings = Settings.from_env()
    with Connection(settings) as connection:
        store = MongoCheckpointStore(settings, connection)
        lease = store.acquire(settings.stream_name, settings.scope, "another invocation", 60)
        answer = poller_handler.handler(THROUGH_SNS, Context())
        assert checkpoint().position == before.position
        store.release(lease)
    assert answer == {"stream": f"{db_name}.orders", "stopped_by": "lease-held"}
    assert account.in_s3() == []
    assert poller_handler.handler(THROUGH_SNS, Context())["events"] == 1


def test_a_target_without_permission_fails_the_run_and_loses_nothing(
    mongo: Mongo, db_name: str, account: Account, log: io.StringIO
) -> None:
    poller_handler.handler({}, Context())
    before = checkpoint().position
    mongo[db_name].orders.insert_many([{"_id": number, "card": SECRET} for number in range(3)])
    warm = poller_handler._runtime._poller
    assert warm is not None
    [kinesis] = [each for each in warm._delivery._targets if each.name == "kinesis"]

    def put_records(**request: Any) -> None:
        raise denied("PutRecords")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kinesis._client, "put_records", put_records)  # type: ignore[attr-defined]
        with pytest.raises(TargetError, match="AccessDenied") as raised:
            poller_handler.handler(THROUGH_SNS, Context())
    assert raised.value.hint == "allow kinesis:PutRecords on it for this IAM role"
    assert checkpoint().position == before
    failure = json.loads(log.getvalue().splitlines()[-1])
    assert (failure["kind"], failure["hint"]) == ("target", raised.value.hint)
    assert SECRET not in log.getvalue()
    assert poller_handler.handler(THROUGH_SNS, Context())["events"] == 3
    assert len(account.in_kinesis()) == 3
    assert len(account.in_s3()) == 3, "what the S3 target held of the failed run is not delivered twice"


@pytest.mark.parametrize("uri", ["mongodb://reader:{secret}@127.0.0.1:1/", "mongodb://127.0.0.1:1/"])
def test_an_unreachable_cluster_is_told_without_its_password(
    monkeypatch: pytest.MonkeyPatch, log: io.StringIO, capsys: pytest.CaptureFixture[str], uri: str
) -> None:
    monkeypatch.setenv("DOCUMENTDB_URI", uri.format(secret=SECRET) + "?serverSelectionTimeoutMS=200")
    if "reader" not in uri:
        monkeypatch.setenv("DOCUMENTDB_SECRET", "env:MY_SECRET")
        monkeypatch.setenv("MY_SECRET", json.dumps({"username": "reader", "password": SECRET}))
    with pytest.raises((SourceUnavailableError, StateStoreError), match=r"127\.0\.0\.1:1") as raised:
        poller_handler.handler({}, Context())
    assert raised.value.hint
    printed = capsys.readouterr()
    assert SECRET not in str(raised.value) + log.getvalue() + printed.out + printed.err


# The event source mapping


def test_both_handlers_deliver_the_same_bytes_of_every_type(
    mongo: Mongo, db_name: str, account: Account, clients: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    not_in_pymongo = {"invalid_utf8", "duplicate_keys", "old_types", "looks_like_extended_json"}
    documents = [document for name, document in hostile_documents().items() if name not in not_in_pymongo]
    orders = mongo[db_name].get_collection(
        "orders", CodecOptions(uuid_representation=bson.binary.UuidRepresentation.STANDARD)
    )
    poller_handler.handler({}, Context())
    raw_orders = mongo[db_name].get_collection("orders", CodecOptions(RawBSONDocument))
    with raw_orders.watch(full_document="updateLookup") as watching:
        for document in documents:
            orders.insert_one(dict(document))
        orders.update_one({"_id": "hostile numbers"}, {"$set": {"a.b": 1.5}})
        orders.replace_one({"_id": 1}, {"x": bson.Decimal128("1.10")})
        orders.delete_one({"_id": 1.5})
        raws = [bytes(cast("RawBSONDocument", next(watching)).raw) for _ in range(len(documents) + 3)]
    assert poller_handler.handler({}, Context())["events"] == len(raws)
    by_poller = account.in_s3()
    assert by_poller == [ChangeEvent(raw).render("extended") for raw in raws]

    other = Account(clients, f"{account.name}-esm")
    monkeypatch.setenv("KINESIS_STREAM", other.name)
    monkeypatch.setenv("SQS_QUERY_URL", other.queue)
    monkeypatch.setenv("BUCKET_NAME", other.name)
    answer = esm.handler(payload([canonical(raw) for raw in raws]), Context())
    assert answer == {"stream": f"{db_name}.orders", "events": len(raws), "rejections": 0}
    assert other.in_s3() == by_poller
    assert sorted(other.in_kinesis()) == sorted(account.in_kinesis()) == sorted(by_poller)
    assert sorted(other.in_sqs()) == sorted(account.in_sqs())


@pytest.mark.parametrize("count", [1, 10_000])
def test_one_event_and_ten_thousand(account: Account, monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    monkeypatch.delenv("SQS_QUERY_URL")
    monkeypatch.delenv("DOCUMENTDB_URI")  # Lambda reads the cluster
    if count > 1:
        monkeypatch.delenv("KINESIS_STREAM")  # the local server takes 1,000 records a second
    events = [ChangeEvent(event.raw) for event in ChangeLog().inserts(count, size_bytes=200)]
    answer = esm.handler(payload([canonical(cast("bytes", event.raw)) for event in events]), Context())
    assert (answer["events"], answer["rejections"]) == (count, 0)
    expected = [event.render("extended") for event in events]
    assert account.in_s3() == expected
    if count == 1:
        assert account.in_kinesis() == expected


def test_a_batch_that_comes_again_leaves_s3_and_fifo_as_they_were(account: Account) -> None:
    events = [canonical(cast("bytes", event.raw)) for event in ChangeLog().inserts(5)]
    for _ in range(2):
        assert esm.handler(payload(events), Context())["events"] == 5
    assert len(account.in_s3()) == len(account.in_sqs()) == 5
    assert len(account.in_kinesis()) == 10


def test_what_a_target_refuses_goes_to_the_dead_letters_and_the_batch_is_done(
    account: Account, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SQS_QUERY_URL")
    monkeypatch.delenv("DOCUMENTDB_URI")
    log = ChangeLog()
    events = [log.insert({"_id": 1}), log.insert({"_id": 2, "text": "x" * 1_100_000}), log.insert({"_id": 3})]
    answer = esm.handler(payload([canonical(cast("bytes", event.raw)) for event in events]), Context())
    assert (answer["events"], answer["rejections"]) == (3, 1)
    assert len(account.in_kinesis()) == 2
    assert len(account.in_s3()) == 3
    [letter] = account.letters()
    assert (letter["target"], letter["event_id"], letter["document_key"]) == (
        "kinesis",
        events[1].event_id,
        '{"_id":2}',
    )
    assert letter["event"] == events[1].render("extended").decode()


def test_any_other_failure_raises_and_the_next_attempt_delivers(account: Account, log: io.StringIO) -> None:
    events = [canonical(cast("bytes", event.raw)) for event in ChangeLog().inserts(3)]
    esm.handler(payload([]), Context())
    [kinesis] = [each for each in _push._kept_parts(None)._delivery._targets if each.name == "kinesis"]

    def put_records(**request: Any) -> None:
        raise denied("PutRecords")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kinesis, "_client", type("Denied", (), {"put_records": staticmethod(put_records)}), raising=False)
        patch.setattr(kinesis._client, "close", lambda: None, raising=False)  # type: ignore[attr-defined]
        with pytest.raises(TargetError, match="AccessDenied") as raised:
            esm.handler(payload(events), Context())
    assert raised.value.hint == "allow kinesis:PutRecords on it for this IAM role"
    assert SECRET not in log.getvalue()
    assert esm.handler(payload(events), Context())["events"] == 3
    assert len(account.in_kinesis()) == len(account.in_s3()) == 3


def test_dead_letters_that_cannot_be_kept_fail_the_batch(account: Account, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEAD_LETTERS", "s3://nowhere/at-all")
    monkeypatch.delenv("SQS_QUERY_URL")
    event = ChangeLog().insert({"_id": 2, "text": "x" * 1_100_000})
    with pytest.raises(DocdbStreamError, match="NoSuchBucket"):
        esm.handler(payload([canonical(cast("bytes", event.raw))]), Context())
