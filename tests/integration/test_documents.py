"""Documents are read in pages, each once, in the server's own order, whatever their _id is."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any

import bson
import pytest
from bson import Int64, ObjectId
from bson.codec_options import CodecOptions, DatetimeConversion
from bson.datetime_ms import DatetimeMS
from bson.raw_bson import RawBSONDocument
from faults.standin import DocumentDB
from integration.test_ids import DOCUMENTS, NUMBERS, OTHERS, raw_ids
from pymongo import MongoClient
from pymongo.collation import Collation
from pymongo.collection import Collection
from pymongo.errors import BulkWriteError, WriteError

from docdb_stream.errors import ConfigError
from docdb_stream.formats import rawbson
from docdb_stream.formats.reader import to_bson
from docdb_stream.local import ReplicaSet
from docdb_stream.local.process import wait_until
from docdb_stream.mongodb.connection import Connection
from docdb_stream.mongodb.documents import SCANNED_DOCUMENTS, MongoDocuments
from docdb_stream.mongodb.state import MARK
from docdb_stream.position import Namespace, SnapshotRange
from docdb_stream.settings import Settings
from docdb_stream.snapshot_event import id_element

pytestmark = pytest.mark.integration

Mongo = MongoClient[dict[str, Any]]
RAW = CodecOptions(RawBSONDocument)

CACHE_IS_FULL = 388
"""TransactionTooLargeForCache, MongoDB's error_codes.yml."""


@pytest.fixture(params=["MongoDB", "DocumentDB"])
def uri(request: pytest.FixtureRequest, replica_set: ReplicaSet) -> Iterator[str]:
    """Of the server itself, or of one that has less."""
    if request.param == "MongoDB":
        yield replica_set.uri
        return
    with DocumentDB(replica_set.members[0]) as standin:
        yield standin.uri


@pytest.fixture
def documents(uri: str, db_name: str) -> Iterator[Callable[..., MongoDocuments]]:
    opened: list[Connection] = []

    def make(coll: str | None = "orders", **values: Any) -> MongoDocuments:
        given = {"documentdb_uri": uri, "watched_db_name": db_name, "watched_collection_name": coll, "stdout": True}
        settings = Settings(**{**given, "state_db": f"{db_name}_state", **values})
        opened.append(Connection(settings))
        return MongoDocuments(settings, opened[-1])

    yield make
    for each in opened:
        each.close()


def version_of(mongo: Mongo) -> tuple[int, ...]:
    return tuple(mongo.server_info()["versionArray"][:2])


def walked(documents: MongoDocuments, part: SnapshotRange, limit: int, **options: Any) -> list[bytes]:
    """All of a range, page by page."""
    found: list[bytes] = []
    since = documents._connection.client.admin.command("ping")["operationTime"]  # before 5.0, writes are of one member
    given = {"since": since, "match": None, **options}
    while not part.done:
        page = documents.read(part, limit=limit, **given)
        assert len(page.documents) <= limit
        assert page.read_at.time > 0
        found += page.documents
        part = page.rest
    return found


def stored(mongo: Mongo, db_name: str, coll: str = "orders") -> list[bytes]:
    """All of a collection in the server's order."""
    return [bytes(each.raw) for each in mongo[db_name].get_collection(coll, RAW).find().sort("_id")]


def fill(mongo: Mongo, db_name: str, keys: Iterable[bytes], seed: int = 1) -> list[bytes]:
    """A collection with a document for each of these keys that the server takes; the documents in its order."""
    orders = mongo[db_name].get_collection("orders", RAW)
    raws = [rawbson.joined([rawbson.first(key), rawbson.first(bson.encode({"n": n}))]) for n, key in enumerate(keys)]
    random.Random(seed).shuffle(raws)
    for raw in raws:
        with contextlib.suppress(BulkWriteError):  # it is there already, or can be none
            orders.insert_many([RawBSONDocument(raw)])
    return stored(mongo, db_name)


def survives_decoding(key: bytes) -> bool:
    """Whether the stand-in, which decodes and encodes, passes it on as it is."""
    options = CodecOptions(datetime_conversion=DatetimeConversion.DATETIME_AUTO)
    return bson.encode(bson.decode(key, options)) == key


@pytest.mark.parametrize("limit", [1, 2, 3, 7, 1000])
def test_every_document_comes_once_in_the_servers_order(
    documents: Callable[..., MongoDocuments], mongo: Mongo, db_name: str, limit: int, uri: str
) -> None:
    wanted = fill(mongo, db_name, filter(survives_decoding if "secondaryPreferred" in uri else None, raw_ids()), limit)
    assert len(wanted) > 100
    assert walked(documents(), SnapshotRange(Namespace(db_name, "orders")), limit) == wanted


def test_ranges_that_end_anywhere_make_up_the_whole(
    documents: Callable[..., MongoDocuments], mongo: Mongo, db_name: str
) -> None:
    keys = (to_bson({"_id": each}) for each in [*NUMBERS, *OTHERS, *DOCUMENTS])
    wanted = fill(mongo, db_name, filter(survives_decoding, keys))
    reader, namespace = documents(), Namespace(db_name, "orders")
    for end in range(len(wanted)):
        key = rawbson.joined([id_element(wanted[end])])
        assert walked(reader, SnapshotRange(namespace, None, key), 50) == wanted[: end + 1]
        assert walked(reader, SnapshotRange(namespace, key, None), 50) == wanted[end + 1 :]
    for begin in range(0, len(wanted), 5):
        for end in range(begin, len(wanted), 7):
            ends = [rawbson.joined([id_element(wanted[place])]) for place in (begin, end)]
            assert walked(reader, SnapshotRange(namespace, *ends), 50) == wanted[begin + 1 : end + 1]


def test_a_collection_is_taken_in_ranges_of_about_one_size(
    documents: Callable[..., MongoDocuments], mongo: Mongo, db_name: str
) -> None:
    mongo[db_name].orders.insert_many([{"_id": n if n % 2 else str(n)} for n in range(8000)])
    reader, namespace = documents(), Namespace(db_name, "orders")
    smallest = []
    for _ in range(5):  # they are made of a sample, which of few pages can be a poor one
        parts = [walked(reader, each, 1000) for each in reader.ranges(namespace, 4)]
        assert len(parts) == 4
        assert [each for part in parts for each in part] == stored(mongo, db_name)
        smallest.append(min(map(len, parts)))
    assert max(smallest) > 800
    assert reader.estimate(namespace) == 8000
    assert len(reader.ranges(namespace, 1)) == 1
    assert len(reader.ranges(Namespace(db_name, "nothing"), 5)) == 1
    assert walked(reader, SnapshotRange(Namespace(db_name, "nothing")), 5) == []


def write_large(collection: Collection[dict[str, Any]], document: dict[str, Any]) -> None:
    """Once the server, which has a small cache here, has written out what others gave it."""

    def is_taken() -> bool:
        try:
            collection.insert_one(document)
        except WriteError as error:
            if error.code != CACHE_IS_FULL:
                raise
            return False
        return True

    wait_until(is_taken, "the server has room for it", timeout_s=60)


def test_documents_as_large_as_they_can_be(
    documents: Callable[..., MongoDocuments], mongo: Mongo, db_name: str
) -> None:
    for key in range(3):
        write_large(mongo[db_name].orders, {"_id": key, "text": "x" * 16_700_000})
        write_large(mongo[db_name].orders, {"_id": str(key), "text": "x" * 6_000_000})
    found = walked(documents(), SnapshotRange(Namespace(db_name, "orders")), 1000)
    assert [bson.decode(each)["_id"] for each in found] == [0, 1, 2, "0", "1", "2"]


def test_keys_as_large_as_they_can_be(documents: Callable[..., MongoDocuments], mongo: Mongo, db_name: str) -> None:
    wanted = fill(mongo, db_name, [bson.encode({"_id": {"a": letter * 400_000}}) for letter in "bca"])
    assert len(wanted) == 3
    assert walked(documents(), SnapshotRange(Namespace(db_name, "orders")), 1) == wanted


@pytest.mark.parametrize(
    "options",
    [
        {"collation": Collation("en", strength=1)},
        {"clusteredIndex": {"key": {"_id": 1}, "unique": True}},
        {"capped": True, "size": 100_000},
    ],
    ids=["collation", "clustered", "capped"],
)
def test_collections_with_an_order_or_a_store_of_their_own(
    documents: Callable[..., MongoDocuments], mongo: Mongo, db_name: str, options: dict[str, Any]
) -> None:
    if "clusteredIndex" in options and version_of(mongo) < (5, 3):
        pytest.skip("clustered collections came with MongoDB 5.3")
    mongo[db_name].create_collection("orders", **options)
    mongo[db_name].orders.insert_many([{"_id": key} for key in ["b", "C", "ä", "f", "z", 5, 2.5, ObjectId()]])
    wanted = stored(mongo, db_name)
    for limit in (1, 3):
        assert walked(documents(), SnapshotRange(Namespace(db_name, "orders")), limit) == wanted


def test_only_what_matches_is_read_and_no_query_looks_at_too_much(
    documents: Callable[..., MongoDocuments], mongo: Mongo, db_name: str
) -> None:
    count = 3 * SCANNED_DOCUMENTS
    mongo[db_name].orders.insert_many([{"_id": n, "n": Int64(n)} for n in range(count)])
    mongo[db_name].orders.insert_many([{"_id": str(n), "n": n} for n in range(5)])
    reader, namespace = documents(), Namespace(db_name, "orders")

    def ids(match: str) -> list[Any]:
        return [bson.decode(each)["_id"] for each in walked(reader, SnapshotRange(namespace), 100, match=match)]

    assert ids('{"n": {"$gte": {"$numberLong": "29995"}}}') == [*range(29995, count)]
    assert ids('{"n": 3}') == [3, "3"]
    assert ids('{"$or": [{"n": 25000}, {"_id": "4"}]}') == [25000, "4"]
    assert ids('{"n": -1}') == []
    assert len(ids("{}")) == count + 5
    with pytest.raises(ConfigError, match="refuses the snapshot's match"):
        ids('{"$nonsense": 1}')
    with pytest.raises(ConfigError, match="no query"):
        ids("[")
    with pytest.raises(ConfigError, match="no query"):
        ids("[1]")


def test_what_is_committed_is_seen(documents: Callable[..., MongoDocuments], mongo: Mongo, db_name: str) -> None:
    reader, part = documents(), SnapshotRange(Namespace(db_name, "orders"))
    for key in range(20):
        mongo[db_name].orders.insert_one({"_id": key})
        since = mongo.admin.command("ping")["operationTime"]
        page = reader.read(replace(part, after=bson.encode({"_id": key - 1})), since=since, match=None, limit=5)
        assert [bson.decode(each)["_id"] for each in page.documents] == [key]
        assert page.read_at >= since


def test_the_collections_that_a_stream_watches(
    documents: Callable[..., MongoDocuments], mongo: Mongo, db_name: str
) -> None:
    db = mongo[db_name]
    for name in ("orders", "order lines", "archive", "a.b"):
        db[name].insert_one({"_id": 1})
    db.command("create", "seen", viewOn="orders", pipeline=[])
    kinds = ["seen"]
    if version_of(mongo) >= (5, 0):
        db.command("create", "measured", timeseries={"timeField": "t"})
        kinds.append("measured")
    db.others.insert_one({"_id": 1, MARK: f"{db_name}.others"})
    db.others.insert_one({"_id": 2, "at": DatetimeMS(2**62), MARK: "a copy.of another's"})

    def names(coll: str | None = None, **values: Any) -> list[str]:
        return sorted(str(each.coll) for each in documents(coll, **values).collections() if each.db == db_name)

    assert names() == ["a.b", "archive", "order lines", "orders", "others"]
    assert names(namespaces=f"{db_name}.or*, {db_name}.a.*") == ["a.b", "order lines", "orders"]
    assert names(watched_db_name=None) == ["a.b", "archive", "order lines", "orders", "others"]
    assert names(state_db=db_name, state_collection="archive") == ["a.b", "order lines", "orders", "others"]
    assert names("nothing yet") == ["nothing yet"]
    [found] = walked(documents(None), SnapshotRange(Namespace(db_name, "others")), 5)
    assert id_element(found) == id_element(bson.encode({"_id": 2}))
    for name in kinds:
        with pytest.raises(ConfigError, match="no changes to deliver"):
            documents(name).collections()
