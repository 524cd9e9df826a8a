# ruff: noqa: PT012 - what fails is the whole of writing, flushing and leaving

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from docdb_stream import delivery as delivery_module
from docdb_stream.context import Deadline, RunContext, current_deadline, deadline, running
from docdb_stream.delivery import LARGE_BATCH_BYTES, REJECTED_BYTES
from docdb_stream.errors import DocdbStreamError, OutOfTimeError, StateStoreError, TargetError
from docdb_stream.events import ChangeEvent, Events
from docdb_stream.formats import part
from docdb_stream.formats.extended import EXTENDED
from docdb_stream.formats.facts import FACTS
from docdb_stream.formats.plain import PLAIN
from docdb_stream.target import Rejection, Target
from docdb_stream.testing.events import ChangeLog
from docdb_stream.testing.targets import ListTarget
from docdb_stream.worker import QUEUED_BATCHES

WAIT_S = 10.0
STREAM = "shop.orders"
EVENTS = ChangeLog().inserts(30)


class Letters:
    """What became durable of rejections; ``error`` is raised instead."""

    def __init__(self) -> None:
        self.calls: list[list[Rejection]] = []
        self.error: Exception | None = None

    def write(self, stream: str, rejections: Sequence[Rejection]) -> None:
        assert stream == STREAM
        if self.error is not None:
            raise self.error
        self.calls.append(list(rejections))


def Delivery(targets: Sequence[Target], letters: Letters | None = None) -> delivery_module.Delivery:
    return delivery_module.Delivery(targets, stream=STREAM, write_letters=(letters or Letters()).write)


class Recorder:
    """Writes down what it is asked for; ``on_write`` and ``on_flush`` may raise, reject, or hang."""

    def __init__(
        self,
        name: str = "one",
        on_write: Callable[[Sequence[ChangeEvent]], Sequence[Rejection]] = lambda events: (),
        on_flush: Callable[[], Sequence[Rejection]] = tuple,
    ) -> None:
        self.name = name
        self.on_write, self.on_flush = on_write, on_flush
        self.calls: list[object] = []
        self.threads: set[int] = set()

    def write(self, events: Sequence[ChangeEvent]) -> Sequence[Rejection]:
        self.threads.add(threading.get_ident())
        self.calls.append(list(events))
        return self.on_write(events)

    def flush(self) -> Sequence[Rejection]:
        self.threads.add(threading.get_ident())
        self.calls.append("flush")
        return self.on_flush()

    def close(self) -> None:
        self.calls.append("close")


@pytest.fixture
def gate():
    """Opens at the end at the latest, so that no thread of a test is left behind."""
    gate = threading.Event()
    yield gate
    gate.set()


def hang(gate: threading.Event) -> Callable[..., Sequence[Rejection]]:
    """What a target does that hangs until the gate is open."""

    def step(*_: object) -> Sequence[Rejection]:
        gate.wait(WAIT_S)
        return ()

    return step


def wait_for(condition: Callable[[], bool]) -> None:
    give_up_at_s = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < give_up_at_s
        time.sleep(0.001)


def test_every_target_gets_everything_in_order_and_in_one_thread() -> None:
    targets = [Recorder("one"), Recorder("two"), Recorder("three")]
    with Delivery(targets) as delivery:
        delivery.write(EVENTS[0:2])
        delivery.write(EVENTS[2:5])
        assert delivery.flush() == []
        delivery.write(EVENTS[5:6])
        assert delivery.flush() == []
    for target in targets:
        assert target.calls == [EVENTS[0:2], EVENTS[2:5], "flush", EVENTS[5:6], "flush"]
        assert len(target.threads) == 1
    assert len(set.union(*(target.threads for target in targets))) == 3


def test_flush_returns_only_when_every_target_has_flushed(gate: threading.Event) -> None:
    slow = Recorder("slow", on_flush=hang(gate))
    fast = Recorder("fast")
    flushed = threading.Event()

    def flush() -> None:
        delivery.flush()
        flushed.set()

    with Delivery([slow, fast]) as delivery:
        delivery.write(EVENTS[:1])
        thread = threading.Thread(target=flush)
        thread.start()
        wait_for(lambda: "flush" in slow.calls and "flush" in fast.calls)
        assert not flushed.is_set()
        gate.set()
        assert flushed.wait(WAIT_S)
        thread.join(WAIT_S)


def test_write_does_not_wait_until_events_are_written(gate: threading.Event) -> None:
    hanging = Recorder(on_write=hang(gate))
    with Delivery([hanging]) as delivery:
        for number in range(QUEUED_BATCHES + 1):
            delivery.write(EVENTS[number : number + 1])
            wait_for(lambda: bool(hanging.calls))
        assert hanging.calls == [EVENTS[:1]]
        gate.set()
        delivery.flush()
    assert hanging.calls == [*([event] for event in EVENTS[: QUEUED_BATCHES + 1]), "flush"]


def test_a_slow_target_bounds_what_waits_for_it(gate: threading.Event) -> None:
    hanging, fast = Recorder("hanging", on_write=hang(gate)), Recorder("fast")
    written = 0

    def write() -> None:
        nonlocal written
        for number in range(10):
            delivery.write(EVENTS[number : number + 1])
            written += 1

    with Delivery([hanging, fast]) as delivery:
        thread = threading.Thread(target=write)
        thread.start()
        wait_for(lambda: written == QUEUED_BATCHES + 1 and len(fast.calls) == QUEUED_BATCHES + 1)
        assert thread.is_alive()
        gate.set()
        thread.join(WAIT_S)
        delivery.flush()
    assert hanging.calls == fast.calls == [*([event] for event in EVENTS[:10]), "flush"]


# Failures


@pytest.mark.parametrize("step", ["on_write", "on_flush"])
@pytest.mark.parametrize(
    ("error", "message"),
    [
        (TargetError("broken", "no room", hint="make room"), "target broken: no room"),
        (ZeroDivisionError("a bug"), "target broken: ZeroDivisionError: a bug"),
        (asyncio.CancelledError("given up"), "target broken: CancelledError: given up"),
        (SystemExit(1), "target broken: SystemExit: 1"),
    ],
    ids=["TargetError", "bug", "cancelled", "exit"],
)
def test_a_failing_target_is_named_and_the_others_flush(step: str, error: BaseException, message: str) -> None:
    def fail(*_: object) -> Sequence[Rejection]:
        raise error

    good, broken = Recorder("good"), Recorder("broken", **{step: fail})
    with pytest.raises(TargetError) as caught, Delivery([good, broken]) as delivery:
        delivery.write(EVENTS[:2])
        delivery.flush()
    assert str(caught.value) == message
    assert caught.value.target == "broken"
    assert caught.value is error or caught.value.__cause__ is error
    assert good.calls == [EVENTS[:2], "flush"]


def test_nothing_more_is_asked_of_a_target_that_failed() -> None:
    def fail(events: Sequence[ChangeEvent]) -> Sequence[Rejection]:
        raise TargetError("broken", "no")

    broken = Recorder("broken", on_write=fail)
    with Delivery([broken]) as delivery:
        delivery.write(EVENTS[:1])
        with pytest.raises(TargetError):
            delivery.flush()
        with pytest.raises(TargetError):
            delivery.write(EVENTS[1:2])
        with pytest.raises(TargetError):
            delivery.flush()
    assert broken.calls == [EVENTS[:1]]


def test_a_failure_is_seen_by_the_next_write() -> None:
    def fail(events: Sequence[ChangeEvent]) -> Sequence[Rejection]:
        raise TargetError("broken", "no")

    with Delivery([Recorder("broken", on_write=fail)]) as delivery, pytest.raises(TargetError):
        for number in range(QUEUED_BATCHES + 3):
            delivery.write(EVENTS[number : number + 1])


def test_a_failure_is_seen_while_another_target_is_busy(gate: threading.Event) -> None:
    def fail(events: Sequence[ChangeEvent]) -> Sequence[Rejection]:
        raise TargetError("broken", "no")

    started_s = time.monotonic()
    with (
        pytest.raises(TargetError, match="broken: no"),
        Delivery([Recorder("slow", on_write=hang(gate)), Recorder("broken", on_write=fail)]) as delivery,
    ):
        for number in range(QUEUED_BATCHES + 3):
            delivery.write(EVENTS[number : number + 1])
    assert time.monotonic() - started_s < WAIT_S / 2


def test_a_hanging_flush_ends_at_the_deadline_and_is_named(gate: threading.Event) -> None:
    hanging = Recorder("hanging", on_flush=hang(gate))
    good = Recorder("good")
    started_s = time.monotonic()
    with (
        pytest.raises(TargetError, match="deadline") as caught,
        deadline(Deadline.after(0.05)),
        Delivery([good, hanging]) as delivery,
    ):
        delivery.write(EVENTS[:1])
        delivery.flush()
    assert time.monotonic() - started_s < WAIT_S
    assert caught.value.target == "hanging"
    assert caught.value.hint


def test_a_hanging_write_ends_at_the_deadline_and_is_named(gate: threading.Event) -> None:
    hanging = Recorder("hanging", on_write=hang(gate))
    started_s = time.monotonic()
    with (
        pytest.raises(TargetError, match="deadline") as caught,
        deadline(Deadline.after(0.05)),
        Delivery([Recorder("good"), hanging]) as delivery,
    ):
        for number in range(10):
            delivery.write(EVENTS[number : number + 1])
    assert time.monotonic() - started_s < WAIT_S
    assert caught.value.target == "hanging"


def test_what_is_queued_for_a_hanging_target_is_dropped_when_the_run_ends(gate: threading.Event) -> None:
    """After the run, the next one delivers again: what the old one had queued must not arrive in between."""
    hanging = Recorder("hanging", on_write=hang(gate))
    before = threading.active_count()
    with pytest.raises(TargetError), deadline(Deadline.after(0.05)), Delivery([hanging]) as delivery:
        for number in range(10):
            delivery.write(EVENTS[number : number + 1])
    gate.set()
    wait_for(lambda: threading.active_count() <= before)
    assert hanging.calls == [EVENTS[:1]]


def test_the_threads_end() -> None:
    before = set(threading.enumerate())  # some of which may end meanwhile: other tests leave hanging ones behind
    with Delivery([Recorder("one"), Recorder("two")]) as delivery:
        delivery.write(EVENTS[:1])
        started = set(threading.enumerate()) - before
        assert {thread.name for thread in started} == {"one", "two"}
        delivery.flush()
    wait_for(lambda: not any(thread.is_alive() for thread in started))


def test_leaving_closes_no_target() -> None:
    target = Recorder()
    with Delivery([target]) as delivery:
        delivery.flush()
    assert target.calls == ["flush"]


def test_the_workers_have_the_runs_deadline() -> None:
    found: list[Deadline] = []

    def look(events: Sequence[ChangeEvent]) -> Sequence[Rejection]:
        found.append(current_deadline())
        return ()

    limit = Deadline.after(60)
    with deadline(limit), Delivery([Recorder(on_write=look)]) as delivery:
        delivery.write(EVENTS[:1])
        delivery.flush()
    assert found == [limit]


def test_nothing_is_sent_once_the_guard_says_no() -> None:
    class LostError(DocdbStreamError):
        pass

    def lost() -> None:
        raise LostError("the lease is gone")

    target = Recorder()
    with running(RunContext(lease_check=lost)), pytest.raises(LostError), Delivery([target]) as delivery:
        delivery.write(EVENTS[:1])
        delivery.flush()
    assert target.calls == []


# Runs, one after the other


def test_a_target_that_holds_something_of_a_failed_run_starts_anew() -> None:
    target = Recorder()
    delivery = Delivery([target])
    with pytest.raises(RuntimeError), delivery:
        delivery.write(EVENTS[:1])
        raise RuntimeError("the run failed elsewhere")
    with delivery:
        delivery.write(EVENTS[1:2])
        delivery.flush()
    assert "close" in target.calls
    assert target.calls[target.calls.index("close") :] == ["close", EVENTS[1:2], "flush"]


def test_a_target_with_nothing_left_over_is_kept() -> None:
    target = Recorder()
    delivery = Delivery([target])
    for _ in range(2):
        with delivery:
            delivery.write(EVENTS[:1])
            delivery.flush()
    assert target.calls == [EVENTS[:1], "flush", EVENTS[:1], "flush"]


def test_a_run_waits_for_what_the_last_one_left_in_a_target(gate: threading.Event) -> None:
    """One thread at a time uses a target, and what came late is dropped before the events come again."""
    busy = Recorder(on_write=lambda events: hang(gate)() if events == EVENTS[:1] else ())
    delivery = Delivery([busy])
    with pytest.raises(TargetError), deadline(Deadline.after(0.05)), delivery:
        delivery.write(EVENTS[:1])
        delivery.flush()
    with pytest.raises(TargetError, match="deadline"), deadline(Deadline.after(0.05)), delivery:
        delivery.write(EVENTS[1:2])
        delivery.flush()
    assert busy.calls == [EVENTS[:1]]
    gate.set()
    with delivery:
        delivery.write(EVENTS[2:3])
        delivery.flush()
    assert busy.calls == [EVENTS[:1], "close", "close", EVENTS[2:3], "flush"]


def test_closing_waits_until_a_target_is_let_go(gate: threading.Event, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("docdb_stream.delivery.CLOSE_WAIT_S", 0.05)
    busy, idle = Recorder("busy", on_write=hang(gate)), Recorder("idle")
    delivery = Delivery([busy, idle])
    with pytest.raises(TargetError), deadline(Deadline.after(0.05)), delivery:
        delivery.write(EVENTS[:1])
        delivery.flush()
    delivery.close()
    assert busy.calls == [EVENTS[:1]]
    assert idle.calls[-1] == "close"
    gate.set()
    wait_for(lambda: busy.calls[-1] == "close")


def test_a_target_that_cannot_be_closed_does_not_keep_the_others_open(caplog: pytest.LogCaptureFixture) -> None:
    class Stuck(Recorder):
        def close(self) -> None:
            raise SystemExit(1)

    other = Recorder("other")
    delivery = Delivery([Stuck("stuck"), other])
    delivery.close()
    delivery.close()
    assert other.calls == ["close", "close"]
    assert "target stuck could not be closed: SystemExit" in caplog.text


# Stops


@pytest.mark.parametrize("step", ["on_write", "on_flush"])
def test_a_target_that_hangs_does_not_outlive_a_stop(
    step: str, gate: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("docdb_stream.context.STOP_PATIENCE_S", 0.05)
    hanging = Recorder("hanging", **{step: hang(gate)})
    limit = Deadline()
    limit.stop.set()
    with pytest.raises(OutOfTimeError, match="time to stop") as caught, deadline(limit), Delivery([hanging]) as each:
        for number in range(QUEUED_BATCHES + 2):
            each.write(EVENTS[number : number + 1])
        each.flush()
    assert caught.value.target == "hanging"


def test_a_stop_leaves_time_for_the_last_flush(gate: threading.Event) -> None:
    def flush() -> Sequence[Rejection]:
        time.sleep(0.3)  # longer than one look at the stop
        return ()

    limit = Deadline()
    limit.stop.set()
    with deadline(limit), Delivery([Recorder(on_flush=flush)]) as delivery:
        delivery.write(EVENTS[:1])
        assert delivery.flush() == []


# Rejections and figures


def test_rejections_are_collected_once() -> None:
    held: list[Rejection] = []

    def reject_first(events: Sequence[ChangeEvent]) -> Sequence[Rejection]:
        held.append(Rejection(events[1], "two", "later"))
        return [Rejection(events[0], "two", "now")]

    def reject_later() -> Sequence[Rejection]:
        found, held[:] = list(held), []
        return found

    with Delivery([Recorder("one"), Recorder("two", reject_first, reject_later)]) as delivery:
        delivery.write(EVENTS[:3])
        delivery.write(EVENTS[3:6])
        found = delivery.flush()
        assert [(rejection.event, rejection.reason) for rejection in found] == [
            (EVENTS[0], "now"),
            (EVENTS[3], "now"),
            (EVENTS[1], "later"),
            (EVENTS[4], "later"),
        ]
        assert delivery.flush() == []
        figures = delivery.figures
        assert (figures["one"].events, figures["one"].rejections) == (6, 0)
        assert (figures["two"].events, figures["two"].rejections) == (2, 4)


def test_only_what_is_durable_counts() -> None:
    with Delivery([Recorder(on_write=lambda events: [Rejection(events[0], "one", "no")])]) as delivery:
        delivery.write(EVENTS[:3])
        wait_for(lambda: delivery.figures["one"].rejections == 1)
        assert delivery.figures["one"].events == 0
        delivery.flush()
        assert delivery.figures["one"].events == 2


def test_the_time_is_told() -> None:
    def nap(*_: object) -> Sequence[Rejection]:
        time.sleep(0.01)
        return ()

    with Delivery([Recorder(on_write=nap, on_flush=nap)]) as delivery:
        delivery.write(EVENTS[:1])
        delivery.flush()
        assert 0.01 <= delivery.figures["one"].write_s < 1
        assert 0.01 <= delivery.figures["one"].flush_s < 1


def test_a_buffering_target_may_ask_for_a_flush() -> None:
    class Full(Recorder):
        wants_flush = False

    full, plain = Full("full"), Recorder("plain")
    assert isinstance(full, Target)
    with Delivery([plain, full]) as delivery:
        assert not delivery.wants_flush
        full.wants_flush = True
        assert delivery.wants_flush
    with Delivery([plain]) as delivery:
        assert not delivery.wants_flush


def test_without_targets_everything_is_durable_at_once() -> None:
    with Delivery([]) as delivery:
        delivery.write(EVENTS[:1])
        assert delivery.flush() == []
        assert delivery.figures == {}


def test_a_large_batch_is_waited_for() -> None:
    """Else four events of 16 MB would wait before each target."""
    target = ListTarget()
    with Delivery([target]) as delivery:
        for number, event in enumerate(ChangeLog().inserts(4), 1):
            delivery.write([event], LARGE_BATCH_BYTES + 1)
            assert len(target.events) == number


def test_a_large_batch_that_fails_says_so_at_once() -> None:
    class Failing(ListTarget):
        def write(self, events: Sequence[ChangeEvent]) -> Sequence[Rejection]:
            raise TargetError("list", "no")

    with pytest.raises(TargetError, match="no"), Delivery([Failing()]) as delivery:
        delivery.write(ChangeLog().inserts(1), LARGE_BATCH_BYTES + 1)


def test_large_rejections_want_a_checkpoint() -> None:
    class Refusing(ListTarget):
        def write(self, events: Sequence[ChangeEvent]) -> Sequence[Rejection]:
            return [Rejection(event, "list", "too large") for event in events]

    with Delivery([Refusing()]) as delivery:
        delivery.write(ChangeLog().inserts(1, size_bytes=10), LARGE_BATCH_BYTES + 1)
        assert not delivery.wants_flush
        delivery.write(ChangeLog().inserts(1, size_bytes=REJECTED_BYTES), LARGE_BATCH_BYTES + 1)
        assert delivery.wants_flush
        assert len(delivery.flush()) == 2
        assert not delivery.wants_flush


def test_a_target_may_take_only_so_much_at_a_time() -> None:
    """What it takes next depends on how this went; so it is waited for."""

    class Paced(ListTarget):
        takes_bytes: int | None = None

        def __init__(self, takes_bytes: int | None) -> None:
            super().__init__()
            self.takes_bytes = takes_bytes

    few, more, all_ = Paced(10), Paced(20), Paced(None)
    with Delivery([all_, ListTarget()]) as delivery:
        assert delivery.takes_bytes is None
    with Delivery([more, few, all_, ListTarget()]) as delivery:
        assert delivery.takes_bytes == 10
        few.takes_bytes = None
        assert delivery.takes_bytes == 20
        delivery.write(EVENTS[:1], 1)
        assert few.events == more.events == EVENTS[:1]


# Settling


def rejection(event: ChangeEvent, target: str = "a step") -> Rejection:
    return Rejection(event, target, "no")


def test_settling_flushes_every_target_and_then_writes_all_rejections() -> None:
    letters = Letters()

    def reject_last(events: Sequence[ChangeEvent]) -> Sequence[Rejection]:
        return [rejection(events[-1], "two")]

    targets = [Recorder("one"), Recorder("two", reject_last)]
    targets[1].on_flush = lambda: () if not letters.calls else pytest.fail("flushed after the letters were written")
    with Delivery(targets, letters) as delivery:
        delivery.reject([rejection(EVENTS[9])])
        delivery.write(EVENTS[:3])
        settled = delivery.settle()
    assert letters.calls == [[rejection(EVENTS[9]), rejection(EVENTS[2], "two")]]
    assert list(settled) == letters.calls[0]
    assert [target.calls[-1] for target in targets] == ["flush", "flush"]


def test_settling_twice_writes_once() -> None:
    letters = Letters()
    with Delivery([Recorder()], letters) as delivery:
        delivery.reject([rejection(EVENTS[0])])
        assert len(delivery.settle()) == 1
        assert list(delivery.settle()) == []
        delivery.reject([rejection(EVENTS[1])])
        assert len(delivery.settle()) == 1
    assert letters.calls == [[rejection(EVENTS[0])], [rejection(EVENTS[1])]]


def test_without_rejections_the_dead_letters_are_not_reached_for() -> None:
    letters = Letters()
    letters.error = AssertionError("nobody asked")
    with Delivery([Recorder()], letters) as delivery:
        delivery.write(EVENTS[:1])
        assert list(delivery.settle()) == []


def test_what_could_not_be_written_is_written_by_the_next_attempt() -> None:
    letters = Letters()
    letters.error = StateStoreError("away")

    def reject_all(events: Sequence[ChangeEvent]) -> Sequence[Rejection]:
        return [rejection(event, "one") for event in events]

    with Delivery([Recorder(on_write=reject_all)], letters) as delivery:
        delivery.reject([rejection(EVENTS[5])])
        delivery.write(EVENTS[:1])
        for _ in range(2):
            with pytest.raises(StateStoreError):
                delivery.settle()
        letters.error = None
        delivery.write(EVENTS[1:2])
        assert len(delivery.settle()) == 3
    assert {found.event.event_id for found in letters.calls[0]} == {EVENTS[n].event_id for n in (0, 1, 5)}


def test_no_letter_is_written_before_every_target_is_flushed() -> None:
    def fail() -> Sequence[Rejection]:
        raise TargetError("broken", "no")

    letters, good = Letters(), Recorder("good")
    with pytest.raises(TargetError), Delivery([good, Recorder("broken", on_flush=fail)], letters) as delivery:
        delivery.reject([rejection(EVENTS[0])])
        delivery.write(EVENTS[:1])
        for _ in range(2):
            with pytest.raises(TargetError):
                delivery.settle()
        delivery.settle()
    assert letters.calls == []
    assert good.calls == [EVENTS[:1], "flush", "flush", "flush"]


def test_what_a_failed_run_rejected_is_not_the_next_ones() -> None:
    """It reads the same events again, and rejects them itself."""
    letters = Letters()
    delivery = Delivery([Recorder()], letters)
    with pytest.raises(RuntimeError), delivery:
        delivery.reject([rejection(EVENTS[0])])
        raise RuntimeError("the run failed elsewhere")
    with delivery:
        assert not delivery.wants_flush
        assert list(delivery.settle()) == []
    assert letters.calls == []


@pytest.mark.parametrize("end", ["stop", "deadline"])
def test_settling_ends_with_the_run(end: str, gate: threading.Event, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("docdb_stream.context.STOP_PATIENCE_S", 0.05)
    letters, limit = Letters(), Deadline.after(0.2 if end == "deadline" else None)
    began_s = time.monotonic()
    with deadline(limit), Delivery([Recorder("hanging", on_flush=hang(gate))], letters) as delivery:
        delivery.reject([rejection(EVENTS[0])])
        threading.Timer(0.05, limit.stop.set if end == "stop" else gate.is_set).start()
        with pytest.raises(OutOfTimeError, match="hanging: not durable") as caught:
            delivery.settle()
    assert time.monotonic() - began_s < WAIT_S
    assert ("raise the timeout" in caught.value.hint) is (end == "deadline")
    assert letters.calls == []


def test_rejections_before_any_target_want_a_checkpoint_too() -> None:
    with Delivery([Recorder()]) as delivery:
        delivery.reject([rejection(ChangeLog().inserts(1, size_bytes=REJECTED_BYTES)[0])])
        assert delivery.wants_flush
        delivery.settle()
        assert not delivery.wants_flush


def test_a_rejection_is_told_without_what_is_in_the_event(caplog: pytest.LogCaptureFixture) -> None:
    event = ChangeLog().insert({"_id": 1, "card": "tr0ub4dor"})
    with Delivery([Recorder()]) as delivery:
        delivery.reject([Rejection(event, "a step", "no such customer")])
        delivery.settle()
    assert f"event rejected: stream={STREAM} target=a step event_id={event.event_id[:20]}" in caplog.text
    assert "reason=no such customer" in caplog.text
    assert "tr0ub4dor" not in caplog.text


def test_a_target_that_takes_so_much_at_a_time_gets_no_more_whatever_is_handed_over() -> None:
    class Paced(Recorder):
        takes_bytes: int | None = 2 * EVENTS[0].size_bytes

    target, other = Paced("paced"), Recorder("other")
    with Delivery([target, other]) as delivery:
        delivery.write(EVENTS[:5], sum(event.size_bytes for event in EVENTS[:5]))
        assert [len(call) for call in target.calls] == [2, 2, 1]
        target.takes_bytes = 1
        delivery.write(EVENTS[5:7], sum(event.size_bytes for event in EVENTS[5:7]))
        assert target.calls[3:] == [EVENTS[5:6], EVENTS[6:7]], "one at least"
        target.takes_bytes = None
        delivery.write(EVENTS[7:12], 10**9)
        delivery.settle()
    assert target.calls[5:] == [EVENTS[7:12], "flush"]
    assert [event for call in other.calls if call != "flush" for event in call] == EVENTS[:12]


class Announcing(ListTarget):
    """Asks for what it announces."""

    def __init__(self, name: str, *formats: Any) -> None:
        super().__init__()
        self.name = name
        self.formats = formats
        self.found: list[Any] = []

    def write(self, events: Sequence[ChangeEvent]) -> Sequence[Rejection]:
        for each in self.formats:
            self.found += [event.ordering_key if each is FACTS else event.render(each) for event in events]
        return super().write(events)


def test_events_are_decoded_once_for_all_that_targets_announce(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    original = part.decode_all
    monkeypatch.setattr(part, "decode_all", lambda raws: calls.append(len(raws)) or original(raws))
    targets = [Announcing("a", FACTS, EXTENDED), Announcing("b", PLAIN), ListTarget()]
    raws = [event.raw or b"" for event in ChangeLog().inserts(10)]
    with Delivery(targets) as delivery:
        delivery.write(Events.of(raws))
        delivery.write(list(Events.of(raws)))  # as batches are that were put together
        assert not delivery.settle()
    assert calls == [10, 10]
    assert [len(target.found) for target in targets[:2]] == [40, 20]  # type: ignore[attr-defined]
