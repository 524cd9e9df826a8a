"""MATCH and ON_EXIT on real servers: events of a change stream are judged as its own $match does, and a document that
does not match any more leaves OpenSearch, also where everything is delivered again."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator
from typing import Any

import bson
import pytest
from bson.raw_bson import RawBSONDocument
from integration.test_query import RAW, ROUNDS, Draw, known
from pymongo import MongoClient
from pymongo.errors import OperationFailure

from docdb_stream import Poller, RunResult, Settings
from docdb_stream.errors import UnrenderableError
from docdb_stream.formats.reader import to_bson
from docdb_stream.local import OpenSearchServer, ReplicaSet
from docdb_stream.query.parse import parse

pytestmark = pytest.mark.integration

Mongo = MongoClient[dict[str, Any]]

LARGE = '{"fullDocument.total": {"$gte": 100}}'


class Orders:
    """A collection, and the index that a stream makes of it."""

    def __init__(self, uri: str, mongo: Mongo, db_name: str, search: OpenSearchServer) -> None:
        self.stored = mongo[db_name].orders
        self._uri, self._db_name, self._url = uri, db_name, search.url

    def run(self, stream_name: str = "", **values: Any) -> RunResult:
        given: dict[str, Any] = {"match": LARGE, "elasticsearch_uri": self._url, **values}
        settings = Settings(
            documentdb_uri=self._uri,
            watched_db_name=self._db_name,
            state_db=f"{self._db_name}_state",
            stream_name=stream_name or "large",
            **given,
        )
        poller = Poller.from_settings(settings)
        try:
            return poller.run()
        finally:
            poller.close()

    @property
    def found(self) -> dict[str, Any]:
        """What the index has: total by id."""
        index = f"{self._url}/{self._db_name}-orders"
        urllib.request.urlopen(urllib.request.Request(f"{index}/_refresh", method="POST")).close()
        with urllib.request.urlopen(f"{index}/_search?size=1000") as answer:
            return {hit["_id"]: hit["_source"]["total"] for hit in json.load(answer)["hits"]["hits"]}


@pytest.fixture
def orders(
    replica_set: ReplicaSet, mongo: Mongo, db_name: str, opensearch_server: OpenSearchServer
) -> Iterator[Orders]:
    yield Orders(replica_set.uri, mongo, db_name, opensearch_server)
    mongo.drop_database(db_name)


def test_an_order_leaves_the_index_with_the_update_that_makes_it_small_and_stays_away(orders: Orders) -> None:
    orders.stored.insert_one({"_id": "first", "total": 1})
    orders.run()
    orders.stored.insert_many([{"_id": name, "total": 150} for name in ("a", "b", "c")])
    orders.stored.insert_one({"_id": "d", "total": 99})
    result = orders.run()
    assert len(orders.found) == 3
    assert result.filtered_by == {"match": 1}

    orders.stored.update_one({"_id": "a"}, {"$set": {"total": 50}})
    orders.stored.replace_one({"_id": "b"}, {"total": 60})
    orders.stored.update_one({"_id": "d"}, {"$set": {"total": 300}})
    orders.run()
    expected = {150, 300}
    assert set(orders.found.values()) == expected

    for stream in ("again", "and-again"):  # everything once more, the inserts that matched among it
        replayed = orders.run(stream, start_at="earliest")
        assert replayed.rejections == 0
        assert replayed.read >= 8
        assert set(orders.found.values()) == expected

    orders.stored.update_one({"_id": "a"}, {"$set": {"total": 500}})
    orders.stored.delete_one({"_id": "c"})
    orders.run()
    assert set(orders.found.values()) == {300, 500}


def test_what_leaves_is_ignored_where_that_is_asked_for(orders: Orders) -> None:
    orders.run()
    orders.stored.insert_one({"_id": "a", "total": 150})
    orders.stored.update_one({"_id": "a"}, {"$set": {"note": "still large"}})
    orders.stored.update_one({"_id": "a"}, {"$set": {"total": 1}})
    orders.stored.update_one({"_id": "a"}, {"$set": {"total": 2}})
    result = orders.run(on_exit="ignore")
    # An update's document is looked up when it is read, and is small for all of them then.
    assert set(orders.found.values()) == {150}
    assert (result.read, result.filtered_by) == (4, {"match": 3})


@pytest.mark.parametrize("seed", range(ROUNDS // 4))
def test_events_are_judged_as_the_change_streams_own_match_does(mongo: Mongo, db_name: str, seed: int) -> None:
    """Which the server may rewrite for its oplog, unlike a find's."""
    draw = Draw(seed)
    coll = mongo[db_name].get_collection("stored", RAW)
    mongo[db_name].create_collection("stored")
    began = mongo.admin.command("ping")["operationTime"]
    for number in range(60):
        coll.insert_one(RawBSONDocument(to_bson({"_id": number, **draw.document()}), RAW))
        if number % 3 == 0:
            coll.replace_one({"_id": number}, RawBSONDocument(to_bson({"_id": number, **draw.document()}), RAW))
    coll.insert_one(RawBSONDocument(bson.encode({"_id": "end"})))

    def events(query: Any) -> list[RawBSONDocument]:
        match = RawBSONDocument(
            bson.encode({"$match": {"$or": [{"documentKey._id": "end"}, query]}}, codec_options=RAW), RAW
        )
        with coll.watch([match], start_at_operation_time=began) as stream:
            found = []
            for event in stream:
                if event["documentKey"]["_id"] == "end":
                    return found
                found.append(event)
        raise AssertionError("the stream ended")

    every = events({})
    judged = 0
    for _ in range(40):
        text = json.dumps({f"fullDocument.{path}": condition for path, condition in draw.query(depth=2).items()})
        try:
            matches = parse(text).matches
        except ValueError:
            continue
        try:
            found = {event["_id"]["_data"] for event in events(RawBSONDocument(to_bson(json.loads(text)), RAW))}
        except OperationFailure:
            continue  # a pipeline takes less than a find: mongod 6.0.5 fails to optimize some operators in $elemMatch
        for event in every:
            try:
                matched = matches(known(event.raw))
            except UnrenderableError:
                continue
            judged += 1
            assert matched is (event["_id"]["_data"] in found), (text, event)
    assert judged > 1_000
