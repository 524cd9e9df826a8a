"""A server that stops answering without hanging up: whoever waits for it is done when the run's time is over."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Iterator
from typing import Any

import pytest
from faults.polling import Client, ListTarget, stream, wait_for

from docdb_stream.context import Deadline
from docdb_stream.errors import CheckpointConflictError, LeaseHeldError, SourceUnavailableError, StateStoreError
from docdb_stream.local import ReplicaSet
from docdb_stream.poller import Poller

pytestmark = pytest.mark.integration

BUSY_S = 20.0
"""What a machine with much else to do may add to everything below; the server would hold it up for far longer."""


@pytest.fixture(scope="module")
def silent() -> Iterator[ReplicaSet]:
    """A replica set of its own, to be paused."""
    with ReplicaSet() as started:
        yield started


@pytest.fixture
def client(silent: ReplicaSet) -> Iterator[Client]:
    with silent.client() as client:
        yield client
        silent.members[0].resume()
        client.admin.command("ping")


def environment(silent: ReplicaSet, db_name: str, file: Any) -> dict[str, str]:
    return {
        "DOCUMENTDB_URI": silent.uri,
        "WATCHED_DB_NAME": db_name,
        "STATE_DB": f"{db_name}_state",
        "FILE_PATH": str(file),
    }


def wait_for_position(client: Client, db_name: str) -> None:
    state = client[f"{db_name}_state"].checkpoints
    wait_for(lambda: state.find_one({"position": {"$exists": True}}), "the stream is open", timeout_s=60)


def test_a_signal_ends_it_soon(silent: ReplicaSet, client: Client, db_name: str, cli: Any) -> None:
    process = cli.start("run", "--follow", **environment(silent, db_name, cli.folder / "out"))
    wait_for_position(client, db_name)
    silent.members[0].pause()
    time.sleep(1)  # the reader waits for an answer by now
    process.send_signal(signal.SIGTERM)
    began_s = time.monotonic()
    _, err = process.communicate(timeout=60)
    assert time.monotonic() - began_s < 6 + BUSY_S
    assert process.returncode in (0, 3), err
    assert "Traceback" not in err


def test_the_deadline_ends_it(silent: ReplicaSet, client: Client, db_name: str, cli: Any) -> None:
    began_s = time.monotonic()
    process = cli.start("run", "--follow", "--timeout", "8", **environment(silent, db_name, cli.folder / "out"))
    wait_for_position(client, db_name)
    silent.members[0].pause()
    _, err = process.communicate(timeout=80)
    assert time.monotonic() - began_s < 8 + BUSY_S
    assert process.returncode in (0, 3), err
    assert "Traceback" not in err


@pytest.mark.parametrize("when", ["before", "while events wait"])
def test_a_run_of_a_kept_poller_ends_within_its_time_and_the_next_one_goes_on(
    silent: ReplicaSet, client: Client, db_name: str, when: str
) -> None:
    settings, target = stream(silent.uri, db_name, lease_seconds=1.5, batch_size=10), ListTarget()
    poller = Poller.from_settings(settings, [target])
    poller.run()
    client[db_name].orders.insert_many([{"_id": number} for number in range(200)])
    began_s = time.monotonic()
    if when == "before":
        silent.members[0].pause()
    with contextlib.suppress(SourceUnavailableError, StateStoreError, CheckpointConflictError):
        poller.run(
            limit=Deadline.after(4),
            progress=lambda result: silent.members[0].pause() if result.read < 200 else None,
            follow=True,
        )
    took_s = time.monotonic() - began_s
    silent.members[0].resume()
    assert took_s < 5 + BUSY_S / 4
    poller.close()

    def goes_on() -> bool:
        try:
            return again.run().caught_up
        except LeaseHeldError:  # it could not be given back
            return False

    with Poller.from_settings(settings, [target]) as again:
        wait_for(goes_on, "the lease runs out, and the next run goes on", timeout_s=30)
    assert sorted(set(target.ids)) == list(range(200))
