"""Alerts on a real SNS topic: one for several failing runs in a row, also across processes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pymongo import MongoClient

from docdb_stream.errors import TargetError
from docdb_stream.local import AwsServer, ReplicaSet
from docdb_stream.poller import Poller
from docdb_stream.settings import Settings

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("aws_environment")]

Mongo = MongoClient[dict[str, Any]]


class Topic:
    """An SNS topic, and the queue of somebody who reads it."""

    def __init__(self, aws: AwsServer, name: str) -> None:
        self.sns, self.sqs = aws.client("sns"), aws.client("sqs")
        self.arn: str = self.sns.create_topic(Name=name)["TopicArn"]
        self._queue = self.sqs.create_queue(QueueName=name)["QueueUrl"]
        attributes = self.sqs.get_queue_attributes(QueueUrl=self._queue, AttributeNames=["QueueArn"])["Attributes"]
        self.sns.subscribe(TopicArn=self.arn, Protocol="sqs", Endpoint=attributes["QueueArn"])

    def read(self, at_least: int) -> list[dict[str, Any]]:
        """All messages; waits for the first ``at_least``, and a second longer for one too many."""
        found: list[dict[str, Any]] = []
        for _ in range(20):
            answer = self.sqs.receive_message(QueueUrl=self._queue, MaxNumberOfMessages=10, WaitTimeSeconds=1)
            for message in answer.get("Messages", ()):
                found.append(json.loads(message["Body"]))
                self.sqs.delete_message(QueueUrl=self._queue, ReceiptHandle=message["ReceiptHandle"])
            if not answer.get("Messages") and len(found) >= at_least:
                break
        return found

    def close(self) -> None:
        self.sns.close()
        self.sqs.close()


@pytest.fixture
def topic(aws: AwsServer, db_name: str) -> Iterator[Topic]:
    found = Topic(aws, f"alerts-{db_name}")
    yield found
    found.close()


@pytest.fixture
def broken(replica_set: ReplicaSet, mongo: Mongo, db_name: str, topic: Topic, tmp_path: Path) -> Settings:
    """A stream with an event for a target that does not work."""
    mongo[db_name].orders.insert_one({"_id": 1, "card": "tr0ub4dor"})
    return Settings(
        documentdb_uri=replica_set.uri,
        watched_db_name=db_name,
        watched_collection_name="orders",
        state_db=f"{db_name}_state",
        start_at="earliest",
        file_path=str(tmp_path / "no-such-folder" / "changes.jsonl"),
        sns_topic_arn_alert=topic.arn,
    )


def environment(settings: Settings, aws: AwsServer) -> dict[str, str]:
    values = settings.model_dump(exclude_defaults=True, exclude={"stream_name"})
    return {name.upper(): str(value) for name, value in values.items()} | aws.environment()


def test_one_message_for_several_failing_runs_of_several_processes(
    broken: Settings, aws: AwsServer, topic: Topic, cli: Any
) -> None:
    for _ in range(2):
        done = cli.run("run", **environment(broken, aws))
        assert (done.returncode, "target file" in done.stderr) == (4, True)
    for _ in range(2):  # another process, again
        poller = Poller.from_settings(broken)
        with pytest.raises(TargetError):
            poller.run()
        poller.close()
    [message] = topic.read(at_least=1)
    assert message["Subject"] == f"docdb-stream {broken.stream_name}: target"
    text = message["Message"]
    assert f"stream: {broken.stream_name}" in text
    assert "cannot write" in text
    assert "what to do: see that the folder exists" in text
    assert "position: 1970" in text or "position: 20" in text
    assert "tr0ub4dor" not in text


def test_another_kind_of_error_is_told_as_well(broken: Settings, topic: Topic, mongo: Mongo) -> None:
    for values in ({}, {}, {"start_at": "now"}):
        poller = Poller.from_settings(broken.model_copy(update=values))
        with pytest.raises(TargetError):
            poller.run()
        poller.close()
    state = mongo[broken.state_db].checkpoints
    state.update_one({"_id": broken.stream_name}, {"$set": {"position": {"token": {"_data": "01" + "5e" * 20}}}})
    poller = Poller.from_settings(broken)
    with pytest.raises(Exception, match="no longer in the change log"):
        poller.run()
    poller.close()
    subjects = sorted(message["Subject"] for message in topic.read(at_least=2))
    assert [subject.rpartition(" ")[2] for subject in subjects] == ["history-lost", "target"]


def test_an_alert_that_cannot_be_sent_hides_nothing(broken: Settings, aws: AwsServer, cli: Any) -> None:
    values = environment(broken, aws) | {"SNS_TOPIC_ARN_ALERT": "arn:aws:sns:us-east-1:000000000000:no-such-topic"}
    done = cli.run("run", **values)
    assert done.returncode == 4
    assert "target file" in done.stderr
    assert "hint: see that the folder exists" in done.stderr
