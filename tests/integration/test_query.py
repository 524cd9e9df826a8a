"""Queries judged here and by a real server: the same documents have to match, of whatever is in both.

The server stores a query's documents and finds them with it; a change stream's $match asks the same matcher.
"""

from __future__ import annotations

import itertools
import json
import os
import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar, Final

import bson
import pytest
from bson.codec_options import DatetimeConversion
from bson.raw_bson import RawBSONDocument
from pymongo import MongoClient
from pymongo.collection import Collection
from pymongo.errors import OperationFailure

from docdb_stream.errors import UnrenderableError
from docdb_stream.formats.decoded import decode, is_whole
from docdb_stream.formats.reader import to_bson
from docdb_stream.query.parse import parse
from docdb_stream.query.values import read

pytestmark = pytest.mark.integration

ROUNDS = 24 if "MONGOD_BINARY" in os.environ else 4
"""More of them where make test-matrix asks each version."""
DOCUMENTS, QUERIES = 120, 150

NUMBERS: Sequence[Any] = [
    0,
    1,
    -1,
    2,
    100,
    -7,
    1.0,
    0.1,
    -0.5,
    2.5,
    {"$numberLong": "1"},
    {"$numberLong": "9007199254740993"},
    {"$numberLong": "9007199254740992"},
    {"$numberDouble": "9007199254740992"},
    {"$numberLong": "9223372036854775807"},
    {"$numberLong": "-9223372036854775808"},
    {"$numberDouble": "9223372036854775808"},
    {"$numberDouble": "-9223372036854775808"},
    {"$numberDouble": "NaN"},
    {"$numberDouble": "Infinity"},
    {"$numberDouble": "-Infinity"},
    {"$numberDouble": "-0.0"},
    {"$numberDouble": "5e-324"},
    {"$numberDouble": "1e300"},
    {"$numberDecimal": "0.1"},
    {"$numberDecimal": "0.1000000000000000055511151231257827"},
    {"$numberDecimal": "1.00"},
    {"$numberDecimal": "2.5"},
    {"$numberDecimal": "1.7"},
    {"$numberDecimal": "-3.5"},
    {"$numberDecimal": "NaN"},
    {"$numberDecimal": "-Infinity"},
    {"$numberDecimal": "-0"},
    {"$numberDecimal": "1E+6144"},
    {"$numberDecimal": "9007199254740993"},
    {"$numberDecimal": "9223372036854775807.5"},
    {"$numberDecimal": "1E-6176"},
]
TEXTS: Sequence[Any] = [
    "",
    "a",
    "A",
    "ab",
    "a\nb",
    "a\n",
    "b",
    "\u00e9",
    "k\u212a",
    "s\u017f",
    "\U0001f600",
    "\uffff",
    "0",
    "new",
]
OTHERS: Sequence[Any] = [
    None,
    True,
    False,
    {"$oid": "65b9f0000000000000000001"},
    {"$oid": "65b9f0000000000000000002"},
    {"$date": "2026-01-31T12:00:00Z"},
    {"$date": {"$numberLong": "-1"}},
    {"$date": {"$numberLong": "9223372036854775807"}},
    {"$date": {"$numberLong": "-9223372036854775808"}},
    {"$timestamp": {"t": 1, "i": 2}},
    {"$timestamp": {"t": 4294967295, "i": 0}},
    {"$binary": {"base64": "", "subType": "00"}},
    {"$binary": {"base64": "YQ==", "subType": "00"}},
    {"$binary": {"base64": "YQ==", "subType": "80"}},
    {"$binary": {"base64": "YQ==", "subType": "02"}},
    {"$binary": {"base64": "YWFhYWE=", "subType": "00"}},
    {"$binary": {"base64": "YWI=", "subType": "00"}},
    {"$regularExpression": {"pattern": "a", "options": ""}},
    {"$regularExpression": {"pattern": "a", "options": "i"}},
    {"$regularExpression": {"pattern": "^b", "options": "m"}},
    {"$minKey": 1},
    {"$maxKey": 1},
    {"$code": "a"},
    {"$code": "a", "$scope": {"x": 1}},
    {"$symbol": "a"},
    {"$symbol": "zz"},
]
STORED: Sequence[Any] = [
    {"$undefined": True},
    {"$dbPointer": {"$ref": "c", "$id": {"$oid": "65b9f0000000000000000001"}}},
    {"$ref": "c", "$id": 1},
    {"$ref": "c", "$id": 1, "$db": "d", "a": 1},
]
NAMES = ("a", "b", "0", "1", "00")
PATTERNS = (
    *(
        "a",
        "^a",
        "a$",
        "^a$",
        "a.b",
        "a\\nb",
        "[a-k]",
        "[^a]",
        "\\w",
        "^\\W$",
        "\\Aa\\z",
        "a\\Z",
        "^$",
        "k",
        "s",
        "\\d+",
    ),
    *("^(a|b)$", "(?i)AB", "a{1,2}b?", "(?=a)", "^(?!a)", "\\bab\\b", "\\B", "[[]", "[]a]", "[\\w-]", "\\x61", "a\\.b"),
    *(".", "..", "^.$", "^..?$", "\\s", "\\S$", "[K-S]", "[^K]", "a|^$", "(a)?b", "{", "a{", "\\$", "[.$]", "$"),
    *("^b", "\\d+"),
)


RAW: Final = bson.CodecOptions(RawBSONDocument, datetime_conversion=DatetimeConversion.DATETIME_AUTO)


class Draw:
    """Documents and queries, the same for the same seed."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._there: list[tuple[str, Any]] = []
        self._near: Any = None

    def document(self) -> dict[str, Any]:
        document = {name: self.value() for name in self._random.sample(NAMES, self._random.randint(0, 3))}
        self._there += inside(document)
        return document

    def value(self, depth: int = 0, *, stored: bool = True) -> Any:
        if not stored and self._random.random() < 0.4:
            return self._near
        kind = self._random.random()
        if kind < 0.25:
            return self._random.choice(NUMBERS)
        if kind < 0.4:
            return self._random.choice(TEXTS)
        if kind < 0.55 or depth > 2:
            return self._random.choice([*OTHERS, *STORED] if stored and kind < 0.5 else OTHERS)
        if kind < 0.8:
            return [self.value(depth + 1, stored=stored) for _ in range(self._random.choice((0, 1, 1, 2, 3)))]
        names = self._random.sample(NAMES, self._random.choice((0, 1, 1, 2)))
        return {name: self.value(depth + 1, stored=stored) for name in names}

    def query(self, depth: int = 0) -> dict[str, Any]:
        if depth < 2 and self._random.random() < 0.15:
            key = self._random.choice(("$and", "$or", "$nor"))
            return {key: [self.query(depth + 1) for _ in range(self._random.randint(1, 3))]}
        return {self.path(depth): self.condition(depth) for _ in range(self._random.choice((1, 1, 1, 2)))}

    def path(self, depth: int) -> str:
        """Mostly one that leads to something; what is there is what operands then are, often."""
        path, self._near = self._random.choice(self._there)
        if self._random.random() < 0.25:
            path = ".".join(self._random.choice(NAMES) for _ in range(self._random.choice((1, 2, 3))))
        return path if depth or self._random.random() < 0.5 else f"fullDocument.{path}"

    def condition(self, depth: int) -> Any:
        if self._random.random() < 0.2:
            return self.value(stored=False)
        names = self._random.choices(list(self.OPERATORS), k=self._random.choice((1, 1, 1, 2)))
        found: dict[str, Any] = {}
        for name in names:
            found |= {name: self.OPERATORS[name](self, depth)}
            if name == "$regex":
                found["$options"] = self._random.choice(("", "", "i", "m", "s", "im"))
        return found

    def _values(self, depth: int) -> list[Any]:
        return [self.value(1, stored=False) for _ in range(self._random.choice((0, 1, 2, 3)))]

    def _types(self, depth: int) -> Any:
        names = (
            "double",
            "string",
            "object",
            "array",
            "binData",
            "undefined",
            "objectId",
            "bool",
            "date",
            "null",
            "int",
        )
        more = ("regex", "javascript", "symbol", "javascriptWithScope", "long", "decimal", "minKey", "maxKey", "number")
        one = self._random.choice([*names, *more, 1, 2, 4, 16, 18, -1, 127, 1.0, "nothing", 0, 255])
        return one if self._random.random() < 0.7 else [one, self._random.choice(names)]

    def _elements(self, depth: int) -> Any:
        return self.condition(depth + 1) if self._random.random() < 0.5 else self.query(depth + 1)

    def _all(self, depth: int) -> Any:
        if self._random.random() < 0.2:
            return [{"$elemMatch": self._elements(depth)} for _ in range(self._random.randint(1, 2))]
        return self._values(depth)

    def _mod(self, depth: int) -> Any:
        return [self._random.choice((2, 3, -3, 2.0, 10, 0)), self._random.choice((0, 1, -1, 2, {"$numberLong": "1"}))]

    def _one(self, depth: int) -> Any:
        return self.value(stored=False)

    def _pattern(self, depth: int) -> Any:
        return self._random.choice(PATTERNS)

    OPERATORS: ClassVar[dict[str, Callable[[Draw, int], Any]]] = {
        **dict.fromkeys(("$eq", "$ne", "$gt", "$gte", "$lt", "$lte"), _one),
        **dict.fromkeys(("$in", "$nin"), _values),
        "$exists": lambda self, _: self._random.choice((True, False, 1, 0)),
        "$type": _types,
        "$regex": _pattern,
        "$not": lambda self, depth: self.condition(depth + 1),
        "$all": _all,
        "$elemMatch": _elements,
        "$size": lambda self, _: self._random.choice((0, 1, 2, 1.0, -1, 1.5)),
        "$mod": _mod,
    }


def inside(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every value within, and a path to it: arrays' places are in it, or not."""
    if path and not path.endswith("."):
        yield path, value
        path += "."
    if isinstance(value, list):
        for place, each in enumerate(value):
            yield from inside(each, f"{path}{place}")
            yield from inside(each, path.removesuffix("."))
    elif isinstance(value, dict) and not any(key.startswith("$") for key in value):
        for name, each in value.items():
            yield from inside(each, f"{path}{name}")


@pytest.fixture
def stored(mongo: MongoClient[dict[str, Any]], db_name: str) -> Iterator[Collection[Any]]:
    yield mongo[db_name].get_collection("stored", RAW)
    mongo.drop_database(db_name)


def known(raw: bytes) -> dict[str, Any]:
    """A document as the step has it."""
    decoded = decode(raw)
    return decoded if is_whole(decoded, raw) else read(raw)


def test_every_value_is_compared_with_every_other_and_with_none(stored: Collection[Any]) -> None:
    operands = [*NUMBERS, *TEXTS, *OTHERS, [], [1], {}, {"a": 1}, {"a": 1, "b": 1}, {"b": 0}]
    documents = [{}, *({"a": one} for one in [*operands, *STORED]), {"a": [{"$minKey": 1}]}, {"a": [{"$maxKey": 1}]}]
    raws = [to_bson({"_id": number, **one}) for number, one in enumerate(documents)]
    stored.insert_many([RawBSONDocument(raw, RAW) for raw in raws])
    decoded = [known(raw) for raw in raws]
    for name, operand in itertools.product(("$eq", "$gt", "$gte", "$lt", "$lte"), operands):
        text = json.dumps({"a": {name: operand}})
        try:
            matches = parse(text).matches
        except ValueError:
            assert "$regularExpression" in text
            continue
        found = {one["_id"] for one in stored.find(RawBSONDocument(to_bson(json.loads(text)), RAW), {"_id": 1})}
        for number, document in enumerate(decoded):
            try:
                matched = matches(document)
            except UnrenderableError:
                assert documents[number]["a"] in STORED[:2]
                continue
            assert matched is (number in found), (text, documents[number])


@pytest.mark.parametrize("seed", range(ROUNDS))
def test_the_same_documents_match_as_on_the_server(stored: Collection[Any], seed: int) -> None:
    draw = Draw(seed)
    documents = [draw.document() for _ in range(DOCUMENTS)]
    raws = [to_bson({"_id": number, **one, "fullDocument": one}) for number, one in enumerate(documents)]
    stored.insert_many([RawBSONDocument(raw, RAW) for raw in raws])
    decoded = [known(raw) for raw in raws]
    asked = judged = 0
    for _ in range(QUERIES):
        text = json.dumps(draw.query())
        try:
            matches = parse(text).matches
        except ValueError:
            continue
        try:
            found = {one["_id"] for one in stored.find(RawBSONDocument(to_bson(json.loads(text)), RAW), {"_id": 1})}
        except OperationFailure as error:
            pytest.fail(f"the server refuses {text}: {error}")
        asked += 1
        for number, document in enumerate(decoded):
            try:
                matched = matches(document)
            except UnrenderableError:
                continue
            judged += 1
            assert matched is (number in found), (text, json.dumps(documents[number]))
    assert asked > QUERIES / 2
    assert judged > asked * DOCUMENTS * 0.6


ATOMS = (
    *(
        "a",
        "b",
        "k",
        "S",
        "\u00e9",
        ".",
        "\\d",
        "\\D",
        "\\w",
        "\\W",
        "\\s",
        "\\S",
        "\\b",
        "\\B",
        "^",
        "$",
        "\\A",
        "\\z",
    ),
    *(
        "\\Z",
        "\\n",
        "\\t",
        "\n",
        "\\.",
        "\\[",
        "\\x41",
        "[ab]",
        "[^ab]",
        "[a-z]",
        "[^a-z\\d]",
        "[\\w.]",
        "[]-]",
        "[\\n\\\\]",
    ),
    *(
        "[^K]",
        "[k-s]",
        "[$^]",
        "-",
        "#",
        " ",
        "&",
        "~",
        "{",
        "}",
        "]",
        "|",
        "[&&a]",
        "[a||b]",
        "[~~-]",
        "[\\-a]",
        "[a\\]]",
    ),
    *("[\\b]", "\\e", "\\/", "\\-", "_", "[[a]", "[^\\W]", "[\\D\\s]", "\\R", "\\v", "\\Q", "(?i)", "\u212a", "\u017f"),
)
LETTERS = "aAbBkKsS\u00e9\u00c9\u212a\u017f019 \n\t.-_[]{}\\$^|&~#/\u2028\x0b\x1b\x08\0\x85\xa0\U0001f600"


def pattern(draw: random.Random, depth: int = 0) -> str:
    pieces = []
    for _ in range(draw.choice((1, 1, 2, 2, 3))):
        piece = draw.choice(ATOMS)
        if depth < 2 and draw.random() < 0.2:
            piece = draw.choice(("(", "(?:", "(?=", "(?!")) + pattern(draw, depth + 1) + ")"
        pieces.append(
            piece + draw.choice(("", "", "", "", "?", "*", "+", "{2}", "{1,2}", "{0,}", "*?", "??", "+?", "{,2}"))
        )
    return "".join(pieces)


@pytest.mark.parametrize("seed", range(ROUNDS // 2))
def test_the_same_texts_match_a_regular_expression(stored: Collection[Any], seed: int) -> None:
    draw = random.Random(seed)
    texts = ["", "\n", *("".join(draw.choices(LETTERS, k=draw.choice((1, 1, 2, 2, 3, 5)))) for _ in range(200))]
    stored.insert_many([RawBSONDocument(bson.encode({"_id": number, "a": one})) for number, one in enumerate(texts)])
    asked = 0
    for _ in range(300):
        options = draw.choice(("", "", "i", "m", "s", "im", "ims"))
        query = {"a": {"$regex": pattern(draw), "$options": options}}
        try:
            matches = parse(json.dumps(query)).matches
        except ValueError:
            continue
        asked += 1
        found = {one["_id"] for one in stored.find(query, {"_id": 1})}
        for number, one in enumerate(texts):
            assert matches({"a": one}) is (number in found), (query, one)
    assert asked > 75
