"""Whether an event costs more where there are many of them: of a million in one run, beside ten thousand."""

from __future__ import annotations

from bench.cost import Cost, figure_of
from bench.figure import Figure
from bench.plan import Plan
from bench.source import Source
from bench.worker import Job, cpu_of

FEW, MANY = 10_000, 1_000_000
_TIMES_FEW = 4
"""How often few events are read, before, between and after the many: a short run tells little."""


def measure(plan: Plan) -> list[Figure]:
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
