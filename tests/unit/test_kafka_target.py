from __future__ import annotations

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from docdb_stream.errors import ConfigError
from docdb_stream.events import Namespace
from docdb_stream.targets.kafka import KafkaTarget, topic_name


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


def test_closing_an_unused_target_is_safe() -> None:
    target = KafkaTarget("host:9092")
    assert target.write([]) == []
    assert target.flush() == []
    target.close()
    target.close()
