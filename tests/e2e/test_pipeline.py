"""The pipeline, for real on a local cloud: the state machine runs the real package, and rows come to PostgreSQL.

The local Step Functions run what the CDK has made of it: the look for another execution, both functions, both choices,
and, where a step fails, the alert.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from e2e.deployment import ACCOUNT, deploy, eventually, here
from pymongo import MongoClient

from docdb_stream.local import AwsServer, PostgresServer, ReplicaSet

pytestmark = [pytest.mark.integration, pytest.mark.long, pytest.mark.timeout(600)]

CONFIG = """
[docdb-stream]
documentdb_uri = {uri}
state_db = {db}_state
start_at = earliest

[deploy]
enabled = false
pipeline = true
bucket = shop-lake
every_minutes = 60
timeout_seconds = 60
python = {python}
architecture = {architecture}

[stream shop.orders]
watched_db_name = {db}
watched_collection_name = orders
bucket_name = shop-lake
s3_format = parquet
max_loop = 2
batch_size = 10
warehouse_uri = {warehouse}
"""


@pytest.fixture(scope="module")
def aws() -> Iterator[AwsServer]:
    """An account for this module alone."""
    with AwsServer() as started:
        yield started


@pytest.fixture
def warehouse() -> Iterator[PostgresServer]:
    """One that can be killed."""
    with PostgresServer() as started:
        yield started


def executed(aws: AwsServer) -> dict[str, Any]:
    """An execution of the machine, to its end."""
    states = aws.client("stepfunctions")
    [machine] = states.list_state_machines()["stateMachines"]
    execution = states.start_execution(stateMachineArn=machine["stateMachineArn"])["executionArn"]

    def ended() -> dict[str, Any] | None:
        found = states.describe_execution(executionArn=execution)
        return None if found["status"] == "RUNNING" else dict(found)

    found: dict[str, Any] = eventually(ended, "the execution ends", timeout_s=240)
    events = states.get_execution_history(executionArn=execution, maxResults=1000)["events"]
    found["entered"] = [
        each["stateEnteredEventDetails"]["name"] for each in events if "stateEnteredEventDetails" in each
    ]
    return found


def rows(warehouse: PostgresServer, db: str) -> dict[int, int]:
    with psycopg.connect(warehouse.uri) as connection:
        return dict(connection.execute(f'SELECT _id, total FROM "{db}_orders"').fetchall())  # type: ignore[call-overload]


def test_a_pipeline_extracts_and_loads(
    aws: AwsServer,
    replica_set: ReplicaSet,
    mongo: MongoClient[dict[str, Any]],
    db_name: str,
    warehouse: PostgresServer,
    tmp_path: Path,
) -> None:
    text = CONFIG.format(uri=replica_set.uri, db=db_name, warehouse=warehouse.uri, **here())
    outputs = deploy(aws, text, tmp_path)
    alerts = str(aws.client("sqs").create_queue(QueueName="alerts")["QueueUrl"])
    aws.client("sns").subscribe(
        TopicArn=outputs["AlertTopicArn"],
        Protocol="sqs",
        Endpoint=f"arn:aws:sqs:{aws.region}:{ACCOUNT}:alerts",
    )
    orders = mongo[db_name].orders
    orders.insert_many([{"_id": number, "total": number} for number in range(100)])
    found = executed(aws)
    assert found["status"] == "SUCCEEDED", found
    assert found["entered"].count("Extract") > 1  # 20 events each, until it has caught up
    assert rows(warehouse, db_name) == {number: number for number in range(100)}

    orders.update_many({"_id": {"$lt": 5}}, {"$inc": {"total": 1000}})
    orders.delete_many({"_id": {"$gte": 95}})
    assert executed(aws)["status"] == "SUCCEEDED"
    wanted = {each["_id"]: each["total"] for each in orders.find()}
    assert rows(warehouse, db_name) == wanted

    # A step that fails ends it, and somebody hears why; the next execution goes on.
    warehouse.kill()
    orders.insert_one({"_id": 200, "total": 200})
    failed = executed(aws)
    assert (failed["status"], failed["error"]) == ("FAILED", "PipelineFailed")
    assert "All is loaded" not in failed["entered"]
    told = [
        json.loads(each["Body"])
        for each in aws.client("sqs").receive_message(QueueUrl=alerts, MaxNumberOfMessages=10)["Messages"]
    ]
    assert any("the pipeline of shop.orders failed" in each["Subject"] for each in told)
    warehouse.restart()
    assert executed(aws)["status"] == "SUCCEEDED"
    assert rows(warehouse, db_name) == {**wanted, 200: 200}
