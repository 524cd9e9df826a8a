"""NAMESPACES and OPERATIONS: what passes, what it costs, and that what cannot be read is nobody's to leave out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import bson
import pytest
from bson import Timestamp

from docdb_stream import step
from docdb_stream.events import ChangeEvent, Events
from docdb_stream.formats import decoded, format_named, part
from docdb_stream.formats.facts import FACTS
from docdb_stream.settings import Settings
from docdb_stream.steps import steps_for
from docdb_stream.steps.select import selections
from docdb_stream.testing.targets import ListTarget

EXTENDED = format_named("extended")


class Rendering(ListTarget):
    formats = (EXTENDED, FACTS)


def raw(number: int, operation: str = "insert", ns: str | None = "shop.orders", **more: Any) -> bytes:
    event: dict[str, Any] = {
        "_id": {"_data": f"82{number:016X}"},
        "operationType": operation,
        "clusterTime": Timestamp(1, number + 1),
    }
    if ns is not None:
        db, _, coll = ns.partition(".")
        event["ns"] = {"db": db, "coll": coll} if coll else {"db": db}
    return bson.encode({**event, "documentKey": {"_id": number}, **more})


def settings(**values: Any) -> Settings:
    return Settings(documentdb_uri="mongodb://nowhere", **values)


def through(events: Sequence[ChangeEvent], **values: Any) -> step.Stepped:
    return step.apply(steps_for(settings(**values), [Rendering()]), events)


def operations(made: step.Stepped) -> list[str]:
    return [event.operation for event in made.events]


def test_operations() -> None:
    events = Events.of([raw(0), raw(1, "update"), raw(2, "delete"), raw(3, "drop"), raw(4, "invalidate", None)])
    made = through(events, operations="insert, invalidate")
    assert operations(made) == ["insert", "invalidate"]
    assert made.filtered == {"operations": 3}


def test_namespaces() -> None:
    events = Events.of(
        [
            raw(0),
            raw(1, ns="shop.a.b"),
            raw(2, ns="crm.orders"),
            raw(3, "dropDatabase", "shop"),
            raw(4, "dropDatabase", "crm"),
            raw(5, "rename", "shop.old", to={"db": "shop", "coll": "orders"}),
            raw(6, "rename", "shop.orders", to={"db": "shop", "coll": "old"}),
            raw(7, "rename", "shop.x", to={"db": "shop", "coll": "y"}),
            raw(8, "invalidate", None),
            raw(9, "unheard-of", "shop.orders"),
        ]
    )
    made = through(events, namespaces="shop.orders, shop.a*")
    assert [event.event_id for event in made.events] == [f"82{number:016X}" for number in (0, 1, 3, 5, 6, 8, 9)]
    assert made.filtered == {"namespaces": 3}


def test_each_rule_counts_what_it_leaves_out() -> None:
    events = Events.of([raw(0), raw(1, "delete"), raw(2, ns="crm.orders"), raw(3, "delete", "crm.orders")])
    made = through(events, namespaces="shop.*", operations="insert")
    assert operations(made) == ["insert"]
    assert made.filtered == {"namespaces": 2, "operations": 1}


def test_what_cannot_be_read_passes() -> None:
    bad = [b"\x05\0\0\0\0", bson.encode({"_id": 5, "operationType": "insert"}), b"no bson", raw(0)[:-9]]
    events = Events.of([*bad, raw(1), raw(2, "delete")])
    made = through(events, namespaces="crm.*", operations="update")
    assert [event.raw for event in made.events] == bad


@pytest.mark.parametrize("merged", [False, True], ids=["as read", "put together"])
@pytest.mark.parametrize("every", [1, 2, 3, 7, 64, 1000])
def test_what_passes_is_what_it_would_be_alone(merged: bool, every: int) -> None:
    """Across parts, and where events of several replies were put together to one batch."""
    raws = [raw(number, "insert" if number % every == 0 else "delete", text="x" * number) for number in range(300)]
    together = Events.of(raws)
    events: Sequence[ChangeEvent] = [*together[100:], *Events.of(raws[:50])] if merged else together
    steps = steps_for(settings(operations="insert"), [Rendering()])
    for _ in range(2):  # the second time it is known how many pass
        made = step.apply(steps, events)
        alone = [event for event in events if event.operation == "insert"]
        assert [event.raw for event in made.events] == [event.raw for event in alone]
        assert [event.event_id for event in made.events] == [event.event_id for event in alone]
        assert [event.render("extended") for event in made.events] == [
            ChangeEvent(event.raw).render("extended") for event in alone
        ]
        assert len(made.events) == len(alone)


def test_events_that_did_not_come_as_bson() -> None:
    events = [ChangeEvent(document=bson.decode(raw(number, name))) for number, name in enumerate(("insert", "drop"))]
    assert operations(through(events, operations="drop")) == ["drop"]


def test_an_order_that_is_not_the_parts_stays() -> None:
    events = Events.of([raw(0), raw(1), raw(2)])
    [selection] = selections(settings(operations="insert, update"))
    made = step.apply([lambda given: reversed(given), selection], events)
    assert [event.event_id[-1] for event in made.events] == ["2", "1", "0"]


def test_a_batch_of_which_all_pass_goes_on_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same object, decoded once for the step and the target, with no event made."""
    decodings: list[int] = []

    def counting(raws: Sequence[bytes]) -> list[decoded.Decoded]:
        decodings.append(len(raws))
        return decoded.decode_all(raws)

    monkeypatch.setattr(part, "decode_all", counting)
    events = Events.of([raw(number) for number in range(100)])
    made = through(events, namespaces="shop.*", operations="insert")
    assert made.events is events
    events.want([EXTENDED, FACTS])
    assert len(events.render(EXTENDED)) == 100
    assert sum(decodings) == 100
    assert events._events is None


def test_what_is_left_out_is_not_rendered_where_little_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    rendered: list[int] = []
    render = EXTENDED.render
    monkeypatch.setattr(
        type(EXTENDED), "render", lambda self, found: rendered.append(len(found.documents)) or render(found)
    )
    steps = steps_for(settings(operations="insert"), [Rendering()])
    raws = [raw(number, "insert" if number == 7 else "delete") for number in range(64)]
    for expected in (64, 1):  # after the first batch it is known
        rendered.clear()
        made = step.apply(steps, Events.of(raws))
        together = Events(made.events)
        together.want([EXTENDED, FACTS])
        together.render(EXTENDED)
        assert sum(rendered) == expected


def test_formats_are_not_asked_for_where_events_are_changed_afterwards() -> None:
    for values in ({"transform": "json:dumps"}, {"fields_drop": "a"}):
        [selection] = selections(settings(operations="insert"), ())
        found = [each for each in steps_for_first(values) if each.name == "operations"]
        assert [each._formats for each in found] == [selection._formats] == [[FACTS]]


def steps_for_first(values: dict[str, str]) -> Sequence[Any]:
    return [steps_for(settings(operations="insert", **values), [Rendering()])[0]]
