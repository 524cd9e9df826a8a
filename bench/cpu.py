"""CPU: of an event where there are many of them, or many streams, and of a cold start.

What an event costs, and what starting costs, are told apart. The CPU is that of a process of its own with a target that
renders every event and throws it away. ``python -m bench.cpu`` is such a process: it runs the pollers it is told to.
"""

from __future__ import annotations

import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from bench.command import REPOSITORY, Discard, Finished, run, text
from bench.report import Figure
from bench.rounds import Plan, spread
from bench.source import Source
from docdb_stream import Poller, Settings
from docdb_stream.mongodb.connection import Connections


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
        """What one more event takes, by each of the runs over many; beside its own run over few, where each has one."""
        pairs = zip(self.many_s, _one_each(self.few_s, len(self.many_s)), strict=True)
        return [1e6 * (many_s - few_s) / (self.events - self.few_events) for many_s, few_s in pairs]

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


def figure_of(what: str, of: str, measured: Cost, reference: Cost) -> Figure:
    """One more event in a case of many, beside one more in another; round by round, where they took turns."""
    of_us = _one_each(reference.events_us, len(measured.events_us))
    ratios = [event_us / other_us for event_us, other_us in zip(measured.events_us, of_us, strict=True)]
    return Figure(
        what,
        measured.event_us,
        "us",
        wanted="< 1.10",
        of=of,
        of_value=reference.event_us,
        ratio=statistics.median(ratios),
        spread=spread(ratios),
        details={
            "start_s": measured.start_s,
            "with_start_us": measured.with_start_us,
            "of_start_s": reference.start_s,
            "of_with_start_us": reference.with_start_us,
        },
        note=f"beyond the start, {measured.start_s:.2f} s against {reference.start_s:.2f} s of CPU; with it "
        f"{measured.with_start_us:.1f} us against {reference.with_start_us:.1f} us",
    )


def _one_each(values: list[float], count: int) -> list[float]:
    """The values where there are as many, else their median for each."""
    return values if len(values) == count else [statistics.median(values)] * count


# Many events

FEW, MANY = 10_000, 1_000_000
_TIMES_FEW = 4
"""How often few events are read, before, between and after the many: a short run tells little."""


def growth(plan: Plan) -> list[Figure]:
    """All runs are in one process; those that find nothing to do tell what a run costs by itself."""
    few, many = Cost(FEW), Cost(plan.pick(MANY, 50_000))
    plan.say(f"growth: inserting {many.events:,} documents")
    with Source(few.events) as small, Source(many.events, oplog_size_mb=4_000) as large:
        some = [(few.many_s, small, False), (few.few_s, small, True)] * _TIMES_FEW
        every = [(many.many_s, large, False), (many.few_s, large, True)]
        warm_up: list[float] = []
        runs = [(warm_up, small, False), *some, *every, *some, *every, *some]
        plan.say(f"growth: {few.events:,} events in a run, and {many.events:,}")
        groups = [[_job(source, idle)] for _, source, idle in runs]
        for (spent, _, _), cpu_s in zip(runs, cpu_of(groups), strict=True):
            spent.append(cpu_s)
    return [figure_of(f"CPU of an event, {many.events:,} in one run", f"{few.events:,}", many, few)]


def _job(source: Source, idle: bool) -> Job:
    """A run over all of the source, or one that finds nothing to do."""
    if idle:
        return {"settings": {**source.stream(), "start_at": "now"}, "events": 0}
    return {"settings": source.stream(), "events": source.events}


# Many streams

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
        self.spent_s.append(_run_streams(self.source, self.streams).expect(self.streams * self.source.events).cpu_s)


def streams(plan: Plan) -> list[Figure]:
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


def _run_streams(source: Source, streams: int) -> Finished:
    """Run the command line with a config.ini of so many new streams."""
    with tempfile.NamedTemporaryFile("w", suffix=".ini") as config:
        for _ in range(streams):
            stream = source.stream()
            config.write(f"[stream {stream.pop('stream_name')}]\nextra_targets = discard\n")
            config.writelines(f"{name} = {text(value)}\n" for name, value in stream.items())
        config.flush()
        return run({}, "--config", config.name)


# A cold start

COLD_STARTS = 9
_COLD_START = """
import time
import docdb_stream.handlers.poller
from docdb_stream import Settings
from docdb_stream.targets import build_targets
build_targets(Settings.from_env())
print(time.process_time())
"""


def cold_start(plan: Plan) -> list[Figure]:
    """The median of fresh interpreters, bytecode already compiled; includes the interpreter's own start."""
    plan.say("cold start")
    environment = {**os.environ, "DOCUMENTDB_URI": "mongodb://127.0.0.1/", "KINESIS_STREAM": "changes"}
    spent_s = [
        float(
            subprocess.run([sys.executable, "-c", _COLD_START], env=environment, capture_output=True, check=True).stdout
        )
        for _ in range(plan.pick(COLD_STARTS, 2) + 1)
    ]
    spent = statistics.median(spent_s[1:])
    return [Figure("cold start: handler, settings and the Kinesis target", spent, "s CPU", wanted="< 0.6")]


# Pollers in a process of their own, so that its CPU is theirs alone

SIDE_BY_SIDE = 10

Job = dict[str, Any]
"""The ``settings`` of a new stream, and how many ``events`` its run has to deliver."""


def cpu_of(groups: Sequence[Sequence[Job]]) -> list[float]:
    """The CPU of each group of runs, in seconds: one group after the other, in a group some runs side by side."""
    python = [sys.executable, "-m", "bench.cpu"]
    given = json.dumps(groups, default=text)
    done = subprocess.run(python, input=given, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True, check=True)
    spent: list[float] = json.loads(done.stdout)
    return spent


def _work(group: Sequence[Job]) -> float:
    started = time.process_time()
    with Connections() as connections, ThreadPoolExecutor(SIDE_BY_SIDE) as threads:
        list(threads.map(lambda job: _run(job, connections), group))
    return time.process_time() - started


def _run(job: Job, connections: Connections) -> None:
    settings = Settings(**job["settings"])
    with Poller.from_settings(settings, [Discard()], connections.to(settings)) as poller:
        result = poller.run()
    if result.events != job["events"]:
        raise RuntimeError(f"{result.events} of {job['events']} events were delivered")


if __name__ == "__main__":
    print(json.dumps([_work(group) for group in json.load(sys.stdin)]))
