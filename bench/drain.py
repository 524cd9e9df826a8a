"""How near the poller comes to a raw drain of the change stream, when every event is rendered and then thrown away."""

from __future__ import annotations

from collections.abc import Sequence

from bench.figure import Figure
from bench.plan import Plan
from bench.rounds import interleaved
from bench.source import Source
from docdb_stream.events import ChangeEvent
from docdb_stream.target import Rejection

EVENTS = 100_000


class Discard:
    """Renders every event and forgets it."""

    name = "discard"

    def write(self, events: Sequence[ChangeEvent]) -> Sequence[Rejection]:
        for event in events:
            event.extended_json()
        return ()

    def flush(self) -> Sequence[Rejection]:
        return ()

    def close(self) -> None:
        pass


def measure(plan: Plan) -> list[Figure]:
    """The rate, and how many checkpoints were made on the way."""
    events = plan.pick(EVENTS, 20_000)
    checkpoints = []
    plan.say(f"drain: inserting {events:,} documents")
    with Source(events) as source:
        event_bytes = sum(len(event.raw or b"") for event in source.change_events()) / events

        def ours() -> float:
            rate, result = source.deliver([Discard()])
            checkpoints.append(result.checkpoints)
            return rate

        found = interleaved({"raw drain": source.drain_rate, "poller": ours}, plan, "drain")
    return [
        found.figure(
            "poller, every event rendered and discarded",
            "poller",
            "raw drain",
            wanted=">= 0.60",
            aim=">= 0.80",
            details={"events": events, "event_bytes": round(event_bytes)},
            note=f"{events:,} events of {event_bytes:,.0f} bytes of BSON",
        ),
        Figure(
            f"checkpoints of {events:,} events",
            max(checkpoints),
            "writes",
            wanted="< 10",
            note="as RunResult counts them: with the first one, of a new stream's position",
        ),
    ]
