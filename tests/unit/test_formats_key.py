"""One text for what the server takes for one `_id`."""

import math
from typing import Any

import pytest
from bson.binary import Binary
from bson.code import Code
from bson.dbref import DBRef
from bson.decimal128 import Decimal128
from bson.int64 import Int64
from bson.objectid import ObjectId

from docdb_stream.errors import UnrenderableError
from docdb_stream.formats import rawbson
from docdb_stream.formats.key import key_json

OID = ObjectId("65a1f0c2d4e5f60718293a4b")
UUID_BYTES = bytes(range(16))
UUID_TEXT = "00010203-0405-0607-0809-0a0b0c0d0e0f"


def test_key_json() -> None:
    assert key_json(OID) == f'{{"_id":{{"$oid":"{OID}"}}}}'
    assert key_json(5) == key_json(Int64(5)) == '{"_id":5}'
    assert key_json({"b": 1, "a": math.nan}) == '{"_id":{"b":1,"a":{"$numberDouble":"NaN"}}}'
    assert key_json("5") != key_json(5)
    assert key_json(2.0**63) == key_json(Decimal128("9223372036854775808"))


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("a\n", '"a\\n"'),
        (-(2.0**63), "-9223372036854775808"),
        (Decimal128("0.50"), "0.5"),
        (Decimal128("0.10"), '{"$numberDecimal":"1E-1"}'),
        (Decimal128("-1E-2"), '{"$numberDecimal":"-1E-2"}'),
        (Decimal128("NaN"), '{"$numberDouble":"NaN"}'),
        (Decimal128("-Infinity"), '{"$numberDouble":"-Infinity"}'),
        ({"b": 1.0, "a": [Decimal128("2.0"), {"c": -0.0}]}, '{"b":1,"a":[2,{"c":0}]}'),
        (Code("f()", {"x": 1.0}), '{"$code":"f()","$scope":{"x":1}}'),
        (DBRef("c", 1.0), '{"$ref":"c","$id":1}'),
        (Binary(UUID_BYTES, 4), '{"$binary":{"base64":"AAECAwQFBgcICQoLDA0ODw==","subType":"04"}}'),
        (rawbson.Document([("a", 1), ("a", 2.0)]), '{"a":1,"a":2}'),
        (rawbson.Document([("a", rawbson.Undefined())]), '{"a":{"$undefined":true}}'),
        (rawbson.Document([("a", rawbson.Symbol("s"))]), '{"a":"s"}'),
        (
            rawbson.Document([("a", rawbson.RegularExpression("p", "mi"))]),
            '{"a":{"$regularExpression":{"pattern":"p","options":"mi"}}}',
        ),
    ],
)
def test_key_json_has_one_form_of_equal_ids(value: Any, text: str) -> None:
    assert key_json(value) == f'{{"_id":{text}}}'


def test_key_json_refuses_endless_nesting() -> None:
    value: Any = 1
    for _ in range(5000):
        value = [value]
    with pytest.raises(UnrenderableError, match=r"^nested too deeply$"):
        key_json(value)
