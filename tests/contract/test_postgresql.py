from __future__ import annotations

import itertools
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from typing import Any

import orjson
import psycopg
import pytest
from bson import Decimal128, Int64, Timestamp
from bson.binary import Binary
from bson.datetime_ms import DatetimeMS

from docdb_stream.context import Deadline, RunContext, running
from docdb_stream.errors import CheckpointConflictError, ConfigError, TargetError
from docdb_stream.events import ChangeEvent
from docdb_stream.local import PostgresServer
from docdb_stream.local.process import wait_until
from docdb_stream.target import Rejection
from docdb_stream.targets._canonical import canonical_json
from docdb_stream.targets.postgresql import PostgresTarget
from docdb_stream.testing.contract import Delivered, TargetContract
from docdb_stream.testing.events import ChangeLog
from docdb_stream.testing.versioned_contract import VersionedContract

pytestmark = pytest.mark.integration

_numbers = itertools.count()
_END_ALL = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'docdb-stream'"


class Database:
    """The schema that belongs to one test, and a client of its own."""

    def __init__(self, server: PostgresServer, client: psycopg.Connection[Any]) -> None:
        self.uri = server.uri
        self.client = client
        self.schema = f"mirror{next(_numbers)}"

    def target(self, uri: str = "", **options: Any) -> PostgresTarget:
        return PostgresTarget(uri or self.uri, **{"schema": self.schema, "stream": "orders", **options})

    def deliver(self, *events: ChangeEvent, epoch: int | None = None, **options: Any) -> Sequence[Rejection]:
        """Write them in a process of its own."""
        with running(RunContext(lease_epoch=lambda: epoch)), closing(self.target(**options)) as target:
            return [*target.write(events), *target.flush()]

    def rows(self, what: str = "*", table: str = "shop_orders_current") -> list[tuple[Any, ...]]:
        return self.client.execute(f'SELECT {what} FROM {self.schema}."{table}" ORDER BY 1').fetchall()

    def mirrored(self, table: str = "shop_orders_current") -> dict[int, Any]:
        if self.client.execute("SELECT to_regclass(%s)", [f"{self.schema}.{table}"]).fetchone() == (None,):
            return {}
        return {int(key): n for key, n in self.rows("_id, (document->'n')::int", table)}

    def execute(self, statement: str) -> None:
        self.client.execute(statement.replace("SCHEMA.", f"{self.schema}."))


@pytest.fixture
def database(postgres: PostgresServer) -> Iterator[Database]:
    with psycopg.connect(postgres.uri, autocommit=True) as client:
        found = Database(postgres, client)
        yield found
        client.execute(f"DROP SCHEMA IF EXISTS {found.schema} CASCADE")


class TestPostgres(TargetContract):
    keeps = "documents"
    has_schema = True

    @pytest.fixture(autouse=True)
    def _database(self, database: Database) -> None:
        self.database = database

    def make_target(self) -> PostgresTarget:
        return self.database.target()

    def read_back(self) -> list[Delivered]:
        found = self.database.client.execute("SELECT to_regclass(%s)", [f"{self.database.schema}.shop_orders_current"])
        if found.fetchone() == (None,):
            return []
        return [Delivered("", None, text.encode()) for (text,) in self.database.rows("document::text")]

    def expected_payload(self, event: ChangeEvent) -> bytes | None:
        payload = event.render("plain")
        return None if payload == b"null" else payload

    def same_payload(self, expected: bytes, found: bytes) -> bool:
        return canonical_json(orjson.loads(expected)) == canonical_json(orjson.loads(found))


class TestVersionsOfRows(VersionedContract):
    refuses_zombies = True

    @pytest.fixture(autouse=True)
    def _database(self, database: Database) -> None:
        self.database = database

    def make_target(self) -> PostgresTarget:
        return self.database.target()

    def documents(self) -> dict[int, int]:
        return self.database.mirrored()


# Documents


def test_only_those_with_a_nul_are_rejected_of_hostile_ones(database: Database, log: ChangeLog) -> None:
    events = log.hostile()
    rejected = {name for name, event in events.items() for each in database.deliver(event) if each.event is event}
    assert rejected == {"text", "id_slashes", "invalid_utf8"}
    [rejection] = database.deliver(log.insert({"_id": 1, "text": "secret\0"}))
    assert "U+0000" in rejection.reason
    assert "secret" not in rejection.reason
    assert database.deliver(log.insert({"_id": 1, "text": "a backslash and u0000: \\u0000"})) == []


def test_a_document_near_the_limit_and_a_key_of_megabytes(database: Database, log: ChangeLog) -> None:
    large = {"_id": 1, "note": "x" * (15 * 1024 * 1024)}
    key = "k" * (3 * 1024 * 1024)
    assert database.deliver(log.insert(large), log.insert({"_id": key, "n": 1})) == []
    [(_, _), (short, whole)] = database.rows("_id, document->>'_id'")
    assert short.startswith("sha256:")
    assert whole == key
    assert database.deliver(log.delete(key)) == []
    assert database.rows("_id") == [("1",)]


def test_an_id_of_another_number_type_is_the_same_row(database: Database, log: ChangeLog) -> None:
    database.deliver(log.insert({"_id": 1, "n": 1}), log.delete(1), log.insert({"_id": 1.0, "n": 2}))
    assert database.mirrored() == {1: 2}


def test_a_tombstone_has_no_document_and_goes_when_it_is_old(database: Database, log: ChangeLog) -> None:
    insert, delete = log.insert({"_id": 1, "n": 1}), log.delete(1)
    database.deliver(insert, delete)
    assert database.rows("_id, document, _deleted_at IS NULL", "shop_orders") == [("1", None, False)]
    assert database.deliver(log.insert({"_id": 2, "n": 2})) == []
    assert len(database.rows("_id", "shop_orders")) == 2
    database.execute("UPDATE SCHEMA.shop_orders SET _deleted_at = now() - interval '31 days' WHERE _id = '1'")
    database.deliver(log.insert({"_id": 3, "n": 3}))
    assert database.rows("_id", "shop_orders") == [("2",), ("3",)]


def test_tombstones_that_others_hold_on_to_stay(
    database: Database, log: ChangeLog, caplog: pytest.LogCaptureFixture
) -> None:
    database.deliver(log.insert({"_id": 1, "n": 1}), log.delete(1))
    database.execute("CREATE TABLE SCHEMA.notes (of text REFERENCES SCHEMA.shop_orders)")
    database.execute("INSERT INTO SCHEMA.notes VALUES ('1')")
    database.execute("UPDATE SCHEMA.shop_orders SET _deleted_at = now() - interval '31 days'")
    assert database.deliver(log.insert({"_id": 2, "n": 2})) == []
    assert "stay: refused: a foreign key" in caplog.text
    assert database.mirrored() == {2: 2}
    [rejection] = database.deliver(log.drop(), log.insert({"_id": 3, "n": 3}))
    assert "23503" in rejection.reason
    assert database.mirrored() == {2: 2, 3: 3}


COLUMNS = (
    "status=status text",
    "Total=order.total numeric",
    "count=count bigint",
    "small=small integer",
    "ratio=ratio double",
    "paid=paid boolean",
    "at=at timestamptz",
    "ref=ref uuid",
    "raw=raw bytea",
    "first item=items.0 jsonb",
)


def test_columns(database: Database, log: ChangeLog) -> None:
    document = {
        "_id": 1,
        "status": "new",
        "order": {"total": Decimal128("19.90")},
        "count": Int64(2**63 - 1),
        "small": 7.0,
        "ratio": float("-inf"),
        "paid": True,
        "at": DatetimeMS(-2177452800001),
        "ref": Binary(bytes(range(16)), 4),
        "raw": b"\0\xff",
        "items": [{"sku": "a"}],
    }
    assert database.deliver(log.insert(document), log.insert({"_id": 2}), columns=COLUMNS) == []
    names = "status, \"Total\"::text, count, small, ratio, paid, at::timestamptz(3) AT TIME ZONE 'UTC', ref::text, raw"
    [found, empty] = database.client.execute(
        f'SELECT {names}, "first item" FROM {database.schema}.shop_orders ORDER BY _id'
    ).fetchall()
    assert found[:6] == ("new", "19.90", 2**63 - 1, 7, float("-inf"), True)
    assert str(found[6]) == "1900-12-31 23:59:59.999000"
    assert found[7:] == ("00010203-0405-0607-0809-0a0b0c0d0e0f", b"\0\xff", {"sku": "a"})
    assert set(empty) == {None}


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("text", 5),
        ("text", float("nan")),
        ("text", {"a": 1}),
        ("text", "a\0b"),
        ("integer", 2**31),
        ("integer", 1.5),
        ("integer", float("nan")),
        ("integer", True),
        ("bigint", Decimal128("9223372036854775808")),
        ("bigint", Decimal128("1E+6000")),
        ("numeric", "5"),
        ("double", Int64(2**53 + 1)),
        ("double", Decimal128("1.1")),
        ("boolean", 1),
        ("timestamptz", DatetimeMS(2**62)),
        ("timestamptz", "2026-01-31"),
        ("uuid", b"short"),
        ("bytea", "text"),
        ("jsonb", {"a": "\0"}),
    ],
)
def test_a_value_that_does_not_fit_its_column_is_rejected(
    database: Database, log: ChangeLog, kind: str, value: Any
) -> None:
    events = [log.insert({"_id": 1, "v": value}), log.insert({"_id": 2})]
    [rejection] = database.deliver(*events, columns=[f"v=v {kind}"])
    assert rejection.event is events[0]
    assert rejection.reason.startswith("v: ")
    assert database.rows("_id") == [("2",)]


@pytest.mark.parametrize(
    "value", [Decimal128("NaN"), Decimal128("-Infinity"), Decimal128("9.9E+6144"), 5e-324, Int64(-(2**63)), -0.0]
)
def test_numeric_takes_every_number(database: Database, log: ChangeLog, value: Any) -> None:
    assert database.deliver(log.insert({"_id": 1, "v": value}), columns=["v=v numeric"]) == []


@pytest.mark.parametrize("definition", ["v", "v=v", "v=v blob", "_id=v text", 'a"b=v text', "v=a..b text", "=v text"])
def test_what_is_no_column(definition: str) -> None:
    with pytest.raises(ValueError, match=r"expected|no type|no column"):
        PostgresTarget("postgresql://host/db", columns=[definition])


# What the server refuses


def test_only_what_a_constraint_refuses_is_rejected(database: Database, log: ChangeLog) -> None:
    database.deliver(log.insert({"_id": -1, "n": 0}))
    database.execute(
        "ALTER TABLE SCHEMA.shop_orders ADD CHECK (document IS NULL OR jsonb_typeof(document->'n') = 'number')"
    )
    events = [log.insert({"_id": one, "n": "secret" if one in (7, 300, 301) else one}) for one in range(400)]
    rejections = database.deliver(*events)
    assert [each.event for each in rejections] == [events[7], events[300], events[301]]
    assert {each.reason for each in rejections} == {"refused: a check constraint refuses it (SQLSTATE 23514)"}
    assert len(database.rows()) == 398


def test_a_unique_value_may_go_from_one_document_to_another(database: Database, log: ChangeLog) -> None:
    database.deliver(log.insert({"_id": 1, "n": 1}), log.insert({"_id": 2, "n": 2}))
    database.execute("CREATE UNIQUE INDEX ON SCHEMA.shop_orders ((document->'n'))")
    assert database.deliver(log.update({"_id": 2, "n": 1}), log.update({"_id": 1, "n": 3})) == []
    assert database.mirrored() == {1: 3, 2: 1}
    [rejection] = database.deliver(log.insert({"_id": 4, "n": 4}), log.insert({"_id": 3, "n": 3}))
    assert "unique index" in rejection.reason
    assert database.mirrored() == {1: 3, 2: 1, 4: 4}


def test_a_value_that_an_index_cannot_have(database: Database, log: ChangeLog) -> None:
    database.deliver(log.insert({"_id": 1, "n": 1}))
    database.execute("CREATE INDEX ON SCHEMA.shop_orders ((document->>'note'))")
    noise = "".join(chr(0x4E00 + number * 7919 % 20000) for number in range(30_000))
    [rejection] = database.deliver(log.insert({"_id": 2, "note": noise}), log.insert({"_id": 3, "n": 3}))
    assert "54000" in rejection.reason
    assert database.mirrored() == {1: 1, 3: 3}


def test_odd_names_and_those_that_are_taken(database: Database, log: ChangeLog) -> None:
    view = ChangeLog(coll="orders_current").insert({"_id": 1})
    own = ChangeLog(db="docdb", coll="stream_positions").insert({"_id": 1})
    long = ChangeLog(coll="c" * 200).insert({"_id": 1})
    odd = ChangeLog(coll='Ord"ers.x; %s é').insert({"_id": 1})
    for _ in range(2):
        assert database.deliver(log.insert({"_id": 1, "n": 1}), view, own, long, odd) == []
    found = database.client.execute("SELECT tablename FROM pg_tables WHERE schemaname = %s", [database.schema])
    names = {name for (name,) in found}
    assert {"shop_orders", 'shop_Ord"ers.x; %s é', "docdb_stream_positions", "docdb_stream_collections"} < names
    assert len(names) == 7
    assert database.mirrored() == {1: 1}


def test_what_is_no_table_is_not_written_to(database: Database, log: ChangeLog) -> None:
    database.deliver(log.insert({"_id": 1, "n": 1}))
    database.execute("CREATE VIEW SCHEMA.shop_carts AS SELECT * FROM SCHEMA.shop_orders")
    event = ChangeLog(coll="carts").insert({"_id": 2, "n": 2})
    [rejection] = database.deliver(event, log.insert({"_id": 3, "n": 3}))
    assert rejection.event is event
    assert database.mirrored() == {1: 1, 3: 3}


# Whole collections


def test_a_drop_takes_what_is_older(database: Database, log: ChangeLog) -> None:
    before = log.inserts(520)
    drop, after = log.drop(), log.insert({"_id": 5, "n": 5})
    database.deliver(*before, drop, after)
    for replayed in ([before[7]], [before[5]], [drop], [drop, after]):
        assert database.deliver(*replayed) == []
        assert database.mirrored() == {5: 5}
    assert database.deliver(log.drop(), on_drop="keep") == []
    assert database.mirrored() == {5: 5}


@pytest.mark.parametrize("table", ["{db}_{coll}", "shared"])
def test_what_out_writes_leaves_nothing_but_its_result(database: Database, table: str) -> None:
    """An aggregation with $out writes a collection of a new name each time, and renames it at its end."""
    for number in range(3):
        log = ChangeLog(coll=f"tmp.agg_out.{number}", start=Timestamp(1_800_000_000 + number, 1))
        events = [*log.inserts(3), log.rename("report")]
        for _ in range(2):
            assert database.deliver(*events, table=table) == []
        assert database.deliver(events[-1], table=table) == []
    found = database.client.execute(
        "SELECT tablename FROM pg_tables WHERE schemaname = %s AND tablename NOT LIKE 'docdb_stream%%'",
        [database.schema],
    ).fetchall()
    assert found == [("shop_report" if table != "shared" else "shared",)]
    sources = database.client.execute(
        f"SELECT DISTINCT source FROM {database.schema}.docdb_stream_collections"
    ).fetchall()
    if table != "shared":
        assert sources == [("shop.report",)]
    assert len(database.rows(table="shop_report_current" if table != "shared" else "shared_current")) == 3


@pytest.mark.parametrize("hindrance", ["a view of theirs", "another owner"])
def test_a_table_of_out_that_cannot_be_dropped_stops_nobody(database: Database, hindrance: str) -> None:
    log = ChangeLog(coll="tmp.agg_out.1")
    events = log.inserts(3)
    table = f'{database.schema}."shop_tmp.agg_out.1"'
    uri = ""
    assert database.deliver(*events) == []
    if hindrance == "a view of theirs":
        database.execute(f"CREATE VIEW SCHEMA.theirs AS SELECT * FROM {table}")
    else:
        database.deliver(*ChangeLog(coll="report").inserts(1, first_id=9))
        role = f"writer_{database.schema}"
        database.execute(f"CREATE ROLE {role} LOGIN")
        database.execute(f"GRANT ALL ON SCHEMA {database.schema} TO {role}")
        database.execute(f"GRANT ALL ON ALL TABLES IN SCHEMA {database.schema} TO {role}")
        uri = database.uri.replace("postgres@", f"{role}@")
    assert database.deliver(log.rename("report"), uri=uri) == []
    assert {key for (key,) in database.rows("_id", "shop_report_current")} >= {"0", "1", "2"}
    assert database.rows(table="shop_tmp.agg_out.1") == []


@pytest.mark.parametrize("table", ["{db}_{coll}", "all"])
def test_a_rename_moves_rows_in_place_of_what_is_there(
    database: Database, log: ChangeLog, monkeypatch: pytest.MonkeyPatch, table: str
) -> None:
    monkeypatch.setattr("docdb_stream.targets._postgresql.drop.PAGE_ROWS", 100)
    old = ChangeLog(coll="archive").insert({"_id": 5000, "n": 0})
    before = [*log.inserts(510), log.insert({"_id": 1000, "n": 1}), log.delete(1000)]
    rename = log.rename("archive")
    database.deliver(old, *before, table=table)
    place = "all_current" if table == "all" else "shop_archive_current"
    for _ in range(2):
        assert database.deliver(rename, table=table) == []
        assert len(database.rows("_id", place)) == 510
        assert database.deliver(old, before[3], *before[-2:], table=table) == []
    again = log.insert({"_id": 3, "n": 3})
    database.deliver(again, rename, table=table)
    if table != "all":
        assert database.mirrored() == {3: 3}


# Runs and servers


def test_a_run_that_was_taken_over_from_is_told_so(database: Database, log: ChangeLog) -> None:
    database.deliver(log.insert({"_id": 1, "n": 1}), epoch=8)
    with pytest.raises(TargetError, match="a later run of stream orders") as caught:
        database.deliver(log.insert({"_id": 2, "n": 2}), log.drop(), epoch=7)
    assert "STREAM_NAME" in caught.value.hint
    assert database.mirrored() == {1: 1}
    assert database.deliver(log.insert({"_id": 3, "n": 3}), epoch=7, stream="another") == []
    [epochs] = [[*each] for each in zip(*database.rows("stream, epoch", "docdb_stream_positions"), strict=True)][1:]
    assert epochs == [7, 8]


def test_without_the_lease_nothing_is_sent(database: Database, log: ChangeLog) -> None:
    def lost() -> None:
        raise CheckpointConflictError("lost")

    context = running(RunContext(lease_check=lost))
    with closing(database.target()) as target, context, pytest.raises(CheckpointConflictError):
        target.write([log.insert({"_id": 1, "n": 1})])
    assert database.mirrored() == {}


def test_two_that_write_the_same_at_the_same_time(database: Database, log: ChangeLog) -> None:
    """Tables are made once, and deadlocks are done again."""
    events = [log.replace({"_id": number % 50, "n": number}) for number in range(600)]
    failed: list[BaseException] = []

    def write(part: Sequence[ChangeEvent], stream: str) -> None:
        try:
            for first in range(0, len(part), 40):
                assert database.deliver(*part[first : first + 40], stream=stream) == []
        except BaseException as error:
            failed.append(error)

    parts = [events[::-1], events, events[300:]]
    threads = [threading.Thread(target=write, args=(part, str(number))) for number, part in enumerate(parts)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert failed == []
    assert database.mirrored() == {number: 550 + number for number in range(50)}


def test_a_connection_that_ends_and_a_standby_are_waited_for(database: Database, log: ChangeLog) -> None:
    with closing(database.target()) as target:
        target.write([log.insert({"_id": 1, "n": 1})])
        database.execute(_END_ALL)
        assert target.write([log.insert({"_id": 2, "n": 2})]) == []
        database.execute("ALTER ROLE postgres SET default_transaction_read_only = on")
        database.execute(_END_ALL)
        with running(RunContext(Deadline.after(1.0))), pytest.raises(TargetError, match="25006") as caught:
            target.write([log.insert({"_id": 3, "n": 3})])
        assert "target_session_attrs" in caught.value.hint
        with pytest.raises(TargetError, match="only lets itself be read"), closing(database.target()) as other:
            other.check()
        timer = threading.Timer(0.5, database.execute, ["ALTER ROLE postgres RESET default_transaction_read_only"])
        timer.start()
        try:
            assert target.write([log.insert({"_id": 3, "n": 3})]) == []
        finally:
            timer.join()
    assert database.mirrored() == {1: 1, 2: 2, 3: 3}


def test_a_lock_is_waited_for_until_the_deadline(database: Database, log: ChangeLog) -> None:
    database.deliver(log.insert({"_id": 1, "n": 1}))
    with psycopg.connect(database.uri) as other:
        other.execute(f"LOCK TABLE {database.schema}.shop_orders")
        began_s = time.monotonic()
        with running(RunContext(Deadline.after(1.0))), pytest.raises(TargetError):
            database_deliver(database, log.insert({"_id": 2, "n": 2}))
        assert time.monotonic() - began_s < 3
    assert database.deliver(log.insert({"_id": 2, "n": 2})) == []
    assert database.mirrored() == {1: 1, 2: 2}


def database_deliver(database: Database, *events: ChangeEvent) -> None:
    with closing(database.target()) as target:
        target.write(events)


@pytest.mark.parametrize("stops", [False, True])
def test_a_server_that_says_nothing_is_given_up_in_time(log: ChangeLog, stops: bool) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        limit = Deadline.after(30.0 if stops else 1.0)
        if stops:
            limit.stop.set()
        began_s = time.monotonic()
        uri = f"postgresql://u@127.0.0.1:{silent.getsockname()[1]}/db"
        with running(RunContext(limit)), closing(PostgresTarget(uri)) as target, pytest.raises(TargetError):
            target.write([log.insert({"_id": 1})])
        assert time.monotonic() - began_s < 10


def test_a_server_that_was_stopped_and_is_back(log: ChangeLog) -> None:
    with PostgresServer() as server, closing(PostgresTarget(server.uri, stream="s")) as target:
        target.write([log.insert({"_id": 1, "n": 1})])
        server.kill()
        with running(RunContext(Deadline.after(0.5))), pytest.raises(TargetError):
            target.write([log.insert({"_id": 2, "n": 2})])
        timer = threading.Timer(0.3, server.restart)
        timer.start()
        assert target.write([log.insert({"_id": 3, "n": 3})]) == []
        timer.join()
        with psycopg.connect(server.uri) as client:
            assert client.execute("SELECT _id FROM shop_orders ORDER BY 1").fetchall() == [("1",), ("3",)]


def test_tables_that_are_not_there_and_may_not_be_made(database: Database, log: ChangeLog) -> None:
    event = log.insert({"_id": 1, "n": 1})
    with pytest.raises(TargetError, match="is missing") as caught:
        database.deliver(event, create=False)
    assert "POSTGRES_CREATE = true" in caught.value.hint
    with pytest.raises(TargetError, match="no schema"), closing(database.target(create=False)) as target:
        target.check()
    database.deliver(event)
    assert database.deliver(log.insert({"_id": 2, "n": 2}), log.drop(), create=False) == []
    assert database.mirrored() == {}


def test_a_table_that_is_dropped_meanwhile_is_made_again(database: Database, log: ChangeLog) -> None:
    with closing(database.target()) as target:
        target.write([log.insert({"_id": 1, "n": 1})])
        database.execute("DROP TABLE SCHEMA.shop_orders CASCADE")
        assert target.write([log.insert({"_id": 2, "n": 2})]) == []
    assert database.mirrored() == {2: 2}


def test_a_table_of_other_columns(database: Database, log: ChangeLog) -> None:
    database.deliver(log.insert({"_id": 1, "n": 1}))
    with pytest.raises(TargetError, match="42703") as caught:
        database.deliver(log.insert({"_id": 1, "n": 1}), columns=["n=n bigint"])
    assert "POSTGRES_COLUMNS" in caught.value.hint


def test_users_without_rights(database: Database, log: ChangeLog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WRITER", '{"username": "docdb_weak", "password": "swordfish"}')
    event = log.insert({"_id": 1, "n": 1})
    with pytest.raises(TargetError, match="docdb_weak") as caught:
        database.deliver(event, secret="env:WRITER")
    assert "POSTGRES_SECRET" in caught.value.hint
    database.execute("CREATE ROLE docdb_weak LOGIN PASSWORD 'swordfish'")
    try:
        with pytest.raises(TargetError, match="42501") as caught:
            database.deliver(event, secret="env:WRITER")
        assert "INSERT" in caught.value.hint
        assert "swordfish" not in str(caught.value)
        with closing(database.target(secret="env:WRITER")) as target, pytest.raises(TargetError, match="may not make"):
            target.check()
        uri = f"{database.uri}?sslmode=require"
        with closing(database.target(uri)) as target, pytest.raises(TargetError, match="SSL") as caught:
            target.check()
        assert "sslmode" in caught.value.hint
    finally:
        database.execute("DROP ROLE docdb_weak")


def test_check_writes_nothing(database: Database) -> None:
    with closing(database.target()) as target:
        target.check()
    assert (
        database.client.execute("SELECT 1 FROM pg_namespace WHERE nspname = %s", [database.schema]).fetchone() is None
    )
    with pytest.raises(ConfigError, match="cannot be read"):
        PostgresTarget("postgresql://host:5432/db?nonsense=1")


def test_nothing_is_left_open(database: Database, log: ChangeLog) -> None:
    database.deliver(log.insert({"_id": 1, "n": 1}))
    count = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'docdb-stream'"
    wait_until(lambda: database.client.execute(count).fetchone() == (0,), "connections are closed", timeout_s=5)
