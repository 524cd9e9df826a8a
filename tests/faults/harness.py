"""The crash harness: one stream to five targets, through everything that can go wrong, and then the reckoning.

A writer changes documents in a replica set of three, while pollers are killed, paused and doubled, primaries step down
and die, and the way to the targets fails by a seeded plan. Then all is healed, one clean run catches up, and every
target is read back with its service's own client and compared with what plain PyMongo saw.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import random
import signal
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

from faults.nursery import Poller, Trap
from faults.poller_main import SNAPSHOT_STEPS, STEPS
from faults.reckoning import Outcome, judge
from faults.scene import DB, LEASE_S, STATE_DB, Scene, passes
from faults.truth import COLLECTIONS, STILL
from pymongo import WriteConcern
from pymongo.errors import PyMongoError

from docdb_stream.admin.verify import verify
from docdb_stream.checkpoint import SnapshotRequest
from docdb_stream.context import Deadline
from docdb_stream.errors import DocdbStreamError

T = TypeVar("T")

CATCH_UP_S = 600.0
BACKLOG = 4_000
"""Events not delivered yet at which the writer slows down: the harness is about faults, not about load."""

KINDS = {"trap": 45, "kill": 25, "pause": 10, "double": 8, "step down": 6, "kill primary": 6}
"""What happens to the poller in one round, and how often among a hundred."""
NTH = {"read": (1, 2, 3, 5), "write": (1, 2, 4, 7, 11), "flush": (1, 2, 4, 7, 11), "save": (1, 1, 2, 3)}
"""At which time of a step a trap goes off; writes and flushes are counted over the five targets."""
FOLLOW = ("--follow", "--give-up-after", "0")
"""A poller in trouble ends, as a supervisor would have it, and another takes its place."""
EXPECTED_EXITS = {0, 3, 4, 6, -signal.SIGKILL}


class Harness:
    """One run over a scene.

    Args:
        scene: Set up.
        seed: Of every choice.
        say: Gets progress lines.
    """

    def __init__(self, scene: Scene, *, seed: int, say: Callable[[str], None] = print) -> None:
        self._chance = random.Random(seed)
        self._seed = seed
        self._say = say
        self._began_s = time.monotonic()
        self._mongo, self._client, self._nursery = scene.mongo, scene.client, scene.nursery
        self._http, self._tcp, self._destinations = scene.http, scene.tcp, scene.destinations
        self._writer, self._recorder = scene.writer, scene.recorder
        self._healed = threading.Event()
        self._has_steps = scene.has_steps
        self._has_snapshot = scene.has_snapshot
        self._steps = (*STEPS, *(3 * SNAPSHOT_STEPS if scene.has_snapshot else ()))
        self._store, self._index = scene.store, scene.index
        self._requests = 0
        self._last_asked = ""
        self.outcome = Outcome(seed)

    # The rounds

    def run(self, *, minutes: float, kills: int) -> Outcome:
        """Rounds of faults for at least so long and until so many kills, every kind at least once; then heal, catch up
        and judge."""
        self._say(f"seed {self._seed}: {minutes:.1f} minutes and {kills} kills at least")
        first = self._working()
        # A stream is about what comes after its first position: a poller killed before it was saved has begun nothing.
        self._until(lambda: self._checkpoint().get("position"), "the first position is saved")
        self._writer.start()
        began_s = time.monotonic()
        for each in self._http:
            each.active = True
        trouble = threading.Thread(target=self._trouble_kafka, daemon=True)
        trouble.start()
        self._kill(first, "random")
        said_s = began_s
        first_ones = self._chance.sample(list(KINDS), len(KINDS))
        while first_ones or time.monotonic() - began_s < 60 * minutes or self.outcome.kills.total() < kills:
            self._round(first_ones.pop() if first_ones else self._chance.choices(list(KINDS), list(KINDS.values()))[0])
            if time.monotonic() - said_s > 15:
                said_s = time.monotonic()
                self._progress(said_s - began_s)
        self.outcome.chaos_s = time.monotonic() - began_s
        self._heal()
        trouble.join(10)
        if self._last_asked == "cancel":  # what is there is to be delivered after all
            self._store.ask(f"{DB}.*", SnapshotRequest("asked-last", "start"))
        self._catch_up()
        self._judge()
        self._verify()
        self.outcome.total_s = time.monotonic() - self._began_s
        return self.outcome

    def _round(self, kind: str) -> None:
        self.outcome.rounds[kind] += 1
        if self._has_snapshot:
            self._ask()
        trap: Trap | None = None
        if kind == "trap":
            step = self._chance.choice(self._steps)
            nth = self._chance.choice(NTH.get(step, (1,)))
            trap = (step, self._chance.choice(("before", "after")), nth)
        if trap is not None and trap[0] in ("acquire", "release"):
            self._trapped_at_the_edge(trap)
            return
        poller = self._working(trap)
        if trap is not None:
            self._await_trap(poller, trap)
            return
        if self._chance.random() < 0.6:
            self._await_checkpoint(poller)
        self._sleep(0.0, 1.0)
        if kind == "pause":
            self._pause(poller)
        elif kind == "double":
            self._double()
        elif kind == "step down":
            self._quietly(self._mongo.step_down)
            self._sleep(0.0, 2.0)
        elif kind == "kill primary":
            self._kill_primary()
        self._kill(poller, {"pause": "paused"}.get(kind, "random"))

    def _ask(self) -> None:
        """Have another snapshot begin where none is under way, and now and then one pause, go on or end."""
        stream = f"{DB}.*"
        chosen = ["start"]
        if "snapshot" in self._checkpoint().get("position", {}):
            chosen = self._chance.choices(([], ["pause", "resume"], ["cancel"]), (80, 15, 5))[0]
        for each in chosen:
            self._requests += 1
            with contextlib.suppress(DocdbStreamError):
                if self._store.ask(stream, SnapshotRequest(f"asked-{self._requests}", each)):  # type: ignore[arg-type]
                    self.outcome.rounds[f"snapshot {each}"] += 1
                    self._last_asked = each

    def _await_checkpoint(self, poller: Poller) -> None:
        """Let the stream get on, but not for long."""
        before, deadline_s = self._checkpoint().get("events"), time.monotonic() + 5
        while self._checkpoint().get("events") == before and time.monotonic() < deadline_s:
            if poller.ended.wait(0.05):
                return

    def _await_trap(self, poller: Poller, trap: Trap) -> None:
        name = f"{trap[1]} {trap[0]}"
        if poller.ended.wait(6):
            self._note_end(poller, name)
        else:  # no dead letter, no renewal came its way
            self._kill(poller, "random")

    def _trapped_at_the_edge(self, trap: Trap) -> None:
        """Around acquiring and releasing the lease, which a poller does at its start and its end alone."""
        if trap[0] == "release":
            poller = self._working(trap)  # so its handler of the signal is in place
            self._sleep(0.0, 0.7)
            poller.signal(signal.SIGTERM)
        else:
            self._wait_for_lease()
            poller = self._nursery.start(*FOLLOW, trap=trap)
        if not poller.ended.wait(30):
            self.outcome.problems.append(f"poller did not end at its trap {trap}: {poller.tail()}")
            poller.kill()
        self._note_end(poller, f"{trap[1]} {trap[0]}")

    def _pause(self, poller: Poller) -> None:
        """Longer than the lease: another works meanwhile, and the one that comes back has to leave."""
        poller.signal(signal.SIGSTOP)
        successor = self._working()
        self._sleep(0.3, 1.5)
        poller.signal(signal.SIGCONT)
        # It gives up at once; on a machine with much else to do its interpreter alone may take 15 s to end.
        if not poller.ended.wait(60):
            self.outcome.problems.append(f"a poller that was paused past its lease went on: {poller.tail()}")
        self._kill(successor, "random")

    def _double(self) -> None:
        second = self._nursery.start(*FOLLOW)
        if not second.ended.wait(5):
            # The first may have ended by itself in the meantime; then the second rightly works.
            self._kill(second, "random")
        else:
            self._note_end(second, "")

    def _kill_primary(self) -> None:
        def kill() -> None:
            gone = self._mongo.primary()
            gone.kill()
            try:
                self._mongo.primary()
            finally:
                gone.restart()

        self._quietly(kill)
        self._sleep(0.0, 1.0)

    def _quietly(self, work: Callable[[], Any]) -> None:
        try:
            work()
        except PyMongoError as error:  # an election was under way: that is a fault, too
            self._say(f"  ({type(error).__name__} while changing the primary)")

    def _trouble_kafka(self) -> None:
        chance = random.Random(self._seed + 1)
        while not self._healed.wait(chance.uniform(1.0, 4.0)):
            if chance.random() < 0.7:
                self.outcome.faults["kafka: connections reset"] += 1
                self._tcp.reset_all()
            else:
                self.outcome.faults["kafka: paused"] += 1
                self._tcp.pause(chance.uniform(0.3, 1.5))

    # Pollers

    def _working(self, trap: Trap | None = None) -> Poller:
        """A poller that holds the lease."""
        deadline_s = time.monotonic() + 90
        while time.monotonic() < deadline_s:
            self._wait_for_lease()
            poller = self._nursery.start(*FOLLOW, trap=trap)
            while not poller.ended.wait(0.05):
                if f":{poller.pid}:" in str((self._lease() or {}).get("owner")):
                    return poller
                if time.monotonic() > deadline_s:
                    break
            else:
                if trap is not None and poller.status == -signal.SIGKILL:
                    return poller
                self._note_end(poller, "")
        raise AssertionError(f"no poller gets to work: {poller.tail()}")

    def _wait_for_lease(self) -> None:
        lease = self._lease()
        if lease is not None:
            left_s = (lease["expires_at"].replace(tzinfo=dt.UTC) - dt.datetime.now(dt.UTC)).total_seconds()
            time.sleep(min(LEASE_S, max(0.0, left_s)) + 0.02)

    def _lease(self) -> dict[str, Any] | None:
        return self._checkpoint().get("lease")

    def _checkpoint(self) -> dict[str, Any]:
        try:
            found = self._client[STATE_DB]["checkpoints"].find_one({"_id": f"{DB}.*"}) or {}
        except PyMongoError:
            return {}
        behind = len(self._recorder) - found.get("events", 0)
        (self._writer.slow_down.set if behind > BACKLOG else self._writer.slow_down.clear)()
        return found

    def _kill(self, poller: Poller, kind: str) -> None:
        poller.kill()
        self._note_end(poller, kind)

    def _note_end(self, poller: Poller, kind: str) -> None:
        status = poller.status
        assert status is not None
        self.outcome.exits[status] += 1
        if status == -signal.SIGKILL:
            self.outcome.kills[kind or "random"] += 1
        elif status not in EXPECTED_EXITS:
            self.outcome.problems.append(f"a poller ended with {status}:\n{poller.tail()}")
        elif status == 4:
            self._say("  target failed: " + poller.tail()[-300:].replace("\n", " | "))

    def _sleep(self, least_s: float, most_s: float) -> None:
        time.sleep(self._chance.uniform(least_s, most_s))

    def _progress(self, after_s: float) -> None:
        delivered = self._checkpoint().get("events", 0)
        self._say(
            f"{after_s:5.0f} s: {self.outcome.kills.total():4} kills, {len(self._recorder):7,} events written, "
            f"{delivered:7,} covered by the checkpoint, {len(self.outcome.problems)} problems"
        )

    # The reckoning

    def _heal(self) -> None:
        self._healed.set()
        for each in self._http:
            each.active = False
            self.outcome.faults += each.happened
        self._writer.stop()

    def _catch_up(self) -> None:
        marker = -1
        orders = self._client[DB].get_collection("cold", write_concern=WriteConcern(w="majority", j=True))
        orders.replace_one({"_id": marker}, {"version": marker}, upsert=True)
        self._until(lambda: self._recorder.has(marker), "the recorder has seen the last write")
        deadline_s = time.monotonic() + CATCH_UP_S
        while True:
            self._wait_for_lease()
            poller = self._nursery.start()
            assert poller.ended.wait(CATCH_UP_S), "the clean run does not end"
            # Not caught up is also who has a snapshot to go on with.
            if poller.status == 0 and '"caught_up":true' in poller.tail():
                return
            self._note_end(poller, "")
            assert time.monotonic() < deadline_s, f"no clean run ends caught up: {poller.tail()}"

    def _judge(self) -> None:
        database, wanted = self._client[DB], {} if not self._has_steps else {"_id": {"$mod": [2, 0]}}
        names = (*COLLECTIONS, STILL) if self._has_snapshot else COLLECTIONS
        judge(
            self.outcome,
            destinations=self._destinations,
            events=self._recorder.events(),
            passes=passes if self._has_steps else lambda _: True,
            acknowledged=self._writer.acknowledged,
            documents={name: {each["_id"]: each for each in database[name].find(wanted)} for name in names},
            dead_letters=list(self._client[STATE_DB]["checkpoints_dead_letters"].find()),
        )

    def _verify(self) -> None:
        """The index equals the collections, document by document, as ``docdb-stream verify`` sees it."""
        [result] = verify(self._index, target="opensearch", limit=Deadline.after(CATCH_UP_S))
        self._say(f"verify: {result.documents:,} documents, equal: {result.is_equal}")
        if not result.is_equal:
            self.outcome.problems.append(f"opensearch is not equal: {result.as_dict()}")

    def _until(self, condition: Callable[[], T], what: str, timeout_s: float = 60) -> T:
        deadline_s = time.monotonic() + timeout_s
        while not (answer := condition()):
            assert time.monotonic() < deadline_s, f"waited {timeout_s:.0f} s in vain until {what}"
            time.sleep(0.05)
        return answer
