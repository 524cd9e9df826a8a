"""Kafka by kafka-python: pure Python, and the lease is asked for as each request is made.

Owns what becomes of a failed record. Batching, retries, idempotence and transactions are kafka-python's.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Sequence
from functools import partial
from typing import Any

from docdb_stream.context import NoAnswerError, answer_in_time, check_lease, current_deadline, current_run
from docdb_stream.errors import CheckpointConflictError, TargetError
from docdb_stream.target import Rejection
from docdb_stream.targets._client import import_client
from docdb_stream.targets._kafka.brokers import (
    HINT_NO_ANSWER,
    HINT_THROTTLED,
    NO_ANSWER,
    THROTTLED,
    Brokers,
    fenced,
    hint_missing,
    hint_unauthorized,
    invalid,
)
from docdb_stream.targets._kafka.producer import (
    CLOSE_S,
    FEW_RECORDS,
    IN_FLIGHT_BYTES,
    SLICE_S,
    NoReceiptsError,
    ReceiptsAwayError,
    Record,
    RefusedError,
)
from docdb_stream.targets._kafka.python_client import PythonClient, answered, end
from docdb_stream.targets._kafka.receipt import Receipt

_SEND_NOW_S = 0.02
"""How long sending at once is waited for; ``_settle`` waits for the rest."""


class KafkaPythonProducer:
    """See ``Producer``. Every record in flight is held here until its future is done.

    Args:
        target: The target's name, for errors.
        brokers: Where to send.
        transactional_id: Of its transactions; None: it has none.

    Raises:
        ConfigError: kafka-python is not installed, or not what compresses.
    """

    def __init__(self, target: str, brokers: Brokers, transactional_id: str | None = None) -> None:
        self._kafka: Any = import_client("kafka", "kafka", "kafka")
        self._target = target
        self._brokers = brokers
        self._transactional_id = transactional_id
        self._is_open = False  # the transaction
        self._producer: Any = None
        self._client = PythonClient(target, brokers, transactional_id, self._may_send)
        self._in_flight: deque[tuple[Record, Any]] = deque()
        self._in_flight_bytes = 0
        self._run = current_run()  # of the run that wrote last; the producer's thread does not inherit it

    def connect(self) -> None:
        """See ``Producer``."""
        self._run = current_run()
        self._connected_producer()

    def send(self, records: Sequence[Record]) -> list[Rejection]:
        """See ``Producer``."""
        self._run = current_run()
        rejections: list[Rejection] = []
        for record in records:
            if not self._send(record):
                rejections.append(self._brokers.too_large(self._target, record))
            if self._in_flight_bytes > IN_FLIGHT_BYTES:
                rejections += self._settle(IN_FLIGHT_BYTES // 2)
        if len(records) < FEW_RECORDS:
            self._send_now()
        return [*rejections, *self._settle(IN_FLIGHT_BYTES)]

    def flush(self) -> list[Rejection]:
        """See ``Producer``."""
        self._run = current_run()
        self._send_now()
        return self._settle(0)

    def commit(self, receipt: Receipt | None = None, topic: str = "") -> list[Rejection]:
        """See ``Producer``."""
        rejections = self.flush()
        if receipt is not None:
            self._begin_for_receipt()
        if self._is_open:
            self._check_lease()
            errors, producer = self._kafka.errors, self._producer
            try:
                if receipt is not None:
                    answered(partial(self._send_receipt, producer, receipt, topic))
            except errors.KafkaError as error:
                if isinstance(error, errors.KafkaTimeoutError) or _is_fenced(error, errors):
                    raise self._failure(error) from error
                self.close()
                raise NoReceiptsError(str(error)) from error
            try:
                answered(producer.commit_transaction)
            except errors.KafkaError as error:
                raise self._failure(error) from error
            self._is_open = False
        return rejections

    def _send_receipt(self, producer: Any, receipt: Receipt, topic: str) -> None:
        from kafka.structs import OffsetAndMetadata, TopicPartition

        offset = OffsetAndMetadata(receipt.last, receipt.text(), -1)
        producer.send_offsets_to_transaction({TopicPartition(topic, 0): offset}, self._transactional_id)

    def reveal(self) -> list[Rejection]:
        """See ``Producer``."""
        return []

    def receipt(self, checkpoint: str) -> Receipt | None:
        """See ``Producer``."""
        self._connected_producer()
        try:
            return self._client.receipt(checkpoint)
        except self._kafka.errors.KafkaTimeoutError as error:
            raise self._failure(error) from error
        except self._kafka.errors.KafkaError as error:
            raise (ReceiptsAwayError if error.retriable else NoReceiptsError)(str(error)) from error

    @property
    def transaction_s(self) -> float:
        """See ``Producer``."""
        return self._client.transaction_s

    @property
    def throttled_s(self) -> float:
        """See ``Producer``."""
        return self._client.throttled_s

    def close(self) -> None:
        """See ``Producer``."""
        producer, self._producer = self._producer, None
        self._in_flight.clear()
        self._in_flight_bytes = 0
        if producer is None:
            return
        if self._is_open:
            self._is_open = False
            with contextlib.suppress(self._kafka.errors.KafkaError, NoAnswerError):
                answer_in_time(producer.abort_transaction, at_most_s=current_deadline().cleanup_s(CLOSE_S))
        end(producer)

    def _send(self, record: Record) -> bool:
        """Hand a record over; False where it is too large."""
        _, topic, key, value, headers = record
        producer = self._connected_producer()
        try:
            self._begin(producer)
            future = producer.send(topic, value, key, [*headers.items()])
        except self._kafka.errors.MessageSizeTooLargeError:
            return False
        except self._kafka.errors.KafkaTimeoutError as error:  # no metadata of the topic
            raise self._failure(error, topic, hint_missing(topic)) from error
        except self._kafka.errors.KafkaError as error:
            self._see_if_refused()
            raise self._failure(error, topic) from error
        self._in_flight.append((record, future))
        self._in_flight_bytes += record.size_bytes
        return True

    def _begin(self, producer: Any) -> None:
        """The transaction, if it has them."""
        if self._transactional_id and not self._is_open:
            producer.begin_transaction()
            self._is_open = True

    def _begin_for_receipt(self) -> None:
        producer = self._connected_producer()
        try:
            self._begin(producer)
        except self._kafka.errors.KafkaError as error:
            raise self._failure(error) from error

    def _send_now(self) -> None:
        """Send what waits for its batch to be filled; how it fared, ``_settle`` sees."""
        if self._producer is not None and self._in_flight:
            with contextlib.suppress(self._kafka.errors.KafkaError):
                self._producer.flush(timeout=_SEND_NOW_S)

    def _settle(self, until_bytes: int) -> list[Rejection]:
        """Wait for the oldest records until at most ``until_bytes`` are unconfirmed; 0 waits for all."""
        rejections: list[Rejection] = []
        while self._in_flight:
            record, future = self._in_flight[0]
            # What is confirmed goes at once, not at the flush: it holds the events, rendered.
            if not future.succeeded():
                if self._in_flight_bytes < until_bytes:
                    break
                self._await(record, future)
            if future.succeeded():
                self._in_flight.popleft()
                self._in_flight_bytes -= record.size_bytes
                continue
            rejected = self._rejected_by_broker()
            if not rejected:
                raise self._failure(future.exception, record.topic) from future.exception
            rejections += rejected
        return rejections

    def _await(self, record: Record, future: Any) -> None:
        """Wait until it is known what became of a record; as long as there is progress, and the run has time."""
        limit = current_deadline()
        fewest: float = float("inf")
        give_up_at_s = 0.0
        while not future.is_done:
            self._check_lease()
            now_s = limit.clock()
            left = sum(not each.is_done for _, each in self._in_flight)
            if left < fewest or self.throttled_s:
                fewest = left
                give_up_at_s = now_s + limit.patience_s
            wait_s = min(SLICE_S, give_up_at_s - now_s, limit.remaining_s)
            if wait_s <= 0:
                reason, hint = (THROTTLED, HINT_THROTTLED) if self.throttled_s else (NO_ANSWER, HINT_NO_ANSWER)
                raise self._failure(self._kafka.errors.KafkaTimeoutError(reason), record.topic, hint)
            with contextlib.suppress(self._kafka.errors.KafkaError):
                future.get(timeout=wait_s)

    def _rejected_by_broker(self) -> list[Rejection]:
        """Reject what the broker will never take; send everything else in flight again, in order.

        After a record that failed for good, the producer's sequence numbers have a gap, so that it fails others with
        it. A new producer has none; records written twice are the price.
        """
        self._see_if_refused()
        errors = self._kafka.errors
        rejections = []
        rest = []
        for record, future in self._in_flight:
            error = future.exception
            if isinstance(error, (errors.MessageSizeTooLargeError, errors.RecordListTooLargeError)):
                rejections.append(self._brokers.too_large(self._target, record))
            elif isinstance(error, errors.InvalidRecordError):
                rejections.append(invalid(self._target, record))
            else:
                rest.append(record)
        if rejections:
            self.close()
            check_lease()
            rejections += [self._brokers.too_large(self._target, record) for record in rest if not self._send(record)]
        return rejections

    def _see_if_refused(self) -> None:
        """In a transaction, a record that failed for good fails all others with it, those that would be taken too.

        Raises:
            RefusedError: So it is.
        """
        errors = self._kafka.errors
        refusals = (errors.MessageSizeTooLargeError, errors.RecordListTooLargeError, errors.InvalidRecordError)
        if self._transactional_id and any(isinstance(future.exception, refusals) for _, future in self._in_flight):
            self.close()
            raise RefusedError

    def _connected_producer(self) -> Any:
        if self._producer is None:
            self._producer = self._client.producer()
        return self._producer

    def _may_send(self) -> None:
        self._run.check_lease()

    def _check_lease(self) -> None:
        try:
            self._run.check_lease()
        except CheckpointConflictError:
            self.close()
            raise

    def _failure(self, error: Exception, topic: str = "", hint: str = "") -> TargetError:
        """What an error of the client library means; lets the producer go, so that the next write has a new one.

        Raises:
            CheckpointConflictError: The lease is lost, which is why nothing was sent.
        """
        self._is_open = False  # what is left of the transaction ends when the next producer begins
        self.close()
        self._check_lease()
        errors = self._kafka.errors
        if self._transactional_id and _is_fenced(error, errors):
            return fenced(self._target, self._transactional_id)
        if isinstance(error, (errors.AuthorizationError, errors.SaslAuthenticationFailedError)):
            hint = hint_unauthorized(topic)
        elif isinstance(error, (errors.UnknownTopicOrPartitionError, errors.InvalidTopicError)):
            hint = hint_missing(topic)
        reason = f"topic {topic}: {error}" if topic else str(error)
        return TargetError(self._target, reason, hint=hint or HINT_NO_ANSWER)


def _is_fenced(error: Exception, errors: Any) -> bool:
    """kafka-python puts it into the text of what follows from it."""
    kinds = (errors.ProducerFencedError, errors.InvalidProducerEpochError)
    return isinstance(error, kinds) or any(kind.__name__ in str(error) for kind in kinds)
