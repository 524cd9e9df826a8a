"""Whether an event costs more where there are many streams: of two hundred in one process, beside one.

All streams read one collection, each by itself: what is compared is the poller's CPU, and the server would otherwise go
through the changes of two hundred collections for each stream.
"""

from __future__ import annotations

import contextlib
import tempfile
from dataclasses import dataclass

from bench import command
from bench.cost import Cost, figure_of
from bench.figure import Figure
from bench.plan import Plan
from bench.source import Source

STREAMS = 200
FEW_EVENTS, EVENTS = 200, 2_000
"""Of each stream; what the latter costs more than the former is the events' cost, the rest is the streams'."""


@dataclass(frozen=True)
class _Case:
    """Runs of some streams, and where to write down what they cost."""

    source: Source
    streams: int
    spent_s: list[float]

    def run(self) -> None:
        self.spent_s.append(_run(self.source, self.streams).expect(self.streams * self.source.events).cpu_s)


def measure(plan: Plan) -> list[Figure]:
    """The command line, which runs some of them at a time, and one stream with as many events, in turns."""
    streams = plan.pick(STREAMS, 20)
    single, several = (Cost(streams * EVENTS, streams * FEW_EVENTS) for _ in range(2))
    with contextlib.ExitStack() as sources:
        cases = []
        for cost, count in ((single, 1), (several, streams)):
            for spent_s, events in ((cost.few_s, cost.few_events), (cost.many_s, cost.events)):
                plan.say(f"streams: inserting {events // count:,} documents")
                cases.append(_Case(sources.enter_context(Source(events // count)), count, spent_s))
        for number in range(1, plan.rounds + 1):
            for case in cases:
                plan.say(f"streams: {case.streams} in one process, round {number} of {plan.rounds}")
                case.run()
    return [figure_of(f"CPU of an event, {streams} streams in one process", "1 stream", several, single)]


def _run(source: Source, streams: int) -> command.Finished:
    """Run the command line with a config.ini of so many new streams."""
    with tempfile.NamedTemporaryFile("w", suffix=".ini") as config:
        for _ in range(streams):
            stream = source.stream()
            config.write(f"[stream {stream.pop('stream_name')}]\nextra_targets = discard\n")
            config.writelines(f"{name} = {command.text(value)}\n" for name, value in stream.items())
        config.flush()
        return command.run({}, "--config", config.name)
