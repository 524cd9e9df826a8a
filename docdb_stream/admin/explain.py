"""Explains what a stream makes of events: which of its steps does what, and what each target would get.

Owns what is told. Asks no cluster and no service, and delivers nothing.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, Literal, cast

import bson
from bson.errors import BSONError

from docdb_stream import step
from docdb_stream.dead_letters import event_of, letter_from
from docdb_stream.derived_update import is_derived
from docdb_stream.errors import ConfigError, DocdbStreamError, UnrenderableError
from docdb_stream.events import ChangeEvent
from docdb_stream.format import Format
from docdb_stream.formats import KAFKAS_OWN, format_named
from docdb_stream.formats.avro import AVRO
from docdb_stream.formats.decoded import DECODE_OPTIONS
from docdb_stream.formats.extended import EXTENDED
from docdb_stream.formats.facts import FACTS
from docdb_stream.formats.reader import to_bson
from docdb_stream.registry import target_class
from docdb_stream.settings import Settings
from docdb_stream.step import Step
from docdb_stream.steps import steps_for
from docdb_stream.target import Target, is_keyed, takes_derived
from docdb_stream.targets import target_names

Outcome = Literal["passed", "changed", "became a delete", "became several", "left out", "rejected", "ends the run"]


@dataclass(frozen=True, slots=True)
class Judgement:
    """What one step did with one event.

    Attributes:
        step: The step's name.
        event_id: The event that it was given.
        outcome: What became of it.
        paths: Where the event changed, as dotted paths; no values.
        reason: Why it was rejected, or ends the run.
        count: How many events it became.
    """

    step: str
    event_id: str
    outcome: Outcome
    paths: tuple[str, ...] = ()
    reason: str = ""
    count: int = 1


@dataclass(frozen=True, slots=True)
class Payload:
    """What targets would be given of one event.

    Attributes:
        targets: Those that get the same.
        format: In which format; empty where it is not known without making the target.
        content: The bytes; None where ``problem`` says why there are none.
        problem: Why the format cannot say the event: it would be rejected.
    """

    targets: tuple[str, ...]
    format: str
    content: bytes | None = None
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Explanation:
    """What a stream makes of one event.

    Attributes:
        event: It.
        judgements: What each step did, in order; where one made several events, of each.
        delivered: What would be delivered, each with what the targets would get.
    """

    event: ChangeEvent
    judgements: Sequence[Judgement]
    delivered: Sequence[tuple[ChangeEvent, Sequence[Payload]]]

    def as_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON. Payloads are text; what is none, is in hexadecimal."""
        return {
            **_named(self.event),
            "steps": [
                {
                    "step": each.step,
                    "event_id": each.event_id,
                    "outcome": each.outcome,
                    **({"paths": list(each.paths)} if each.paths else {}),
                    **({"reason": each.reason} if each.reason else {}),
                }
                for each in self.judgements
            ],
            "delivered": [
                {**_named(event), "payloads": [_payload_values(each) for each in payloads]}
                for event, payloads in self.delivered
            ],
        }


def steps_of(settings: Settings) -> Sequence[Step]:
    """The steps of a stream, without making its targets, or having any. Raises ConfigError."""
    targets = [SimpleNamespace(name=name, keyed=is_keyed(target_class(name))) for name in target_names(settings)]
    return steps_for(settings, cast("list[Target]", targets))


def explained(settings: Settings, events: Sequence[ChangeEvent]) -> Iterator[Explanation]:
    """What the stream makes of each event, one after the other, as it is asked for.

    What the server would leave out is judged here, too (FILTER_AT).

    Raises:
        ConfigError: A step cannot be made of the settings.
    """
    steps = steps_of(settings.model_copy(update={"filter_at": "client"}))
    formats = {name: _format_of(settings, name) for name in target_names(settings)}
    takers = tuple(name for name in formats if takes_derived(target_class(name)))
    for event in events:
        judgements: list[Judgement] = []
        left: list[ChangeEvent] = [event]
        for each in steps:
            judged = [_judged(each, one) for one in left]
            judgements += [judgement for judgement, _ in judged]
            left = [one for _, made in judged for one in made]
        yield Explanation(event, judgements, [(one, _payloads(one, formats, takers)) for one in left])


def _judged(each: Step, event: ChangeEvent) -> tuple[Judgement, Sequence[ChangeEvent]]:
    name = step.name_of(each)
    try:
        made = step.apply([each], [event])
    except DocdbStreamError as error:
        return Judgement(name, event.event_id, "ends the run", reason=str(error), count=0), ()
    reason = "; ".join(rejection.reason for rejection in made.rejected)
    count = len(made.events)
    if not made.events:
        outcome: Outcome = "rejected" if reason else "left out"
        return Judgement(name, event.event_id, outcome, reason=reason, count=0), ()
    first = made.events[0]
    paths = tuple(changed_paths(event.document, first.document)) if count == 1 and first is not event else ()
    if count > 1:
        outcome = "became several"
    elif first.operation == "delete" != event.operation:
        outcome, paths = "became a delete", ()
    else:
        outcome = "changed" if paths else "passed"
    return Judgement(name, event.event_id, outcome, paths, reason, count), made.events


def changed_paths(before: Any, after: Any, path: str = "") -> Iterator[str]:
    """Where two documents differ, as dotted paths: the outermost that is only in one of them, else the innermost."""
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        for name in dict.fromkeys([*before, *after]):
            own = f"{path}.{name}" if path else str(name)
            if name in before and name in after:
                yield from changed_paths(before[name], after[name], own)
            else:
                yield own
    elif isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        for index, (one, other) in enumerate(zip(before, after, strict=True)):
            yield from changed_paths(one, other, f"{path}.{index}")
    elif _bytes(before) != _bytes(after):
        yield path


def _bytes(value: Any) -> bytes:
    """By these values are told apart as MongoDB does: 1, 1.0 and true are three of them, and NaN is itself."""
    try:
        return bson.encode({"": value}, codec_options=DECODE_OPTIONS)
    except (BSONError, ValueError, OverflowError, RecursionError):
        return repr(value).encode(errors="backslashreplace")


def _format_of(settings: Settings, name: str) -> Format | None:
    """In which format a target gets events, as far as that is known without making it."""
    own, setting = settings.targets.get(name), f"{name}_payload_format"
    if own is not None and setting in type(own).model_fields:
        chosen = getattr(own, setting) or settings.payload_format
        return AVRO if chosen == KAFKAS_OWN else format_named(chosen, settings.stream_name)
    announced = getattr(target_class(name), "formats", ())
    if not isinstance(announced, tuple | list):
        return None
    return next((each for each in announced if each is not FACTS), None)


def _payloads(event: ChangeEvent, formats: Mapping[str, Format | None], takers: tuple[str, ...]) -> list[Payload]:
    """What targets would be given of an event; of a derived update those that take them, which others never see."""
    if not is_derived(event):
        return [*_rendered(event, formats)]
    if takers:
        return [*_rendered(event, dict.fromkeys(takers, EXTENDED))]
    return [Payload((), "", problem="no target takes derived updates, so the run ends here: set MONGODB_TARGET_URI")]


def _rendered(event: ChangeEvent, formats: Mapping[str, Format | None]) -> Iterator[Payload]:
    for payload_format in dict.fromkeys(formats.values()):
        targets = tuple(name for name, other in formats.items() if other is payload_format)
        if payload_format is None:
            yield Payload(targets, "")
            continue
        try:
            yield Payload(targets, payload_format.name, event.render(payload_format))
        except UnrenderableError as error:
            yield Payload(targets, payload_format.name, problem=str(error))


def _named(event: ChangeEvent) -> dict[str, Any]:
    return {"event_id": event.event_id, "operation": event.operation, "namespace": str(event.namespace)}


def _payload_values(payload: Payload) -> dict[str, Any]:
    found: dict[str, Any] = {"targets": list(payload.targets), "format": payload.format}
    if payload.content is not None:
        try:
            return {**found, "payload": payload.content.decode()}
        except UnicodeDecodeError:
            return {**found, "payload_hex": payload.content.hex()}
    return {**found, "problem": payload.problem} if payload.problem else found


def events_in(text: str, name: str) -> list[ChangeEvent]:
    """The change events that a text holds, as Extended JSON: one, one a line, several after each other, an array of
    them, or what Lambda's event source mapping sends; and dead letters in the place of their events.

    Args:
        text: It.
        name: What it is called in errors.

    Raises:
        ConfigError: It holds none, or something else.
    """
    values = [*_values(text, name)]
    if not values:
        raise ConfigError(f"{name} holds no event", hint=_HINT)
    return [_event(value, f"{name}, event {number}") for number, value in enumerate(values, 1)]


_HINT = "expected change events as Extended JSON: docdb-stream tail --json and dead-letters list --json print such"


def _values(text: str, name: str) -> Iterator[Any]:
    decoder = json.JSONDecoder()
    text = text.removeprefix("\ufeff")
    start = 0
    while rest := text[start:].lstrip():
        start = len(text) - len(rest)
        try:
            value, start = decoder.raw_decode(text, start)
        except (ValueError, RecursionError) as error:
            line = text.count("\n", 0, getattr(error, "pos", start)) + 1
            raise ConfigError(f"{name}: line {line} is no JSON", hint=_HINT) from None
        if isinstance(value, dict) and isinstance(value.get("events"), list):
            value = [each.get("event", each) if isinstance(each, dict) else each for each in value["events"]]
        if isinstance(value, dict) and {*value} == {"removed", "removed_at"}:
            continue  # of a file of dead letters: one that was delivered after all
        yield from value if isinstance(value, list) else [value]


def _event(value: Any, name: str) -> ChangeEvent:
    if (found := letter_from(value)) is not None:
        if (event := event_of(found)) is None:
            raise ConfigError(f"{name} is a dead letter that does not hold its event", hint=_HINT)
        return event
    wanted = {"_id": dict, "operationType": str}
    lacking = [field for field in wanted if not isinstance(value, dict) or field not in value]
    if lacking:
        raise ConfigError(f"{name} is no change event: it has no {' and no '.join(lacking)}", hint=_HINT)
    if strange := [field for field, kind in wanted.items() if not isinstance(value[field], kind)]:
        raise ConfigError(f"{name} is no change event: its {' and '.join(strange)} is something else", hint=_HINT)
    try:
        event = ChangeEvent(to_bson(value))
        event.event_id, event.operation, event.namespace  # noqa: B018 - raises where it is no change event
    except (ValueError, TypeError, KeyError, AttributeError, ArithmeticError, RecursionError, BSONError) as error:
        raise ConfigError(f"{name} is no change event: {type(error).__name__}", hint=_HINT) from error
    return event
