from __future__ import annotations

import gc
import sys
import threading
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from bson import Timestamp

from docdb_stream.context import Deadline, current_deadline, deadline
from docdb_stream.errors import HistoryLostError, SourceUnavailableError
from docdb_stream.events import Batch, ChangeEvent, Position, Rejection
from docdb_stream.mongodb.readahead import PROOF_WAIT_S, READ_WAIT_S, ReadAhead
from docdb_stream.mongodb.tuning import GARBAGE_THRESHOLD, SWITCH_INTERVAL_S
from docdb_stream.source import SOURCE
from docdb_stream.testing.events import ChangeLog

WAIT_S = 10.0


class Source:
    """Opens itself; gives prepared batches (or raises), then nothing until it is closed; counts what was read."""

    def __init__(self, batches: Sequence[Batch | Exception]) -> None:
        self._batches = list(batches)
        self._changed = threading.Condition()
        self.reads = 0
        self.closed = threading.Event()
        self.exhausted = threading.Event()

    def open(self, position: Position) -> Source:
        return self

    def read(self, wait_s: float) -> Batch:
        if not self._batches:
            self.exhausted.set()
            assert self.closed.wait(WAIT_S)
            raise SourceUnavailableError("closed while reading")
        with self._changed:
            self.reads += 1
            self._changed.notify_all()
        found = self._batches.pop(0)
        if isinstance(found, Exception):
            raise found
        return found

    def close(self) -> None:
        self.closed.set()

    def wait_for_reads(self, count: int) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: self.reads >= count, timeout=WAIT_S)


LOG = ChangeLog()
EVENTS: list[ChangeEvent] = LOG.inserts(30)


def batch(*numbers: int, size_bytes: int = 1, quiet: bool = False) -> Batch:
    events = [EVENTS[number] for number in numbers]
    last = events[-1] if events else EVENTS[0]
    return Batch(events, Position.at_token(last.token, time=last.cluster_time), size_bytes, quiet)


def ahead(source: Any, *, until: Timestamp | None = None, batch_size: int = 10, max_bytes: int = 1000) -> ReadAhead:
    return ReadAhead(source, Position(), until=until, batch_size=batch_size, max_bytes=max_bytes)


def test_batches_come_in_order() -> None:
    source = Source([batch(0, 1), batch(2, 3), batch(4)])
    with ahead(source, batch_size=2) as reader:
        taken = [reader.take(WAIT_S) for _ in range(3)]
    assert [list(each.events) for each in taken if each] == [EVENTS[0:2], EVENTS[2:4], EVENTS[4:5]]
    assert [each.position for each in taken if each] == [batch(1).position, batch(3).position, batch(4).position]


def test_nothing_within_the_wait_is_none() -> None:
    with ahead(Source([])) as reader:
        assert reader.take(0.01) is None
        assert not reader.caught_up


def test_small_batches_that_wait_are_put_together() -> None:
    source = Source([batch(0, 1), batch(2), batch(), batch(3), batch(4, 5, 6), batch(7)])
    with ahead(source, batch_size=5) as reader:
        assert source.exhausted.wait(WAIT_S)
        first, second = reader.take(WAIT_S), reader.take(WAIT_S)
        assert first is not None
        assert second is not None
        assert list(first.events) == EVENTS[0:4]
        assert (first.position, first.size_bytes) == (batch(3).position, 4)
        assert list(second.events) == EVENTS[4:8]
        assert (second.position, second.size_bytes) == (batch(7).position, 2)
        assert reader.take(0.01) is None


def test_rejections_of_small_batches_are_not_lost_when_they_wait() -> None:
    """Whether the source tells of a gap or not: what is rejected belongs into the dead letters."""
    refused = [Rejection(EVENTS[number], SOURCE, "cannot be sent") for number in (1, 4)]
    first, second = replace(batch(0, 1), rejected=[refused[0]]), replace(batch(3, 4), rejected=[refused[1]])
    source = Source([first, batch(2), second, batch(5)])
    with ahead(source) as reader:
        assert source.exhausted.wait(WAIT_S)
        taken = []
        while (found := reader.take(0.01)) is not None:
            taken.append(found)
    assert [event for each in taken for event in each.events] == EVENTS[0:6]
    assert [rejection for each in taken for rejection in each.rejected] == refused


def test_a_batch_is_never_split_nor_altered() -> None:
    large = batch(*range(12))
    source = Source([large, batch(12)])
    with ahead(source, batch_size=5) as reader:
        assert source.exhausted.wait(WAIT_S)
        assert reader.take(WAIT_S) is large
        assert large.events == EVENTS[:12]


def test_reading_stops_while_too_many_bytes_wait() -> None:
    source = Source([batch(number, size_bytes=600) for number in range(10)])
    with ahead(source, batch_size=1, max_bytes=1000) as reader:
        for taken in range(8):
            source.wait_for_reads(taken + 2)
            # Two batches wait (1200 bytes, over the limit by less than one reply), and none is read beyond.
            assert source.reads == taken + 2
            assert reader.take(WAIT_S) is not None


def test_one_reply_larger_than_the_bound_still_passes() -> None:
    source = Source([batch(0, size_bytes=10**9), batch(1, size_bytes=10**9)])
    with ahead(source, batch_size=1) as reader:
        assert [len(each.events) for each in (reader.take(WAIT_S), reader.take(WAIT_S)) if each] == [1, 1]


def test_it_ends_at_the_time_it_was_told() -> None:
    source = Source([batch(0), batch(1), batch(2), batch(3)])
    before = EVENTS[2].cluster_time
    with ahead(source, until=Timestamp(before.time, before.inc - 1), batch_size=1) as reader:
        for number in range(3):
            assert not reader.caught_up
            taken = reader.take(WAIT_S)
            assert taken is not None
            assert list(taken.events) == [EVENTS[number]]
        assert reader.caught_up
        assert reader.take(WAIT_S) is None
    assert source.reads == 3


def test_it_does_not_end_within_a_transaction() -> None:
    """Its events have one cluster time: only a later time, or nothing more, says that it was read to its end."""
    at = EVENTS[3].cluster_time
    middle = Batch(EVENTS[:2], Position.at_token(EVENTS[1].token, time=at))
    unproven = Batch([], middle.position)
    last = Batch(EVENTS[2:4], Position.at_token(EVENTS[3].token, time=at))
    source = Source([middle, unproven, last, replace(last, events=[], drained=True), batch(5)])
    with ahead(source, until=at, batch_size=2) as reader:
        while not reader.caught_up:
            assert reader.take(WAIT_S) is not None
    assert source.reads == 4


def test_an_empty_batch_that_reached_the_time_ends_it_too() -> None:
    reached = Batch([], Position(operation_time=Timestamp(100, 1)), drained=True)
    with ahead(Source([reached]), until=Timestamp(100, 1)) as reader:
        taken = reader.take(WAIT_S)
        assert taken is not None
        assert list(taken.events) == []
        assert reader.caught_up


def test_an_empty_batch_alone_proves_nothing() -> None:
    source = Source([Batch([], Position()), Batch([], Position(operation_time=Timestamp(99, 9)))])
    with ahead(source, until=Timestamp(100, 1)) as reader:
        assert source.exhausted.wait(WAIT_S)
        assert reader.take(WAIT_S) is not None
        assert not reader.caught_up


def test_a_quiet_source_ends_it() -> None:
    with ahead(Source([batch(0), batch(quiet=True)]), until=Timestamp(2**31, 1)) as reader:
        while not reader.caught_up:
            assert reader.take(WAIT_S) is not None


def test_without_an_end_nothing_ends_it() -> None:
    source = Source([batch(0), batch(quiet=True), batch(1)])
    with ahead(source, until=None) as reader:
        assert source.exhausted.wait(WAIT_S)
        taken = reader.take(WAIT_S)
        assert taken is not None
        assert list(taken.events) == EVENTS[:2]
        assert not reader.caught_up


def test_an_error_comes_after_the_batches_before_it() -> None:
    error = SourceUnavailableError("away")
    source = Source([batch(0), batch(1), error])
    with ahead(source, until=Timestamp(2**31, 1), batch_size=1) as reader:
        source.wait_for_reads(3)
        assert [list(each.events) for each in (reader.take(WAIT_S), reader.take(WAIT_S)) if each] == [
            [EVENTS[0]],
            [EVENTS[1]],
        ]
        for _ in range(2):
            with pytest.raises(SourceUnavailableError) as caught:
                reader.take(WAIT_S)
            assert caught.value is error
        assert not reader.caught_up


def test_an_unexpected_error_is_not_swallowed() -> None:
    with ahead(Source([ZeroDivisionError("a bug")])) as reader, pytest.raises(ZeroDivisionError):
        reader.take(WAIT_S)


def test_leaving_closes_the_source_and_ends_the_thread() -> None:
    source = Source([batch(0)])
    before = threading.active_count()
    with ahead(source) as reader:
        assert source.exhausted.wait(WAIT_S)
        assert any(thread.name == "reader" for thread in threading.enumerate())
    assert source.closed.is_set()
    assert threading.active_count() <= before  # other tests may leave some that end meanwhile
    taken = reader.take(0.0)
    assert taken is not None, "what was read is still there, and closing is no error"


def test_a_stream_is_opened_by_the_reader() -> None:
    opening, answer = threading.Event(), threading.Event()

    class Slow(Source):
        def open(self, position: Position) -> Source:
            opening.set()
            answer.wait(WAIT_S)
            return self

    source = Slow([batch(0)])
    with ahead(source) as reader:
        assert opening.wait(WAIT_S)
        assert reader.take(0.01) is None
        assert not reader.is_open
        answer.set()
        assert reader.take(WAIT_S) is not None
        assert reader.is_open


def test_a_stream_that_opens_after_the_end_is_closed_by_the_reader() -> None:
    opening, answer = threading.Event(), threading.Event()

    class Slow(Source):
        def open(self, position: Position) -> Source:
            opening.set()
            answer.wait(WAIT_S)
            return self

    source = Slow([batch(0)])
    with deadline(Deadline.after(0)), ahead(source):  # it does not wait for the reader
        assert opening.wait(WAIT_S)
    answer.set()
    assert source.closed.wait(WAIT_S)
    assert source.reads == 0


def test_what_opening_raises_is_raised_by_take() -> None:
    class Lost(Source):
        def open(self, position: Position) -> Source:
            raise HistoryLostError("gone")

    with ahead(Lost([])) as reader, pytest.raises(HistoryLostError):
        reader.take(WAIT_S)


def test_leaving_while_memory_is_full_ends_the_thread() -> None:
    source = Source([batch(number, size_bytes=10**9) for number in range(3)])
    before = threading.active_count()
    with ahead(source):
        source.wait_for_reads(1)
    assert threading.active_count() <= before  # other tests may leave some that end meanwhile


def test_the_reader_works_within_the_runs_deadline() -> None:
    found: list[Deadline] = []

    class Asking(Source):
        def read(self, wait_s: float) -> Batch:
            found.append(current_deadline())
            return super().read(wait_s)

    limit = Deadline.after(60)
    with deadline(limit), ahead(Asking([batch(0)])) as reader:
        reader.take(WAIT_S)
    assert found[0] is limit


class Waits(Source):
    """Remembers how long it was told to wait."""

    def __init__(self, batches: Sequence[Batch | Exception]) -> None:
        super().__init__(batches)
        self.waits: list[float] = []

    def read(self, wait_s: float) -> Batch:
        self.waits.append(wait_s)
        return super().read(wait_s)


def test_a_run_that_ends_waits_long_only_where_the_server_proves_nothing() -> None:
    later = Batch([], Position(operation_time=Timestamp(2**30, 1)))
    source = Waits([batch(0), batch(), later, later, batch(1), batch(1), later])
    with ahead(source, until=Timestamp(2**31, 1)):
        assert source.exhausted.wait(WAIT_S)
    short, full = PROOF_WAIT_S, READ_WAIT_S
    # An empty reply that moves the position is a proof on its way, from further away each time; one that leaves it is
    # none.
    assert source.waits == [short, short, full, full, full, short, short, 2 * short]


def test_following_always_waits_long() -> None:
    source = Waits([batch(0), batch(), batch()])
    with ahead(source):
        assert source.exhausted.wait(WAIT_S)
    assert source.waits == [READ_WAIT_S] * 4


def test_the_interpreter_is_tuned_while_there_is_one_reader() -> None:
    usual_s, usual_garbage = sys.getswitchinterval(), gc.get_threshold()
    with ahead(Source([])):
        assert sys.getswitchinterval() == pytest.approx(SWITCH_INTERVAL_S)
        assert gc.get_threshold() == (GARBAGE_THRESHOLD, *usual_garbage[1:])
        with ahead(Source([])):
            assert sys.getswitchinterval() == usual_s
        assert sys.getswitchinterval() == pytest.approx(SWITCH_INTERVAL_S)
    assert (sys.getswitchinterval(), gc.get_threshold()) == (usual_s, usual_garbage)


def test_an_interpreter_that_was_tuned_further_stays_so() -> None:
    usual_s, usual_garbage = sys.getswitchinterval(), gc.get_threshold()
    try:
        sys.setswitchinterval(SWITCH_INTERVAL_S / 4)
        gc.set_threshold(0, 10, 10)
        with ahead(Source([])):
            assert sys.getswitchinterval() == pytest.approx(SWITCH_INTERVAL_S / 4)
            assert gc.get_threshold() == (0, 10, 10)
        assert sys.getswitchinterval() == pytest.approx(SWITCH_INTERVAL_S / 4)
    finally:
        sys.setswitchinterval(usual_s)
        gc.set_threshold(*usual_garbage)
