from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import orjson
import pytest

from docdb_stream.context import Deadline, RunContext, check_lease, current_deadline, deadline, running
from docdb_stream.errors import CheckpointConflictError, TargetError
from docdb_stream.local.process import wait_until
from docdb_stream.retry import Backoff
from docdb_stream.target import Rejection
from docdb_stream.targets._opensearch import bulk as _opensearch_bulk
from docdb_stream.targets._opensearch.bulk import BulkSender, Operation
from docdb_stream.targets.opensearch import OpenSearchTarget
from docdb_stream.testing.events import ChangeLog

LONG_S = 60
"""How long a test waits for what has to happen."""
EVENT = ChangeLog().insert({"_id": 1})


def wait_for_lanes() -> None:
    """Wait until no lane is left."""
    until_s = time.monotonic() + LONG_S
    while any(thread.name == "opensearch" for thread in threading.enumerate()):
        assert time.monotonic() < until_s
        time.sleep(0.005)


class Request:
    """A bulk request that is under way until it is answered."""

    def __init__(self, body: bytes) -> None:
        self.body = body
        self.operations: list[tuple[str, int]] = [tuple(orjson.loads(line)[:2]) for line in body.splitlines()]
        self.answer: Any = None
        self.is_answered = threading.Event()

    @property
    def documents(self) -> set[str]:
        return {document for document, _ in self.operations}


class Domain:
    """Takes requests and answers each when the test says so. Stands for the client."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.open: list[Request] = []
        self.arrived = threading.Condition()
        self.answers_at_once = False
        self.deadlines: list[Deadline] = []

    def request(self, method: str, path: str, body: bytes, backoff: Backoff) -> Any:
        check_lease()
        request = Request(body)
        with self.arrived:
            self.requests.append(request)
            self.deadlines.append(current_deadline())
            self.open.append(request)
            self.arrived.notify_all()
        if not self.answers_at_once:
            assert request.is_answered.wait(LONG_S)
        if isinstance(request.answer, Exception):
            raise request.answer
        with self.arrived:
            if request in self.open:
                self.open.remove(request)
        return request.answer or {"errors": False}

    def too_busy(self) -> TargetError:
        return TargetError("opensearch", "the domain is too busy")

    def wait_for_open(self, count: int) -> list[Request]:
        """The requests under way, once there are so many."""
        with self.arrived:
            assert self.arrived.wait_for(lambda: len(self.open) >= count, LONG_S)
            return list(self.open)

    def answer(self, request: Request, answer: Any = None) -> None:
        with self.arrived:
            self.open.remove(request)
        request.answer = answer
        request.is_answered.set()


@pytest.fixture
def domain() -> Domain:
    return Domain()


def operation(document: str, number: int, padding: int = 0) -> Operation:
    return Operation(EVENT, "index", document, orjson.dumps([document, number, "x" * padding]) + b"\n")


def sender_of(domain: Domain, lanes: int = 4, request_bytes: int = 1_000_000) -> BulkSender:
    return BulkSender(domain, "opensearch", lanes, request_bytes)  # type: ignore[arg-type]


def deliver(sender: BulkSender, *operations: Operation) -> list[Rejection]:
    return [*sender.send(operations), *sender.settle()]


@contextmanager
def in_thread(work: Callable[[], object]) -> Iterator[list[BaseException]]:
    """``work`` goes on beside the block, and is over after it; yields what it raised."""
    raised: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    yield raised
    thread.join(LONG_S)
    assert not thread.is_alive()


def test_requests_of_different_documents_are_side_by_side(domain: Domain) -> None:
    sender = sender_of(domain)
    for number in range(6):
        sender.send([operation(f"{number}", number)])
        domain.wait_for_open(min(number + 1, 4))
    first = domain.wait_for_open(4)
    assert len(domain.requests) == 4
    domain.answer(first[2])
    with domain.arrived:
        assert domain.arrived.wait_for(lambda: len(domain.requests) == 5, LONG_S)
    assert domain.requests[4].documents == {"4", "5"}, "what waited goes together"
    domain.answers_at_once = True
    for request in domain.wait_for_open(4):
        domain.answer(request)
    assert sender.settle() == []
    sender.close()


@pytest.mark.parametrize("seed", range(12))
def test_operations_of_a_document_keep_their_order(domain: Domain, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    chance = random.Random(seed)
    monkeypatch.setattr(_opensearch_bulk, "_REQUEST_BYTES", 60)
    monkeypatch.setattr(_opensearch_bulk, "_WAITING_BYTES", 400)
    sent = [operation(f"{chance.randrange(9)}", number, chance.choice([0, 0, 40])) for number in range(400)]
    sender = sender_of(domain, lanes=3)

    def work() -> None:
        start = 0
        while start < len(sent):
            end = start + chance.randrange(1, 30)
            sender.send(sent[start:end])
            start = end
        sender.settle()

    seen: dict[str, list[int]] = {}
    most = taken = 0
    with in_thread(work) as raised:
        while taken < len(sent):
            requests = domain.wait_for_open(1)
            most = max(most, len(requests))
            assert len(set().union(*(request.documents for request in requests))) == sum(
                len(request.documents) for request in requests
            ), "a document in two requests at a time"
            request = chance.choice(requests)
            for document, number in request.operations:
                seen.setdefault(document, []).append(number)
            taken += len(request.operations)
            domain.answer(request)
    assert raised == []
    assert most > 1
    assert all(numbers == sorted(numbers) for numbers in seen.values())
    assert sorted(number for numbers in seen.values() for number in numbers) == list(range(len(sent)))
    assert sender._lane_of == {}
    assert (sender._left, sender._left_bytes) == (0, 0)
    # A lane that others left nothing for may only begin now.
    wait_until(lambda: sender._free_lanes == 3, "every lane has ended", timeout_s=30)
    sender.close()


def test_what_is_under_way_is_bounded(domain: Domain, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_opensearch_bulk, "_WAITING_BYTES", 100)
    sender = sender_of(domain, lanes=2)
    returned = threading.Event()

    def work() -> None:
        sender.send([operation(f"{number}", number) for number in range(50)])
        returned.set()
        sender.settle()

    with in_thread(work) as raised:
        [request] = domain.wait_for_open(1)
        assert not returned.is_set()
        domain.answer(request)
    assert returned.is_set()
    assert raised == []
    sender.close()


def test_a_large_batch_is_shared_between_the_lanes(domain: Domain) -> None:
    sender = sender_of(domain, request_bytes=500)
    operations = [operation(f"{number}", number) for number in range(300)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_opensearch_bulk, "_REQUEST_BYTES", 500)
        sender.send(operations)
        for request in domain.wait_for_open(4):
            assert len(request.body) <= 500
        domain.answers_at_once = True
        for request in domain.wait_for_open(4):
            domain.answer(request)
        sender.settle()
    assert sum(len(request.operations) for request in domain.requests) == 300
    sender.close()


def test_after_an_error_nothing_more_is_sent(domain: Domain) -> None:
    sender = sender_of(domain, lanes=2)
    sender.send([operation("a", 1)])
    domain.wait_for_open(1)
    sender.send([operation("b", 1)])
    first, second = domain.wait_for_open(2)
    sender.send([operation("a", 2), operation("b", 2), operation("c", 1)])
    with in_thread(sender.settle) as raised:
        domain.answer(first, TargetError("opensearch", "403"))
    assert [str(error) for error in raised] == [str(TargetError("opensearch", "403"))]
    domain.answer(second)
    with pytest.raises(TargetError, match="403"):
        sender.send([operation("d", 1)])
    sender.close()
    wait_for_lanes()
    assert len(domain.requests) == 2


def test_closing_ends_who_waits_and_what_would_try_again(domain: Domain, monkeypatch: pytest.MonkeyPatch) -> None:
    sender = sender_of(domain)
    waiting = threading.Event()
    attempts = []

    def busy(method: str, path: str, body: bytes, backoff: Backoff) -> Any:
        while True:
            attempts.append(path)
            waiting.set()
            if not backoff.wait():
                raise domain.too_busy()

    monkeypatch.setattr(domain, "request", busy)
    sender.send([operation("a", 1)])
    with in_thread(sender.settle) as raised:
        assert waiting.wait(LONG_S)
        sender.close()
    assert isinstance(raised[0], TargetError)
    wait_for_lanes()
    made = len(attempts)
    with pytest.raises(TargetError, match="closed"):
        sender.send([operation("a", 2)])
    assert len(attempts) == made


def test_lanes_have_the_deadline_of_the_run_they_work_for(domain: Domain) -> None:
    domain.answers_at_once = True
    sender = sender_of(domain)
    limits = [Deadline.after(100), Deadline.after(200)]
    for limit in limits:
        with deadline(limit):
            deliver(sender, operation("a", 1))
    assert [id(found) for found in domain.deadlines] == [id(limit) for limit in limits]
    sender.close()


def test_a_lost_lease_is_told_as_such(domain: Domain) -> None:
    def lost() -> None:
        raise CheckpointConflictError("another run has taken over")

    sender = sender_of(domain)
    with running(RunContext(lease_check=lost)), pytest.raises(CheckpointConflictError):
        deliver(sender, operation("a", 1))
    assert domain.requests == []
    sender.close()


def test_rejections_come_once(domain: Domain) -> None:
    domain.answers_at_once = True
    sender = sender_of(domain, request_bytes=30)
    large = Operation(EVENT, "index", "large", b"x" * 31)
    assert [rejection.reason.partition(",")[0] for rejection in deliver(sender, operation("a", 1), large)] == [
        "31 bytes"
    ]
    assert deliver(sender) == []
    sender.close()


def test_a_target_that_was_closed_starts_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    target = OpenSearchTarget("http://127.0.0.1:1")
    log = ChangeLog()
    for _ in range(2):
        limit = Deadline.after(None, patience_s=0)
        with deadline(limit), pytest.raises(TargetError, match="does not answer"):
            [*target.write(log.inserts(1)), *target.flush()]
        target.close()
    domain = Domain()
    domain.answers_at_once = True
    monkeypatch.setattr(target, "_client", domain)
    target.write([])
    assert target.flush() == []
