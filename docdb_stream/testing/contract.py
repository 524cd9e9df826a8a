"""The suite that every target must pass. Needs pytest.

Subclass ``TargetContract`` in a test module, say how a target is made and how its place is read back, and pytest runs
the rest::

    class TestMyTarget(TargetContract):
        oversized_bytes = 1024 * 1024

        @pytest.fixture(autouse=True)
        def place(self, my_server):              # a fresh, empty place for each test
            self.queue = my_server.create_queue()

        def make_target(self):
            return MyTarget(self.queue.url)

        def read_back(self):
            return [Delivered(m.id, m.key, m.body) for m in self.queue.read_everything()]

        @contextmanager
        def faults(self, target, faults):        # optional: lets points 6, 7 and 8 run
            ...

It is the same suite for a fake in memory and for a real server.
"""

# The tests are named by what they prove; see the attributes and hooks for the rest.
# ruff: noqa: D102

from __future__ import annotations

import socket
import threading
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, NamedTuple, NoReturn

import pytest
from bson import ObjectId

from docdb_stream.context import Deadline, deadline
from docdb_stream.errors import TargetError, UnrenderableError
from docdb_stream.events import ChangeEvent
from docdb_stream.target import Rejection, Target
from docdb_stream.testing.events import ChangeLog


class Delivered(NamedTuple):
    """One event as it was found in the target's place.

    Attributes:
        event_id: The id that the target wrote with the event (or within its payload).
        key: What the service orders by (partition key, message group), or None where it has no such thing.
        payload: The event's bytes.
    """

    event_id: str
    key: str | None
    payload: bytes


Verdict = Literal["take", "retry", "reject"]
"""What becomes of one record of a request: taken; refused for now; refused for ever."""


@dataclass
class Faults:
    """What the service is to do to the coming requests, and what it has seen. Safe for threads.

    Attributes:
        refuse: event_id -> how many more times the service refuses that record, saying that it may be sent again.
        reject: event_ids the service refuses for ever.
        throttle: How many more requests are refused as a whole, because of too many requests.
        requests: The event_ids of each request that the target sent, refused ones included, in order of sending.
    """

    refuse: dict[str, int] = field(default_factory=dict)
    reject: set[str] = field(default_factory=set)
    throttle: int = 0
    requests: list[list[str]] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def answer(self, event_ids: Sequence[str]) -> list[Verdict] | None:
        """What the service answers to a request of these events: a verdict for each, or None for "throttled"."""
        with self._lock:
            self.requests.append(list(event_ids))
            if self.throttle > 0:
                self.throttle -= 1
                return None
            return [self._verdict(event_id) for event_id in event_ids]

    def _verdict(self, event_id: str) -> Verdict:
        if event_id in self.reject:
            return "reject"
        if self.refuse.get(event_id, 0) > 0:
            self.refuse[event_id] -= 1
            return "retry"
        return "take"

    def times_sent(self, event: ChangeEvent) -> int:
        """How many times the target sent this event."""
        return sum(request.count(event.event_id) for request in self.requests)


class TargetContract:
    """The twelve points. A subclass named ``Test...`` supplies ``make_target`` and ``read_back``.

    Attributes:
        payload_format: The format that the targets of ``make_target`` send.
        ordered: The place keeps the order of the events of one document key. False: it promises none (say so in the
            target's docs), and points about order are not tested.
        keeps: ``events``: the place holds every event. ``documents``: it holds the newest state of each document, so
            ``read_back`` gives one record per document that exists, with whatever ``event_id`` is known for it, and
            ``expected_payload`` is compared.
        has_schema: The service may refuse documents that do not fit one (a mapping conflict); then hostile events may
            be rejected, otherwise only those that cannot be rendered.
        oversized_bytes: An event of so many bytes is more than the service takes; None: there is no limit.
        large_bytes: Size of the events for the test that goes over the limit of one request in bytes.
        large_count: How many of them.
        many_count: How many small events it takes to go well over the limit of one request in number.
    """

    payload_format: ClassVar[str] = "extended"
    ordered: ClassVar[bool] = True
    keeps: ClassVar[Literal["events", "documents"]] = "events"
    has_schema: ClassVar[bool] = False
    oversized_bytes: ClassVar[int | None] = None
    large_bytes: ClassVar[int] = 300_000
    large_count: ClassVar[int] = 40
    many_count: ClassVar[int] = 1203

    # What a subclass supplies

    def make_target(self) -> Target:
        """A new target on the place of this test; called several times in a test to stand for a new process."""
        raise NotImplementedError

    def read_back(self) -> list[Delivered]:
        """Everything that arrived since the test began, in the place's order, read by an independent client."""
        raise NotImplementedError

    def faults(self, target: Target, faults: Faults) -> AbstractContextManager[None]:
        """While it is open, each request of ``target`` is answered as ``faults.answer`` says.

        Records to "take" go on to the real service. A target whose service cannot fail in part leaves this as it is.
        """
        pytest.skip("this target's service has no partial failures")

    def expected_payload(self, event: ChangeEvent) -> bytes | None:
        """What the place holds for this event; None: nothing (``keeps = "documents"`` and the document is gone)."""
        return event.render(self.payload_format)

    def same_payload(self, expected: bytes, found: bytes) -> bool:
        """Whether they say the same: byte for byte, unless the place stores something other than bytes."""
        return expected == found

    # Fixtures

    @pytest.fixture
    def log(self) -> ChangeLog:
        """The source of events."""
        return ChangeLog()

    @pytest.fixture
    def target(self) -> Iterator[Target]:
        """A target, closed at the end."""
        target = self.make_target()
        yield target
        target.close()

    @pytest.fixture(autouse=True)
    def waits(self, monkeypatch: pytest.MonkeyPatch) -> list[float]:
        """The waits of ``Backoff`` in seconds, recorded instead of slept."""
        waits: list[float] = []
        monkeypatch.setattr(Deadline, "pause", lambda self, delay_s: waits.append(delay_s))
        return waits

    # The twelve points

    def test_01_constructs_without_network(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(*_: Any, **__: Any) -> NoReturn:
            raise AssertionError("network traffic in a constructor")

        with monkeypatch.context() as patch:
            for name in ("connect", "connect_ex", "sendto"):
                patch.setattr(socket.socket, name, refuse)
            patch.setattr(socket, "getaddrinfo", refuse)
            target = self.make_target()
        assert isinstance(target, Target)
        assert target.name
        target.close()

    def test_02_an_empty_write_is_a_no_op(self, target: Target) -> None:
        assert list(target.write([])) == []
        assert list(target.flush()) == []
        assert self.read_back() == []

    def test_03_many_events_arrive_whole(self, target: Target, log: ChangeLog) -> None:
        events = log.inserts(self.many_count)
        assert self._deliver(target, events) == []
        self._assert_delivered(events)

    def test_03_large_events_arrive_whole(self, target: Target, log: ChangeLog) -> None:
        events = log.inserts(self.large_count, size_bytes=self.large_bytes)
        assert self._deliver(target, events) == []
        self._assert_delivered(events)

    def test_03_every_operation_arrives(self, target: Target, log: ChangeLog) -> None:
        events = log.every_operation()
        assert self._deliver(target, events) == []
        self._assert_delivered(events)

    def test_03_all_events_of_one_document_arrive_in_order(self, target: Target, log: ChangeLog) -> None:
        events = [log.insert({"_id": 1, "version": 0})]
        events += [log.update({"_id": 1, "version": number}) for number in range(1, 60)]
        assert self._deliver(target, events) == []
        self._assert_delivered(events)

    def test_04_a_second_flush_sends_only_what_is_new(self, target: Target, log: ChangeLog) -> None:
        first, second = log.inserts(5), log.inserts(7, first_id=5)
        self._deliver(target, first)
        assert list(target.flush()) == []
        self._deliver(target, second)
        assert list(target.flush()) == []
        self._assert_delivered(first + second)
        if self.keeps == "events":
            assert len(self.read_back()) == len(first + second), "something was sent twice"

    def test_04_several_writes_before_one_flush(self, target: Target, log: ChangeLog) -> None:
        events = log.inserts(30)
        for start in range(0, 30, 10):
            target.write(events[start : start + 10])
        assert list(target.flush()) == []
        self._assert_delivered(events)

    def test_05_what_is_flushed_is_readable_at_once(self, target: Target, log: ChangeLog) -> None:
        for number in range(3):
            event = log.insert({"_id": number})
            self._deliver(target, [event])
            assert any(self._is(event, record) for record in self.read_back())

    def test_06_a_partial_failure_is_retried_for_exactly_the_failed(self, target: Target, log: ChangeLog) -> None:
        events = log.inserts(25)
        faults = Faults(refuse={events[3].event_id: 2, events[17].event_id: 1})
        with self.faults(target, faults):
            assert self._deliver(target, events) == []
        assert [faults.times_sent(event) for event in events] == [
            3 if number == 3 else 2 if number == 17 else 1 for number in range(25)
        ]
        self._assert_delivered(events)

    def test_06_a_rejection_names_the_exact_event(self, target: Target, log: ChangeLog) -> None:
        events = [log.insert({"_id": number, "secret": "hunter2"}) for number in range(25)]
        faults = Faults(reject={events[11].event_id})
        with self.faults(target, faults):
            [rejection] = self._deliver(target, events)
        assert rejection.event is events[11]
        assert rejection.target == target.name
        assert rejection.reason
        assert "hunter2" not in rejection.reason
        assert faults.times_sent(events[11]) == 1, "rejected for ever, yet sent again"
        self._assert_delivered([event for event in events if event is not rejection.event])

    def test_07_no_later_event_of_a_key_overtakes_a_failed_one(self, target: Target, log: ChangeLog) -> None:
        if not self.ordered:
            pytest.skip("the service promises no order, and the target says so")
        events = [log.update({"_id": number % 3, "version": number}) for number in range(30)]
        faults = Faults(refuse={events[0].event_id: 3, events[13].event_id: 1, events[29].event_id: 1})
        with self.faults(target, faults):
            assert self._deliver(target, events) == []
        self._assert_delivered(events)

    def test_08_throttling_is_retried_after_a_delay(self, target: Target, log: ChangeLog, waits: list[float]) -> None:
        events = log.inserts(25)
        with self.faults(target, Faults(throttle=2)):
            assert self._deliver(target, events) == []
        assert waits, "no wait between the attempts"
        self._assert_delivered(events)

    def test_08_throttling_without_end_is_an_error_at_the_deadline(self, target: Target, log: ChangeLog) -> None:
        faults = Faults(throttle=1_000_000)
        limit = Deadline.after(None, patience_s=0.05)
        with self.faults(target, faults), deadline(limit), pytest.raises(TargetError) as caught:
            self._deliver(target, log.inserts(3))
        assert caught.value.target == target.name
        assert caught.value.hint
        assert faults.throttle > 0

    def test_09_an_oversized_event_is_rejected_not_retried(self, target: Target, log: ChangeLog) -> None:
        if self.oversized_bytes is None:
            pytest.skip("the service has no limit")
        before, after = log.inserts(2), log.inserts(2, first_id=2)
        oversized = log.insert({"_id": "large", "note": "secret" * (self.oversized_bytes // 6 + 1)})
        [rejection] = self._deliver(target, [*before, oversized, *after])
        assert rejection.event is oversized
        assert rejection.target == target.name
        assert rejection.reason
        assert "secret" not in rejection.reason
        self._assert_delivered(before + after)

    def test_10_a_replay_keeps_the_event_ids(self, log: ChangeLog) -> None:
        events = [log.insert({"_id": number}) for number in range(4)]
        events += [log.update({"_id": number % 4, "version": number}) for number in range(8)]
        self._assert_replayed(events)

    def test_10_documents_of_a_snapshot_arrive_like_inserts(self, log: ChangeLog) -> None:
        ids = [ObjectId("65f0c0ffee65f0c0ffee65f0"), 1, "text", {"a": 1}]
        events = [log.insert({"_id": "other"}), *log.snapshot(*({"_id": value, "n": 1} for value in ids))]
        self._assert_replayed([*events, *(log.update({"_id": value, "n": 2}) for value in ids[1:])])

    def _assert_replayed(self, events: Sequence[ChangeEvent]) -> None:
        """Delivered by two processes, one after the other, they are there as they are, under the same ids."""
        for _ in range(2):
            process = self.make_target()
            self._deliver(process, events)
            process.close()
        found = self.read_back()
        if self.keeps == "events":
            assert {record.event_id for record in found} == {event.event_id for event in events}
            payloads = {event.event_id: self.expected_payload(event) for event in events}
            for record in found:
                expected = payloads[record.event_id]
                assert expected is not None
                assert self.same_payload(expected, record.payload)
        else:
            self._assert_documents(events, found)

    def test_11_hostile_documents_arrive_unaltered_or_are_rejected(self, target: Target, log: ChangeLog) -> None:
        events = log.hostile()
        rejections = self._deliver(target, list(events.values()))
        rejected = {rejection.event.event_id for rejection in rejections}
        assert len(rejected) == len(rejections), "rejected twice"
        assert all(rejection.reason and "\n" not in rejection.reason for rejection in rejections)
        if not self.has_schema:
            unrenderable = {event.event_id for event in events.values() if not self._is_renderable(event)}
            assert rejected == unrenderable
        self._assert_delivered([event for event in events.values() if event.event_id not in rejected])

    def test_12_close_twice_is_safe(self, log: ChangeLog) -> None:
        unused, used = self.make_target(), self.make_target()
        self._deliver(used, log.inserts(1))
        for target in (unused, used):
            target.close()
            target.close()

    # How the points are told

    @staticmethod
    def _deliver(target: Target, events: Sequence[ChangeEvent]) -> list[Rejection]:
        return [*target.write(events), *target.flush()]

    def _is_renderable(self, event: ChangeEvent) -> bool:
        try:
            self.expected_payload(event)
        except UnrenderableError:
            return False
        return True

    def _is(self, event: ChangeEvent, record: Delivered) -> bool:
        if self.keeps == "events":
            return record.event_id == event.event_id
        expected = self.expected_payload(event)
        return expected is not None and self.same_payload(expected, record.payload)

    def _assert_delivered(self, events: Sequence[ChangeEvent]) -> None:
        """Each event is there, unaltered; where order is promised, the place has the order of each key."""
        found = self.read_back()
        if self.keeps == "documents":
            self._assert_documents(events, found)
            return
        by_id = {event.event_id: event for event in events}
        missing = by_id.keys() - {record.event_id for record in found}
        assert not missing, f"missing: {[by_id[event_id] for event_id in missing]}"
        for record in found:
            assert record.event_id in by_id, f"not sent by this test: {record.event_id}"
            expected = self.expected_payload(by_id[record.event_id])
            assert expected is not None
            assert self.same_payload(expected, record.payload), f"altered: {by_id[record.event_id]}"
        keys = {(by_id[record.event_id].key, record.key) for record in found if by_id[record.event_id].key is not None}
        if all(key is not None for _, key in keys):
            assert len({document for document, _ in keys}) == len(keys), "one document under several keys"
        if self.ordered:
            wanted = _ids_by_key(by_id, (event.event_id for event in events))
            # A second copy of an event may come at any time (at least once); the first ones are in order.
            assert _ids_by_key(by_id, dict.fromkeys(record.event_id for record in found)) == wanted

    def _assert_documents(self, events: Sequence[ChangeEvent], found: Sequence[Delivered]) -> None:
        newest: dict[str, ChangeEvent] = {}
        for event in events:
            if event.key is not None:
                newest[event.key] = event
        expected = [payload for event in newest.values() if (payload := self.expected_payload(event)) is not None]
        unmatched = [record.payload for record in found]
        for payload in expected:
            match = next((index for index, other in enumerate(unmatched) if self.same_payload(payload, other)), None)
            assert match is not None, f"missing or altered: {payload[:200]!r}"
            del unmatched[match]
        assert not unmatched, f"should not be there: {unmatched[0][:200]!r}"


def _ids_by_key(by_id: dict[str, ChangeEvent], event_ids: Iterable[str]) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = defaultdict(list)
    for event_id in event_ids:
        key = by_id[event_id].key
        if key is not None:
            groups[key].append(event_id)
    return dict(groups)
