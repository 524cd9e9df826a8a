"""A snapshot within Kafka's transactions: after a crash nothing of it is committed twice, and nothing is missing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import bson
import pytest
from bson import Decimal128, Int64, ObjectId, Timestamp
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scripted import World as Line

from docdb_stream.context import Deadline, RunContext, running
from docdb_stream.errors import StateStoreError
from docdb_stream.events import ChangeEvent
from docdb_stream.position import Namespace, SnapshotProgress, SnapshotRange
from docdb_stream.snapshot_event import SnapshotEvents
from docdb_stream.target import Rejection
from docdb_stream.targets._kafka.producer import Record
from docdb_stream.targets._kafka.receipt import (
    REFUSED_MOST,
    TEXT_BYTES,
    Receipt,
    Replay,
    mark_of,
    number_of,
    receipt_after,
)
from docdb_stream.targets._kafka.stretch import Reached, Stretch, joined, order
from docdb_stream.targets._kafka.transactions import Transactions
from docdb_stream.testing.events import ChangeLog

ORDERS = Namespace("shop", "orders")
OLD = Timestamp(1_000, 1)
"""The snapshot's time, before all that the stream tells."""
SNAPSHOT = "a1b2c3d4e5f6"


def key(value: Any) -> bytes:
    return bson.encode({"_id": value})


def document(value: Any, snapshot: str = SNAPSHOT, namespace: Namespace = ORDERS) -> ChangeEvent:
    return ChangeEvent(SnapshotEvents(snapshot, OLD, namespace).of(bson.encode({"_id": value, "n": 1})))


def documents(*values: Any) -> list[ChangeEvent]:
    return [document(value) for value in values]


def progress(*bounds: tuple[Any, Any], namespace: Namespace = ORDERS) -> SnapshotProgress:
    """Of ranges from a key to another; None: from the beginning, to the end."""
    ranges = [
        SnapshotRange(namespace, None if after is None else key(after), None if until is None else key(until))
        for after, until in bounds
    ]
    return SnapshotProgress(SNAPSHOT, tuple(ranges), OLD)


class Brokers:
    """What is committed, and of each topic the receipt that was kept last."""

    def __init__(self) -> None:
        self.committed: list[str] = []
        self.receipts: dict[str, str] = {}


class Producer:
    transaction_s = 900.0
    throttled_s = 0.0

    def __init__(self, brokers: Brokers, refuses: Sequence[ChangeEvent] = ()) -> None:
        self._brokers = brokers
        self._refuses = {event.event_id for event in refuses}
        self._open: list[str] = []

    def connect(self) -> None: ...

    def send(self, records: Sequence[Record]) -> list[Rejection]:
        refused = [record for record in records if record.event.event_id in self._refuses]
        self._open += [record.event.event_id for record in records if record not in refused]
        return [Rejection(record.event, "kafka", "too large") for record in refused]

    def flush(self) -> list[Rejection]:
        return []

    def commit(self, receipt: Receipt | None = None, topic: str = "") -> list[Rejection]:
        self._brokers.committed += self._open
        self._open = []
        if receipt is not None:
            assert topic
            text = receipt.text()
            assert len(text) <= TEXT_BYTES
            self._brokers.receipts[topic] = text
        return []

    def reveal(self) -> list[Rejection]:
        return []

    def receipt(self, checkpoint: str) -> Receipt | None:
        return receipt_after(checkpoint, self._brokers.receipts.values())

    def close(self) -> None:
        self._open = []


def transactions(brokers: Brokers, refuses: Sequence[ChangeEvent] = ()) -> Transactions:
    return Transactions("kafka", lambda transactional_id: Producer(brokers, refuses), "id", required=True)


def records(events: Sequence[ChangeEvent], topic: str = "topic") -> list[Record]:
    return [Record(event, topic, b"key", b"value", {}) for event in events]


def deliver(
    target: Transactions,
    checkpoint: str,
    events: Sequence[ChangeEvent],
    at: SnapshotProgress | None,
    *,
    to: str = "next",
    then: SnapshotProgress | None = None,
) -> None:
    with running(RunContext(checkpoint=checkpoint, next_checkpoint=to, snapshot=at, next_snapshot=then or at)):
        target.send(records(events))
        target.commit()


def ids(events: Sequence[ChangeEvent]) -> list[str]:
    return [event.event_id for event in events]


ALL_SURE = [
    *(Decimal128("-Infinity"), -3, Int64(2), 2.5, Decimal128("2.6"), float("inf"), b"a", b"bc"),
    *(ObjectId("0" * 24), ObjectId("1" * 24), False, True, Timestamp(1, 1)),
]


def test_the_order_is_the_servers_where_it_is_sure() -> None:
    for index, left in enumerate(ALL_SURE):
        for other, right in enumerate(ALL_SURE):
            found = order(key(left), key(right))
            assert found is not None
            assert (found > 0) - (found < 0) == (index > other) - (index < other)
    assert order(key(1), key(1.0)) == order(key(Decimal128("1.00")), key(1)) == 0


@pytest.mark.parametrize(
    ("left", "right"), [("a", "b"), ("A", "a"), ({"a": 1}, {"a": 2}), ({"a": "x"}, {"a": "y"})], ids=repr
)
def test_strings_are_ordered_by_a_collation_that_nobody_knows(left: Any, right: Any) -> None:
    assert order(key(left), key(right)) is None
    assert order(key(left), key(left)) == 0
    assert order(key(1), key(left)) < 0 < order(key(ObjectId()), key(left))  # type: ignore[operator]


def test_what_is_no_key_is_in_no_order() -> None:
    undefined = b"\x0a\0\0\0\x06_id\0\0"
    assert order(undefined, key(1)) is None
    assert order(b"", key(1)) is None


def test_nothing_of_a_page_is_committed_twice_though_stream_and_snapshot_interleave() -> None:
    brokers, changes, at = Brokers(), ChangeLog().inserts(6), progress((None, None))
    page = documents(*range(10))
    events = [*changes[:2], *page[:5], *changes[2:4], *page[5:]]
    deliver(transactions(brokers), "first", events, at)
    deliver(transactions(brokers), "first", [*changes[:4], *page, *changes[4:]], at)
    assert brokers.committed == ids([*events, *changes[4:]])


@pytest.mark.parametrize("size", [1, 3, 4, 7, 20])
def test_pages_may_be_cut_otherwise_and_lack_what_has_changed(size: int) -> None:
    brokers, at = Brokers(), progress((None, None))
    target = transactions(brokers)
    with running(RunContext(checkpoint="first", snapshot=at)):
        for start in range(0, 12, 4):
            target.send(records(documents(*range(start, start + 4))))
            target.reveal()  # commits amid it
    there = [number for number in range(20) if number not in (3, 11, 12)]
    again = transactions(brokers)
    for number, start in enumerate(range(0, len(there), size)):
        deliver(
            again,
            "first" if not number else f"after {number}",
            documents(*there[start : start + size]),
            at if not number else progress((there[start - 1], None)),
            to=f"after {number + 1}",
            then=progress((there[min(start + size, len(there)) - 1], None)),
        )
    assert brokers.committed == ids(documents(*range(12), *range(13, 20)))


def test_a_snapshot_alone_has_receipts_too() -> None:
    """Nothing has come of the stream: that is no reason to believe that something has."""
    brokers, changes, at = Brokers(), ChangeLog().inserts(2), progress((None, None))
    deliver(transactions(brokers), "first", documents(1, 2), at)
    deliver(transactions(brokers), "first", [*documents(1, 2, 3), *changes], at)
    assert brokers.committed == ids([*documents(1, 2, 3), *changes])


def test_documents_after_the_streams_last_do_not_hide_it() -> None:
    brokers, changes, at = Brokers(), ChangeLog().inserts(3), progress((None, None))
    target = transactions(brokers)
    with running(RunContext(checkpoint="first", snapshot=at)):
        target.send(records(changes))
        target.reveal()
        target.send(records(documents(1, 2)))
        target.reveal()
    again = transactions(brokers)
    with running(RunContext(checkpoint="first", snapshot=at)):
        again.send(records(changes))
        again.send(records(documents(1, 2, 3)))
        again.reveal()  # of documents alone, once more
    deliver(transactions(brokers), "first", [*changes, *documents(1, 2, 3, 4)], at)
    assert brokers.committed == ids([*changes, *documents(1, 2, 3, 4)])


def test_ranges_that_are_read_side_by_side() -> None:
    """A document of one that comes first is not taken for one of those before the place where another one stands."""
    brokers, at = Brokers(), progress((None, 100), (100, 200), (200, None))
    deliver(transactions(brokers), "first", documents(1, 101, 2, 201, 102, 202), at)
    deliver(transactions(brokers), "first", documents(101, 102, 103, 200, 1, 2, 3, 100, 201, 202, 203), at)
    assert brokers.committed == ids(documents(1, 101, 2, 201, 102, 202, 103, 200, 3, 100, 203))


def test_a_range_that_was_delivered_in_part_by_an_earlier_checkpoint() -> None:
    brokers, at = Brokers(), progress((50, 100), (150, 200))
    deliver(transactions(brokers), "first", documents(60, 160), at)
    found = receipt_after("first", brokers.receipts.values())
    assert found is not None
    assert sorted(found.stretches, key=lambda each: each.last) == [
        Stretch(ORDERS, key(50), key(60)),
        Stretch(ORDERS, key(150), key(160)),
    ]
    deliver(transactions(brokers), "first", documents(40, 60, 61, 120, 160, 161), at)
    assert brokers.committed == ids(documents(60, 160, 40, 61, 120, 161))


def test_a_checkpoint_amid_what_is_committed_of_a_page_does_not_let_the_rest_come_twice() -> None:
    brokers, changes, at = Brokers(), ChangeLog().inserts(6), progress((None, None))
    deliver(transactions(brokers), "first", [*documents(*range(9)), *changes[:3]], at, to="never saved")
    for amid in (
        ("first", [*changes[:3], *documents(0, 1)], None, "second", 1),
        ("second", [*changes[3:4], *documents(2, 3)], 1, "third", 3),
        ("second", [*changes[3:5], *documents(2, 3, 4)], 1, "third", 4),  # "third" was not saved
        ("third", [*changes[5:], *documents(*range(5, 12))], 4, "fourth", 11),
        ("third", [*changes[5:], *documents(*range(5, 12))], 4, "fourth", 11),
    ):
        checkpoint, events, after, to, then = amid
        deliver(transactions(brokers), checkpoint, events, progress((after, None)), to=to, then=progress((then, None)))
    assert sorted(brokers.committed) == sorted(ids([*documents(*range(12)), *changes]))


def test_the_transaction_at_a_checkpoint_goes_on_after_it() -> None:
    """Changes after the checkpoint with the cluster time of the last one before it are not committed."""
    brokers, log = Brokers(), ChangeLog()
    with log.transaction():
        changes = log.inserts(4)
    deliver(transactions(brokers), "first", [*documents(*range(9))], progress((None, None)), to="never saved")
    second = transactions(brokers)
    deliver(
        second, "first", [*changes[:2], *documents(0, 1)], progress((None, None)), to="second", then=progress((1, None))
    )
    deliver(transactions(brokers), "second", [*changes[2:], *documents(2, 9)], progress((1, None)))
    assert brokers.committed == ids([*documents(*range(9)), *changes, document(9)])


def test_at_the_snapshots_end_nothing_is_carried_on() -> None:
    brokers, changes, at = Brokers(), ChangeLog().inserts(4), progress((None, None))
    deliver(transactions(brokers), "first", documents(1, 2, 3), at)
    target = transactions(brokers)
    with running(RunContext(checkpoint="first", next_checkpoint="second", snapshot=at)):
        target.send(records(documents(1)))
        target.commit()
    kept = dict(brokers.receipts)
    with running(RunContext(checkpoint="second", next_checkpoint="third")):
        target.send([])
        target.commit()
    assert brokers.receipts == kept
    deliver(target, "third", changes, None)
    assert receipt_after("third", brokers.receipts.values()) == Receipt(
        ("third",), number_of(changes[-1]), mark_of(changes[-1]), ()
    )


def test_what_was_refused_comes_again() -> None:
    brokers, at = Brokers(), progress((None, None))
    page = documents(1, 2, 3)
    deliver(transactions(brokers, refuses=page[1:2]), "first", page, at)
    deliver(transactions(brokers), "first", page, at)
    assert brokers.committed == ids([page[0], page[2], page[1]])


def test_what_a_step_made_of_one_document_shares_its_lot_as_far_as_it_came() -> None:
    brokers, at = Brokers(), progress((None, None))
    made = [
        each if not number else each.replace(_id={"_data": f"{each.event_id}#{number}"})
        for each in documents(1, 2)
        for number in range(3)
    ]
    deliver(transactions(brokers), "first", made[:5], at)
    deliver(transactions(brokers), "first", made, at)
    assert brokers.committed == ids(made)


@pytest.mark.parametrize("field", [{"documentKey": {"_id": 99}}, {"ns": {"db": "shop", "coll": "others"}}])
def test_a_key_of_a_steps_own_says_nothing_of_the_order(field: dict[str, Any]) -> None:
    """What has a key beyond all others does not let them be left out; at worst it comes twice."""
    brokers, at = Brokers(), progress((None, None))
    changed = document(1).replace(**field)
    deliver(transactions(brokers), "first", [changed], at)
    deliver(transactions(brokers), "first", [changed, *documents(2, 3, 98)], at)
    assert brokers.committed == ids([changed, changed, *documents(2, 3, 98)])


def test_of_strings_nothing_is_lost() -> None:
    """By a collation that looks at no case, "B" is after "a", and "b" before "C"."""
    brokers, at = Brokers(), progress((None, None))
    deliver(transactions(brokers), "first", documents("a", "B", "b"), at)
    deliver(transactions(brokers), "first", documents("a", "B", "b", "C", "c"), at)
    assert {*ids(documents("a", "B", "b", "C", "c"))} == {*brokers.committed}


def test_another_snapshot_is_delivered_again() -> None:
    brokers, at = Brokers(), progress((None, None))
    deliver(transactions(brokers), "first", documents(1, 2), at)
    other = [document(value, "another") for value in (1, 2)]
    deliver(transactions(brokers), "first", other, replace(at, id="another"))
    assert brokers.committed == ids([*documents(1, 2), *other])


def test_receipts_beside_several_topics_are_one() -> None:
    at = progress((None, 100), (100, None))
    whole = Receipt(("first",), 7, "mark", ("a",), SNAPSHOT, (Stretch(ORDERS, None, key(5)),))
    part = replace(whole, last=0, last_mark="", refused=("b",), stretches=(Stretch(ORDERS, key(100), key(105)),))
    found = receipt_after("first", [part.text(), whole.text()])
    assert found == replace(whole, refused=("a", "b"), stretches=(*part.stretches, *whole.stretches))
    assert Replay(found).left(at) == [*part.stretches, *whole.stretches]
    assert Replay(found).left(progress((5, 100), (100, None))) == [*part.stretches]
    assert Replay(found).left(replace(at, id="another")) == Replay(found).left(None) == []


def test_a_receipt_stays_short() -> None:
    marks = tuple(f"{number:032}" for number in range(REFUSED_MOST))
    many = [Stretch(ORDERS, key(ObjectId()), key(ObjectId())) for _ in range(200)]
    large = Stretch(ORDERS, None, key("x" * 10_000))
    for stretches in ((large,), (large, *many[:5]), many):
        whole = Receipt(("0" * 32, "1" * 32), 1 << 62, "2" * 32, marks, SNAPSHOT, tuple(stretches), "3" * 32)
        assert len(whole.text()) <= TEXT_BYTES
        found = receipt_after("0" * 32, [whole.text()])
        assert found is not None
        assert found.last == whole.last
        assert {*found.stretches} <= {*many}
        assert len(found.stretches) == {1: 0, 6: 5}.get(len(stretches), len(found.stretches))
        assert len(stretches) < 200 or len(found.stretches) >= 20


def test_without_stretches_it_is_as_it_was() -> None:
    """So that an earlier docdb-stream reads it."""
    assert Receipt(("first",), 7, "mark", ()).text() == '[1,"first",7,"mark",[]]'
    assert receipt_after("first", ['[1,"first",7,"mark",["a"]]']) == Receipt(("first",), 7, "mark", ("a",))
    for strange in ('[2,"first",7,"mark",[],"",""]', '[2,"first",7,"mark",[]]', '[2,"first",7,"mark",[],"","",[1]]'):
        found = receipt_after("first", [strange])
        assert found is None or found.last == 7


def test_stretches_are_joined_where_one_goes_on_from_the_other() -> None:
    older, newer = Stretch(ORDERS, None, key(5)), Stretch(ORDERS, key(2), key(9))
    assert joined([older], [newer]) == [newer]
    assert joined([older], []) == [older]
    assert joined([newer], [older]) == [older, newer]
    later = replace(newer, namespace=Namespace("shop", "others"))
    assert joined([older], [later]) == [later, older]
    assert joined([older], [replace(older, endings=("#1",))]) == [replace(older, endings=("", "#1"))]


def test_a_range_counts_from_where_it_stood() -> None:
    reached = Reached(progress((5, 10), (20, None)))
    reached.add([*documents(7, 25, 8, 26), *ChangeLog().inserts(1)])
    assert reached.stretches == [Stretch(ORDERS, key(5), key(8)), Stretch(ORDERS, key(20), key(26))]
    none = Reached(None)
    none.add(documents(1))
    assert none.stretches == []


@pytest.mark.parametrize("bounds", [[(None, None)], [(None, 3), (3, None)], [(None, 3), (3, "b"), ("b", None)]])
@pytest.mark.parametrize("together", [1, 2, 5, 100])
def test_how_many_come_together_is_nothing_to_it(bounds: Sequence[tuple[Any, Any]], together: int) -> None:
    """Also where a step gave some of them another key."""
    strange = document(4).replace(documentKey={"_id": 999})
    events = [*documents(*range(9), 9.5, Int64(10)), strange, *documents("a", "B", ObjectId("1" * 24), True)]
    one_by_one, reached = Reached(progress(*bounds)), Reached(progress(*bounds))
    for event in events:
        one_by_one.add([event])
    for start in range(0, len(events), together):
        reached.add(events[start : start + together])
    assert reached.stretches == one_by_one.stretches


# A run


class KafkaLike:
    """Transactions as the target of a run."""

    name = "kafka"

    def __init__(self, brokers: Brokers) -> None:
        self._transactions = transactions(brokers)

    def write(self, events: Sequence[ChangeEvent]) -> Sequence[Rejection]:
        return [*self._transactions.send(records(events)), *self._transactions.reveal()]

    def flush(self) -> Sequence[Rejection]:
        return self._transactions.commit()

    def close(self) -> None:
        self._transactions.close()


@pytest.mark.parametrize("ranges", [1, 3])
@pytest.mark.parametrize("size", [1, 4, 50])
def test_a_run_that_could_not_save_is_followed_by_one_that_repeats_nothing(ranges: int, size: int) -> None:
    """Its pages are read again, cut otherwise, and lack what has changed."""
    world, brokers = Line(), Brokers()
    world.happen(2)  # before the stream began
    world.hold(*range(100, 130))

    def run(size: int, **values: Any) -> None:
        world.targets[:] = [KafkaLike(brokers)]
        with world.poller(start_at="snapshot", snapshot_ranges=ranges, batch_size=size, **values) as poller:
            poller.run(limit=Deadline.after(30))

    run(2, max_loop=2)
    assert world.position is not None
    assert world.position.snapshot is not None
    snapshot, saved = world.position.snapshot.id, len(brokers.committed)
    changes = world.happen(5)
    world.store.fail_save = True
    for count in (3, 4):
        with pytest.raises(StateStoreError):
            run(3, state_sync_count=count)
        world.script(world.log.update({"_id": 102 + count}))
        changes += world.events[-1:]
    assert len(brokers.committed) > saved
    world.store.fail_save = False
    run(size)
    page = [document(number, snapshot) for number in range(100, 130)]
    assert len({*brokers.committed}) == len(brokers.committed)
    assert {*ids(page), *ids(changes)} - {*brokers.committed} <= {*ids(page[5:7])}
    assert {*brokers.committed} <= {*ids(page), *ids(changes)}


# Crashes at any moment


KEYS: Sequence[Any] = [*range(8), *(ObjectId(f"{number:024x}") for number in range(6)), "a", "B", "b", "C", "d"]


def server_order(value: Any) -> Any:
    """With a collation that looks at case last."""
    kinds: dict[type, int] = {int: 0, str: 1, ObjectId: 2}
    return kinds[type(value)], (value.lower(), value) if isinstance(value, str) else value


IN_ORDER = sorted(KEYS, key=server_order)


@dataclass
class Saved:
    name: str
    changes: int
    progress: SnapshotProgress


@dataclass
class World:
    """A collection, its changes, and runs that deliver both and die."""

    plan: Sequence[tuple[str, int, int]]
    bounds: Sequence[Any]
    splits: bool
    brokers: Brokers = field(default_factory=Brokers)
    log: ChangeLog = field(default_factory=ChangeLog)
    changes: list[tuple[Any, ChangeEvent]] = field(default_factory=list)

    def __post_init__(self) -> None:
        edges = [None, *sorted({*self.bounds}, key=server_order), None]
        self.saved = Saved("0", 0, progress(*pairwise(edges)))
        self.names = 0
        self._begin()

    def _begin(self) -> None:
        self.target = transactions(self.brokers)
        self._go_on()

    def _go_on(self) -> None:
        self.at, self.ranges, self.moved = self.saved.changes, [*self.saved.progress.ranges], False
        self.context = RunContext(checkpoint=self.saved.name, snapshot=self.saved.progress)

    def run(self) -> None:
        for action, number, size in self.plan:
            getattr(self, action)(number, size)
        while self.at < len(self.changes) or not all(each.done for each in self.ranges):
            for index in range(len(self.ranges)):
                self.page(index, 3)
            self.stream(0, 100)
            self.checkpoint(0, 0)
        self.checkpoint(0, 0)

    def change(self, number: int, size: int) -> None:
        """Documents are updated, or deleted."""
        for _ in range(size % 3 + 1):
            value = KEYS[number % len(KEYS)]
            gone = number % 4 == 0
            one = self.log.delete(value) if gone else self.log.update({"_id": value}, {"n": number})
            self.changes.append((None if gone else value, one))

    def stream(self, number: int, size: int) -> None:
        self._send([event for _, event in self.changes[self.at : self.at + size]])
        self.at = min(len(self.changes), self.at + size)

    def page(self, number: int, size: int) -> None:
        """Read one, and hand it over once the stream is past it."""
        index = number % len(self.ranges)
        range_ = self.ranges[index]
        if range_.done:
            return
        bounds = [None if each is None else bson.decode(each)["_id"] for each in (range_.after, range_.until)]
        gone = {event.document["documentKey"]["_id"] for _, event in self.changes if event.operation == "delete"}
        there = [
            value
            for value in IN_ORDER
            if value not in gone
            and (bounds[0] is None or server_order(value) > server_order(bounds[0]))
            and (bounds[1] is None or server_order(value) <= server_order(bounds[1]))
        ][: size % 4 + 1]
        named = {event.document["documentKey"]["_id"] for _, event in self.changes[self.at :]}
        self.stream(0, len(self.changes))
        self._send([made for value in there if value not in named for made in self._made(value)])
        self.ranges[index] = replace(range_, after=key(there[-1])) if there else replace(range_, done=True)

    def _made(self, value: Any) -> list[ChangeEvent]:
        one = document(value)
        return [one, one.replace(_id={"_data": f"{one.event_id}#1"})] if self.splits else [one]

    def reveal(self, number: int, size: int) -> None:
        with running(self.context):
            self.target.reveal()

    def checkpoint(self, number: int, size: int) -> None:
        """Flush and save, where something has come; or die in between, or go on with the same target though it was not
        saved."""
        if not self.moved:
            return
        self.names += 1
        now = Saved(str(self.names), self.at, replace(self.saved.progress, ranges=tuple(self.ranges)))
        self.context.next_checkpoint, self.context.next_snapshot = now.name, now.progress
        with running(self.context):
            self.target.commit()
        if size % 3 == 2:
            self._begin()
        elif size % 3 == 1:
            self._go_on()
        else:
            self.saved, self.moved = now, False
            self.context.checkpoint, self.context.snapshot = now.name, now.progress
            self.context.next_checkpoint, self.context.next_snapshot = "", None

    def crash(self, number: int, size: int) -> None:
        self._begin()

    def _send(self, events: Sequence[ChangeEvent]) -> None:
        with running(self.context):
            for start in range(0, len(events), 3):
                self.moved = True
                self.target.send(records(events[start : start + 3], f"topic {start % 2}"))


ACTIONS = st.tuples(
    st.sampled_from(["change", "stream", "page", "page", "page", "reveal", "reveal", "checkpoint", "crash"]),
    st.integers(0, 30),
    st.integers(0, 8),
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(ACTIONS, max_size=40), st.lists(st.sampled_from(KEYS), max_size=2), st.booleans())
def test_after_any_crashes_nothing_is_missing_and_nothing_is_there_twice(
    plan: Sequence[tuple[str, int, int]], bounds: Sequence[Any], splits: bool
) -> None:
    world = World(plan, bounds, splits)
    world.run()
    committed = world.brokers.committed
    changes = ids([event for _, event in world.changes])
    assert [each for each in committed if each in {*changes}] == changes
    named = {event.document["documentKey"]["_id"] for _, event in world.changes}
    for value in KEYS:
        made = ids(world._made(value))
        counts = [committed.count(each) for each in made]
        if value not in named:
            assert all(counts), value
        if not (isinstance(value, str) or any(isinstance(bound, str) for bound in bounds)):
            assert max(counts) <= 1, value
