"""What is read of documents: a snapshot beside a raw find of the same, its cost as it grows and what changes wait for
beside it; and verify beside a raw read of both sides."""

from __future__ import annotations

import contextlib
import queue
import statistics
import time
from collections.abc import Sequence
from functools import partial
from typing import Any

from pymongo.collection import Collection

from bench import command
from bench.command import Discard
from bench.follow import following, latencies
from bench.report import Figure
from bench.rounds import Meter, Plan, interleaved, rate_of
from bench.servers import MIRROR, Servers
from bench.source import BATCH_SIZE, COLLECTION, DB, NAME, Source, order_16_kb
from docdb_stream import Poller, Settings
from docdb_stream.admin.verify import verify as compare
from docdb_stream.events import ChangeEvent
from docdb_stream.target import Rejection

SNAPSHOT_DOCUMENTS = 100_000
LOGGED_DOCUMENTS = 60_000
LARGE_DOCUMENTS = 20_000
GROWN_DOCUMENTS = (10_000, 1_000_000)
BESIDE_DOCUMENTS, BESIDE_SAMPLES = 1_000_000, 100
VERIFIED_DOCUMENTS = {"mongodb": 50_000, "opensearch": 10_000}
AS_A_STREAM = ("kafka", "s3")


def snapshot(plan: Plan) -> list[Figure]:
    """Discarded, beside a raw find; into Kafka and S3, beside the same documents as changes; its memory, its cost as it
    grows, and how long changes take meanwhile."""
    delivered = [_delivered(plan, target) for target in AS_A_STREAM]
    return [_discarded(plan), *delivered, _memory(plan), _growth(plan), _latency(plan)]


def _discarded(plan: Plan) -> Figure:
    documents = plan.pick(SNAPSHOT_DOCUMENTS, 5_000)
    plan.say(f"snapshot: inserting {documents:,} documents")
    with Source(documents) as source:
        meter = Meter(documents)
        contenders = {
            "raw find": partial(_find_rate, source.collection, documents),
            "by _id": partial(_find_rate, source.collection, documents, sort=[("_id", 1)]),
            "snapshot": meter.metered(lambda: source.deliver([Discard()], start_at="snapshot")[0]),
        }
        found = interleaved(contenders, plan, "snapshot")
    return found.figure(
        "a snapshot, every document rendered and discarded",
        "snapshot",
        "raw find",
        wanted=">= 0.60",
        aim=">= 0.80",
        details={**found.medians, **meter.details, "documents": documents},
        note="a raw find walks the collection in its natural order; by _id it takes the server longer",
    )


def _delivered(plan: Plan, target: str) -> Figure:
    documents = plan.pick(LOGGED_DOCUMENTS, 3_000)
    with Source(documents) as source, Servers(target) as servers:

        def deliver(**options: Any) -> float:
            with servers.new(target) as destination:
                return source.deliver(**{**destination, **options})[0]

        contenders = {"stream": deliver, "snapshot": partial(deliver, start_at="snapshot")}
        found = interleaved(contenders, plan, f"snapshot to {target}")
    return found.figure(f"a snapshot to {target}", "snapshot", "stream", details={"documents": documents})


def _memory(plan: Plan) -> Figure:
    documents = plan.pick(LARGE_DOCUMENTS, 500)
    with Source(documents, order_16_kb, oplog_size_mb=4_000) as source:
        options = {"extra_targets": "discard", "start_at": "snapshot"}
        done = command.run({**source.stream(), **options}).expect(documents)
    return Figure(
        f"peak memory of a snapshot: {documents:,} documents of 16 KB",
        done.peak_mib,
        "MiB",
        wanted="< 256",
        details={"documents": documents},
        note="ru_maxrss of docdb-stream run",
    )


def _growth(plan: Plan) -> Figure:
    rates = {}
    for documents in (GROWN_DOCUMENTS[0], plan.pick(GROWN_DOCUMENTS[1], 2 * GROWN_DOCUMENTS[0])):
        plan.say(f"snapshot growth: inserting {documents:,} documents")
        with Source(documents) as source:
            rounds = plan.pick(GROWN_DOCUMENTS[1] // documents if documents < GROWN_DOCUMENTS[1] else 1, 1)
            found = [source.deliver([Discard()], start_at="snapshot")[0] for _ in range(min(rounds, plan.rounds) + 1)]
        rates[documents] = statistics.median(found[1:])
    few, many = rates
    return Figure(
        f"a snapshot of {many:,} documents",
        rates[many],
        "events/s",
        wanted=">= 0.90",
        of=f"of {few:,}",
        of_value=rates[few],
        ratio=rates[many] / rates[few],
        note="the cost of a document does not grow with their number",
    )


class _Changes(Discard):
    """Discards, and notes when changes came."""

    def __init__(self, arrivals: queue.Queue[float]) -> None:
        super().__init__()
        self.documents = 0
        self._arrivals = arrivals

    def write(self, events: Sequence[ChangeEvent]) -> Sequence[Rejection]:
        super().write(events)
        arrived = time.perf_counter()
        for event in events:
            if event.snapshot_id is None:
                self._arrivals.put(arrived)
            else:
                self.documents += 1
        return ()


def _latency(plan: Plan) -> Figure:
    documents, samples = plan.pick(BESIDE_DOCUMENTS, 100_000), plan.pick(BESIDE_SAMPLES, 10)
    plan.say(f"snapshot latency: inserting {documents:,} documents")
    arrivals: queue.Queue[float] = queue.Queue()
    target = _Changes(arrivals)
    with (
        Source(documents) as source,
        Poller.from_settings(source.settings(start_at="snapshot"), [target]) as poller,
        following(poller),
    ):
        found = latencies(source, arrivals, samples)
        if target.documents >= documents:
            raise RuntimeError("the snapshot was over before the changes were: no latency beside it can be told")
    most_ms = 1000 * statistics.quantiles(found, n=100, method="inclusive")[98]
    return Figure(
        "commit to delivered while a snapshot runs, 99 of 100 within",
        most_ms,
        "ms",
        wanted="< 1000",
        details={"samples": len(found), "half_ms": 1000 * statistics.median(found)},
        note=f"one insert at a time beside a snapshot of {documents:,} documents that is read at full speed",
    )


def verify(plan: Plan) -> list[Figure]:
    """Of a mirror and of an index that are equal: both are read once, and folded."""
    return [_verified(plan, target) for target in VERIFIED_DOCUMENTS]


def _verified(plan: Plan, target: str) -> Figure:
    documents = plan.pick(VERIFIED_DOCUMENTS[target], 1_000)
    with Source(documents) as source, Servers(target) as servers, servers.new(target) as destination:
        settings = source.settings(**destination)
        source.deliver(**{**destination, "stream_name": settings.stream_name})
        meter = Meter(documents)
        read = _mirror_of if target == MIRROR else _index_of
        with read(settings) as other_side:

            def raw() -> float:
                return rate_of(documents, lambda: (_find(source.collection), other_side()))

            contenders = {"raw read": raw, "verify": meter.metered(partial(_verify_rate, settings, documents))}
            found = interleaved(contenders, plan, f"verify {target}")
    return found.figure(
        f"verify of {target}",
        "verify",
        "raw read",
        wanted=">= 0.50",
        details={**meter.details, "documents": documents},
        note="documents of one side a second; a raw read reads all of both, one after the other",
    )


def _verify_rate(settings: Settings, documents: int) -> float:
    def run() -> None:
        [result] = compare(settings)
        if not result.is_equal or result.documents != documents:
            raise RuntimeError(f"not equal: {result.as_dict()}")

    return rate_of(documents, run)


@contextlib.contextmanager
def _mirror_of(settings: Settings) -> Any:
    from pymongo import MongoClient

    own = settings.targets[MIRROR]
    database = str(own.mongodb_target_namespace).replace("{db}", DB).partition(".")[0]
    with MongoClient[dict[str, Any]](str(own.where)) as client:
        yield partial(_find, client[database][COLLECTION])


@contextlib.contextmanager
def _index_of(settings: Settings) -> Any:
    from opensearchpy import OpenSearch, helpers

    own = settings.targets["opensearch"]
    index = f"{own.opensearch_index_prefix}{NAME}"
    with OpenSearch(own.where) as client:

        def read() -> None:
            for _ in helpers.scan(client, index=index, size=1000):
                pass

        yield read


def _find_rate(collection: Collection[dict[str, Any]], documents: int, **options: Any) -> float:
    return rate_of(documents, partial(_find, collection, **options))


def _find(collection: Collection[dict[str, Any]], **options: Any) -> None:
    for _ in collection.find_raw_batches({}, batch_size=BATCH_SIZE, **options):
        pass
