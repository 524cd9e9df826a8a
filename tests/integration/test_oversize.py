"""Events too large to be read whole, events too large for a target, and documents that are gone: the stream goes on."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import bson
import pytest
from bson.raw_bson import RawBSONDocument
from opensearchpy import OpenSearch
from pymongo import MongoClient
from pymongo.client_session import ClientSession
from typer.testing import CliRunner

from docdb_stream.admin.redrive import deliver_again
from docdb_stream.cli.commands import app
from docdb_stream.errors import UnrenderableError
from docdb_stream.events import ChangeEvent, Position
from docdb_stream.letters.mongodb import MongoDeadLetters
from docdb_stream.local import AwsServer, OpenSearchServer, ReplicaSet
from docdb_stream.mongodb.connection import Connection
from docdb_stream.mongodb.source import MongoChangeSource
from docdb_stream.poller import Poller
from docdb_stream.result import RunResult
from docdb_stream.settings import Settings
from docdb_stream.stores.mongodb import MongoCheckpointStore
from docdb_stream.target import Rejection, Target
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


@pytest.fixture
def keys_are_too_large(mongo: Mongo) -> None:
    """Whatever names an event is in a reply twice; MongoDB before 5.0 sends that all the same: tests/matrix has it."""
    if mongo.server_info()["versionArray"][0] < 5:
        pytest.skip("this server sends the event whole")


def run(settings: Settings, targets: Sequence[Target] | None = None, **values: Any) -> RunResult:
    poller = Poller.from_settings(settings.model_copy(update=values), targets)
    try:
        return poller.run()
    finally:
        poller.close()


def letters(settings: Settings) -> list[dict[str, Any]]:
    with Connection(settings) as connection:
        return list(MongoDeadLetters(settings, connection).letters(settings.stream_name))


def test_an_update_beyond_16_mb_comes_whole(settings: Settings, mongo: Mongo, db_name: str) -> None:
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
    assert large.update_description is not None
    assert large.full_document is not None
    assert len(large.full_document["text"]) == len(large.update_description["updatedFields"]["text"]) == 9_000_000
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
    first, second = (event.update_description for event in target.events[1:])
    assert first is not None
    assert second is not None
    assert [each["updatedFields"]["text"][0] for each in (first, second)] == ["a", "b"]


def test_an_update_beyond_16_mb_whose_document_is_gone_says_so(settings: Settings, mongo: Mongo, db_name: str) -> None:
    target = ListTarget()
    run(settings, [target])
    orders = mongo[db_name].orders
    orders.insert_one({"_id": 1})
    orders.update_one({"_id": 1}, {"$set": {"text": "x" * 9_000_000}})
    orders.update_one({"_id": 1}, {"$set": {"note": 1}})
    orders.update_one({"_id": 1}, {"$set": {"text": ""}})
    result = run(settings, [target])
    assert (result.events, result.rejections, result.caught_up) == (4, 0, True)
    assert [event.full_document for event in target.events[1:]] == [{"_id": 1, "text": "", "note": 1}] * 3


def test_an_event_beyond_16_mb_whose_text_is_not_utf_8_is_a_dead_letter(
    settings: Settings, mongo: Mongo, db_name: str
) -> None:
    """Which is the target's verdict: the event was read."""
    target = RenderingTarget()
    run(settings, [target])
    orders = mongo[db_name].orders
    orders.insert_one(RawBSONDocument(bson.encode({"_id": 1, "bad": "QQQQ"}).replace(b"QQQQ", b"\xff\xfe\xfa\xf0")))
    orders.update_one({"_id": 1}, {"$set": {"text": "x" * 9_000_000}})
    orders.insert_one({"_id": 2})
    result = run(settings, [target])
    assert (result.events, result.rejections, result.caught_up) == (3, 2, True)
    assert [event.document_key for event in target.events] == [{"_id": 2}]
    assert all("UTF-8" in letter["reason"] for letter in letters(settings))


class RenderingTarget(ListTarget):
    """Refuses what cannot be rendered."""

    def write(self, events: Sequence[ChangeEvent]) -> Sequence[Rejection]:
        rejections = []
        for event in events:
            try:
                event.render("extended")
            except UnrenderableError as error:
                rejections.append(Rejection(event, self.name, str(error)))
            else:
                super().write([event])
        return rejections


@pytest.mark.usefixtures("keys_are_too_large")
def test_a_document_that_just_fits_while_its_reply_does_not_is_a_dead_letter_and_the_stream_goes_on(
    settings: Settings, mongo: Mongo, db_name: str
) -> None:
    """Some servers close the connection then. The event's position is twice in the reply, and holds the ``_id``."""
    target = ListTarget()
    run(settings, [target])
    orders = mongo[db_name].orders
    key = "k" * 8_000
    size = 16 * 1024 * 1024 - len(bson.encode({"_id": key, "text": ""}))
    orders.insert_one({"_id": "before"})
    orders.insert_one({"_id": key, "text": "x" * size})
    orders.update_one({"_id": key}, {"$set": {"text": "y" * size}})
    orders.insert_one({"_id": "after"})
    result = run(settings, [target])
    assert (result.events, result.rejections, result.caught_up) == (2, 2, True)
    assert target.ids == ["before", "after"]
    assert {(each["operation"], each["target"]) for each in letters(settings)} == {
        ("insert", "source"),
        ("update", "source"),
    }
    with Connection(settings) as connection:
        ledger = MongoCheckpointStore(settings, connection).ledger()
    assert [entry.kind for entry in ledger] == ["stepped-past"] * 2
    assert all("fullDocument" in entry.reason for entry in ledger)


@pytest.mark.usefixtures("keys_are_too_large")
def test_a_key_too_large_for_any_reply_is_passed_over_and_nothing_else(
    settings: Settings, mongo: Mongo, db_name: str
) -> None:
    """Two in a row, one of them in a transaction with others, in a database with another collection."""
    whole_database = settings.model_copy(update={"watched_collection_name": None, "stream_name": "whole"})
    target = ListTarget()
    large = [letter * 4_500_000 for letter in "abc"]
    orders, other = mongo[db_name].orders, mongo[db_name].other
    orders.insert_one({"_id": 0})
    other.insert_one({"_id": 0})
    run(whole_database, [target])
    orders.insert_one({"_id": 1})
    orders.insert_one({"_id": large[0]})

    def together(session: ClientSession) -> None:
        orders.insert_one({"_id": large[1]}, session=session)
        orders.insert_one({"_id": 2}, session=session)
        other.insert_one({"_id": 3}, session=session)

    with mongo.start_session() as session:
        session.with_transaction(together)
    other.insert_one({"_id": large[2]})
    for number in range(4, 8):
        orders.insert_one({"_id": number})
    result = run(whole_database, [target])
    assert (result.events, result.rejections, result.caught_up) == (7, 3, True)
    assert target.ids == [1, 2, 3, 4, 5, 6, 7]
    assert result.position is not None
    assert result.position.operation_time is not None
    assert result.position.operation_time <= mongo.admin.command("ping")["operationTime"]
    found = letters(whole_database)
    assert [(each["operation"], each["namespace"]) for each in sorted(found, key=lambda each: each["event_id"])] == [
        ("insert", f"{db_name}.orders"),
        ("insert", f"{db_name}.orders"),
        ("insert", f"{db_name}.other"),
    ]
    assert run(whole_database, [target]).events == 0


def test_a_key_too_large_for_any_reply_that_comes_last(settings: Settings, mongo: Mongo, db_name: str) -> None:
    target = ListTarget()
    orders = mongo[db_name].orders
    orders.insert_one({"_id": 0})
    run(settings, [target])
    orders.insert_one({"_id": "x" * 6_000_000})
    orders.delete_one({"_id": "x" * 6_000_000})
    result = run(settings, [target])
    assert (result.events, result.rejections, result.caught_up) == (0, 2, True)
    orders.insert_one({"_id": 1})
    result = run(settings, [target])
    assert (result.events, result.rejections, target.ids) == (1, 0, [1])


@pytest.mark.usefixtures("keys_are_too_large")
def test_keys_of_megabytes_of_which_the_token_can_be_sent(
    settings: Settings, mongo: Mongo, db_name: str, tmp_path: Path
) -> None:
    settings = settings.model_copy(update={"dead_letters": str(tmp_path / "letters.jsonl")})
    target = ListTarget()
    run(settings, [target])
    orders = mongo[db_name].orders
    in_parts, unnamed = "p" * 3_000_000, "u" * 4_100_000
    orders.insert_one({"_id": in_parts, "text": "x" * 1_000_000})
    orders.insert_one({"_id": 1})
    orders.insert_one({"_id": unnamed, "text": "x" * 2_000_000})
    orders.insert_one({"_id": 2})
    result = run(settings, [target])
    assert (result.events, result.rejections, result.caught_up) == (3, 1, True)
    assert target.ids == [in_parts, 1, 2]
    assert target.events[0].full_document == {"_id": in_parts, "text": "x" * 1_000_000}
    with Connection(settings) as connection:
        [entry] = MongoCheckpointStore(settings, connection).ledger()
    assert "documentKey" in entry.reason


@pytest.mark.usefixtures("keys_are_too_large")
def test_an_event_too_large_at_the_very_time_a_stream_starts_lies_before_it(
    settings: Settings, mongo: Mongo, db_name: str
) -> None:
    orders = mongo[db_name].orders
    orders.insert_one({"_id": 0})
    with mongo.start_session() as session:
        orders.insert_one({"_id": "x" * 4_500_000}, session=session)
        start = session.operation_time
    orders.insert_one({"_id": 1})
    batches = []
    with Connection(settings) as connection:
        source = MongoChangeSource(settings, connection)
        with closing(source.open(Position(operation_time=start))) as opened:
            while not (batches and batches[-1].events):
                batches.append(opened.read(1.0))
    assert [event.document_key for event in batches[-1].events] == [{"_id": 1}]
    assert [(list(batch.rejected), batch.gap) for batch in batches] == [([], None)] * len(batches)


def test_what_a_target_does_not_take_goes_to_the_dead_letters_and_comes_when_it_does(
    settings: Settings,
    mongo: Mongo,
    db_name: str,
    aws: AwsServer,
    aws_environment: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)  # where there is no config.ini, of which the command line would tell
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
            done = deliver_again(MongoDeadLetters(settings, connection), settings.stream_name, targets)
        for target in targets:
            target.close()
        assert (done.delivered, done.refused) == (1, 0)
        client.indices.refresh(index=index)
        [hit] = client.search(index=index)["hits"]["hits"]
    assert (hit["_id"], hit["_source"]) == ("2", {"total": "tr0ub4dor"})
    assert letters(settings) == []
