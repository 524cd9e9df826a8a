"""What order means, as a pure function: the histories of documents as a target has them, against the source's."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from operator import itemgetter
from typing import Any

MOST_EVIDENCE = 8


@dataclass
class Defects:
    """What is wrong with a target's sequence.

    Attributes:
        missing: Events of the source that are not there.
        duplicates: Events that are there again, beyond the first time.
        order: Steps in a document's history that skip an event, or end before its last.
        stale: Those of ``order`` behind which the history goes on as if a block out of turn had not been there: what
            a poller had under way when it was paused, arriving among what its successor sends.
        evidence: Some offending histories: the key, and the numbers of its events as they came. Order first.
    """

    missing: int = 0
    duplicates: int = 0
    order: int = 0
    stale: int = 0
    evidence: list[str] = field(default_factory=list)


def defects_of(
    source: Sequence[tuple[Hashable, Hashable]], delivered: Iterable[Hashable], *, ended: bool = True
) -> Defects:
    """Compare what was delivered with the source.

    Numbering the events of a key 1, 2, 3, ..., first occurrences come in that order, a replay may go back to any
    number, and from each number the history only goes on to the next: 1 2 1 2 3 is in order; 2 1, 1 3 2 and 1 2 3 1 3
    are not. In the end the newest event is the last one: 1 2 3 2 is not in order.

    Args:
        source: Key and event id of every event, in the source's order.
        delivered: Event ids in the order of the target.
        ended: The target has everything; what is missing and where histories end counts only then.
    """
    numbers: dict[Hashable, tuple[Hashable, int]] = {}
    lengths: defaultdict[Hashable, int] = defaultdict(int)
    for key, event_id in source:
        lengths[key] += 1
        numbers[event_id] = key, lengths[key]
    histories: defaultdict[Hashable, list[int]] = defaultdict(list)
    for event_id in delivered:
        key, number = numbers[event_id]
        histories[key].append(number)
    found = Defects()
    evidence: list[tuple[bool, str]] = []
    for key, length in lengths.items():
        history = histories[key]
        found.duplicates += len(history) - len(set(history))
        missing = length - len(set(history)) if ended else 0
        skips = _skips(history, length if ended else 0)
        found.missing += missing
        found.order += skips
        found.stale += _stale(history, length if ended else 0)
        if missing or skips:
            evidence.append((not skips, f"{key}: {_shown(history)} of {length}"))
    found.evidence = [text for _, text in sorted(evidence, key=itemgetter(0))[:MOST_EVIDENCE]]
    return found


def _skips(history: Sequence[int], last: int) -> int:
    skips = sum(after > before + 1 for before, after in pairwise([0, *history]))
    return skips + bool(last and history and history[-1] != max(history))


def _stale(history: Sequence[int], last: int) -> int:
    """Of the steps that ``_skips`` counts, those around a block that came out of turn.

    Around it the history goes on as if it had not been there: the 7 in 8 7 9, the 2 in 3 2 (end), the second 9 in
    8 9 7 9 8 9. A replay goes back, too, but then goes on from there. What came for the first time is never
    skipped over: 1 2 4 is not stale.
    """
    stale = 0
    before = 0  # the newest number that the history has come to without its stale blocks
    for at, number in enumerate(history):
        if at and number > history[at - 1] + 1 and number <= before + 1:
            stale += 1
        before = max(before, number) if number <= before + 1 else before
    return stale + bool(last and history and history[-1] != max(history))


def _shown(history: Sequence[Any]) -> str:
    """The surroundings of the first few skips."""
    skips = [at for at, (a, b) in enumerate(pairwise([0, *history])) if b > a + 1] or [len(history) - 1]
    return " ... ".join(" ".join(map(str, history[max(0, at - 8) : at + 5])) for at in skips[:4])
