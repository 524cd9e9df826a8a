from __future__ import annotations

import datetime as dt
from typing import Any

import pytest
from bson import Decimal128, Int64, ObjectId, Timestamp

from docdb_stream.errors import UnrenderableError
from docdb_stream.events import Batch, ChangeEvent, Namespace, Position, ResumeToken, scope_name
from docdb_stream.formats import facts
from docdb_stream.formats.document import DOCUMENT
from docdb_stream.formats.extended import EXTENDED
from docdb_stream.formats.plain import PLAIN
from docdb_stream.testing.events import ChangeLog, change_event

# Tokens


@pytest.mark.parametrize(
    ("data", "time"),
    [
        # MongoDB: 82, seconds, increment, then what only the server knows.
        ("8269A2B3C4000000012B022C0100296E5A1004A0B1C2D3E4F5061728394A5B6C7D8E9F04", Timestamp(0x69A2B3C4, 1)),
        ("8269a2b3c4ffffffff2b", Timestamp(0x69A2B3C4, 2**32 - 1)),
        ("82FFFFFFFF00000000", Timestamp(2**32 - 1, 0)),
        # MongoDB's high-water-mark (post-batch) token.
        ("8269A2B3C4000000072B0429296E1404", Timestamp(0x69A2B3C4, 7)),
        # Amazon DocumentDB: 01, seconds, increment; its post-batch token may end after the seconds.
        ("0167c8cbe60000000501000000010000e1c5", Timestamp(0x67C8CBE6, 5)),
        ("0167c8cbe60000000004", Timestamp(0x67C8CBE6, 0)),
        ("0167c8cbe6", Timestamp(0x67C8CBE6, 0)),
        # Unknown ones are still tokens, without a time.
        ("", None),
        ("82", None),
        ("8269A2B3C4", None),
        ("0167c8cb", None),
        ("9969A2B3C400000001", None),
        ("not hexadecimal", None),
        ("8269A2B3C40000000", None),
    ],
)
def test_the_time_inside_a_token(data: str, time: Timestamp | None) -> None:
    assert ResumeToken({"_data": data}).cluster_time == time


def test_a_binary_token() -> None:
    token = ResumeToken({"_data": bytes.fromhex("8269A2B3C400000001"), "_typeBits": b"\x82"})
    assert token.data == "8269a2b3c400000001"
    assert token.cluster_time == Timestamp(0x69A2B3C4, 1)


def test_a_token_without_data_is_told_by_all_it_has() -> None:
    one, same, other = ({"ts": Timestamp(1, 2), "ns": "a"}, {"ns": "a", "ts": Timestamp(1, 2)}, {"ns": "b"})
    assert ResumeToken(one).data == ResumeToken(same).data != ResumeToken(other).data
    assert ResumeToken(one).cluster_time is None


def test_a_token_keeps_its_document() -> None:
    document = {"z": 1, "_data": "82", "a": {}}
    assert ResumeToken(document).value is document


@pytest.mark.parametrize(("seconds", "increment"), [(1, 0), (1_769_860_800, 1), (2**31, 2**31), (2**32 - 1, 2**32 - 1)])
@pytest.mark.parametrize("first_byte", ["82", "01"])
def test_every_time_survives_in_a_token(first_byte: str, seconds: int, increment: int) -> None:
    data = f"{first_byte}{seconds:08X}{increment:08X}2B00"
    assert ResumeToken({"_data": data}).cluster_time == Timestamp(seconds, increment)


# Positions


def test_the_time_of_a_position() -> None:
    token = ResumeToken({"_data": "8269A2B3C400000001"})
    assert Position.at_token(token).operation_time == Timestamp(0x69A2B3C4, 1)
    assert Position.at_token(token, time=Timestamp(5, 5)).operation_time == Timestamp(5, 5)
    assert Position.at_token(ResumeToken({"_data": "?"})).time is None
    assert Position(operation_time=Timestamp(0x69A2B3C4, 9)).time == dt.datetime(2026, 2, 28, 9, 22, 12, tzinfo=dt.UTC)
    assert Position().time is None


def test_after_invalidate_makes_another_position() -> None:
    token = ResumeToken({"_data": "8269A2B3C400000001"})
    assert Position.at_token(token) != Position.at_token(token, after_invalidate=True)


# Namespaces


def test_names_of_namespaces() -> None:
    assert (str(Namespace("shop", "orders")), Namespace("shop", "orders").label) == ("shop.orders", "shop-orders")
    assert (str(Namespace("shop")), Namespace("shop").label) == ("shop", "shop")
    assert [scope_name(scope) for scope in (Namespace("shop", "orders"), Namespace("shop"), None)] == [
        "shop.orders",
        "shop.*",
        "*",
    ]


# Properties


def test_an_event_needs_something() -> None:
    with pytest.raises(ValueError, match="BSON bytes or its document"):
        ChangeEvent()


def test_the_properties_of_an_update() -> None:
    log = ChangeLog()
    event = log.update({"_id": 1, "status": "paid"}, {"status": "paid"})
    assert event.operation == "update"
    assert event.namespace == Namespace("shop", "orders")
    assert event.document_key == {"_id": 1}
    assert event.full_document == {"_id": 1, "status": "paid"}
    assert event.update_description == {
        "updatedFields": {"status": "paid"},
        "removedFields": [],
        "truncatedArrays": [],
    }
    assert event.cluster_time == event.token.cluster_time == Timestamp(1769860800, 1)
    assert event.wall_time == dt.datetime(2026, 1, 31, 12, tzinfo=dt.UTC)
    assert event.event_id == event.token.data == event.document["_id"]["_data"]
    assert event.raw is not None
    assert event.size_bytes == len(event.raw)
    assert repr(event) == f"<ChangeEvent update shop.orders {event.event_id}>"


def test_the_properties_where_there_is_nothing() -> None:
    log = ChangeLog()
    gone = log.update({"_id": 1, "status": "lost"}, gone=True)
    assert gone.full_document is None
    assert gone.render(PLAIN) == b"null"
    deleted = log.delete(1)
    assert (deleted.full_document, deleted.update_description, deleted.document_key) == (None, None, {"_id": 1})
    dropped = log.drop_database()
    assert (dropped.namespace, dropped.document_key, dropped.key) == (Namespace("shop"), None, None)
    invalidated = log.invalidate()
    assert (invalidated.namespace, invalidated.document_key, invalidated.key) == (Namespace(""), None, None)


def test_the_cluster_time_is_the_tokens_where_the_field_is_absent() -> None:
    event = change_event({"_id": {"_data": "0167c8cbe600000005"}, "operationType": "insert"})
    assert event.cluster_time == Timestamp(0x67C8CBE6, 5)
    unknown = change_event({"_id": {"_data": "?"}, "operationType": "insert"})
    assert unknown.cluster_time == Timestamp(0, 0)


def test_an_event_without_bytes() -> None:
    event = ChangeEvent(document={"_id": {"_data": "82"}, "operationType": "insert", "fullDocument": {"_id": 1}})
    assert event.raw is None
    assert event.size_bytes == len(event.render(EXTENDED))


# Keys


def _key(_id: Any, **more: Any) -> str | None:
    return change_event({"_id": {"_data": "82"}, "operationType": "insert", "documentKey": {"_id": _id, **more}}).key


def test_events_of_one_document_have_one_key() -> None:
    log = ChangeLog()
    _id = ObjectId("65b9f0000000000000000001")
    events = [log.insert({"_id": _id}), log.update({"_id": _id, "a": 1}), log.replace({"_id": _id}), log.delete(_id)]
    assert len({event.key for event in events}) == 1
    assert _key(_id, region="eu") == _key(_id, region="us") == _key(_id), "the shard key of a document may change"


def test_different_documents_have_different_keys() -> None:
    ids = [
        1,
        2,
        1.5,
        "1",
        "",
        None,
        True,
        "65b9f0000000000000000001",
        ObjectId("65b9f0000000000000000001"),
        {"a": 1, "b": 2},
        {"b": 2, "a": 1},
        {"a": "1"},
        {},
        b"",
        b"1",
        dt.datetime(2026, 1, 31, tzinfo=dt.UTC),
        Timestamp(1, 1),
        Int64(2**63 - 1),
        Int64(2**63 - 2),
    ]
    keys = [_key(_id) for _id in ids]
    assert None not in keys
    assert len(set(keys)) == len(ids)


@pytest.mark.parametrize("same", [(1, Int64(1), 1.0, Decimal128("1"), Decimal128("1.0")), (0.0, -0.0, 0)])
def test_numbers_that_are_one_id_to_the_server_are_one_key(same: tuple[Any, ...]) -> None:
    # replaceOne({"_id": 1}, {"_id": 1.0}) is allowed: later events of the same document then have documentKey 1.0.
    assert len({_key(_id) for _id in same}) == 1


# Rendering


def test_a_format_is_rendered_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []

    def counted(payload_format: Any) -> None:
        original = payload_format.render

        def render(decoded: Any) -> Any:
            calls.append(payload_format.name)
            return original(decoded)

        monkeypatch.setattr(payload_format, "render", render)

    for payload_format in (EXTENDED, DOCUMENT, PLAIN):
        counted(payload_format)
    event = ChangeLog().insert({"_id": 1, "price": 1.5})
    for _ in range(3):
        for payload_format in (EXTENDED, DOCUMENT, PLAIN):
            assert event.render(payload_format.name) is event.render(payload_format)
    assert calls == ["extended", "document", "plain"]


def test_bytes_that_cannot_be_decoded_name_their_event_and_are_never_rendered() -> None:
    event = ChangeLog().hostile()["invalid_utf8"]
    assert event.operation == "insert"
    assert event.event_id
    assert event.namespace == Namespace("shop", "orders")
    for _ in range(2):
        with pytest.raises(UnrenderableError, match="UTF-8"):
            event.render("extended")
        with pytest.raises(UnrenderableError, match="UTF-8"):
            event.render("document")


def test_a_batch_is_split_where_it_is_too_large_for_one_hand_over() -> None:
    events = ChangeLog().inserts(5, size_bytes=1000)
    size_bytes = sum(event.size_bytes for event in events)
    after = Position(ResumeToken({"_data": "after"}), Timestamp(9, 9))
    batch = Batch(events, after, size_bytes, quiet=True, gap="p")
    for limit_bytes in (None, size_bytes):
        assert batch.split(limit_bytes) == (batch, None)
    head, rest = batch.split(2 * events[0].size_bytes)
    assert rest is not None
    assert (head.events, head.size_bytes) == (events[:2], 2 * events[0].size_bytes)
    assert head.position == Position.at_token(events[1].token, time=events[1].cluster_time)
    assert (head.quiet, head.gap) == (False, None)
    assert (rest.events, rest.position, rest.quiet, rest.gap) == (events[2:], after, True, "p")
    assert head.size_bytes + rest.size_bytes == size_bytes
    assert [len(part.events) for part in parts(batch, 1)] == [1] * 5


def test_a_part_that_ends_with_an_invalidate_is_opened_again_after_it() -> None:
    log = ChangeLog()
    events = [log.drop(), log.invalidate(), log.insert({"_id": 1})]
    batch = Batch(events, Position(events[2].token), sum(event.size_bytes for event in events))
    assert [part.position.after_invalidate for part in parts(batch, 1)] == [False, True, False]


def parts(batch: Batch, limit_bytes: int) -> list[Batch]:
    found: list[Batch] = []
    rest: Batch | None = batch
    while rest is not None:
        part, rest = rest.split(limit_bytes)
        found.append(part)
    return found


@pytest.mark.parametrize("raised", [OverflowError("x"), KeyError("x"), TypeError(), RecursionError(), SystemError()])
def test_whatever_rendering_raises_rejects_the_event_and_quotes_nothing(
    monkeypatch: pytest.MonkeyPatch, raised: Exception
) -> None:
    """It would be raised at every attempt, and each would end the run."""

    def fail(*_: object) -> bytes:
        raise raised

    event = ChangeLog().insert({"_id": "s3cret", "a": 1})
    for payload_format in (EXTENDED, DOCUMENT, PLAIN):
        monkeypatch.setattr(payload_format, "render", fail)
    monkeypatch.setattr(facts, "key_json", fail)
    for rendering in (
        lambda: event.render(EXTENDED),
        lambda: event.render(DOCUMENT),
        lambda: event.render(PLAIN),
        lambda: event.ordering_key,
    ):
        with pytest.raises(UnrenderableError, match=type(raised).__name__) as error:
            rendering()
        assert "s3cret" not in str(error.value)
