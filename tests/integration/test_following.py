"""A stream that follows, while the cluster, its target or its lease is away; and how each wait ends on a signal."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pymongo import MongoClient

from docdb_stream.context import Deadline, deadline
from docdb_stream.errors import DocdbStreamError
from docdb_stream.follower import Follower, Patience, Progress
from docdb_stream.local import ReplicaSet
from docdb_stream.local.process import _free_port, wait_until
from docdb_stream.mongodb.connection import Connection
from docdb_stream.poller import Poller
from docdb_stream.result import RunResult
from docdb_stream.settings import Settings
from docdb_stream.stores.mongodb import MongoCheckpointStore
from docdb_stream.testing.targets import ListTarget

pytestmark = pytest.mark.integration

Mongo = MongoClient[dict[str, Any]]
LONG_S = 90
"""More than anything here takes on a machine that is busy."""


class Said:
    """A process's standard error, read as it comes."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.lines: list[str] = []
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.lines.append(line.rstrip("\n"))

    def wait_for(self, words: str, times: int = 1) -> None:
        def found() -> bool:
            assert self.process.poll() is None or words in self.text, self.text
            return self.text.count(words) >= times

        wait_until(found, f"it says: {words}", timeout_s=LONG_S)

    def end(self, number: signal.Signals | None = None) -> tuple[int, str]:
        """Its exit code and standard output, after a signal."""
        if number is not None:
            self.process.send_signal(number)
        code = self.process.wait(LONG_S)
        self._thread.join(LONG_S)
        assert "Traceback" not in self.text
        assert self.process.stdout is not None
        return code, self.process.stdout.read()

    @property
    def text(self) -> str:
        return "\n".join(self.lines)


@pytest.fixture
def environment(replica_set: ReplicaSet, mongo: Mongo, db_name: str, tmp_path: Path) -> dict[str, str]:
    found = {
        "DOCUMENTDB_URI": replica_set.uri,
        "WATCHED_DB_NAME": db_name,
        "WATCHED_COLLECTION_NAME": "orders",
        "STATE_DB": f"{db_name}_state",
        "FILE_PATH": str(tmp_path / "later" / "changes.jsonl"),
        "START_AT": "earliest",
    }
    mongo[db_name].orders.insert_one({"_id": 1})
    return found


def ids(environment: dict[str, str]) -> list[Any]:
    path = Path(environment["FILE_PATH"])
    lines = path.read_text().splitlines() if path.exists() else []
    return [json.loads(line)["documentKey"]["_id"] for line in lines]


# A target


def test_a_target_that_comes_back_gets_everything(environment: dict[str, str], cli: Any, tmp_path: Path) -> None:
    said = Said(cli.start("run", "--follow", "--json", **environment))
    said.wait_for("waiting for target file; since ")
    (tmp_path / "later").mkdir()
    said.wait_for("goes on after")
    code, out = said.end(signal.SIGTERM)
    assert (code, ids(environment)) == (0, [1])
    result = json.loads(out)
    assert (result["events"], result["stopped_by"]) == (1, "signal")
    assert said.text.count("waiting") == 1, "it is said once"


@pytest.mark.parametrize(
    "number",
    [
        signal.SIGTERM,
        pytest.param(signal.SIGINT, marks=pytest.mark.long),
        pytest.param(signal.SIGHUP, marks=pytest.mark.long),
    ],
)
def test_a_signal_ends_the_wait_for_a_target_with_its_exit_code(
    environment: dict[str, str], cli: Any, tmp_path: Path, number: signal.Signals
) -> None:
    said = Said(cli.start("run", "--follow", **environment))
    said.wait_for("waiting for target file")
    code, _ = said.end(number)
    assert code == 4
    assert "error: target file" in said.text
    (tmp_path / "later").mkdir()
    assert cli.run("run", **environment).returncode == 0
    assert ids(environment) == [1]


def test_giving_up_ends_with_the_exit_code_of_the_trouble(environment: dict[str, str], cli: Any) -> None:
    done = cli.run("run", "--follow", "--give-up-after", "0.5", **environment)
    assert done.returncode == 4
    assert "error: target file" in done.stderr
    wrong = cli.run("run", "--give-up-after", "5", **environment)
    assert wrong.returncode == 2
    assert "--follow or --wait" in wrong.stderr


def test_a_reader_of_standard_output_that_ends_is_not_waited_for(environment: dict[str, str], cli: Any) -> None:
    process = cli.start("run", "--follow", **environment | {"FILE_PATH": "", "STDOUT": "true"})
    process.stdout.close()
    said = Said(process)
    assert process.wait(LONG_S) == 4
    said._thread.join(LONG_S)
    assert "target stdout" in said.text
    assert "waiting" not in said.text


# The lease


@pytest.mark.parametrize("freed", [True, False])
def test_wait_waits_for_the_lease(environment: dict[str, str], cli: Any, tmp_path: Path, freed: bool) -> None:
    (tmp_path / "later").mkdir()
    settings = Settings.from_env(environment)
    with Connection(settings) as connection:
        store = MongoCheckpointStore(settings, connection)
        lease = store.acquire(settings.stream_name, settings.scope, "another-machine:1", 600)
        said = Said(cli.start("run", "--wait", **environment))
        said.wait_for("waiting for the lease; since ")
        assert "another-machine:1" in said.text
        if freed:
            store.release(lease)
        code, _ = said.end(None if freed else signal.SIGTERM)
        assert (code, ids(environment)) == ((0, [1]) if freed else (6, []))
        if not freed:
            done = cli.run("run", "--wait", "--give-up-after", "1", **environment)
            assert done.returncode == 6
            assert cli.run("run", "--follow", **environment).returncode == 6, "nor is it waited for unasked"


# The cluster


@pytest.fixture
def cluster() -> Iterator[ReplicaSet]:
    with ReplicaSet() as started:
        yield started


class Watcher:
    def __init__(self) -> None:
        self.told: list[str] = []

    def progress(self, result: RunResult) -> None:
        self.result = result

    def waiting(self, error: DocdbStreamError, for_s: float) -> None:
        self.told.append(error.kind)

    def goes_on(self, after_s: float) -> None:
        self.told.append("goes on")


class Following:
    """A stream of a cluster that follows, in a thread, with little patience within each run."""

    def __init__(self, uri: str, lease_seconds: float) -> None:
        self.settings = Settings(
            documentdb_uri=f"{uri}&serverSelectionTimeoutMS=500", watched_db_name="shop", lease_seconds=lease_seconds
        )
        self.limit = Deadline(patience_s=0.5)
        self.target, self.watcher = ListTarget(), Watcher()
        self.outcome: RunResult | DocdbStreamError | None = None
        self._connection = Connection(self.settings)
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        def attempt(progress: Progress) -> RunResult:
            with deadline(self.limit), Poller.from_settings(self.settings, [self.target], self._connection) as poller:
                return poller.run(limit=self.limit, follow=True, progress=progress)

        try:
            self.outcome = Follower(attempt, self.limit, Patience(trouble=True), self.watcher).run()
        except DocdbStreamError as error:
            self.outcome = error

    def stop(self) -> RunResult | DocdbStreamError | None:
        self.limit.stop.set()
        self._thread.join(LONG_S)
        self._connection.close()
        return self.outcome


def test_an_outage_longer_than_a_runs_patience_is_waited_for(cluster: ReplicaSet) -> None:
    member = cluster.members[0]
    with cluster.client() as client:
        stream = Following(cluster.uri, lease_seconds=3)
        try:
            wait_until(lambda: hasattr(stream.watcher, "result"), "it reads", timeout_s=LONG_S)
            client.shop.orders.insert_one({"_id": 1})
            wait_until(lambda: stream.target.events, "the first event", timeout_s=LONG_S)
            member.kill()
            wait_until(lambda: stream.watcher.told, "it waits", timeout_s=LONG_S)
            member.restart()
            cluster.primary(LONG_S)
            client.shop.orders.insert_one({"_id": 2})
            delivered = lambda: {event.document_key["_id"] for event in stream.target.events} == {1, 2}  # noqa: E731
            wait_until(delivered, "the second event", timeout_s=LONG_S)
            wait_until(lambda: stream.watcher.told[-1] == "goes on", "it says so", timeout_s=LONG_S)
        finally:
            result = stream.stop()
    assert isinstance(result, RunResult), result
    assert (result.stopped_by, result.events) == ("signal", 2)


def test_a_stop_during_an_outage_ends_it_with_the_trouble_and_the_checkpoint(cluster: ReplicaSet) -> None:
    member = cluster.members[0]
    with cluster.client() as client:
        stream = Following(cluster.uri, lease_seconds=600)
        try:
            wait_until(lambda: hasattr(stream.watcher, "result"), "it reads", timeout_s=LONG_S)
            client.shop.orders.insert_one({"_id": 1})
            state = client[stream.settings.state_db].checkpoints
            wait_until(lambda: state.find_one({"events": 1}), "a checkpoint", timeout_s=LONG_S)
            member.kill()
            wait_until(lambda: stream.watcher.told, "it waits", timeout_s=LONG_S)
        finally:
            outcome = stream.stop()
        assert isinstance(outcome, DocdbStreamError)
        assert outcome.exit_code == 3
        member.restart()
        cluster.primary(LONG_S)
        with Poller.from_settings(stream.settings, [stream.target]) as poller:
            state.update_one({}, {"$unset": {"lease": ""}})
            assert poller.run().events == 0


def test_giving_up_a_server_that_is_not_there_takes_as_long_as_was_said(environment: dict[str, str], cli: Any) -> None:
    began_at_s = time.monotonic()
    assert cli.run("run", "--timeout", "0", **environment).returncode == 2
    start_s = time.monotonic() - began_at_s
    uri = f"mongodb://127.0.0.1:{_free_port()}/?replicaSet=rs0"
    done = cli.run("run", "--follow", "--give-up-after", "6", **environment | {"DOCUMENTDB_URI": uri})
    assert done.returncode == 3, done.stderr
    assert time.monotonic() - began_at_s - start_s < 6 + 2 * start_s + 2, "a second look would take 6 s more"


def test_a_server_that_is_not_there_yet_is_waited_for_and_told_of(environment: dict[str, str], cli: Any) -> None:
    uri = f"mongodb://127.0.0.1:{_free_port()}/?replicaSet=rs0&serverSelectionTimeoutMS=300"
    said = Said(cli.start("run", "--follow", **environment | {"DOCUMENTDB_URI": uri}))
    said.wait_for("waiting for the cluster; since ")
    assert "check host, port" in said.text
    code, _ = said.end(signal.SIGINT)
    assert code == 3
    assert said.text.splitlines()[-1].startswith("hint: ")


# One of several


def test_a_stream_that_fails_is_told_at_once(environment: dict[str, str], cli: Any, db_name: str) -> None:
    (cli.folder / "config.ini").write_text(
        "[docdb-stream]\n"
        f"documentdb_uri = {environment['DOCUMENTDB_URI']}\nstate_db = {db_name}_state\n"
        "start_at = earliest\n"
        f"[stream good]\nwatched_db_name = {db_name}\nfile_path = good.jsonl\n"
        f"[stream bad]\nwatched_db_name = {db_name}\nextra_targets = pigeon\n"
    )
    said = Said(cli.start("run", "--follow", "--json"))
    said.wait_for("error: bad: ")
    assert said.process.poll() is None
    wait_until(lambda: (cli.folder / "good.jsonl").exists() or said.process.poll(), "the other runs", timeout_s=LONG_S)
    code, out = said.end(signal.SIGTERM)
    assert code == 2
    bad, good = map(json.loads, out.splitlines())
    assert (bad["error"]["kind"], good["stopped_by"]) == ("settings", "signal")
    assert said.text.count("error: bad: ") == 1


def test_a_hangup_that_is_ignored_stays_so(environment: dict[str, str], cli: Any, tmp_path: Path) -> None:
    (tmp_path / "later").mkdir()
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        said = Said(cli.start("run", "--follow", **environment))
    finally:
        signal.signal(signal.SIGHUP, before)
    wait_until(lambda: ids(environment), "it runs", timeout_s=LONG_S)
    os.kill(said.process.pid, signal.SIGHUP)
    assert said.end(signal.SIGTERM)[0] == 0
