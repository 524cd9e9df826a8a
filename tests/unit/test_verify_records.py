"""The comparison of a log with the events of a window, without a service."""

from __future__ import annotations

import contextlib
import datetime as dt
from collections.abc import Collection, Iterator, Sequence
from typing import Any

import pytest
from bson import Timestamp

from docdb_stream.context import Deadline, RunContext, running
from docdb_stream.errors import ConfigError, UnequalError, UnrenderableError
from docdb_stream.events import ChangeEvent
from docdb_stream.format import Identified
from docdb_stream.formats.cloudevents import CloudEvents
from docdb_stream.formats.debezium import DEBEZIUM
from docdb_stream.formats.extended import EXTENDED
from docdb_stream.step import each
from docdb_stream.testing.events import ChangeLog, hostile_documents
from docdb_stream.testing.source import ScriptedSource
from docdb_stream.testing.targets import ListTarget
from docdb_stream.verify import events as verify_events
from docdb_stream.verify.events import EventsVerification
from docdb_stream.verify.result import VerifyResult


class Told:
    """A log in memory."""

    def __init__(self, ids: Sequence[str], *, refused: Collection[str] = ()) -> None:
        self.ids = ids
        self.refused = refused
        self.asked: list[Collection[str]] = []

    def places(self, events: Sequence[ChangeEvent]) -> Sequence[str | None]:
        return [None if event.event_id in self.refused else str(event.namespace) for event in events]

    def told(self, places: Collection[str], since: dt.datetime) -> Iterator[Sequence[str]]:
        self.asked.append(places)
        yield ()
        yield self.ids


def compared(
    events: Sequence[ChangeEvent], told: Told, *, limit: Deadline | None = None, since: int = 0, **values: Any
) -> VerifyResult:
    source = ScriptedSource(events, lost_before=values.pop("lost_before", None))
    given: dict[str, Any] = {"steps": [], "is_sure": lambda event: True, **values}
    steps, until = given.pop("steps"), given.pop("until", Timestamp(2**32 - 2, 0))
    source.operation_time = lambda: Timestamp(2**32 - 1, 0)  # type: ignore[method-assign]
    with running(RunContext(limit or Deadline())):
        return EventsVerification(
            "s", source, steps, ListTarget(), told, since=Timestamp(since, 1), until=until, **given
        ).run()


@pytest.fixture
def events() -> list[ChangeEvent]:
    log = ChangeLog()
    return [log.insert({"_id": number}) for number in range(40)]


def ids(events: Sequence[ChangeEvent]) -> list[str]:
    return [event.event_id for event in events]


def test_all_are_there_in_any_order_and_more_than_once(events: list[ChangeEvent]) -> None:
    told = Told([*reversed(ids(events)), *ids(events[:3]), "another's"])
    result = compared(events, told)
    assert (result.is_equal, result.documents, result.again) == (True, 40, 3)
    assert told.asked == [[str(events[0].namespace)]]


def test_what_is_not_there_is_missing_and_named(events: list[ChangeEvent]) -> None:
    result = compared(events, Told(ids(events[1:-1])))
    assert (result.is_equal, result.count("missing"), result.verified_through) == (False, 2, None)
    [place] = result.places
    assert result.examples["missing"] == [f"{place} {event.event_id}" for event in (events[0], events[-1])]


def test_what_is_not_sure_is_not_missing(events: list[ChangeEvent]) -> None:
    first = events[0].event_id
    result = compared(events, Told(ids(events[1:])), is_sure=lambda event: event.event_id != first)
    assert (result.is_equal, result.count("unsure")) == (True, 1)
    assert result.as_dict()["places"][str(events[0].namespace)]["equal"] == 39


def test_what_steps_and_target_reject_or_leave_out(events: list[ChangeEvent]) -> None:
    def step(event: ChangeEvent) -> Any:
        key = (event.document_key or {})["_id"]
        if key < 10:
            return None
        if key < 13:
            raise ValueError
        return [event, event] if key == 20 else event

    told = Told([*ids(events[15:]), f"{events[20].event_id}#1"], refused=ids(events[13:15]))
    result = compared(events, told, steps=[each(step)])
    assert (result.is_equal, result.rejected, result.documents) == (True, 3 + 2, 26)


def test_the_window_ends_before_its_end(events: list[ChangeEvent]) -> None:
    result = compared(events, Told(ids(events[:5])), until=events[5].cluster_time)
    assert (result.is_equal, result.documents) == (True, 5)
    assert result.verified_through == events[5].cluster_time


def test_a_window_that_is_too_large_or_too_old_says_so(
    events: list[ChangeEvent], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match="does not reach back") as lost:
        compared(events, Told([]), lost_before=events[3].cluster_time)
    assert "--window" in lost.value.hint
    monkeypatch.setattr(verify_events, "EVENTS_MOST", 30)
    with pytest.raises(ConfigError, match="more than 30 events"):
        compared(events, Told([]))


def test_it_ends_when_the_time_is_over(events: list[ChangeEvent]) -> None:
    limit = Deadline()
    limit.stop.set()
    with pytest.raises(UnequalError, match="nothing is proven"):
        compared(events, Told(ids(events)), limit=limit)


@pytest.mark.parametrize("payload_format", [EXTENDED, DEBEZIUM, CloudEvents("s")], ids=lambda each: each.name)
def test_bytes_say_which_event_they_are_of(payload_format: Any) -> None:
    assert isinstance(payload_format, Identified)
    log = ChangeLog()
    for document in [{"_id": 1}, *hostile_documents().values()]:
        for event in (log.insert(document), log.delete(document)):
            with contextlib.suppress(UnrenderableError):
                assert payload_format.event_id(event.render(payload_format)) == event.event_id


OTHERS = [b"", b"[]", b"{", b"null", b'{"_id":1}', b'{"_id":{"_data":1}}', b'{"source":{"sequence":"x"}}', b"\xff"]


@pytest.mark.parametrize("payload", OTHERS)
@pytest.mark.parametrize("payload_format", [EXTENDED, DEBEZIUM, CloudEvents("s")], ids=lambda each: each.name)
def test_bytes_of_others_say_nothing(payload_format: Identified, payload: bytes) -> None:
    assert payload_format.event_id(payload) is None
