"""Stored checkpoints of every version, as literal documents: what is read of them, and what an older reader does.

What the AWS sample left is in test_mongodb_store_logic.
"""

from __future__ import annotations

import datetime as dt
import re
from typing import Any

import pytest
from bson import Decimal128, Int64, Timestamp

from docdb_stream.checkpoint import Checkpoint
from docdb_stream.errors import StateStoreError
from docdb_stream.position import (
    Namespace,
    Position,
    ResumeToken,
    Resumption,
    SchemaStop,
    SnapshotProgress,
    SnapshotRange,
)
from docdb_stream.stores._mongodb_documents import (
    FORMAT_VERSION,
    checkpoint_from_document,
    entry_from_document,
    position_document,
    position_fields,
)
from docdb_stream.testing.positions import POSITIONS

HEX = "8269A2B3C4000000012B022C0100296E5A1004A0B1C2D3E4F5061728394A5B6C7D8E9F04"

VERSION_1 = {
    "_id": "shop.orders",
    "version": 1,
    "scope": {"db": "shop", "coll": "orders"},
    "epoch": 41,
    "events": Int64(12_345_678_901),
    "lease": {"owner": "host:17:0123456789ab", "expires_at": dt.datetime(2026, 1, 31, 12, 1)},
    "updated_at": dt.datetime(2026, 1, 31, 12, 0, 0, 123000),
    "position": {"token": {"_data": HEX}, "operation_time": Timestamp(1772270532, 1)},
}
"""What version 1 stores, as PyMongo reads it. Frozen: a checkpoint of every version loads for ever."""

VERSION_1_ON_LINUX = {
    "_id": "shop.orders",
    "version": 1,
    "scope": {"db": "shop", "coll": "orders"},
    "epoch": 3,
    "events": 2,
    "docdb_stream_state": "docdb_stream.checkpoints",
    "lease": {
        "owner": "host:17:0123456789ab",
        "expires_at": dt.datetime(2026, 1, 31, 12, 1),
        "process": {
            "host": "host",
            "boot": "5a5ff9a0-0000-4000-8000-000000000000",
            "namespaces": "pid:[4026531836] time:[4026531834]",
            "pid": 17,
            "started": "123456",
        },
    },
    "updated_at": dt.datetime(2026, 1, 31, 12, 0, 0, 123000),
    "position": {"token": {"_data": HEX}, "operation_time": Timestamp(1772270532, 1), "after_invalidate": True},
    "alerts": {"source": dt.datetime(2026, 1, 31, 11)},
}
"""The same with every field that the last code of version 1 could store."""

VERSION_2 = {
    **VERSION_1,
    "version": 2,
    "position": {
        "token": {"_data": HEX},
        "operation_time": Timestamp(1772270532, 1),
        "snapshot": {
            "id": "2026-01-31T12:00:00Z",
            "ranges": [
                {"db": "shop", "coll": "orders", "until": b"\x0e\0\0\0\x10_id\0\7\0\0\0\0", "done": True},
                {
                    "db": "shop",
                    "coll": "orders",
                    "after": b"\x12\0\0\0\x09_id\0\xff\xff\xff\xff\xff\xff\xff\x7f\0",
                    "until": b"\x0a\0\0\0\x7f_id\0\0",
                },
                {"db": "shop", "coll": "customers"},
            ],
        },
    },
}
"""What version 2 stores."""

VERSION_3 = {
    **VERSION_1,
    "version": 3,
    "position": {
        "token": {"_data": HEX},
        "operation_time": Timestamp(1772270532, 1),
        "snapshot": {
            "id": "4f2a9c01d3e5",
            "time": Timestamp(1772270500, 3),
            "match": '{"total": {"$gte": 100}}',
            "targets": ["opensearch", "s3"],
            "paused": True,
            "began_at": dt.datetime(2026, 1, 31, 11, 59),
            "estimate": 1_250_000,
            "ranges": [
                {"db": "shop", "coll": "orders", "done": True, "documents": 1200},
                {
                    "db": "shop",
                    "coll": "orders",
                    "after": b"\x0e\0\0\0\x10_id\0\7\0\0\0\0",
                    "until": b"\x0a\0\0\0\x7f_id\0\0",
                    "documents": 34,
                },
            ],
        },
    },
}
"""What version 3 stores."""

VERSION_4 = {
    **VERSION_1,
    "version": 4,
    "position": {
        "token": {"_data": HEX},
        "operation_time": Timestamp(1772270532, 1),
        "stops": [
            {"db": "shop", "coll": "orders", "position": {"token": {"_data": HEX}, "operation_time": Timestamp(5, 6)}},
            {
                "db": "shop",
                "coll": "customers",
                "position": {"operation_time": Timestamp(7, 8)},
                "schema": {"db": "lake", "coll": "people"},
            },
        ],
        "resumption": {"db": "shop", "coll": "invoices", "until": {"token": {"_data": HEX}}},
    },
}
"""What version 4 stores."""

VERSION_5 = {
    **VERSION_1,
    "version": 5,
    "position": {
        "token": {"_data": HEX},
        "operation_time": Timestamp(1772270532, 1),
        "snapshot": {
            "id": "4f2a9c01d3e5",
            "time": Timestamp(1772270500, 3),
            "shared": True,
            "ranges": [
                {"db": "shop", "coll": "orders", "documents": 1200, "identity": b"\x01" * 16},
                {"db": "shop", "coll": "archive", "identity": b"", "renamed_at": Timestamp(1772270510, 1)},
            ],
        },
    },
}
"""What version 5 stores."""


def test_version_1_loads() -> None:
    assert checkpoint_from_document(VERSION_1) == Checkpoint(
        stream="shop.orders",
        scope=Namespace("shop", "orders"),
        position=Position(ResumeToken({"_data": HEX}), Timestamp(1772270532, 1)),
        epoch=41,
        updated_at=dt.datetime(2026, 1, 31, 12, 0, 0, 123000, tzinfo=dt.UTC),
        owner="host:17:0123456789ab",
        expires_at=dt.datetime(2026, 1, 31, 12, 1, tzinfo=dt.UTC),
        events=12_345_678_901,
    )


@pytest.mark.parametrize(
    ("stored", "expected"),
    [
        ({"_id": "*", "version": 1, "scope": {}, "epoch": 0, "events": 0}, Checkpoint("*")),
        ({"_id": "shop.*", "version": 1, "scope": {"db": "shop"}}, Checkpoint("shop.*", Namespace("shop"))),
        (
            {"_id": "s", "version": 1, "scope": {}, "position": {"operation_time": Timestamp(5, 6)}},
            Checkpoint("s", position=Position(operation_time=Timestamp(5, 6))),
        ),
        (
            {"_id": "s", "version": 1, "position": {"token": {"_data": HEX}, "after_invalidate": True}},
            Checkpoint("s", position=Position(ResumeToken({"_data": HEX}), after_invalidate=True)),
        ),
    ],
    ids=["new", "database", "operation time", "after invalidate"],
)
def test_version_1_loads_where_fields_are_absent(stored: dict[str, Any], expected: Checkpoint) -> None:
    assert checkpoint_from_document(stored) == expected


def test_version_1_loads_with_all_that_was_ever_in_it() -> None:
    found = checkpoint_from_document(VERSION_1_ON_LINUX)
    assert found.position == Position(ResumeToken({"_data": HEX}), Timestamp(1772270532, 1), after_invalidate=True)
    assert (found.epoch, found.events, found.owner) == (3, 2, "host:17:0123456789ab")


def test_version_2_loads() -> None:
    shop_orders = Namespace("shop", "orders")
    found = checkpoint_from_document(VERSION_2)
    assert found.position == Position(
        ResumeToken({"_data": HEX}),
        Timestamp(1772270532, 1),
        snapshot=SnapshotProgress(
            "2026-01-31T12:00:00Z",
            (
                SnapshotRange(shop_orders, until=b"\x0e\0\0\0\x10_id\0\7\0\0\0\0", done=True),
                SnapshotRange(
                    shop_orders,
                    after=b"\x12\0\0\0\x09_id\0\xff\xff\xff\xff\xff\xff\xff\x7f\0",
                    until=b"\x0a\0\0\0\x7f_id\0\0",
                ),
                SnapshotRange(Namespace("shop", "customers")),
            ),
        ),
    )


def test_version_3_loads() -> None:
    orders = Namespace("shop", "orders")
    found = checkpoint_from_document(VERSION_3)
    assert found.position is not None
    assert found.position.snapshot == SnapshotProgress(
        "4f2a9c01d3e5",
        (
            SnapshotRange(orders, done=True, documents=1200),
            SnapshotRange(orders, b"\x0e\0\0\0\x10_id\0\7\0\0\0\0", b"\x0a\0\0\0\x7f_id\0\0", documents=34),
        ),
        time=Timestamp(1772270500, 3),
        match='{"total": {"$gte": 100}}',
        targets=("opensearch", "s3"),
        is_paused=True,
        began_at=dt.datetime(2026, 1, 31, 11, 59, tzinfo=dt.UTC),
        estimate=1_250_000,
    )


def version_1_refuses(document: dict[str, Any]) -> bool:
    """What the code of version 1 did with each checkpoint before it read on, took its lease or saved."""
    return bool(document.get("version", 1) > 1)


@pytest.mark.parametrize(
    ("document", "refused"), [(VERSION_1, False), (VERSION_1_ON_LINUX, False), (VERSION_2, True), (VERSION_3, True)]
)
def test_what_is_read_is_stored_as_it_was_and_for_whom_it_was(document: dict[str, Any], refused: bool) -> None:
    """So a docdb-stream can be rolled back, except while a snapshot is under way."""
    position = checkpoint_from_document(document).position
    assert position is not None
    stored = {**document, **position_fields(position)}
    assert stored == document
    assert version_1_refuses(stored) is refused
    assert not version_1_refuses({**document, **position_fields(position.in_log())})


def test_version_5_loads_and_is_stored_again() -> None:
    found = checkpoint_from_document(VERSION_5).position
    assert found is not None
    assert found.snapshot is not None
    assert found.snapshot.is_shared
    assert [each.identity for each in found.snapshot.ranges] == [b"\x01" * 16, b""]
    assert [found.snapshot.time_of(each) for each in found.snapshot.ranges] == [
        Timestamp(1772270500, 3),
        Timestamp(1772270510, 1),
    ]
    assert position_fields(found) == {"version": 5, "position": VERSION_5["position"]}


def test_version_4_loads_and_is_stored_again() -> None:
    found = checkpoint_from_document(VERSION_4).position
    assert found is not None
    orders, customers = Namespace("shop", "orders"), Namespace("shop", "customers")
    assert found.stops == (
        SchemaStop(orders, Position(ResumeToken({"_data": HEX}), Timestamp(5, 6)), orders),
        SchemaStop(customers, Position(operation_time=Timestamp(7, 8)), Namespace("lake", "people")),
    )
    assert found.resumption == Resumption(Namespace("shop", "invoices"), Position(ResumeToken({"_data": HEX})))
    assert position_fields(found) == {"version": 4, "position": VERSION_4["position"]}
    assert position_fields(found.in_log())["version"] == 1


@pytest.mark.parametrize(
    "wrong",
    [
        {"stops": [7]},
        {"stops": [{"db": "shop", "coll": "orders"}]},
        {"stops": [{"coll": "orders", "position": {"operation_time": Timestamp(7, 8)}}]},
        {"resumption": {"db": "shop", "coll": "orders"}},
        {"resumption": [1]},
    ],
)
def test_stops_that_cannot_be_read_are_not_passed_over(wrong: dict[str, Any]) -> None:
    with pytest.raises(StateStoreError, match="cannot be read"):
        checkpoint_from_document({**VERSION_4, "position": {**VERSION_1["position"], **wrong}})  # type: ignore[dict-item]


def test_every_version_has_its_documents_here() -> None:
    assert VERSION_5["version"] == FORMAT_VERSION, "a new version: freeze a document of it here, beside those before"


@pytest.mark.parametrize("version", [1, 1.0, Int64(1), 2, 2.0, Int64(2)])
def test_a_version_is_a_number_of_any_type(version: Any) -> None:
    """A shell writes doubles."""
    assert checkpoint_from_document({**VERSION_2, "version": version}).position is not None


@pytest.mark.parametrize("version", [6, 5.5, Int64(6), 1e9, float("inf")])
def test_a_later_version_says_to_upgrade(version: Any) -> None:
    with pytest.raises(StateStoreError, match="knows up to 5") as caught:
        checkpoint_from_document({**VERSION_1, "version": version})
    assert "upgrade" in caught.value.hint


@pytest.mark.parametrize("version", [0, -1, 1.5, float("nan"), "1", None, [], {}, Decimal128("1")])
def test_a_version_that_is_none_is_refused(version: Any) -> None:
    with pytest.raises(StateStoreError, match="version is") as caught:
        checkpoint_from_document({**VERSION_1, "version": version})
    assert "docdb-stream reset" in caught.value.hint


def ranges(*stored: Any) -> dict[str, Any]:
    return {"operation_time": Timestamp(1, 0), "snapshot": {"id": "s", "ranges": list(stored)}}


ORDERS = {"db": "shop", "coll": "orders"}


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"scope": "shop.orders"}, "scope is of type str"),
        ({"scope": {"coll": "orders"}}, "db is missing"),
        ({"scope": {"db": 7}}, "db is of type int"),
        ({"epoch": "many"}, "invalid literal"),
        ({"epoch": float("nan")}, "NaN"),
        ({"events": []}, "list"),
        ({"lease": "me"}, "lease is of type str"),
        ({"lease": {"owner": 5}}, "owner is of type int"),
        ({"lease": {"owner": "me", "expires_at": "soon"}}, "expires_at is of type str"),
        ({"updated_at": 5}, "updated_at is of type int"),
        ({"position": "here"}, "position is of type str"),
        ({"position": {}}, "neither token nor operation_time"),
        ({"position": {"token": HEX}}, "token is of type str"),
        ({"position": {"operation_time": dt.datetime(2026, 1, 31)}}, "operation_time is of type datetime"),
        ({"position": {"token": {"_data": HEX}, "operation_time": 7}}, "operation_time is of type int"),
        ({"position": {"operation_time": Timestamp(1, 0), "snapshot": "s"}}, "snapshot is of type str"),
        ({"position": {"operation_time": Timestamp(1, 0), "snapshot": {"id": "s"}}}, "ranges is missing"),
        ({"position": {"operation_time": Timestamp(1, 0), "snapshot": {"ranges": []}}}, "id is missing"),
        ({"position": ranges("shop.orders")}, "a range is of type str"),
        ({"position": ranges({"coll": "orders"})}, "db is missing"),
        ({"position": ranges({**ORDERS, "after": 7})}, "after is of type int"),
        ({"position": ranges({**ORDERS, "after": b""})}, "after is no document with an _id"),
        ({"position": ranges({**ORDERS, "until": b"\x0e\0\0\0\x10_id\0\7\0\0\0"})}, "until is no document"),
        ({"position": ranges({**ORDERS, "until": b"\x0d\0\0\0\x10id\0\7\0\0\0\0"})}, "until is no document"),
    ],
)
def test_what_somebody_changed_is_said_with_what_to_do(fields: dict[str, Any], told: str) -> None:
    """To leave out what cannot be read would pass events over: a stream without a position starts now."""
    with pytest.raises(StateStoreError, match=re.escape(told)) as caught:
        checkpoint_from_document({**VERSION_2, **fields})
    assert str(caught.value).startswith("the checkpoint shop.orders cannot be read: ")
    assert "docdb-stream reset" in caught.value.hint


@pytest.mark.parametrize("fields", [{"stream": None}, {"kind": 5}, {"before": "x"}, {"after": {"token": "x"}}])
def test_an_entry_of_the_ledger_that_somebody_changed_is_said_so(fields: dict[str, Any]) -> None:
    entry = {"_id": "s/reset/0", "stream": "s", "kind": "reset", "before": None, "reason": "by hand"}
    assert entry_from_document(entry).reason == "by hand"
    with pytest.raises(StateStoreError, match="entry s/reset/0 cannot be read") as caught:
        entry_from_document({**entry, **fields})
    assert caught.value.hint


@pytest.mark.parametrize("kind", POSITIONS)
def test_a_stored_position_holds_the_token_document_itself(kind: str) -> None:
    position = POSITIONS[kind]
    assert position_document(position).get("token") is (position.token.value if position.token else None)
