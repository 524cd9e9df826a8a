"""Each of the five targets alone, from MongoDB to the service, beside the best that its client could do and the worst.

The best is the slower of a raw drain of the change stream and of the bare client: nothing that does both can be faster.
The worst is one call for each event. All four have their turn in every round.
"""

from __future__ import annotations

from bench import bare, one_call
from bench.cpu import Meter
from bench.figure import Figure
from bench.payloads import PAYLOADS
from bench.places import Places
from bench.plan import Plan
from bench.rounds import interleaved
from bench.source import Source

EVENTS = {"kinesis": 60_000, "sqs": 6_000, "kafka": 60_000, "opensearch": 10_000, "s3": 200_000}
"""As many as take some seconds, so that what a run costs to start and to end does not count much."""
ONE_CALLS = 300
TIMES_ONE_CALL = {"kinesis": 30, "sqs": 8, "kafka": 12, "s3": 80, "opensearch": 8}
"""How many times as fast as one call for each event to be; twice that is hoped for."""


def measure(plan: Plan, target: str) -> list[Figure]:
    """One target's figures."""
    events = plan.pick(EVENTS[target], EVENTS[target] // 10)
    with Source(events) as source, Places(target) as places:
        payloads = PAYLOADS[target](source.change_events())
        meter = Meter(events)

        def ours() -> float:
            with places.new(target) as place:
                return source.deliver(**place)[0]

        def bare_client() -> float:
            with places.new(target) as place:
                return bare.rate(target, place, payloads)

        def one_call_each() -> float:
            with places.new(target) as place:
                return one_call.rate(target, place, payloads[: plan.pick(ONE_CALLS, 50)])

        contenders = {
            "raw drain": source.drain_rate,
            "bare client": bare_client,
            "ours": meter.metered(ours),
            "one call per event": one_call_each,
        }
        found = interleaved(contenders, plan, target)
    times = TIMES_ONE_CALL[target]
    return [
        found.figure(
            f"{target} alone",
            "ours",
            "raw drain",
            "bare client",
            wanted=">= 0.80",
            aim=">= 0.95",
            details={**found.medians, **meter.details, "events": events},
            note=meter.note(min(found.medians["raw drain"], found.medians["bare client"])),
        ),
        found.figure(
            f"{target} alone, and the loop of the AWS sample",
            "ours",
            "one call per event",
            wanted=f">= {times}",
            aim=f">= {2 * times}",
        ),
    ]
