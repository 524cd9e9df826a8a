"""Queries: which are refused, and how values are compared. Whether a server agrees: tests/integration/test_query.py."""

from __future__ import annotations

import datetime as dt
import itertools
import json
import re
from typing import Any

import bson
import pytest
from bson import Binary, Code, DBRef, Decimal128, Int64, MaxKey, MinKey, ObjectId, Regex, Timestamp
from bson.datetime_ms import DatetimeMS
from hypothesis import given
from hypothesis import strategies as st

from docdb_stream.errors import UnrenderableError
from docdb_stream.formats import rawbson
from docdb_stream.formats.reader import to_bson
from docdb_stream.query import regex
from docdb_stream.query.compare import compare
from docdb_stream.query.parse import parse
from docdb_stream.query.values import read

# What is refused


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "it is no JSON"),
        ("fullDocument.total >= 100", "it is no JSON"),
        ("{'a': 1}", "it is no JSON"),
        ('{"a": 1', "it is no JSON"),
        ("[]", "a query is a JSON object"),
        ("1", "a query is a JSON object"),
        ("{}", "it is empty"),
        ('{"a": 1, "a": 2}', "a is there twice"),
        ('{"a": {"$gt": 1, "$gt": 2}}', "$gt is there twice"),
        ('{"a": NaN}', '{"$numberDouble": "NaN"}'),
        ('{"a": {"$gt": -Infinity}}', "Infinity"),
        ('{"a": 9223372036854775808}', "BSON has not"),
        ('{"a": "\\ud800"}', "BSON has not"),
        ('{"a": {"$undefined": true}}', "Undefined"),
        ('{"a": {"$in": [{"$dbPointer": {"$ref": "a", "$id": {"$oid": "65b9f0000000000000000001"}}}]}}', "DBPointer"),
        ('{"$where": "true"}', "$where is not supported"),
        ('{"$expr": {"$gt": ["$a", "$b"]}}', "$expr is not supported"),
        ('{"$text": {"$search": "a"}}', "$text is not supported"),
        ('{"$jsonSchema": {}}', "$jsonSchema is not supported"),
        ('{"a": {"$near": [1, 2]}}', "a: $near is not supported"),
        ('{"a": {"$bitsAllSet": 1}}', "a: $bitsAllSet is not supported"),
        ('{"a": {"$oid": "none"}}', "a: $oid is not supported"),
        ('{"a": {"$ref": "c", "$id": 1}}', "a: $ref is not supported"),
        ('{"a": {"$gt": 1, "b": 2}}', "a: b is not supported"),
        ('{"a": {"$and": [{"b": 1}]}}', "a: $and does not belong here"),
        ('{"$gt": 1}', "$gt does not belong here"),
        ('{"a": {"b": {"$gt": 1}}}', "a: $gt is within a value"),
        ('{"a": {"b": 1, "$gt": 1}}', "a: $gt is within a value"),
        ('{"a": {"$in": [{"$gt": 1}]}}', "$gt is within a value"),
        ('{"a.$b": 1}', "no path with $"),
        ('{"a.$": 1}', "no path with $"),
        ('{"a..b": 1}', "is no path"),
        ('{"": 1}', "is no path"),
        ('{"$and": []}', "$and takes a list"),
        ('{"$or": {"a": 1}}', "$or takes a list"),
        ('{"$nor": [1]}', "$nor takes a list of queries"),
        ('{"a": {"$in": 1}}', "$in takes a list"),
        ('{"a": {"$all": 1}}', "$all takes a list"),
        ('{"a": {"$all": [{"$elemMatch": {"b": 1}}, 1]}}', "$elemMatch for all"),
        ('{"a": {"$not": 1}}', "$not takes operators"),
        ('{"a": {"$not": {}}}', "$not takes operators"),
        ('{"a": {"$elemMatch": {}}}', "$elemMatch takes"),
        ('{"a": {"$exists": "yes"}}', "$exists takes true or false"),
        ('{"a": {"$type": "text"}}', "$type takes the name or number"),
        ('{"a": {"$type": 0}}', "$type takes the name or number"),
        ('{"a": {"$type": []}}', "at least one"),
        ('{"a": {"$size": -1}}', "no negative"),
        ('{"a": {"$size": "1"}}', "whole numbers"),
        ('{"a": {"$mod": [0, 1]}}', "no divisor 0"),
        ('{"a": {"$mod": 2}}', "divisor and remainder"),
        ('{"a": {"$ne": {"$regularExpression": {"pattern": "a", "options": ""}}}}', "$ne takes no regular expression"),
        ('{"a": {"$gt": {"$regularExpression": {"pattern": "a", "options": ""}}}}', "$gt takes no regular expression"),
        ('{"a": {"$options": "i"}}', "$options is there without $regex"),
        ('{"a": {"$regex": 1}}', "take a text"),
        ('{"a": {"$regex": "a", "$options": "x"}}', "option x is not supported"),
        ('{"a": {"$regex": {"$regularExpression": {"pattern": "a", "options": "i"}}, "$options": "i"}}', "with $regex"),
        ('{"a": ' + '{"$not": ' * 60 + '{"$gt": 1}' + "}" * 61, "nested"),
        ('{"a": ' + "[" * 100_000, "nested too deeply"),
    ],
)
def test_what_cannot_be_judged_as_the_server_does_is_refused_and_named(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=re.escape(reason)) as caught:
        parse(text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "pattern",
    [
        *(
            "a++",
            "(?>a)",
            "\\p{L}",
            "\\X",
            "\\R",
            "\\h",
            "\\v",
            "\\K",
            "\\G",
            "\\Qa\\E",
            "(?<=a)b",
            "(?<!a)b",
            "(?<n>a)",
        ),
        *(
            "(?P<n>a)",
            "(a)\\1",
            "\\g1",
            "\\0",
            "\\12",
            "\\x{41}",
            "\\x4",
            "(*UCP)a",
            "a(?i)b",
            "(?#c)a",
            "(?|a)",
            "(?R)",
        ),
        *("[[:alpha:]]", "[[.a.]]", "[[=a=]]", "[a-\\d]", "[\\d-z]", "[z-a]", "[a", "(a", "a)", "*a", "a**", "a{2}{3}"),
        *("a{1001}", "a{2,1}", "^*", "\\b+", "(?=a)*", "\\", "(a+)+", "(a|a)*", "(a*){2}", "(?x)a b", "a\\ca", "\\N"),
        *("a?" * 30 + "a" * 30, "a" * 40_000, ".*.*.*.*x"),
    ],
)
def test_a_regular_expression_that_python_reads_differently_is_refused(pattern: str) -> None:
    with pytest.raises(ValueError, match="regular expression"):
        regex.compiled(pattern, "")


@pytest.mark.parametrize(("pattern", "options"), [("\u00e9", "i"), ("[a-\u00e9]", "i"), ("a", "u"), ("a", "l")])
def test_options_that_differ_are_refused(pattern: str, options: str) -> None:
    with pytest.raises(ValueError, match="regular expression"):
        regex.compiled(pattern, options)


@pytest.mark.parametrize(("pattern", "text"), [("a.*b", "a"), ("x*x*y", "x"), ("a{1,1000}b", "a")])
def test_no_document_makes_a_search_take_for_ever(pattern: str, text: str) -> None:
    matches = parse(json.dumps({"a": {"$regex": pattern}})).matches
    with pytest.raises(UnrenderableError, match="too long"):
        matches({"a": text * regex.LONGEST_TEXT})
    with pytest.raises(UnrenderableError, match="too long"):  # also of many short ones
        matches({"a": [text * 1_000] * 15_000})
    for _ in range(3):  # each document has as much time
        assert not matches({"a": text * 300})


def test_a_simple_search_takes_any_text() -> None:
    assert not regex.compiled("^a.*z$", "")("a" * 1_000_000)
    assert regex.compiled("abc|z", "i")("a" * 1_000_000 + "Z")


# What is known of a query


def test_a_query_says_what_it_is_about() -> None:
    query = parse('{"$or": [{"a.b": 1}, {"c": {"$elemMatch": {"d": 1}}}], "e": {"$not": {"$gt": 1}}, "$comment": "x"}')
    assert query.paths == {"a.b", "c", "e"}
    assert query.is_about({"a"})
    assert not query.is_about({"d", "b"})
    assert query.is_only_about({"a", "c", "e"})
    assert not query.is_only_about({"a", "c"})


@pytest.mark.parametrize("value", [rawbson.Undefined(), rawbson.DBPointer("c", ObjectId()), object()])
@pytest.mark.parametrize(
    "query",
    [
        *(
            '{"a": 1}',
            '{"a": null}',
            '{"a": "x"}',
            '{"a": {"$gt": true}}',
            '{"a": {"$in": ["x"]}}',
            '{"a": {"$in": [1]}}',
        ),
        *(
            '{"a": {"$regex": "x"}}',
            '{"a": {"$mod": [2, 0]}}',
            '{"a": {"$ne": 1}}',
            '{"a": [1]}',
            '{"a": {"$gt": null}}',
        ),
    ],
)
def test_a_value_that_versions_judge_differently_is_not_judged(value: Any, query: str) -> None:
    with pytest.raises(UnrenderableError, match=type(value).__name__):
        parse(query).matches({"a": value})
    with pytest.raises(UnrenderableError, match=type(value).__name__):
        parse(query).matches({"a": [value]})
    assert parse('{"a": {"$exists": true}}').matches({"a": value})


def test_a_numbers_fraction_is_not_judged_by_mod() -> None:
    matches = parse('{"a": {"$mod": [2, 1]}}').matches
    assert [matches({"a": one}) for one in (1, -1, 3.9, Int64(5), Decimal128("7.0"))] == [True, False, True, True, True]
    for value in (float("nan"), 1e300, Decimal128("1.5"), Decimal128("NaN"), Decimal128("1E+6144")):
        with pytest.raises(UnrenderableError):
            matches({"a": value})


def test_a_key_that_occurs_twice_is_seen_first_and_compared_whole() -> None:
    twice = bson.encode({"a": 1})[4:-1] + bson.encode({"a": 2})[4:-1]
    inner = len(twice) + 5
    raw_inner = inner.to_bytes(4, "little") + twice + b"\0"
    document = read((len(raw_inner) + 8).to_bytes(4, "little") + b"\x03d\0" + raw_inner + b"\0")
    assert parse('{"d.a": 1}').matches(document)
    assert not parse('{"d.a": 2}').matches(document)
    assert not parse('{"d": {"a": 1}}').matches(document)
    assert not parse('{"d": {"a": 2}}').matches(document)
    assert parse('{"d": {"$gt": {"a": 1}}}').matches(document)


def test_a_reference_is_a_document() -> None:
    document = bson.decode(bson.encode({"a": DBRef("c", 1, extra=[{"b": 2}])}))
    assert isinstance(document["a"], DBRef)
    assert parse('{"a.extra.b": 2}').matches(document)
    assert parse('{"a": {"$type": "object"}}').matches(document)


# How values are compared

ORDERED: list[list[Any]] = [
    [MinKey()],
    [None],
    [float("nan"), Decimal128("NaN"), Decimal128("sNaN")],
    [float("-inf"), Decimal128("-Infinity")],
    [Decimal128("-1E+400")],
    [Int64(-(2**63)), float(-(2**63))],
    [-1, -1.0, Int64(-1), Decimal128("-1.000")],
    [0, -0.0, Decimal128("-0"), Decimal128("0E+300")],
    [5e-324],
    [Decimal128("0.1")],
    [0.1],
    [1, True + 0],
    [2**53, float(2**53)],
    [Int64(2**53 + 1), Decimal128("9007199254740993")],
    [Int64(2**63 - 1)],
    [float(2**63)],
    [float("inf"), Decimal128("Infinity")],
    [""],
    ["A"],
    ["a", rawbson.Symbol("a")],
    ["aa"],
    ["\uffff"],
    ["\U0001f600"],
    [{}],
    [{"a": 1}, {"a": 1.0}],
    [{"a": 1, "b": 1}],
    [{"b": 0}],
    [{"a": "x"}],
    [[]],
    [[1], [1.0]],
    [[1, 0]],
    [["x"]],
    [b"", Binary(b"", 0)],
    [b"b"],
    [Binary(b"a", 5)],
    [b"aa"],
    [Binary(b"a", 2)],
    [ObjectId("65b9f0000000000000000001")],
    [ObjectId("65b9f0000000000000000002")],
    [False],
    [True],
    [DatetimeMS(-(2**63))],
    [dt.datetime(1969, 12, 31), dt.datetime(1969, 12, 31, tzinfo=dt.UTC), DatetimeMS(-86_400_000)],
    [DatetimeMS(2**63 - 1)],
    [Timestamp(1, 5)],
    [Timestamp(2**32 - 1, 0)],
    [Regex("a", 0), rawbson.RegularExpression("a", "")],
    [Regex("a", "i"), rawbson.RegularExpression("a", "i")],
    [Regex("b", "")],
    [Code("a")],
    [Code("a", {})],
    [Code("a", {"x": 1})],
    [MaxKey()],
]


def test_values_are_ordered_as_mongodb_orders_them() -> None:
    for (place, group), (other_place, others) in itertools.product(enumerate(ORDERED), repeat=2):
        for left, right in itertools.product(group, others):
            found = compare(left, right)
            assert (found > 0) - (found < 0) == (place > other_place) - (place < other_place), (left, right)


simple = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1).map(Int64),
    st.integers(-(2**31), 2**31 - 1),
    st.floats(),
    st.decimals(places=3, allow_nan=False, min_value=-(10**20), max_value=10**20).map(Decimal128),
    st.text(max_size=3),
    st.binary(max_size=3),
)
values = st.recursive(
    simple,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.sampled_from("ab"), inner, max_size=2)),
    max_leaves=6,
)


@given(values, values, values)
def test_the_order_is_one(one: Any, other: Any, third: Any) -> None:
    def sign(left: Any, right: Any) -> int:
        found = compare(left, right)
        return (found > 0) - (found < 0)

    assert sign(one, one) == 0
    assert sign(one, other) == -sign(other, one)
    first, second, last = sorted([one, other, third], key=_Ordered)
    assert sign(first, second) <= 0
    assert sign(second, last) <= 0
    assert sign(first, last) <= 0


class _Ordered:
    def __init__(self, value: Any) -> None:
        self.value = value

    def __lt__(self, other: _Ordered) -> bool:
        return compare(self.value, other.value) < 0


@given(values)
def test_what_is_read_of_bytes_is_equal_to_what_is_decoded(value: Any) -> None:
    raw = bson.encode({"a": value})
    assert compare(read(raw), bson.decode(raw)) == 0
    assert parse('{"a": {"$exists": true}}').matches(read(raw))


def test_symbols_are_read_and_compared_like_texts() -> None:
    document = read(to_bson({"a": [{"$symbol": "new"}], "b": {"$code": "x", "$scope": {"y": [1]}}}))
    assert parse('{"a": "new"}').matches(document)
    assert parse('{"a": {"$in": ["new", "paid"]}}').matches(document)
    assert parse('{"a": {"$regex": "^n"}}').matches(document)
    assert parse('{"a": {"$type": "symbol"}}').matches(document)
    assert parse('{"b": {"$code": "x", "$scope": {"y": [1.0]}}}').matches(document)
