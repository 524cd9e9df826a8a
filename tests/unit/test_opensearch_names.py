from __future__ import annotations

import string
from decimal import Decimal
from typing import Any

import pytest
from bson import Binary, Decimal128, Int64, MaxKey, MinKey, ObjectId, Timestamp
from bson.datetime_ms import DatetimeMS
from bson.decimal128 import create_decimal128_context
from hypothesis import example, given
from hypothesis import strategies as st

from docdb_stream.events import Namespace
from docdb_stream.targets._opensearch.names import index_name
from docdb_stream.targets._versioned import document_id, document_version

CONTEXT = create_decimal128_context()
INT64 = st.integers(-(2**63), 2**63 - 1)
DECIMALS = st.decimals(allow_nan=True) | st.sampled_from([Decimal("9.99E+6144"), Decimal("1E-6176"), Decimal("0.10")])
NUMBERS = INT64 | st.floats() | DECIMALS.map(lambda value: Decimal128(CONTEXT.create_decimal(value)))
NUMBER_LIKE = ["1", "-1", "1.5", "1e+300", "1\n", "NaN", "Infinity", "-Infinity"]
JSON_LIKE = ["true", "null", '"', '"a"', '"1"', "{}", "[1]", '{"$date":"1970-01-01T00:00:00Z"}']
TRICKY = st.sampled_from(
    [*NUMBER_LIKE, *JSON_LIKE, "", "65b9f0000000000000000001", "sha256:" + "0" * 64, "é" * 256, "é" * 257]
)
IDS = (
    NUMBERS
    | TRICKY
    | st.text()
    | st.text(string.digits + ".-+eE")
    | st.binary(min_size=12, max_size=12).map(ObjectId)
    | st.booleans()
    | st.none()
    | INT64.map(DatetimeMS)
    | st.binary().map(lambda value: Binary(value, 0))
    | st.dictionaries(st.sampled_from("ab"), INT64 | st.text())
    | st.sampled_from([MinKey(), MaxKey(), Timestamp(1, 1)])
)


def identity(value: Any) -> Any:
    """What MongoDB compares: a kind, and the value as that kind."""
    if isinstance(value, Decimal128):
        value = value.to_decimal()
    if isinstance(value, int | float | Decimal) and not isinstance(value, bool):
        return ("number", "NaN") if Decimal(value).is_nan() else ("number", value)
    return (type(value).__name__, repr(value))


@given(IDS, IDS)
@example("1", 1)
@example(0.1, Decimal128("0.1"))
@example(1.0, Decimal128("1.00"))
@example(1e300, 10**300)
@example(float(2**63), Decimal128("9223372036854775808"))
@example(float("inf"), Decimal128("9.99E+6144"))
@example(Decimal128("NaN"), Decimal128("sNaN"))
@example("é" * 257, "sha256:" + "0" * 64)
def test_ids_have_one_text_exactly_when_mongodb_takes_them_for_one(one: Any, other: Any) -> None:
    assert (document_id(one) == document_id(other)) == (identity(one) == identity(other))


@given(IDS)
def test_opensearch_takes_every_id(value: Any) -> None:
    assert 1 <= len(document_id(value).encode()) <= 512


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (ObjectId("65b9f0000000000000000001"), "65b9f0000000000000000001"),
        ("65b9f0000000000000000001", '"65b9f0000000000000000001"'),
        ("order-17", "order-17"),
        ("2026-01-31", "2026-01-31"),
        ("a b/ü", "a b/ü"),
        ("17", '"17"'),
        ("", '""'),
        (17, "17"),
        (Int64(17), "17"),
        (17.0, "17"),
        (-0.0, "0"),
        (1.5, "1.5"),
        (0.1, "0.1"),
        (Decimal128("1.50"), "1.5"),
        (Decimal128("0.10"), '{"$numberDecimal":"1E-1"}'),
        (Decimal128("NaN"), "NaN"),
        (float("-inf"), "-Infinity"),
        (True, "true"),
        (None, "null"),
        ({"b": 1, "a": "x"}, '{"b":1,"a":"x"}'),
        (DatetimeMS(0), '{"$date":"1970-01-01T00:00:00Z"}'),
    ],
)
def test_ids_are_readable(value: Any, text: str) -> None:
    assert document_id(value) == text


@pytest.mark.parametrize(
    ("db", "coll", "start"),
    [
        ("shop", "orders", "shop-orders"),
        ("shop", "Orders", "shop-orders-"),
        ("shop", "a*b c", "shop-a_b_c-"),
        ("_shop", "orders", "shop-orders-"),
        ("shop", "o" * 300, "shop-ooo"),
        ("shop", "ü" * 200, "shop-üüü"),
        ("+", None, "index-"),
        ("..", None, "index-"),
    ],
)
def test_index_names_stay_readable(db: str, coll: str | None, start: str) -> None:
    name = index_name("", Namespace(db, coll))
    assert name.startswith(start)
    assert (name == start) == (not start.endswith("-") and coll == "orders")


def test_the_prefix_comes_first() -> None:
    assert index_name("cdc-", Namespace("shop", "orders")) == "cdc-shop-orders"


@given(st.text(min_size=1), st.text(min_size=1), st.text(min_size=1))
@example("shop", "Orders", "orders")
def test_collections_of_a_database_never_share_an_index(db: str, one: str, other: str) -> None:
    names = {index_name("", Namespace(db, one)), index_name("", Namespace(db, other))}
    assert len(names) == (1 if one == other else 2)
    for name in names:
        assert name == name.lower()
        assert len(name.encode()) <= 255
        assert name[0] not in "-_+"
        assert not set(name) & set('\\/*?"<>| ,#:')


@given(
    st.tuples(st.integers(0, 2**32 - 1), st.integers(0, 2**31 - 1)),
    st.tuples(st.integers(0, 2**32 - 1), st.integers(0, 2**31 - 1)),
)
@example((2**32 - 1, 2**31 - 1), (0, 0))
def test_versions_have_the_order_of_cluster_times(one: tuple[int, int], other: tuple[int, int]) -> None:
    versions = document_version(Timestamp(*one)), document_version(Timestamp(*other))
    assert (versions[0] < versions[1]) == (one < other)
    assert max(versions) < 2**63


def test_an_increment_beyond_31_bits_does_not_reach_the_seconds() -> None:
    assert document_version(Timestamp(1, 2**32 - 1)) < document_version(Timestamp(2, 0))
