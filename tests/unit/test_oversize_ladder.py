"""The ladder for events that are too large to send, over a server of one page that has a limit of 1000 bytes."""

from __future__ import annotations

import struct
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import bson
import pytest
from bson import Timestamp
from pymongo.errors import AutoReconnect, OperationFailure

from docdb_stream.errors import HistoryLostError
from docdb_stream.events import Position
from docdb_stream.formats import rawbson
from docdb_stream.mongodb.cursor import Reply
from docdb_stream.mongodb.oversize import CUTS, READS, read_oversize

LIMIT_BYTES = 1000
BEFORE = Position(operation_time=Timestamp(1_700_000_000, 1))


class Server:
    """Sends the first of its events that a stream lets pass, if the event and its reply are within the limit.

    Args:
        log: The events.
        cuts: A reply that does not fit ends the connection, instead of an error.
        splits: It knows ``$changeStreamSplitLargeEvent``.
        weather: Connections to cut first, whatever they are for.
    """

    def __init__(self, *log: bytes, cuts: bool = False, splits: bool = False, weather: int = 0) -> None:
        self.log = log
        self.cuts, self.splits, self.weather = cuts, splits, weather
        self.asked: list[tuple[frozenset[str], tuple[str, ...]]] = []
        self.token = "82FF"  # how far it has looked where nothing is left

    def __call__(
        self, position: Position, *, images: Collection[str], stages: Sequence[dict[str, Any]]
    ) -> Callable[[float], Reply]:
        self.asked.append((frozenset(images), tuple(name for stage in stages for name in stage)))
        replies = self._replies(images, stages)
        return lambda wait_s: next(replies)

    def _replies(self, images: Collection[str], stages: Sequence[dict[str, Any]]) -> Iterator[Reply]:
        if self.weather:
            self.weather -= 1
            raise AutoReconnect("connection closed")
        for raw in self.log:
            events = self._sent(rawbson.parts(raw), images, stages)
            for event in events:
                yield self._reply([event], data(rawbson.parts(event)["_id"]))
        while True:
            yield self._reply([], self.token)

    def _sent(self, event: dict[str, bytes], images: Collection[str], stages: Sequence[dict[str, Any]]) -> list[bytes]:
        if "fullDocument" not in images and data(event["operationType"], "operationType") == "update":
            event.pop("fullDocument", None)
        if "fullDocumentBeforeChange" not in images:
            event.pop("fullDocumentBeforeChange", None)
        fragments = [event]
        for stage in stages:
            [(name, body)] = stage.items()
            if name == "$match":
                low, high = body["$or"][0]["_id._data"]["$lt"], body["$or"][1]["_id._data"]["$gt"]
                if low <= data(event["_id"]) <= high:
                    return []
            elif name == "$project":
                kept = [key for key in event if body.get(key, 0 if 1 in body.values() else 1) or key == "_id"]
                fragments = [event := {key: event[key] for key in kept}]
            elif name == "$addFields":
                self._too_large(3 * size_of(event), event)
            elif name == "$replaceRoot":
                self._too_large(10 * LIMIT_BYTES, event)
            elif not self.splits:
                raise OperationFailure("Unrecognized pipeline stage name", 40324)
            else:
                fragments = split(event)
        for each in fragments:
            self._too_large(size_of(each), each)
        return [rawbson.joined(each.values()) for each in fragments]

    def _too_large(self, size: int, event: Mapping[str, bytes]) -> None:
        if size > LIMIT_BYTES:
            named = ""
            if "ns" in event:
                known = bson.decode(rawbson.joined([event["operationType"], event["ns"]]))
                named = f'token: "{data(event["_id"])[:100]}", operation: "{known["operationType"]}"'
                named += "".join(f', {name}: "{value}"' for name, value in known["ns"].items())
            raise OperationFailure(f"BSONObj size: {size} is invalid. First element: event: {{ {named} }}", 10334)

    def _reply(self, events: list[bytes], token: str) -> Reply:
        size = sum(map(len, events)) + len(token)
        if size > LIMIT_BYTES:
            if self.cuts:
                raise AutoReconnect("connection closed")
            raise OperationFailure("BSON size limit hit while building Message", 10334)
        return Reply(events, size, {"_data": token}, Timestamp(1_800_000_000, 1), alive=True)


def data(element: bytes, name: str = "_id") -> str:
    found = bson.decode(rawbson.joined([element]))[name]
    return str(found["_data"] if name == "_id" else found)


def size_of(event: Mapping[str, bytes]) -> int:
    return len(rawbson.joined(event.values()))


def split(event: Mapping[str, bytes]) -> list[dict[str, bytes]]:
    """One fragment for each field that is a document."""
    fields = [key for key in event if key not in ("_id", "operationType", "clusterTime", "ns")]
    fragments = []
    for number, key in enumerate(fields, 1):
        head = {name: event[name] for name in event if name not in fields} if number == 1 else {}
        token = rawbson.parts(bson.encode({"_id": {"_data": data(event["_id"]) + f"{number:02}"}}))
        which = rawbson.parts(bson.encode({"splitEvent": {"fragment": number, "of": len(fields)}}))
        fragments.append({**head, **token, key: event[key], **which})
    return fragments


def event(
    number: int,
    operation: str,
    *,
    key: bytes | None = None,
    document: bytes | None = None,
    before: bytes | None = None,
    changed: int = 0,
) -> bytes:
    """An event whose token holds its key, as MongoDB's do."""
    key = bson.encode({"_id": number}) if key is None else key
    head: dict[str, Any] = {
        "_id": {"_data": f"826553F100{number:08X}2B022C0100296E5A1004" + "AB" * 16 + key.hex().upper()},
        "operationType": operation,
        "clusterTime": Timestamp(0x6553F100, number),
        "ns": {"db": "shop", "coll": "orders"},
    }
    parts = list(rawbson.parts(bson.encode(head)).values())
    parts.append(b"\x03documentKey\0" + key)
    if changed:
        parts += rawbson.parts(bson.encode({"updateDescription": {"updatedFields": {"a": "x" * changed}}})).values()
    if document is not None:
        parts.append(b"\x03fullDocument\0" + document)
    if before is not None:
        parts.append(b"\x03fullDocumentBeforeChange\0" + before)
    return rawbson.joined(parts)


def text(size: int) -> bytes:
    return bson.encode({"_id": 1, "text": "x" * size})


def strange() -> bytes:
    """A document that changes when it is decoded and encoded again, or cannot even be decoded."""
    string = struct.pack("<i", 6) + b"hello\0"
    return rawbson.joined(
        [
            b"\x0esymbol\0" + string,
            b"\x06undefined\0",
            b"\x10twice\0" + struct.pack("<i", 1),
            b"\x10twice\0" + struct.pack("<i", 2),
            b"\x0bregex\0a\0gz\0",
            b"\x02bad\0" + struct.pack("<i", 3) + b"\xff\xfe\0",
            b"\x02text\0" + struct.pack("<i", 501) + b"x" * 500 + b"\0",
        ]
    )


def fields(raw: bytes | None) -> dict[str, bytes]:
    assert raw is not None
    return rawbson.parts(raw)


def test_whole_again_byte_for_byte_from_fragments() -> None:
    large = event(5, "update", document=strange(), changed=400)
    batch = read_oversize(Server(large, splits=True), BEFORE, "too large")
    [found] = batch.events
    assert fields(found.raw) == fields(large)
    assert (list(batch.rejected), batch.gap) == ([], None)
    assert batch.position == Position.at_token(found.token, time=Timestamp(0x6553F100, 5))


@pytest.mark.parametrize("cuts", [False, True])
def test_whole_again_byte_for_byte_from_its_parts(cuts: bool) -> None:
    large = event(5, "update", document=strange(), changed=400)
    [found] = read_oversize(Server(large, cuts=cuts), BEFORE, "too large").events
    assert fields(found.raw) == fields(large)


def test_an_update_whose_document_is_gone_has_null() -> None:
    large = event(5, "update", changed=700)
    gone = rawbson.joined([*rawbson.parts(large).values(), b"\x0afullDocument\0"])
    server = Server(gone, cuts=True)
    [found] = read_oversize(server, BEFORE, "connection closed", certain=False).events
    assert "fullDocument" in found.document
    assert found.full_document is None


@pytest.mark.parametrize("operation", ["update", "insert", "replace"])
@pytest.mark.parametrize("cuts", [False, True])
def test_without_its_document_an_event_is_a_dead_letter(operation: str, cuts: bool) -> None:
    """To a target it would look like an update whose document is gone, and change nothing there."""
    large = event(5, operation, document=text(850))
    batch = read_oversize(Server(large, cuts=cuts), BEFORE, "too large")
    assert batch.events == []
    [lost] = [each.event for each in batch.rejected]
    assert (lost.operation, lost.document_key) == (operation, {"_id": 5})
    assert "fullDocument" in (batch.gap or "")
    assert batch.position.token == lost.token


def test_without_its_description_an_event_is_delivered_and_the_ledger_says_so() -> None:
    large = event(5, "update", document=text(100), changed=850)
    batch = read_oversize(Server(large), BEFORE, "too large")
    [found] = batch.events
    assert found.update_description is None
    assert found.full_document is not None
    assert "updateDescription" in (batch.gap or "")


@pytest.mark.parametrize("cuts", [False, True])
@pytest.mark.parametrize("splits", [False, True])
def test_the_documents_before_and_after_come_each_alone(cuts: bool, splits: bool) -> None:
    large = event(5, "update", document=strange(), before=text(500), changed=300)
    batch = read_oversize(Server(large, cuts=cuts, splits=splits), BEFORE, "too large", required=["fullDocument"])
    [found] = batch.events
    assert fields(found.raw) == fields(large)
    assert batch.gap is None


def test_without_the_document_before_an_event_is_delivered_where_it_need_not_have_it() -> None:
    large = event(5, "delete", before=text(850))
    batch = read_oversize(Server(large), BEFORE, "too large")
    [found] = batch.events
    assert (found.operation, found.document_key) == ("delete", {"_id": 5})
    assert "fullDocumentBeforeChange" in (batch.gap or "")
    batch = read_oversize(Server(large), BEFORE, "too large", required=["fullDocumentBeforeChange"])
    [rejected] = batch.rejected
    assert (batch.events, rejected.event.document_key) == ([], {"_id": 5})


def test_a_key_that_fits_no_reply_beside_the_token_is_a_dead_letter_without_it() -> None:
    large = event(5, "delete", key=bson.encode({"_id": "k" * 155}))
    batch = read_oversize(Server(large, cuts=True), BEFORE, "too large")
    assert batch.events == []
    [lost] = [each.event for each in batch.rejected]
    assert (lost.operation, lost.document_key) == ("delete", None)
    assert "documentKey" in (batch.gap or "")
    assert batch.position.operation_time == Timestamp(0x6553F100, 5)


HUGE_KEYS = [bson.encode({"_id": letter * 600}) for letter in "ab"]


@pytest.mark.parametrize("cuts", [False, True])
def test_events_that_cannot_be_sent_at_all_are_passed_over_up_to_the_next_one(cuts: bool) -> None:
    huge = [event(5, "insert", key=HUGE_KEYS[0]), event(5, "delete", key=HUGE_KEYS[1])]
    follows = event(6, "insert", document=text(10))
    batch = read_oversize(Server(*huge, follows, event(7, "delete"), cuts=cuts), BEFORE, "too large")
    [found] = batch.events
    assert found.raw == follows
    assert batch.position.token == found.token
    left_out = [each.event for each in batch.rejected]
    assert [(lost.operation, str(lost.namespace), lost.cluster_time) for lost in left_out] == [
        ("insert", "shop.orders", Timestamp(0x6553F100, 5)),
        ("delete", "shop.orders", Timestamp(0x6553F100, 5)),
    ]
    assert all(len(lost.event_id) <= 100 for lost in left_out)
    assert {(each.target, each.reason) for each in batch.rejected} == {("source", batch.gap)}
    assert "passed over 2" in (batch.gap or "")


def test_what_follows_a_passed_event_can_be_too_large_itself() -> None:
    log = event(5, "insert", key=HUGE_KEYS[0]), event(6, "insert", document=text(850))
    batch = read_oversize(Server(*log), BEFORE, "too large")
    assert [each.event.cluster_time.inc for each in batch.rejected] == [5, 6]


def test_with_nothing_behind_it_the_position_is_where_the_server_has_looked() -> None:
    server = Server(event(5, "insert", key=HUGE_KEYS[0]))
    server.token = "826553F100000000062B0229296E04"
    batch = read_oversize(server, BEFORE, "too large")
    assert (batch.events, len(batch.rejected)) == ([], 1)
    assert batch.position.operation_time == Timestamp(0x6553F100, 6)


def test_the_position_waits_until_the_server_has_looked_behind_it() -> None:
    server = Server(event(5, "insert", key=HUGE_KEYS[0]))
    server.token = "826553F100000000052B0229296E04"
    batch = read_oversize(server, BEFORE, "too large")
    assert (batch.position, batch.events, list(batch.rejected), batch.gap) == (BEFORE, [], [], None)


def test_where_the_error_does_not_name_the_event_the_operator_decides() -> None:
    class Silent(Server):
        def _too_large(self, size: int, event: Mapping[str, bytes]) -> None:
            if size > LIMIT_BYTES:
                raise OperationFailure("too large", 10334)

    with pytest.raises(HistoryLostError, match="cannot be read"):
        read_oversize(Silent(event(5, "insert", key=HUGE_KEYS[0])), BEFORE, "too large")


@pytest.mark.parametrize("weather", range(1, 3 * CUTS))
def test_the_network_makes_no_event_smaller(weather: int) -> None:
    """An event well below the limit is read whole, however often the connection is cut meanwhile."""
    usual = event(5, "insert", document=text(10))
    server = Server(usual, cuts=True, weather=weather)
    while True:
        try:
            batch = read_oversize(server, BEFORE, "connection closed", certain=False)
            break
        except AutoReconnect:
            continue
    [found] = batch.events
    assert found.raw == usual
    assert batch.gap is None


def test_nothing_there_after_all() -> None:
    server = Server()
    batch = read_oversize(server, BEFORE, "connection closed", certain=False)
    assert (batch.events, batch.position, batch.gap) == ([], BEFORE, None)
    assert len(server.asked) == 1
    assert READS > 1


def test_other_errors_are_passed_on() -> None:
    def refuse(
        position: Position, *, images: Collection[str], stages: Sequence[dict[str, Any]]
    ) -> Callable[[float], Reply]:
        raise OperationFailure("not authorized", 13)

    with pytest.raises(OperationFailure, match="not authorized"):
        read_oversize(refuse, BEFORE, "too large")
