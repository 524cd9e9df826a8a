from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from docdb_stream.errors import ConfigError
from docdb_stream.settings import Settings
from docdb_stream.target import is_keyed, takes_derived
from docdb_stream.targets._postgresql.columns import columns_of, digest_of
from docdb_stream.targets._postgresql.errors import passes, trouble
from docdb_stream.targets.postgresql import PostgresSettings, PostgresTarget


def stream(**values: Any) -> Settings:
    given = {"documentdb_uri": "mongodb://a.example", "postgres_uri": "postgresql://mirror.example/shop", **values}
    return Settings(**given)


def test_it_is_keyed() -> None:
    target = PostgresTarget.from_settings(stream())
    assert is_keyed(target)
    assert not takes_derived(target)
    assert PostgresTarget.permissions(stream()) == []


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"postgres_table": "{document.shop}"}, "{db} and {coll} alone"),
        ({"postgres_uri": "host=h password=hunter2"}, "postgres_secret"),
        ({"postgres_uri": "postgresql://h/db?password=hunter2"}, "postgres_secret"),
        ({"postgres_columns": "a=a text, a=b text"}, "several columns a"),
        ({"postgres_columns": "a=a blob"}, "no type blob"),
        ({"postgres_tombstone_days": 0}, "greater than or equal to 1"),
        ({"postgres_secret": '{"username": "u", "password": "hunter2"}'}, "the secret itself"),
    ],
)
def test_what_cannot_be_meant_is_told_with_the_settings(values: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValidationError) as caught:
        stream(**values)
    assert problem in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_an_address_shows_no_password() -> None:
    assert "hunter2" not in repr(stream(postgres_uri="postgresql://u:hunter2@h/db"))


@pytest.mark.parametrize("uri", ["true", "mirror.example", "postgresql://h/db?nonsense=1"])
def test_what_is_no_connection_string(uri: str) -> None:
    with pytest.raises(ConfigError, match="POSTGRES_URI"):
        PostgresTarget.from_settings(stream(postgres_uri=uri))


def test_a_mirror_needs_whole_documents() -> None:
    with pytest.raises(ConfigError, match="whole documents"):
        PostgresTarget.from_settings(stream(full_document="default"))


@pytest.mark.parametrize(
    ("values", "word"),
    [
        ({"postgres_uri": "postgresql://h/db"}, "sslmode=verify-full"),
        ({"postgres_uri": "postgresql://h/db?sslmode=verify-full"}, ""),
        ({"postgres_uri": "postgresql://127.0.0.1/db"}, ""),
        ({"postgres_uri": "postgresql://127.0.0.1/db", "postgres_table": "{coll}"}, "share a table"),
    ],
)
def test_cautions(values: dict[str, Any], word: str) -> None:
    found = [*stream(**values).of(PostgresSettings).cautions(None)]
    assert bool(found) == bool(word)
    assert all(word in each for each in found)


@pytest.mark.parametrize(
    ("kind", "one", "other", "equal"),
    [
        ("numeric", "19.90", "19.9", True),
        ("numeric", "-0.0", "0", True),
        ("numeric", "NaN", "NaN", True),
        ("numeric", "1E+6144", "1" + "0" * 6144, True),
        ("double", "1e+20", "100000000000000000000", True),
        ("double", "-inf", "-Infinity", True),
        ("bytea", "\\x00ff", "00ff", True),
        ("jsonb", '{"b": 1.0, "a": 2}', '{"a":2,"b":1}', True),
        ("jsonb", '{"a": "1"}', '{"a": 1}', False),
        ("text", "a", "A", False),
    ],
)
def test_contents_are_compared_as_the_server_would(kind: str, one: str, other: str, equal: bool) -> None:
    columns = columns_of([f"v=v {kind}"])
    assert (digest_of(columns, [one]) == digest_of(columns, [other])) == equal


class Said(Exception):
    """As psycopg's errors are."""

    def __init__(self, sqlstate: str, text: str = "") -> None:
        super().__init__(text)
        self.sqlstate = sqlstate or None


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        *((Said(code), True) for code in ("40001", "40P01", "25006", "53100", "53300", "57014", "57P01", "08006")),
        *((Said(code), False) for code in ("42501", "42P01", "28P01", "XX000")),
        (Said("", "connection refused"), True),
        (Said("", "SSL connection has been closed unexpectedly"), True),
        (Said("", "FATAL:  the database system is not yet accepting connections"), True),
        (Said("", 'FATAL:  password authentication failed for user "u"'), False),
        (Said("", 'FATAL:  database "x" does not exist'), False),
        (Said("", "server certificate for h does not match host name"), False),
    ],
)
def test_what_passes(error: Said, expected: bool) -> None:
    assert passes(error) == expected
    assert trouble(error, "h/db", creates=True).hint


def test_an_error_names_no_values() -> None:
    assert "secret" not in str(trouble(Said("23505", "Key (a)=(secret) already exists"), "h/db", creates=True))
