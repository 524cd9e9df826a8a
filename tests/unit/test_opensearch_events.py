"""Which events become operations, and that none goes missing without a word."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import bson
import pytest

from docdb_stream.errors import ConfigError
from docdb_stream.events import ChangeEvent
from docdb_stream.settings import Settings
from docdb_stream.target import Rejection
from docdb_stream.targets import opensearch
from docdb_stream.targets._opensearch.bulk import Operation
from docdb_stream.targets.opensearch import OpenSearchTarget
from docdb_stream.testing.events import ChangeLog, change_event


class Sent:
    """Takes operations in the place of the sender, and refuses those of one document at once."""

    def __init__(self, refused: str = "") -> None:
        self.operations: list[Operation] = []
        self._refused = refused

    def send(self, operations: Sequence[Operation]) -> list[Rejection]:
        self.operations += operations
        return [Rejection(each.event, "opensearch", "no") for each in operations if each.document_id == self._refused]

    def settle(self) -> list[Rejection]:
        return []


def written(
    *events: ChangeEvent, refused: str = "", **options: Any
) -> tuple[list[Operation], list[tuple[ChangeEvent, str]]]:
    target, sent = OpenSearchTarget("http://127.0.0.1:9", **options), Sent(refused)
    target._sender = sent  # type: ignore[assignment]
    rejections = target.write(events)
    return sent.operations, [(each.event, each.reason) for each in rejections]


def without(event: ChangeEvent, name: str) -> ChangeEvent:
    return change_event({key: value for key, value in event.document.items() if key != name})


def of_every_kind() -> list[ChangeEvent]:
    log, document = ChangeLog(), {"_id": 1, "total": 2}
    return [log.insert(document), log.update(document), log.replace(document), log.delete(1)]


@pytest.mark.parametrize("event", of_every_kind(), ids=lambda event: event.operation)
def test_a_change_without_its_key_is_rejected(event: ChangeEvent) -> None:
    """As PyMongo leaves one whose key it cannot decode."""
    operations, [(rejected, reason)] = written(without(event, "documentKey"))
    assert not operations
    assert rejected.event_id == event.event_id
    assert reason == "documentKey: missing in the event"


@pytest.mark.parametrize("event", of_every_kind(), ids=lambda event: event.operation)
def test_a_change_whose_key_is_not_valid_bson_is_rejected(event: ChangeEvent) -> None:
    """It is left out of what is decoded of the event."""
    key = bson.encode({"_id": True})
    raw = bson.encode({**event.document, "documentKey": {"_id": True}})
    operations, found = written(ChangeEvent(raw.replace(key, key.replace(b"_id\0\1", b"_id\0\7"))))
    assert not operations
    assert len(found) == 1


def test_a_delete_whose_key_cannot_be_told_exactly_deletes_no_other_document() -> None:
    """Text that is not UTF-8 is decoded with another character in its place, and a document may have that very id."""
    event = ChangeLog().delete("id-??")
    assert event.raw is not None
    operations, found = written(ChangeEvent(event.raw.replace(b"id-??", b"id-\xff\xff")))
    assert not operations
    assert [reason for _, reason in found] == ["documentKey._id: not valid UTF-8"]


def test_an_event_without_its_operation_is_rejected_alone() -> None:
    log = ChangeLog()
    events = [log.insert({"_id": 1}), without(log.insert({"_id": 2}), "operationType"), log.insert({"_id": 3})]
    operations, found = written(*events)
    assert [each.event for each in operations] == [events[0], events[2]]
    assert found == [(events[1], "operationType: missing in the event")]


def test_what_is_about_no_document_is_nothing() -> None:
    log = ChangeLog()
    assert written(log.drop_database(), log.invalidate(), log.unknown(), log.update({"_id": 1}, gone=True)) == ([], [])


@pytest.mark.parametrize("full", [{"fullDocument": None}, {}], ids=["null", "missing"])
def test_an_update_is_no_gone_document_unless_it_was_looked_up(full: dict[str, Any]) -> None:
    """A server that kept no post-image says the same, and the index would stay behind for good."""
    event = ChangeLog().event("update", 1, updateDescription={"updatedFields": {"a": 1}}, **full)
    assert written(event) == ([], [])
    operations, found = written(event, null_is_gone=False)
    assert not operations
    assert found == [(event, "fullDocument: missing in the event, so that the index keeps what it had")]


def test_what_is_refused_before_a_drop_is_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opensearch, "delete_older", lambda *_: [])
    log = ChangeLog()
    event = log.insert({"_id": 1})
    _, found = written(event, log.drop(), refused="1")
    assert found == [(event, "no")]


def stream(**options: Any) -> Settings:
    return Settings(
        documentdb_uri="mongodb://nowhere", watched_db_name="shop", elasticsearch_uri="http://127.0.0.1:9", **options
    )


def test_a_stream_whose_updates_bring_no_document_is_refused() -> None:
    with pytest.raises(ConfigError, match="FULL_DOCUMENT = default"):
        OpenSearchTarget.from_settings(stream(full_document="default"))
    OpenSearchTarget.from_settings(stream(full_document="default", operations="insert, delete"))
    found = OpenSearchTarget.from_settings(stream(full_document="when_available"))
    assert not found._null_is_gone
