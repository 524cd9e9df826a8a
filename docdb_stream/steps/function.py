"""The function of the user's own that events go through: found by its path, called in bounded time.

Owns that nothing it does harms the run: it is given an event of its own, and what it leaves behind when it is given up
delivers nothing. What becomes of what it returns or raises is ``step.each``'s.
"""

from __future__ import annotations

import importlib
import inspect
import os
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import wraps
from typing import Any

import bson

from docdb_stream.context import NoAnswerError, answer_in_time, current_deadline
from docdb_stream.errors import ConfigError, DocdbStreamError, StepError, StepOutOfTimeError
from docdb_stream.events import ChangeEvent, Rejection
from docdb_stream.formats.decoded import DECODE_OPTIONS, decode_all
from docdb_stream.settings import Settings
from docdb_stream.step import Step, UnusableError, each, is_several, where

NAME = "transform"
"""The step's name, in errors, dead letters and counts: that of its setting."""

MADE_OF_ONE = 10_000
"""Events that one may become. A generator without an end would fill the memory before its time is over."""

Function = Callable[[ChangeEvent], Any]


class FunctionStep:
    """The step that calls the function for each event, in a thread of its own, for at most so many seconds a batch.

    The function may change ``event.document`` in place: it is a copy, and returning the event then gives the changed
    one. What is in the thread that was given up never comes back: it ends with the call that it is in.

    Args:
        path: What the function is called in errors.
        function: It.
        at_most_s: Seconds for the events of one batch; the run's deadline and a stop end them sooner.
    """

    name = NAME

    def __init__(self, path: str, function: Function, at_most_s: float) -> None:
        self._path = path
        self._function = function
        self._each = each(_with_own_event(function), NAME)
        self._at_most_s = at_most_s

    def __call__(self, events: Sequence[ChangeEvent]) -> Iterable[ChangeEvent | Rejection]:
        """See Step.

        Raises:
            StepError: It took too long, or raised what no event is to blame for.
            StepOutOfTimeError: It was not done by the deadline, or soon after a stop.
        """
        made: list[ChangeEvent | Rejection] = []
        done = 0
        given_up = threading.Event()

        def work() -> None:
            nonlocal done
            for event in events:
                if given_up.is_set():
                    return
                made.extend(self._called(event))
                done += 1

        limit = current_deadline()
        began_s = limit.clock()
        try:
            answer_in_time(work, within_s=self._at_most_s)
        except NoAnswerError:
            given_up.set()
            took_s = limit.clock() - began_s
            told = f"{self._path} was at event {min(done + 1, len(events))} of {len(events)} after {took_s:.1f} s, "
            if took_s < self._at_most_s:
                why = "when the run had to end" if limit.stopping else "when the run's time was over"
                raise StepOutOfTimeError(NAME, told + why) from None
            raise StepError(NAME, f"{told}and TRANSFORM_SECONDS is {self._at_most_s:g}") from None
        return made

    def _called(self, event: ChangeEvent) -> Iterable[ChangeEvent | Rejection]:
        try:
            return [*self._each((event,))]
        except (DocdbStreamError, MemoryError):
            raise
        # What ends a program, as sys.exit does, ends none here: this thread is the function's alone.
        except BaseException as error:
            raise StepError(NAME, f"{self._path} raised {where(error, self._function)}") from error


def function_step(settings: Settings) -> Step:
    """The step of TRANSFORM, its function imported. Raises ConfigError."""
    assert settings.transform is not None
    return FunctionStep(settings.transform, function_at(settings.transform), settings.transform_seconds)


def function_at(path: str) -> Function:
    """The function that ``package.module:function`` names.

    Raises:
        ConfigError: It cannot be imported, or is no function of one event.
    """
    module_name, _, attribute = path.partition(":")
    found: Any = _module(path, module_name)
    file = getattr(found, "__file__", None) or module_name
    for name in attribute.split("."):
        try:
            found = getattr(found, name)
        except AttributeError:
            raise ConfigError(
                f"TRANSFORM={path}: {file} has no {attribute}", hint="correct the name, or define the function there"
            ) from None
    if problem := _unfit(found):
        raise ConfigError(
            f"TRANSFORM={path}: {attribute} in {file} {problem}",
            hint="name a function that takes a ChangeEvent and returns one, None or several: see docs/steps.md",
        )
    return found  # type: ignore[no-any-return]


def _module(path: str, name: str) -> Any:
    try:
        return answer_in_time(lambda: importlib.import_module(name))
    except NoAnswerError:
        raise ConfigError(
            f"TRANSFORM={path}: importing {name} took longer than the run has",
            hint="what takes long belongs into the function, not into its module",
        ) from None
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise ConfigError(
                f"TRANSFORM={path}: {name} imports {error.name}, which is not installed here",
                hint="install it beside docdb-stream; for a Lambda, have the package of your code depend on it",
            ) from error
        searched = ", ".join(each or os.getcwd() for each in sys.path)
        raise ConfigError(
            f"TRANSFORM={path}: there is no module {error.name}",
            hint="install its package beside docdb-stream, start docdb-stream in the folder that holds it, or set "
            f"PYTHONPATH; for a Lambda, name it in [deploy] packages. Searched: {searched}",
        ) from error
    # A module may raise anything while it is imported, SystemExit too. KeyboardInterrupt is not among it: the thread is
    # not the main one.
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        raise ConfigError(
            f"TRANSFORM={path}: importing {name} raised {where(error, _Named(name))}: {error}",
            hint=f"python -c 'import {name}' shows all of it",
        ) from error


class _Named:
    """Stands for something in a module that could not be imported."""

    def __init__(self, module: str) -> None:
        self.__module__ = module


def _unfit(found: Any) -> str:
    """What is wrong with it as a function of one event; empty where nothing is known to be."""
    if isinstance(found, type):
        return "is a class"
    if not callable(found):
        return f"is no function, but of type {type(found).__name__}"
    called = found if inspect.isroutine(found) else type(found).__call__
    if inspect.iscoroutinefunction(called) or inspect.isasyncgenfunction(called):
        return "is asynchronous, which is not supported"
    try:
        inspect.signature(found).bind(None)
    except TypeError:
        return "does not take one event and nothing else"
    except ValueError:  # of something compiled, which does not tell
        pass
    return ""


def _with_own_event(function: Function) -> Function:
    """The function, given a copy of the event that it may change, and giving what it made of it as events of others."""

    @wraps(function, updated=())
    def call(event: ChangeEvent) -> Any:
        own = _OwnEvent(event)
        found = function(own)
        if found is None:
            return None
        if isinstance(found, ChangeEvent | Rejection):
            return own.as_it_is_now(found)
        if is_several(found):
            return [*_each_as_it_is_now(own, found)]
        return found

    return call


def _each_as_it_is_now(own: _OwnEvent, found: Iterable[Any]) -> Iterator[Any]:
    """What is found, one after the other: a generator may give the event, change it, and give it again."""
    is_lazy = isinstance(found, Iterator)
    seen = False
    for number, one in enumerate(found):
        if number == MADE_OF_ONE:
            raise UnusableError(f"gave more than {MADE_OF_ONE:,} events")
        made = own.as_it_is_now(one)
        if seen and one is own and made is not own.original and not is_lazy:
            raise UnusableError("gave the event several times in one list, changed in place: all would be as the last")
        seen = seen or one is own
        yield made


class _OwnEvent(ChangeEvent):
    """An event with a document of its own, which may be changed.

    Attributes:
        original: The event that it is a copy of.
    """

    __slots__ = ("_problem", "original")

    def __init__(self, event: ChangeEvent) -> None:
        self.original = event
        self.raw, self.part, self.index = event.raw, event.part, event.index
        if event.raw is None:
            self.raw = bson.encode(event.document, codec_options=DECODE_OPTIONS)
        self._problem = ""

    @property
    def document(self) -> Mapping[str, Any]:
        """See ChangeEvent. Decoded for this one alone, when it is first asked for."""
        try:
            return self._document
        except AttributeError:
            [decoded] = decode_all([self.raw or b""])
            self._document, self._problem = decoded.documents[0], decoded.problem
            return self._document

    def as_it_is_now(self, found: Any) -> Any:
        """What the function gave, as what others can have: for this event the original where it was not changed, or
        else a new one of what its document is at this moment.

        Raises:
            UnusableError: There is no such event.
        """
        if isinstance(found, Rejection):
            # In no other's name: a target's letters are delivered to it again, past the steps.
            event = found.event.original if isinstance(found.event, _OwnEvent) else found.event
            return Rejection(event, NAME, str(found.reason))
        if isinstance(found, _OwnEvent) and found is not self:
            return found.original  # kept from another call: its token says so
        if not isinstance(found, ChangeEvent):
            return found
        if found is self:
            if (encoded := self._changed()) is None:
                return self.original
            found = ChangeEvent(encoded)
        if self._problem:
            raise UnusableError(f"made an event of one that cannot be decoded without altering it: {self._problem}")
        return found

    def _changed(self) -> bytes | None:
        """The BSON of the document, where it was changed; None where it was not."""
        try:
            document = self._document
        except AttributeError:
            return None
        try:
            encoded = bson.encode(document, codec_options=DECODE_OPTIONS)
        except Exception as error:
            raise UnusableError(f"gave an event that BSON cannot hold ({type(error).__name__})") from error
        if encoded == self.raw:
            return None
        [decoded] = decode_all([self.raw or b""])  # what decoding gives up is no change either
        try:
            unchanged = bson.encode(decoded.documents[0], codec_options=DECODE_OPTIONS)
        except Exception:  # noqa: BLE001 - then the one that could be encoded was changed
            return encoded
        return None if encoded == unchanged else encoded
