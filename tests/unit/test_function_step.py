"""TRANSFORM: the user's function, found, called in bounded time, and whatever it does with the events it is given."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import MappingProxyType
from typing import Any

import bson
import pytest
from scripted import World

from docdb_stream import step
from docdb_stream.context import Deadline, RunContext, running
from docdb_stream.errors import ConfigError, DocdbStreamError, StepError, StepOutOfTimeError
from docdb_stream.events import ChangeEvent, Events, Rejection
from docdb_stream.settings import Settings
from docdb_stream.step import Stepped
from docdb_stream.steps import steps_for
from docdb_stream.steps.function import MADE_OF_ONE, FunctionStep, function_at
from docdb_stream.testing.events import ChangeLog

SECRET = "tr0ub4dor"
EVENTS = ChangeLog().inserts(4)


def transformed(function: Callable[[ChangeEvent], Any], *events: ChangeEvent, at_most_s: float = 30) -> Stepped:
    return step.apply([FunctionStep("shop.rules:change", function, at_most_s)], events or EVENTS)


def rejected(function: Callable[[ChangeEvent], Any], event: ChangeEvent = EVENTS[0]) -> str:
    """The reason for which the event is rejected, once it is sure that it is, and is as it came."""
    made = transformed(function, event)
    assert not made.events
    [found] = made.rejected
    assert found.event is event
    assert found.target == "transform"
    assert SECRET not in found.reason
    return found.reason


# What the function may return


def test_an_event_that_it_returns_is_the_very_one() -> None:
    assert [*transformed(lambda event: event).events] == EVENTS
    assert [*transformed(lambda event: event if event.full_document else None).events] == EVENTS
    assert [*transformed(lambda event: [event]).events] == EVENTS


def test_what_it_leaves_out_is_counted() -> None:
    made = transformed(lambda event: event if event.document["documentKey"]["_id"] else None)
    assert [*made.events] == EVENTS[1:]
    assert made.filtered == {"transform": 1}


def test_several_of_one_have_tokens_of_their_own_and_keep_the_order() -> None:
    def each_part(event: ChangeEvent) -> Iterator[ChangeEvent]:
        for part in (1, 2, 3):
            yield event.replace(fullDocument={"part": part})

    made = transformed(each_part)
    assert [event.event_id for event in made.events] == [
        f"{event.event_id}{end}" for event in EVENTS for end in ("", "#1", "#2")
    ]
    assert [event.full_document["part"] for event in made.events if event.full_document] == [1, 2, 3] * len(EVENTS)


def test_of_several_no_two_have_one_token_whatever_they_were_given() -> None:
    def odd(event: ChangeEvent) -> list[ChangeEvent]:
        return [event.replace(_id={"_data": f"{event.event_id}#1"}), event, event.replace(n=1), event.replace(n=2)]

    ids = [event.event_id for event in transformed(odd, EVENTS[0]).events]
    assert len(set(ids)) == 4


def test_events_about_no_document_pass_through_it_too() -> None:
    events = [*ChangeLog().every_operation(), *ChangeLog().hostile().values()]
    seen: list[str] = []

    def note(event: ChangeEvent) -> ChangeEvent:
        seen.append(event.operation)
        assert event.document
        return event

    made = transformed(note, *events)
    assert [*made.events] == events
    assert {"drop", "dropDatabase", "invalidate", "futureOperation"} <= {*seen}


def test_a_rejection_of_its_own_holds_the_event_as_it_came() -> None:
    def refuse(event: ChangeEvent) -> Rejection:
        event.full_document["price"] = 0  # type: ignore[index]
        return Rejection(event, "kinesis", "too cheap")

    assert rejected(refuse) == "too cheap"


# Events that are changed in place


def double(event: ChangeEvent) -> ChangeEvent:
    if event.full_document is not None:
        event.full_document["price"] *= 2  # type: ignore[index]
    return event


def test_a_document_that_is_changed_in_place_is_delivered_so_and_the_event_before_stays() -> None:
    events = Events.of([event.raw or b"" for event in EVENTS])
    made = step.apply([FunctionStep("shop.rules:double", double, 30)], events)
    assert [event.full_document["price"] for event in made.events if event.full_document] == [0, 0.5, 1, 1.5]
    assert [event.full_document["price"] for event in events if event.full_document] == [0, 0.25, 0.5, 0.75]
    assert [event.event_id for event in made.events] == [event.event_id for event in events]
    assert made.events[0] is events[0], "nothing was changed: 0 doubled is 0"


def test_the_document_of_an_event_that_is_known_only_decoded_is_a_copy_too() -> None:
    event = ChangeEvent(document=dict(EVENTS[1].document))
    [made] = transformed(double, event).events
    assert (event.full_document or {})["price"] == 0.25
    assert (made.full_document or {})["price"] == 0.5


def test_a_generator_may_give_the_event_again_and_again_as_it_changes() -> None:
    def each_part(event: ChangeEvent) -> Iterator[ChangeEvent]:
        for part in (1, 2):
            event.document["fullDocument"]["part"] = part
            yield event

    made = transformed(each_part, EVENTS[0])
    assert [(event.full_document or {})["part"] for event in made.events] == [1, 2]
    assert "several times in one list" in rejected(lambda event: [*each_part(event)])


@pytest.mark.parametrize("event", [ChangeLog().hostile()[name] for name in ("old_types", "duplicate_keys", "types")])
def test_what_decoding_gives_up_is_not_taken_for_a_change(event: ChangeEvent) -> None:
    def look(event: ChangeEvent) -> ChangeEvent:
        assert event.full_document
        return event

    [found] = transformed(look, event).events
    assert found is event


def test_nothing_is_made_of_an_approximation() -> None:
    event = ChangeLog().hostile()["invalid_utf8"]
    [found] = transformed(lambda event: event if event.full_document else None, event).events
    assert found is event
    assert "cannot be decoded without altering it" in rejected(lambda event: event.replace(n=1), event)

    def change(event: ChangeEvent) -> ChangeEvent:
        event.document["fullDocument"]["n"] = 1  # type: ignore[index]
        return event

    assert "cannot be decoded without altering it" in rejected(change, event)


# Nonsense


def test_what_it_raises_rejects_the_event_and_tells_the_line_of_its_own_package() -> None:
    def broken(event: ChangeEvent) -> ChangeEvent:
        return bson.decode(SECRET.encode())  # type: ignore[return-value]

    assert rejected(broken).startswith("raised InvalidBSON at test_function_step:")

    def midway(event: ChangeEvent) -> Iterator[ChangeEvent]:
        yield event.replace(n=1)
        raise KeyError(SECRET)

    assert rejected(midway).startswith("raised KeyError at test_function_step:")


def test_what_no_bson_can_hold_rejects_the_event() -> None:
    def change(event: ChangeEvent) -> ChangeEvent:
        event.full_document["tags"] = {SECRET}  # type: ignore[index]
        return event

    assert rejected(change) == "gave an event that BSON cannot hold (InvalidDocument)"
    assert rejected(lambda event: event.replace(tags={SECRET})).startswith("raised InvalidDocument at test_function")
    assert rejected(lambda event: ChangeEvent(document={**event.document, "x": object()})).startswith("raised Invalid")
    assert "BSON cannot hold" in rejected(lambda event: (event.document.update(self=event.document), event)[1])  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"_id": {"_data": EVENTS[3].event_id}}, "the token of another one"),
        ({"_id": None}, "without token, operation or namespace"),
        ({"_id": "text"}, "without token, operation or namespace"),
        ({"operationType": None}, "without token, operation or namespace"),
        ({"ns": "shop.orders"}, "without token, operation or namespace"),
    ],
)
def test_an_event_that_is_not_about_this_one_rejects_it(fields: dict[str, Any], reason: str) -> None:
    assert reason in rejected(lambda event: event.replace(**fields))


def test_an_event_that_was_kept_from_another_call_rejects_this_one() -> None:
    kept: list[ChangeEvent] = []

    def late(event: ChangeEvent) -> ChangeEvent:
        kept.append(event)
        return kept[0]

    made = transformed(late)
    assert [*made.events] == EVENTS[:1]
    assert [found.event for found in made.rejected] == EVENTS[1:]


def test_a_generator_without_an_end_rejects_the_event() -> None:
    def forever(event: ChangeEvent) -> Iterator[ChangeEvent]:
        while True:
            yield event

    assert f"more than {MADE_OF_ONE:,} events" in rejected(forever)


@pytest.mark.parametrize(
    ("found", "told"),
    [
        (7, "an int"),
        ("text", "a str"),
        ({"a": 1}, "a dict"),
        (MappingProxyType({}), "a mappingproxy"),
        ([7], "an int"),
        (object, "a type"),
    ],
)
def test_what_is_no_event_ends_the_run(found: Any, told: str) -> None:
    with pytest.raises(StepError, match=f"step transform: gave {told}, which is neither") as caught:
        transformed(lambda event: found)
    assert caught.value.hint


@pytest.mark.parametrize("error", [SystemExit(SECRET), KeyboardInterrupt(SECRET), GeneratorExit(SECRET)])
def test_what_would_end_a_program_ends_the_run_with_an_error(error: BaseException) -> None:
    def leave(event: ChangeEvent) -> ChangeEvent:
        raise error

    told = rf"step transform: shop.rules:change raised {type(error).__name__} at test_function_step:\d+"
    with pytest.raises(StepError, match=told) as caught:
        transformed(leave)
    assert SECRET not in str(caught.value)


def test_it_can_say_that_it_cannot_work_now() -> None:
    error = DocdbStreamError("the price list is away")

    def unable(event: ChangeEvent) -> ChangeEvent:
        raise error

    with pytest.raises(DocdbStreamError) as caught:
        transformed(unable)
    assert caught.value is error


# A function that blocks


class Blocking:
    """A function that waits at the second event until the test is over; the event is what it gives then."""

    def __init__(self) -> None:
        self.go_on = threading.Event()
        self.called: list[str] = []
        self.waits = threading.Event()
        self.came_back = threading.Event()

    def __call__(self, event: ChangeEvent) -> ChangeEvent:
        self.called.append(event.event_id)
        if len(self.called) == 2:
            self.waits.set()
            self.go_on.wait(60)
            self.came_back.set()
        return event


@pytest.fixture
def blocking() -> Iterator[Blocking]:
    found = Blocking()
    yield found
    found.go_on.set()


def test_a_function_that_blocks_ends_the_run_in_its_time(blocking: Blocking) -> None:
    told = r"shop.rules:change was at event 2 of 4 after \d.\d s, and TRANSFORM_SECONDS is 0.05"
    with pytest.raises(StepError, match=told) as caught:
        transformed(blocking, at_most_s=0.05)
    assert not isinstance(caught.value, StepOutOfTimeError)
    blocking.go_on.set()
    assert blocking.came_back.wait(30)
    assert blocking.called == [EVENTS[0].event_id, EVENTS[1].event_id], "what was given up goes no further"


def test_a_function_that_blocks_ends_by_the_deadline(blocking: Blocking) -> None:
    with (
        running(RunContext(Deadline.after(0.05))),
        pytest.raises(StepOutOfTimeError, match=r"at event 2 of 4 .* when the run's time was over"),
    ):
        transformed(blocking)


def test_a_function_that_blocks_ends_with_a_stop(blocking: Blocking, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("docdb_stream.context.STOP_PATIENCE_S", 0.05)
    limit = Deadline()
    threading.Thread(target=lambda: blocking.waits.wait(30) and limit.stop.set(), daemon=True).start()
    with running(RunContext(limit)), pytest.raises(StepOutOfTimeError, match="when the run had to end"):
        transformed(blocking)


def test_of_a_batch_that_is_given_up_nothing_is_delivered_or_saved(five: World, blocking: Blocking) -> None:
    saved = five.position
    five.steps = [FunctionStep("shop.rules:change", blocking, 0.05)]
    five.source._batch_size = 5
    with pytest.raises(StepError):
        five.poller().run()
    blocking.go_on.set()
    assert blocking.came_back.wait(30)
    assert (five.target.durable, five.target.held, five.position) == ([], [], saved)
    five.steps = [FunctionStep("shop.rules:change", lambda event: event, 30)]
    five.poller().run()
    assert [event.event_id for event in five.target.durable] == [event.event_id for event in five.events]


def test_a_stop_while_the_function_works_is_a_clean_end(
    five: World, blocking: Blocking, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("docdb_stream.context.STOP_PATIENCE_S", 0.05)
    saved = five.position
    five.steps = [FunctionStep("shop.rules:change", blocking, 30)]
    limit = Deadline()
    threading.Thread(target=lambda: blocking.waits.wait(30) and limit.stop.set(), daemon=True).start()
    result = five.poller().run(limit=limit)
    assert result.stopped_by == "signal"
    assert (five.target.durable, five.position) == ([], saved)


# Finding it


@pytest.fixture
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder in which modules are found; those imported from there are forgotten at the end."""
    monkeypatch.syspath_prepend(str(tmp_path))
    before = {*sys.modules}
    yield tmp_path
    for name in {*sys.modules} - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[name]


@pytest.mark.parametrize("path", ["rules", "rules:", ":change", "rules change", "rules.py:change", "a b:c", "a:b()"])
def test_what_is_no_path_is_told_with_the_settings(path: str) -> None:
    valid = path == "rules.py:change"  # as a module py in a package rules; that there is none shows later
    values = {"documentdb_uri": "mongodb://x", "transform": path}
    if valid:
        assert Settings(**values).transform == path
        return
    with pytest.raises(ValueError, match="expected package"):
        Settings(**values)


@pytest.mark.parametrize(
    ("source", "path", "told", "hint"),
    [
        ("", "nowhere_at_all.rules:change", "there is no module nowhere_at_all", "Searched: "),
        ("", "made_rules.more:change", "there is no module made_rules.more", "PYTHONPATH"),
        ("import not_installed", "made_rules:change", "imports not_installed, which is not installed", "install it"),
        ("x = 1", "made_rules:change", "made_rules.py has no change", "define"),
        ("change = 1", "made_rules:change", "is no function, but of type int", "docs/steps.md"),
        ("class change: pass", "made_rules:change", "is a class", "docs/steps.md"),
        ("async def change(event): pass", "made_rules:change", "is asynchronous", "docs/steps.md"),
        ("async def change(event): yield event", "made_rules:change", "is asynchronous", "docs/steps.md"),
        ("def change(): pass", "made_rules:change", "does not take one event", "docs/steps.md"),
        ("def change(event, more): pass", "made_rules:change", "does not take one event", "docs/steps.md"),
        ("\n1/0", "made_rules:change", "raised ZeroDivisionError at made_rules:2", "python -c 'import made_rules'"),
        ("def change(", "made_rules:change", "raised SyntaxError", "python -c"),
        ("import sys; sys.exit(3)", "made_rules:change", "raised SystemExit at made_rules:1", "python -c"),
    ],
)
def test_what_cannot_be_used_is_told_before_the_run(
    modules: Path, source: str, path: str, told: str, hint: str
) -> None:
    (modules / "made_rules.py").write_text(source, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        steps_for(Settings(documentdb_uri="mongodb://x", transform=path), ())
    assert f"TRANSFORM={path}" in str(caught.value)
    assert told in str(caught.value)
    assert hint in caught.value.hint


def test_a_module_that_blocks_while_it_is_imported_is_given_up(modules: Path) -> None:
    (modules / "made_slow.py").write_text("import threading\nthreading.Event().wait(1)", encoding="utf-8")
    with running(RunContext(Deadline.after(0.05))), pytest.raises(ConfigError, match="took longer than the run has"):
        function_at("made_slow:change")


def test_what_it_may_be(modules: Path) -> None:
    source = """
import functools
class Rules:
    def __call__(self, event): return event
    def method(self, event): return event
    @staticmethod
    def static(event): return event
rules = Rules()
partial = functools.partial(lambda more, event: event, 1)
def optional(event, more=None): return event
"""
    (modules / "made_rules.py").write_text(source, encoding="utf-8")
    for name in ("rules", "rules.method", "Rules.static", "partial", "optional"):
        [made] = steps_for(Settings(documentdb_uri="mongodb://x", transform=f"made_rules:{name}"), ())
        assert [*step.apply([made], EVENTS).events] == EVENTS, name
