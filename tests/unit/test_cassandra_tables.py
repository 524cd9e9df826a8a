"""The declaration of tables, versions as timestamps, and what addresses can be."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import pytest
from bson import Decimal128, Timestamp

from docdb_stream.errors import ConfigError, UnrenderableError
from docdb_stream.settings import Settings
from docdb_stream.targets._cassandra import cql
from docdb_stream.targets._cassandra.declaration import Column, tables_of
from docdb_stream.targets._cassandra.rows import rows_of
from docdb_stream.targets.cassandra import CassandraSettings, CassandraTarget

RULE = "views: v (id text = _id, PRIMARY KEY (id))"


def test_a_declaration() -> None:
    text = """views: by_session (session text = s.id, at TIMESTAMP, id text = _id, tag text = tags.0,
        primary key ((session, id), at DESC, tag)) ttl 90d
        views.archive: all (id text = _id, document text = ., n varint, PRIMARY KEY (id))
        ; x: y (z blob, PRIMARY KEY(z))"""
    first, second, third = tables_of(text)
    assert (first.collection, first.table, first.ttl_s) == ("views", "by_session", 90 * 86_400)
    assert [column.name for column in first.partition] == ["session", "id"]
    assert [column.name for column in first.columns] == ["session", "id", "at", "tag"]
    assert first.descending == {"at"}
    assert first.partition[0] == Column("session", "text", ("s", "id"))
    assert not first.is_keyed_by_id
    assert (second.collection, second.others[0].path, second.ttl_s) == ("views.archive", (), None)
    assert second.is_keyed_by_id
    assert third.partition == third.key
    assert cql.create(first, "gc_grace_seconds = 5") == (
        "CREATE TABLE IF NOT EXISTS by_session (session text, id text, at timestamp, tag text, "
        "PRIMARY KEY ((session, id), at, tag)) WITH CLUSTERING ORDER BY (at DESC, tag ASC) AND gc_grace_seconds = 5"
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("views", "expected a rule"),
        ("views: v (id text", "expected a rule"),
        ("views: v (id text) x", "PRIMARY KEY"),
        (f"{RULE} nonsense", "nonsense: expected a rule"),
        (f"{RULE} TTL 0d", "TTL 0d"),
        (f"{RULE} TTL 7301d", "20 years"),
        ("views: V (id text, PRIMARY KEY (id))", "small letters"),
        ("views: docdb_stream_documents (id text, PRIMARY KEY (id))", "the target's own"),
        ("views: v (id uuid7, PRIMARY KEY (id))", "uuid7 is not known"),
        ("views: v (id, PRIMARY KEY (id))", "expected a column"),
        ("views: v (id text = a..b, PRIMARY KEY (id))", "expected a path"),
        ("views: v (id text, d blob = ., PRIMARY KEY (id))", "the whole document is text"),
        ("views: v (id text, id int, PRIMARY KEY (id))", "said twice"),
        ("views: v (id text, PRIMARY KEY (id, id))", "each column once"),
        ("views: v (id text, PRIMARY KEY (other))", "those of the table"),
        ("views: v (id text, PRIMARY KEY (id), PRIMARY KEY (id))", "two PRIMARY KEYs"),
        ("views: v (id text, a int, PRIMARY KEY (id, a UP))", "perhaps DESC"),
        (f"{RULE}, {RULE}", "leave the second rule out"),
        (f"{RULE}, other: v (id int, PRIMARY KEY (id))", "two types"),
        (f"{RULE}, other: v (id text, a int, PRIMARY KEY (id, a))", "two keys"),
        ("; ,", "expected a rule"),
    ],
)
def test_what_is_no_declaration(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        tables_of(text)


def test_later_versions_have_later_timestamps() -> None:
    times = [Timestamp(second, inc) for second in (0, 1, 2**32 - 1) for inc in (0, 1, 15_999, 16_000, 16_001, 499_999)]
    states = [cql.timestamp_us(time, sequence) for time in times for sequence in (0, 1, 31)]
    assert states == sorted(states)
    within = [cql.timestamp_us(Timestamp(7, inc), sequence) for inc in (1, 2, 15_999) for sequence in range(32)]
    assert all(earlier < later for earlier, later in itertools.pairwise(within))
    firsts = [cql.timestamp_us(Timestamp(7, inc), 0) for inc in (0, 15_999, 16_000, 16_001, 499_999)]
    assert all(earlier < later for earlier, later in itertools.pairwise(firsts))
    assert cql.timestamp_us(Timestamp(7, 2**32 - 1), 31) < cql.timestamp_us(Timestamp(8, 0), 0)


@pytest.mark.parametrize("hosts", ["cql://host", "user:secret@host", "host:port", "a:1, b:2", ",", "ho st"])
def test_what_is_no_address(hosts: str) -> None:
    with pytest.raises(ConfigError, match="CASSANDRA_HOSTS") as caught:
        CassandraTarget(hosts, "live", RULE)
    assert "secret" not in str(caught.value)


def test_what_the_settings_say() -> None:
    given = {"documentdb_uri": "mongodb://127.0.0.1", "watched_db_name": "shop", "cassandra_keyspace": "live"}
    plain = Settings(**given, cassandra_hosts="db.example", cassandra_tables="v: v (id text, PRIMARY KEY (id))")
    told = " ".join(plain.of(CassandraSettings).cautions(plain.scope))
    assert "CASSANDRA_TLS" in told
    assert "take each other's row" in told
    assert CassandraTarget.permissions(plain) == []
    keyspaces = Settings(
        **given,
        cassandra_hosts="cassandra.eu-central-1.amazonaws.com:9142",
        cassandra_tables=RULE,
        cassandra_create=True,
    )
    assert [*keyspaces.of(CassandraSettings).cautions(keyspaces.scope)] == []
    [permission] = CassandraTarget.permissions(keyspaces)
    assert permission.actions == ("cassandra:Select", "cassandra:Modify", "cassandra:Create")
    with pytest.raises(ValueError, match="views: expected a rule"):
        Settings(**given, cassandra_hosts="db.example", cassandra_tables="views")
    with pytest.raises(ConfigError, match="CASSANDRA_KEYSPACE"):
        CassandraTarget("host", "", RULE)


@pytest.mark.parametrize(
    ("kind", "equal"),
    [
        ("decimal", [5, 5.0, Decimal128("5.00"), Decimal128("0.5E1")]),
        ("decimal", [100, 1e2, Decimal128("1E+2")]),
        ("decimal", [0, -0.0, Decimal128("-0.00")]),
        ("double", [0.0, -0.0, 0]),
    ],
)
def test_what_is_equal_has_one_key(kind: str, equal: Sequence[Any]) -> None:
    rules = tables_of(f"orders: by_x (x {kind}, id text = _id, PRIMARY KEY ((x), id))")
    keys = {repr(rows_of(rules, "1", "{}", {"_id": 1, "x": value})[0].key) for value in equal}
    assert len(keys) == 1, keys


def test_what_equals_nothing_is_no_key() -> None:
    rules = tables_of("orders: by_x (x double, id text = _id, PRIMARY KEY ((x), id))")
    with pytest.raises(UnrenderableError, match="x: not a number"):
        rows_of(rules, "1", "{}", {"_id": 1, "x": float("nan")})
