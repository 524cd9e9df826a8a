"""Rendering of every BSON type, what is refused, and the proof that the fast path loses nothing."""

import json
import math
import os
import re
import struct
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any
from unittest import mock

import bson
import pytest
from bson import json_util
from bson.binary import Binary
from bson.code import Code
from bson.codec_options import DatetimeConversion
from bson.datetime_ms import DatetimeMS
from bson.dbref import DBRef
from bson.decimal128 import Decimal128
from bson.int64 import Int64
from bson.max_key import MaxKey
from bson.min_key import MinKey
from bson.objectid import ObjectId
from bson.raw_bson import RawBSONDocument
from bson.regex import Regex
from bson.timestamp import Timestamp
from hypothesis import given
from hypothesis import strategies as st

from docdb_stream.errors import UnrenderableError
from docdb_stream.formats import _json
from docdb_stream.formats.decoded import decode
from docdb_stream.formats.extended import extended_json
from docdb_stream.formats.plain import plain_json

OID = ObjectId("65a1f0c2d4e5f60718293a4b")
UUID_BYTES = bytes(range(16))
UUID_TEXT = "00010203-0405-0607-0809-0a0b0c0d0e0f"


def binary(data: str, subtype: str) -> dict[str, Any]:
    return {"$binary": {"base64": data, "subType": subtype}}


# value, its Extended JSON, its plain JSON
VALUES = [
    (None, "null", "null"),
    (True, "true", "true"),
    ("grün\0\u2028", '"grün\\u0000\u2028"', '"grün\\u0000\u2028"'),
    (-(2**31), "-2147483648", "-2147483648"),
    (Int64(5), "5", "5"),
    (Int64(2**53 + 1), "9007199254740993", "9007199254740993"),
    (Int64(-(2**63)), "-9223372036854775808", "-9223372036854775808"),
    (1.0, "1.0", "1.0"),
    (-0.0, "-0.0", "-0.0"),
    (5e-324, "5e-324", "5e-324"),
    (math.nan, '{"$numberDouble":"NaN"}', '"NaN"'),
    (math.inf, '{"$numberDouble":"Infinity"}', '"Infinity"'),
    (-math.inf, '{"$numberDouble":"-Infinity"}', '"-Infinity"'),
    (Decimal128("149.90"), '{"$numberDecimal":"149.90"}', '"149.90"'),
    (Decimal128("NaN"), '{"$numberDecimal":"NaN"}', '"NaN"'),
    (OID, f'{{"$oid":"{OID}"}}', f'"{OID}"'),
    (datetime(1970, 1, 1), '{"$date":"1970-01-01T00:00:00Z"}', '"1970-01-01T00:00:00.000Z"'),
    (datetime(2024, 2, 29, 1, 2, 3, 40000), '{"$date":"2024-02-29T01:02:03.040Z"}', '"2024-02-29T01:02:03.040Z"'),
    (datetime(9999, 12, 31, 23, 59, 59, 999000), '{"$date":"9999-12-31T23:59:59.999Z"}', '"9999-12-31T23:59:59.999Z"'),
    (datetime(1969, 12, 31, 23, 59, 59, 999000), '{"$date":{"$numberLong":"-1"}}', '"1969-12-31T23:59:59.999Z"'),
    (datetime(1, 1, 1), '{"$date":{"$numberLong":"-62135596800000"}}', '"0001-01-01T00:00:00.000Z"'),
    (DatetimeMS(253402300800000), '{"$date":{"$numberLong":"253402300800000"}}', "253402300800000"),
    (DatetimeMS(-62135596800001), '{"$date":{"$numberLong":"-62135596800001"}}', "-62135596800001"),
    (b"\xca\xfe", '{"$binary":{"base64":"yv4=","subType":"00"}}', '"yv4="'),
    (Binary(b"\xca\xfe", 2), '{"$binary":{"base64":"yv4=","subType":"02"}}', '"yv4="'),
    (Binary(b"", 0x80), '{"$binary":{"base64":"","subType":"80"}}', '""'),
    (
        Binary(UUID_BYTES, 4),
        '{"$binary":{"base64":"AAECAwQFBgcICQoLDA0ODw==","subType":"04"}}',
        f'"{UUID_TEXT}"',
    ),
    (
        Binary(UUID_BYTES, 3),
        '{"$binary":{"base64":"AAECAwQFBgcICQoLDA0ODw==","subType":"03"}}',
        '"AAECAwQFBgcICQoLDA0ODw=="',
    ),
    (
        Timestamp(2**32 - 1, 2**32 - 1),
        '{"$timestamp":{"t":4294967295,"i":4294967295}}',
        '"2106-02-07T06:28:15.000Z"',
    ),
    (Regex("a/b", "xi"), '{"$regularExpression":{"pattern":"a/b","options":"ix"}}', '"/a/b/ix"'),
    (Code("f()"), '{"$code":"f()"}', '"f()"'),
    (Code("f()", {}), '{"$code":"f()","$scope":{}}', '"f()"'),
    (Code("f()", {"n": math.nan}), '{"$code":"f()","$scope":{"n":{"$numberDouble":"NaN"}}}', '"f()"'),
    (MinKey(), '{"$minKey":1}', '"MinKey"'),
    (MaxKey(), '{"$maxKey":1}', '"MaxKey"'),
    (
        DBRef("c", OID, "d", more=math.inf),
        f'{{"$ref":"c","$id":{{"$oid":"{OID}"}},"$db":"d","more":{{"$numberDouble":"Infinity"}}}}',
        f'{{"$ref":"c","$id":"{OID}","$db":"d","more":"Infinity"}}',
    ),
    (DBRef("c", 1), '{"$ref":"c","$id":1}', '{"$ref":"c","$id":1}'),
    ([], "[]", "[]"),
    ([1, [None, {"b": OID}]], f'[1,[null,{{"b":{{"$oid":"{OID}"}}}}]]', f'[1,[null,{{"b":"{OID}"}}]]'),
    ({"z": 1, "a": {"": 2}}, '{"z":1,"a":{"":2}}', '{"z":1,"a":{"":2}}'),
]


@pytest.mark.parametrize(("value", "extended", "plain"), VALUES)
def test_renders_every_type(value: Any, extended: str, plain: str) -> None:
    raw = bson.encode({"a": value})
    for document, source in ((decode(raw), raw), (decode(raw), None), ({"a": value}, None)):
        assert extended_json(document, source).decode() == f'{{"a":{extended}}}'
        assert plain_json(document, source).decode() == f'{{"a":{plain}}}'


@pytest.mark.parametrize(("value", "extended", "plain"), VALUES)
def test_exact_path_renders_every_type_alike(value: Any, extended: str, plain: str) -> None:
    raw = bson.encode({"a": value})
    with mock.patch.object(_json, "is_whole", return_value=False):
        assert extended_json({}, raw).decode() == f'{{"a":{extended}}}'
        assert plain_json({}, raw).decode() == f'{{"a":{plain}}}'


def raw_document(*elements: bytes) -> bytes:
    body = b"".join(elements)
    return struct.pack("<i", len(body) + 5) + body + b"\0"


@pytest.mark.parametrize(
    ("raw", "extended", "plain"),
    [
        (b"\x06a\0", '"a":{"$undefined":true}', '"a":null'),
        (b"\x06\0", '"":{"$undefined":true}', '"":null'),
        (b"\x0ea\0\2\0\0\0s\0", '"a":{"$symbol":"s"}', '"a":"s"'),
        (
            b"\x0ca\0\2\0\0\0n\0" + OID.binary,
            f'"a":{{"$dbPointer":{{"$ref":"n","$id":{{"$oid":"{OID}"}}}}}}',
            f'"a":{{"$ref":"n","$id":"{OID}"}}',
        ),
        (b"\x10a\0\1\0\0\0\x0aa\0\x10a\0\2\0\0\0", '"a":1,"a":null,"a":2', '"a":1,"a":null,"a":2'),
        # An option that pymongo does not know, and a DBRef in an order that it would not keep.
        (b"\x0ba\0p\0zi\0", '"a":{"$regularExpression":{"pattern":"p","options":"iz"}}', '"a":"/p/iz"'),
        (
            b"\x03a\0" + raw_document(b"\x10$id\0\1\0\0\0", b"\x02$ref\0\2\0\0\0c\0"),
            '"a":{"$id":1,"$ref":"c"}',
            '"a":{"$id":1,"$ref":"c"}',
        ),
    ],
    ids=["undefined", "undefined, empty key", "symbol", "dbpointer", "duplicates", "regex options", "dbref order"],
)
def test_keeps_what_pymongo_drops(raw: bytes, extended: str, plain: str) -> None:
    for wrap, left, right in (
        (raw_document(raw), "{", "}"),
        (raw_document(b"\x03fullDocument\0" + raw_document(raw)), '{"fullDocument":{', "}}"),
        (raw_document(b"\x040\0" + raw_document(b"\x030\0" + raw_document(raw))), '{"0":[{', "}]}"),
    ):
        assert extended_json(decode(wrap), wrap).decode() == left + extended + right
        assert plain_json(decode(wrap), wrap).decode() == left + plain + right


def test_renders_binaries_that_older_drivers_cannot_encode() -> None:
    raw = raw_document(b"\x05a\0\1\0\0\0\xff\1")
    assert extended_json(decode(raw), raw) == b'{"a":{"$binary":{"base64":"AQ==","subType":"ff"}}}'
    assert plain_json({"a": Binary(b"\1", 4)}) == b'{"a":"AQ=="}'  # too short for a UUID


def test_keeps_a_nan_with_payload_beside_nulls() -> None:
    raw = raw_document(b"\x0an\0", b"\x01a\1b\0" + b"\x12\0\0\0\0\0\xf1\xff")
    assert extended_json(decode(raw), raw) == b'{"n":null,"a\\u0001b":{"$numberDouble":"NaN"}}'


def test_search_for_nan_is_linear() -> None:
    text = "\1" * 2_000_000  # a separator in some exports; a search for a key from each would take hours
    raw = bson.encode({"a": None, "b": text})
    assert json.loads(extended_json(decode(raw), raw)) == {"a": None, "b": text}


@pytest.mark.parametrize(
    "value",
    [
        {"$oid": str(OID)},
        {"$oid": 1},
        {"$symbol": "s"},
        {"$numberInt": "5"},
        {"$numberLong": "5"},
        {"$numberDouble": "NaN"},
        {"$numberDecimal": "1"},
        {"$binary": {"base64": "", "subType": "00"}},
        {"$binary": "", "$type": "00"},
        {"$uuid": UUID_TEXT},
        {"$code": "f()"},
        {"$scope": {}},
        {"$timestamp": {"t": 1, "i": 1}},
        {"$regularExpression": {"pattern": "", "options": ""}},
        {"$regex": "secret", "$options": "i"},
        {"$dbPointer": {"$ref": "c", "$id": OID}},
        {"$date": "2024-01-01T00:00:00Z"},
        {"$minKey": 1},
        {"$maxKey": 1},
        {"$undefined": True},
        {"other": 1, "$numberLong": "secret"},
    ],
)
def test_refuses_documents_that_read_back_as_another_type(value: dict[str, Any]) -> None:
    raw = bson.encode({"full": {"list": [0, value]}})
    for source in (raw, None):
        with pytest.raises(
            UnrenderableError, match=r"^full\.list\.1\.\$\w+: a stored key that Extended JSON"
        ) as refused:
            extended_json(decode(raw), source)
        assert "secret" not in str(refused.value)


def test_plain_json_has_no_reserved_keys() -> None:
    raw = bson.encode({"a": {"$oid": "x", "$regex": "y"}})
    assert plain_json(decode(raw), raw) == plain_json(decode(raw)) == b'{"a":{"$oid":"x","$regex":"y"}}'


@pytest.mark.parametrize(
    "value",
    [
        {"$a": 1},
        {"$": 1},
        {"$set": {"a.b": 1}},
        {"$ref": "c"},
        {"$ref": 1, "$id": 2},
        {"$type": "string"},
        {"price": "$date"},
        {"oid": "$oid"},
    ],
)
def test_renders_other_dollar_keys_as_they_are(value: dict[str, Any]) -> None:
    raw = bson.encode({"a": value})
    assert json.loads(extended_json(decode(raw), raw)) == {"a": value}
    assert json.loads(extended_json(decode(raw))) == {"a": value}


def test_renders_the_regex_operator_around_a_regular_expression() -> None:
    raw = bson.encode({"a": {"$regex": Regex("p", "i"), "$options": ""}})
    expected = b'{"a":{"$regex":{"$regularExpression":{"pattern":"p","options":"i"}},"$options":""}}'
    assert extended_json(decode(raw), raw) == extended_json(decode(raw)) == expected


def test_renders_two_hundred_levels_and_refuses_more_than_orjson_can() -> None:
    def nested(levels: int, value: Any) -> dict[str, Any]:
        for _ in range(levels):
            value = {"a": value}
        return {"fullDocument": value}

    for value in (1, math.nan):
        raw = bson.encode(nested(200, value))
        assert extended_json(decode(raw), raw).count(b'{"a":') == 200
    raw = bson.encode(nested(300, 1))
    for source in (raw, None):
        with pytest.raises(UnrenderableError):
            extended_json(decode(raw), source)


def test_renders_aware_dates_in_utc() -> None:
    date = datetime(1970, 1, 1, 1, tzinfo=timezone(timedelta(hours=2)))
    assert extended_json({"a": date}) == b'{"a":{"$date":{"$numberLong":"-3600000"}}}'
    assert plain_json({"a": date}) == b'{"a":"1969-12-31T23:00:00.000Z"}'
    assert extended_json({"a": date.astimezone(UTC) + timedelta(hours=1)}) == b'{"a":{"$date":"1970-01-01T00:00:00Z"}}'


@pytest.mark.parametrize("value", ["\ud800", 2**64, object()])
def test_refuses_what_neither_bson_nor_json_has(value: Any) -> None:
    with pytest.raises(UnrenderableError):
        extended_json({"a": value})


DECIMALS = st.builds(
    lambda sign, coefficient, exponent: Decimal128.from_bid(
        (sign << 127 | (exponent + 6176) << 113 | coefficient).to_bytes(16, "little")
    ),
    st.integers(0, 1),
    st.integers(0, 10**34 - 1) | st.integers(0, 10**6),
    st.integers(-6176, 6111) | st.integers(-45, 5),
)


@given(DECIMALS | st.sampled_from(["-0", "-0.00", "0E+3", "NaN", "sNaN", "-Infinity"]).map(Decimal128))
def test_decimals_read_as_pymongo_writes_them(value: Decimal128) -> None:
    assert json.loads(plain_json({"a": value}))["a"] == str(value)


INT64 = st.integers(-(2**63), 2**63 - 1)
MILLISECONDS = st.integers(-62135596800000, 253402300799999)
KEYS = (
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=4)
    | st.sampled_from(["_id", "$set", "$id", "a.b", "null"])
).filter(lambda key: key not in _json._WRAPPER_KEYS and key not in ("$regex", "$ref"))
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**31), 2**31 - 1),
    INT64.map(Int64),
    st.floats(),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=8),
    st.binary(max_size=8),
    st.builds(Binary, st.binary(max_size=8), st.sampled_from([1, 2, 5, 128])),
    st.binary(min_size=12, max_size=12).map(ObjectId),
    MILLISECONDS.map(lambda ms: datetime(1970, 1, 1) + timedelta(milliseconds=ms)),
    (INT64.filter(lambda ms: not -62135596800000 <= ms <= 253402300799999)).map(DatetimeMS),
    DECIMALS,
    st.builds(Timestamp, st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1)),
    st.builds(Regex, st.sampled_from(["", "^a", "é"]), st.sampled_from(["", "i", "msx"])),
    st.builds(Code, st.text("ab", max_size=3), st.none() | st.just({}) | st.just({"x": 1})),
    st.builds(DBRef, st.text("ab"), st.none() | st.just(OID), st.none() | st.just("d")),
    st.just(MinKey()),
    st.just(MaxKey()),
)
DOCUMENTS = st.dictionaries(
    KEYS,
    st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4)),
    max_size=6,
)
LOADS_OPTIONS = json_util.JSONOptions(datetime_conversion=DatetimeConversion.DATETIME_AUTO)


def relaxed_types(value: Any) -> Any:
    """The value tagged with what relaxed Extended JSON keeps of its type: not the width of an integer."""
    match value:
        case dict():
            return {key: relaxed_types(inner) for key, inner in value.items()}
        case list():
            return [relaxed_types(inner) for inner in value]
        case float():
            return ("float", struct.pack("<d", value) if value == value else "NaN")
        case Code():
            return (Code, str(value), value.scope)
        case DBRef():
            return (DBRef, relaxed_types(dict(value.as_doc())))
        case datetime():
            # json_util reads the fraction by way of a float, which can be a microsecond less.
            return (datetime, round(value.replace(tzinfo=UTC).timestamp() * 1000))
    return (int if type(value) is Int64 else type(value), str(value) if isinstance(value, Decimal128) else value)


@given(DOCUMENTS)
def test_reads_back_as_it_was(document: dict[str, Any]) -> None:
    raw = bson.encode(document)
    decoded = decode(raw)
    read_back = json_util.loads(extended_json(decoded, raw), json_options=LOADS_OPTIONS)
    assert relaxed_types(read_back) == relaxed_types(decoded)


@given(DOCUMENTS)
def test_fast_and_exact_path_agree(document: dict[str, Any]) -> None:
    raw = bson.encode({"fullDocument": document})
    decoded = decode(raw)
    fast = extended_json(decoded, raw), plain_json(decoded, raw)
    with mock.patch.object(_json, "is_whole", return_value=False):
        assert (extended_json({}, raw), plain_json({}, raw)) == fast
    assert (extended_json(decoded), plain_json(decoded)) == fast


CORPUS = os.environ.get("BSON_CORPUS")


def canonical_to_relaxed(value: Any) -> Any:
    """What relaxed mode writes for a canonical case that gives no relaxed form of its own."""
    match value:
        case {"$numberInt": text} | {"$numberLong": text}:
            return int(text)
        case {"$numberDouble": text} if math.isfinite(float(text)):
            return float(text)
        case {"$date": {"$numberLong": text}} if int(text) >= 0:
            date = datetime(1970, 1, 1) + timedelta(milliseconds=int(text))
            return {"$date": re.sub(r"\.000|(?<=\.\d{3})000", "", date.isoformat(timespec="microseconds") + "Z")}
        case {"$date": _}:
            return value
        case dict():
            return {key: canonical_to_relaxed(inner) for key, inner in value.items()}
        case list():
            return [canonical_to_relaxed(inner) for inner in value]
    return value


def corpus_cases() -> list[Any]:
    cases = []
    for path in sorted(Path(CORPUS).glob("*.json")) if CORPUS else ():
        for case in json.loads(path.read_text(encoding="utf-8")).get("valid", ()):
            expected = case.get("relaxed_extjson")
            canonical = json.loads(case["canonical_extjson"])
            value = json.loads(expected) if expected else canonical_to_relaxed(canonical)
            cases += [
                pytest.param(bytes.fromhex(case[form]), value, id=f"{path.stem}: {case['description']} ({form})")
                for form in ("canonical_bson", "degenerate_bson")
                if form in case
            ]
    return cases


@pytest.mark.skipif(
    not CORPUS,
    reason="set BSON_CORPUS to test/bson_corpus of a PyMongo sdist: pip download --no-deps --no-binary pymongo pymongo",
)
@pytest.mark.parametrize(("raw", "expected"), corpus_cases())
def test_bson_corpus(raw: bytes, expected: Any) -> None:
    assert json.loads(extended_json(decode(raw), raw)) == expected
    wrapped = bson.encode({"_id": {"_data": "01"}, "fullDocument": RawBSONDocument(raw)})
    assert json.loads(extended_json(decode(wrapped), wrapped))["fullDocument"] == expected
