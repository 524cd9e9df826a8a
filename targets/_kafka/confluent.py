"""Kafka by confluent-kafka: librdkafka, which batches, sends and retries in threads of its own, in C.

Owns what becomes of a failed record, and how long is waited. The lease is asked for before records are handed over and
while they are waited for, not as each request is made: librdkafka lets nobody in there.
"""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any, NamedTuple

from docdb_stream.context import check_lease, current_deadline
from docdb_stream.errors import CheckpointConflictError, TargetError
from docdb_stream.target import Rejection
from docdb_stream.targets._kafka.brokers import (
    HINT_NO_ANSWER,
    HINT_THROTTLED,
    NO_ANSWER,
    THROTTLED,
    Brokers,
    connect_timeout_s,
    fenced,
    hint_missing,
    hint_unauthorized,
    invalid,
)
from docdb_stream.targets._kafka.confluent_client import ConfluentClient
from docdb_stream.targets._kafka.producer import (
    CLOSE_S,
    FEW_RECORDS,
    REQUEST_S,
    SLICE_S,
    NoReceiptsError,
    Record,
    RefusedError,
)
from docdb_stream.targets._kafka.receipt import Receipt

_SEND_NOW_S = 0.002
"""How long sending at once is tried. Of few records, half were confirmed after 2 ms; after 11 if nothing is tried."""
_SEND_NOW_PAUSE_S = 0.00005
"""Between two tries: enough for librdkafka's thread to wake up."""
_FIRST_WAIT_S = 0.001
"""How long is waited for a confirmation first; then twice as long each time, up to ``SLICE_S``."""
_SMALL_BYTES = 1024
"""What is left below the limit for key, headers and overhead; only records that need more of it are measured."""
_OVERHEAD_BYTES = 61 + 31
_HEADER_OVERHEAD_BYTES = 10
"""Kafka protocol guide, "Record Batch": a batch's header with one record, and a record's header, take so much at most
beside their contents."""


class _Failure(NamedTuple):
    """A record that was not delivered. The numbers have the order of sending."""

    number: int
    record: Record
    error: Any


class ConfluentProducer:
    """See ``Producer``. librdkafka holds each record until it is confirmed, and tells of those alone that fail.

    Args:
        target: The target's name, for errors.
        brokers: Where to send.
        transactional_id: Of its transactions; None: it has none.

    Raises:
        ConfigError: confluent-kafka is not installed.
    """

    def __init__(self, target: str, brokers: Brokers, transactional_id: str | None = None) -> None:
        self._client = ConfluentClient(target, brokers, transactional_id)
        self._library, self._codes = self._client.library, self._client.codes
        self._target = target
        self._brokers = brokers
        self._transactional_id = transactional_id
        self._is_open = False  # the transaction
        self._producer: Any = None
        self._numbers = itertools.count()
        self._failures: list[_Failure] = []
        self._one_by_one = False

    def connect(self) -> None:
        """See ``Producer``."""
        limit = current_deadline()
        end_s = limit.clock() + connect_timeout_s()
        attempt_s = SLICE_S
        while True:
            attempt_s = min(2 * attempt_s, end_s - limit.clock())
            try:
                self._opened().list_topics(timeout=max(0.0, attempt_s))
                return
            except self._library.KafkaException as error:
                self._poll(0)  # for the reason, which is known before the time is over
                if self._client.is_refused or limit.clock() >= end_s:
                    reason = self._client.trouble or error.args[0]
                    self.close()
                    raise self._brokers.refusal(self._target, reason.str()) from error

    def send(self, records: Sequence[Record]) -> list[Rejection]:
        """See ``Producer``."""
        if not records:
            return []
        self._await_throttled()
        rejections = self._produce(zip(self._numbers, records, strict=False))
        if len(records) < FEW_RECORDS:
            self._send_now()
        self._poll(0)  # lets go of what is confirmed: it holds the events
        return rejections + self._sort_out()

    def flush(self) -> list[Rejection]:
        """See ``Producer``."""
        return self._settle(0)

    def commit(self, receipt: Receipt | None = None, topic: str = "") -> list[Rejection]:
        """See ``Producer``."""
        rejections = self.flush()
        if receipt is not None:
            self._begun()
        if self._is_open:
            if receipt is not None:
                offset = self._library.TopicPartition(topic, 0, receipt.last, metadata=receipt.text())
                self._insist_on("send_offsets_to_transaction", [offset], self._client.group)
            self._insist_on("commit_transaction")
            self._is_open = False
        return rejections

    def _insist_on(self, step: str, *arguments: Any) -> None:
        """Ask for a step of a transaction, again and again, until the brokers have done it, or the time is over.

        Raises:
            TargetError: They have not, or never will.
            NoReceiptsError: They do not keep any for this user.
        """
        limit = current_deadline()
        give_up_at_s = limit.clock() + limit.patience_s
        while True:
            self._check_lease()
            try:
                getattr(self._producer, step)(*arguments, SLICE_S)
                return
            except self._library.KafkaException as error:
                reason = error.args[0]
                if arguments and not reason.retriable() and reason.code() not in self._codes.fencing:
                    self.close()
                    raise NoReceiptsError(reason.str()) from error
                if not reason.retriable():
                    raise self._failure(reason) from error
                if limit.clock() >= min(give_up_at_s, limit.give_up_at_s(limit.clock())):
                    raise self._failure(self._client.trouble) from error

    def reveal(self) -> list[Rejection]:
        """See ``Producer``."""
        return []

    def receipt(self, checkpoint: str) -> Receipt | None:
        """See ``Producer``."""
        self._opened()
        return self._client.receipt(checkpoint)

    @property
    def transaction_s(self) -> float:
        """See ``Producer``."""
        return self._client.transaction_s

    @property
    def throttled_s(self) -> float:
        """See ``Producer``."""
        if self._producer is not None:
            self._poll(0)
        return self._client.throttled_s

    def close(self) -> None:
        """See ``Producer``."""
        if self._producer is not None:
            if self._is_open:
                self._is_open = False
                with contextlib.suppress(self._library.KafkaException):
                    self._producer.abort_transaction(current_deadline().cleanup_s(CLOSE_S))
            self._empty(CLOSE_S)
        self._producer = None
        self._failures = []
        self._client.start_again()
        self._one_by_one = False

    def _await_throttled(self) -> None:
        """Wait until the brokers read again: librdkafka sends all the same, and breaks the connection for no answer."""
        limit = current_deadline()
        self._check_lease()
        while throttled_s := self.throttled_s:
            if limit.remaining_s <= 0:
                raise self._failure(None)
            self._poll(min(SLICE_S, throttled_s))
            self._check_lease()

    def _produce(self, records: Iterable[tuple[int, Record]]) -> list[Rejection]:
        """Hand records over, each with its number. What happens here, every event pays for."""
        rejections: list[Rejection] = []
        refusals = (BufferError, self._library.KafkaException)
        produce, failed = self._begun().produce, self._failed
        small_bytes = self._brokers.message_bytes - _SMALL_BYTES
        for number, record in records:
            _, topic, key, value, headers = record
            if value is not None and len(value) > small_bytes and self._exceeds_limit(record):
                rejections.append(self._brokers.too_large(self._target, record))
                continue
            try:
                produce(topic, value, key, headers=headers, on_delivery=partial(failed, number, record))
            except refusals as error:
                del produce  # see ConfluentClient
                rejections += self._insist(number, record, error)
                produce = self._begun().produce
        return rejections

    def _send_now(self) -> None:
        """Send what waits for its batch to be filled; how it fared, ``_settle`` sees.

        While ``flush`` runs, librdkafka's threads wait for no batch to be filled. With a time-out, it would go on after
        something fatal and lose failures; without one it is a ``poll`` that the threads may notice too late.
        """
        end_s = time.monotonic() + _SEND_NOW_S
        while self._producer is not None and len(self._producer) and time.monotonic() < end_s:
            if self._failures or self._client.is_refused:
                break
            self._poll(0, hurry=True)
            time.sleep(_SEND_NOW_PAUSE_S)

    def _insist(self, number: int, record: Record, error: Exception) -> list[Rejection]:
        """Hand over a record that was not taken: once there is room for it, or to a new producer."""
        if isinstance(error, BufferError):
            rejections = self._settle(len(self._producer) // 2)
        else:
            reason = error.args[0]
            if reason.code() in self._codes.too_large:
                return [self._brokers.too_large(self._target, record)]
            if reason.code() not in (self._library.KafkaError._FATAL, self._library.KafkaError._STATE):
                raise self._failure(reason, record.topic) from error
            rejections = self._settle(0)  # says what was fatal, or replaces the producer
            if reason.code() == self._library.KafkaError._STATE:  # a transaction that can only be aborted
                raise self._failure(reason, record.topic) from error
        return rejections + self._produce([(number, record)])

    def _exceeds_limit(self, record: Record) -> bool:
        """Whether the record alone in its batch is too large for the broker; librdkafka counts key and value only."""
        size = _OVERHEAD_BYTES + record.size_bytes
        size += sum(_HEADER_OVERHEAD_BYTES + len(name) + len(content) for name, content in record.headers.items())
        return size > self._brokers.message_bytes

    def _failed(self, number: int, record: Record, error: Any, message: Any) -> None:
        self._failures.append(_Failure(number, record, error))

    def _settle(self, until: int) -> list[Rejection]:
        """Wait until at most ``until`` records are unconfirmed; as long as there is progress, and the run has time.

        librdkafka wakes nobody for what is confirmed, so it is asked again and again.
        """
        limit = current_deadline()
        rejections: list[Rejection] = []
        fewest: float = float("inf")
        give_up_at_s = wait_s = 0.0
        while self._producer is not None:
            self._check_lease()
            self._poll(0, hurry=until == 0)
            self._poll(max(0.0, min(wait_s, limit.patience_s, limit.remaining_s)))
            rejections += self._sort_out()
            left = 0 if self._producer is None else len(self._producer)
            if left <= until:
                break
            now_s = limit.clock()
            wait_s = min(2 * wait_s, SLICE_S) if left == fewest else _FIRST_WAIT_S
            if left < fewest or self.throttled_s:
                fewest = left
                give_up_at_s = now_s + limit.patience_s
            if now_s >= min(give_up_at_s, limit.at_s):
                raise self._failure(self._client.trouble)
        return rejections

    def _sort_out(self) -> list[Rejection]:
        """Reject what the broker will never take; send everything else that was in flight again, in order.

        Nothing of a partition was written after a record that failed (``enable.gapless.guarantee``), and the producer
        is of no more use.

        Raises:
            TargetError: Something failed for another reason.
        """
        if not self._failures and not self._client.is_refused:
            return []
        one_by_one, trouble = self._one_by_one, self._client.trouble
        failures = self._drain()
        suspects = [failure for failure in failures if failure.error.code() in self._codes.rejecting]
        if not suspects:
            for failure in failures:
                if failure.error.code() not in self._codes.purged:
                    raise self._failure(failure.error, failure.record.topic)
            raise self._failure(trouble)
        if self._transactional_id:
            raise RefusedError
        check_lease()
        unsettled = {failure.number: failure.record for failure in failures}
        rejections: list[Rejection] = []
        if one_by_one or len(suspects) == 1:
            for failure in suspects:
                rejections.append(self._rejection(failure))
                del unsettled[failure.number]
        else:
            # The verdict is on a whole batch. Batches of one tell whom it means.
            self._one_by_one = True
            last = suspects[-1].number
            rejections += self._produce((number, record) for number, record in unsettled.items() if number <= last)
            rejections += self._settle(0)
            self.close()
            unsettled = {number: record for number, record in unsettled.items() if number > last}
        self._one_by_one = one_by_one
        return rejections + self._produce(unsettled.items())

    def _rejection(self, failure: _Failure) -> Rejection:
        if failure.error.code() in self._codes.too_large:
            return self._brokers.too_large(self._target, failure.record)
        return invalid(self._target, failure.record)

    def _drain(self) -> list[_Failure]:
        """Close the producer, and return what it did not deliver, in order."""
        # What is on its way may still arrive.
        self._empty(min(REQUEST_S, current_deadline().remaining_s), in_flight=False)
        if not self._empty(CLOSE_S):
            raise self._failure(self._client.trouble)
        failures = sorted(self._failures)
        self.close()
        return failures

    def _empty(self, seconds: float, *, in_flight: bool = True) -> bool:
        """Take back what is not confirmed, or not sent yet; whether librdkafka gave all of it back in so much time."""
        limit = current_deadline()
        end_s = limit.clock() + seconds
        while len(self._producer):
            left_s = end_s - limit.clock()
            if left_s <= 0:
                return False
            self._producer.purge(in_flight=in_flight, blocking=False)  # each time: what is to be repeated comes again
            self._poll(min(SLICE_S, left_s))
        return True

    def _poll(self, seconds: float, *, hurry: bool = False) -> None:
        """Wait so long for news, and hear them."""
        try:
            (self._producer.flush if hurry else self._producer.poll)(seconds)
        except self._library.KafkaException as error:  # fatal: this producer sends nothing any more
            self._client.trouble = error.args[0]

    def _check_lease(self) -> None:
        try:
            check_lease()
        except CheckpointConflictError:
            self.close()
            raise

    def _begun(self) -> Any:
        """The producer, within a transaction if it has them."""
        self._opened()
        if self._transactional_id and not self._is_open:
            try:
                self._producer.begin_transaction()
            except self._library.KafkaException as error:
                raise self._failure(error.args[0]) from error
            self._is_open = True
        return self._producer

    def _opened(self) -> Any:
        if self._producer is None:
            self._producer = self._client.producer(one_by_one=self._one_by_one)
        return self._producer

    def _failure(self, error: Any, topic: str = "") -> TargetError:
        """What an error of the client library means; lets the producer go, so that the next write has a new one.

        Raises:
            CheckpointConflictError: The lease is lost.
        """
        is_throttled = self.throttled_s > 0
        self._is_open = False  # what is left of the transaction ends when the next producer begins
        self.close()
        check_lease()
        if error is None and is_throttled:
            return TargetError(self._target, THROTTLED, hint=HINT_THROTTLED)
        if error is None:
            return TargetError(self._target, NO_ANSWER, hint=HINT_NO_ANSWER)
        code, reason = error.code(), error.str()
        if code in self._codes.fencing and self._transactional_id:
            return fenced(self._target, self._transactional_id)
        if code in self._codes.refusing:
            return self._brokers.refusal(self._target, reason)
        hint = HINT_NO_ANSWER
        if code in self._codes.unauthorized:
            hint = hint_unauthorized(topic or "its topics")
        elif code in self._codes.missing:
            hint = hint_missing(topic)
        return TargetError(self._target, f"topic {topic}: {reason}" if topic else reason, hint=hint)
