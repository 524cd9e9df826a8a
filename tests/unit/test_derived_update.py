from __future__ import annotations

import re
from typing import Any

import pytest

import docdb_stream
from docdb_stream import step
from docdb_stream.delivery import Delivery
from docdb_stream.derived_update import (
    DERIVED,
    OPERATORS,
    SET_OPERATORS,
    derived,
    derived_in,
    in_any_order,
    is_derived,
    is_in_any_order,
)
from docdb_stream.errors import ConfigError, UnrenderableError
from docdb_stream.events import ChangeEvent, Events, Rejection
from docdb_stream.step import each
from docdb_stream.target import takes_derived
from docdb_stream.testing.events import ChangeLog
from docdb_stream.testing.targets import ListTarget

UPDATE = {"$inc": {"carts": 1}}


class Taking(ListTarget):
    name = "taking"
    takes_derived = True


@pytest.fixture
def event() -> ChangeEvent:
    return ChangeLog().insert({"_id": 1, "customer": "Ann"})


def test_it_is_an_event_of_its_origin_about_another_document(event: ChangeEvent) -> None:
    made = docdb_stream.derived(event, "shop.visitors", key={"_id": "Ann"}, update=UPDATE)
    assert (made.operation, str(made.namespace), made.document_key) == (DERIVED, "shop.visitors", {"_id": "Ann"})
    assert (made.cluster_time, made.event_id) == (event.cluster_time, event.event_id)
    assert made.document["update"] == UPDATE
    assert [is_derived(one) for one in (event, made)] == [False, True]


def test_a_document_that_says_so_is_none() -> None:
    trap = ChangeLog().insert({"_id": 1, "operationType": DERIVED})
    assert not is_derived(trap)
    assert derived_in([trap]) == []


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"update": {}}, "it is empty"),
        ({"update": {"n": "secret"}}, "n is none of"),
        ({"update": {"$currentDate": {"at": True}}}, r"\$currentDate is none of"),
        ({"update": {"$rename": {"a": "b"}}}, r"\$rename is none of"),
        ({"update": {"$set": {}}}, r"\$set needs fields"),
        ({"update": {"$set": "secret"}}, r"\$set needs fields"),
        ({"update": {"$set": {"_id": "secret"}}}, "which a document keeps"),
        ({"update": {"$set": {"_id.a": "secret"}}}, "which a document keeps"),
        ({"update": {"$set": {"a..b": "secret"}}}, "no path of a field"),
        ({"update": {"$set": {"a.$.b": "secret"}}}, "no path of a field"),
        ({"update": {"$set": {"$a": "secret"}}}, "no path of a field"),
        ({"update": {"$set": {"a": 2**64}}}, "cannot be rendered"),
        ({"key": {}}, "needs an _id"),
        ({"key": {"customer": "secret"}}, "needs an _id"),
        ({"key": {"_id": ["secret"]}}, "cannot be an array"),
        ({"key": {"_id": 1, "$where": "secret"}}, "not operators"),
        ({"namespace": "shop"}, "expected a collection as db.coll"),
        ({"namespace": "shop."}, "expected a collection as db.coll"),
        ({"namespace": "sh op.a"}, "no collection can have this name"),
        ({"namespace": "admin.a"}, "server's own"),
        ({"namespace": "shop.system.views"}, "server's own"),
    ],
)
def test_what_cannot_be_applied_is_refused_without_a_value(
    event: ChangeEvent, options: dict[str, Any], reason: str
) -> None:
    values = {"namespace": "shop.visitors", "key": {"_id": 1}, "update": UPDATE, **options}
    with pytest.raises(UnrenderableError, match=reason) as caught:
        derived(event, values["namespace"], key=values["key"], update=values["update"])
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("operator", OPERATORS)
def test_each_operator(event: ChangeEvent, operator: str) -> None:
    assert derived(event, "a.b", key={"_id": 1}, update={operator: {"c.0.d": 1}}).document["update"]


def test_a_function_that_asks_for_what_cannot_be_applied_has_its_event_rejected(event: ChangeEvent) -> None:
    made = step.apply([each(lambda one: derived(one, "a.b", key={"_id": 1}, update={}), "sum")], [event])
    assert made.events == []
    [rejection] = made.rejected
    assert rejection.reason == "derived update: it is empty; give it operators such as $inc or $set"


def delivery(*targets: ListTarget) -> Delivery:
    return Delivery(targets, stream="s", write_letters=lambda stream, rejections: None)


def visits(event: ChangeEvent) -> list[ChangeEvent]:
    return [event, derived(event, "a.b", key={"_id": 1}, update=UPDATE)]


def test_only_who_takes_them_gets_them() -> None:
    taking, other = Taking(), ListTarget()
    events = step.apply([each(visits)], ChangeLog().inserts(3)).events
    with delivery(taking, other) as opened:
        opened.write(events)
        opened.write([event for event in events if is_derived(event)])
        opened.flush()
    assert taking.operations == ["insert", DERIVED] * 3 + [DERIVED] * 3
    assert other.operations == ["insert"] * 3
    assert [takes_derived(target) for target in (taking, other)] == [True, False]


def test_where_nobody_takes_them_the_run_ends_and_nothing_is_lost() -> None:
    other = ListTarget()
    with delivery(other) as opened, pytest.raises(ConfigError, match="no target that takes them") as caught:
        opened.write(step.apply([each(visits)], ChangeLog().inserts(3)).events)
    assert "MONGODB_TARGET_URI" in caught.value.hint
    assert other.events == []


def test_events_as_they_were_read_are_not_looked_into() -> None:
    class Opaque(Events):
        def __iter__(self) -> Any:
            raise AssertionError("looked into")

    assert derived_in(Opaque.of([event.raw or b"" for event in ChangeLog().inserts(3)])) == []
    made = step.apply([each(visits)], ChangeLog().inserts(3)).events
    assert len(derived_in(Events(made))) == 3


def test_a_rejection_is_nothing_special(event: ChangeEvent) -> None:
    made = derived(event, "a.b", key={"_id": 1}, update=UPDATE)
    assert Rejection(made, "mongodb", "refused").event.render("extended").startswith(b"{")


@pytest.mark.parametrize("operator", OPERATORS)
def test_what_comes_to_the_same_in_any_order(event: ChangeEvent, operator: str) -> None:
    made = derived(event, "a.b", key={"_id": 1}, update={"$addToSet": {"a": 1}, operator: {"b": 1}})
    if operator in SET_OPERATORS:
        assert is_in_any_order(in_any_order(made))
        assert is_derived(in_any_order(made))
    else:
        with pytest.raises(UnrenderableError, match=re.escape(f"{operator} is none of $addToSet, $min, $max")):
            in_any_order(made)
    assert not is_in_any_order(made)
