"""The reckoning of the crash harness: what every target has, against what plain PyMongo saw."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any
from unittest import mock

from faults.histories import Defects, defects_of
from faults.truth import as_text, version_of

from docdb_stream.local.demo import destinations as demo_destinations
from docdb_stream.local.demo.verify import Delivery, Json, Verdict, verify_events
from docdb_stream.snapshot_event import PREFIX

REFUSE_NOTHING = {"kinesis"}
"""Targets that can neither refuse nor undo what a poller that was taken over sends: see docs/reliability.md."""


@dataclass
class Outcome:
    """What a run of the harness found.

    Attributes:
        verdicts: Per target.
        defects: Of the targets that keep every event, seen key by key.
        kills: By kind.
        faults: By target and kind.
        exits: Exit statuses of pollers.
        problems: Everything that must not be.
        snapshots: Per log, the documents of snapshots that it has, and how many of them again.
        stale: Those of ``REFUSE_NOTHING`` whose only defect is that steps are out of order in the way that a paused
            poller's last request leaves behind.
        events: Of the source.
        chaos_s: Seconds of faults.
        total_s: Seconds in all, servers and reckoning included.
    """

    seed: int
    verdicts: list[Verdict] = field(default_factory=list)
    defects: dict[str, Defects] = field(default_factory=dict)
    kills: Counter[str] = field(default_factory=Counter)
    rounds: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    exits: Counter[int] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)
    stale: dict[str, Defects] = field(default_factory=dict)
    snapshots: dict[str, tuple[int, int]] = field(default_factory=dict)
    events: int = 0
    dead_letters: int = 0
    chaos_s: float = 0.0
    total_s: float = 0.0


def judge(
    outcome: Outcome,
    *,
    destinations: Sequence[demo_destinations.Destination],
    events: Sequence[Json],
    passes: Callable[[Json], bool] = lambda _: True,
    acknowledged: set[int],
    documents: Mapping[str, Mapping[Any, Any]],
    dead_letters: Sequence[Json],
) -> None:
    """Read every target back and note in ``outcome`` what it has, and every defect.

    Args:
        outcome: To be completed.
        destinations: The targets' ends of the line.
        events: What the recorder saw.
        passes: Whether an event is to be delivered.
        acknowledged: The versions whose writes were acknowledged: the recorder has to have seen them all.
        documents: Collection -> ``_id`` -> document, in the end.
        dead_letters: As they are in the state database.
    """
    outcome.events = len(events)
    unrecorded = acknowledged - {version_of(event) for event in events}
    if unrecorded:
        outcome.problems.append(f"{len(unrecorded)} acknowledged writes are not in the change stream")
    events = [event for event in events if passes(event)]
    rejected = _rejected(outcome, events, dead_letters)
    for destination in destinations:
        expected = [event for event in events if destination.name != "kinesis" or event["_id"]["_data"] not in rejected]
        verdict, deliveries, all_deliveries = _read_back(destination, expected, documents)
        outcome.verdicts.append(verdict)
        if deliveries is not None:
            judge_order(outcome, destination.name, expected, deliveries)
            judge_snapshots(outcome, destination.name, documents, all_deliveries)
        if not replace(verdict, order_violations=0).ok:  # order has been judged, key by key
            outcome.problems.append(f"{destination.name}: {verdict}")


def _rejected(outcome: Outcome, events: Sequence[Json], letters: Sequence[Json]) -> set[str]:
    """The events that Kinesis had to reject; a problem if the dead letters hold others, or not all of these."""
    large = {event["_id"]["_data"] for event in events if event["ns"]["coll"] == "large"}
    outcome.dead_letters = len(letters)
    of_snapshots = {
        found["event_id"]
        for found in letters
        if found["event_id"].startswith(PREFIX) and found["namespace"].endswith(".large")
    }
    wrong = [
        found for found in letters if found["target"] != "kinesis" or found["event_id"] not in large | of_snapshots
    ]
    lost = large - {found["event_id"] for found in letters}
    if wrong:
        outcome.problems.append(f"{len(wrong)} dead letters for no reason, such as {as_text(wrong[0])[:500]}")
    if lost:
        outcome.problems.append(f"{len(lost)} rejected events are not in the dead letters")
    return large


def judge_order(outcome: Outcome, target: str, expected: Sequence[Json], deliveries: Sequence[Delivery]) -> None:
    """Note what a target has, key by key, and whether that must not be."""
    ids = {event["_id"]["_data"] for event in expected}
    source = [(str([event["ns"], event["documentKey"]]), event["_id"]["_data"]) for event in expected]
    found = defects_of(source, [event_id for event_id in map(_event_id, deliveries) if event_id in ids])
    outcome.defects[target] = found
    was_paused = bool(outcome.rounds["pause"])
    if found.missing or found.order > (found.stale if was_paused and target in REFUSE_NOTHING else 0):
        outcome.problems.append(f"{target}: {found}")
    elif found.stale:
        outcome.stale[target] = found


NOT_IN_ORDER_OF_ARRIVAL = {"s3"}
"""Where a snapshot's documents lie apart from changes, so that which came first is not to be seen."""


def judge_snapshots(
    outcome: Outcome, target: str, documents: Mapping[str, Mapping[Any, Any]], deliveries: Sequence[Delivery]
) -> None:
    """Note whether what a log has makes up the documents that there are, and whether a document of a snapshot is older
    than a change that came before it."""
    states: dict[tuple[str, Any], int] = {}
    newest: dict[tuple[str, Any], int] = {}
    older: list[str] = []
    snapshots, twice = Counter[str](), 0
    histories: defaultdict[tuple[str, Any], list[str]] = defaultdict(list)
    for delivery in deliveries:
        event = json.loads(delivery.payload)
        key = event["ns"]["coll"], event["documentKey"]["_id"]
        if event["operationType"] == "delete":
            states.pop(key, None)
            histories[key].append("deleted")
            continue
        document = event.get("fullDocument")
        if not document:
            continue  # it was gone when it was looked up: its delete follows
        version = int(document["version"])
        states[key] = version
        histories[key].append(f"{event['operationType']} {version_of(event)} {version}")
        if (event_id := _event_id(delivery)).startswith(PREFIX):
            if version < newest.get(key, version):
                older.append(f"{key}: {' '.join(histories[key][-8:])}, then {version} of a snapshot")
            twice += bool(snapshots[event_id])
            snapshots[event_id] += 1
        newest[key] = max(newest.get(key, version), version)
    outcome.snapshots[target] = (len(snapshots), twice)
    there = {(name, key): int(each["version"]) for name, found in documents.items() for key, each in found.items()}
    if target == "kinesis":
        there = {key: version for key, version in there.items() if key[0] != "large"}
    wrong = [key for key in there.keys() | states.keys() if there.get(key) != states.get(key)]
    if wrong and target not in NOT_IN_ORDER_OF_ARRIVAL and snapshots:
        outcome.problems.append(f"{target}: {len(wrong)} documents are not as they are, such as {wrong[:3]}")
    if missing := [key for key in there if key not in newest and snapshots]:
        outcome.problems.append(f"{target}: {len(missing)} documents never came, such as {missing[:3]}")
    allowed = target in REFUSE_NOTHING and outcome.rounds["pause"]
    if older and target not in NOT_IN_ORDER_OF_ARRIVAL and not allowed:
        outcome.problems.append(
            f"{target}: documents of a snapshot older than what came before, {len(older)}: {older[:3]}"
        )


def _event_id(delivery: Delivery) -> str:
    # The token comes first in every event.
    return delivery.payload.partition(b'"_data":"')[2].partition(b'"')[0].decode()


def _read_back(
    destination: demo_destinations.Destination, events: Sequence[Json], documents: Mapping[str, Mapping[Any, Any]]
) -> tuple[Verdict, Sequence[Delivery] | None, Sequence[Delivery]]:
    """The demo's verdict, the deliveries of changes that it is based on, and all deliveries."""
    kept: list[Sequence[Delivery]] = []

    def keep(target: str, source: Sequence[Json], deliveries: Sequence[Delivery], **options: Any) -> Verdict:
        changes = [each for each in deliveries if not _event_id(each).startswith(PREFIX)]
        kept.extend([changes, deliveries])
        return verify_events(target, source, changes, **options)

    with mock.patch.object(demo_destinations, "verify_events", keep):
        verdict = destination.verdict(events, documents)
    return (verdict, kept[0], kept[1]) if kept else (verdict, None, ())


def table(outcome: Outcome) -> str:
    """The figures, as docs/reliability.md has them."""
    lines = [
        f"seed {outcome.seed}; {outcome.events:,} events; {outcome.kills.total()} kills; faults for "
        f"{outcome.chaos_s:.0f} s, {outcome.total_s:.0f} s in all",
        "",
        "| target | expected | delivered | missing | duplicates | order violations | of these stale after a pause "
        "| different |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for verdict in outcome.verdicts:
        defects = outcome.defects.get(verdict.target)
        order, stale = (f"{defects.order:,}", f"{defects.stale:,}") if defects else ("-", "-")
        lines.append(
            f"| {verdict.target} | {verdict.expected:,} | {verdict.delivered:,} | {verdict.missing:,} | "
            f"{verdict.duplicates:,} | {order} | {stale} | {verdict.different:,} |"
        )
    for target, (count, twice) in outcome.snapshots.items():
        if count:
            lines.append(f"{target}: {count:,} documents of snapshots, {twice:,} of them again")
    lines.append("")
    for name, counts in (("rounds", outcome.rounds), ("kills", outcome.kills), ("faults", outcome.faults)):
        lines.append(f"{name}: " + ", ".join(f"{kind} {count}" for kind, count in sorted(counts.items())))
    lines.append("exits: " + ", ".join(f"{status}: {count}" for status, count in sorted(outcome.exits.items())))
    lines.append(f"dead letters: {outcome.dead_letters}")
    for target, found in outcome.stale.items():
        lines.append(f"as a paused poller may leave it, {target} can refuse nothing: {found}")
    return "\n".join(lines)
