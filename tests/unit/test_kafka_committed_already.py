"""What is asked of the brokers, and when: with producers that only note what they are given."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from docdb_stream.context import Deadline, RunContext, deadline, running
from docdb_stream.errors import TargetError
from docdb_stream.events import ChangeEvent
from docdb_stream.target import Rejection
from docdb_stream.targets._kafka.producer import ReceiptsAwayError, Record
from docdb_stream.targets._kafka.receipt import Receipt
from docdb_stream.targets._kafka.transactions import Transactions
from docdb_stream.testing.events import ChangeLog

TOO_LARGE = b"too large"


class Brokers:
    """What is committed, and the receipts with it."""

    def __init__(self) -> None:
        self.committed: list[str] = []
        self.receipts: list[Receipt] = []
        self.receipt_topics: list[str] = []
        self.asked = self.away = 0


class NotingProducer:
    transaction_s = 900.0
    throttled_s = 0.0

    def __init__(self, brokers: Brokers) -> None:
        self._brokers = brokers
        self._open: list[str] = []

    def connect(self) -> None: ...

    def send(self, records: Sequence[Record]) -> list[Rejection]:
        self._open += [record.event.event_id for record in records if record.value != TOO_LARGE]
        return [Rejection(record.event, "kafka", "too large") for record in records if record.value == TOO_LARGE]

    def flush(self) -> list[Rejection]:
        return []

    def commit(self, receipt: Receipt | None = None, topic: str = "") -> list[Rejection]:
        self._brokers.committed += self._open
        self._open = []
        if receipt is not None:
            self._brokers.receipts.append(receipt)
            self._brokers.receipt_topics.append(topic)
        return []

    def reveal(self) -> list[Rejection]:
        return []

    def receipt(self, checkpoint: str) -> Receipt | None:
        self._brokers.asked += 1
        if self._brokers.asked <= self._brokers.away:
            raise ReceiptsAwayError("the coordinator starts")
        return next((each for each in reversed(self._brokers.receipts) if checkpoint in each.checkpoints), None)

    def close(self) -> None:
        self._open = []


def transactions(brokers: Brokers) -> Transactions:
    return Transactions("kafka", lambda transactional_id: NotingProducer(brokers), "id", required=True)


def deliver(target: Transactions, checkpoint: str, events: Sequence[ChangeEvent], *, to: str = "") -> None:
    """As a run does that goes on from this checkpoint, up to its next one."""
    with running(RunContext(checkpoint=checkpoint, next_checkpoint=to)):
        target.send([Record(event, "topic", b"key", b"value", {}) for event in events])
        target.commit()


def ids(events: Sequence[ChangeEvent]) -> list[str]:
    return [event.event_id for event in events]


def test_a_kept_target_leaves_out_what_is_committed_though_the_checkpoint_was_not_saved() -> None:
    """The state database was away: the target did nothing wrong, and is not closed before the next run."""
    brokers, events = Brokers(), ChangeLog().inserts(5)
    target = transactions(brokers)
    deliver(target, "first", events[:3])
    deliver(target, "first", events)
    assert brokers.committed == ids(events)


def test_the_brokers_are_asked_once_as_long_as_checkpoints_are_saved() -> None:
    brokers, events = Brokers(), ChangeLog().inserts(6)
    target = transactions(brokers)
    for number in range(3):
        deliver(target, f"checkpoint {number}", events[2 * number : 2 * number + 2])
    assert (brokers.asked, brokers.committed) == (1, ids(events))


@pytest.mark.parametrize("is_saved", [True, False])
def test_a_checkpoint_amid_what_is_committed_does_not_let_the_rest_come_twice(is_saved: bool) -> None:
    """One run committed much and died; the next left it out, checkpoint by checkpoint, and died amid it, before or
    after it saved one; the third knows of the rest."""
    brokers, events = Brokers(), ChangeLog().inserts(12)
    deliver(transactions(brokers), "first", events[:9], to="never saved")
    second = transactions(brokers)
    deliver(second, "first", events[:3], to="second")
    deliver(second, "second", events[3:6], to="third")
    deliver(transactions(brokers), *(("third", events[6:]) if is_saved else ("second", events[3:])), to="fourth")
    assert brokers.committed == ids(events)


def test_a_receipt_is_kept_beside_a_topic_that_has_something_of_it() -> None:
    """Another one may not be there."""
    brokers, events = Brokers(), ChangeLog().inserts(4)
    large = Record(events[0], "of large ones", b"key", TOO_LARGE, {})
    others = [Record(event, "of others", b"key", b"value", {}) for event in events[1:]]
    first, second = transactions(brokers), transactions(brokers)
    with running(RunContext(checkpoint="first")):
        first.send([*others[:2], large])
        first.send([large])
        first.commit()
    with running(RunContext(checkpoint="first", next_checkpoint="second")):
        second.send([large, *others[:1], large])
        second.commit()
    assert brokers.receipt_topics == ["of others"] * 2


def test_what_has_no_checkpoint_is_sent_again() -> None:
    brokers, events = Brokers(), ChangeLog().inserts(2)
    target = transactions(brokers)
    for _ in range(2):
        deliver(target, "", events)
    assert brokers.committed == ids(events) * 2


def test_a_coordinator_that_starts_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """As after the brokers were restarted, which is when much comes again."""
    brokers, events = Brokers(), ChangeLog().inserts(3)
    deliver(transactions(brokers), "first", events)
    brokers.asked, brokers.away = 0, 3
    monkeypatch.setattr(Deadline, "pause", lambda self, delay_s: None)
    deliver(transactions(brokers), "first", events)
    assert (brokers.asked, brokers.committed) == (4, ids(events))


def test_one_that_does_not_come_back_is_an_error_and_nothing_is_sent() -> None:
    brokers, events = Brokers(), ChangeLog().inserts(3)
    brokers.away = 1_000_000
    with deadline(Deadline.after(0.05)), pytest.raises(TargetError, match="committed already"):
        transactions(brokers).send([Record(event, "topic", b"key", b"value", {}) for event in events])
    assert brokers.committed == []
