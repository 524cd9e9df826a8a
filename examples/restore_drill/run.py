"""Loses a target and rebuilds it from the archive in S3 while writers go on, and prints how long each part took.

python examples/restore_drill/run.py [--documents 20000] [--writers 2]. Exits with 1 if anything is not equal.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from docdb_stream.local import AwsServer, ReplicaSet
from docdb_stream.local.process import wait_until

HERE = Path(__file__).parent
STREAM = "shop"


def main() -> int:
    """Start the servers, do the drill, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--documents", type=int, default=20_000, help="documents before the target is lost")
    parser.add_argument("--writers", type=int, default=2, help="who goes on writing meanwhile")
    arguments = parser.parse_args()
    with ReplicaSet() as source, ReplicaSet() as target, AwsServer() as aws:
        aws.client("s3").create_bucket(Bucket="drill")
        environment = {
            **os.environ,
            **aws.environment(),
            "DOCUMENTDB_URI": source.uri,
            "MONGODB_TARGET_URI": target.uri,
            "BUCKET_NAME": "drill",
        }
        with source.client() as ours, target.client() as theirs:
            return Drill(ours, theirs, environment).play(arguments.documents, arguments.writers)


class Drill:
    """From the first document to the last comparison."""

    def __init__(self, source: Any, target: Any, environment: dict[str, str]) -> None:
        self._source, self._target = source, target
        self._environment = environment
        self._console = Console()
        self._times = Table("part", "seconds", "", title="Restore drill")

    def play(self, documents: int, writers: int) -> int:
        """Returns the exit code."""
        self._docdb_stream("run")  # the stream begins before the first document
        orders = self._source[STREAM].orders
        for first in range(0, documents, 1000):
            count = min(1000, documents - first)
            orders.insert_many([{"_id": first + number, "n": 0} for number in range(count)])
        for key in range(0, documents, 7):
            orders.update_one({"_id": key}, {"$inc": {"n": 1}})
        orders.delete_many({"_id": {"$mod": [11, 3]}})
        with self._timed("stream into S3 and the target"):
            self._docdb_stream("run")
        with self._followed(), self._written(documents, writers):
            copies = self._target[STREAM].orders
            wait_until(lambda: copies.count_documents({"_id": -1}), "the stream goes on", timeout_s=60)
            with self._timed("lose the target"):
                for name in (STREAM, "docdb_stream_target"):  # the documents, and their versions
                    self._target.drop_database(name)
            with self._timed("restore, beside the stream") as note:
                found = json.loads(self._docdb_stream("restore", STREAM, "--to", "mongodb", "--json"))
                note(f"{found['events']:,} events of {found['objects']:,} objects")
            with self._timed("verify, beside the writers") as note:
                note(self._verified()[1])
        with self._timed("verify, once all is quiet") as note:
            self._docdb_stream("run")
            code, told = self._verified()
            note(told)
        self._console.print(self._times)
        mine, theirs = (
            {each["_id"]: each["n"] for each in client[STREAM].orders.find({}, {"n": 1})}
            for client in (self._source, self._target)
        )
        is_equal = code == 0 and mine == theirs
        self._console.print("✓ every document is equal" if is_equal else "✗ the target is not equal to the source")
        return 0 if is_equal else 1

    @contextmanager
    def _timed(self, what: str) -> Iterator[Callable[[str], None]]:
        told: list[str] = []
        self._console.print(f"{what} ...")
        began_s = time.monotonic()
        yield told.append
        self._times.add_row(what, f"{time.monotonic() - began_s:.1f}", " ".join(told))

    @contextmanager
    def _followed(self) -> Iterator[None]:
        """The stream runs as a process of its own."""
        command = [sys.executable, "-m", "docdb_stream", "run", "--follow", "--config", str(HERE / "config.ini")]
        with subprocess.Popen(command, env=self._environment, stdout=subprocess.DEVNULL) as process:
            try:
                yield
            finally:
                process.terminate()
                process.wait(60)

    @contextmanager
    def _written(self, documents: int, writers: int) -> Iterator[None]:
        """Shops go on writing."""
        stop = threading.Event()

        def write(seed: int) -> None:
            chance, orders = random.Random(seed), self._source[STREAM].orders
            while not stop.wait(0.02):
                key = chance.randrange(documents)
                if chance.random() < 0.2:
                    orders.delete_one({"_id": key})
                else:
                    orders.update_one({"_id": key}, {"$inc": {"n": 1}}, upsert=True)
                orders.update_one({"_id": -1 - seed}, {"$inc": {"n": 1}}, upsert=True)

        threads = [threading.Thread(target=write, args=(seed,), daemon=True) for seed in range(writers)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            stop.set()
            for thread in threads:
                thread.join()

    def _verified(self) -> tuple[int, str]:
        """The exit code, and what is told."""
        done = self._done("verify", STREAM, "--target", "mongodb", "--json")
        figures = json.loads(done.stdout.splitlines()[-1])["places"].values()
        counts = {
            name: sum(each[name] for each in figures) for name in ("documents", "missing", "differing", "changing")
        }
        return done.returncode, ", ".join(f"{count:,} {name}" for name, count in counts.items())

    def _docdb_stream(self, *arguments: str) -> str:
        done = self._done(*arguments)
        if done.returncode:
            sys.exit(f"docdb-stream {' '.join(arguments)}: exit code {done.returncode}\n{done.stderr}")
        return done.stdout

    def _done(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "docdb_stream", *arguments, "--config", str(HERE / "config.ini")]
        return subprocess.run(command, env=self._environment, capture_output=True, text=True)


if __name__ == "__main__":
    sys.exit(main())
