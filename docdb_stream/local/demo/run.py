"""The demo's course: start, stream, crash, resume, stop, catch up, read back, judge.

Owns the order of things and the exit status. Ctrl-C at any moment unwinds it all, and whatever could not be unwound
dies with this process (see ``docdb_stream.local.guard``).
"""

from __future__ import annotations

import signal
import threading
from collections import Counter, defaultdict
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, TypeVar

from docdb_stream.checkpoint import Checkpoint
from docdb_stream.errors import DocdbStreamError, LeaseHeldError
from docdb_stream.local import LocalServers
from docdb_stream.local.demo.background import background
from docdb_stream.local.demo.destinations import Destination, KinesisDestination, all_destinations
from docdb_stream.local.demo.poller import PollerProcess
from docdb_stream.local.demo.recorder import Recorder
from docdb_stream.local.demo.screen import Screen
from docdb_stream.local.demo.verify import Verdict
from docdb_stream.local.demo.workload import Workload
from docdb_stream.local.process import wait_until
from docdb_stream.mongodb.connection import Connection
from docdb_stream.settings import Settings
from docdb_stream.stores.mongodb import MongoCheckpointStore

T = TypeVar("T")

DATABASE = "shop"
COLLECTIONS = ("products", "customers", "orders")
WRITES_PER_S = 250  # below what one poller delivers on two cores that all the servers share
MIN_WORKLOAD_S = 12.0  # the poller is to die and come back while the shop is still open
KILL_AT = 0.45  # of the workload
LEASE_S = 6.0  # how long a dead run's lease keeps the next one out where nothing proves its death
STEP_TIMEOUT_S = 240.0
_LOOK_EVERY_S = 0.1
INTERRUPTED = 130  # what shells say of a process ended by Ctrl-C

WRITTEN, DELIVERED = "written to MongoDB", "delivered to all five"


@dataclass(frozen=True)
class DemoOptions:
    """What may be chosen.

    Attributes:
        events: How many changes the shop makes.
        seed: Equal seeds make the same changes.
        keep: Leave the servers running at the end, until Ctrl-C.
    """

    events: int = 6_000
    seed: int = 1
    keep: bool = False


def run_demo(options: DemoOptions) -> int:
    """Run it on the terminal; return the exit status: 0 all is proven, 1 a defect was found, 130 Ctrl-C.

    Raises:
        DocdbStreamError: It could not be run to its end.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    screen = Screen()
    try:
        with ExitStack() as stack:
            demo = Demo(options, screen, stack)
            is_proven = demo.run()
            if options.keep:
                demo.keep()
    except KeyboardInterrupt:
        screen.text("\nInterrupted: everything that was started is stopped, its data is removed.")
        return INTERRUPTED
    screen.text(f"After {screen.elapsed_s:.0f} s everything that was started is stopped, and its data removed.")
    if is_proven:
        screen.text(_NEXT)
    return 0 if is_proven else 1


_NEXT = """
Where to go next:
  docdb-stream demo --keep     the same, and the servers stay until Ctrl-C, to be looked at
  docdb-stream doctor          check your own settings, cluster and targets before the first run
  docdb-stream run --help      what the demo ran; README.md has the first 20 lines of your own
"""


class Demo:
    """One demo.

    Args:
        options: What was chosen.
        screen: Where it tells what happens.
        stack: Takes what must be undone.
    """

    def __init__(self, options: DemoOptions, screen: Screen, stack: ExitStack) -> None:
        self._options = options
        self._screen = screen
        screen.title(
            "docdb-stream demo",
            f"A shop makes {options.events:,} changes in MongoDB. One stream carries them to Kinesis, SQS, Kafka, S3 "
            "and OpenSearch at once, is killed on the way, and has to end with nothing lost and nothing out of order.",
        )
        self._servers = stack.enter_context(LocalServers())
        screen.step("Real servers on free ports: a MongoDB replica set, Kafka, OpenSearch, AWS (Kinesis, SQS, S3)")
        self._client = stack.enter_context(self._servers.mongo.client())
        self._destinations: list[Destination] = all_destinations(self._servers)
        settings = self._settings()
        stream = Settings.model_validate(settings)
        self._stream = stream.stream_name
        self._store = MongoCheckpointStore(stream, Connection(stream, self._client))
        self._poller = stack.enter_context(PollerProcess(settings, self._servers.aws.environment()))
        # Threads that nobody waits for after Ctrl-C: they are told to stop, and are daemons in case they cannot.
        self._stop = threading.Event()
        stack.callback(self._stop.set)
        duration_s = max(MIN_WORKLOAD_S, options.events / WRITES_PER_S)
        self._workload = Workload(self._client[DATABASE], options.events, duration_s, options.seed)
        self._recorder = Recorder(self._client[DATABASE])

    def _settings(self) -> dict[str, Any]:
        settings: dict[str, Any] = {
            "documentdb_uri": self._servers.mongo.uri,
            "watched_db_name": DATABASE,
            "lease_seconds": LEASE_S,
            "batch_size": 100,
            "state_sync_count": 5,
            "max_loop": 0,
        }
        for destination in self._destinations:
            settings |= destination.create()
        return settings

    def run(self) -> bool:
        """From the first change to the table; return whether all is proven."""
        options, screen = self._options, self._screen
        recorded = background(lambda: self._recorder.run(self._stop))
        self._poller.start("--follow")
        self._until(lambda: self._checkpoint().position, "the poller has saved where it starts")
        screen.step(
            "Poller started: docdb-stream run --follow, one stream over the database, five targets",
            "Where it starts is saved before the first event: a crash in this very moment would lose nothing.",
        )
        screen.step("The shop opens: inserts, updates, replaces, deletes and transactions in three collections")
        with screen.progress({WRITTEN: options.events, DELIVERED: options.events}):
            written = background(lambda: self._workload.run(self._stop))
            self._until(lambda: self._workload.done >= KILL_AT * options.events, "the shop is busy", written)
            self._kill_and_resume(written)
            self._until(written.done, "the shop closes", written)
            self._stop_and_catch_up()
        wait_until(lambda: len(self._recorder) >= self._workload.done, "all is recorded", timeout_s=STEP_TIMEOUT_S)
        self._stop.set()
        recorded.result()
        return self._judge()

    # The poller's life

    def _kill_and_resume(self, written: Future[None]) -> None:
        kinesis = next(destination for destination in self._destinations if isinstance(destination, KinesisDestination))
        dead = self._until(lambda: self._killed_amid_delivery(kinesis), "the poller is amid a delivery", written)
        beyond = kinesis.count() - dead.events
        self._screen.blow(
            "Poller killed with SIGKILL, amid a delivery",
            f"Its checkpoint covers {dead.events:,} events, {beyond:,} more are in Kinesis already. The shop goes on.",
        )
        self._poller.start("--follow")
        refusals = 0

        def resumed() -> bool:
            nonlocal refusals
            if self._poller.exit_status is not None:
                refusals += 1
                self._poller.start("--follow")
            return self._checkpoint().epoch > dead.epoch

        held = LeaseHeldError.exit_code
        self._until(resumed, "the killed run's lease is free", written, may_end_with=held)
        self._screen.step(
            "Poller back, from its checkpoint",
            "A dead run's lease is free at once where its process is provably gone (Linux), elsewhere after "
            f"{LEASE_S:.0f} s. Attempts refused with exit 6: {refusals}.",
        )

    def _killed_amid_delivery(self, kinesis: KinesisDestination) -> Checkpoint | None:
        """Freeze the poller, look, and kill it if it has a checkpoint and has delivered events beyond that."""
        self._poller.freeze()
        checkpoint = self._checkpoint()
        if checkpoint.events and kinesis.count() > checkpoint.events:
            self._poller.kill()
            return checkpoint
        self._poller.thaw()
        self._stop.wait(0.2)  # it needs time to get there
        return None

    def _stop_and_catch_up(self) -> None:
        status = self._poller.terminate(STEP_TIMEOUT_S)
        if status:
            raise self._died(status)
        self._screen.step(
            "The shop closes, poller stopped with SIGTERM",
            "It flushed the five targets, saved its checkpoint and exited with 0.",
        )
        self._poller.start()
        self._until(lambda: self._poller.exit_status == 0, "the poller has caught up", may_end_with=0)
        last = self._results()[-1]
        if not last["caught_up"]:
            raise DocdbStreamError(f"the last run ended by {last['stopped_by']}, not caught up")
        self._screen.step(
            "One scheduled run: docdb-stream run",
            f"It delivered the {last['events']:,} events that were still missing, and ended by itself, caught up.",
        )

    def _died(self, status: int | None) -> DocdbStreamError:
        return DocdbStreamError(f"the poller ended with status {status}; its last words:\n{self._poller.log_tail()}")

    def _results(self) -> list[dict[str, Any]]:
        return [result for result in self._poller.results() if "error" not in result]

    def _checkpoint(self) -> Checkpoint:
        return self._store.load(self._stream) or Checkpoint(self._stream)

    # The judgement

    def _judge(self) -> bool:
        events = self._recorder.events()
        documents = {
            name: {found["_id"]: found for found in self._client[DATABASE][name].find()} for name in COLLECTIONS
        }
        kinds = Counter(event["operationType"] for event in events)
        self._screen.step(
            f"The truth, as plain PyMongo recorded it: {len(events):,} events",
            ", ".join(f"{count:,} {kind}s" for kind, count in kinds.most_common())
            + f"; {sum(map(len, documents.values())):,} documents in the end.",
        )
        readings = {
            destination.name: background(lambda destination=destination: destination.verdict(events, documents))  # type: ignore[misc]
            for destination in self._destinations
        }
        with self._screen.progress({"targets read back": len(readings)}):
            wait_until(lambda: self._read_back(readings), "the targets are read back", timeout_s=STEP_TIMEOUT_S)
        verdicts = [reading.result() for reading in readings.values()]
        self._screen.step("Every target was read back with its service's own client")
        self._screen.table(verdicts, self._rates())
        is_proven = all(verdict.ok for verdict in verdicts)
        if is_proven:
            text = f"Proven: {len(events):,} events, five targets, one SIGKILL; nothing lost, out of order or altered."
        else:
            text = "Not proven: " + ", ".join(verdict.target for verdict in verdicts if not verdict.ok)
        self._screen.conclusion(text, good=is_proven)
        return is_proven

    def _read_back(self, readings: dict[str, Future[Verdict]]) -> bool:
        done = sum(reading.done() for reading in readings.values())
        self._screen.advance({"targets read back": done})
        return done == len(readings)

    def _rates(self) -> dict[str, float]:
        """Events per second that the runs which could tell spent writing to each target and flushing it."""
        events: dict[str, int] = defaultdict(int)
        seconds: dict[str, float] = defaultdict(float)
        for result in self._results():
            for name, figures in result["targets"].items():
                events[name] += figures["events"]
                seconds[name] += figures["write_s"] + figures["flush_s"]
        return {name: events[name] / spent_s for name, spent_s in seconds.items() if spent_s}

    # Watching

    def _until(
        self,
        condition: Callable[[], T | None],
        what: str,
        written: Future[None] | None = None,
        *,
        may_end_with: int | None = None,
    ) -> T:
        """Wait, move the bars, and raise what goes wrong meanwhile.

        Args:
            condition: What to wait for.
            what: The same in words.
            written: The workload, while it may fail.
            may_end_with: The one exit status with which the poller may end while this is waited for.
        """

        def observed() -> T | None:
            self._stop.wait(_LOOK_EVERY_S)
            self._screen.advance({WRITTEN: self._workload.done, DELIVERED: self._checkpoint().events})
            if written is not None and written.done():
                written.result()
            status = self._poller.exit_status
            if status not in (None, may_end_with):
                raise self._died(status)
            return condition()

        return wait_until(observed, what, timeout_s=STEP_TIMEOUT_S)

    def keep(self) -> None:
        """Tell how to reach the servers and wait for Ctrl-C."""
        self._screen.text("\nThe servers stay until Ctrl-C:")
        for name, value in self._servers.environment().items():
            self._screen.text(f"  export {name}='{value}'")
        self._screen.text(f"  docdb-stream status --config {self._poller.config}")
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            self._screen.text()
