"""The pages of a snapshot between changes: nothing is missing, nothing goes back, whatever happens in which order."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any

import bson
import pytest
from bson import Decimal128, Int64, ObjectId, Timestamp
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from docdb_stream.events import ChangeEvent, Namespace, Position
from docdb_stream.position import SnapshotProgress, SnapshotRange
from docdb_stream.snapshot.keys import keys_of
from docdb_stream.snapshot.pages import Pages, Reading
from docdb_stream.source import Page
from docdb_stream.testing.events import ChangeLog

ORDERS, ARCHIVE = Namespace("shop", "orders"), Namespace("shop", "archive")
KEYS = range(8)
BEGAN = Timestamp(100, 0)


def progress_of(*ranges: SnapshotRange, **values: Any) -> SnapshotProgress:
    return SnapshotProgress("first", ranges or (SnapshotRange(ORDERS),), time=BEGAN, **values)


def pages_of(progress: SnapshotProgress, **values: Any) -> Pages:
    given = {"page_documents": 3, "max_bytes": 10_000, "max_lag_s": 1e9, **values}
    return Pages(progress, lambda namespace: namespace in (ORDERS, ARCHIVE), **given)


def at(time: int) -> Position:
    return Position(operation_time=Timestamp(time, 0))


class Server:
    """Two collections, and the log of their changes; one second for each."""

    def __init__(self) -> None:
        self.contents: dict[Namespace, dict[int, int]] = {ORDERS: {}, ARCHIVE: {}}
        self.log: list[tuple[int, ChangeEvent]] = []  # what each leaves, and itself
        self.time = BEGAN.time

    def happens(self, namespace: Namespace, operation: str, key: int | None = None, **fields: Any) -> None:
        self.time += 1
        document: dict[str, Any] = {
            "_id": {"_data": f"82{self.time:08X}00000000"},
            "operationType": operation,
            "clusterTime": Timestamp(self.time, 0),
            "ns": {"db": namespace.db, "coll": namespace.coll},
            **({} if key is None else {"documentKey": {"_id": key}}),
            **fields,
        }
        self.log.append((self.time, ChangeEvent(bson.encode(document))))

    def write(self, namespace: Namespace, key: int) -> None:
        self.contents[namespace][key] = self.time + 1
        self.happens(namespace, "replace", key, fullDocument={"_id": key, "version": self.time + 1})

    def update(self, namespace: Namespace, key: int) -> None:
        """A change that says only what has changed, as it comes where no image was kept."""
        if key in self.contents[namespace]:
            self.contents[namespace][key] = self.time + 1
            self.happens(namespace, "update", key, updateDescription={"updatedFields": {"version": self.time + 1}})

    def delete(self, namespace: Namespace, key: int) -> None:
        if self.contents[namespace].pop(key, None) is not None:
            self.happens(namespace, "delete", key)

    def drop(self, namespace: Namespace) -> None:
        self.contents[namespace] = {}
        self.happens(namespace, "drop")

    def rename(self) -> None:
        self.contents[ARCHIVE], self.contents[ORDERS] = self.contents[ORDERS], {}
        self.happens(ORDERS, "rename", to={"db": ARCHIVE.db, "coll": ARCHIVE.coll})

    def page(self, reading: Reading) -> Page:
        """What a query for the next documents shows now."""
        range_, found = reading.range, self.contents[reading.range.namespace]
        after = -1 if range_.after is None else bson.decode(range_.after)["_id"]
        until = max(KEYS) if range_.until is None else bson.decode(range_.until)["_id"]
        keys = sorted(key for key in found if after < key <= until)[: reading.limit]
        documents = [bson.encode({"_id": key, "version": found[key]}) for key in keys]
        rest = replace(range_, after=bson.encode({"_id": keys[-1]})) if keys else replace(range_, done=True)
        return Page(documents, rest, Timestamp(self.time, 0))


@dataclass
class Target:
    """What a consumer of the log makes of it."""

    contents: dict[Namespace, dict[int, int]]
    goes_back: bool = False
    may_go_back: bool = False  # for what comes again may be older than what came before a crash

    def take(self, event: ChangeEvent) -> None:
        found = self.contents[event.namespace]
        document = event.document
        if event.operation == "drop":
            found.clear()
        elif event.operation == "rename":
            self.contents[ARCHIVE], self.contents[ORDERS] = dict(found), {}
        elif event.operation == "delete":
            found.pop(document["documentKey"]["_id"], None)
        elif event.operation == "update":
            if (key := document["documentKey"]["_id"]) in found:
                found[key] = document["updateDescription"]["updatedFields"]["version"]
        else:
            key, version = document["documentKey"]["_id"], document["fullDocument"]["version"]
            self.goes_back = self.goes_back or (version < found.get(key, 0) and not self.may_go_back)
            found[key] = version


@hypothesis_settings(max_examples=150, stateful_step_count=60, deadline=None)
class Snapshots(RuleBasedStateMachine):
    """One stream over both collections and its snapshot, from the first document on, with crashes."""

    def __init__(self) -> None:
        super().__init__()
        self.server = Server()
        for key in range(0, 8, 2):
            self.server.contents[ORDERS][key] = 1  # before the stream began
        self.target = Target({ORDERS: {}, ARCHIVE: {}})
        middle = bson.encode({"_id": 3})
        ranges = (SnapshotRange(ORDERS, until=middle), SnapshotRange(ORDERS, after=middle), SnapshotRange(ARCHIVE))
        self.saved = (0, progress_of(*ranges))
        self.contents_saved = deepcopy(self.target.contents)
        self.begin()

    def begin(self) -> None:
        self.read, progress = self.saved
        self.pages = pages_of(progress)
        self.pages.saw((), self.position)
        self.under_way: list[Reading] = []

    @property
    def position(self) -> Position:
        return at(self.server.log[self.read - 1][0] if self.read else BEGAN.time)

    @rule(key=st.sampled_from(KEYS), namespace=st.sampled_from([ORDERS, ORDERS, ARCHIVE]))
    def write(self, key: int, namespace: Namespace) -> None:
        self.server.write(namespace, key)

    @rule(key=st.sampled_from(KEYS))
    def update(self, key: int) -> None:
        self.server.update(ORDERS, key)

    @rule(key=st.sampled_from(KEYS))
    def delete(self, key: int) -> None:
        self.server.delete(ORDERS, key)

    @rule(namespace=st.sampled_from([ORDERS, ARCHIVE]), chance=st.integers(0, 9))
    def drop(self, namespace: Namespace, chance: int) -> None:
        if chance == 0:
            self.server.drop(namespace)

    @rule(chance=st.integers(0, 9))
    def rename(self, chance: int) -> None:
        if chance == 0:
            self.server.rename()

    @rule()
    def begin_reading(self) -> None:
        if (reading := self.pages.begin()) is not None:
            self.under_way.append(reading)

    @precondition(lambda self: self.under_way)
    @rule(data=st.data())
    def answer(self, data: st.DataObject) -> None:
        reading = self.under_way.pop(data.draw(st.integers(0, len(self.under_way) - 1)))
        come(self.pages, reading, self.server.page(reading))

    @precondition(lambda self: self.under_way)
    @rule()
    def reading_fails(self) -> None:
        self.pages.failed(self.under_way.pop())

    @precondition(lambda self: self.read < len(self.server.log))
    @rule(count=st.integers(1, 4))
    def stream(self, count: int) -> None:
        batch = [event for _, event in self.server.log[self.read : self.read + count]]
        self.read += len(batch)
        self.pages.saw(batch, self.position)
        for event in batch:
            self.target.take(event)

    @rule()
    def deliver_page(self) -> None:
        page = self.pages.due(self.position, is_drained=self.read == len(self.server.log))
        for event in page.events if page else ():
            assert event.snapshot_id == "first"
            self.target.take(event)

    @rule()
    def save(self) -> None:
        self.saved = self.read, self.pages.progress
        self.contents_saved = deepcopy(self.target.contents)

    @rule(chance=st.integers(0, 3))
    def crash(self, chance: int) -> None:
        if chance == 0:
            assert not self.target.goes_back
            again = [event.operation for _, event in self.server.log[self.saved[0] : self.read]]
            self.begin()
            self.target.may_go_back = True
            if {"drop", "rename"} & {*again}:  # which are not the same twice, but for who knows versions
                self.target.contents = deepcopy(self.contents_saved)

    @invariant()
    def nothing_goes_back(self) -> None:
        assert not self.target.goes_back

    def teardown(self) -> None:
        """In the end both are equal."""
        while not self.pages.progress.is_done or self.read < len(self.server.log):
            self.begin_reading()
            while self.under_way:
                reading = self.under_way.pop()
                come(self.pages, reading, self.server.page(reading))
            if self.read < len(self.server.log):
                self.stream(100)
            self.deliver_page()
        assert not self.target.goes_back
        assert self.target.contents == self.server.contents


TestSnapshots = Snapshots.TestCase


def read(pages: Pages, *documents: dict[str, Any], at_time: int, done: bool = False) -> None:
    reading = pages.begin()
    assert reading is not None
    raws = [*map(bson.encode, documents)]
    last = bson.encode({"_id": documents[-1]["_id"]}) if documents else None
    come(pages, reading, Page(raws, replace(reading.range, after=last, done=done), Timestamp(at_time, 0)))


def come(pages: Pages, reading: Reading, page: Page) -> None:
    pages.came(reading, page)
    pages.prepare(reading, page)


def test_a_page_waits_for_all_of_its_own_time() -> None:
    pages = pages_of(progress_of())
    pages.saw((), at(100))
    read(pages, {"_id": 1}, at_time=105)
    assert pages.due(at(104), is_drained=True) is None
    assert pages.due(at(105), is_drained=False) is None
    due = pages.due(at(105), is_drained=True)
    assert due is not None
    [event] = due.events
    assert (event.operation, event.cluster_time, event.document["fullDocument"]) == ("insert", BEGAN, {"_id": 1})
    assert pages.progress.documents == 1


@pytest.mark.parametrize(
    ("stored", "changed"),
    [
        (1, 1.0),
        (Int64(1), Decimal128("1.00")),
        ({"a": 1}, {"a": Int64(1)}),
        (ObjectId(b"abcdefabcdef"), ObjectId(b"abcdefabcdef")),
        ("a", "a"),
        (None, None),
    ],
)
def test_a_change_is_of_the_document_whatever_type_its_number_has(stored: Any, changed: Any) -> None:
    pages = pages_of(progress_of())
    pages.saw((), at(100))
    read(pages, {"_id": stored}, {"_id": "other"}, at_time=101)
    log = ChangeLog()
    pages.saw([log.replace({"_id": changed})], at(102))
    due = pages.due(at(102), is_drained=True)
    assert due is not None
    assert [event.document["documentKey"]["_id"] for event in due.events] == ["other"]
    assert pages.progress.documents == 2


def test_as_much_is_read_as_may_wait_in_memory_and_not_while_the_stream_is_far_behind() -> None:
    pages = pages_of(progress_of(), max_bytes=350, max_lag_s=10)
    assert pages.begin() is None  # where the stream stands is not known yet
    pages.saw((), at(100))
    read(pages, {"_id": 1, "text": "x" * 200}, at_time=111)
    assert pages.begin() is None
    assert pages.due(at(112), is_drained=True) is not None
    read(pages, {"_id": 2}, at_time=125)
    assert pages.begin() is None  # 13 s behind
    pages.saw((), at(116))
    assert pages.begin() is not None


def test_what_was_read_of_a_collection_that_is_renamed_is_read_again_under_its_new_name() -> None:
    pages = pages_of(progress_of())
    pages.saw((), at(100))
    read(pages, {"_id": 1}, at_time=101)
    late = pages.begin()
    log = ChangeLog()
    pages.saw([log.event("rename", None, to={"db": "shop", "coll": "archive"})], at(102))
    assert late is not None
    come(pages, late, Page([bson.encode({"_id": 2})], late.range, Timestamp(101, 0)))
    assert pages.due(at(103), is_drained=True) is None
    again = pages.begin()
    assert again is not None
    assert (again.range.namespace, again.range.after) == (ARCHIVE, None)


def test_no_more_is_read_of_what_is_dropped_or_is_called_as_nobody_watches() -> None:
    for event in (
        ChangeLog().event("drop", None),
        ChangeLog().event("rename", None, to={"db": "shop", "coll": "elsewhere"}),
    ):
        pages = pages_of(progress_of())
        pages.saw((), at(100))
        pages.saw([event], at(102))
        assert pages.begin() is None
        assert pages.progress.is_done


def test_one_id_of_several_documents_of_a_sharded_collection_loses_none() -> None:
    pages = pages_of(progress_of())
    pages.saw((), at(100))
    read(pages, {"_id": 1, "shard": "a"}, {"_id": 1, "shard": "b"}, at_time=101)
    due = pages.due(at(102), is_drained=True)
    assert due is not None
    assert len(due.events) == 2


def test_a_key_is_told_without_decoding() -> None:
    element = b"\x02_id\x00\x02\x00\x00\x00a\x00"
    assert keys_of([element]) == [element]


def test_what_the_steps_leave_out_is_no_news() -> None:
    """A stream of inserts alone gets the document of the page, though it was updated meanwhile."""
    pages = pages_of(progress_of())
    pages.saw((), at(100))
    read(pages, {"_id": 1}, {"_id": 2}, at_time=101)
    log = ChangeLog()
    left_out, passed = log.update({"_id": 1}), log.update({"_id": 2})
    pages.saw([left_out, passed], at(102), {passed.event_id})
    due = pages.due(at(102), is_drained=True)
    assert due is not None
    assert [event.document["documentKey"]["_id"] for event in due.events] == [1]


def test_a_document_whose_change_does_not_say_what_it_is_since_is_read_again() -> None:
    pages = pages_of(progress_of(), page_documents=10)
    pages.saw((), at(100))
    read(pages, {"_id": 1}, {"_id": 2}, {"_id": 3}, at_time=101)
    read(pages, {"_id": 4}, at_time=101)
    pages.saw([ChangeLog().update({"_id": 2}, gone=True)], at(102))
    due = pages.due(at(102), is_drained=True)
    assert due is not None
    assert [event.document["documentKey"]["_id"] for event in due.events] == [1]
    assert pages.progress.documents == 1
    again = pages.begin()
    assert again is not None
    assert (again.range.after, again.limit) == (bson.encode({"_id": 1}), 1)


def test_a_change_of_nobody_knows_which_document_has_all_read_again() -> None:
    pages = pages_of(progress_of())
    pages.saw((), at(100))
    read(pages, {"_id": 1}, at_time=101)
    event = ChangeLog().replace({"_id": 2})
    assert event.raw is not None
    damaged = event.raw.replace(b"\x10_id\x00", b"\x77_id\x00")
    unreadable = ChangeEvent(damaged, document=event.document)
    unreadable._facts = event.facts
    pages.saw([unreadable], at(102))
    assert pages.due(at(102), is_drained=True) is None
    assert pages.progress.documents == 0


def test_no_page_is_read_as_it_was_before_a_document_was_looked_up() -> None:
    """The lookup for an event shows what comes after it; after an election another member may not know that yet."""
    pages = pages_of(progress_of())
    pages.saw([ChangeLog().update({"_id": 1})], at(102), read_at=Timestamp(109, 0))
    pages.saw([ChangeLog().update({"_id": 1})], at(103), read_at=Timestamp(108, 0))
    reading = pages.begin()
    assert reading is not None
    assert reading.since == Timestamp(109, 0)
    pages.came(reading, Page((), replace(reading.range, done=True), Timestamp(120, 0)))
    pages.prepare(reading, Page((), replace(reading.range, done=True), Timestamp(120, 0)))
    assert pages.due(at(119), is_drained=True) is None
