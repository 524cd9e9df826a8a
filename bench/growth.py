"""Whether an event costs more where there are many: of a million in one stream, of two hundred streams in one process.

What counts is CPU, of a process of its own with a target that renders every event. Starting costs, too: a run, and with
the command line a process. It is measured by runs that find nothing to do and taken off; the figures with it stand in
the note.
"""

from __future__ import annotations

import contextlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from bench import command
from bench.command import Finished
from bench.drain import Discard
from bench.figure import Figure
from bench.plan import Plan
from bench.rounds import spread
from bench.source import Source
from docdb_stream import Poller, Settings

FEW, MANY = 10_000, 1_000_000
STREAMS = 200
FEW_STREAM_EVENTS, STREAM_EVENTS = 50, 250
_TIMES_FEW = 4
"""How often few events are read, before, between and after the many: a short run tells little."""


@dataclass(frozen=True)
class Cost:
    """The CPU, in seconds, of runs over many events, and of runs over few or none that are alike in all else.

    What the former take more is due to the events that they have more; the rest is what starting takes.
    """

    events: int
    few_events: int = 0
    many_s: list[float] = field(default_factory=list)
    few_s: list[float] = field(default_factory=list)

    @property
    def events_us(self) -> list[float]:
        """What one more event takes, by each of the runs over many."""
        few_s = statistics.median(self.few_s)
        return [1e6 * (many_s - few_s) / (self.events - self.few_events) for many_s in self.many_s]

    @property
    def event_us(self) -> float:
        """The median of them."""
        return statistics.median(self.events_us)

    @property
    def start_s(self) -> float:
        """What starting takes."""
        return statistics.median(self.few_s) - self.few_events * self.event_us / 1e6

    @property
    def with_start_us(self) -> float:
        """What an event takes with its share of starting, where there are many."""
        return 1e6 * statistics.median(self.many_s) / self.events


def measure_events(plan: Plan) -> list[Figure]:
    """A million in one run, beside ten thousand."""
    few, many = Cost(FEW), Cost(plan.pick(MANY, 50_000))
    plan.say(f"growth: inserting {many.events:,} documents")
    with Source(few.events) as small, Source(many.events, oplog_size_mb=4_000) as large:
        some: list[tuple[list[float], Source, str]] = [(few.many_s, small, ""), (few.few_s, small, "now")] * _TIMES_FEW
        every: list[tuple[list[float], Source, str]] = [(many.many_s, large, ""), (many.few_s, large, "now")]
        runs = [([], small, ""), *some, *every, *some, *every, *some]  # the first one warms up
        plan.say(f"growth: {few.events:,} events in a run, and {many.events:,}")
        for (spent, _, _), cpu_s in zip(runs, _cpu_of([_job(source, start) for _, source, start in runs]), strict=True):
            spent.append(cpu_s)
    return [_figure(f"CPU of an event, {many.events:,} in one run", f"{few.events:,}", many, few)]


def _job(source: Source, start_at: str) -> dict[str, Any]:
    """A run of a new stream, and how many events it has to deliver."""
    settings = {**source.stream(), **({"start_at": start_at} if start_at else {})}
    return {"settings": settings, "events": 0 if start_at else source.events}


def _cpu_of(jobs: Sequence[dict[str, Any]]) -> list[float]:
    """The CPU of each run, one after the other in one other process."""
    command_line = [sys.executable, "-m", "bench.growth"]
    given = json.dumps(jobs, default=command.text)
    done = subprocess.run(
        command_line, input=given, cwd=command.REPOSITORY, stdout=subprocess.PIPE, text=True, check=True
    )
    spent: list[float] = json.loads(done.stdout)
    return spent


def _work(jobs: Sequence[dict[str, Any]]) -> list[float]:
    spent = []
    for job in jobs:
        with Poller.from_settings(Settings(**job["settings"]), [Discard()]) as poller:
            started = time.process_time()
            result = poller.run()
            spent.append(time.process_time() - started)
        if result.events != job["events"]:
            raise RuntimeError(f"{result.events} of {job['events']} events were delivered")
    return spent


def measure_streams(plan: Plan) -> list[Figure]:
    """The command line over many streams, side by side as it runs them, beside one stream with as many events."""
    streams = plan.pick(STREAMS, 20)
    single, several = (Cost(streams * STREAM_EVENTS, streams * FEW_STREAM_EVENTS) for _ in range(2))
    with contextlib.ExitStack() as sources:
        cases = []
        for cost, count in ((single, 1), (several, streams)):
            for spent, events in ((cost.few_s, cost.few_events), (cost.many_s, cost.events)):
                plan.say(f"growth: filling {count} collections with {events:,} documents")
                source = sources.enter_context(Source(0))
                for number in range(count):
                    source.fill(_collection(number), events // count)
                cases.append((spent, source, count, events))
        rounds = plan.pick(3, 1)
        for number in range(rounds):
            for spent, source, count, events in cases:
                plan.say(f"growth: {count} streams, {events:,} events, round {number + 1} of {rounds}")
                spent.append(_run_all(source, count).expect(events).cpu_s)
    return [_figure(f"CPU of an event, over {streams} streams in a process", "over 1 stream", several, single)]


def _collection(number: int) -> str:
    return f"orders_{number}"


def _run_all(source: Source, streams: int) -> Finished:
    """Run a stream for each collection in one process, from a config.ini."""
    with tempfile.NamedTemporaryFile("w", suffix=".ini") as config:
        for number in range(streams):
            stream = {**source.stream(), "watched_collection_name": _collection(number), "extra_targets": "discard"}
            config.write(f"[stream {stream.pop('stream_name')}]\n")
            config.writelines(f"{name} = {command.text(value)}\n" for name, value in stream.items())
        config.flush()
        return command.run({}, "--config", config.name)


def _figure(what: str, of: str, measured: Cost, reference: Cost) -> Figure:
    return Figure(
        what,
        measured.event_us,
        "us",
        wanted="< 1.10",
        of=of,
        of_value=reference.event_us,
        ratio=measured.event_us / reference.event_us,
        spread=spread([event_us / reference.event_us for event_us in measured.events_us]),
        details={
            "start_s": measured.start_s,
            "with_start_us": measured.with_start_us,
            "of_start_s": reference.start_s,
            "of_with_start_us": reference.with_start_us,
        },
        note=f"beyond the start, {measured.start_s:.2f} s against {reference.start_s:.2f} s of CPU; with it "
        f"{measured.with_start_us:.1f} us against {reference.with_start_us:.1f} us",
    )


if __name__ == "__main__":
    print(json.dumps(_work(json.load(sys.stdin))))
