"""The check: what a target holds against what really happened.

Pure functions over parsed JSON. They know neither docdb-stream nor any service, and use no code of either.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, NamedTuple

Json = dict[str, Any]

_EXAMPLES = 3


class Delivery(NamedTuple):
    """One event as a target's destination has it; a destination gives them in its own order.

    Attributes:
        lane: What the destination keeps order within: a shard, a partition, a message group; "" where it is all one.
        payload: The bytes found.
    """

    lane: str
    payload: bytes


@dataclass
class Verdict:
    """How what a target has delivered compares to the source, in events, or in documents where it keeps those.

    Attributes:
        target: The target's name.
        expected: How many the source has.
        delivered: How many the destination has, duplicates included.
        missing: In the source, not in the destination.
        duplicates: Found again, beyond the first time.
        order_violations: Places in a document's history where an event was skipped over, or where the newest is not
            the last, or whose events are in several lanes.
        different: Unlike the source, or unknown to it.
        duplicates_allowed: The target promises at least once, not effectively once.
        examples: The first few defects, in words.
    """

    target: str
    expected: int
    delivered: int
    missing: int = 0
    duplicates: int = 0
    order_violations: int = 0
    different: int = 0
    duplicates_allowed: bool = False
    examples: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Nothing is missing, out of order or different, nor there twice where it must not be."""
        forbidden_duplicates = 0 if self.duplicates_allowed else self.duplicates
        return not (self.missing or self.order_violations or self.different or forbidden_duplicates)

    def note(self, defect: str) -> None:
        """Keep ``defect`` as an example, if there are few so far."""
        if len(self.examples) < _EXAMPLES:
            self.examples.append(defect)


def verify_events(
    target: str, source: Sequence[Json], deliveries: Sequence[Delivery], *, duplicates_allowed: bool
) -> Verdict:
    """Compare every event.

    Args:
        target: The target's name.
        source: The change events in the server's order, as relaxed Extended JSON.
        deliveries: What was found.
        duplicates_allowed: Whether finding an event twice is within the target's promise.
    """
    verdict = Verdict(target, len(source), len(deliveries), duplicates_allowed=duplicates_allowed)
    originals = {event["_id"]["_data"]: event for event in source}
    found_ids: list[tuple[str, str]] = []  # lane, event id
    seen: set[str] = set()
    for lane, payload in deliveries:
        event_id, found = _parsed(payload)
        original = originals.get(event_id)
        if original is None:
            verdict.different += 1
            verdict.note(f"an event that the source does not have: {payload[:120]!r}")
            continue
        if difference := _difference(original, found):
            verdict.different += 1
            verdict.note(f"event {event_id}: {difference}")
        verdict.duplicates += event_id in seen
        seen.add(event_id)
        found_ids.append((lane, event_id))
    for event_id in originals.keys() - seen:
        verdict.missing += 1
        verdict.note(f"missing: {originals[event_id]['operationType']} {_key(originals[event_id])}")
    _verify_order(verdict, originals, found_ids)
    return verdict


def verify_documents(target: str, source: Mapping[str, Json], found: Iterable[tuple[str, Json]]) -> Verdict:
    """Compare final documents, for a target that keeps those.

    Args:
        target: The target's name.
        source: Document's address -> the document as plain JSON, for every document there is in the end.
        found: The same of the target.
    """
    held = list(found)
    verdict = Verdict(target, len(source), len(held))
    seen: set[str] = set()
    for address, document in held:
        verdict.duplicates += address in seen
        seen.add(address)
        if address not in source:
            verdict.different += 1
            verdict.note(f"{address} was deleted from the source, or never was there")
        elif _text(document) != _text(source[address]):
            verdict.different += 1
            verdict.note(f"{address}: {_text(document)[:200]} instead of {_text(source[address])[:200]}")
    for address in source.keys() - seen:
        verdict.missing += 1
        verdict.note(f"missing: {address}")
    return verdict


def _parsed(payload: bytes) -> tuple[str, Json]:
    try:
        event = json.loads(payload)
        return str(event["_id"]["_data"]), event
    except (ValueError, KeyError, TypeError):
        return "", {}


def _key(event: Json) -> str:
    """Names the document that an event is about."""
    return _text([event.get("ns"), event.get("documentKey")])


def _text(value: Any) -> str:
    # As text, 1 and 1.0 differ, and so do two orders of the same keys: both mean something in BSON.
    return json.dumps(value, ensure_ascii=False)


def _difference(original: Json, found: Json) -> str:
    """In what the found event is unlike the original; "" if in nothing that matters.

    An update's full document is looked up when the event is read, so by then it may be a later version, or gone. All
    else must be the same, key order and number types included.
    """
    expected = original
    if original["operationType"] == "update":
        full = found.get("fullDocument")
        if "fullDocument" not in found:
            return "the full document is not there, not even as null"
        if full is not None:
            version = original["updateDescription"]["updatedFields"]["version"]
            if full.get("_id") != original["documentKey"]["_id"] or full.get("version", 0) < version:
                return f"the looked up document is another one, or older than version {version}"
        found = {key: value for key, value in found.items() if key != "fullDocument"}
        expected = {key: value for key, value in original.items() if key != "fullDocument"}
    if _text(found) == _text(expected):
        return ""
    keys = [key for key in {**expected, **found} if _text(found.get(key)) != _text(expected.get(key))]
    return "unlike the source in " + (", ".join(keys) or "the order of its fields")


def _verify_order(verdict: Verdict, originals: Mapping[str, Json], found: Iterable[tuple[str, str]]) -> None:
    """Judge each document's history.

    Numbering its events that arrived at all 1, 2, 3, ..., a replay may go back to any number, but from each number it
    only goes on to the next, and it ends at the last: 1 2 1 2 3 is in order; 1 3 2, 1 2 3 1 3 and 1 2 3 2 are not.
    """
    lanes: dict[str, set[str]] = defaultdict(set)
    histories: dict[str, list[str]] = defaultdict(list)
    for lane, event_id in found:
        key = _key(originals[event_id])
        lanes[key].add(lane)
        histories[key].append(event_id)
    source_order = {event_id: destination for destination, event_id in enumerate(originals)}
    for key, history in histories.items():
        numbers = {event_id: n for n, event_id in enumerate(sorted(set(history), key=source_order.__getitem__), 1)}
        walk = [0, *(numbers[event_id] for event_id in history)]
        skips = sum(after > before + 1 for before, after in pairwise(walk))
        violations = skips + (walk[-1] != len(numbers)) + (len(lanes[key]) > 1)
        if violations:
            verdict.order_violations += violations
            verdict.note(f"order of {key}: {walk[1:12]} in {len(lanes[key])} lane(s)")
