"""Events too large to be read whole, events too large for a target, and documents that are gone: the stream goes on."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from opensearchpy import OpenSearch
from pymongo import MongoClient
from typer.testing import CliRunner

from docdb_stream.cli import app
from docdb_stream.connection import Connection
from docdb_stream.dead_letters import MongoDeadLetters
from docdb_stream.local import AwsServer, OpenSearchServer, ReplicaSet
from docdb_stream.poller import Poller
from docdb_stream.redrive import redrive
from docdb_stream.run import RunResult
from docdb_stream.settings import Settings
from docdb_stream.stores.mongodb import MongoCheckpointStore
from docdb_stream.target import Target
from docdb_stream.targets import build_targets
from docdb_stream.testing.targets import ListTarget

pytestmark = pytest.mark.integration

Mongo = MongoClient[dict[str, Any]]


@pytest.fixture
def settings(replica_set: ReplicaSet, db_name: str) -> Settings:
    return Settings(
        documentdb_uri=replica_set.uri,
        watched_db_name=db_name,
        watched_collection_name="orders",
        state_db=f"{db_name}_state",
    )


def run(settings: Settings, targets: Sequence[Target] | None = None, **values: Any) -> RunResult:
    poller = Poller.from_settings(settings.model_copy(update=values), targets)
    try:
        return poller.run()
    finally:
        poller.close()


def letters(settings: Settings) -> list[dict[str, Any]]:
    with Connection(settings) as connection:
        return list(MongoDeadLetters(settings, connection).letters(settings.stream_name))


def test_an_update_beyond_16_mb_comes_without_its_description_and_the_next_ones_with_it(
    settings: Settings, mongo: Mongo, db_name: str
) -> None:
    target = ListTarget()
    run(settings, [target])
    orders = mongo[db_name].orders
    orders.insert_one({"_id": 1, "small": True})
    orders.update_one({"_id": 1}, {"$set": {"text": "x" * 9_000_000}})  # in the event twice: 18 MB
    orders.insert_one({"_id": 2})
    orders.update_one({"_id": 2}, {"$set": {"a": 1}})
    result = run(settings, [target])
    assert (result.events, result.caught_up, result.rejections) == (4, True, 0)
    assert [event.operation for event in target.events] == ["insert", "update", "insert", "update"]
    large, after = target.events[1], target.events[3]
    assert large.update_description is None
    assert large.full_document is not None
    assert len(large.full_document["text"]) == 9_000_000
    assert after.update_description is not None
    assert after.update_description["updatedFields"] == {"a": 1}
    orders.insert_one({"_id": 3})
    assert run(settings, [target]).events == 1, "and so do the next runs"
    with Connection(settings) as connection:
        assert MongoCheckpointStore(settings, connection).ledger() == [], "nothing was stepped past"


def test_several_oversize_updates_in_a_row(settings: Settings, mongo: Mongo, db_name: str) -> None:
    target = ListTarget()
    run(settings, [target])
    orders = mongo[db_name].orders
    orders.insert_one({"_id": 1})
    for letter in "ab":
        orders.update_one({"_id": 1}, {"$set": {"text": letter * 8_500_000}})
    result = run(settings, [target])
    assert (result.events, result.caught_up) == (3, True)
    assert [event.update_description is None for event in target.events] == [True, True, True]


def test_what_a_target_does_not_take_goes_to_the_dead_letters_and_comes_when_it_does(
    settings: Settings, mongo: Mongo, db_name: str, aws: AwsServer, aws_environment: dict[str, str]
) -> None:
    kinesis = aws.client("kinesis")
    kinesis.create_stream(StreamName=db_name, ShardCount=1)
    values = {"kinesis_stream": db_name, "kinesis_record_bytes": 2048}
    run(settings, **values)
    mongo[db_name].orders.insert_many([{"_id": 1}, {"_id": 2, "text": "x" * 5_000}, {"_id": 3}])
    result = run(settings, **values)
    assert (result.events, result.rejections, result.caught_up) == (3, 1, True)
    assert delivered(kinesis, db_name) == [1, 3]
    [letter] = letters(settings)
    assert (letter["target"], letter["document_key"]) == ("kinesis", '{"_id":2}')
    assert "2048" in letter["reason"]

    environment = {
        "DOCUMENTDB_URI": settings.documentdb_uri,
        "STATE_DB": settings.state_db,
        "WATCHED_DB_NAME": db_name,
        "WATCHED_COLLECTION_NAME": "orders",
        "KINESIS_STREAM": db_name,
        **aws_environment,
    }

    def cli(command: str, *options: str, **more: str) -> Any:
        return CliRunner().invoke(app, ["dead-letters", command, *options], env={**environment, **more})

    listed = cli("list")
    assert (listed.exit_code, listed.stderr) == (0, "1 dead letter\n")
    assert "kinesis" in listed.stdout
    assert "xxx" not in listed.stdout
    [line] = cli("list", "--json").stdout.splitlines()
    assert json.loads(line) == letter
    still = cli("redrive", KINESIS_RECORD_BYTES="2048")
    assert still.exit_code == 4, "some stay"
    assert "0 delivered, 1 refused again" in still.stdout
    assert "1 stay" in still.stderr
    done = cli("redrive")
    assert (done.exit_code, done.stderr) == (0, "")
    assert "1 delivered, 0 refused again" in done.stdout
    assert cli("redrive").exit_code == 0, "none is left"
    assert delivered(kinesis, db_name) == [1, 3, 2]
    assert letters(settings) == []
    kinesis.close()


def delivered(kinesis: Any, stream: str) -> list[Any]:
    [shard] = kinesis.list_shards(StreamName=stream)["Shards"]
    iterator = kinesis.get_shard_iterator(
        StreamName=stream, ShardId=shard["ShardId"], ShardIteratorType="TRIM_HORIZON"
    )["ShardIterator"]
    records = kinesis.get_records(ShardIterator=iterator)["Records"]
    return [json.loads(record["Data"])["documentKey"]["_id"] for record in records]


def test_a_document_that_is_gone_is_no_error_in_any_payload(
    settings: Settings, mongo: Mongo, db_name: str, tmp_path: Path, opensearch_server: OpenSearchServer
) -> None:
    values = {"elasticsearch_uri": opensearch_server.url, "file_path": str(tmp_path / "changes.jsonl")}
    run(settings, **values)
    orders = mongo[db_name].orders
    orders.insert_many([{"_id": "gone", "a": 1}, {"_id": "stays", "a": 1}])
    orders.update_one({"_id": "gone"}, {"$set": {"a": 2}})
    orders.delete_one({"_id": "gone"})
    result = run(settings, **values, payload_format="document")
    assert (result.events, result.rejections, result.caught_up) == (4, 0, True)
    lines = [json.loads(line) for line in (tmp_path / "changes.jsonl").read_text().splitlines()]
    assert [(line["operation"], line["_id"], line.get("a")) for line in lines] == [
        ("insert", "gone", 1),
        ("insert", "stays", 1),
        ("update", "gone", None),
        ("delete", "gone", None),
    ]
    with OpenSearch(opensearch_server.url) as client:
        client.indices.refresh(index=f"{db_name}-orders")
        hits = client.search(index=f"{db_name}-orders")["hits"]["hits"]
    assert [hit["_id"] for hit in hits] == ["stays"]
    assert letters(settings) == []


def test_a_mapping_conflict_goes_to_the_dead_letters_and_comes_when_the_mapping_is_mended(
    settings: Settings, mongo: Mongo, db_name: str, opensearch_server: OpenSearchServer
) -> None:
    index = f"{db_name}-orders"
    values = {"elasticsearch_uri": opensearch_server.url}
    with OpenSearch(opensearch_server.url) as client:
        client.indices.create(index=index, body={"mappings": {"properties": {"total": {"type": "integer"}}}})
        run(settings, **values)
        mongo[db_name].orders.insert_many([{"_id": 1, "total": 5}, {"_id": 2, "total": "tr0ub4dor"}, {"_id": 3}])
        result = run(settings, **values)
        assert (result.events, result.rejections, result.caught_up) == (3, 1, True)
        [letter] = letters(settings)
        assert (letter["target"], letter["document_key"]) == ("opensearch", '{"_id":2}')
        assert "mapper_parsing_exception" in letter["reason"]
        assert "tr0ub4dor" not in letter["reason"]
        client.indices.delete(index=index)
        client.indices.create(index=index, body={"mappings": {"properties": {"total": {"type": "keyword"}}}})

        targets = build_targets(settings.model_copy(update=values))
        with Connection(settings) as connection:
            done = redrive(MongoDeadLetters(settings, connection), settings.stream_name, targets)
        for target in targets:
            target.close()
        assert (done.delivered, done.refused) == (1, 0)
        client.indices.refresh(index=index)
        [hit] = client.search(index=index)["hits"]["hits"]
    assert (hit["_id"], hit["_source"]) == ("2", {"total": "tr0ub4dor"})
    assert letters(settings) == []
