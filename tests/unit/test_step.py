"""Steps: what is made of events between reading and delivery, and whose fault it is when something is not."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import bson
import pytest

from docdb_stream import step
from docdb_stream.errors import ConfigError, DocdbStreamError, StepError, TargetError
from docdb_stream.events import ChangeEvent, Rejection
from docdb_stream.step import Step, Stepped, each, name_of, told_apart
from docdb_stream.testing.events import ChangeLog
from docdb_stream.testing.targets import ListTarget

SECRET = "tr0ub4dor"
EVENTS = ChangeLog().inserts(5)


def ids(stepped: Stepped) -> list[str]:
    return [event.event_id for event in stepped.events]


def changed(event: ChangeEvent, number: int | None = None, **document: Any) -> ChangeEvent:
    """Another event about the same change; the ``number``-th of several."""
    token = event.event_id if number is None else f"{event.event_id}#{number}"
    return ChangeEvent(document={**event.document, "_id": {"_data": token}, "fullDocument": document})


def keep(*indexes: int) -> Step:
    wanted = {EVENTS[index].event_id for index in indexes}

    def keep_some(events: Sequence[ChangeEvent]) -> Iterable[ChangeEvent]:
        return [event for event in events if event.event_id in wanted]

    return keep_some


# What a step gives


def test_without_steps_events_are_what_they_were() -> None:
    made = step.apply((), EVENTS)
    assert made.events is EVENTS
    assert (list(made.rejected), sum(made.filtered.values())) == ([], 0)


def test_steps_follow_each_other() -> None:
    made = step.apply([keep(0, 1, 2), keep(1, 2, 3)], EVENTS)
    assert list(made.events) == EVENTS[1:3]
    assert (list(made.rejected), sum(made.filtered.values())) == ([], 3)
    assert made.size_bytes == sum(event.size_bytes for event in EVENTS[1:3])


def test_a_step_is_not_asked_about_nothing() -> None:
    def never(events: Sequence[ChangeEvent]) -> Iterable[ChangeEvent]:
        raise AssertionError

    made = step.apply([keep(), never], EVENTS)
    assert (list(made.events), sum(made.filtered.values())) == ([], 5)


def test_several_events_for_one_are_not_filtered() -> None:
    def twice(events: Sequence[ChangeEvent]) -> Iterator[ChangeEvent]:
        for event in events:
            yield changed(event, 1, n=1)
            yield changed(event, 2, n=2)

    made = step.apply([twice, lambda events: [event for event in events if not event.event_id.endswith("#2")]], EVENTS)
    assert ids(made) == [f"{event.event_id}#1" for event in EVENTS]
    assert not made.filtered


def test_the_same_event_twice_is_delivered_twice_and_hides_nothing_that_is_filtered() -> None:
    made = step.apply([lambda events: [events[0], events[0]]], EVENTS)
    assert list(made.events) == [EVENTS[0], EVENTS[0]]
    assert sum(made.filtered.values()) == 4


def test_an_event_that_is_rejected_may_go_on_all_the_same() -> None:
    def doubt(events: Sequence[ChangeEvent]) -> Iterable[ChangeEvent | Rejection]:
        return [Rejection(events[0], "doubt", "odd"), events[0], Rejection(events[1], "doubt", "worse")]

    made = step.apply([doubt], EVENTS)
    assert list(made.events) == EVENTS[:1]
    assert [(each.event, each.target, each.reason) for each in made.rejected] == [
        (EVENTS[0], "doubt", "odd"),
        (EVENTS[1], "doubt", "worse"),
    ]
    assert sum(made.filtered.values()) == 3, "what is rejected is told as such"


def test_the_order_is_the_steps_own() -> None:
    """It must keep that of a document; nobody checks, which would cost every event its key."""
    made = step.apply([lambda events: reversed(events)], EVENTS)
    assert list(made.events) == EVENTS[::-1]


def test_what_is_made_of_a_document_is_bson_from_then_on() -> None:
    """So its size is known, and a dead letter holds it whatever is in it."""
    made = step.apply([lambda events: [changed(events[0], price=float("nan"), ref=bson.DBRef("a", 1))]], EVENTS[:1])
    [event] = made.events
    assert event.raw is not None
    assert bson.decode(event.raw)["fullDocument"]["ref"] == bson.DBRef("a", 1)
    assert made.size_bytes == len(event.raw)


# What a step raises


def fail(error: BaseException) -> Any:
    raise error


def midway(events: Sequence[ChangeEvent]) -> Iterator[ChangeEvent]:
    for number, event in enumerate(events):
        if number == 2:
            raise ValueError(SECRET)
        yield event


@pytest.mark.parametrize(
    ("broken", "told"),
    [
        (midway, r"step midway: raised ValueError at test_step:\d+"),
        (lambda events: fail(SystemExit(SECRET)), "raised SystemExit"),
        (lambda events: fail(asyncio.CancelledError()), "raised CancelledError"),
        (lambda events: None, "raised TypeError"),
        (lambda events: [event.event_id for event in events], "gave a str, which is neither"),
        (lambda events: events[0], "raised TypeError"),
        (lambda events: [None], "gave a NoneType"),
        (lambda events: [ChangeEvent(document={"no": "token"})], "raised UnrenderableError"),
        (lambda events: [changed(events[0], no_bson=object())], "raised InvalidDocument"),
    ],
)
def test_what_a_step_raises_is_its_own_fault_and_no_events(broken: Step, told: str) -> None:
    with pytest.raises(StepError, match=told) as caught:
        step.apply([keep(0, 1, 2, 3, 4), broken], EVENTS)
    assert caught.value.hint
    assert SECRET not in str(caught.value), "what an error says may be in the document"


def test_a_ctrl_c_is_no_fault_of_a_step() -> None:
    with pytest.raises(KeyboardInterrupt):
        step.apply([lambda events: fail(KeyboardInterrupt())], EVENTS)


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_step_may_say_that_it_cannot_work_now(wrapped: bool) -> None:
    error = DocdbStreamError("the price list is away", hint="wait")

    def unable(events: object) -> Any:
        raise error

    with pytest.raises(DocdbStreamError) as caught:
        step.apply([each(unable) if wrapped else unable], EVENTS)
    assert caught.value is error


# A function of one event


def test_a_function_of_one_event_is_a_step() -> None:
    def some(event: ChangeEvent) -> Any:
        number = EVENTS.index(event)
        return [event, None, [], (changed(event, n, n=n) for n in (1, 2)), Rejection(event, "some", "no")][number]

    made = step.apply([each(some)], EVENTS)
    assert ids(made) == [EVENTS[0].event_id, f"{EVENTS[3].event_id}#1", f"{EVENTS[3].event_id}#2"]
    assert [rejection.event for rejection in made.rejected] == EVENTS[4:]
    assert sum(made.filtered.values()) == 2


def test_what_it_raises_is_a_rejection_of_that_event_alone() -> None:
    def picky(event: ChangeEvent) -> ChangeEvent:
        if event is EVENTS[2]:
            raise ValueError(SECRET)
        return event

    made = step.apply([each(picky)], EVENTS)
    assert list(made.events) == [*EVENTS[:2], *EVENTS[3:]]
    [rejection] = made.rejected
    assert (rejection.event, rejection.target) == (EVENTS[2], "picky")
    assert rejection.reason.startswith("raised ValueError at test_step:")
    assert SECRET not in rejection.reason
    assert not made.filtered


def test_of_an_event_that_fails_midway_nothing_goes_on() -> None:
    def some(event: ChangeEvent) -> Iterator[ChangeEvent]:
        yield changed(event, 1)
        if event is EVENTS[1]:
            raise ValueError
        yield changed(event, 2)

    made = step.apply([each(some, "halves")], EVENTS[:2])
    assert ids(made) == [f"{EVENTS[0].event_id}#{number}" for number in (1, 2)]
    assert [(rejection.event, rejection.target) for rejection in made.rejected] == [(EVENTS[1], "halves")]


def test_what_is_no_bson_is_a_rejection_of_the_event_it_was_made_of() -> None:
    made = step.apply([each(lambda event: changed(event, x=object()), "odd")], EVENTS[:1])
    assert list(made.events) == []
    assert [rejection.event for rejection in made.rejected] == EVENTS[:1]


@pytest.mark.parametrize("found", ["text", 7, [7], {"a": 1}])
def test_what_is_no_event_ends_the_run_instead_of_emptying_the_stream_into_the_dead_letters(found: Any) -> None:
    with pytest.raises(StepError, match=r"step wrong: gave an? \w+, which is neither"):
        step.apply([each(lambda event: found, "wrong")], EVENTS)


# Names


def test_an_event_that_was_made_can_be_rejected_whatever_is_in_it() -> None:
    """A dead letter holds it, and its size is asked for: text that no rendering says must not end the run."""

    def picky(events: Sequence[ChangeEvent]) -> Iterator[Rejection]:
        yield Rejection(changed(events[0], **{"$oid": 1}), "picky", "no")

    [found] = step.apply([picky], EVENTS[:1]).rejected
    assert found.event.raw is not None
    assert found.event.size_bytes == len(found.event.raw)
    assert (found.target, found.reason) == ("picky", "no")


def test_an_event_whose_namespace_nobody_can_read_is_the_steps_fault() -> None:
    """Not a target's, which would be waited for."""
    broken = ChangeEvent(document={**EVENTS[0].document, "ns": "shop.orders"})
    with pytest.raises(StepError):
        step.apply([lambda events: [broken]], EVENTS[:1])


def test_the_names_of_steps() -> None:
    class Named:
        name = "mine"

        def __call__(self, events: Sequence[ChangeEvent]) -> Sequence[ChangeEvent]:
            return events

    class Unnamed:
        def __call__(self, events: Sequence[ChangeEvent]) -> Sequence[ChangeEvent]:
            return events

    found = [name_of(each_step) for each_step in (Named(), Unnamed(), midway, each(len, "x"))]  # type: ignore[arg-type]
    assert found == ["mine", "Unnamed", "midway", "x"]


@pytest.mark.parametrize("name", ["list", "source"])
def test_a_step_has_no_targets_name(name: str) -> None:
    """Its dead letters would be redriven to the target, past the steps."""
    with pytest.raises(ConfigError, match=name) as caught:
        told_apart([each(lambda event: event, name)], [ListTarget()])
    assert caught.value.hint
    assert len(told_apart([each(lambda event: event, "other")], [ListTarget()])) == 1


def test_a_step_error_is_not_a_targets() -> None:
    assert not isinstance(StepError("s", "m"), TargetError)
    assert (StepError("s", "m").kind, StepError("s", "m").exit_code) == ("step", 1)


def test_what_is_no_change_event_is_no_reason_to_stop_counting() -> None:
    """It passes the steps that cannot read it, for the targets to refuse."""
    strange = ChangeEvent(bson.encode({"_id": 1}))
    made = step.apply([_all_but_first], [EVENTS[0], strange])
    assert (list(made.events), made.filtered) == ([strange], {"_all_but_first": 1})


def _all_but_first(events: Sequence[ChangeEvent]) -> Iterable[ChangeEvent]:
    return events[1:]
