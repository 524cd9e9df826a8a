"""A snapshot that several processes share, beside writers at full speed, kills, drops and renames."""

from __future__ import annotations

import json
import random
import signal
import threading
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace
from typing import Any

import psycopg
import pytest
from bson import Timestamp
from faults.standin import DocumentDB
from opensearchpy import OpenSearch
from pymongo import MongoClient

from docdb_stream.checkpoint import SnapshotRequest
from docdb_stream.context import Deadline
from docdb_stream.dead_letters import DeadLetters
from docdb_stream.errors import ConfigError
from docdb_stream.handlers import snapshot as handler
from docdb_stream.local import OpenSearchServer, PostgresServer, ReplicaSet
from docdb_stream.local.process import wait_until
from docdb_stream.mongodb.connection import Connection
from docdb_stream.mongodb.documents import MongoDocuments
from docdb_stream.mongodb.source import MongoChangeSource
from docdb_stream.poller import Poller
from docdb_stream.position import SnapshotRange
from docdb_stream.settings import Settings
from docdb_stream.snapshot_worker import SnapshotWorker, WorkResult
from docdb_stream.source import Page
from docdb_stream.stores.mongodb import MongoCheckpointStore, share_store
from docdb_stream.targets import build_targets
from docdb_stream.testing.targets import ListTarget

pytestmark = pytest.mark.integration

Mongo = MongoClient[dict[str, Any]]


class Stream:
    """A database into tables of PostgreSQL, with its runs and workers."""

    def __init__(self, uri: str, mongo: Mongo, db_name: str, postgres: PostgresServer) -> None:
        self.db, self.schema, self._postgres = mongo[db_name], f"shared_{db_name}", postgres
        self.name = f"{db_name}.*"
        self.environment = {
            "DOCUMENTDB_URI": uri,
            "WATCHED_DB_NAME": db_name,
            "STATE_DB": f"{db_name}_state",
            "START_AT": "snapshot",
            "SNAPSHOT_SHARED": "true",
            "SNAPSHOT_RANGES": "4",
            "BATCH_SIZE": "50",
            "STATE_SYNC_COUNT": "3",
            "LEASE_SECONDS": "5",
            "POSTGRES_URI": postgres.uri,
            "POSTGRES_SCHEMA": self.schema,
        }

    def settings(self, **environment: str) -> Settings:
        return Settings.from_env({**self.environment, **environment})

    def run(self, **environment: str) -> Any:
        with Poller.from_settings(self.settings(**environment)) as poller:
            return poller.run()

    def work(self, limit: Deadline | None = None) -> WorkResult:
        with SnapshotWorker.from_settings(self.settings()) as worker:
            return worker.run(limit=limit)

    def end(self) -> None:
        """Work, and run, until the snapshot is over and all is delivered."""
        for _ in range(30):
            self.work()
            result = self.run()
            if result.caught_up and result.snapshot is None:
                return
        pytest.fail("the snapshot does not end")

    def tables(self) -> dict[str, dict[str, Any]]:
        with psycopg.connect(self._postgres.uri) as client:
            query = "SELECT viewname FROM pg_views WHERE schemaname = %s"
            found: dict[str, dict[str, Any]] = {}
            for (view,) in client.execute(query, [self.schema]).fetchall():
                name = view.removesuffix("_current").removeprefix(f"{self.db.name}_")
                rows = client.execute(f'SELECT _id, document FROM {self.schema}."{view}"').fetchall()
                if rows:
                    found[name] = dict(rows)
            return found

    def expected(self) -> dict[str, dict[str, Any]]:
        names = self.db.list_collection_names()
        found = {name: {str(each["_id"]): each for each in self.db[name].find()} for name in names}
        return {name: documents for name, documents in found.items() if documents}


@pytest.fixture
def stream(replica_set: ReplicaSet, mongo: Mongo, db_name: str, postgres: PostgresServer) -> Stream:
    return Stream(replica_set.uri, mongo, db_name, postgres)


def _writing(db: Any, stop: threading.Event, seed: int, keys: int) -> Callable[[], None]:
    chance = random.Random(seed)

    def write() -> None:
        version = 0
        while not stop.is_set():
            key, kind, version = chance.randrange(keys), chance.random(), version + 1
            if kind < 0.2:
                db.orders.delete_one({"_id": key})
            elif kind < 0.6:
                db.orders.update_one({"_id": key}, {"$set": {"v": version}}, upsert=True)
            else:
                db.orders.replace_one({"_id": key}, {"v": version}, upsert=True)

    return write


@pytest.mark.parametrize("server", ["MongoDB", "DocumentDB"])
def test_tables_equal_collections_whoever_dies(
    server: str, replica_set: ReplicaSet, mongo: Mongo, db_name: str, postgres: PostgresServer, cli: Any
) -> None:
    with DocumentDB(replica_set.members[0]) as standin:
        stream = Stream(replica_set.uri if server == "MongoDB" else standin.uri, mongo, db_name, postgres)
        stream.db.orders.insert_many([{"_id": number, "v": -1} for number in range(6_000)])
        stream.db.customers.insert_many([{"_id": number, "v": -1} for number in range(300)])
        stop = threading.Event()
        writer = threading.Thread(target=_writing(stream.db, stop, 1, 8_000), daemon=True)
        stream.run(MAX_LOOP="1")
        writer.start()
        try:
            killed = [cli.start("snapshot", "work", stream.name, **stream.environment) for _ in range(2)]
            wait_until(lambda: any(_snapshots(mongo, db_name)), "a worker has saved something", timeout_s=60)
            for process in killed:
                process.send_signal(signal.SIGKILL)
                process.wait()
            results: list[WorkResult] = []

            def work() -> None:
                results.append(stream.work(Deadline.after(20)))

            threads = [threading.Thread(target=work) for _ in range(3)]
            for thread in threads:
                thread.start()
            stream.run()
            for thread in threads:
                thread.join(60)
            assert len(results) == 3
        finally:
            stop.set()
            writer.join(30)
        stream.end()
        assert stream.tables() == stream.expected()
        assert not _snapshots(mongo, db_name)


def _snapshots(mongo: Mongo, db_name: str) -> list[dict[str, Any]]:
    db = mongo[f"{db_name}_state"]
    names = [each for each in db.list_collection_names() if each.endswith("_snapshots")]
    return [each for name in names for each in db[name].find({"position": {"$exists": True}})]


class Interrupted(MongoDocuments):
    """Has something happen once a page is read, before it is delivered."""

    def __init__(self, settings: Settings, connection: Connection, happens: Callable[[], object]) -> None:
        super().__init__(settings, connection)
        self._happens: Callable[[], object] | None = happens

    def read(self, range: SnapshotRange, *, since: Timestamp | None, match: str | None, limit: int) -> Page:
        page = super().read(range, since=since, match=match, limit=limit)
        happens, self._happens = self._happens, None
        if happens is not None:
            happens()
        return page


def _worker(settings: Settings, connection: Connection, documents: MongoDocuments) -> SnapshotWorker:
    class Letters(DeadLetters):
        def __init__(self) -> None:
            pass

        def write(self, stream: str, rejections: Sequence[Any]) -> None:
            pytest.fail("nothing is to be rejected")

    return SnapshotWorker(
        settings,
        changes=MongoChangeSource(settings, connection),
        documents=documents,
        store=MongoCheckpointStore(settings, connection),
        shares=share_store(settings, connection),
        targets=build_targets(settings),
        dead_letters=Letters(),
    )


def _work_while(settings: Settings, happens: Callable[[], object]) -> WorkResult:
    with (
        Connection(settings) as connection,
        _worker(settings, connection, Interrupted(settings, connection, happens)) as worker,
    ):
        return worker.run()


@pytest.mark.parametrize("told", [True, False])
def test_a_collection_is_dropped_while_its_documents_are_under_way(stream: Stream, told: bool) -> None:
    stream.db.orders.insert_many([{"_id": number} for number in range(120)])
    stream.run(MAX_LOOP="1")

    def drop() -> None:
        stream.db.orders.drop()
        stream.db.orders.insert_many([{"_id": number, "again": True} for number in (5, 500)])
        if told:
            stream.run()

    assert _work_while(stream.settings(), drop).documents == 0
    stream.end()
    assert stream.tables() == stream.expected()


def test_a_collection_is_renamed_while_the_run_itself_delivers_it(stream: Stream) -> None:
    stream.environment |= {"SNAPSHOT_SHARED": "false", "BATCH_SIZE": "20"}
    stream.db.orders.insert_many([{"_id": number} for number in range(300)])
    stream.run(MAX_LOOP="4")
    stream.db.orders.rename("archive")
    stream.db.orders.insert_one({"_id": 1, "new": True})
    assert stream.run(MAX_LOOP="2").snapshot is not None
    assert stream.run().snapshot is None
    assert stream.tables() == stream.expected()


@pytest.mark.parametrize("told", [True, False])
def test_a_collection_is_renamed_while_its_documents_are_under_way(stream: Stream, told: bool) -> None:
    stream.db.orders.insert_many([{"_id": number} for number in range(2_500)])
    stream.run(MAX_LOOP="1")

    def rename() -> None:
        stream.db.orders.rename("archive")
        stream.db.orders.insert_one({"_id": 1, "new": True})
        if told:
            stream.run()

    _work_while(stream.settings(), rename)
    stream.end()
    assert stream.tables() == stream.expected()


def test_a_collection_is_renamed_there_and_back(stream: Stream) -> None:
    """The name stands for the same collection again, and what came under it before the renames is refused."""
    stream.db.orders.insert_many([{"_id": number} for number in range(300)])
    stream.run()

    def rename() -> None:
        stream.db.orders.rename("away")
        stream.db.away.rename("orders")
        stream.run()

    _work_while(stream.settings(), rename)
    stream.end()
    assert stream.tables() == stream.expected()


def test_the_read_itself_falls_between_two_renames(stream: Stream) -> None:
    stream.db.orders.insert_many([{"_id": number} for number in range(300)])
    stream.run()

    class Away(MongoDocuments):
        """Reads while the collection has another name."""

        def read(self, range: SnapshotRange, *, since: Timestamp | None, match: str | None, limit: int) -> Page:
            stream.db.orders.rename("away")
            page = super().read(range, since=since, match=match, limit=limit)
            stream.db.away.rename("orders")
            return page

    with Connection(stream.settings()) as connection:
        _worker(stream.settings(), connection, Away(stream.settings(), connection)).run()
    stream.end()
    assert stream.tables() == stream.expected()


def test_history_that_is_lost_meanwhile_makes_what_is_delivered_since_newer(stream: Stream) -> None:
    stream.environment["ON_HISTORY_LOST"] = "now"
    stream.db.orders.insert_many([{"_id": number, "v": 0} for number in range(300)])
    stream.run()
    stream.db.orders.update_many({}, {"$set": {"v": 1}})
    stream.run()  # the target has what is newer than the snapshot

    def lose() -> None:
        lose_history(stream.settings(), stream.name)
        stream.db.orders.update_many({}, {"$set": {"v": 2}})
        stream.run()

    _work_while(stream.settings(), lose)
    stream.end()
    assert stream.tables() == stream.expected()


def lose_history(settings: Settings, name: str) -> None:
    """Have the stream stand where the change log does not reach back to."""
    with Connection(settings) as connection:
        store = MongoCheckpointStore(settings, connection)
        found = store.load(name)
        assert found is not None
        assert found.position is not None
        lease = store.acquire(name, settings.scope, "nobody", 10)
        store.save(lease, replace(found.position, token=None, operation_time=Timestamp(1, 1)))
        store.release(lease)


def test_pages_that_were_long_on_their_way_are_looked_at_again(
    stream: Stream, monkeypatch: pytest.MonkeyPatch, opensearch_server: OpenSearchServer, db_name: str
) -> None:
    """As where an index has forgotten a delete that it was told of before the page came."""
    monkeypatch.setattr("docdb_stream.snapshot.held_range.LATE_S", 0.0)
    del stream.environment["POSTGRES_URI"], stream.environment["POSTGRES_SCHEMA"]
    stream.environment |= {"ELASTICSEARCH_URI": opensearch_server.url}
    stream.db.orders.insert_many([{"_id": number} for number in range(20)])
    stream.run()
    _work_while(stream.settings(), lambda: stream.db.orders.delete_many({"_id": {"$lt": 5}}))
    with closing(OpenSearch(opensearch_server.url)) as client:
        client.indices.refresh(index="*")
        found = client.search(index="*", body={"query": {"match_all": {}}, "size": 100})["hits"]["hits"]
    assert {each["_id"] for each in found if each["_index"].startswith(db_name)} == {str(n) for n in range(5, 20)}
    stream.end()


def test_pages_are_as_new_as_their_reading(stream: Stream) -> None:
    """As where a secondary is behind: what it still has of a document may be deleted for longer than an index knows."""
    stream.db.orders.insert_many([{"_id": number} for number in range(200)])
    stream.run()
    asked: list[Timestamp | None] = []

    class Recording(MongoDocuments):
        def read(self, range: SnapshotRange, *, since: Timestamp | None, match: str | None, limit: int) -> Page:
            asked.append(since)
            return super().read(range, since=since, match=match, limit=limit)

    settings = stream.settings()
    with Connection(settings) as connection:
        stream.db.orders.insert_one({"_id": -1})
        now = MongoChangeSource(settings, connection).operation_time()
        with _worker(settings, connection, Recording(settings, connection)) as worker:
            worker.run()
    assert asked
    assert all(since is not None and since >= now for since in asked)


def test_what_an_index_without_a_memory_has_is_taken_back(
    stream: Stream, opensearch_server: OpenSearchServer, db_name: str
) -> None:
    del stream.environment["POSTGRES_URI"], stream.environment["POSTGRES_SCHEMA"]
    stream.environment |= {"ELASTICSEARCH_URI": opensearch_server.url}
    stream.db.orders.insert_many([{"_id": number} for number in range(40)])
    stream.run(MAX_LOOP="1")

    def drop() -> None:
        stream.db.orders.drop()
        stream.run()

    _work_while(stream.settings(), drop)
    stream.end()
    with closing(OpenSearch(opensearch_server.url)) as client:
        found = client.search(index="*", body={"query": {"match_all": {}}})["hits"]["hits"]
    assert [each for each in found if each["_index"].startswith(db_name)] == []


@pytest.mark.parametrize("shared", ["true", "false"])
@pytest.mark.parametrize("change", ["rename", "drop"])
def test_the_stream_is_behind_what_became_of_a_collection(stream: Stream, shared: str, change: str) -> None:
    """What the snapshot finds under a name is not what the stream still tells of it."""
    stream.environment["SNAPSHOT_SHARED"] = shared
    stream.db.orders.insert_many([{"_id": number} for number in range(60)])
    stream.run(START_AT="now")
    if change == "rename":
        stream.db.orders.rename("archive")
    else:
        stream.db.orders.drop()
        stream.db.orders.insert_many([{"_id": number} for number in range(20)])
    with Connection(stream.settings()) as connection:
        MongoCheckpointStore(stream.settings(), connection).ask(stream.name, SnapshotRequest("s1", "start"))
    if shared == "true":
        stream.end()
    else:
        assert stream.run().snapshot is None
    assert stream.tables() == stream.expected()


def test_a_log_takes_no_part(stream: Stream) -> None:
    stream.db.orders.insert_one({"_id": 1})
    with (
        Poller.from_settings(stream.settings(), [ListTarget()]) as poller,
        pytest.raises(ConfigError, match="keeps no versions") as caught,
    ):
        poller.run()
    assert "SNAPSHOT_SHARED" in caught.value.hint
    with pytest.raises(ConfigError, match="its run's own"):
        SnapshotWorker.from_settings(stream.settings(SNAPSHOT_SHARED="false"))


def test_the_command_line_and_the_function(stream: Stream, cli: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def command(*arguments: str) -> Any:
        return cli.run("snapshot", arguments[0], stream.name, *arguments[1:], **stream.environment)

    stream.db.orders.insert_many([{"_id": number} for number in range(30)])
    assert "no shared snapshot is under way" in command("work").stdout
    stream.run()
    assert json.loads(command("status", "--json").stdout)["snapshot"]["shared"] is True
    command("pause")
    stream.run()
    assert "no shared snapshot" in command("work").stdout
    command("resume")
    stream.run()
    done = command("work")
    assert "30 documents delivered, 1 range done, 0 left" in done.stdout, done.stderr
    assert json.loads(command("status", "--json").stdout)["snapshot"]["documents"] == 30

    class Context:
        def get_remaining_time_in_millis(self) -> int:
            return 30_000

    for name, value in stream.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(handler._runtime, "_settings", None)
    assert handler.handler({}, Context())["left"] == 0
    assert stream.run().snapshot is None
    assert handler.handler({}, Context())["snapshot"] == ""
    assert stream.tables() == stream.expected()


def test_a_stop_leaves_the_rest_to_others(stream: Stream) -> None:
    stream.db.orders.insert_many([{"_id": number} for number in range(500)])
    stream.run()
    limit = Deadline.after(60)

    def told(result: WorkResult) -> None:
        limit.stop.set()

    with SnapshotWorker.from_settings(stream.settings()) as worker:
        result = worker.run(limit=limit, progress=told)
    assert (result.stopped_by, result.left > 0, 0 < result.documents < 500) == ("signal", True, True)
    stream.end()
    assert stream.tables() == stream.expected()


def test_of_a_collection_that_two_have_one_gets_it(stream: Stream) -> None:
    stream.db.orders.insert_many([{"_id": number} for number in range(200)])
    stream.run()
    found: list[WorkResult] = []
    assert _work_while(stream.settings(), lambda: found.append(stream.work())).documents == 200
    assert [(each.documents, each.left) for each in found] == [(0, 1)]
