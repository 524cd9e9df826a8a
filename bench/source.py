"""A replica set of its own with a collection of inserts: what the poller reads, and what a raw drain reads."""

from __future__ import annotations

import datetime as dt
import itertools
import random
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import cache
from typing import Any, Self

import bson
from bson import ObjectId, Timestamp
from pymongo import MongoClient
from pymongo.collection import Collection

from bench.rounds import rate_of
from docdb_stream import Poller, RunResult, Settings
from docdb_stream.events import ChangeEvent, Namespace
from docdb_stream.local import ReplicaSet
from docdb_stream.target import Target

# Documents: orders of a shop, with the types that orders have and text that does not repeat itself

Document = dict[str, Any]
Maker = Callable[[int], Document]
"""Makes the document of a number, always the same for the same number but for its ``_id``, which the driver adds."""

_VARIETY = 500
"""Different documents of a size; what is inserted differs from one to the next in its number besides."""
_MONDAY = dt.datetime(2026, 1, 5, tzinfo=dt.UTC)
_SYLLABLES = tuple(
    "ka lo mi ren ta vel so dur qui pa nes tor il ba zen fo har lum ce wy ost ga dri mon".split(" ")  # noqa: SIM905
)


def order(number: int) -> Document:
    """An order whose insert is a change event of about 600 bytes."""
    return {**_orders()[number % _VARIETY], "number": number}


def order_16_kb(number: int) -> Document:
    """An order with a hundred lines, about 16 KB."""
    return {**_large_orders()[number % _VARIETY], "number": number}


def order_16_mb(number: int) -> Document:
    """An order of 15.9 MB, near the 16 MiB that the server takes."""
    large = _large_orders()
    return {**order(number), "parts": [large[(number + part) % _VARIETY] for part in range(_parts_of_16_mb())]}


def _text(chance: random.Random, words: int) -> str:
    return " ".join("".join(chance.choices(_SYLLABLES, k=chance.randint(1, 3))) for _ in range(words))


def _order(chance: random.Random) -> Document:
    return {
        "customer": ObjectId(chance.randbytes(12)),
        "placed": _MONDAY + dt.timedelta(milliseconds=chance.randrange(10**10)),
        "status": chance.choice(["new", "paid", "packed", "sent"]),
        "total": round(chance.uniform(1, 900), 2),
        "quantity": chance.randrange(1, 20),
        "express": chance.random() < 0.2,
        "address": {"street": f"{_text(chance, 2)} {chance.randrange(1, 200)}", "city": _text(chance, 1)},
        "note": _text(chance, 9),
        "tags": [_text(chance, 1) for _ in range(3)],
    }


def _line(chance: random.Random) -> Document:
    return {
        "sku": chance.randbytes(6).hex(),
        "name": _text(chance, 3),
        "description": _text(chance, 9),
        "price": round(chance.uniform(1, 200), 2),
        "quantity": chance.randrange(1, 9),
    }


@cache
def _orders() -> list[Document]:
    chance = random.Random(600)
    return [_order(chance) for _ in range(_VARIETY)]


@cache
def _large_orders() -> list[Document]:
    chance = random.Random(16)
    return [{**_order(chance), "lines": [_line(chance) for _ in range(100)]} for _ in range(_VARIETY)]


@cache
def _parts_of_16_mb() -> int:
    mean_bytes = sum(len(bson.encode(large)) for large in _large_orders()) / _VARIETY
    return int(15_900_000 / (mean_bytes + 5))  # each with its type and its number in the array


def made(maker: Maker, count: int) -> Iterator[Document]:
    """``count`` documents."""
    return map(maker, range(count))


# The collection

DB, COLLECTION = "bench", "orders"
NAME = Namespace(DB, COLLECTION).label
"""As topics and indexes are called."""
BATCH_SIZE = int(Settings.model_fields["batch_size"].default)
_INSERTED_TOGETHER_BYTES = 32_000_000
_numbers = itertools.count(1)


class Source(AbstractContextManager["Source"]):
    """One collection, filled once; every run of a poller over it is a stream of its own, which starts at its start.

    Args:
        events: How many inserts it holds.
        maker: Makes the documents.
        oplog_size_mb: Has to hold all of them. By default the server takes a share of the disk.
    """

    def __init__(self, events: int, maker: Maker = order, oplog_size_mb: int | None = None) -> None:
        self.events = events
        self._maker = maker
        self._mongo = ReplicaSet() if oplog_size_mb is None else ReplicaSet(oplog_size_mb=oplog_size_mb)
        self._size_bytes = 0

    def __enter__(self) -> Self:
        self._mongo.start()
        try:
            self.client: MongoClient[Document] = self._mongo.client()
            # The local server's own 0.25 GB do not take the insert of a document of 16 MB.
            self.client.admin.command("setParameter", 1, wiredTigerEngineRuntimeConfig="cache_size=2GB")
            self.started = self.client.admin.command("ping")["operationTime"].time
            self.fill(COLLECTION, self.events)
        except BaseException:
            self._mongo.stop()
            raise
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.client.close()
        self._mongo.stop()

    @property
    def collection(self) -> Collection[Document]:
        """The collection that is watched."""
        return self.client[DB][COLLECTION]

    def fill(self, collection: str, count: int) -> None:
        """Insert ``count`` more documents."""
        documents: list[Document] = []
        room = 0
        for document in made(self._maker, count):
            if not documents:
                room = max(1, _INSERTED_TOGETHER_BYTES // max(1, len(str(document))))
            documents.append(document)
            if len(documents) >= min(room, 10_000):
                self.client[DB][collection].insert_many(documents, ordered=False)
                documents = []
        if documents:
            self.client[DB][collection].insert_many(documents, ordered=False)

    # What the poller does

    def settings(self, **options: Any) -> Settings:
        """A new stream that starts before the first insert and goes on until it is caught up; defaults otherwise."""
        return Settings(**{**self.stream(), **options})

    def stream(self) -> dict[str, Any]:
        """The settings of such a stream, by name."""
        return {
            "documentdb_uri": self._mongo.uri,
            "watched_db_name": DB,
            "watched_collection_name": COLLECTION,
            "stream_name": f"stream-{next(_numbers)}",
            "start_at": dt.datetime.fromtimestamp(self.started, dt.UTC),
            "max_loop": 0,
        }

    def deliver(
        self, targets: list[Target] | None = None, *, delivered: int | None = None, **options: Any
    ) -> tuple[float, RunResult]:
        """Run a poller over all of it: the rate, in events per second of ``Poller.run``, and the result.

        Args:
            targets: Instead of those that the options switch on.
            delivered: How many of the events are to reach the targets; all by default. The rate counts all.
            options: More settings.

        Raises:
            RuntimeError: Not every event was delivered: a figure of such a run is none.
        """
        with Poller.from_settings(self.settings(**options), targets) as poller:
            results: list[RunResult] = []
            rate = rate_of(self.events, lambda: results.append(poller.run()))
        (result,) = results
        expected = self.events if delivered is None else delivered
        counts = [result.events, *(figures.events for figures in result.targets.values())]
        if result.rejections or set(counts) != {expected}:
            raise RuntimeError(f"not just {expected} of {self.events} events were delivered: {result.as_dict()}")
        return rate, result

    # What PyMongo does

    def drain_rate(self) -> float:
        """Events per second when the change stream is read as fast as PyMongo can, and nothing is done with it."""
        expected = self._size_bytes or sum(map(len, self._replies()))
        self._size_bytes = expected

        def drain() -> None:
            found = 0
            for reply in self._replies():
                found += len(reply)
                if found >= expected:
                    return

        return rate_of(self.events, drain)

    def change_events(self) -> list[ChangeEvent]:
        """Every event, as the poller has it."""
        return [ChangeEvent(raw) for reply in self._replies() for raw in _documents(reply)]

    def _replies(self) -> Any:
        """The stream's replies, each the BSON of its events one after the other, until the last event was seen."""
        stage = {"fullDocument": "updateLookup", "startAtOperationTime": Timestamp(self.started, 0)}
        with self.collection.aggregate_raw_batches([{"$changeStream": stage}], batchSize=BATCH_SIZE) as cursor:
            left = self.events
            for reply in cursor:
                yield reply
                if not self._size_bytes:
                    left -= len(_documents(reply))
                    if left <= 0:
                        return


def _documents(reply: bytes) -> list[bytes]:
    found, start = [], 0
    while start < len(reply):
        end = start + int.from_bytes(reply[start : start + 4], "little")
        found.append(reply[start:end])
        start = end
    return found
