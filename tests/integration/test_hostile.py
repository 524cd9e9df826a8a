"""No document stops a stream for good, whatever it is made of, however large it is and wherever letters go.

Every change of ``HOSTILE`` goes to every target there is, at once, with dead letters of each kind. Each target has
then delivered it or refused it into a letter, and the stream has passed it. To try another document: add it there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from bson import Code, DBRef, Decimal128, ObjectId, Regex
from bson.binary import UuidRepresentation
from bson.codec_options import CodecOptions
from contract.aws import Queue, new_name
from contract.neptune_server import NeptuneServer
from contract.webhook import Receiver
from neo4j import GraphDatabase
from pymongo import MongoClient
from pymongo.database import Database

from docdb_stream.dead_letters import Letter, event_of
from docdb_stream.letters import dead_letters_for
from docdb_stream.local import (
    ArcadeServer,
    AwsServer,
    KafkaBroker,
    OpenSearchServer,
    PostgresServer,
    RedisServer,
    ReplicaSet,
)
from docdb_stream.local.arcadedb import PASSWORD
from docdb_stream.mongodb.connection import Connection
from docdb_stream.poller import Poller
from docdb_stream.result import RunResult
from docdb_stream.settings import Settings
from docdb_stream.targets import TARGETS as ALL
from docdb_stream.testing.events import hostile_documents

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("aws_environment"), pytest.mark.timeout(600)]

Mongo = MongoClient[dict[str, Any]]
Changes = Callable[[Database[dict[str, Any]]], int]
"""Makes changes in a database; returns how many."""

CONTROLS = "".join(map(chr, range(1, 32))) + "\x7f\x80\ufffe\uffff\U0001f600"


CODEC: CodecOptions[dict[str, Any]] = CodecOptions(uuid_representation=UuidRepresentation.STANDARD)


def inserted(*documents: Any, coll: str = "orders") -> Changes:
    def change(db: Database[dict[str, Any]]) -> int:
        db.get_collection(coll, CODEC).insert_many(documents)
        return len(documents)

    return change


def grown(id_: Any, *sizes: int) -> Changes:
    """A document that grows by updates, which hold what is new twice."""

    def change(db: Database[dict[str, Any]]) -> int:
        db.orders.insert_one({"_id": id_})
        for size in sizes:
            db.orders.update_one({"_id": id_}, {"$set": {"text": "g" * size}})
        return 1 + len(sizes)

    return change


def deleted(id_: Any) -> Changes:
    return lambda db: int(bool(db.orders.insert_one({"_id": id_}))) + db.orders.delete_one({"_id": id_}).deleted_count


def nested(depth: int, make: Callable[[Any], Any]) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = make(value)
    return value


TARGETS = {name for name in ALL if name != "cassandra"}
"""Cassandra is in the matrix alone: tests/matrix/test_cassandra.py has its hostile documents."""
HOSTILE: dict[str, Changes] = {
    **{f"kind_{name}": inserted(document) for name, document in hostile_documents().items()},
    "kind_deep_documents": inserted({"_id": "deep", "a": nested(170, lambda value: {"d": value})}),
    "kind_deep_arrays": inserted({"_id": "deep arrays", "a": nested(170, lambda value: [value])}),
    "kind_deep_id": inserted({"_id": nested(90, lambda value: {"d": value})}),
    "kind_code": inserted({"_id": "code", "a": Code("c" * 70_000, {"$x": {"y.z": float("nan")}})}),
    "kind_regex": inserted({"_id": "regex", "a": [Regex(CONTROLS, "imsx"), {"$regex": Regex("a")}]}),
    "kind_reference": inserted({"_id": DBRef("a", ObjectId(), "b")}, {"_id": "ref", "a": {"$ref": 1, "$id": {}}}),
    "kind_decimal_ids": inserted(*({"_id": Decimal128(text)} for text in ("-Infinity", "1E-6176", "9E+6144", "0.10"))),
    "kind_long_keys": inserted({"_id": "long keys", "k" * 400_000: {"$oid": {"d" * 100_000: 1}}}),
    "size_of_a_message": grown("message", 50_000, 130_000, 262_144),
    "size_of_a_record": grown("record", 520_000, 1_048_576),
    "size_of_an_update": grown("update", 9_000_000),
    "size_of_a_document": inserted({"_id": "document", "text": "t" * 16_700_000}),
    **{f"id_of_{size}": inserted({"_id": "k" * size}) for size in (300, 1_500, 20_000, 60_000, 210_000, 2_300_000)},
    "id_of_a_delete": deleted("d" * 400_000),
    "name_of_controls": inserted({"_id": 1}, coll=CONTROLS),
    "name_of_wildcards": inserted({"_id": 1}, coll="%2a*?<>|"),
    "name_of_200_bytes": inserted({"_id": 1}, coll="\u8868" * 66),
    "name_of_dots": inserted({"_id": 1}, coll="a.b/c\\d"),
}


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    started = Receiver()
    yield started
    started.close()


@pytest.fixture
def neptune(arcadedb: ArcadeServer) -> Iterator[NeptuneServer]:
    auth = ("root", PASSWORD)
    with (
        GraphDatabase.driver(arcadedb.uri, auth=auth, connection_timeout=20) as driver,
        NeptuneServer(driver, arcadedb.other_database) as server,
    ):
        yield server


@pytest.mark.parametrize(
    ("letters", "payload_format"),
    [
        ("collection", "extended"),
        pytest.param("fifo", "debezium", marks=pytest.mark.long),
        pytest.param("file", "document", marks=pytest.mark.long),
        pytest.param("s3", "cloudevents", marks=pytest.mark.long),
        pytest.param("sqs", "document", marks=pytest.mark.long),
        pytest.param("fifo", "cloudevents_binary", marks=pytest.mark.long),
    ],
)
def test_no_document_stops_a_stream(
    letters: str,
    payload_format: str,
    replica_set: ReplicaSet,
    mongo: Mongo,
    db_name: str,
    aws: AwsServer,
    kafka_broker: KafkaBroker,
    opensearch_server: OpenSearchServer,
    postgres: PostgresServer,
    redis_server: RedisServer,
    arcadedb: ArcadeServer,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    receiver: Receiver,
    neptune: NeptuneServer,
) -> None:
    monkeypatch.setenv("GRAPH_WRITER", arcadedb.secret)
    settings = Settings(
        documentdb_uri=replica_set.uri,
        watched_db_name=db_name,
        state_db=f"{db_name}_state",
        payload_format=payload_format,
        kinesis_payload_format="full_document",
        max_loop=0,
        dead_letters=place_of(letters, aws, tmp_path),
        msk_bootstrap_srv=kafka_broker.bootstrap_servers,
        elasticsearch_uri=opensearch_server.url,
        opensearch_request_bytes=1024 * 1024,  # the local server takes half a minute for some megabytes
        file_path=str(tmp_path / "changes.jsonl"),
        stdout=True,
        webhook_url=receiver.url,
        webhook_allow_addresses="127.0.0.1",
        mongodb_target_uri=replica_set.uri,
        mongodb_target_namespace="mirror_of_{db}.{coll}",
        mongodb_target_state=f"{db_name}_state.mirror",
        postgres_uri=postgres.uri,
        postgres_schema=f"hostile_{letters}_{db_name}",
        redis_uri=redis_server.uri,
        redis_value="hash" if letters == "file" else "json",
        neo4j_uri=arcadedb.uri,
        neo4j_secret="env:GRAPH_WRITER",
        neo4j_database=arcadedb.database,
        neo4j_nodes="orders: Hostile(id=_id, document=., a=a)",
        neo4j_edges="orders: (Hostile id=_id)-[HAS a=a]->(Thing id=a)",
        neptune_endpoint=neptune.url,
        neptune_nodes="orders: Hostile(id=_id, a=a)",  # its stand-in reads all nodes again and again
        neptune_edges="orders: (Hostile id=_id)-[HAS a=a]->(Thing id=a)",
        iceberg_catalog=f"sqlite:///{tmp_path}/catalog.db",
        iceberg_warehouse=f"file://{tmp_path}/warehouse",
        **places_of_targets(aws, fifo=letters == "fifo"),
    )
    run(settings)
    made = sum(change(mongo[db_name]) for change in HOSTILE.values())
    result = run(settings)
    assert (result.caught_up, result.stopped_by) == (True, "caught-up")
    with read_letters(settings) as found:
        unreadable = [letter for letter in found if letter["target"] == "source"]
        refused = {name: sum(letter["target"] == name for letter in found) for name in TARGETS}
        delivered = {name: figures.events for name, figures in result.targets.items()}
        assert {name: delivered[name] + refused[name] for name in TARGETS} == dict.fromkeys(
            TARGETS, made - len(unreadable)
        )
        assert len(found) == result.rejections
        for letter in {letter["event_id"]: letter for letter in found}.values():
            assert (event_of(letter) is None) == ("event_omitted" in letter)
    lines = (tmp_path / "changes.jsonl").read_bytes().splitlines()
    assert len(lines) == delivered["file"]
    again = run(settings)
    assert (again.read, again.caught_up) == (0, True)


def run(settings: Settings) -> RunResult:
    with Poller.from_settings(settings) as poller:
        return poller.run()


def place_of(letters: str, aws: AwsServer, folder: Path) -> str | None:
    if letters == "collection":
        return None
    if letters == "file":
        return str(folder / "letters.jsonl")
    if letters == "s3":
        return f"s3://{new_bucket(aws)}/letters"
    return Queue(aws, fifo=letters == "fifo").url


def places_of_targets(aws: AwsServer, *, fifo: bool) -> dict[str, Any]:
    """A place for every target in AWS, and the settings that switch them on."""
    name = new_name("hostile")
    suffix, attributes = (".fifo", {"FifoTopic": "true"}) if fifo else ("", {})
    aws.client("kinesis").create_stream(StreamName=name, ShardCount=1)
    aws.client("events").create_event_bus(Name=name)
    destination = {"RoleARN": "arn:aws:iam::000000000000:role/f", "BucketARN": f"arn:aws:s3:::{new_bucket(aws)}"}
    aws.client("firehose").create_delivery_stream(
        DeliveryStreamName=name, ExtendedS3DestinationConfiguration=destination
    )
    return {
        "kinesis_stream": name,
        "firehose_stream": name,
        "sqs_query_url": Queue(aws, fifo=fifo).url,
        "sns_topic_arn_event": aws.client("sns").create_topic(Name=name + suffix, Attributes=attributes)["TopicArn"],
        "eventbridge_bus": name,
        "bucket_name": new_bucket(aws),
        "dynamodb_table": name + "-{db}-{coll}",
        "dynamodb_create": True,
    }


def new_bucket(aws: AwsServer) -> str:
    name = new_name("hostile-bucket")
    aws.client("s3").create_bucket(Bucket=name)
    return name


@contextmanager
def read_letters(settings: Settings) -> Iterator[list[Letter]]:
    with Connection(settings) as connection:
        yield list(dead_letters_for(settings, connection).letters(settings.stream_name))
