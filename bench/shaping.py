"""What it costs to say what is delivered: each step, and each format, as whole runs into a target that discards.

The functions of TRANSFORM are here, too.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from bson import ObjectId
from pymongo import InsertOne, ReplaceOne

from bench.command import Discard
from bench.report import Figure
from bench.rounds import Meter, Plan, Rounds, interleaved
from bench.source import Source, made
from docdb_stream.events import ChangeEvent
from docdb_stream.format import Format
from docdb_stream.formats import FORMATS, KAFKAS_OWN, format_named
from docdb_stream.formats.avro import AVRO

EVENTS = 40_000
QUICK_EVENTS = 2_000
TEN = 10


class Changes(Source):
    """Of every ten changes the last replaces the document of the first; replacements bring documents, as inserts do."""

    def fill(self, collection: str, count: int) -> None:
        documents = made(self._maker, count)
        for _ in range(count // TEN):
            *inserted, replacement = [{"_id": ObjectId(), **next(documents)} for _ in range(TEN)]
            replacement["_id"] = inserted[0]["_id"]
            changes = [*map(InsertOne, inserted), ReplaceOne({"_id": replacement["_id"]}, replacement)]
            self.client[self.collection.database.name][collection].bulk_write(changes)


# Steps


@dataclass(frozen=True)
class Steps:
    """The settings of some steps.

    Attributes:
        options: By name.
        passing: Of ten changes, how many are delivered.
        wanted: Of the rate without any step, the least that will do.
    """

    options: Mapping[str, Any] = field(default_factory=dict)
    passing: int = TEN
    wanted: str = ""


NO_STEP = "no step"
_HALF = {"match": json.dumps({"fullDocument.number": {"$mod": [2, 0]}}), "on_exit": "ignore"}
STEPS = {
    NO_STEP: Steps(),
    "OPERATIONS, all pass": Steps({"operations": "insert, replace"}, wanted=">= 0.90"),
    "OPERATIONS, 1 of 10 passes": Steps({"operations": "replace"}, passing=1, wanted=">= 1"),
    "MATCH on the client, half passes": Steps({**_HALF, "filter_at": "client"}, passing=5),
    "MATCH on the server, half passes": Steps({**_HALF, "filter_at": "server"}, passing=5),
    "FIELDS_MASK of two fields": Steps({"fields_mask": "note, address.street"}),
    "TRANSFORM that looks": Steps({"transform": "bench.shaping:look"}),
    "TRANSFORM that changes a field": Steps({"transform": "bench.shaping:change"}),
}


def look(event: ChangeEvent) -> ChangeEvent | None:
    """For TRANSFORM: passes every order, once it has been looked at."""
    return event if event.document["fullDocument"]["total"] > 0 else None


def change(event: ChangeEvent) -> ChangeEvent:
    """For TRANSFORM: every order with another status."""
    event.document["fullDocument"]["status"] = "seen"
    return event


def steps(plan: Plan) -> list[Figure]:
    """Each beside no step; a rate counts the changes that were made, not those that were delivered."""
    events = plan.pick(EVENTS, QUICK_EVENTS)
    plan.say(f"steps: making {events:,} changes")
    with Changes(events) as source:
        contenders, meters = {"raw drain": source.drain_rate}, {name: Meter(events) for name in STEPS}

        def ours(given: Steps) -> float:
            return source.deliver([Discard()], delivered=events * given.passing // TEN, **given.options)[0]

        contenders |= {name: meters[name].metered(partial(ours, given)) for name, given in STEPS.items()}
        found = interleaved(contenders, plan, "steps")
    rest = [(name, STEPS[name].wanted) for name in STEPS if name != NO_STEP]
    return _beside(NO_STEP, rest, found, meters, events)


# Formats


def formats(plan: Plan) -> list[Figure]:
    """Each beside ``extended``, the default."""
    events = plan.pick(EVENTS, QUICK_EVENTS)
    every = {**{name: format_named(name, "bench") for name in FORMATS}, KAFKAS_OWN: AVRO}
    plan.say(f"formats: making {events:,} changes")
    with Changes(events) as source:
        contenders, meters = {"raw drain": source.drain_rate}, {name: Meter(events) for name in every}

        def ours(payload_format: Format) -> float:
            return source.deliver([Discard(payload_format)])[0]

        contenders |= {name: meters[name].metered(partial(ours, each)) for name, each in every.items()}
        found = interleaved(contenders, plan, "formats")
    return _beside("extended", [(name, "") for name in every if name != "extended"], found, meters, events)


def _beside(
    base: str, rest: list[tuple[str, str]], found: Rounds, meters: Mapping[str, Meter], events: int
) -> list[Figure]:
    """The base beside the raw drain, and each of the rest, with what is wanted of it, beside the base."""

    def figure(name: str, of: str, wanted: str = "") -> Figure:
        details = {**meters[name].details, "events": events}
        return found.figure(name, name, of, wanted=wanted, details=details)

    return [figure(base, "raw drain"), *(figure(name, base, wanted) for name, wanted in rest)]
