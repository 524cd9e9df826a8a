"""Events per second: discarded, to each target alone, to all at once, by both clients of Kafka, to a slow OpenSearch.

The best that a target can do is the slower of a raw drain of the change stream and of the bare client: nothing that
does both can be faster. The worst is one call for each event.

``python -m bench.throughput MILLISECONDS`` serves an OpenSearch domain in name and prints its port: it reads each
request, waits, and says that all went well, so that what is compared is what waiting costs.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from bench.clients import PAYLOADS, best_rate, one_call_rate
from bench.command import Discard
from bench.report import Figure
from bench.rounds import Meter, Plan, interleaved
from bench.servers import TARGETS, Servers
from bench.source import Source

DRAINED_EVENTS = 100_000


def drain(plan: Plan) -> list[Figure]:
    """The rate, and how many checkpoints were made on the way."""
    events = plan.pick(DRAINED_EVENTS, 20_000)
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


# One target

ALONE_EVENTS = {
    "kinesis": 60_000,
    "sqs": 6_000,
    "kafka": 60_000,
    "opensearch": 10_000,
    "s3": 200_000,
    "mongodb": 20_000,
}
"""As many as take some seconds, so that what a run costs to start and to end does not count much."""
ONE_CALLS = 300
TIMES_ONE_CALL = {"kinesis": 30, "sqs": 8, "kafka": 12, "s3": 80, "opensearch": 8, "mongodb": 4}
"""How many times as fast as one call for each event to be; twice that is hoped for."""


def alone(plan: Plan, target: str) -> list[Figure]:
    """One target's figures."""
    events = plan.pick(ALONE_EVENTS[target], ALONE_EVENTS[target] // 10)
    with Source(events) as source, Servers(target) as servers:
        payloads = PAYLOADS[target](source.change_events())
        meter = Meter(events)

        def ours() -> float:
            with servers.new(target) as destination:
                return source.deliver(**destination)[0]

        def bare_client() -> float:
            with servers.new(target) as destination:
                return best_rate(target, destination, payloads)

        def one_call_each() -> float:
            with servers.new(target) as destination:
                return one_call_rate(target, destination, payloads[: plan.pick(ONE_CALLS, 50)])

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


# All of them

TOGETHER_EVENTS = 8_000
ALL = "all five"


def together(plan: Plan) -> list[Figure]:
    """In every round each target alone, then all of them; each service has a server to itself."""
    events = plan.pick(TOGETHER_EVENTS, 800)
    with Source(events) as source, Servers() as servers:

        def deliver(*targets: str) -> float:
            with servers.new(*targets) as destination:
                return source.deliver(**destination)[0]

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


# Kafka by both clients

CONFLUENT_EVENTS = 200_000


def confluent(plan: Plan) -> list[Figure]:
    """How many times as fast, and how near to the best that confluent-kafka could do."""
    events = plan.pick(CONFLUENT_EVENTS, 6_000)
    with Source(events) as source, Servers("kafka") as servers:
        payloads = PAYLOADS["kafka"](source.change_events())

        def by(client: str) -> float:
            with servers.new() as destination:
                return source.deliver(kafka_client=client, **destination)[0]

        def bare_client() -> float:
            with servers.new() as destination:
                return best_rate("confluent", destination, payloads)

        contenders = {
            "raw drain": source.drain_rate,
            "bare client": bare_client,
            "confluent-kafka": lambda: by("confluent"),
            "kafka-python": lambda: by("kafka-python"),
        }
        found = interleaved(contenders, plan, "confluent")
    return [
        found.figure(
            "kafka by confluent-kafka, and by kafka-python",
            "confluent-kafka",
            "kafka-python",
            wanted=">= 4",
            aim=">= 6",
            details={**found.medians, "events": events},
        ),
        found.figure(
            "kafka by confluent-kafka alone",
            "confluent-kafka",
            "raw drain",
            "bare client",
            wanted=">= 0.80",
            aim=">= 0.95",
        ),
    ]


# OpenSearch where requests take their time

BULK_EVENTS = 100_000
LATENCIES_MS = (100, 20, 0)
_ANSWER = b'{"errors":false}'
_RESPONSE = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (
    len(_ANSWER),
    _ANSWER,
)


def bulks(plan: Plan) -> list[Figure]:
    """One figure for each latency: with the default number of lanes, beside a single one."""
    figures = []
    with Source(plan.pick(BULK_EVENTS, BULK_EVENTS // 10)) as source:
        for latency_ms in LATENCIES_MS:
            with _domain(latency_ms) as uri:
                contenders = {
                    "side by side": lambda uri=uri: source.deliver(elasticsearch_uri=uri)[0],
                    "one after the other": lambda uri=uri: source.deliver(elasticsearch_uri=uri, opensearch_lanes=1)[0],
                }
                what = f"OpenSearch, {latency_ms} ms for each bulk request"
                found = interleaved(contenders, plan, what)
            wanted = ">= 2" if latency_ms == max(LATENCIES_MS) else ">= 0.95"
            figures.append(found.figure(what, *contenders, wanted=wanted, details=found.medians))
    return figures


@contextmanager
def _domain(latency_ms: int) -> Iterator[str]:
    command = [sys.executable, "-m", "bench.throughput", str(latency_ms)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        yield f"http://127.0.0.1:{process.stdout.readline().strip()}"
        process.stdin.close()


async def _serve(latency_s: float) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while head := (await reader.readuntil(b"\r\n\r\n")).lower():
            length = head.partition(b"content-length:")[2].partition(b"\r\n")[0]
            await reader.readexactly(int(length or 0))
            await asyncio.sleep(latency_s)
            writer.write(_RESPONSE)

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await answer(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    server = await asyncio.start_server(connected, "127.0.0.1", 0, limit=2**20)
    print(server.sockets[0].getsockname()[1], flush=True)
    # Until whoever started it is gone.
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(_serve(float(sys.argv[1]) / 1000))
