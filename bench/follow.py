"""How long a change takes from its commit until it is delivered, one at a time, while the poller follows.

The clock starts when the insert is acknowledged to the client that made it. It stops when the request with the record
was answered: for Kinesis when ``write`` returns, for Kafka, whose records are confirmed in the background, when the
confirmation has arrived. (A consumer that asks the local broker all the time has the record 3 ms later. One that lets
it wait, as consumers do, up to half of that wait later, since this broker looks only so often.)
"""

from __future__ import annotations

import contextlib
import queue
import random
import statistics
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

from bench.report import Figure
from bench.rounds import Plan
from bench.servers import Servers
from bench.source import Source, order
from docdb_stream import Poller
from docdb_stream.context import Deadline
from docdb_stream.events import ChangeEvent
from docdb_stream.target import Rejection, Target
from docdb_stream.targets import build_targets
from docdb_stream.targets._client import import_client

SAMPLES = 400
WARM_UP = 50
_PAUSE_S = (0.005, 0.030)
_TOO_LATE_S = 30.0


class Watched:
    """A target whose requests are answered before ``write`` returns: notes when that was."""

    def __init__(self, target: Target, arrivals: queue.Queue[float]) -> None:
        self._target = target
        self._arrivals = arrivals
        self.name = target.name
        self.flush = target.flush
        self.close = target.close

    def write(self, events: Sequence[ChangeEvent]) -> Sequence[Rejection]:
        rejections = self._target.write(events)
        arrived = time.perf_counter()
        for _ in events:
            self._arrivals.put(arrived)
        return rejections


def measure(plan: Plan) -> list[Figure]:
    """Half and ninety-nine in a hundred of the samples took no longer than this."""
    return [figure for name, latencies in _measured(plan) for figure in _figures(name, latencies)]


def _measured(plan: Plan) -> Iterator[tuple[str, list[float]]]:
    for target in ("kafka", "kinesis"):
        plan.say(f"follow: {target}")
        with Source(0) as source, Servers(target) as servers, servers.new() as destination:
            arrivals: queue.Queue[float] = queue.Queue()
            settings = source.settings(start_at="now", **destination)
            targets = build_targets(settings)
            if target == "kafka":
                arriving = _confirmations(arrivals)
            else:
                targets = [Watched(each, arrivals) for each in targets]
                arriving = contextlib.nullcontext()
            with arriving, Poller.from_settings(settings, targets) as poller, following(poller):
                yield target, latencies(source, arrivals, plan.pick(SAMPLES, 30))


def latencies(source: Source, arrivals: queue.Queue[float], samples: int) -> list[float]:
    """Seconds from commit to arrival of so many inserts, one at a time; some before them do not count."""
    chance = random.Random(1)
    latencies = []
    for number in range(WARM_UP + samples):
        source.collection.insert_one(order(number))
        committed = time.perf_counter()
        latency_s = arrivals.get(timeout=_TOO_LATE_S) - committed
        if number >= WARM_UP:
            latencies.append(latency_s)
        time.sleep(chance.uniform(*_PAUSE_S))
    if not arrivals.empty():
        raise RuntimeError("events arrived twice: no latency can be told")
    return latencies


@contextlib.contextmanager
def following(poller: Poller) -> Iterator[None]:
    """Run the poller in a thread, from before the block until after it."""
    limit = Deadline()
    started = threading.Event()
    failures: list[Exception] = []

    def run() -> None:
        try:
            poller.run(limit=limit, follow=True, progress=lambda result: started.set())
        except Exception as error:  # noqa: BLE001 - told by the thread that waits
            failures.append(error)
            started.set()

    thread = threading.Thread(target=run, name="poller")
    thread.start()
    try:
        if not started.wait(_TOO_LATE_S) and not failures:
            raise RuntimeError("the poller does not begin to follow")
        yield
    finally:
        limit.stop.set()
        thread.join(_TOO_LATE_S)
        if failures:
            raise failures[0]


@contextlib.contextmanager
def _confirmations(arrivals: queue.Queue[float]) -> Iterator[None]:
    """Within the block, note when the broker's confirmation of each record of kafka-python arrives."""
    producer = import_client("kafka", "kafka", "kafka").KafkaProducer
    send = producer.send

    def noted(self: Any, *arguments: Any, **options: Any) -> Any:
        future = send(self, *arguments, **options)
        return future.add_callback(lambda _: arrivals.put(time.perf_counter()))

    producer.send = noted
    try:
        yield
    finally:
        producer.send = send


def _figures(target: str, latencies: list[float]) -> list[Figure]:
    hundredths = statistics.quantiles(latencies, n=100, method="inclusive")
    half, most = 1000 * hundredths[49], 1000 * hundredths[98]
    details = {"samples": len(latencies), "min": 1000 * min(latencies), "max": 1000 * max(latencies)}
    stops = "the broker confirmed it" if target == "kafka" else "PutRecords was answered"
    return [
        Figure(
            f"follow: commit to {target}, half of the events within",
            half,
            "ms",
            wanted="< 20",
            aim="< 8",
            details=details,
            note=f"one event at a time, until {stops}; {len(latencies)} events",
        ),
        Figure(f"follow: commit to {target}, 99 of 100 within", most, "ms", wanted="< 100"),
    ]
