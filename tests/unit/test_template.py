from __future__ import annotations

import datetime as dt
from typing import Any

import pytest
from bson import Decimal128, Int64, ObjectId
from hypothesis import given
from hypothesis import strategies as st

from docdb_stream.errors import ConfigError, UnrenderableError
from docdb_stream.events import Namespace
from docdb_stream.settings import Settings
from docdb_stream.settings.target import TargetSettings
from docdb_stream.targets._names import TargetName, key_of
from docdb_stream.targets.kafka import KafkaSettings, KafkaTarget
from docdb_stream.targets.kinesis import KinesisSettings, KinesisTarget
from docdb_stream.targets.mongodb import MongoSettings
from docdb_stream.targets.opensearch import OpenSearchSettings
from docdb_stream.targets.s3 import S3Settings, object_key
from docdb_stream.targets.sqs import SqsSettings, SqsTarget
from docdb_stream.template import AllowList, MissingValueError, Template
from docdb_stream.testing.events import ChangeLog

LOG = ChangeLog()
ORDER = LOG.insert({"_id": 7, "region": "eu", "customer": {"id": Int64(12)}, "items": [{"sku": "a"}], "total": 1.5})


@pytest.mark.parametrize(
    ("text", "rendered"),
    [
        ("{db}-{coll}", "shop-orders"),
        ("{ db }.{coll}", "shop.orders"),
        ("all", "all"),
        ("{{{operation}}}", "{insert}"),
        ("{key}", '{"_id":7}'),
        ("{document._id}/{document.region}", "7/eu"),
        ("{document.customer.id}", "12"),
        ("{document.items.0.sku}", "a"),
        ("{document.total}", "1.5"),
        ("{event_id}", ORDER.event_id),
    ],
)
def test_fields_are_filled_in(text: str, rendered: str) -> None:
    assert Template(text).render(ORDER) == rendered


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1, "1"),
        (1.0, "1"),
        (Int64(1), "1"),
        (Decimal128("1.00"), "1"),
        (Decimal128("1E+3"), "1000"),
        (Decimal128("0.50"), "0.5"),
        (0.5, "0.5"),
        (True, "true"),
        (float("nan"), "NaN"),
        (Decimal128("NaN"), "NaN"),
        (Decimal128("sNaN"), "NaN"),
        (float("-inf"), "-Infinity"),
        (Decimal128("-Infinity"), "-Infinity"),
        (ObjectId("65b9f0000000000000000009"), "65b9f0000000000000000009"),
        (dt.datetime(2026, 1, 2, 3, 4, 5, 6000), "2026-01-02T03:04:05.006Z"),
        ("ü/..", "ü/.."),
    ],
)
def test_equal_values_are_equal_texts(value: Any, text: str) -> None:
    assert Template("{document.a}").render(LOG.insert({"_id": 1, "a": value})) == text


@pytest.mark.parametrize(
    ("number", "text"),
    [
        ("1E+6111", "1" + "0" * 6111),
        ("-0", "0"),
        ("-0.00", "0"),
        ("1.500", "1.5"),
        ("1.000000000000000000000000000000001", "1.000000000000000000000000000000001"),
        ("-Infinity", "-Infinity"),
    ],
)
def test_decimals_of_any_size_are_exact(number: str, text: str) -> None:
    assert Template("{document.a}").render(LOG.insert({"_id": 1, "a": Decimal128(number)})) == text


@pytest.mark.parametrize("value", [None, "", [], {}, [1], {"a": 1}, b"x"])
def test_what_is_no_name_is_missing(value: Any) -> None:
    with pytest.raises(MissingValueError, match=r"document\.a: no text"):
        Template("{document.a}").render(LOG.insert({"_id": 1, "a": value}))


def test_a_delete_has_what_was_before_or_its_key() -> None:
    delete = LOG.delete(7)
    assert Template("{document._id}").render(delete) == "7"
    with pytest.raises(MissingValueError):
        Template("{document.region}").render(delete)
    before = delete.replace(fullDocumentBeforeChange={"_id": 7, "region": "us"})
    assert Template("{document.region}").render(before) == "us"


def test_what_has_no_collection_has_an_empty_one() -> None:
    assert Template("{db}/{coll}").render(LOG.drop_database()) == "shop/"
    assert Template("{db}/{coll}").render(LOG.invalidate(), Namespace("shop", "orders")) == "shop/orders"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "needs some text"),
        ("{", "brace without its other one, at character 1"),
        ("a}", "brace without its other one, at character 2"),
        ("{}", r"no field \{\}"),
        ("{collection}", r"no field \{collection\}; expected \{db\}, \{coll\}"),
        ("{document}", r"no field \{document\}"),
        ("{document.}", "no field"),
        ("{document.a..b}", "no field"),
        ("{document.$a}", "no field"),
        ("{document.a.$[]}", "no field"),
        ("{{db}", "brace"),
    ],
)
def test_what_is_no_template_is_told(text: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        Template(text)


@given(st.text(), st.text(alphabet="{}db.ocument$ *", max_size=12))
def test_any_text_is_a_template_or_a_problem(text: str, braces: str) -> None:
    try:
        template = Template(text + braces)
    except ValueError:
        return
    try:
        assert isinstance(template.render(ORDER), str)
    except UnrenderableError:
        assert template.is_of_data


@pytest.mark.parametrize(
    ("text", "changing"),
    [
        ("all", ()),
        ("{db}{coll}{key}", ()),
        ("{document._id}", ()),
        ("{document._id.a}", ()),
        ("{document._ids}", ("document._ids",)),
        ("{operation}-{document.region}", ("document.region", "operation")),
        ("{event_id}", ("event_id",)),
    ],
)
def test_it_is_known_what_parts_the_events_of_a_document(text: str, changing: tuple[str, ...]) -> None:
    assert Template(text).changing == changing


def test_names_made_of_data_are_on_a_list() -> None:
    name = TargetName("orders-{document.region}", "KAFKA_TOPIC_ALLOW", ["orders-e*", "orders-us"])
    assert name.of(ORDER) == "orders-eu"
    assert name.of(LOG.insert({"_id": 1, "region": "us"})) == "orders-us"
    for region in ("usa", "../etc", "us\n", "", None):
        with pytest.raises(UnrenderableError):
            name.of(LOG.insert({"_id": 1, "region": region}))


def test_an_allow_list_takes_nothing_but_a_star_for_a_pattern() -> None:
    for pattern in (".*", "[a]", "a?"):
        with pytest.raises(UnrenderableError):
            AllowList("X", [pattern]).check("a")
    with pytest.raises(UnrenderableError):
        AllowList("X", []).check("")


def test_an_event_without_the_value_keeps_its_key() -> None:
    assert key_of(LOG.delete(7), Template("{document.region}"), "default") == "default"
    assert key_of(LOG.invalidate(), Template("{key}"), None) is None


@pytest.mark.parametrize(
    ("model", "values", "problem"),
    [
        (KafkaSettings, {"kafka_topic": "{nope}"}, "no field"),
        (KafkaSettings, {"kafka_topic": "{document.a}"}, "kafka_topic_allow"),
        (KafkaSettings, {"kafka_topic": "{key}"}, "kafka_topic_allow"),
        (KafkaSettings, {"kafka_key": "{document.$a}"}, "no field"),
        (S3Settings, {"s3_prefix": "{document.a}"}, "s3_prefix_allow"),
        (KinesisSettings, {"kinesis_partition_key": "{"}, "brace"),
        (SqsSettings, {"sqs_message_group": "documentkey"}, "expected document_key, collection, or a template"),
        (SqsSettings, {"sqs_message_group": "{x}"}, "no field"),
        (OpenSearchSettings, {"opensearch_index": "{document.a}", "opensearch_index_allow": "a"}, "on_drop = keep"),
        (OpenSearchSettings, {"opensearch_index": "{operation}"}, "on_drop = keep"),
    ],
)
def test_bad_templates_are_told_with_the_settings(
    model: type[TargetSettings], values: dict[str, Any], problem: str
) -> None:
    with pytest.raises(ValueError, match=problem):
        model.model_validate(values)


def test_they_are_told_from_the_environment() -> None:
    with pytest.raises(ConfigError) as raised:
        Settings.from_env({"DOCUMENTDB_URI": "h", "MSK_BOOTSTRAP_SRV": "h:1", "KAFKA_TOPIC": "{document.region}"})
    assert "kafka_topic_allow" in str(raised.value.problems).lower()


@pytest.mark.parametrize(
    ("settings", "scope", "cautions"),
    [
        (KafkaSettings(kafka_topic="{coll}", kafka_key="{key}"), None, 0),
        (KafkaSettings(kafka_topic="{operation}", kafka_key="{document.a}"), None, 2),
        (KafkaSettings(kafka_key="{coll}{key}", kafka_tombstones=True), None, 0),
        (KafkaSettings(kafka_key="{coll}", kafka_tombstones=True), None, 1),
        (KafkaSettings(kafka_key="{coll}", kafka_payload_format="debezium"), None, 1),
        (KafkaSettings(kafka_key="{coll}", kafka_payload_format="debezium", kafka_tombstones=False), None, 0),
        (MongoSettings(mongodb_target_namespace="mirror_{db}.{coll}"), None, 0),
        (MongoSettings(mongodb_target_namespace="mirror.{coll}"), Namespace("shop"), 0),
        (MongoSettings(mongodb_target_namespace="mirror.{coll}"), None, 1),
        (MongoSettings(mongodb_target_namespace="mirror.{coll}", mongodb_target_mirror=False), None, 0),
        (KinesisSettings(kinesis_partition_key="1"), None, 0),
        (KinesisSettings(kinesis_partition_key="{document.customer}"), None, 1),
        (SqsSettings(sqs_message_group="collection"), None, 0),
        (SqsSettings(sqs_message_group="{document.a}"), None, 1),
        (SqsSettings(sqs_deduplication_id="{key}"), None, 1),
        (SqsSettings(sqs_deduplication_id="{db}{event_id}"), None, 0),
        (S3Settings(s3_prefix="{operation}/{coll}"), None, 1),
        (OpenSearchSettings(opensearch_index="{coll}"), Namespace("shop"), 0),
        (OpenSearchSettings(opensearch_index="{coll}"), None, 1),
        (OpenSearchSettings(opensearch_index="all"), Namespace("shop", "orders"), 0),
        (OpenSearchSettings(opensearch_index="all"), Namespace("shop"), 1),
    ],
)
def test_cautions(settings: TargetSettings, scope: Namespace | None, cautions: int) -> None:
    assert len([*settings.cautions(scope)]) == cautions


def test_a_path_made_of_data_stays_below_its_prefix() -> None:
    assert object_key(ORDER, "raw/", "").startswith("raw/_/2026/")
    assert object_key(ORDER, "raw/", "a/").startswith("raw/a/2026/")


def test_kinesis_keeps_each_documents_order_whatever_the_partition_key_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-central-1")
    target = KinesisTarget("s", partition_key="{document.region}")
    record = target._record(ORDER, b"{}", ORDER.ordering_key)
    assert (record.key, record.entry["PartitionKey"]) == (ORDER.ordering_key, "eu")
    delete = LOG.delete(7)
    assert target._record(delete, b"{}", delete.ordering_key).entry["PartitionKey"] == delete.ordering_key
    long = LOG.insert({"_id": 1, "region": "x" * 500})
    assert len(target._record(long, b"{}", "k").entry["PartitionKey"]) <= 256


def test_sqs_groups_and_ids(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-central-1")
    target = SqsTarget("http://q/1/a.fifo", message_group="{document.region}", deduplication_id="{key}-{operation}")
    entry = target._record(ORDER, b"{}", "k").entry
    assert entry["MessageGroupId"] == "eu"
    assert entry["MessageDeduplicationId"] == '{"_id":7}-insert'
    standard = SqsTarget("http://q/1/a", message_group="{document.region}")
    assert "MessageGroupId" not in standard._record(ORDER, b"{}", "k").entry


def test_kafka_topics_and_keys() -> None:
    target = KafkaTarget(
        "127.0.0.1:1", topic="{coll}.{document.region}", topic_allow=["orders.eu"], key="{document.customer.id}"
    )
    [record] = target._records.of(ORDER, b"{}")
    assert (record.topic, record.key) == ("orders.eu", b"12")
    with pytest.raises(UnrenderableError, match="KAFKA_TOPIC_ALLOW"):
        target._records.of(LOG.insert({"_id": 1, "region": "us"}), b"{}")
    with pytest.raises(UnrenderableError, match=r"document\.region"):
        target._records.of(LOG.delete(1), b"")
