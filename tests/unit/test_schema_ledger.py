"""Shapes of documents, and what a ledger knows of them."""

from __future__ import annotations

import datetime as dt
import random
from typing import Any

import bson
import pytest
from bson import Binary, Decimal128, Int64, ObjectId, Timestamp

from docdb_stream.formats.decoded import decode
from docdb_stream.position import Namespace
from docdb_stream.schema import ledger as ledgers
from docdb_stream.schema.columns import column_name, type_of
from docdb_stream.schema.ledger import Ledger, Moment
from docdb_stream.schema.shape import DEPTH_MOST, key_of, path_of, paths_in, shape_of
from docdb_stream.stores.schemas import kept_from_document, ledger_fields

ORDERS = Namespace("shop", "orders")


def at(number: int) -> Moment:
    return Moment(f"event{number}", Timestamp(1_700_000_000 + number, 1))


def shape(document: dict[str, Any]) -> Any:
    return shape_of(decode(bson.encode(document)))


def paths(document: dict[str, Any]) -> set[tuple[str, str]]:
    return {*paths_in(shape(document))}


def learned(*documents: dict[str, Any]) -> Ledger:
    ledger = Ledger(ORDERS)
    for number, document in enumerate(documents):
        ledger.learn(shape(document), at(number))
    return ledger


def test_paths_say_where_a_value_is_and_of_which_type() -> None:
    document = {
        "_id": ObjectId(),
        "n": None,
        "items": [{"sku": "a", "n": 1}, {"sku": Int64(5)}, "loose", []],
        "ship": {"to": {"zip": 1.5}},
        "at": dt.datetime(2024, 1, 1),
        "u": Binary(b"0" * 16, 4),
        "b": b"x",
        "d": Decimal128("1"),
        "empty": [],
    }
    assert paths(document) == {
        ("_id", "objectId"),
        ("n", "null"),
        ("items", "array"),
        ("items[]", "object"),
        ("items[]", "string"),
        ("items[]", "array"),
        ("items[].sku", "string"),
        ("items[].sku", "long"),
        ("items[].n", "int"),
        ("ship", "object"),
        ("ship.to", "object"),
        ("ship.to.zip", "double"),
        ("at", "date"),
        ("u", "uuid"),
        ("b", "binData"),
        ("d", "decimal"),
        ("empty", "array"),
    }


@pytest.mark.parametrize("key", ["a", "a.b", "a[]", "[]", ".", "", "a\\", "a\\.b", "ä", "a\nb"])
def test_a_path_gives_its_key_back(key: str) -> None:
    assert key_of(path_of(key)) == key
    assert paths({key: {"x": [1]}}) == {
        (path_of(key), "object"),
        (path_of(key) + ".x", "array"),
        (path_of(key) + ".x[]", "int"),
    }
    assert key_of(path_of(key) + ".x") is None
    assert key_of(path_of(key) + "[]") is None


def test_deep_documents_end_somewhere() -> None:
    document: dict[str, Any] = {"x": 1}
    for _ in range(90):
        document = {"x": document, "y": [document]}
        if len(bson.encode(document)) > 1_000_000:
            break
    assert max(path.count("x") for path, _ in paths(document)) <= DEPTH_MOST + 1


def test_documents_of_one_shape_are_equal_whatever_their_values_are() -> None:
    first = {"a": 1, "b": [1, 2, 3], "c": {"d": "x"}}
    assert shape(first) == shape({"a": 7, "b": [9], "c": {"d": ""}})
    assert shape(first) != shape({"a": 7, "b": ["9"], "c": {"d": ""}})
    assert hash(shape(first)) is not None


def test_a_ledger_counts_and_says_since_when() -> None:
    ledger = learned({"_id": 1, "total": 1}, {"_id": 2, "total": "x"}, {"_id": 3, "total": 5})
    assert (ledger.version, ledger.documents) == (2, 3)
    total = ledger.paths["total"]
    assert [(kind, seen.count, seen.first, seen.last) for kind, seen in total.items()] == [
        ("int", 2, at(0), at(2)),
        ("string", 1, at(1), at(1)),
    ]
    assert [(change.version, change.added) for change in ledger.history] == [
        (1, (("_id", "int"), ("total", "int"))),
        (2, (("total", "string"),)),
    ]


def test_a_null_is_never_news() -> None:
    ledger = learned({"_id": 1, "a": 1})
    assert ledger.news(shape({"_id": 1, "a": None, "b": None})) == []
    ledger.learn(shape({"_id": 1, "b": None}), at(1))
    assert ledger.version == 1
    assert ledger.news(shape({"_id": 1, "b": 5})) == [("b", "int")]
    assert [column.field for column in ledger.columns()] == ["_id", "a"]


def test_names_are_given_once_and_kept() -> None:
    ledger = learned({"_id": 1, "total": 1})
    assert [column.name for column in ledger.columns()] == ["_id", "total"]
    ledger.learn(shape({"_id": 1, "Total": 1, "total": 1.5}), at(1))
    names = {column.field: column.name for column in ledger.columns()}
    assert names == {"_id": "_id", "total": "total", "Total": "Total__2"}
    again = kept_from_document({**ledger_fields("s", ledger), "_id": "s/shop.orders"}).ledger
    assert {column.field: column.name for column in again.columns()} == names


def test_a_ledger_is_stored_as_it_is() -> None:
    chance = random.Random(1)
    values: list[Any] = [1, "x", None, [1, {"a.b": 1}], {"$odd": {"": 1.5}}, Int64(7)]
    ledger = learned(*({f"f{chance.randrange(9)}": chance.choice(values)} for _ in range(200)))
    ledger.columns()
    stored = bson.decode(bson.encode({**ledger_fields("s", ledger), "_id": "s/shop.orders"}))
    again = kept_from_document(stored).ledger
    assert (again.paths, again.names, again.history) == (ledger.paths, ledger.names, ledger.history)
    assert (again.version, again.documents, again.namespace) == (ledger.version, ledger.documents, ORDERS)


def test_five_thousand_keys_are_the_end(caplog: pytest.LogCaptureFixture) -> None:
    ledger = Ledger(ORDERS)
    for number in range(60):
        ledger.learn(shape({f"user{100 * number + each}": 1 for each in range(100)}), at(number))
    assert len(ledger.paths) == ledgers.PATHS_MOST
    assert ledger.is_full
    [message] = [record.getMessage() for record in caplog.records]
    assert "FIELDS_KEEP" in message
    assert len(ledger.columns()) == 1_500
    assert len(bson.encode(ledger_fields("s", ledger))) < 4_000_000


def test_whatever_keys_and_types_there_are_a_ledger_fits_a_document() -> None:
    ledger = Ledger(ORDERS)
    values: list[Any] = [1, "x", 1.5, True, [1], {"a": 1}, ObjectId(), b"x", dt.datetime(2024, 1, 1), None, Int64(1)]
    long = Moment.of("8" * 100_000, Timestamp(1, 1))
    for number in range(120):
        document = {f"{each}-{number % 10}-" + "k" * 10_000: values[number % 11] for each in range(100)}
        ledger.learn(shape({"deep": document, **document}), long)
    assert ledger.is_full
    assert sum(map(len, ledger.paths.values())) == ledgers.PATHS_MOST
    assert ledger.news(shape({"another": 1})) == []
    assert len(bson.encode(ledger_fields("s", ledger))) < 12_000_000
    assert [column for column in ledger.columns() if len(column.field) > 300] == []


def test_a_type_that_changes_in_every_document_makes_two_columns() -> None:
    values: list[Any] = [1, "x", 1.5, True, [1], {"a": 1}, ObjectId(), b"x", dt.datetime(2024, 1, 1), Decimal128("1")]
    ledger = learned(*({"x": value} for value in values))
    [column] = ledger.columns()
    assert (column.type, column.has_other, column.other_name) == ("decimal", True, "x__string")


@pytest.mark.parametrize(
    ("types", "expected"),
    [
        (["int"], ("int32", False)),
        (["long"], ("int64", False)),
        (["int", "long"], ("int64", False)),
        (["long", "int"], ("int64", False)),
        (["int", "double"], ("double", False)),
        (["long", "double"], ("double", True)),
        (["decimal"], ("decimal", True)),
        (["double", "decimal"], ("decimal", True)),
        (["string", "objectId", "uuid"], ("text", False)),
        (["string", "int"], ("text", True)),
        (["object", "array"], ("json", False)),
        (["null"], None),
        (["null", "bool"], ("bool", False)),
        (["symbolOfALaterVersion"], ("json", False)),
    ],
)
def test_numbers_widen_and_others_conflict(types: list[str], expected: Any) -> None:
    assert type_of(types) == expected


def test_long_names_are_cut_and_told_apart() -> None:
    taken: set[str] = set()
    for number in range(50):
        name = column_name("é" * 100 + str(number % 2), taken)
        assert len(name.encode()) <= 55
        assert name.lower() not in taken
        taken.add(name.lower())


@pytest.mark.parametrize("wrong", [{"paths": 7}, {"names": [1]}, {"version": "x"}, {"history": [{}]}, {"db": None}])
def test_a_ledger_that_somebody_changed_is_refused(wrong: dict[str, Any]) -> None:
    stored = {**ledger_fields("s", learned({"a": 1})), "_id": "s/shop.orders", **wrong}
    if wrong == {"db": None}:
        del stored["db"]
    with pytest.raises(Exception, match="cannot be read"):
        kept_from_document(stored)


def test_a_later_format_says_to_upgrade() -> None:
    stored = {**ledger_fields("s", learned({"a": 1})), "_id": "s/shop.orders", "format": 2}
    with pytest.raises(Exception, match="knows up to 1"):
        kept_from_document(stored)
