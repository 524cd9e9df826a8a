"""Comparing targets with the source on real servers: beside writers at full speed, with differences of every kind that
were planted, and after a lost history."""

from __future__ import annotations

import datetime as dt
import json
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from bson import Decimal128, Int64, ObjectId, Timestamp
from bson.binary import UuidRepresentation
from bson.codec_options import CodecOptions
from pymongo import MongoClient

from docdb_stream.admin.reset import reset
from docdb_stream.admin.verify import verify
from docdb_stream.context import Deadline
from docdb_stream.local import OpenSearchServer, ReplicaSet
from docdb_stream.local.process import wait_until
from docdb_stream.poller import Poller
from docdb_stream.result import RunResult
from docdb_stream.settings import Settings
from docdb_stream.targets._opensearch.client import OpenSearchClient
from docdb_stream.testing.events import hostile_documents
from docdb_stream.verify.result import VerifyResult

pytestmark = pytest.mark.integration

Mongo = MongoClient[dict[str, Any]]
STANDARD = CodecOptions(uuid_representation=UuidRepresentation.STANDARD)
FOREIGN = "0163eeb6e7000000090100000009000041e1"
"""A token of Amazon DocumentDB; MongoDB knows no such position."""


class Stream:
    """A stream over one database into one target, whose documents can be spoiled."""

    def __init__(self, uri: str, mongo: Mongo, db_name: str, **values: Any) -> None:
        self.mongo, self.db = mongo, mongo[db_name]
        given = {
            "documentdb_uri": uri,
            "watched_db_name": db_name,
            "state_db": f"{db_name}_state",
            "state_sync_count": 1,
            **values,
        }
        self.settings = Settings(**given)

    def run(self, **values: Any) -> RunResult:
        with Poller.from_settings(self.settings.model_copy(update=values)) as poller:
            return poller.run(limit=Deadline.after(60))

    @contextmanager
    def running(self) -> Iterator[None]:
        """The stream is followed, and something always happens, so that its position goes on."""
        limit = Deadline()
        ended: list[Exception] = []

        def follow() -> None:
            try:
                with Poller.from_settings(self.settings) as poller:
                    poller.run(limit=limit, follow=True)
            except Exception as error:
                ended.append(error)

        def tick() -> None:
            number = 0
            while not limit.stop.wait(0.05):
                number += 1
                self.db.ticks.replace_one({"_id": "tick"}, {"n": number}, upsert=True)

        threads = [threading.Thread(target=each, daemon=True) for each in (follow, tick)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            limit.stop.set()
            for thread in threads:
                thread.join(60)
        assert not ended

    def verify(self, **options: Any) -> VerifyResult:
        options = {"limit": Deadline.after(60), **options}
        [result] = verify(self.settings, **options)
        return result

    # What a kind of target supplies

    def spoil(self, coll: str, key: Any) -> None:
        """Change a document of the target."""
        raise NotImplementedError

    def lose(self, coll: str, key: Any) -> None:
        """Remove one."""
        raise NotImplementedError

    def keys(self, coll: str) -> set[str]:
        """What the target holds."""
        raise NotImplementedError


class Indexes(Stream):
    def __init__(self, uri: str, mongo: Mongo, db_name: str, server: OpenSearchServer, **values: Any) -> None:
        self.prefix = f"v{uuid.uuid4().hex[:8]}-"
        own = {"elasticsearch_uri": server.url, "opensearch_index_prefix": self.prefix, **values}
        super().__init__(uri, mongo, db_name, **own)
        self._client = OpenSearchClient("test", server.url, auth=None, secret=None, service="es", tls_ca=None)

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        return self._client.request(method, path, None if body is None else json.dumps(body).encode())

    def index(self, coll: str) -> str:
        return f"{self.prefix}{self.db.name}-{coll}"

    def spoil(self, coll: str, key: Any) -> None:
        path = f"/{self.index(coll)}/_doc/{key}"
        found = self.ask("GET", path)
        self.ask("PUT", f"{path}?version={found['_version']}&version_type=external_gte", {"spoilt": True})

    def lose(self, coll: str, key: Any) -> None:
        path = f"/{self.index(coll)}/_doc/{key}"
        version = self.ask("GET", path)["_version"]
        self.ask("DELETE", f"{path}?version={version}&version_type=external_gte")

    def keys(self, coll: str) -> set[str]:
        self.ask("POST", f"/{self.index(coll)}/_refresh")
        found = self.ask("POST", f"/{self.index(coll)}/_search", {"size": 10_000, "_source": False})
        return {hit["_id"] for hit in found["hits"]["hits"]}


class Mirror(Stream):
    def __init__(self, uri: str, mongo: Mongo, db_name: str, **values: Any) -> None:
        own = {
            "mongodb_target_uri": uri,
            "mongodb_target_namespace": f"{db_name}_mirror.{{coll}}",
            "mongodb_target_state": f"{db_name}_target.state",
            **values,
        }
        super().__init__(uri, mongo, db_name, **own)
        self.there = mongo[f"{db_name}_mirror"]

    def spoil(self, coll: str, key: Any) -> None:
        assert self.there[coll].replace_one({"_id": key}, {"spoilt": True}).matched_count

    def lose(self, coll: str, key: Any) -> None:
        assert self.there[coll].delete_one({"_id": key}).deleted_count

    def keys(self, coll: str) -> set[str]:
        return {str(each["_id"]) for each in self.there[coll].find({}, {"_id": 1})}


Make = Callable[..., Stream]


@pytest.fixture(params=["opensearch", "mongodb"])
def make(request: pytest.FixtureRequest, replica_set: ReplicaSet, mongo: Mongo, db_name: str) -> Make:
    if request.param == "mongodb":
        return lambda **values: Mirror(replica_set.uri, mongo, db_name, **values)
    server = request.getfixturevalue("opensearch_server")
    return lambda **values: Indexes(replica_set.uri, mongo, db_name, server, **values)


def count_of(result: VerifyResult) -> dict[str, int]:
    return {verdict: count for verdict in SHOWN if (count := result.count(verdict))}


SHOWN = ("missing", "differing", "too many", "changing", "undecided", "others", "kept", "rejected")


def delete_unseen(stream: Stream, *keys: Any) -> None:
    """Delete documents of the source while the stream does not look."""
    stream.db.orders.delete_many({"_id": {"$in": [*keys]}})
    reset(stream.settings, to="now")


def test_what_is_equal_needs_no_run_beside_it(make: Make) -> None:
    stream = make()
    stream.run()
    stream.db.orders.insert_many([{"_id": number, "total": number / 4} for number in range(2500)])
    stream.db.other.insert_one({"_id": "one"})
    stream.run()
    result = stream.verify()
    assert (count_of(result), result.documents, result.is_equal) == ({}, 2501, True)
    assert result.verified_through is not None
    assert len(result.places) == 2


def test_whatever_documents_hold(make: Make) -> None:
    stream = make()
    stream.run()
    for name, document in hostile_documents().items():
        stream.db.get_collection(f"c_{name}", codec_options=STANDARD).insert_one(document)  # type: ignore[arg-type]
    ids = [1, 2.5, Int64(1 << 60), Decimal128("7.10"), "text", "12", "true", "", {"a": 1, "b": [2.0]}, None, True]
    ids += [ObjectId(), dt.datetime(2026, 1, 2), "x" * 600, float("nan"), Timestamp(3, 4), b"bytes", "sha256:x"]
    stream.db.ids.insert_many([{"_id": each, "whole": 2.0, "large": 1e300, "empty": {}, "none": []} for each in ids])
    rejected = stream.run().rejections
    with stream.running():
        result = stream.verify()
        found = count_of(result)
        # What OpenSearch's mapping refuses is in the dead letters, and not there: so it is missing.
        assert found.pop("missing", 0) + result.rejected == rejected
        assert found == {}
        stream.db.ids.update_many({}, {"$set": {"again": True}, "$unset": {"large": ""}})
        result = stream.verify(target=result.target)
    assert result.places[min(result.places, key=lambda place: not place.endswith("ids"))].verdicts == {}


def test_what_was_planted_is_found_and_repaired(make: Make) -> None:
    stream = make()
    stream.run()
    stream.db.orders.insert_many([{"_id": f"k{number}", "total": number} for number in range(300)])
    stream.run()
    delete_unseen(stream, "k7", "k8", "k9")
    stream.spoil("orders", "k1")
    stream.spoil("orders", "k2")
    stream.lose("orders", "k3")
    expected = {"missing": 1, "differing": 2, "too many": 3}
    with stream.running():
        for _ in range(2):
            result = stream.verify()
            assert (count_of(result), result.is_equal) == (expected, False)
            assert result.verified_through is None
        assert [sorted(key.split()[-1].strip('"{}:_id') for key in result.examples["too many"])] == [["k7", "k8", "k9"]]
        result = stream.verify(repair=True)
        assert (count_of(result), result.repaired, result.is_equal) == ({}, 6, True)
        assert (count_of(stream.verify()), stream.verify(repair=True).repaired) == ({}, 0)
        stream.db.orders.update_one({"_id": "k1"}, {"$set": {"later": True}})
        stream.db.orders.insert_one({"_id": "k7"})
        wait_until(lambda: "k7" in stream.keys("orders"), "what comes after it wins", timeout_s=30)
        assert count_of(stream.verify()) == {}
    assert stream.keys("orders") == {f"k{number}" for number in range(300)} - {"k8", "k9"}


def test_without_a_run_differences_are_not_decided(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("docdb_stream.verify.stream.WAIT_S", 0.1)
    stream = make()
    stream.run()
    stream.db.orders.insert_one({"_id": "k1"})
    result = stream.verify(limit=Deadline.after(5))
    assert (count_of(result), result.is_equal) == ({"undecided": 1}, False)
    assert any("run --follow" in note for note in result.notes)
