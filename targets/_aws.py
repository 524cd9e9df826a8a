"""The batch APIs of AWS: one mechanism for limits, partial failures and order.

Owns how records become requests. Knows no service: what a record and a request look like is each target's matter
(``_aws_target``).
"""

from __future__ import annotations

import contextvars
import hashlib
import threading
from collections import deque
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from docdb_stream.errors import TargetError
from docdb_stream.events import ChangeEvent
from docdb_stream.retry import Backoff, current_deadline
from docdb_stream.target import Rejection
from docdb_stream.targets._aws_client import REQUEST_ERRORS, Place, error_code, is_retriable, is_the_place_at_fault


@dataclass(frozen=True, slots=True)
class Limits:
    """What one request takes.

    Attributes:
        count: Records.
        record_bytes: Bytes of one record, as the service counts them; at most ``request_bytes``.
        request_bytes: Bytes of all records.
    """

    count: int
    record_bytes: int
    request_bytes: int


class Record(NamedTuple):
    """One event on its way.

    Attributes:
        event: The event.
        key: Records of one key arrive in their order. Where order does not matter, each has a key of its own.
        size_bytes: Its size, as the service counts it.
        entry: What the request holds for it.
    """

    event: ChangeEvent
    key: str
    size_bytes: int
    entry: dict[str, Any]


class Refusal(NamedTuple):
    """The service did not take one record of a request.

    Attributes:
        number: Which one, counted from 0.
        code: The service's error code.
        permanent: The service says that the record itself is at fault.
    """

    number: int
    code: str
    permanent: bool = False


def refusals(results: Sequence[dict[str, Any]], at_fault: Collection[str] = ()) -> list[Refusal]:
    """The refusals among the results of a request, which are in its records' order.

    Args:
        results: One for each record; those that were refused have an ``ErrorCode``.
        at_fault: The codes by which the service says that the record itself is at fault.
    """
    codes = [(number, result.get("ErrorCode")) for number, result in enumerate(results)]
    return [Refusal(number, code, code in at_fault) for number, code in codes if code]


def within(text: str, characters: int) -> str:
    """``text`` where it is short enough for a service, else the hexadecimal SHA-256 of it."""
    return text if len(text) <= characters else hashlib.sha256(text.encode()).hexdigest()


class BatchSender:
    """Sends records in requests as full as the limits allow, several side by side.

    Order per key is strict: a record is sent only when every earlier one of its key has been taken or rejected. Two
    records of one key are therefore never in the same request (a service may take the second and refuse the first),
    refused records go again before later ones of their key, and meanwhile other keys go on. The price: a key is
    delivered at one record per round trip.

    Args:
        place: Where the records go.
        action: The IAM action of a request.
        request: Sends the entries of one request and returns the refusals; called from several threads. Raises what
            botocore raises.
        lanes: Requests side by side, at most.
    """

    def __init__(
        self, place: Place, action: str, request: Callable[[list[dict[str, Any]]], list[Refusal]], lanes: int
    ) -> None:
        self.place = place
        self.action = action
        self.request = request
        self._lanes = lanes
        self._threads: ThreadPoolExecutor | None = None
        self._sending: _Sending | None = None

    def send(self, records: Sequence[Record], limits: Limits) -> list[Rejection]:
        """Send the records; returns when each is durable or rejected, with the rejections.

        Raises:
            TargetError: The service does not work, or not in time. Any of the records may have arrived.
        """
        self._sending = sending = _Sending(self, limits)
        sending.add(records)
        lanes = min(self._lanes, sending.lanes_worthwhile())
        if lanes > 1 and self._threads is None:
            # The caller's thread is a lane too.
            self._threads = ThreadPoolExecutor(self._lanes - 1, thread_name_prefix=self.place.target)
        others: list[Future[None]] = []
        if self._threads is not None:
            others = [self._threads.submit(contextvars.copy_context().run, sending.lane) for _ in range(lanes - 1)]
        sending.lane()
        for other in others:
            other.result()
        if sending.error is not None:
            raise sending.error
        return sending.rejections

    def close(self) -> None:
        """End the threads; a ``send`` under way in another one makes no further requests, and raises TargetError.

        Safe to call twice; a later ``send`` starts the threads again.
        """
        sending, self._sending = self._sending, None
        if sending is not None:
            sending.give_up()
        threads, self._threads = self._threads, None
        if threads is not None:
            # Not waiting: after a deadline, a request may still hang until its timeout.
            threads.shutdown(wait=False, cancel_futures=True)


@dataclass(slots=True)
class _Sending:
    """The records of one ``send``, and how far each is."""

    sender: BatchSender
    limits: Limits
    rejections: list[Rejection] = field(default_factory=list)
    error: BaseException | None = None
    # Per key, its records that are not yet taken. A key is in `ready` when it has some and none of them is in a lane.
    _queues: dict[str, deque[Record]] = field(default_factory=dict)
    _ready: deque[str] = field(default_factory=deque)
    _unsettled: int = 0
    _unsettled_bytes: int = 0
    _changed: threading.Condition = field(default_factory=threading.Condition)

    def add(self, records: Sequence[Record]) -> None:
        """Queue the records; those above the limit are rejected."""
        limit_bytes = min(self.limits.record_bytes, self.limits.request_bytes)
        for record in records:
            if record.size_bytes > limit_bytes:
                self._reject(record, f"{record.size_bytes} bytes, {self.sender.place.what} takes {limit_bytes}")
                continue
            queue = self._queues.get(record.key)
            if queue is None:
                self._queues[record.key] = deque((record,))
                self._ready.append(record.key)
            else:
                queue.append(record)
            self._unsettled += 1
            self._unsettled_bytes += record.size_bytes

    def give_up(self) -> None:
        """Make no further requests."""
        with self._changed:
            if self._unsettled:
                self.error = self.error or TargetError(self.sender.place.target, "closed while it was sending")
            self._changed.notify_all()

    def lanes_worthwhile(self) -> int:
        """How many requests there are to send side by side."""
        by_count = -(-self._unsettled // self.limits.count)
        by_bytes = -(-self._unsettled_bytes // self.limits.request_bytes)
        # The requests of one key follow each other: they are no work for a second lane.
        return min(max(by_count, by_bytes), len(self._queues))

    def lane(self) -> None:
        """Send requests until nothing is left or a lane has failed; errors are left in ``error``."""
        try:
            backoff = Backoff()
            refused: list[Record] = []
            limit = current_deadline()
            while request := self._next(refused):
                limit.check()
                if limit.remaining_s <= 0:
                    raise self.sender.place.out_of_time()
                retried = len(refused)
                cause: Exception | str = ""
                try:
                    refusals = self.sender.request([record.entry for record in request])
                except REQUEST_ERRORS as error:
                    if not is_retriable(error):
                        raise self.sender.place.error(error, self.sender.action) from error
                    refused, cause = request, error
                else:
                    refused, cause = self._settle(request, refusals)
                    # New records that get through beside old ones that do not are no progress.
                    if not refused or sum(refusal.number < retried for refusal in refusals) < retried:
                        backoff.progress()
                if refused and not backoff.wait():
                    raise self.sender.place.error(cause, self.sender.action)
        except BaseException as error:
            with self._changed:
                self.error = self.error or error
                self._changed.notify_all()
            if not isinstance(error, Exception):
                raise

    def _next(self, refused: list[Record]) -> list[Record]:
        """The next request: this lane's refused records, filled up with what is ready. Empty: this lane is done."""
        request = list(refused)
        free_bytes = self.limits.request_bytes - sum(record.size_bytes for record in refused)
        with self._changed:
            while self.error is None and self._unsettled:
                while self._ready and len(request) < self.limits.count:
                    record = self._queues[self._ready[0]][0]
                    if record.size_bytes > free_bytes:
                        break
                    self._ready.popleft()
                    request.append(record)
                    free_bytes -= record.size_bytes
                if request:
                    return request
                self._changed.wait()
        return []

    def _settle(self, request: list[Record], refusals: Sequence[Refusal]) -> tuple[list[Record], str]:
        """Note what became of a request; returns the records to send again, and the code they were refused with."""
        verdicts = {refusal.number: refusal for refusal in refusals}
        again: list[Record] = []
        code = ""
        # Keys with more to send go to the front, so that a hot key has a place in every request.
        more: list[str] = []
        with self._changed:
            for index, record in enumerate(request):
                if verdicts and (refusal := verdicts.get(index)) is not None:
                    if self._is_worth_retrying(refusal):
                        again.append(record)
                        code = refusal.code
                        continue
                    self._reject(record, f"{self.sender.place.what}: {error_code(refusal.code)}")
                queue = self._queues[record.key]
                queue.popleft()
                if queue:
                    more.append(record.key)
            self._ready.extendleft(reversed(more))
            self._unsettled -= len(request) - len(again)
            self._changed.notify_all()
        return again, code

    def _is_worth_retrying(self, refusal: Refusal) -> bool:
        """False: the record is at fault. Raises TargetError when the place is, whatever the record."""
        if is_retriable(refusal.code):
            return True
        if is_the_place_at_fault(refusal.code):
            raise self.sender.place.error(refusal.code, self.sender.action)
        return not refusal.permanent

    def _reject(self, record: Record, reason: str) -> None:
        self.rejections.append(Rejection(record.event, self.sender.place.target, reason))
