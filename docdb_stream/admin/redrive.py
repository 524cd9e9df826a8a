"""Delivers dead letters again, to the targets that refused them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from docdb_stream.dead_letters import DeadLetters, event_of
from docdb_stream.errors import DocdbStreamError, TargetError
from docdb_stream.events import ChangeEvent
from docdb_stream.target import Rejection, Target

_SOURCE = "source"
"""In place of a target where the cluster could not send an event: the letter says which one it is, and no more."""


@dataclass(slots=True)
class RedriveResult:
    """What became of the letters.

    Attributes:
        delivered: Taken by their target this time, and removed.
        refused: Refused again; they stay.
        without_event: Without the event's content, or with one that the cluster could not send; they stay.
        other_target: For a target that is not switched on; they stay.
    """

    delivered: int = 0
    refused: int = 0
    without_event: int = 0
    other_target: int = 0

    @property
    def left(self) -> int:
        """Letters that stay, for whichever reason."""
        return self.refused + self.without_event + self.other_target


def redrive(dead_letters: DeadLetters, stream: str, targets: Sequence[Target]) -> RedriveResult:
    """Give each letter of the stream to the target that refused it, and remove it when that took it.

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
        if event is None or letter["target"] == _SOURCE:
            result.without_event += 1
        elif target is None:
            result.other_target += 1
        elif _refused(target, event):
            result.refused += 1
        else:
            dead_letters.remove(letter)
            result.delivered += 1
    return result


def _refused(target: Target, event: ChangeEvent) -> list[Rejection]:
    try:
        return [*target.write([event]), *target.flush()]
    except DocdbStreamError:
        raise
    except Exception as error:
        raise TargetError(target.name, f"{type(error).__name__}: {error}") from error
