"""What really happened: a writer, and a recorder that reads change streams with plain PyMongo."""

from __future__ import annotations

import random
import threading
import time
from typing import Any

from bson import json_util
from pymongo import DeleteOne, InsertOne, MongoClient, ReplaceOne, UpdateOne, WriteConcern
from pymongo.errors import PyMongoError

from docdb_stream.local.demo.recorder import Recorder

Document = dict[str, Any]

COLLECTIONS = ("hot", "cold", "large")
STILL = "still"
"""A collection that is there before the stream begins, and never changes: what is in it comes by a snapshot alone."""
STILL_DOCUMENTS = 2_000
HOT, COLD = 6, 300
"""Documents that are written all the time, and documents that are written now and then."""
LARGE_BYTES = 20_000
_BATCH = 12  # writes in one request


class Writer:
    """Writes numbered versions of documents; every write is journaled by a majority.

    Args:
        client: Of the replica set, with retryable writes.
        db: The database to write to.
        seed: Equal seeds make the same choices, as far as the faults that the writer meets itself are the same.
        per_s: Writes per second, at most.

    Attributes:
        acknowledged: The versions whose writes were acknowledged.
    """

    def __init__(self, client: MongoClient[Document], db: str, *, seed: int, per_s: float) -> None:
        database = client.get_database(db, write_concern=WriteConcern(w="majority", j=True, wtimeout=10_000))
        self._collections = {name: database[name] for name in COLLECTIONS}
        self._existing: dict[str, set[int]] = {name: set() for name in self._collections}
        self._chance = random.Random(seed)
        self._per_s = per_s
        self._version = 0
        self._stop = threading.Event()
        self.slow_down = threading.Event()
        self.acknowledged: set[int] = set()
        self._thread = threading.Thread(target=self._write, daemon=True)

    def begin_with_documents(self) -> None:
        """Have documents that are there before any stream begins."""
        for name in ("hot", "cold", STILL):
            ids = range({"hot": HOT, "cold": COLD, STILL: STILL_DOCUMENTS}[name])
            self._collections["hot"].database[name].insert_many([{"_id": _id, "version": 0} for _id in ids])
            if name in self._existing:
                self._existing[name] = {*ids}

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(60)
        assert not self._thread.is_alive(), "the writer hangs"

    def _write(self) -> None:
        while not self._stop.is_set():
            name = self._chance.choices(COLLECTIONS, (60, 38, 2))[0]
            before = set(self._existing[name])
            requests, versions = self._requests(name)
            started_s = time.monotonic()
            try:
                self._collections[name].bulk_write(requests)
                self.acknowledged |= versions
            except PyMongoError:
                # Some may have been written: look, and go on from there.
                self._existing[name] = self._look(name) or before
            pace_s = len(requests) / self._per_s * (10 if self.slow_down.is_set() else 1)
            self._stop.wait(max(0.0, pace_s - (time.monotonic() - started_s)))

    def _look(self, name: str) -> set[int]:
        while not self._stop.is_set():
            try:
                return set(self._collections[name].distinct("_id"))
            except PyMongoError:
                time.sleep(0.1)
        return set()

    def _requests(self, name: str) -> tuple[list[Any], set[int]]:
        if name == "large":  # inserted only: Kinesis is told to take none of these
            self._version += 1
            document = {"_id": self._version, "version": self._version, "text": "x" * LARGE_BYTES}
            return [InsertOne(document)], {self._version}
        existing, requests, versions = self._existing[name], [], set()
        for _ in range(self._chance.randint(1, _BATCH)):
            _id = self._chance.randrange(HOT if name == "hot" else COLD)
            kind = self._chance.choices(("update", "replace", "delete"), (70, 20, 10))[0]
            if _id in existing and kind == "delete":
                existing.discard(_id)
                requests.append(DeleteOne({"_id": _id}))
                continue
            self._version += 1
            versions.add(self._version)
            document = {"_id": _id, "version": self._version, "note": "n" * self._chance.randrange(200)}
            if _id not in existing:
                existing.add(_id)
                requests.append(InsertOne(document))
            elif kind == "update":
                requests.append(UpdateOne({"_id": _id}, {"$set": {"version": self._version}}))
            else:
                requests.append(ReplaceOne({"_id": _id}, document))
        return requests, versions


class PatientRecorder(Recorder):
    """The demo's recorder, going on after elections and lost primaries."""

    def __init__(self, client: MongoClient[Document], db: str) -> None:
        self._database = client[db]
        self._events = []
        self._stream = self._database.watch(max_await_time_ms=200)
        self._token = self._stream.resume_token
        assert self._token is not None

    def run(self, stop: threading.Event) -> None:
        while not stop.is_set():
            try:
                with self._stream:
                    while not stop.is_set():
                        event = self._stream.try_next()
                        if event is not None:
                            self._events.append(event)
                        self._token = self._stream.resume_token
            except PyMongoError:
                time.sleep(0.1)
            while not stop.is_set():
                try:
                    self._stream = self._database.watch(resume_after=self._token, max_await_time_ms=200)
                    break
                except PyMongoError:
                    time.sleep(0.1)

    def has(self, version: int) -> bool:
        """Whether the write of this version is recorded; for one that was written lately."""
        return any(version_of(event) == version for event in reversed(self._events[-1000:]))


def version_of(event: Document) -> int | None:
    """The version that an event's write gave the document, also from Extended JSON; None for deletes."""
    if event["operationType"] == "update":
        changed = event["updateDescription"]["updatedFields"].get("version")
        return None if changed is None else int(changed)
    return int(event["fullDocument"]["version"]) if event.get("fullDocument") else None


def as_text(document: Document) -> str:
    """For messages."""
    return json_util.dumps(document)
