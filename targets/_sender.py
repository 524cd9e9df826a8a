"""Records to requests, side by side: one mechanism for limits, partial failures and the order of each document.

Owns how records become requests. Knows no service: what a record and a request look like is each target's matter, and
what a refusal means is its ``Service``'s.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from docdb_stream.context import check_lease, current_deadline, in_background
from docdb_stream.errors import TargetError
from docdb_stream.events import ChangeEvent
from docdb_stream.retry import Backoff
from docdb_stream.source import BATCH_BYTES
from docdb_stream.target import Rejection

_WAITING_REQUESTS = 2
"""Requests for each lane that may be left to do while the next records are made ready: one under way, one to follow."""
_WAITING_BYTES = BATCH_BYTES
"""Bytes that may be left to do meanwhile."""


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
    entry: Any


class Refusal(NamedTuple):
    """The service did not take one record of a request.

    Attributes:
        number: Which one, counted from 0.
        code: The service's error code.
        permanent: The service says that the record itself is at fault.
        after_s: How long the service wants to be left alone before it is sent again.
    """

    number: int
    code: str
    permanent: bool = False
    after_s: float = 0.0


class Unavailable(Exception):
    """The service took nothing of a request for now; it may be asked again.

    Attributes:
        cause: Why, for ``Service.error``.
        after_s: How long it wants to be left alone.
    """

    def __init__(self, cause: Exception | str, after_s: float = 0.0) -> None:
        super().__init__(str(cause))
        self.cause = cause
        self.after_s = after_s


class Service(Protocol):
    """What records are sent to, and what its answers mean. Used by several threads."""

    @property
    def target(self) -> str:
        """The target's name, for errors and rejections."""
        ...

    @property
    def what(self) -> str:
        """What it is, as in "Kinesis stream orders"."""
        ...

    def send(self, entries: list[Any]) -> Sequence[Refusal]:
        """Send the entries of one request, once; returns what was not taken of them.

        Raises:
            Unavailable: Nothing was taken, and another attempt may succeed.
            TargetError: No attempt will.
        """
        ...

    def is_worth_retrying(self, refusal: Refusal) -> bool:
        """False: the record is at fault. Raises TargetError when the service is, whatever the record."""
        ...

    def reason(self, refusal: Refusal) -> str:
        """Why a record is rejected, for its dead letter: without anything of the record."""
        ...

    def error(self, cause: Exception | str) -> TargetError:
        """What to raise when attempts end: for the cause of ``Unavailable``, or the code of a refusal."""
        ...

    def out_of_time(self) -> TargetError:
        """What to raise when the run's deadline came while all went well."""
        ...


class BatchSender:
    """Sends records in requests as full as the limits allow, several side by side, while the next ones are made ready.

    Order per key is strict: a record is sent only when every earlier one of its key has been taken or rejected. Two
    records of one key are therefore never in the same request (a service may take the second and refuse the first),
    refused records go again before later ones of their key, and meanwhile other keys go on. The price: a key is
    delivered at one record per round trip.

    Args:
        service: Where the records go.
        lanes: Requests side by side, at most.
    """

    def __init__(self, service: Service, lanes: int) -> None:
        self.service = service
        self.lanes = lanes
        self._sending: _Sending | None = None

    def send(self, records: Sequence[Record], limits: Limits) -> list[Rejection]:
        """Send records, after those of their keys that were given before; returns the rejections known by now.

        When they fill one request at most and nothing else is on its way, they are durable or rejected on return. More
        are sent by other threads, and this returns as soon as those keep every lane busy for a while.

        Raises:
            TargetError: The service does not work, or not in time. Of all that was given since the last ``flush``, any
                may have arrived; nothing of it is on its way any more.
        """
        if self._sending is None:
            self._sending = _Sending(self)
        sending = self._sending
        if sending.add(records, limits):
            sending.lane()
        else:
            sending.start_lanes()
            sending.wait_for_room()
        return self._rejections(sending)

    def flush(self) -> list[Rejection]:
        """Return when every record given is durable or rejected, with the rejections. Raises as ``send`` does."""
        sending = self._sending
        if sending is None:
            return []
        sending.wait_for_all()
        return self._rejections(sending)

    def close(self) -> None:
        """End the threads; what is sent in them makes no further requests, and a call under way raises TargetError.

        Safe to call twice; a later ``send`` starts anew.
        """
        sending, self._sending = self._sending, None
        if sending is not None:
            sending.give_up()

    def _rejections(self, sending: _Sending) -> list[Rejection]:
        try:
            return sending.result()
        except BaseException:
            self._sending = None
            raise


class _Sending:
    """Records that were given to a sender, and how far each is. After an error it is of no further use."""

    def __init__(self, sender: BatchSender) -> None:
        self.sender = sender
        self._limits = Limits(0, 0, 0)
        self._rejections: list[Rejection] = []
        self._error: BaseException | None = None
        # The first record of each key that is in no lane, and per key what comes after its first one. A key that is
        # absent has none that is not taken.
        self._ready: deque[Record] = deque()
        self._later: dict[str, deque[Record] | None] = {}
        self._unsettled = 0
        self._unsettled_bytes = 0
        self._lanes = 0
        lock = threading.RLock()
        self._has_work = threading.Condition(lock)
        """For lanes: something is ready, or nothing will be."""
        self._has_moved = threading.Condition(lock)
        """For callers: something is settled, or a lane has ended."""

    def add(self, records: Sequence[Record], limits: Limits) -> bool:
        """Queue the records; those above the limit are rejected.

        Returns:
            Whether that is all there is, and one request holds it: the caller is to be its lane.
        """
        limit_bytes = min(limits.record_bytes, limits.request_bytes)
        with self._has_work:
            self._limits = limits
            is_alone = self._unsettled == 0 and self._lanes == 0
            later = self._later
            for record in records:
                if record.size_bytes > limit_bytes:
                    self._reject(record, f"{record.size_bytes} bytes, {self.sender.service.what} takes {limit_bytes}")
                    continue
                if record.key not in later:
                    later[record.key] = None
                    self._ready.append(record)
                else:
                    waiting = later[record.key]
                    if waiting is None:
                        waiting = later[record.key] = deque()
                    waiting.append(record)
                self._unsettled += 1
                self._unsettled_bytes += record.size_bytes
            if is_alone and self._lanes_worthwhile() <= 1 and self._unsettled <= limits.count:
                self._lanes += 1
                return True
            self._has_work.notify_all()
            return False

    def start_lanes(self) -> None:
        """Have as many lanes as there are requests to send side by side."""
        with self._has_work:
            while self._error is None and self._lanes < self._lanes_worthwhile():
                in_background(self.lane, self.sender.service.target)
                self._lanes += 1

    def wait_for_room(self) -> None:
        """Wait until little enough is left to do to go on with the next records."""
        with self._has_moved:
            count = _WAITING_REQUESTS * self.sender.lanes * self._limits.count
            self._has_moved.wait_for(
                lambda: self._error or (self._unsettled <= count and self._unsettled_bytes <= _WAITING_BYTES)
            )

    def wait_for_all(self) -> None:
        """Wait until every record is settled; the caller helps, where a lane is free."""
        with self._has_moved:
            has_lane = self._unsettled > 0 and self._lanes < self.sender.lanes
            self._lanes += has_lane
        if has_lane:
            self.lane()
        with self._has_moved:
            self._has_moved.wait_for(lambda: self._error or self._unsettled == 0)

    def result(self) -> list[Rejection]:
        """The rejections since the last call; or, once no request is under way, the error of a lane is raised."""
        with self._has_moved:
            if self._error is not None:
                self._has_moved.wait_for(lambda: self._lanes == 0)
                raise self._error
            rejections, self._rejections = self._rejections, []
            return rejections

    def give_up(self) -> None:
        """Make no further requests."""
        with self._has_work:
            if self._unsettled:
                self._fail(TargetError(self.sender.service.target, "closed while it was sending"))

    def lane(self) -> None:
        """Send requests until nothing is left or a lane has failed; the caller has counted it."""
        try:
            self._send_all()
        except BaseException as error:
            with self._has_work:
                self._lanes -= 1
                self._fail(error)
            if not isinstance(error, Exception):
                raise

    def _send_all(self) -> None:
        backoff = Backoff(is_over=lambda: self._error is not None)
        refused: list[Record] = []
        limit = current_deadline()
        while request := self._next(refused):
            if not refused:
                backoff.progress()  # it may have waited long for something to do
            check_lease()
            if limit.remaining_s <= 0:
                raise self.sender.service.out_of_time()
            retried = len(refused)
            cause: Exception | str = ""
            after_s = 0.0
            try:
                refusals = self.sender.service.send([record.entry for record in request])
            except Unavailable as error:
                refused, cause, after_s = request, error.cause, error.after_s
            else:
                refused, cause = self._settle(request, refusals)
                after_s = max((refusal.after_s for refusal in refusals), default=0.0)
                # New records that get through beside old ones that do not are no progress.
                if sum(refusal.number < retried for refusal in refusals) < retried:
                    backoff.progress()
            if refused and not backoff.wait(after_s):
                raise self.sender.service.error(cause)

    def _lanes_worthwhile(self) -> int:
        by_count = -(-self._unsettled // self._limits.count)
        by_bytes = -(-self._unsettled_bytes // self._limits.request_bytes)
        # The requests of one key follow each other: they are no work for a second lane.
        return min(max(by_count, by_bytes), len(self._later), self.sender.lanes)

    def _next(self, refused: list[Record]) -> list[Record]:
        """The next request: this lane's refused records, filled up with what is ready. Empty: this lane has ended."""
        request = list(refused)
        free_bytes = self._limits.request_bytes - sum(record.size_bytes for record in refused)
        with self._has_work:
            while self._error is None and self._unsettled:
                while self._ready and len(request) < self._limits.count:
                    if self._ready[0].size_bytes > free_bytes:
                        break
                    record = self._ready.popleft()
                    request.append(record)
                    free_bytes -= record.size_bytes
                if request:
                    return request
                self._has_work.wait()
            self._lanes -= 1
            self._has_moved.notify_all()
        return []

    def _settle(self, request: list[Record], refusals: Sequence[Refusal]) -> tuple[list[Record], str]:
        """Note what became of a request; returns the records to send again, and the code they were refused with."""
        verdicts = {refusal.number: refusal for refusal in refusals}
        again: list[Record] = []
        code = ""
        # Keys with more to send go to the front, so that a hot key has a place in every request.
        more: list[Record] = []
        with self._has_work:
            for index, record in enumerate(request):
                if verdicts and (refusal := verdicts.get(index)) is not None:
                    if self.sender.service.is_worth_retrying(refusal):
                        again.append(record)
                        code = refusal.code
                        continue
                    self._reject(record, self.sender.service.reason(refusal))
                later = self._later.pop(record.key)
                if later is not None:
                    more.append(later.popleft())
                    self._later[record.key] = later or None
                self._unsettled -= 1
                self._unsettled_bytes -= record.size_bytes
            self._ready.extendleft(reversed(more))
            if more or not self._unsettled:
                self._has_work.notify_all()
            self._has_moved.notify_all()
        return again, code

    def _reject(self, record: Record, reason: str) -> None:
        self._rejections.append(Rejection(record.event, self.sender.service.target, reason))

    def _fail(self, error: BaseException) -> None:
        self._error = self._error or error
        self._has_work.notify_all()
        self._has_moved.notify_all()
