from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from docdb_stream.errors import CheckpointConflictError, ConfigError
from docdb_stream.events import Namespace
from docdb_stream.settings import Settings
from docdb_stream.targets._kafka import python_client
from docdb_stream.targets._kafka.brokers import Brokers
from docdb_stream.targets._kafka.confluent import ConfluentProducer
from docdb_stream.targets._kafka.producer import Record
from docdb_stream.targets._kafka.python import KafkaPythonProducer
from docdb_stream.targets._kafka.records import topic_name
from docdb_stream.targets.kafka import Client, KafkaTarget
from docdb_stream.testing.events import ChangeLog

BROKERS = Brokers("h:1", security_protocol="PLAINTEXT", sasl_mechanism="", secret=None, tls_ca=None, message_bytes=1)
KafkaPythonProducer("kafka", BROKERS)
from kafka import KafkaProducer  # noqa: E402
from kafka.errors import KafkaConnectionError  # noqa: E402
from kafka.future import Future  # noqa: E402
from kafka.partitioner.default import murmur2  # noqa: E402

CONFLUENT = {"kafka_client": "confluent"}


@pytest.mark.parametrize(
    ("prefix", "db", "coll", "topic"),
    [
        ("", "shop", "orders", "shop-orders"),
        ("", "shop", "Orders", "shop-Orders"),
        ("cdc.", "shop", "orders", "cdc.shop-orders"),
        ("", "shop", None, "shop"),
    ],
)
def test_topics_are_the_samples(prefix: str, db: str, coll: str | None, topic: str) -> None:
    assert topic_name(prefix, Namespace(db, coll)) == topic


@pytest.mark.parametrize(
    ("db", "coll", "pattern"),
    [("shop", "a b/ü", "shop-a_b__-"), ("shop", "o" * 300, "shop-o{235}-"), (".", None, "_-")],
)
def test_changed_topics_stay_readable(db: str, coll: str | None, pattern: str) -> None:
    assert re.fullmatch(pattern + "[0-9a-f]{8}", topic_name("", Namespace(db, coll)))


@given(st.text(min_size=1), st.text(min_size=1), st.text(min_size=1))
@example("shop", "a b", "a_b")
def test_collections_of_a_database_never_share_a_topic(db: str, one: str, other: str) -> None:
    topics = {topic_name("", Namespace(db, one)), topic_name("", Namespace(db, other))}
    assert len(topics) == (1 if one == other else 2)
    for topic in topics:
        assert re.fullmatch(r"[a-zA-Z0-9._-]{1,249}", topic)
        assert topic not in (".", "..")


@pytest.mark.parametrize("servers", ["", ",", "host:port", "host:99999", "a:1,,b:2", "[half"])
def test_servers_that_are_none_are_told_at_once(servers: str) -> None:
    with pytest.raises(ConfigError, match="MSK_BOOTSTRAP_SRV") as caught:
        KafkaTarget(servers)
    assert "host:port" in caught.value.hint


@pytest.mark.parametrize("protocol", ["SASL_PLAINTEXT", "SASL_SSL"])
def test_sasl_needs_a_secret(protocol: str) -> None:
    with pytest.raises(ConfigError, match="credentials") as caught:
        KafkaTarget("host:9092", security_protocol=protocol)
    assert "KAFKA_SECRET" in caught.value.hint


def test_a_missing_ca_bundle_is_told_at_once() -> None:
    with pytest.raises(ConfigError, match=r"/nowhere/ca\.pem: No such file"):
        KafkaTarget("host:9092", security_protocol="SSL", tls_ca="/nowhere/ca.pem")


@pytest.mark.parametrize("client", ["kafka-python", "confluent"])
def test_closing_an_unused_target_is_safe(client: Client) -> None:
    target = KafkaTarget("host:9092", client=client)
    assert target.write([]) == []
    assert target.flush() == []
    target.close()
    target.close()


def test_the_settings_choose_the_client() -> None:
    values: dict[str, Any] = {"documentdb_uri": "mongodb://x", "msk_bootstrap_srv": "host:9092"}
    values |= {"kafka_transactions": "off"}
    default, confluent = (KafkaTarget.from_settings(Settings(**values, **more)) for more in ({}, CONFLUENT))
    assert default is not None
    assert confluent is not None
    assert type(default._producer) is KafkaPythonProducer
    assert type(confluent._producer) is ConfluentProducer
    with pytest.raises(ValueError, match="kafka_client"):
        Settings(**values, kafka_client="java")


def test_librdkafka_takes_what_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Making its producer checks the settings; nothing is sent without a broker."""
    monkeypatch.setenv("SECRET", '{"username": "u", "password": "p"}')
    monkeypatch.setattr(Brokers, "reach_one", lambda *_: None)
    options: dict[str, Any] = {"client": "confluent", "security_protocol": "SASL_SSL", "secret": "env:SECRET"}
    for message_bytes in (1024, 10 * 1024 * 1024):
        target = KafkaTarget("127.0.0.1:1", message_bytes=message_bytes, **options)
        target._producer._opened()  # type: ignore[attr-defined]
        target.close()


@pytest.mark.parametrize(("over_bytes", "rejected"), [(0, 0), (1, 1)])
def test_librdkafka_is_given_nothing_that_is_too_large_with_its_overhead(
    monkeypatch: pytest.MonkeyPatch, over_bytes: int, rejected: int
) -> None:
    """librdkafka itself would count key and value alone, and let the broker refuse the batch."""
    monkeypatch.setattr(Brokers, "reach_one", lambda *_: None)
    target = KafkaTarget("127.0.0.1:1", client="confluent", message_bytes=5000)
    event = ChangeLog().insert({"_id": 1})
    overhead = 61 + 31 + 10 + len("name" + "namekey")
    record = Record(event, "topic", b"key", b"x" * (5000 - overhead + over_bytes), {"name": b"name"})
    assert len(target._producer.send([record])) == rejected
    target.close()


@given(st.binary(max_size=70))
def test_partitions_are_chosen_by_kafkas_own_hash(key: bytes) -> None:
    assert python_client.murmur2(key) == murmur2(key)


def test_no_request_is_made_once_the_lease_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    class Client:
        made: ClassVar[list[int]] = []

        def __init__(self, **config: Any) -> None:
            pass

        def send(self, node_id: int, request: Any, **options: Any) -> Any:
            self.made.append(request.API_KEY)
            return Future()

    lost = False

    def check() -> None:
        if lost:
            raise CheckpointConflictError("the lease is lost")

    monkeypatch.setitem(KafkaProducer.DEFAULT_CONFIG, "kafka_client", Client)
    client = python_client.Requests(check).client()
    metadata, produce = SimpleNamespace(API_KEY=3), SimpleNamespace(API_KEY=0)
    for request in (metadata, produce):
        assert not client.send(1, request).is_done
    lost = True
    assert isinstance(client.send(1, produce).exception, KafkaConnectionError)
    assert not client.send(1, metadata).is_done
    assert Client.made == [3, 0, 3]


@pytest.mark.parametrize(
    ("compression", "package"), [("snappy", "python-snappy"), ("lz4", "lz4"), ("zstd", "zstandard")]
)
def test_compression_that_is_not_installed_says_what_is_missing(
    monkeypatch: pytest.MonkeyPatch, compression: Any, package: str
) -> None:
    monkeypatch.setattr(f"kafka.codec.has_{compression}", lambda: False)
    with pytest.raises(ConfigError, match=f"KAFKA_COMPRESSION {compression} needs the package {package}") as caught:
        KafkaTarget("host:9092", compression=compression)
    assert f"pip install {package}" in caught.value.hint
    monkeypatch.setattr(f"kafka.codec.has_{compression}", lambda: True)
    KafkaTarget("host:9092", compression=compression)


def test_linger_and_compression_are_settings() -> None:
    values: dict[str, Any] = {"documentdb_uri": "mongodb://x", "msk_bootstrap_srv": "host:9092"}
    settings = Settings(**values, **CONFLUENT, kafka_linger_ms=20, kafka_compression="zstd", kafka_transactions="off")
    target = KafkaTarget.from_settings(settings)
    assert target is not None
    told = target._producer._client.configuration()  # type: ignore[attr-defined]
    assert (told["linger.ms"], told["compression.type"]) == (20, "zstd")
    with pytest.raises(ValueError, match="kafka_compression"):
        Settings(**values, kafka_compression="brotli")
    with pytest.raises(ValueError, match="kafka_linger_ms"):
        Settings(**values, kafka_linger_ms=-1)
