"""What only an Apache Kafka shows of transactions: the others' are hidden when they were aborted, and end by time."""

from __future__ import annotations

import contextlib
import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

import orjson
import pytest
from contract.kafka_topics import CLIENTS, Committed, Topics, deliver, event_ids
from matrix.kafka_writer import DOCUMENTS, versions
from matrix.servers.kafka import ApacheKafka
from unit.scripted import World

from docdb_stream.context import RunContext, running
from docdb_stream.errors import StateStoreError, TargetError
from docdb_stream.local import KafkaBroker
from docdb_stream.local.process import wait_until
from docdb_stream.targets._kafka.records import transactional_id
from docdb_stream.testing.events import ChangeLog

pytestmark = [pytest.mark.integration, pytest.mark.matrix]

KILLS = 8


class Uncommitted(Topics):
    """The topics of another as consumers see them that do not care what is committed."""

    def __init__(self, topics: Committed) -> None:
        super().__init__(topics.broker, topics.client)
        self.prefix = topics.prefix


@pytest.fixture(params=CLIENTS)
def topics(real_kafka: KafkaBroker, request: pytest.FixtureRequest) -> Iterator[Committed]:
    with Committed(real_kafka, request.param) as topics:
        yield topics


@pytest.fixture(scope="module")
def strict_kafka() -> Iterator[ApacheKafka]:
    """One that lets nothing last for long, and everybody do what nobody has denied them."""
    settings = {
        "transaction.max.timeout.ms": 60_000,
        "transaction.abort.timed.out.transaction.cleanup.interval.ms": 200,
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "allow.everyone.if.no.acl.found": "true",
        "super.users": "User:nobody",
    }
    with ApacheKafka(settings) as started:
        yield started


@pytest.fixture(params=CLIENTS)
def strict(strict_kafka: ApacheKafka, request: pytest.FixtureRequest) -> Iterator[Committed]:
    with Committed(strict_kafka, request.param) as topics:
        yield topics


@pytest.fixture
def log() -> ChangeLog:
    return ChangeLog()


class Writers:
    """Processes that deliver the same events, one after the other or at once, with one checkpoint."""

    def __init__(self, topics: Committed, folder: Path, count: int) -> None:
        self._topics = topics
        self._checkpoint = folder / "checkpoint.json"
        self._count = count
        self._started: list[subprocess.Popen[str]] = []

    def start(self, *, batch: int = 40, hold_at: int = -1, pause_s: float = 0.0) -> subprocess.Popen[str]:
        topics = self._topics
        values = {
            "servers": topics.broker.bootstrap_servers,
            "checkpoint": str(self._checkpoint),
            "count": self._count,
            "batch": batch,
            "hold_at": hold_at,
            "pause_s": pause_s,
            "client": topics.client,
            "topic_prefix": topics.prefix,
            "stream": topics.stream,
            "transactions": "on",
        }
        command = [sys.executable, "-W", "ignore", "-m", "matrix.kafka_writer", json.dumps(values)]
        started = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd="tests")
        self._started.append(started)
        return started

    @property
    def position(self) -> int:
        return int(json.loads(self._checkpoint.read_text())) if self._checkpoint.exists() else 0

    def close(self) -> None:
        for each in self._started:
            each.kill()
            each.communicate()


@pytest.fixture
def writers(topics: Committed, tmp_path: Path) -> Iterator[Writers]:
    started = Writers(topics, tmp_path, count=6000)
    yield started
    started.close()


def version_of(records: Sequence[Any]) -> dict[bytes, list[int]]:
    found: dict[bytes, list[int]] = {}
    for record in records:
        found.setdefault(record.key, []).append(orjson.loads(record.value)["fullDocument"]["version"])
    return found


def surprises(topics: Topics, count: int) -> dict[bytes, list[int]]:
    """Of each document whose versions are not there once and in order: what is around the first that is amiss."""
    found = version_of(topics.records())
    surprises = {}
    for rest in range(DOCUMENTS):
        expected, seen = range(rest, count, DOCUMENTS), found.pop(b'{"_id":%d}' % rest, [])
        amiss = next((at for at, (one, other) in enumerate(zip_longest(expected, seen)) if one != other), None)
        if amiss is not None:
            surprises[b'{"_id":%d}' % rest] = seen[max(0, amiss - 3) : amiss + 3]
    return surprises | found


@pytest.mark.timeout(300)
def test_killed_again_and_again_each_event_is_seen_once_and_in_order(topics: Committed, writers: Writers) -> None:
    chance = random.Random(7)
    for number in range(KILLS):  # small batches are committed one by one, large ones together
        writer = writers.start(batch=40 if number % 2 else 120, pause_s=0.02)
        assert writer.stdout is not None
        writer.stdout.readline()  # it delivers
        time.sleep(chance.uniform(0.0, 0.5))
        writer.send_signal(signal.SIGKILL)
        writer.wait()
    assert 0 < writers.position < 6000
    assert writers.start().wait(120) == 0
    assert surprises(topics, 6000) == {}
    everything = event_ids(Uncommitted(topics))
    assert set(everything) == {event.event_id for event in versions(6000)}


@pytest.mark.timeout(180)
def test_who_was_stopped_and_goes_on_is_refused(topics: Committed, writers: Writers) -> None:
    """It wrote under the lease and was stopped before it committed; another one has done its work."""
    stopped = writers.start(batch=120, hold_at=600)
    assert stopped.stdout is not None
    assert stopped.stdin is not None
    wait_until(lambda: stopped.stdout.readline() == "held\n", "it has written", timeout_s=60)  # type: ignore[union-attr]
    stopped.send_signal(signal.SIGSTOP)
    assert writers.start().wait(120) == 0
    assert writers.position == 6000
    stopped.send_signal(signal.SIGCONT)
    said, _ = stopped.communicate("go on\n", timeout=60)
    assert stopped.returncode == TargetError.exit_code
    assert "taken over docdb-stream-" in said
    assert writers.position == 6000
    assert surprises(topics, 6000) == {}


def in_a_new_process(topics: Committed, checkpoint: str, *parts: Sequence[Any], **options: Any) -> list[Any]:
    """Deliver the parts, each with its flush, and a checkpoint after each but the last."""
    target = topics.target(**options)
    rejections = []
    try:
        for number, part in enumerate(parts):
            saved = f"{checkpoint} {number}" if number else checkpoint
            with running(RunContext(checkpoint=saved, next_checkpoint=f"{checkpoint} {number + 1}")):
                rejections += deliver(target, list(part))
    finally:
        target.close()
    return rejections


def test_what_is_committed_and_not_in_the_checkpoint_is_not_sent_again(topics: Committed, log: ChangeLog) -> None:
    events = log.inserts(300)
    in_a_new_process(topics, "before the first", events[:100])
    in_a_new_process(topics, "before the first", events[:250])  # the checkpoint after them was never saved
    in_a_new_process(topics, "before the first", events[:250], events[250:280])
    in_a_new_process(topics, "before the first 1", events[250:])
    assert sorted(event_ids(topics)) == sorted(event.event_id for event in events)


def test_what_is_committed_is_not_sent_again_after_a_checkpoint_amid_it(topics: Committed, log: ChangeLog) -> None:
    events = log.inserts(300)
    in_a_new_process(topics, "first", events[:250])
    in_a_new_process(topics, "first", events[:50], events[50:100])
    in_a_new_process(topics, "first 2", events[100:])
    assert sorted(event_ids(topics)) == sorted(event.event_id for event in events)


@pytest.mark.parametrize("start", [0, 5, 19, 20, 39])
def test_a_stream_that_is_set_back_is_delivered_again(topics: Committed, log: ChangeLog, start: int) -> None:
    """Wherever to, also to where a transaction began, or into the middle of one."""
    events = log.inserts(40)
    in_a_new_process(topics, "first", events[:20], events[20:])
    in_a_new_process(topics, "reset", events[start:])
    found = event_ids(topics)
    assert sorted(found) == sorted(event.event_id for event in [*events, *events[start:]])


def test_without_a_checkpoint_everything_is_sent(topics: Committed, log: ChangeLog) -> None:
    """As by what Lambda's event source mapping pushes: nobody knows that it is the same again."""
    events = log.inserts(40)
    for _ in range(2):
        in_a_new_process(topics, "", events)
    assert len(event_ids(topics)) == 80


def test_runs_send_again_what_was_reset_and_only_that(topics: Committed) -> None:
    world = World()
    world.start_at()
    world.happen(10)

    def run() -> int:
        world.targets = [topics.target()]
        with world.poller(batch_size=100) as poller:
            return poller.run().events

    world.store.fail_save = True
    with pytest.raises(StateStoreError):
        run()
    world.store.fail_save = False
    assert run() == 10
    assert len(event_ids(topics)) == 10  # committed by the first run, left out by the second
    world.start_at()  # reset to where it began
    assert run() == 10
    assert len(event_ids(topics)) == 20
    world.store._checkpoints.clear()  # its state is dropped, and it begins there once more
    world.start_at()
    assert run() == 10
    assert len(event_ids(topics)) == 30


def test_a_poller_that_is_kept_sends_once_what_it_committed_without_a_checkpoint(topics: Committed) -> None:
    world = World()
    world.start_at()
    world.happen(10)
    world.targets = [topics.target()]
    with world.poller(batch_size=100) as poller:
        world.store.fail_save = True
        with pytest.raises(StateStoreError):
            poller.run()
        world.store.fail_save = False
        assert poller.run().events == 10
    assert len(event_ids(topics)) == 10


def test_what_was_refused_is_refused_again(topics: Committed, log: ChangeLog) -> None:
    """It need not be in the dead letters yet."""
    large = log.insert({"_id": "large", "note": "x" * 100_000})
    events = [*log.inserts(5), large, *log.inserts(5, first_id=5)]
    for _ in range(2):
        [rejection] = in_a_new_process(topics, "first", events, message_bytes=50_000)
        assert rejection.event is large
    assert len(event_ids(topics)) == 10


def test_a_record_that_the_brokers_refuse_is_left_out_of_what_shared_its_transaction(
    topics: Committed, log: ChangeLog
) -> None:
    """The topic takes less than KAFKA_MESSAGE_BYTES says."""
    with contextlib.closing(admin_of(topics)) as admin:
        admin.create_topics({topics.prefix + "shop-orders": {"configs": {"max.message.bytes": "20000"}}})
    before = log.inserts(120)
    large = log.insert({"_id": "large", "note": "x" * 50_000})
    after = log.inserts(120, first_id=120)
    target = topics.target()
    rejections = [*target.write(before), *target.write([large]), *deliver(target, after)]
    assert [rejection.event for rejection in rejections] == [large]
    assert deliver(target, log.inserts(1, first_id=500)) == []
    target.close()
    assert len(event_ids(topics)) == 241


def test_a_transaction_that_took_too_long_fails_at_its_flush(
    strict: Committed, log: ChangeLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = "python" if strict.client == "kafka-python" else "confluent"
    monkeypatch.setattr(f"docdb_stream.targets._kafka.{library}_client.TRANSACTION_S", (4,))
    target = strict.target()
    deliver(target, log.inserts(1))
    target.write(log.inserts(120, first_id=1))
    target._producer.flush()
    time.sleep(8)
    with pytest.raises(TargetError, match="longer than the brokers allow"):
        target.flush()
    assert len(event_ids(strict)) == 1
    assert deliver(target, log.inserts(120, first_id=200)) == []
    target.close()
    assert len(event_ids(strict)) == 121


def test_a_transaction_lasts_no_longer_than_the_brokers_allow(strict: Committed, log: ChangeLog) -> None:
    target = strict.target()
    deliver(target, log.inserts(1))
    assert target._producer._within.transaction_s == 60  # type: ignore[attr-defined]
    target.close()


# Rights


def admin_of(topics: Topics) -> Any:
    from kafka import KafkaAdminClient

    return KafkaAdminClient(bootstrap_servers=topics.broker.bootstrap_servers)


@pytest.fixture
def deny(strict: Committed) -> Iterator[Any]:
    from kafka.admin import ACL, ACLFilter, ACLOperation, ACLPermissionType, ResourcePattern, ResourceType

    admin = admin_of(strict)
    denied = []

    def deny(kind: str, operation: str) -> None:
        pattern = ResourcePattern(ResourceType[kind], transactional_id(strict.prefix, strict.stream))
        acl = ACL("User:ANONYMOUS", "*", ACLOperation[operation], ACLPermissionType.DENY, pattern)
        denied.append(acl)
        admin.create_acls([acl])
        time.sleep(1)

    yield deny
    admin.delete_acls(
        [
            ACLFilter(each.principal, each.host, each.operation, each.permission_type, each.resource_pattern)
            for each in denied
        ]
    )
    admin.close()


def test_without_the_right_to_an_id_it_goes_without_or_is_an_error(
    strict: Committed, log: ChangeLog, deny: Any
) -> None:
    deny("TRANSACTIONAL_ID", "WRITE")
    assert in_a_new_process(strict, "first", log.inserts(3), transactions="auto") == []
    assert len(event_ids(strict)) == 3
    with pytest.raises(TargetError, match="KAFKA_TRANSACTIONS is on"):
        in_a_new_process(strict, "first", log.inserts(1))


@pytest.mark.parametrize("operation", ["READ", "DESCRIBE"])
def test_without_the_right_to_receipts_it_goes_on(
    strict: Committed, log: ChangeLog, deny: Any, operation: str, caplog: pytest.LogCaptureFixture
) -> None:
    deny("GROUP", operation)
    target = strict.target()
    for number in range(2):
        with running(RunContext(checkpoint=f"at {number}")):
            assert deliver(target, log.inserts(3, first_id=3 * number)) == []
    target.close()
    assert len(event_ids(strict)) == 6
    assert "events may come twice" in caplog.text
