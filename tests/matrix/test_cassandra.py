"""The target on Cassandra itself."""

from __future__ import annotations

import datetime as dt
import itertools
import math
import socket
import threading
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from typing import Any

import orjson
import pytest
from bson import Decimal128, Int64, ObjectId, Timestamp
from bson.binary import Binary
from cassandra.cluster import Cluster, Session
from matrix.servers.cassandra import Cassandra

from docdb_stream.context import Deadline, RunContext, running
from docdb_stream.errors import Caution, TargetError
from docdb_stream.events import ChangeEvent
from docdb_stream.target import Rejection
from docdb_stream.targets._canonical import canonical_json
from docdb_stream.targets.cassandra import CassandraTarget
from docdb_stream.testing.contract import Delivered, TargetContract
from docdb_stream.testing.events import ChangeLog
from docdb_stream.testing.versioned_contract import VersionedContract

pytestmark = pytest.mark.matrix

BY_ID = "orders: orders (id text = _id, n int, PRIMARY KEY (id))"
BY_N = "orders: orders_by_n (id text = _id, day int = day, n int, PRIMARY KEY ((n), id))"
"""Whose rows move with every change."""
_keyspaces = itertools.count()


class Store:
    """A keyspace for each test, and a client of its own."""

    def __init__(self, server: Cassandra, session: Session) -> None:
        self.hosts = f"127.0.0.1:{server.port}"
        self.keyspace = f"test_{next(_keyspaces)}"
        self._session = session
        replication = "{'class': 'SimpleStrategy', 'replication_factor': 1}"
        self.ask(f"CREATE KEYSPACE {self.keyspace} WITH replication = {replication} AND durable_writes = true")

    def target(self, tables: str = BY_ID, **options: Any) -> CassandraTarget:
        given = {"create": True, **options}
        return CassandraTarget(given.pop("hosts", self.hosts), self.keyspace, tables, **given)

    def deliver(self, *events: ChangeEvent, **options: Any) -> Sequence[Rejection]:
        """Write them in a process of its own."""
        with running(RunContext()), closing(self.target(**options)) as target:
            return [*target.write(events), *target.flush()]

    def ask(self, statement: str) -> list[Any]:
        return list(self._session.execute(statement.replace("$", self.keyspace)) or ())

    def numbers(self, table: str = "orders") -> dict[int, int]:
        rows = self.ask(f"SELECT id, n FROM $.{table}")
        assert len({row.id for row in rows}) == len(rows), rows
        return {int(row.id): row.n for row in rows}


@pytest.fixture(scope="module")
def session(cassandra: Cassandra) -> Iterator[Session]:
    with Cluster(["127.0.0.1"], port=cassandra.port, connect_timeout=60) as cluster:
        made = cluster.connect()
        made.default_timeout = 60
        yield made


@pytest.fixture
def store(cassandra: Cassandra, session: Session) -> Store:
    return Store(cassandra, session)


@pytest.fixture
def log() -> ChangeLog:
    return ChangeLog()


class TestCassandra(TargetContract):
    """The column ``document`` has all of its document."""

    keeps = "documents"
    tables = "orders: orders (id text = _id, document text = ., PRIMARY KEY (id))"

    @pytest.fixture(autouse=True)
    def _store(self, store: Store) -> None:
        self.store = store
        store.deliver(tables=self.tables)

    def make_target(self) -> CassandraTarget:
        return self.store.target(self.tables)

    def read_back(self) -> list[Delivered]:
        return [Delivered("", None, row.document.encode()) for row in self.store.ask("SELECT document FROM $.orders")]

    def expected_payload(self, event: ChangeEvent) -> bytes | None:
        payload = event.render("plain")
        return None if payload == b"null" else payload

    def same_payload(self, expected: bytes, found: bytes) -> bool:
        return canonical_json(orjson.loads(expected)) == canonical_json(orjson.loads(found))


class VersionsOfRows(VersionedContract):
    tables = ""
    table = ""

    @pytest.fixture(autouse=True)
    def _store(self, store: Store) -> None:
        self.store = store
        store.deliver(tables=self.tables)

    def make_target(self) -> CassandraTarget:
        return self.store.target(self.tables)

    def documents(self) -> Mapping[int, int]:
        return self.store.numbers(self.table)


class TestVersionsById(VersionsOfRows):
    tables = BY_ID
    table = "orders"


class TestVersionsWhereRowsMove(VersionsOfRows):
    tables = BY_N
    table = "orders_by_n"


class TestVersionsInTwoTables(VersionsOfRows):
    tables = f"{BY_ID}\n{BY_N}"

    def documents(self) -> Mapping[int, int]:
        found = self.store.numbers("orders")
        assert self.store.numbers("orders_by_n") == found
        return found


TYPES = (
    "orders: kinds (id text = _id, t text, i int, b bigint, v varint, d double, m decimal, o boolean, at timestamp, "
    "u uuid, x blob, deep text = a.b, list text = list, PRIMARY KEY (id))"
)


def test_every_type(store: Store, log: ChangeLog) -> None:
    own = uuid.uuid4()
    document = {
        "_id": ObjectId(),
        "t": "a\0ö😀",
        "i": 2.0,
        "b": Int64(-(2**63)),
        "v": Decimal128("12345678901234567890123456789"),
        "d": -0.0,
        "m": Decimal128("-1E-6176"),
        "o": False,
        "at": dt.datetime(1, 1, 1, tzinfo=dt.UTC),
        "u": own,
        "x": Binary(b"\0\xff", 5),
        "a": {"b": {"c": [1]}},
        "list": [1.5, None],
    }
    assert store.deliver(log.insert(document), tables=TYPES) == []
    [row] = store.ask("SELECT id, t, i, b, v, d, m, o, toUnixTimestamp(at) AS at, u, x, deep, list FROM $.kinds")
    assert (row.id, row.t, row.i, row.b, row.v) == (
        str(document["_id"]),
        "a\0ö😀",
        2,
        -(2**63),
        int("12345678901234567890123456789"),
    )
    assert (math.copysign(1, row.d), str(row.m), row.o, row.u, row.x) == (-1, "-1E-6176", False, own, b"\0\xff")
    assert (row.at, row.deep, row.list) == (-62135596800000, '{"c":[1]}', "[1.5,null]")
    assert store.deliver(log.replace({"_id": document["_id"], "t": ObjectId("0" * 24)}), tables=TYPES) == []
    [row] = store.ask("SELECT * FROM $.kinds")
    assert {value for value in row if value is not None} == {str(document["_id"]), "0" * 24}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("i", value) for value in (2**31, 0.5, True, "1", float("nan"), Decimal128("Infinity"), Timestamp(1, 1))),
        *(("b", value) for value in (1e300, Decimal128("9223372036854775808"))),
        *(("d", value) for value in (Int64(2**53 + 1), Decimal128("0.1000000000000000001"))),
        *(("m", value) for value in (float("inf"), Decimal128("NaN"))),
        *(("o", 1), ("at", "2026-01-01"), ("u", "x"), ("u", b"short"), ("x", "text")),
    ],
)
def test_what_a_column_cannot_hold_is_refused_alone(store: Store, log: ChangeLog, name: str, value: Any) -> None:
    events = [log.insert({"_id": 1}), log.insert({"_id": 2, name: value}), log.insert({"_id": 3})]
    rejections = store.deliver(*events, tables=TYPES)
    assert [each.event for each in rejections] == [events[1]]
    assert name in rejections[0].reason
    assert repr(value) not in rejections[0].reason
    assert {row.id for row in store.ask("SELECT id FROM $.kinds")} == {"1", "3"}


def test_keys_that_cannot_be(store: Store, log: ChangeLog) -> None:
    tables = (
        "orders: by_n (id text = _id, n text, PRIMARY KEY ((n), id)), orders: plain (id text = _id, PRIMARY KEY (id))"
    )
    events = [log.insert({"_id": 1, "n": ""}), log.insert({"_id": 2, "n": "x" * 65_536}), log.insert({"_id": 3})]
    events.append(log.insert({"_id": "y" * 65_536, "n": "1"}))
    rejections = store.deliver(*events, tables=tables)
    assert [each.event for each in rejections] == events[:2]
    assert len(store.ask("SELECT id FROM $.plain")) == 2
    assert len(store.ask("SELECT id FROM $.by_n")) == 1
    store.deliver(log.delete("y" * 65_536), tables=tables)
    assert {row.id for row in store.ask("SELECT id FROM $.plain")} == {"3"}
    assert store.ask("SELECT id FROM $.by_n") == []


def test_a_row_too_large_for_the_server_is_refused_alone(store: Store, log: ChangeLog) -> None:
    tables = "orders: docs (id text = _id, document text = ., PRIMARY KEY (id))"
    events = [log.insert({"_id": number, "x": "x" * (9 << 20 if number == 1 else 10)}) for number in range(3)]
    rejections = store.deliver(*events, tables=tables)
    assert [each.event for each in rejections] == [events[1]]
    assert {row.id for row in store.ask("SELECT id FROM $.docs")} == {"0", "2"}


@pytest.mark.parametrize("change", ["ALTER TABLE $.docs DROP note", "DROP TABLE $.docs"])
def test_a_table_that_was_changed_meanwhile_stops_the_stream(store: Store, log: ChangeLog, change: str) -> None:
    """It is no document's fault: dead letters would be all of them."""
    tables = "orders: docs (id text = _id, note text, PRIMARY KEY (id))"
    with running(RunContext()), closing(store.target(tables)) as target:
        assert target.write([log.insert({"_id": 1, "note": "x"})]) == []
        store.ask(change)
        with pytest.raises(TargetError, match="does not take the statements") as caught:
            target.write([log.insert({"_id": 2, "note": "x"})])
    assert "doctor" in caught.value.hint


def test_a_row_that_would_end_too_late_is_the_declarations_fault(store: Store, log: ChangeLog) -> None:
    tables = "orders: docs (id text = _id, PRIMARY KEY (id)) TTL 5000d"
    with running(RunContext()), closing(store.target(tables)) as target, pytest.raises(TargetError) as caught:
        target.write([log.insert({"_id": 1}).replace(clusterTime=Timestamp(int(time.time()), 1))])
    assert "CASSANDRA_TABLES" in caught.value.hint


def test_a_uuid_in_another_drivers_order_is_refused(store: Store, log: ChangeLog) -> None:
    tables = "orders: docs (id text = _id, u uuid, PRIMARY KEY (id))"
    own = uuid.uuid4()
    legacy = log.insert({"_id": 2, "u": Binary(own.bytes_le, 3)})
    rejections = store.deliver(log.insert({"_id": 1, "u": Binary.from_uuid(own)}), legacy, tables=tables)
    assert [each.event for each in rejections] == [legacy]
    assert [row.u for row in store.ask("SELECT u FROM $.docs")] == [own]


def test_a_row_that_has_no_key_any_more_goes(store: Store, log: ChangeLog) -> None:
    store.deliver(log.insert({"_id": 1, "n": 1}), tables=BY_N)
    store.deliver(log.update({"_id": 1}), tables=BY_N)
    assert store.numbers("orders_by_n") == {}
    store.deliver(log.update({"_id": 1, "n": 1}), tables=BY_N)
    assert store.numbers("orders_by_n") == {1: 1}


def test_a_document_whose_rows_move_all_the_time_is_known_by_little(store: Store, log: ChangeLog) -> None:
    store.deliver(tables=BY_N)
    with running(RunContext()), closing(store.target(BY_N)) as target:
        for number in range(300):
            assert target.write([log.update({"_id": 1, "n": number})]) == []
    assert store.numbers("orders_by_n") == {1: 299}
    assert len(store.ask("SELECT keys FROM $.docdb_stream_documents")) == 1
    [row] = store.ask(
        f"SELECT gc_grace_seconds AS s FROM system_schema.tables WHERE keyspace_name = '{store.keyspace}' "
        "AND table_name = 'docdb_stream_documents'"
    )
    assert row.s == 3600


@pytest.mark.parametrize("writes", range(4))
def test_a_killed_run_leaves_nothing_that_the_next_one_does_not_find(store: Store, log: ChangeLog, writes: int) -> None:
    """See tests/unit/test_cassandra_writers.py, for every moment and any runs; this is on a server."""
    first, second, third = (log.update({"_id": 1, "n": number}) for number in (1, 2, 3))
    store.deliver(first, tables=BY_N)
    with closing(store.target(BY_N)) as target:
        original = target._cluster.write
        left = iter([original] * writes)

        def killed(statements: Any) -> Any:
            return next(left)(statements)

        target._cluster.write = killed  # type: ignore[method-assign]
        with pytest.raises(StopIteration):
            target.write([second])
    store.deliver(second, third, tables=BY_N)
    assert store.numbers("orders_by_n") == {1: 3}
    [state] = store.ask("SELECT keys FROM $.docdb_stream_documents")
    assert state.keys == '{"orders_by_n":[3,"1"]}'


def test_rows_live_from_their_change_on(store: Store) -> None:
    tables = (
        "orders: short (id text = _id, n int, PRIMARY KEY (id)) TTL 10d, orders: long (id text = _id, PRIMARY KEY (id))"
    )
    now_s = int(time.time())
    old = ChangeLog(start=Timestamp(now_s - 11 * 86_400, 1)).insert({"_id": 1, "n": 1})
    half = ChangeLog(start=Timestamp(now_s - 5 * 86_400, 1)).insert({"_id": 2, "n": 2})
    assert store.deliver(old, half, tables=tables) == []
    [row] = store.ask("SELECT id, TTL(n) AS left_s FROM $.short")
    assert row.id == "2"
    assert abs(row.left_s - 5 * 86_400) < 600
    assert {row.id for row in store.ask("SELECT id FROM $.long")} == {"1", "2"}


def test_a_drop_takes_what_is_older(store: Store, log: ChangeLog) -> None:
    tables = f"{BY_N}, other: other (id text = _id, PRIMARY KEY (id))"
    before = log.inserts(250)
    moved = [log.update({"_id": number, "n": number % 9}) for number in range(250)]
    other = ChangeLog(coll="other").insert({"_id": 1})
    drop, after = log.drop(), log.insert({"_id": 5, "n": 5})
    store.deliver(other, *before, *moved, drop, after, tables=tables)
    for replayed in ([before[7]], [moved[5]], [drop], [drop, after]):
        assert store.deliver(*replayed, tables=tables) == []
        assert store.numbers("orders_by_n") == {5: 5}
    assert [row.id for row in store.ask("SELECT id FROM $.other")] == ["1"]
    assert store.deliver(log.drop(), tables=tables, on_drop="keep") == []
    assert store.numbers("orders_by_n") == {5: 5}
    store.deliver(log.rename("archive"), tables=tables)
    assert store.numbers("orders_by_n") == {}


def test_tables_that_are_missing_or_another(store: Store, log: ChangeLog) -> None:
    with closing(store.target(create=False)) as target, pytest.raises(TargetError, match="2 of the tables") as caught:
        target.check()
    assert "CREATE TABLE" in caught.value.hint
    for statement in caught.value.hint.partition(": ")[2].split("; "):
        store.ask(f"USE {store.keyspace}")
        store.ask(statement)
    assert store.deliver(log.insert({"_id": 1, "n": 1}), create=False) == []
    with closing(store.target()) as target:
        target.check()
    store.ask("ALTER TABLE $.orders WITH gc_grace_seconds = 864000")
    with closing(store.target()) as target, pytest.raises(Caution, match="10 days"):
        target.check()
    with pytest.raises(TargetError, match="column more of table orders is missing") as caught:
        store.deliver(tables=BY_ID.replace("n int", "n int, more text"))
    assert "ALTER TABLE" in caught.value.hint
    with pytest.raises(TargetError, match="has the key"):
        store.deliver(tables=BY_ID.replace("PRIMARY KEY (id)", "PRIMARY KEY ((id), n)"))
    with closing(CassandraTarget(store.hosts, "nothere", BY_ID)) as target, pytest.raises(TargetError) as caught:
        target.check()
    assert "CASSANDRA_KEYSPACE" in caught.value.hint


def test_a_silent_server_is_given_up_in_time(store: Store, log: ChangeLog) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        began_s = time.monotonic()
        context = RunContext(Deadline.after(1.0))
        hosts = f"127.0.0.1:{silent.getsockname()[1]}"
        with running(context), closing(store.target(hosts=hosts)) as target, pytest.raises(TargetError) as caught:
            target.write([log.insert({"_id": 1, "n": 1})])
        assert time.monotonic() - began_s < 10
    assert "nothing is lost" in caught.value.hint


def test_a_server_that_is_not_there_is_tried_until_the_deadline(store: Store, log: ChangeLog) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    context = RunContext(Deadline.after(3.0))
    with running(context), closing(store.target(hosts=f"127.0.0.1:{port}")) as target, pytest.raises(TargetError):
        target.write([log.insert({"_id": 1, "n": 1})])
    assert context.retries > 0


def test_what_several_runs_write_at_once(store: Store, log: ChangeLog) -> None:
    """Each has all that has happened, in batches of other sizes."""
    events = [log.update({"_id": number % 20, "n": turn * 7 + number % 5}) for turn in range(9) for number in range(20)]
    store.deliver(tables=BY_N)
    found: list[Any] = []

    def work(size: int) -> None:
        try:
            with running(RunContext()), closing(store.target(BY_N)) as target:
                for first in range(0, len(events), size):
                    found.extend(target.write(events[first : first + size]))
        except BaseException as error:
            found.append(error)

    threads = [threading.Thread(target=work, args=(size,)) for size in (7, 20, 33)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == []
    assert store.numbers("orders_by_n") == {number: 56 + number % 5 for number in range(20)}


def test_who_may_not_in(log: ChangeLog, monkeypatch: pytest.MonkeyPatch, entered: Any) -> None:
    server = entered(Cassandra(password=True))
    monkeypatch.setenv("WRITER", '{"username": "cassandra", "password": "swordfish"}')
    with (
        running(RunContext(Deadline.after(60))),
        closing(CassandraTarget(f"127.0.0.1:{server.port}", "shop", BY_ID, secret="env:WRITER")) as target,
        pytest.raises(TargetError, match="refuses the user") as caught,
    ):
        target.write([log.insert({"_id": 1, "n": 1})])
    assert "CASSANDRA_SECRET" in caught.value.hint
    assert "swordfish" not in str(caught.value)
