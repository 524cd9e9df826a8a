"""MATCH on the server and by docdb-stream: the same events arrive, whoever leaves the others out."""

from __future__ import annotations

import random
from typing import Any

import pytest
from integration.test_selection import Stream, stream, version  # noqa: F401 - fixtures

pytestmark = pytest.mark.integration


@pytest.mark.parametrize(
    ("query", "on_exit"),
    [
        ('{"fullDocument.total": {"$gte": 100}}', "delete"),
        ('{"fullDocument.total": {"$not": {"$gte": 100}}}', "ignore"),
        ('{"$or": [{"fullDocument.s": {"$regex": "^a"}}, {"documentKey._id": {"$lt": 5}}]}', None),
        ('{"fullDocument.total": null}', "delete"),
    ],
)
def test_the_same_arrives_whoever_filters(stream: Stream, query: str, on_exit: str | None) -> None:  # noqa: F811
    """In runs that stop anywhere in between, with all rules together."""
    chance = random.Random(5)
    rules: dict[str, Any] = {
        "match": query,
        "on_exit": on_exit,
        "operations": "insert, update, delete",
        "namespaces": f"{stream.db_name}.o*",
    }
    filters = ("client", "server", "auto")
    for filter_at in filters:
        stream.run(**rules, filter_at=filter_at, stream_name=filter_at)
    for _ in range(150):
        collection = stream.db[chance.choice(["orders", "other", "third"])]
        key = {"_id": chance.randrange(20)}
        document = {"total": chance.choice([5, 100, 500.5, None, "x", [1, 200]]), "s": chance.choice(["ab", "b", 5])}
        match chance.randrange(4):
            case 0:
                collection.replace_one(key, document, upsert=True)
            case 1:
                collection.update_one(key, {"$set": document}, upsert=True)
            case 2:
                collection.update_one(key, {"$unset": {"total": 1}})
            case _:
                collection.delete_one(key)
    arrived = []
    for filter_at in filters:
        stream.target.events.clear()
        size = chance.choice([3, 7])
        values = {**rules, "filter_at": filter_at, "stream_name": filter_at, "batch_size": size, "max_loop": 2}
        while not stream.run(**values).caught_up:
            pass
        arrived.append([(event.event_id, event.operation, event.full_document) for event in stream.target.events])
    assert len(arrived[0]) > 10
    assert arrived[0] == arrived[1] == arrived[2]
