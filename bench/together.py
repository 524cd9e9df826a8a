"""All five targets at once beside the slowest of them alone: what fanning out costs."""

from __future__ import annotations

from functools import partial

from bench.figure import Figure
from bench.places import TARGETS, Places
from bench.plan import Plan
from bench.rounds import interleaved
from bench.source import Source

EVENTS = 8_000
ALL = "all five"


def measure(plan: Plan) -> list[Figure]:
    """In every round each target alone, then all of them; each service has a server to itself."""
    events = plan.pick(EVENTS, 800)
    with Source(events) as source, Places() as places:

        def deliver(*targets: str) -> float:
            with places.new(*targets) as place:
                return source.deliver(**place)[0]

        contenders = {**{target: partial(deliver, target) for target in TARGETS}, ALL: deliver}
        found = interleaved(contenders, plan, "together")
    alone = {target: found.medians[target] for target in TARGETS}
    return [
        found.figure(
            "five targets at once",
            ALL,
            *TARGETS,
            wanted=">= 0.80",
            aim=">= 0.95",
            of=f"the slowest alone, {min(alone, key=alone.__getitem__)}",
            details={**found.medians, "events": events},
        )
    ]
