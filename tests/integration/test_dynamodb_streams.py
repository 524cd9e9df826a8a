"""Records of a real DynamoDB stream through the handler into tables: whatever comes again, and however it is cut."""

from __future__ import annotations

import base64
import random
import uuid
from collections.abc import Iterator, Mapping
from typing import Any

import boto3
import psycopg
import pytest

from docdb_stream.errors import TargetError
from docdb_stream.handlers import _push, dynamodb
from docdb_stream.local import PostgresServer
from docdb_stream.local.process import wait_until
from docdb_stream.target import Rejection
from docdb_stream.targets.postgresql import PostgresTarget

pytestmark = pytest.mark.integration


class Context:
    function_name = "docdb-stream-orders"

    def get_remaining_time_in_millis(self) -> int:
        return 60_000


class Table:
    """A table with a stream, into rows of PostgreSQL."""

    def __init__(self, view: str = "NEW_AND_OLD_IMAGES") -> None:
        self.name = f"Orders{uuid.uuid4().hex[:8]}"
        self.client, self.streams = boto3.client("dynamodb"), boto3.client("dynamodbstreams")
        self.client.create_table(
            TableName=self.name,
            KeySchema=[{"AttributeName": "id", "KeyType": "HASH"}],
            AttributeDefinitions=[{"AttributeName": "id", "AttributeType": "S"}],
            BillingMode="PAY_PER_REQUEST",
            StreamSpecification={"StreamEnabled": True, "StreamViewType": view},
        )
        self.client.get_waiter("table_exists").wait(TableName=self.name)
        self.arn = self.client.describe_table(TableName=self.name)["Table"]["LatestStreamArn"]

    def put(self, id: str, number: int) -> None:
        self.client.put_item(TableName=self.name, Item={"id": {"S": id}, "n": {"N": str(number)}})

    def delete(self, id: str) -> None:
        self.client.delete_item(TableName=self.name, Key={"id": {"S": id}})

    def items(self) -> dict[str, int]:
        found = self.client.scan(TableName=self.name, ConsistentRead=True)["Items"]
        return {each["id"]["S"]: int(each["n"]["N"]) for each in found}

    def records(self, count: int) -> list[dict[str, Any]]:
        """All of the stream, as Lambda hands them over."""

        def read() -> list[dict[str, Any]]:
            found: list[dict[str, Any]] = []
            for shard in self.streams.describe_stream(StreamArn=self.arn)["StreamDescription"]["Shards"]:
                iterator = self.streams.get_shard_iterator(
                    StreamArn=self.arn, ShardId=shard["ShardId"], ShardIteratorType="TRIM_HORIZON"
                )["ShardIterator"]
                while iterator:
                    page = self.streams.get_records(ShardIterator=iterator)
                    found += page["Records"]
                    iterator = page.get("NextShardIterator") if page["Records"] else None
            return [self._of_lambda(each) for each in found]

        wait_until(lambda: len(read()) >= count, "the stream has all changes", timeout_s=30)
        return read()

    def _of_lambda(self, record: Mapping[str, Any]) -> dict[str, Any]:
        change = {
            **record["dynamodb"],
            "ApproximateCreationDateTime": record["dynamodb"]["ApproximateCreationDateTime"].timestamp(),
        }
        return {**record, "eventSourceARN": self.arn, "eventSource": "aws:dynamodb", "dynamodb": _json(change)}


def _json(value: Any) -> Any:
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, dict):
        return {name: _json(each) for name, each in value.items()}
    return [*map(_json, value)] if isinstance(value, list) else value


@pytest.fixture
def table(
    aws_environment: dict[str, str], postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Table]:
    monkeypatch.setattr(_push, "_kept", None)
    found = Table()
    monkeypatch.setenv("STREAM_NAME", "orders")
    monkeypatch.setenv("POSTGRES_URI", postgres.uri)
    monkeypatch.setenv("POSTGRES_TABLE", "{coll}")
    monkeypatch.setenv("POSTGRES_SCHEMA", found.name.lower())
    monkeypatch.setenv("BATCH_SIZE", "3")
    yield found
    if _push._kept is not None:
        _push._kept.close()


def rows(table: Table, uri: str) -> dict[str, int]:
    with psycopg.connect(uri) as client:
        query = f"""SELECT _id, document->>'n' FROM {table.name.lower()}."{table.name}_current" """
        return {key: int(number) for key, number in client.execute(query).fetchall()}


@pytest.mark.parametrize("seed", range(3))
def test_a_table_is_mirrored_though_everything_comes_twice(table: Table, postgres: PostgresServer, seed: int) -> None:
    chance = random.Random(seed)
    made = 0
    for number in range(120):
        id = f"o{chance.randrange(12)}"
        if chance.random() < 0.25:
            made += id in table.items()
            table.delete(id)
        else:
            made += table.items().get(id) != number
            table.put(id, number)
    records = table.records(made)
    start = 0
    while start < len(records):
        part = records[start : start + chance.randrange(1, 15)]
        for _ in range(2):
            answer = dynamodb.handler({"Records": part}, Context())
            assert (answer["batchItemFailures"], answer["rejections"]) == ([], 0)
        # Sometimes a part of what was delivered comes again, as after a partial answer.
        start += chance.randrange(1, len(part) + 1)
    assert rows(table, postgres.uri) == table.items()


def test_what_lambda_is_told_to_send_again_makes_it_whole(
    table: Table, postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(30):
        table.put(f"o{number % 7}", number)
    table.delete("o3")
    records = table.records(31)
    sequences = [each["dynamodb"]["SequenceNumber"] for each in records]
    write, calls = PostgresTarget.write, 0

    def failing(self: PostgresTarget, events: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls % 3 == 0:
            raise TargetError("postgresql", "away")
        return write(self, events)

    monkeypatch.setattr(PostgresTarget, "write", failing)
    start, rounds = 0, 0
    while start < len(records):
        rounds += 1
        try:
            [*failed] = dynamodb.handler({"Records": records[start:]}, Context())["batchItemFailures"]
        except TargetError:  # nothing of it is durable: all of it comes again
            continue
        start = len(records) if not failed else sequences.index(failed[0]["itemIdentifier"])
    assert rounds > 2
    assert rows(table, postgres.uri) == table.items()


def test_what_a_target_refused_is_delivered_again_from_the_letters(
    table: Table, postgres: PostgresServer, cli: Any, monkeypatch: pytest.MonkeyPatch, aws_environment: dict[str, str]
) -> None:
    queue = str(boto3.client("sqs").create_queue(QueueName=f"letters-{uuid.uuid4().hex[:8]}")["QueueUrl"])
    monkeypatch.setenv("DEAD_LETTERS", queue)
    write = PostgresTarget.write

    def refusing(self: PostgresTarget, events: Any) -> Any:
        taken = [event for event in events if event.document["documentKey"]["_id"] != "o1"]
        return [*write(self, taken), *(Rejection(event, self.name, "no") for event in events if event not in taken)]

    monkeypatch.setattr(PostgresTarget, "write", refusing)
    for number in range(3):
        table.put(f"o{number}", number)
    assert dynamodb.handler({"Records": table.records(3)}, Context())["rejections"] == 1
    assert rows(table, postgres.uri) == {"o0": 0, "o2": 2}
    (cli.folder / "config.ini").write_text(
        f"""[docdb-stream]
dead_letters = {queue}
[deploy orders]
dynamodb_stream_arn = {table.arn}
[stream orders]
postgres_uri = {postgres.uri}
postgres_table = {{coll}}
postgres_schema = {table.name.lower()}
"""
    )
    done = cli.run("dead-letters", "redrive", "--config", "config.ini", **aws_environment)
    assert (done.returncode, done.stdout) == (
        0,
        "orders: 1 delivered, 0 refused again, 0 without their event, 0 of a step or of a target that is off\n",
    ), done.stderr
    assert rows(table, postgres.uri) == {"o0": 0, "o1": 1, "o2": 2}
    refused = cli.run("run", "--config", "config.ini", **aws_environment)
    assert refused.returncode == 2
    assert "started by a mapping" in refused.stderr
