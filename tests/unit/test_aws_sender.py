from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
from botocore.exceptions import ClientError, EndpointConnectionError, ReadTimeoutError, SSLError
from botocore.parsers import ResponseParserError
from hypothesis import given, settings
from hypothesis import strategies as st

from docdb_stream import context
from docdb_stream.context import Deadline, RunContext, deadline, running
from docdb_stream.errors import CheckpointConflictError, TargetError
from docdb_stream.targets._aws.client import Destination, is_retriable
from docdb_stream.targets._aws.sender import BatchSender, Limits, Record, Refusal, within
from docdb_stream.testing.events import ChangeLog

DESTINATION = Destination("fake", "Fake queue q", "FAKE", "aws fake create", "give it more")
LIMITS = Limits(count=10, record_bytes=100, request_bytes=500)
EVENT = ChangeLog().insert({"_id": 1})


@pytest.fixture(autouse=True, scope="module")
def waits() -> Iterator[list[float]]:
    """Waits are recorded, not slept."""
    waits: list[float] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(context.Deadline, "pause", lambda self, delay_s: waits.append(delay_s))
        yield waits


def record(number: int, key: str | None = None, size_bytes: int = 10) -> Record:
    return Record(EVENT, str(number) if key is None else key, size_bytes, {"number": number, "key": key})


def client_error(code: str, status: int = 400) -> ClientError:
    response = {"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return ClientError(response, "Put")  # type: ignore[arg-type]


class Service:
    """Remembers requests and takes records, but for those that ``refuse`` names."""

    def __init__(self, refuse: Callable[[list[dict[str, Any]]], list[Refusal]] = lambda entries: []) -> None:
        self.refuse = refuse
        self.requests: list[list[int]] = []
        self.taken: list[dict[str, Any]] = []
        self._lock = threading.Lock()

    def __call__(self, entries: list[dict[str, Any]]) -> list[Refusal]:
        with self._lock:
            self.requests.append([entry["number"] for entry in entries])
            refusals = self.refuse(entries)
            refused = {refusal.number for refusal in refusals}
            self.taken += [entry for number, entry in enumerate(entries) if number not in refused]
            return refusals


def send(
    service: Service, records: Sequence[Record], *, lanes: int = 1, limits: Limits = LIMITS, at_once: int = 1000
) -> list[Any]:
    sender = BatchSender(DESTINATION, "fake:Put", service, lanes)
    starts = range(0, len(records), at_once)
    try:
        rejections = [one for start in starts for one in sender.send(records[start : start + at_once], limits)]
        return [*rejections, *sender.flush()]
    finally:
        sender.close()


def test_nothing_sends_nothing() -> None:
    service = Service()
    assert send(service, []) == []
    assert service.requests == []


@pytest.mark.parametrize(("count", "sizes"), [(9, [9]), (10, [10]), (11, [10, 1]), (25, [10, 10, 5])])
def test_requests_are_filled_to_the_count(count: int, sizes: list[int]) -> None:
    service = Service()
    send(service, [record(number) for number in range(count)])
    assert list(map(len, service.requests)) == sizes


@pytest.mark.parametrize(("last_bytes", "sizes"), [(99, [5]), (100, [5]), (101, [4, 1])])
def test_requests_are_filled_to_the_byte(last_bytes: int, sizes: list[int]) -> None:
    service = Service()
    limits = Limits(count=10, record_bytes=200, request_bytes=500)
    records = [record(number, size_bytes=100) for number in range(4)] + [record(4, size_bytes=last_bytes)]
    send(service, records, limits=limits)
    assert list(map(len, service.requests)) == sizes


@pytest.mark.parametrize("limits", [Limits(10, 100, 500), Limits(10, 500, 100)], ids=["record", "request"])
def test_a_record_above_the_limit_is_rejected(limits: Limits) -> None:
    service = Service()
    [rejection] = send(service, [record(1, size_bytes=100), record(2, size_bytes=101)], limits=limits)
    assert rejection.reason == "101 bytes, Fake queue q takes 100"
    assert service.requests == [[1]]


@pytest.mark.parametrize("lanes", [1, 3])
def test_a_hot_key_goes_one_by_one_and_in_order(lanes: int) -> None:
    service = Service()
    send(service, [record(number, "hot") for number in range(50)], lanes=lanes)
    assert service.requests == [[number] for number in range(50)]


def test_a_hot_key_holds_up_no_other_and_has_a_place_in_every_request() -> None:
    service = Service()
    send(service, [record(number, "hot") for number in range(3)] + [record(number) for number in range(3, 30)])
    assert list(map(len, service.requests)) == [10, 10, 10]
    assert [request[0] for request in service.requests] == [0, 1, 2]


def test_refused_records_go_again_before_later_ones_of_their_key(waits: list[float]) -> None:
    waits.clear()
    outcomes = iter([[Refusal(0, "InternalFailure")], [Refusal(0, "InternalFailure")]])
    service = Service(lambda entries: next(outcomes, []))
    send(service, [record(0, "a"), record(1, "b"), record(2, "a"), record(3, "b")])
    assert service.requests == [[0, 1], [0, 3], [0], [2]]
    assert len(waits) == 2


def test_a_record_at_fault_is_rejected_and_its_key_goes_on() -> None:
    def refuse(entries: list[dict[str, Any]]) -> list[Refusal]:
        return [
            Refusal(n, "InvalidMessageContents", permanent=True) for n, one in enumerate(entries) if one["number"] == 1
        ]

    service = Service(refuse)
    [rejection] = send(service, [record(0, "a"), record(1, "a"), record(2, "a"), record(3, "b")])
    assert rejection.event is EVENT
    assert rejection.reason == "Fake queue q: InvalidMessageContents"
    assert [request.count(1) for request in service.requests] == [0, 1, 0]
    assert [entry["number"] for entry in service.taken] == [0, 3, 2]


@pytest.mark.parametrize("code", ["KMS.DisabledException", "AccessDenied", "AWS.SimpleQueueService.NonExistentQueue"])
def test_a_refusal_that_is_no_record_s_fault_ends_the_write(code: str) -> None:
    service = Service(lambda entries: [Refusal(0, code, permanent=True)])
    with pytest.raises(TargetError, match=code.rpartition(".")[2]):
        send(service, [record(0)])
    assert len(service.requests) == 1


@pytest.mark.parametrize(
    "error",
    [
        client_error("ThrottlingException"),
        client_error("Unheard", 503),
        client_error("Unheard", 429),
        EndpointConnectionError(endpoint_url="http://x"),
        ReadTimeoutError(endpoint_url="http://x"),
        ResponseParserError("<html>"),
    ],
    ids=repr,
)
def test_a_request_that_may_succeed_later_is_sent_again(error: Exception, waits: list[float]) -> None:
    waits.clear()
    failures = iter([error, error])

    def fail(entries: list[dict[str, Any]]) -> list[Refusal]:
        for failure in failures:
            raise failure
        return []

    service = Service(fail)
    assert send(service, [record(0, "a"), record(1, "b"), record(2, "a")]) == []
    assert service.requests == [[0, 1], [0, 1], [0, 1], [2]]
    assert len(waits) == 2


@pytest.mark.parametrize(
    "error", [client_error("ValidationException"), SSLError(endpoint_url="https://x", error="untrusted")], ids=repr
)
def test_a_request_that_cannot_succeed_is_not(error: Exception) -> None:
    def fail(entries: list[dict[str, Any]]) -> list[Refusal]:
        raise error

    service = Service(fail)
    assert not is_retriable(error)
    with pytest.raises(TargetError):
        send(service, [record(0)])
    assert len(service.requests) == 1


def test_patience_ends() -> None:
    now = 0.0

    def refuse(entries: list[dict[str, Any]]) -> list[Refusal]:
        nonlocal now
        now += 1
        return [Refusal(0, "ProvisionedThroughputExceededException")]

    service = Service(refuse)
    with deadline(Deadline(patience_s=20, clock=lambda: now)), pytest.raises(TargetError) as caught:
        send(service, [record(0), record(1)])
    assert caught.value.hint == "nothing is lost, the next run goes on: give it more"
    assert 5 < len(service.requests) <= 20
    assert service.requests[1:] == [[0]] * (len(service.requests) - 1)


def test_new_records_that_get_through_are_no_progress_for_those_that_do_not(waits: list[float]) -> None:
    waits.clear()
    now = 0.0

    def refuse(entries: list[dict[str, Any]]) -> list[Refusal]:
        nonlocal now
        now += 1
        return [Refusal(n, "InternalFailure") for n, entry in enumerate(entries) if entry["number"] == 0]

    service = Service(refuse)
    with deadline(Deadline(patience_s=10, clock=lambda: now)), pytest.raises(TargetError):
        send(service, [record(number) for number in range(1000)])
    assert len(service.requests) <= 11


def test_slow_progress_is_not_given_up() -> None:
    now = 0.0

    def refuse(entries: list[dict[str, Any]]) -> list[Refusal]:
        nonlocal now
        now += 4
        return [Refusal(n, "InternalFailure") for n in range(1, len(entries))]

    service = Service(refuse)
    with deadline(Deadline(patience_s=10, clock=lambda: now)):
        assert send(service, [record(number) for number in range(10)]) == []
    assert now > 30
    assert len(service.taken) == 10


def test_the_deadline_ends_also_what_goes_well() -> None:
    now = 0.0

    def tick(entries: list[dict[str, Any]]) -> list[Refusal]:
        nonlocal now
        now += 1
        return []

    service = Service(tick)
    with deadline(Deadline(at_s=3, clock=lambda: now)), pytest.raises(TargetError, match="deadline"):
        send(service, [record(number, "hot") for number in range(100)])
    assert len(service.requests) == 3


def test_a_lost_lease_ends_every_lane() -> None:
    def guard() -> None:
        if service.requests:
            raise CheckpointConflictError("lost")

    service = Service()
    with running(RunContext(lease_check=guard)), pytest.raises(CheckpointConflictError):
        send(service, [record(number) for number in range(1000)], lanes=4)
    assert len(service.requests) <= 4


def test_lanes_send_side_by_side() -> None:
    # Each of the four requests waits for the other three: with fewer lanes this would time out.
    together = threading.Barrier(4, timeout=30)
    sender = BatchSender(DESTINATION, "fake:Put", lambda entries: (together.wait(), [])[1], 4)
    for _ in range(2):  # it starts its threads again
        sender.send([record(number) for number in range(40)], LIMITS)
        assert sender.flush() == []
        sender.close()
    sender.close()
    sender.close()


def test_an_error_of_one_lane_ends_the_others() -> None:
    def fail(entries: list[dict[str, Any]]) -> list[Refusal]:
        raise client_error("ValidationException")

    service = Service(fail)
    with pytest.raises(TargetError, match="ValidationException"):
        send(service, [record(number) for number in range(1000)], lanes=4)
    assert len(service.requests) <= 4


def test_other_keys_go_on_while_one_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    others_are_done = threading.Event()
    # The lane with the refused record waits until everything else is delivered: only another lane can do that.
    sleep: Callable[[float], object] = lambda delay_s: others_are_done.wait(30)  # noqa: E731
    monkeypatch.setattr(context.Deadline, "pause", lambda self, delay_s: sleep(delay_s))
    refused: list[int] = []

    def refuse(entries: list[dict[str, Any]]) -> list[Refusal]:
        if entries[0]["number"] == 0 and not refused:
            refused.append(0)
            return [Refusal(0, "InternalFailure")]
        if len(service.taken) + len(entries) == 98:
            others_are_done.set()
        return []

    service = Service(refuse)
    records = [record(0, "a"), record(1, "a"), *(record(number) for number in range(2, 100))]
    assert send(service, records, lanes=2) == []
    assert others_are_done.is_set()
    assert [entry["number"] for entry in service.taken][-2:] == [0, 1]


@settings(max_examples=200, deadline=None)
@given(
    keys=st.lists(st.integers(0, 7), max_size=80),
    failures=st.lists(st.one_of(st.none(), st.sets(st.integers(0, 9), max_size=10)), max_size=40),
    rejected=st.sets(st.integers(0, 79), max_size=5),
    lanes=st.integers(1, 4),
    at_once=st.integers(5, 80),
)
def test_order_holds_whatever_fails(
    keys: list[int], failures: list[set[int] | None], rejected: set[int], lanes: int, at_once: int
) -> None:
    script = iter(failures)

    def refuse(entries: list[dict[str, Any]]) -> list[Refusal]:
        assert 0 < len(entries) <= LIMITS.count
        assert len({entry["key"] for entry in entries}) == len(entries), "two records of a key in one request"
        failing = next(script, set())
        if failing is None:
            raise client_error("ThrottlingException")
        return [
            Refusal(number, "InternalFailure")
            if number in failing
            else Refusal(number, "InvalidMessageContents", permanent=True)
            for number, entry in enumerate(entries)
            if number in failing or entry["number"] in rejected
        ]

    service = Service(refuse)
    records = [record(number, f"k{key}") for number, key in enumerate(keys)]
    rejections = send(service, records, lanes=lanes, at_once=at_once)
    by_key: dict[str, list[int]] = defaultdict(list)
    for entry in service.taken:
        by_key[entry["key"]].append(entry["number"])
    expected: dict[str, list[int]] = defaultdict(list)
    for number, key in enumerate(keys):
        if number not in rejected:
            expected[f"k{key}"].append(number)
    assert by_key == expected
    assert len(rejections) == len(rejected & set(range(len(keys))))


def test_within() -> None:
    assert within("ä" * 4, 4) == "ä" * 4
    assert len(within("ä" * 5, 4)) == 64
