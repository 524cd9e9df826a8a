"""Kafka by confluent-kafka: librdkafka, which batches, sends and retries in threads of its own, in C.

Owns what becomes of a failed record, and how long is waited. The lease is asked for before records are handed over and
while they are waited for, not as each request leaves: librdkafka lets nobody in there.
"""

from __future__ import annotations

import itertools
import logging
import ssl
import time
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any, NamedTuple

from docdb_stream.context import check_lease, current_deadline
from docdb_stream.errors import CheckpointConflictError, ConfigError, TargetError
from docdb_stream.target import Rejection
from docdb_stream.targets._client import import_client
from docdb_stream.targets._kafka_producer import (
    CLIENT_ID,
    CLOSE_S,
    CONNECT_S,
    FEW_RECORDS,
    HINT_NO_ANSWER,
    HINT_THROTTLED,
    IN_FLIGHT_BYTES,
    NO_ANSWER,
    REQUEST_S,
    SLICE_S,
    THROTTLED,
    Brokers,
    Record,
    connect_timeout_s,
    hint_missing,
    hint_unauthorized,
    invalid,
    ms,
)

_LOGGER = "confluent_kafka"
_BATCH_BYTES = 1_000_000
"""Bytes of one partition sent together at most, librdkafka's default; smaller batches cost both sides more."""
_LINGER_MS = 5
"""How long a batch waits to be filled, librdkafka's default; longer ones gain nothing. Nobody waits for it: see
``_send_now``."""
_SEND_NOW_S = 0.002
"""How long sending at once is tried. Of few records, half were confirmed after 2 ms; after 11 if nothing is tried."""
_SEND_NOW_PAUSE_S = 0.00005
"""Between two tries: enough for librdkafka's thread to wake up."""
_RECONNECT_S = 1.0
"""Pause between attempts to connect at most; librdkafka's 10 s are a third of the patience."""
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

    Raises:
        ConfigError: confluent-kafka is not installed.
    """

    def __init__(self, target: str, brokers: Brokers) -> None:
        self._library: Any = import_client("confluent_kafka", "kafka-confluent", _LOGGER)
        self._target = target
        self._brokers = brokers
        self._producer: Any = None
        self._numbers = itertools.count()
        self._failures: list[_Failure] = []
        self._trouble: Any = None  # what librdkafka said last about its connections or itself
        self._one_by_one = False
        self._throttled_until_s: dict[int, float] = {}  # per broker, by the deadline's clock
        codes = self._library.KafkaError
        self._purged = {codes._PURGE_QUEUE, codes._PURGE_INFLIGHT}
        self._too_large = {codes.MSG_SIZE_TOO_LARGE, codes.RECORD_LIST_TOO_LARGE}
        self._rejecting = {*self._too_large, codes.INVALID_RECORD}
        self._refusing = {codes._AUTHENTICATION, codes.SASL_AUTHENTICATION_FAILED}
        self._unauthorized = {codes.TOPIC_AUTHORIZATION_FAILED, codes.CLUSTER_AUTHORIZATION_FAILED}
        self._missing = {codes._UNKNOWN_TOPIC, codes.UNKNOWN_TOPIC_OR_PART, codes.TOPIC_EXCEPTION}

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
                if self._is_refused() or limit.clock() >= end_s:
                    reason = self._trouble or error.args[0]
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

    @property
    def throttled_s(self) -> float:
        """See ``Producer``."""
        if self._producer is not None:
            self._poll(0)
        now_s = current_deadline().clock()
        return max(0.0, max(self._throttled_until_s.values(), default=now_s) - now_s)

    def close(self) -> None:
        """See ``Producer``."""
        if self._producer is not None:
            self._empty(CLOSE_S)
        self._producer = None
        self._failures = []
        self._trouble = None
        self._one_by_one = False
        self._throttled_until_s = {}

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
        produce, failed = self._opened().produce, self._failed
        small_bytes = self._brokers.message_bytes - _SMALL_BYTES
        for number, record in records:
            _, topic, key, value, headers = record
            if len(value) > small_bytes and self._exceeds_limit(record):
                rejections.append(self._brokers.too_large(self._target, record))
                continue
            try:
                produce(topic, value, key, headers=headers, on_delivery=partial(failed, number, record))
            except refusals as error:
                rejections += self._insist(number, record, error)
                produce = self._opened().produce
        return rejections

    def _send_now(self) -> None:
        """Send what waits for its batch to be filled; how it fared, ``_settle`` sees.

        While ``flush`` runs, librdkafka's threads wait for no batch to be filled. With a time-out, it would go on after
        something fatal and lose failures; without one it is a ``poll`` that the threads may notice too late.
        """
        end_s = time.monotonic() + _SEND_NOW_S
        while self._producer is not None and len(self._producer) and time.monotonic() < end_s:
            if self._failures or self._is_refused():
                break
            self._poll(0, hurry=True)
            time.sleep(_SEND_NOW_PAUSE_S)

    def _insist(self, number: int, record: Record, error: Exception) -> list[Rejection]:
        """Hand over a record that was not taken: once there is room for it, or to a new producer."""
        if isinstance(error, BufferError):
            rejections = self._settle(len(self._producer) // 2)
        else:
            reason = error.args[0]
            if reason.code() in self._too_large:
                return [self._brokers.too_large(self._target, record)]
            if reason.code() != self._library.KafkaError._FATAL:
                raise self._failure(reason, record.topic) from error
            rejections = self._settle(0)  # says what was fatal, or replaces the producer
        return rejections + self._produce([(number, record)])

    def _exceeds_limit(self, record: Record) -> bool:
        """Whether the record alone in its batch is too large for the broker; librdkafka counts key and value only."""
        size = _OVERHEAD_BYTES + len(record.key) + len(record.value)
        size += sum(_HEADER_OVERHEAD_BYTES + len(name) + len(content) for name, content in record.headers.items())
        return size > self._brokers.message_bytes

    def _failed(self, number: int, record: Record, error: Any, message: Any) -> None:
        self._failures.append(_Failure(number, record, error))

    def _troubled(self, error: Any) -> None:
        self._trouble = error

    def _throttled(self, event: Any) -> None:
        self._throttled_until_s[event.broker_id] = current_deadline().clock() + event.throttle_time

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
                raise self._failure(self._trouble)
        return rejections

    def _sort_out(self) -> list[Rejection]:
        """Reject what the broker will never take; send everything else that was in flight again, in order.

        Nothing of a partition was written after a record that failed (``enable.gapless.guarantee``), and the producer
        is of no more use.

        Raises:
            TargetError: Something failed for another reason.
        """
        if not self._failures and not self._is_refused():
            return []
        one_by_one, trouble = self._one_by_one, self._trouble
        failures = self._drain()
        suspects = [failure for failure in failures if failure.error.code() in self._rejecting]
        if not suspects:
            for failure in failures:
                if failure.error.code() not in self._purged:
                    raise self._failure(failure.error, failure.record.topic)
            raise self._failure(trouble)
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

    def _is_refused(self) -> bool:
        """Whether waiting is of no use."""
        return self._trouble is not None and (self._trouble.fatal() or self._trouble.code() in self._refusing)

    def _rejection(self, failure: _Failure) -> Rejection:
        if failure.error.code() in self._too_large:
            return self._brokers.too_large(self._target, failure.record)
        return invalid(self._target, failure.record)

    def _drain(self) -> list[_Failure]:
        """Close the producer, and return what it did not deliver, in order."""
        # What is on its way may still arrive.
        self._empty(min(REQUEST_S, current_deadline().remaining_s), in_flight=False)
        if not self._empty(CLOSE_S):
            raise self._failure(self._trouble)
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
            self._trouble = error.args[0]

    def _check_lease(self) -> None:
        try:
            check_lease()
        except CheckpointConflictError:
            self.close()
            raise

    def _opened(self) -> Any:
        if self._producer is None:
            self._brokers.reach_one(self._target)
            try:
                self._producer = self._library.Producer(self._configuration())
            except self._library.KafkaException as error:
                raise ConfigError(f"librdkafka does not take the Kafka settings: {error.args[0].str()}") from error
        return self._producer

    def _configuration(self) -> dict[str, Any]:
        brokers = self._brokers
        configuration = {
            "bootstrap.servers": brokers.bootstrap_servers,
            "client.id": CLIENT_ID,
            "security.protocol": brokers.security_protocol,
            "enable.idempotence": True,
            "acks": "all",
            # Otherwise what comes after a failed record would be written, and that record's neighbours after it.
            "enable.gapless.guarantee": True,
            # As kafka-python's and Java's, so that a document stays in its partition whatever the client.
            "partitioner": "murmur2_random",
            "delivery.report.only.error": True,
            "linger.ms": _LINGER_MS if brokers.linger_ms is None else brokers.linger_ms,
            "compression.type": brokers.compression,
            "batch.size": min(_BATCH_BYTES, brokers.message_bytes),
            "message.max.bytes": brokers.message_bytes,
            "queue.buffering.max.kbytes": IN_FLIGHT_BYTES // 1024,
            # None: where some records are given up after a while, those behind them would overtake them. ``_settle``
            # gives up all of them.
            "message.timeout.ms": 0,
            "request.timeout.ms": ms(REQUEST_S),
            "socket.timeout.ms": ms(REQUEST_S),
            "socket.connection.setup.timeout.ms": ms(CONNECT_S),
            "topic.metadata.propagation.max.ms": ms(CONNECT_S),
            "reconnect.backoff.max.ms": ms(_RECONNECT_S),
            "error_cb": self._troubled,
            "throttle_cb": self._throttled,
            "logger": logging.getLogger(_LOGGER),
        }
        if self._one_by_one:
            configuration["batch.num.messages"] = 1
        if brokers.tls is not None:
            # librdkafka has its own idea of where the system keeps its CAs.
            system = ssl.get_default_verify_paths()
            configuration["ssl.ca.location"] = brokers.tls_ca or system.cafile or system.capath or "probe"
        if credentials := brokers.credentials():
            configuration["sasl.mechanism"] = brokers.sasl_mechanism
            configuration["sasl.username"] = credentials.username
            configuration["sasl.password"] = credentials.password
        return configuration

    def _failure(self, error: Any, topic: str = "") -> TargetError:
        """What an error of the client library means; lets the producer go, so that the next write has a new one.

        Raises:
            CheckpointConflictError: The lease is lost.
        """
        is_throttled = self.throttled_s > 0
        self.close()
        check_lease()
        if error is None and is_throttled:
            return TargetError(self._target, THROTTLED, hint=HINT_THROTTLED)
        if error is None:
            return TargetError(self._target, NO_ANSWER, hint=HINT_NO_ANSWER)
        code, reason = error.code(), error.str()
        if code in self._refusing:
            return self._brokers.refusal(self._target, reason)
        hint = HINT_NO_ANSWER
        if code in self._unauthorized:
            hint = hint_unauthorized(topic or "its topics")
        elif code in self._missing:
            hint = hint_missing(topic)
        return TargetError(self._target, f"topic {topic}: {reason}" if topic else reason, hint=hint)
