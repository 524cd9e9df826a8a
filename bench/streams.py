"""Whether an event costs more where there are many streams: of two hundred in one process, beside one."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from bench import command
from bench.cost import Cost, figure_of
from bench.figure import Figure
from bench.plan import Plan
from bench.source import Source

STREAMS = 200
FEW_EVENTS, EVENTS = 100, 600
"""Of each stream; what the latter costs more than the former is the events' cost, the rest is the streams'. Measured
once: two hundred streams are many samples. It takes two minutes, most of them the server's, which goes through all
changes for each stream."""


@dataclass(frozen=True)
class _Case:
    """Streams side by side over one source, and where to write down what their runs cost."""

    source: Source
    streams: int
    events: int
    spent_s: list[float]

    def settings(self) -> list[dict[str, Any]]:
        """New streams, one for each collection."""
        return [
            {**self.source.stream(), "watched_collection_name": f"orders_{number}"} for number in range(self.streams)
        ]


def measure(plan: Plan) -> list[Figure]:
    """The command line, which runs some of them at a time."""
    with _cases(plan) as (single, several, cases):
        for case in cases:
            plan.say(f"streams: {case.streams} in one process, {case.events:,} events")
            case.spent_s.append(_run(case.settings()).expect(case.events).cpu_s)
    return [_figure(f"{cases[-1].streams} streams in one process", several, single)]


@contextlib.contextmanager
def _cases(plan: Plan) -> Iterator[tuple[Cost, Cost, list[_Case]]]:
    """The cost of one stream, that of many, and the runs that tell them."""
    streams = plan.pick(STREAMS, 20)
    single, several = (Cost(streams * EVENTS, streams * FEW_EVENTS) for _ in range(2))
    with contextlib.ExitStack() as sources:
        cases = []
        for cost, count in ((single, 1), (several, streams)):
            for spent_s, events in ((cost.few_s, cost.few_events), (cost.many_s, cost.events)):
                plan.say(f"streams: inserting {events:,} documents into {count} collections")
                source = sources.enter_context(Source(0))
                for number in range(count):
                    source.fill(f"orders_{number}", events // count)
                cases.append(_Case(source, count, events, spent_s))
        yield single, several, cases


def _figure(what: str, several: Cost, single: Cost) -> Figure:
    return figure_of(f"CPU of an event, {what}", "1 stream", several, single)


def _run(streams: list[dict[str, Any]]) -> command.Finished:
    """Run the command line with a config.ini of these streams."""
    with tempfile.NamedTemporaryFile("w", suffix=".ini") as config:
        for stream in streams:
            config.write(f"[stream {stream['stream_name']}]\nextra_targets = discard\n")
            config.writelines(
                f"{name} = {command.text(value)}\n" for name, value in stream.items() if name != "stream_name"
            )
        config.flush()
        return command.run({}, "--config", config.name)
