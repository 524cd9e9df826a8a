"""The contract between docdb-stream and a step: what changes events on their way from reading to delivery.

Owns how steps are applied. Knows none of them (``steps``), and nothing of targets and positions.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any, Protocol, TypeGuard, runtime_checkable

import bson

from docdb_stream.errors import ConfigError, DocdbStreamError, HistoryLostError, StepError, UnrenderableError
from docdb_stream.events import ChangeEvent, Events, Rejection
from docdb_stream.source import SOURCE
from docdb_stream.target import Target

logger = logging.getLogger(__name__)

Step = Callable[[Sequence[ChangeEvent]], Iterable[ChangeEvent | Rejection]]
"""Takes the events of a batch, in order, and gives what goes on to the next step, or to the targets.

A step may leave events out (they count as filtered), give another one in the place of one, or several. Of an event
that it can do nothing with it gives a Rejection in its own name, which goes to the dead letters; the event itself goes
on only if the step gives it, too. Called once per batch that holds events, in the run's thread. How many events come
together is up to the source and the targets, so nothing may depend on it. The same events can come again, after a
crash or an error, and should give the same then.

It must keep the order of the events of one document: targets rely on it, and nobody checks it. An event is never
changed in place. One that is made anew needs a token of its own, the same each time: where several are made of one,
the token's text with ``#1``, ``#2``, ... after it. It has to bound its own waits by ``current_deadline()``: a run that
waits for a step cannot end.

What a step raises ends the run, and the checkpoint stays before the batch: which event is at fault is not known, and
nothing of what the step gave until then was delivered. A DocdbStreamError is raised as it is (but for HistoryLostError,
which the source alone can tell of), anything else as StepError. A function of a single event becomes a step by
``each``, which does know: what the function raises is a rejection.

Its name, in errors and dead letters, is its ``name``, else its ``__name__``, else that of its class.
"""


@runtime_checkable
class Redacting(Protocol):
    """A step that takes values out of events which must be in no byte that leaves the process."""

    def redact(self, event: ChangeEvent) -> ChangeEvent:
        """The event without them, also one that was rejected before it came to this step, or that cannot be decoded
        whole: as little is left of that as is needed. Never raises."""
        ...


@runtime_checkable
class Selecting(Protocol):
    """A step that leaves events out and does nothing else. What it gives is not looked at one by one, so that a batch
    of which everything passes costs next to nothing."""

    def passing(self, events: Events) -> Events:
        """Those that pass, in order, with what is known of them (``Events.only``); ``events`` itself where all do. The
        step called as such gives the same."""
        ...


Change = ChangeEvent | Rejection | None
"""What becomes of one event; None: nothing."""


def name_of(step: Step) -> str:
    """The step's name, in errors and dead letters."""
    return str(getattr(step, "name", None) or getattr(step, "__name__", None) or type(step).__name__)


def told_apart(steps: Sequence[Step], targets: Iterable[Target]) -> Sequence[Step]:
    """The steps of one stream, once it is sure that none has the name of a target, or of the source: dead letters that
    a step made would be delivered by redriving, past the steps.

    Raises:
        ConfigError: One has.
    """
    taken = {SOURCE, *(target.name for target in targets)}
    if twice := sorted(taken.intersection(map(name_of, steps))):
        raise ConfigError(
            f"a step and a target have the name {', '.join(twice)}", hint="give the step a name of its own"
        )
    return tuple(steps)


def each(function: Callable[[ChangeEvent], Change | Iterable[ChangeEvent | Rejection]], name: str = "") -> Step:
    """The step that calls ``function`` for each event.

    What it raises is a rejection of that event, which then gives nothing else; the reason names the error's type and
    where in the function's package it was raised, and not its text, which can hold what is in the document (at DEBUG
    the log has it). The text of an UnrenderableError holds none of that, and is the reason. A DocdbStreamError says
    that the function cannot work now, and ends the run; so does a MemoryError, which says nothing of the event.

    An event that tells of another change than the one it was made of (its token is neither that event's nor one with
    ``#`` and more after it), or that is none that can be told apart, is a rejection, too. What is neither an event nor
    a rejection ends the run: a function that gives nothing else would put the whole stream into the dead letters.

    Args:
        function: Returns the event, another one, a Rejection, several of these, or None to leave it out.
        name: The step's name. Default: the function's.
    """
    return _Each(function, name or getattr(function, "__name__", type(function).__name__))


class _Each:
    """See ``each``."""

    def __init__(
        self, function: Callable[[ChangeEvent], Change | Iterable[ChangeEvent | Rejection]], name: str
    ) -> None:
        self.name = name
        self._function = function

    def __call__(self, events: Sequence[ChangeEvent]) -> Iterable[ChangeEvent | Rejection]:
        for event in events:
            yield from self._changed(event)

    def _changed(self, event: ChangeEvent) -> Iterable[ChangeEvent | Rejection]:
        try:
            found = self._function(event)
            if found is None or found is event:
                return () if found is None else (event,)
            made: list[Any] = [*found] if is_several(found) else [found]
            for one in made:
                if not isinstance(one, ChangeEvent | Rejection):
                    raise StepError(self.name, f"gave {_a(one)}, which is neither an event nor a rejection")
            return [_about(event, _with_bson(one)) for one in _told_apart(event, made)]
        except (DocdbStreamError, MemoryError):
            raise
        except UnrenderableError as error:  # whose text names keys and never a value
            return (Rejection(event, self.name, str(error)),)
        except Exception as error:
            logger.debug("step %s: %s", self.name, event.event_id, exc_info=True)
            return (Rejection(event, self.name, f"raised {where(error, self._function)}"),)


def is_several(found: object) -> TypeGuard[Iterable[Any]]:
    """Whether a function gave several values, rather than one that can be gone through."""
    return isinstance(found, Iterable) and not isinstance(found, str | bytes | Mapping)


class UnusableError(UnrenderableError):
    """What a function of ``each`` made cannot be delivered."""


@dataclass(frozen=True, slots=True)
class Stepped:
    """What steps made of a batch.

    Attributes:
        events: To be delivered, in order.
        rejected: In the steps' names; for the dead letters.
        filtered: Of how many events each step left nothing, by its name; without those that left out none.
    """

    events: Sequence[ChangeEvent]
    rejected: Sequence[Rejection] = ()
    filtered: Mapping[str, int] = field(default_factory=dict)

    @property
    def size_bytes(self) -> int:
        """The size of the events to be delivered, as BSON."""
        return sum(event.size_bytes for event in self.events)


def apply(steps: Sequence[Step], events: Sequence[ChangeEvent]) -> Stepped:
    """Send events through the steps, one after the other. A step is not called without events.

    Raises:
        StepError: A step raised something, or gave what is no event.
        DocdbStreamError: What a step raised on purpose.
    """
    left, rejected, filtered = events, list[Rejection](), dict[str, int]()
    for step in steps:
        rejected = redacted((step,), rejected)
        if not left:
            continue
        if isinstance(selecting := _any(step), Selecting):
            passed = selecting.passing(left if isinstance(left, Events) else Events(left))
            if missing := len(left) - len(passed):
                filtered[name_of(step)] = filtered.get(name_of(step), 0) + missing
            left = passed
            continue
        given = _given(step, left)
        after = [one for one in given if isinstance(one, ChangeEvent)]
        refused = [one for one in given if isinstance(one, Rejection)]
        if missing := _filtered(left, after, refused):
            filtered[name_of(step)] = filtered.get(name_of(step), 0) + missing
        left, rejected = after, [*rejected, *refused]
    return Stepped(left, rejected, filtered)


def redacted(steps: Sequence[Step], rejections: Iterable[Rejection]) -> list[Rejection]:
    """Rejections of events that have not come to the steps, as those steps that redact would have the events: see
    ``Redacting``. They leave the process, too, as dead letters."""
    found = [*rejections]
    for each_step in steps if found else ():
        if isinstance(step := _any(each_step), Redacting):
            found = [replace(one, event=step.redact(one.event)) for one in found]
    return found


def _any(step: Step) -> object:
    """The step: type checkers see no other method in a Callable."""
    return step


def _given(step: Step, events: Sequence[ChangeEvent]) -> list[ChangeEvent | Rejection]:
    known = {id(event) for event in events}
    try:
        given = list(step(events))
        made = [one for one in given if id(one) not in known]
        if not made:
            return given
        if strange := [_a(one) for one in made if not isinstance(one, ChangeEvent | Rejection)]:
            raise StepError(name_of(step), f"gave {strange[0]}, which is neither an event nor a rejection")
        return [one if id(one) in known else _checked(_with_bson(one)) for one in given]
    except KeyboardInterrupt:
        raise
    # A step may raise anything, also what means the end of a thread or task elsewhere (SystemExit, CancelledError).
    except BaseException as error:
        if isinstance(error, DocdbStreamError) and not isinstance(error, HistoryLostError):
            raise
        # Lost history moves the position, so the source alone can tell of it.
        raise StepError(name_of(step), f"raised {where(error, step)}") from error


def _told_apart(event: ChangeEvent, made: Sequence[ChangeEvent | Rejection]) -> Sequence[ChangeEvent | Rejection]:
    """What was made of one event, each with a token of its own: that of the event goes to the first that has it, the
    others' texts end with ``#1``, ``#2``, ... The same is made again after a crash, and gets the same."""
    events = [one for one in made if isinstance(one, ChangeEvent)]
    if len(events) < 2:
        return made
    numbers = count(1)
    taken = set[str]()
    found: list[ChangeEvent | Rejection] = []
    for one in made:
        while isinstance(one, ChangeEvent) and one.event_id in taken:
            one = one.replace(_id={"_data": f"{event.event_id}#{next(numbers)}"})
        if isinstance(one, ChangeEvent):
            taken.add(one.event_id)
        found.append(one)
    return found


def _with_bson(found: ChangeEvent | Rejection) -> ChangeEvent | Rejection:
    """An event that was made of a document, rejected or not, as the BSON that it is from here on, as a server's event:
    its size is known, and a dead letter can hold it whatever is in it. Raises what ``bson`` does where it is none."""
    if isinstance(found, ChangeEvent) and found.raw is None:
        return ChangeEvent(bson.encode(found.document))
    if isinstance(found, Rejection) and found.event.raw is None:
        return replace(found, event=ChangeEvent(bson.encode(found.event.document)))
    return found


def _checked(found: ChangeEvent | Rejection) -> ChangeEvent | Rejection:
    """``found``, once it is sure that it can be told what it is. Raises KeyError, TypeError or AttributeError."""
    event = found if isinstance(found, ChangeEvent) else found.event
    event.event_id, event.operation, event.namespace  # noqa: B018
    return found


def _about(event: ChangeEvent, found: ChangeEvent | Rejection) -> ChangeEvent | Rejection:
    """What was made of an event, once it is sure that it can be told what it is, and that it is about that event: by
    its token it is found again after a crash, and known to consumers."""
    if isinstance(found, ChangeEvent) and found is not event:
        try:
            _checked(found)
        except Exception as error:
            raise UnusableError(
                f"gave an event without token, operation or namespace ({type(error).__name__})"
            ) from error
        if found.event_id.partition("#")[0] != origin_of(event):
            raise UnusableError("gave an event with the token of another one")
    return found


def _a(value: object) -> str:
    name = type(value).__name__
    return f"{'an' if name[:1].lower() in 'aeiou' else 'a'} {name}"


def where(error: BaseException, function: object) -> str:
    """The error's type, and the last line of the function's own package that it came through; where it came through
    none, the line that raised it."""
    package = str(getattr(function, "__module__", "")).partition(".")[0]
    last = own = None
    trace = error.__traceback__
    while trace is not None:
        name = str(trace.tb_frame.f_globals.get("__name__", "?"))
        last = f"{name}:{trace.tb_lineno}"
        if name.partition(".")[0] == package:
            own = last
        trace = trace.tb_next
    found = own or last
    return type(error).__name__ + (f" at {found}" if found else "")


def _filtered(events: Sequence[ChangeEvent], left: Sequence[ChangeEvent], rejected: Sequence[Rejection]) -> int:
    """Of how many of the source's events nothing is left. Only where something is missing it matters what is."""
    same = {id(event) for event in left}
    missing = [event for event in events if id(event) not in same]
    if not missing:
        return 0
    found = {origin_of(event) for event in left} | {origin_of(rejection.event) for rejection in rejected}
    return len({origin_of(event) for event in missing} - found)


def origin_of(event: ChangeEvent) -> str:
    """The id of the source's event that an event is, or was made of; of one that is no change event, its own."""
    try:
        return event.event_id.partition("#")[0]
    except UnrenderableError:
        return f"#{id(event)}"
