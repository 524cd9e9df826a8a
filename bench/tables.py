"""Tables: Parquet beside pyarrow alone, Iceberg's commits beside pyiceberg alone, a load beside a bare COPY, and what
an event of Parquet costs as their number and that of the columns grow."""

from __future__ import annotations

import contextlib
import io
import itertools
import tempfile
import time
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

from bson import ObjectId

from bench.report import Figure
from bench.rounds import Meter, Plan, interleaved, rate_of
from bench.servers import Servers
from bench.source import BATCH_SIZE, COLLECTION, DB, Document, Source, order
from docdb_stream.context import RunContext, running
from docdb_stream.events import Events, Namespace
from docdb_stream.formats.parquet import PARQUET, Parquet
from docdb_stream.load.loading import load
from docdb_stream.local import PostgresServer
from docdb_stream.schema.columns import Column
from docdb_stream.schema.ledger import Ledger, Moment
from docdb_stream.schema.shape import shape_of
from docdb_stream.targets._iceberg.catalog import NAME
from docdb_stream.targets.iceberg import IcebergTarget
from docdb_stream.targets.s3 import OBJECT_BYTES
from docdb_stream.testing.events import ChangeLog

EVENTS = 20_000
LOADED_EVENTS = 50_000
GROWN_EVENTS = (10_000, 1_000_000)
WIDE_EVENTS, WIDE_COLUMNS = (1_000, 20_000), 500
_numbers = itertools.count(1)


def tables(plan: Plan) -> list[Figure]:
    """Each beside what does the same with rows that are ready."""
    orders = Changes(plan.pick(EVENTS, 1_000))
    return [
        _parquet(plan, orders, Parquet(), "Parquet"),
        _parquet(plan, orders, Parquet(is_nested=True), "Parquet with structs and lists"),
        _iceberg(plan, orders),
        _load(plan),
        _growth(plan, GROWN_EVENTS, orders, "Parquet"),
        _growth(plan, WIDE_EVENTS, Changes(WIDE_EVENTS[0], _wide), f"Parquet with {WIDE_COLUMNS} columns"),
    ]


class Changes:
    """Inserts, and the columns that a ledger makes of their documents: as a run has them."""

    def __init__(self, count: int, maker: Any = order) -> None:
        log, ledger = ChangeLog(DB, COLLECTION), Ledger(Namespace(DB, COLLECTION))
        events = [log.insert({"_id": ObjectId(), **maker(number)}) for number in range(count)]
        for event in events:
            ledger.learn(shape_of(event.full_document or {}), Moment.of(event.event_id, event.cluster_time))
        self._columns: Sequence[Column] = ledger.columns()
        self._raws = [event.raw for event in events]

    def batches(self, count: int) -> Iterator[Events]:
        """So many events, those that there are again and again, as a run reads them."""
        raws = itertools.islice(itertools.cycle(self._raws), count)
        while batch := [*itertools.islice(raws, BATCH_SIZE)]:
            yield Events.of(batch)

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """As within a run that keeps their ledger."""
        with running(RunContext(columns_of=lambda namespace: self._columns)):
            yield

    @property
    def count(self) -> int:
        """How many there are."""
        return len(self._raws)

    def written(self, count: int, file_format: Parquet = PARQUET) -> io.BytesIO:
        """The last of the files that they make, each of the size that S3's target gives them."""
        content = io.BytesIO()
        with self.running(), contextlib.ExitStack() as stack:
            writer, held_bytes = None, 0
            for batch in self.batches(count):
                if writer is None:
                    content = io.BytesIO()
                    writer = file_format.writer(content.write)
                    stack.callback(writer.close)
                payloads = [each for each in batch.render(file_format.takes) if isinstance(each, bytes)]
                writer.append(payloads)
                held_bytes += sum(map(len, payloads))
                if held_bytes >= OBJECT_BYTES:
                    writer.finish()
                    writer.close()
                    writer, held_bytes = None, 0
            if writer is not None:
                writer.finish()
        return content


def _wide(number: int) -> Document:
    return {f"field_{at}": number + at for at in range(WIDE_COLUMNS)}


def _parquet(plan: Plan, changes: Changes, file_format: Parquet, what: str) -> Figure:
    import pyarrow as pa
    import pyarrow.parquet as pq

    ready = pq.read_table(changes.written(changes.count, file_format))
    rows, schema = ready.to_pylist(), ready.schema

    def alone() -> None:
        pq.write_table(pa.Table.from_pylist(rows, schema), io.BytesIO(), compression="snappy")

    meter, bare = Meter(changes.count), Meter(changes.count)
    contenders = {
        "pyarrow alone": bare.metered(partial(rate_of, changes.count, alone)),
        "ours": meter.metered(partial(rate_of, changes.count, partial(changes.written, changes.count, file_format))),
    }
    found = interleaved(contenders, plan, what)
    alone_us = bare.details.get("own_cpu_us", 0.0)
    return found.figure(
        what,
        "ours",
        "pyarrow alone",
        wanted=">= 0.50",
        details={**meter.details, "pyarrow_cpu_us": alone_us, "events": changes.count},
        note="of BSON, with the rendering of _raw; pyarrow has the rows as Python's dicts",
    )


def _iceberg(plan: Plan, changes: Changes) -> Figure:
    from pyiceberg.catalog import load_catalog

    with tempfile.TemporaryDirectory(prefix="bench-iceberg-") as folder:
        places = {"uri": f"sqlite:///{folder}/catalog.db", "warehouse": f"file://{folder}"}
        target = IcebergTarget(places["uri"], warehouse=places["warehouse"])

        def ours() -> None:
            with changes.running():
                for batch in changes.batches(changes.count):
                    target.write(batch)
                target.flush()

        ours()
        catalog = load_catalog(NAME, type="sql", **places)
        [name] = [each for namespace in catalog.list_namespaces() for each in catalog.list_tables(namespace)]
        made = catalog.load_table(name)
        ready = made.scan().to_arrow()
        bare = catalog.create_table((*name[:-1], "bare"), made.schema(), partition_spec=made.spec())
        contenders = {
            "pyiceberg alone": partial(rate_of, changes.count, partial(bare.append, ready)),
            "ours": partial(rate_of, changes.count, ours),
        }
        found = interleaved(contenders, plan, "Iceberg")
        target.close()
    return found.figure(
        "a commit to Iceberg",
        "ours",
        "pyiceberg alone",
        details={"events": changes.count},
        note="pyiceberg has the rows as Arrow's table",
    )


def _load(plan: Plan) -> Figure:
    import psycopg

    events = plan.pick(LOADED_EVENTS, 2_000)
    plan.say(f"load: inserting {events:,} documents")
    with Source(events) as source, Servers("s3") as servers, PostgresServer() as postgres, servers.new("s3") as bucket:
        given = {**bucket, "s3_format": "parquet", "warehouse_uri": postgres.uri}
        settings = source.settings(**given)
        source.deliver(**{**given, "stream_name": settings.stream_name})
        with psycopg.connect(postgres.uri, autocommit=True) as connection:

            def ours() -> float:
                new = settings.model_copy(update={"warehouse_schema": f"load_{next(_numbers)}"})
                results = []
                rate = rate_of(events, lambda: results.append(load(new)))
                if results[0].loaded.rows != events:
                    raise RuntimeError(f"{results[0].loaded.rows} of {events} events were loaded")
                return rate

            ours()
            table = f'load_{next(_numbers) - 1}."{DB}_{COLLECTION}"'
            with connection.cursor().copy(f"COPY {table} TO STDOUT") as copy:  # type: ignore[call-overload]
                ready = b"".join(bytes(each) for each in copy)

            def bare() -> float:
                new = f"bare_{next(_numbers)}"
                connection.execute(f"CREATE TABLE {new} (LIKE {table})")  # type: ignore[call-overload]
                return rate_of(events, partial(_copy, connection, new, ready))

            found = interleaved({"bare COPY": bare, "load": ours}, plan, "load")
    return found.figure(
        "a load into PostgreSQL",
        "load",
        "bare COPY",
        details={"events": events},
        note="with S3, the newest state of each document and its primary key; COPY has the rows as text, and no key",
    )


def _copy(connection: Any, table: str, ready: bytes) -> None:
    with connection.cursor().copy(f"COPY {table} FROM STDIN") as copy:
        copy.write(ready)


def _growth(plan: Plan, counts: tuple[int, int], changes: Changes, what: str) -> Figure:
    few, many = counts[0], plan.pick(counts[1], 2 * counts[0])
    costs_us: dict[int, float] = {}
    changes.written(changes.count)
    for count in (few, many):
        plan.say(f"growth: {what}, {count:,} events")
        times = max(1, min(10, counts[1] // count // 10))
        began_s = time.process_time()
        for _ in range(times):
            changes.written(count)
        costs_us[count] = 1e6 * (time.process_time() - began_s) / (times * count)
    return Figure(
        f"CPU of an event: {what}, {many:,} events",
        costs_us[many],
        "us",
        wanted="< 1.15",
        of=f"of {few:,}",
        of_value=costs_us[few],
        ratio=costs_us[many] / costs_us[few],
        note="the cost of an event does not grow with their number",
    )
