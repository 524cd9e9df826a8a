"""How many events a stream asks for after replies that were cut off."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any, ClassVar, TypeVar

import pytest
from bson import Timestamp
from pymongo import ReadPreference
from pymongo.errors import AutoReconnect, PyMongoError

from docdb_stream.events import Position
from docdb_stream.mongodb import change_stream as source_module
from docdb_stream.mongodb.cursor import Reply
from docdb_stream.mongodb.oversize import CUTS
from docdb_stream.mongodb.reply_size import FIRST_REPLY_EVENTS, ReplySize
from docdb_stream.mongodb.source import MongoChangeSource
from docdb_stream.settings import Settings
from docdb_stream.source import BATCH_BYTES
from docdb_stream.testing.events import ChangeLog

T = TypeVar("T")

EVENTS = ChangeLog().inserts(1000)


class Cursor:
    """Replies that are cut off at first; notes how many events each asks for."""

    sizes: ClassVar[list[int]] = []
    cuts: ClassVar[int] = CUTS

    def __init__(self, connection: Any, scope: Any) -> None:
        self.is_open, self.at, self.client = False, 0, None

    def open(
        self, stage: Mapping[str, Any], stages: Sequence[Mapping[str, Any]], batch_size: int, *, on_primary: bool
    ) -> None:
        self.is_open = True

    def next(self, wait_s: float, batch_size: int) -> Reply:
        if Cursor.cuts:
            Cursor.cuts -= 1
            raise AutoReconnect("connection closed")
        Cursor.sizes.append(batch_size)
        found = EVENTS[self.at : self.at + batch_size]
        self.at += len(found)
        raws = [event.raw for event in found if event.raw is not None]
        return Reply(raws, sum(map(len, raws)), None, Timestamp(9, 9), True)

    def forget(self) -> None:
        self.is_open = False

    kill = forget


class Connection:
    uri, client = "mongodb://x", SimpleNamespace(read_preference=ReadPreference.PRIMARY)

    def patiently(
        self,
        attempt: Callable[[], T],
        *,
        passes: Callable[[PyMongoError], bool],
        before_retry: Callable[[], None] = lambda: None,
        **_: Any,
    ) -> T:
        while True:
            try:
                return attempt()
            except AutoReconnect as error:
                if not passes(error):
                    raise
                before_retry()


def test_after_an_accident_of_the_network_events_are_read_many_at_a_time_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What was cut off is read one by one, in case it is too large; there is no reason to go on so behind it."""
    monkeypatch.setattr(source_module, "ChangeStreamCursor", Cursor)
    settings = Settings(documentdb_uri="mongodb://x", watched_db_name="shop", watched_collection_name="orders")
    stream = MongoChangeSource(settings, Connection()).open(  # type: ignore[arg-type]
        Position(operation_time=Timestamp(1, 0))
    )
    read = 0
    while read < len(EVENTS):
        read += len(stream.read(0.01).events)
    assert Cursor.sizes[:2] == [1, 1]
    assert max(Cursor.sizes) > 1


def reply(count: int, size_bytes: int) -> Reply:
    return Reply([b""] * count, size_bytes, None, None, True)


def test_how_many_to_ask_for_follows_from_how_large_the_last_ones_were() -> None:
    size = ReplySize(1000)
    asked = [size.events]
    for came in (
        reply(100, 1000),  # small ones: four times as many, no more
        reply(0, 0),  # nothing came, so nothing was learnt
        reply(400, 4000),
        reply(1000, 4 * BATCH_BYTES),
        reply(3, 3 * BATCH_BYTES),
        reply(1, 16 * BATCH_BYTES),  # one at least
    ):
        size.came(came)
        asked.append(size.events)
    assert asked == [FIRST_REPLY_EVENTS, 400, 400, 1000, 250, 1, 1]


def test_after_a_reply_that_was_too_large_its_events_come_one_by_one() -> None:
    size = ReplySize(1000)
    size.came(reply(100, 100 * 50_000))
    many = size.events
    size.failed()
    for _ in range(many):
        assert size.events == 1
        size.came(reply(1, 100))
    assert size.events > 1
    size.failed()
    size.passed()
    assert size.events > 1
