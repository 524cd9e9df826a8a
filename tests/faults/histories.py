"""What order means, as a pure function: the histories of documents as a target has them, against the source's."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any


@dataclass
class Defects:
    """What is wrong with a target's sequence.

    Attributes:
        missing: Events of the source that are not there.
        duplicates: Events that are there again, beyond the first time.
        order: Steps in a document's history that skip an event, or end before its last.
        stale: Those of ``order`` that are no more, once a block that came again is taken out: what a poller had under
            way when it was paused, and what arrived when it went on.
        evidence: The first few offending histories: the key, and the numbers of its events as they came.
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
    for key, length in lengths.items():
        history = histories[key]
        found.duplicates += len(history) - len(set(history))
        missing = length - len(set(history)) if ended else 0
        skips = _skips(history, length if ended else 0)
        found.missing += missing
        found.order += skips
        if skips and _skips(_without_stale_block(history, length if ended else 0), length if ended else 0) == 0:
            found.stale += skips
        if (missing or skips) and len(found.evidence) < 3:
            found.evidence.append(f"{key}: {_shown(history)} of {length}")
    return found


def _skips(history: Sequence[int], last: int) -> int:
    skips = sum(after > before + 1 for before, after in pairwise([0, *history]))
    return skips + bool(last and history and history[-1] != max(history))


def _without_stale_block(history: list[int], last: int) -> list[int]:
    """The history without the one block, of events that had come before, whose removal leaves the fewest skips."""
    starts = [at for at, (before, after) in enumerate(pairwise([0, *history])) if after <= before]
    best = history
    for start in starts:
        for end in range(start + 1, min(len(history), start + 20) + 1):
            if not set(history[start:end]) <= set(history[:start]):
                break
            candidate = history[:start] + history[end:]
            if _skips(candidate, last) < _skips(best, last):
                best = candidate
    return best


def _shown(history: Sequence[Any]) -> str:
    skip = next((at for at, (a, b) in enumerate(pairwise([0, *history])) if b > a + 1), len(history) - 1)
    return " ".join(map(str, history[max(0, skip - 15) : skip + 15]))
