"""The contract between docdb-stream and what events go to.

Owns the protocol. Does not run targets (``delivery``) and knows none of them (``targets``).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, Protocol, runtime_checkable

from docdb_stream.errors import ConfigError
from docdb_stream.events import ChangeEvent, Rejection
from docdb_stream.formats.part import Reading

__all__ = [
    "Buffering",
    "Checkable",
    "Paced",
    "Rejection",
    "Target",
    "announced",
    "distinct",
    "is_keyed",
    "takes_derived",
]


@runtime_checkable
class Target(Protocol):
    """Where events go.

    One thread at a time calls a target. Constructing one does no network traffic. A target preserves the order of the
    events of one document key, splits to its service's limits, retries what is worth retrying (see ``retry``), and
    knows nothing of checkpoints. The same event can come again, after a crash or an error, with the same ``event_id``.
    """

    @property
    def name(self) -> str:
        """A short name, unique among a stream's targets; it appears in results, logs and dead letters."""
        ...

    def write(self, events: Sequence[ChangeEvent]) -> Sequence[Rejection]:
        """Take events, in order; called once per loop, or more often (see ``Paced``), possibly with none. May buffer.

        Returns the rejections known so far. Returning does not mean that the events are durable.

        Raises:
            TargetError: The target does not work now. The run ends, its checkpoint stays before these events, and
                they are written again by the next run. Any other exception is treated likewise.
        """
        ...

    def flush(self) -> Sequence[Rejection]:
        """Make everything written so far durable; called before each checkpoint.

        Returns the rejections that ``write`` did not return. After it returned, the position is saved past every
        event written before the call.

        Raises:
            TargetError: Something written since the last flush is not durable.
        """
        ...

    def close(self) -> None:
        """Let go of connections, threads and everything that is not flushed. Safe to call twice; called also after an
        error. A later ``write`` starts anew: so goes a poller that is kept on after a run that failed."""
        ...


@runtime_checkable
class Checkable(Protocol):
    """A target, or a step, that can tell in advance whether it would work."""

    def check(self) -> None:
        """Reach the service and see that it would take events, without writing any.

        Raises:
            TargetError, ConfigError: It would not; the hint says why.
            Caution: It would, with less than what was asked for.
        """
        ...


@runtime_checkable
class Buffering(Protocol):
    """A target that holds events until ``flush`` and wants to say when it holds enough.

    The poller then makes a checkpoint early, so that memory stays bounded and every flush is one checkpoint.
    """

    @property
    def wants_flush(self) -> bool:
        """True when the target holds as much as it wants to hold; read after each loop, from another thread."""
        ...


@runtime_checkable
class Paced(Protocol):
    """A target that finds out how much its service takes at a time.

    The poller hands over no more than that, waits until it is written, and can make a checkpoint in the middle of what
    it read: so a service that takes minutes for one batch gets ahead in runs of less.
    """

    @property
    def takes_bytes(self) -> int | None:
        """BSON bytes of events to hand over at a time, at most, but one event at least; None: as they come. Read before
        each hand-over, from another thread."""
        ...


@runtime_checkable
class Rendering(Protocol):
    """A target that says what it will ask of its events.

    Events are decoded once for what all targets announce. What is asked for without having been announced takes a
    decoding of its own, and is right all the same.
    """

    @property
    def formats(self) -> Sequence[Reading[Any]]:
        """The formats in which the target asks for events, and ``FACTS`` where it asks for more than these: ids, keys,
        operations, namespaces, times. Read once, when delivery begins."""
        ...


def announced(targets: Iterable[Target]) -> list[Reading[Any]]:
    """All that the targets will ask of their events, each once."""
    formats = (each for target in targets if isinstance(target, Rendering) for each in target.formats)
    return list(dict.fromkeys(formats))


def is_keyed(target: Target) -> bool:
    """Whether the target keeps documents by their key, so that a delete takes one away, rather than a log of events.

    Its class says so with ``keyed = True``. What ON_EXIT is, where it is not set, depends on it.
    """
    return bool(getattr(target, "keyed", False))


def takes_derived(target: Target) -> bool:
    """Whether the target takes derived updates (see ``derived_update``), which no other sees.

    Its class says so with ``takes_derived = True``.
    """
    return bool(getattr(target, "takes_derived", False))


def distinct(targets: Iterable[Target]) -> list[Target]:
    """The targets of one stream, once it is sure that there are some and that each has a name of its own.

    Raises:
        ConfigError: Without a target events would be passed and delivered nowhere. Of two with one name, figures and
            dead letters would not say which is meant.
    """
    found = list(targets)
    if not found:
        raise ConfigError("there is no target: events would be passed and delivered nowhere", hint="give at least one")
    twice = [name for name, count in Counter(target.name for target in found).items() if count > 1]
    if twice:
        raise ConfigError(
            f"several targets have the name {', '.join(twice)}",
            hint="give each a name of its own: dead letters are delivered again by it",
        )
    return found
