"""Kafka within transactions, by both client libraries.

The broker of the fast tests knows who may write, and shows nothing before it is committed; but it shows what was
aborted, too, and lets a transaction last for ever. What asks for more than that is in ``tests/matrix``.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from contract import test_kafka as without

from docdb_stream.context import Deadline, RunContext, deadline, running
from docdb_stream.errors import CheckpointConflictError, ConfigError, TargetError
from docdb_stream.local import KafkaBroker
from docdb_stream.settings import Settings
from docdb_stream.target import Target
from docdb_stream.targets._kafka.records import transactional_id
from docdb_stream.targets.kafka import KafkaTarget
from docdb_stream.testing.contract import Faults
from docdb_stream.testing.events import ChangeLog

from contract import kafka_proxy  # isort: skip
from contract.kafka_topics import CLIENTS, Committed, deliver, event_ids  # isort: skip
from contract.kafka_proxy import KafkaProxy, Refusal  # isort: skip

pytestmark = pytest.mark.integration


@pytest.fixture(params=CLIENTS)
def topics(kafka_broker: KafkaBroker, request: pytest.FixtureRequest) -> Iterator[Committed]:
    with Committed(kafka_broker, request.param) as topics:
        yield topics


class TestKafkaPythonsTransactions(without.TestKafkaTarget):
    @pytest.fixture(autouse=True)
    def place(self, kafka_broker: KafkaBroker) -> Iterator[None]:
        with Committed(kafka_broker, "kafka-python") as self.topics:
            yield

    def test_06_a_rejection_names_the_exact_event(self, target: Target, log: ChangeLog) -> None:
        """What is refused for good is sent a second time, with all that shared its transaction, without one."""
        events = [log.insert({"_id": number, "secret": "hunter2"}) for number in range(25)]
        faults = Faults(reject={events[11].event_id})
        with self.faults(target, faults):
            [rejection] = self._deliver(target, events)
        assert rejection.event is events[11]
        assert faults.times_sent(events[11]) == 2
        assert "hunter2" not in rejection.reason
        found = [record.event_id for record in self.read_back()]
        assert sorted(set(found)) == sorted(event.event_id for event in events if event is not rejection.event)


class TestConfluentsTransactions(without.TestConfluent):
    @pytest.fixture(autouse=True)
    def place(self, kafka_broker: KafkaBroker, proxy: KafkaProxy) -> Iterator[None]:
        self.proxy = proxy
        with Committed(kafka_broker, "confluent") as self.topics:
            yield

    def test_06_a_rejection_names_the_exact_event(self, target: Target, log: ChangeLog) -> None:
        events = [log.insert({"_id": number, "secret": "hunter2"}) for number in range(25)]
        faults = Faults(reject={events[11].event_id})
        with self.faults(target, faults):
            [rejection] = self._deliver(target, events)
        assert rejection.event is events[11]
        assert "hunter2" not in rejection.reason
        self._assert_delivered([event for event in events if event is not rejection.event])


def test_nothing_is_seen_before_the_flush(topics: Committed, log: ChangeLog) -> None:
    target = topics.target()
    target.write(log.inserts(150))
    target._producer.flush()
    assert event_ids(topics) == []
    assert target.flush() == []
    assert len(event_ids(topics)) == 150
    target.close()


def test_few_events_are_seen_before_the_flush(topics: Committed, log: ChangeLog) -> None:
    target = topics.target()
    with running(RunContext(checkpoint="the last")):
        for number in range(3):
            target.write(log.inserts(2, first_id=2 * number))
            assert len(event_ids(topics)) == 2 * number + 2
    target.close()
    assert len(event_ids(topics)) == 6


def test_few_events_without_a_checkpoint_are_seen_at_the_flush(topics: Committed, log: ChangeLog) -> None:
    """Nobody would know that they are there already, if they came again."""
    target = topics.target()
    target.write(log.inserts(2))
    assert event_ids(topics) == []
    target.flush()
    assert len(event_ids(topics)) == 2
    target.close()


def test_who_was_taken_over_is_refused(topics: Committed, log: ChangeLog) -> None:
    """Its lease says nothing yet: as for a process that was stopped, and has not looked."""
    old, new = topics.target(), topics.target()
    deliver(old, log.inserts(5))
    events = log.inserts(200, first_id=5)
    old.write(events[:120])
    assert deliver(new, events) == []
    with pytest.raises(TargetError, match="taken over docdb-stream-") as caught:
        deliver(old, events[120:])
    assert "STREAM_NAME" in caught.value.hint
    assert deliver(new, log.inserts(3, first_id=300)) == []
    for target in (old, new):
        target.close()
    versions = [record.key for record in topics.records()]
    assert len(set(versions)) == 208


def test_who_lost_its_lease_commits_nothing(topics: Committed, log: ChangeLog) -> None:
    def lost() -> None:
        raise CheckpointConflictError("the lease is lost")

    target = topics.target()
    deliver(target, log.inserts(1))
    target.write(log.inserts(150, first_id=1))
    target._producer.flush()
    with running(RunContext(lease_check=lost)), pytest.raises(CheckpointConflictError):
        target.flush()
    assert deliver(target, log.inserts(2, first_id=151)) == []
    target.close()


def test_what_a_full_transaction_holds_is_committed_before_the_flush(
    topics: Committed, log: ChangeLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = topics.target()
    target.write(log.inserts(110))
    assert event_ids(topics) == []
    monkeypatch.setattr("docdb_stream.targets._kafka.transactions.IN_FLIGHT_BYTES", 1000)
    target.write(log.inserts(110, first_id=110))
    assert len(event_ids(topics)) == 220
    target.close()
    assert len(event_ids(topics)) == 220


def test_another_stream_is_no_other_producer(topics: Committed, log: ChangeLog) -> None:
    one, other = topics.target(), topics.target(stream=topics.stream + "2")
    one.write(log.inserts(120))
    deliver(other, log.inserts(1, first_id=120))
    assert one.flush() == []
    for target in (one, other):
        target.close()
    assert len(event_ids(topics)) == 121


def test_checking_takes_nothing_over(topics: Committed, log: ChangeLog) -> None:
    target, checked = topics.target(), topics.target()
    target.write(log.inserts(120))
    checked.check()
    checked.close()
    assert deliver(target, log.inserts(1, first_id=120)) == []
    target.close()


def test_a_failed_transaction_is_followed_by_a_whole_one(topics: Committed, log: ChangeLog, proxy: KafkaProxy) -> None:
    proxy.answer = lambda event_ids: Refusal(kafka_proxy.NOT_ENOUGH_REPLICAS)
    target = topics.target(proxy)
    events = log.inserts(3)
    with deadline(Deadline.after(None, patience_s=0.6)), pytest.raises(TargetError):
        deliver(target, events)
    proxy.answer = None
    assert deliver(target, events) == []
    target.close()
    assert sorted(event_ids(topics)) == sorted(event.event_id for event in events)


def test_a_broker_without_a_coordinator_is_an_error_in_time(
    topics: Committed, proxy: KafkaProxy, log: ChangeLog
) -> None:
    proxy.coordinator_error = kafka_proxy.NO_COORDINATOR
    target = topics.target(proxy)
    with deadline(Deadline.after(2)), pytest.raises(TargetError, match="do not begin a transaction") as caught:
        deliver(target, log.inserts(1))
    assert "KAFKA_TRANSACTIONS = off" in caught.value.hint
    target.close()


# Brokers that have no transactions for this client


def test_without_the_right_to_transactions_it_goes_without(
    topics: Committed, proxy: KafkaProxy, log: ChangeLog, caplog: pytest.LogCaptureFixture
) -> None:
    proxy.coordinator_error = kafka_proxy.NO_TRANSACTIONS
    target = topics.target(proxy, transactions="auto")
    for number in range(3):
        assert deliver(target, log.inserts(10, first_id=10 * number)) == []
    target.close()
    assert deliver(target, log.inserts(1, first_id=30)) == []
    target.close()
    assert len(event_ids(topics)) == 31
    [told] = [each.getMessage() for each in caplog.records if each.name.startswith("docdb_stream")]
    assert "without transactions" in told


def test_where_they_are_wanted_it_is_an_error(topics: Committed, proxy: KafkaProxy, log: ChangeLog) -> None:
    proxy.coordinator_error = kafka_proxy.NO_TRANSACTIONS
    target = topics.target(proxy)
    for act in (lambda: deliver(target, log.inserts(1)), target.check):
        with pytest.raises(TargetError, match="KAFKA_TRANSACTIONS is on") as caught:
            act()
        assert "TransactionalId docdb-stream-" in caught.value.hint
    target.close()
    assert event_ids(topics) == []


def test_the_stream_and_the_prefix_make_the_id() -> None:
    assert transactional_id("", "shop.orders") == "docdb-stream-shop.orders"
    assert transactional_id("eu-", "shop.orders") == "docdb-stream-eu-shop.orders"
    assert transactional_id("", "shop.*") != transactional_id("", "shop._")
    assert len(transactional_id("", "x" * 500)) == 249


def test_the_settings_say_whether() -> None:
    values: dict[str, Any] = {"documentdb_uri": "mongodb://x", "msk_bootstrap_srv": "h:1"}
    for choice, kind in {"off": "KafkaPythonProducer", "auto": "Transactions", "on": "Transactions"}.items():
        target = KafkaTarget.from_settings(Settings(**values, kafka_transactions=choice))
        assert target is not None
        assert type(target._producer).__name__ == kind
    with pytest.raises(ConfigError, match="need the stream's name"):
        KafkaTarget("h:1", transactions="on")
