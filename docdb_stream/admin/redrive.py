"""The dead letters of a stream: looked at, and delivered again to the targets that refused them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from docdb_stream.dead_letters import DeadLetters, Letter, event_of
from docdb_stream.errors import DocdbStreamError, TargetError
from docdb_stream.events import ChangeEvent
from docdb_stream.letters import dead_letters_for
from docdb_stream.mongodb.connection import Connection
from docdb_stream.settings import Settings
from docdb_stream.source import SOURCE
from docdb_stream.target import Rejection, Target
from docdb_stream.targets import build_targets


@dataclass(slots=True)
class RedriveResult:
    """What became of the letters.

    Attributes:
        delivered: Taken by their target this time, and removed.
        refused: Refused again; they stay.
        without_event: Without the event's content, or with one that the cluster could not send; they stay.
        other_target: For a target that is not switched on, or of a step; they stay.
    """

    delivered: int = 0
    refused: int = 0
    without_event: int = 0
    other_target: int = 0

    @property
    def left(self) -> int:
        """Letters that stay, for whichever reason."""
        return self.refused + self.without_event + self.other_target


def dead_letters(settings: Settings) -> Iterator[Letter]:
    """The stream's dead letters in no particular order, as plain values ready for JSON (``dead_letters.Letter``).

    Raises:
        ConfigError, SourceUnavailableError, StateStoreError: As for a run.
    """
    with Connection(settings) as connection:
        yield from dead_letters_for(settings, connection).letters(settings.stream_name)


def redrive(settings: Settings, targets: Sequence[Target] | None = None) -> RedriveResult:
    """Give each dead letter of the stream to the target that refused it, and remove it when that took it.

    Args:
        settings: The stream.
        targets: Instead of those that the settings switch on, which are closed at the end; these are their owner's.

    Raises:
        TargetError: A target does not work; the letters that were not delivered stay.
        ConfigError, SourceUnavailableError, StateStoreError: As for a run.
    """
    # The stream may be running: a transaction here would end its own. And letters are delivered one by one.
    alone = settings.model_copy(update={"kafka_transactions": "off"})
    own = build_targets(alone) if targets is None else []
    try:
        with Connection(settings) as connection:
            letters = dead_letters_for(settings, connection)
            return deliver_again(letters, settings.stream_name, own if targets is None else targets)
    finally:
        for target in own:
            target.close()


def deliver_again(dead_letters: DeadLetters, stream: str, targets: Sequence[Target]) -> RedriveResult:
    """Give each dead letter of a stream to the target that refused it: ``redrive`` with what is made already.

    A letter's event is older than what its target has seen since: where the order matters, the consumer has to look at
    the cluster time. OpenSearch does so by itself.

    Raises:
        TargetError: A target does not work; the letters that were not delivered stay.
        StateStoreError: The dead letters cannot be read.
    """
    by_name = {target.name: target for target in targets}
    result = RedriveResult()
    # A queue may hold one twice.
    for letter in {each["id"]: each for each in dead_letters.letters(stream)}.values():
        target, event = by_name.get(letter["target"]), event_of(letter)
        if event is None or letter["target"] == SOURCE:
            result.without_event += 1
        elif target is None:
            result.other_target += 1
        elif deliver(target, [event]):
            result.refused += 1
        else:
            dead_letters.remove(letter)
            result.delivered += 1
    return result


def deliver(target: Target, events: Sequence[ChangeEvent]) -> list[Rejection]:
    """Give a target events beside its stream; they are durable on return, but for those that it refuses.

    Raises:
        TargetError: It does not work.
    """
    try:
        return [*target.write(events), *target.flush()]
    except DocdbStreamError:
        raise
    except Exception as error:
        raise TargetError(target.name, f"{type(error).__name__}: {error}") from error
