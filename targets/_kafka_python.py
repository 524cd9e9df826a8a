"""Kafka by kafka-python: pure Python, and the lease is asked for as each request leaves.

Owns what becomes of a failed record. Batching, retries and idempotence are kafka-python's.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from struct import unpack
from typing import Any

from docdb_stream.context import check_lease, current_deadline, current_run
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
    Compression,
    Record,
    connect_timeout_s,
    hint_missing,
    hint_unauthorized,
    invalid,
    ms,
)

_BATCH_BYTES = 512 * 1024
"""Bytes of one partition sent together at most. kafka-python's default, 16 KiB, is no more than 20 usual events; beyond
this, nothing is gained (bench/NOTES.md)."""
_LINGER_MS = 100
"""How long a batch waits to be filled. Shorter, and the producer wakes up for every few records; longer gains nothing.
Nobody waits for it: see ``FEW_RECORDS``, and ``flush``."""
_SEND_NOW_S = 0.02
"""How long sending at once is waited for; ``_settle`` waits for the rest."""
_NEVER_MS = 2**31 - 1
"""The largest time-out that Kafka's clients take (a Java int), 24 days."""
_CODEC_PACKAGES = {"snappy": "python-snappy", "lz4": "lz4", "zstd": "zstandard"}
"""What kafka-python compresses with, which it does not bring (its README, "Compression")."""
_MURMUR2_SEED = 0x9747B28C
_MURMUR2_FACTOR = 0x5BD1E995
_UINT32 = 0xFFFFFFFF
_PRODUCE = 0
"""Kafka protocol guide, "Api Keys"."""


class KafkaPythonProducer:
    """See ``Producer``. Every record in flight is held here until its future is done.

    Args:
        target: The target's name, for errors.
        brokers: Where to send.

    Raises:
        ConfigError: kafka-python is not installed, or not what compresses.
    """

    def __init__(self, target: str, brokers: Brokers) -> None:
        self._kafka: Any = import_client("kafka", "kafka", "kafka")
        _see_that_it_compresses(brokers.compression)
        self._target = target
        self._brokers = brokers
        self._producer: Any = None
        self._network_client: Any = None
        self._in_flight: deque[tuple[Record, Any]] = deque()
        self._in_flight_bytes = 0
        self._run = current_run()  # of the run that wrote last; the producer's thread does not inherit it

    def connect(self) -> None:
        """See ``Producer``."""
        self._connected_producer()

    def send(self, records: Sequence[Record]) -> list[Rejection]:
        """See ``Producer``; the lease is asked for by the producer's thread, and lost for the next ``flush``."""
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
        self._send_now()
        return self._settle(0)

    @property
    def throttled_s(self) -> float:
        """See ``Producer``. kafka-python itself sends nothing for so long."""
        if self._producer is None:
            return 0.0
        nodes = tuple(self._network_client._manager._conns)
        return max((self._network_client.throttle_delay(node_id) / 1000 for node_id in nodes), default=0.0)

    def close(self) -> None:
        """See ``Producer``."""
        producer, self._producer = self._producer, None
        self._in_flight.clear()
        self._in_flight_bytes = 0
        if producer is None:
            return
        # KafkaProducer.close() flushes first and, when that takes too long, raises and leaves its thread running
        # (kafka-python 3.0). So the thread is told first to drop what is left.
        producer._sender.force_close()
        producer._sender.join(CLOSE_S)
        with contextlib.suppress(self._kafka.errors.KafkaError):
            producer.close(timeout=0)

    def _send(self, record: Record) -> bool:
        """Hand a record over; False where it is too large."""
        _, topic, key, value, headers = record
        producer = self._connected_producer()
        try:
            future = producer.send(topic, value, key, [*headers.items()])
        except self._kafka.errors.MessageSizeTooLargeError:
            return False
        except self._kafka.errors.KafkaTimeoutError as error:  # no metadata of the topic
            raise self._failure(error, topic, hint_missing(topic)) from error
        except self._kafka.errors.KafkaError as error:
            raise self._failure(error, topic) from error
        self._in_flight.append((record, future))
        self._in_flight_bytes += len(value)
        return True

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
                self._in_flight_bytes -= len(record.value)
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

    def _connected_producer(self) -> Any:
        if self._producer is None:
            self._brokers.reach_one(self._target)  # kafka-python's TLS handshake has no timeout
            self._producer = self._new_producer()
        return self._producer

    def _new_producer(self) -> Any:
        from kafka.partitioner.default import DefaultPartitioner

        class Partitioner(DefaultPartitioner):  # type: ignore[misc]
            """kafka-python's, at a quarter of its time, which was a seventh of all that sending takes."""

            def partition(
                self, topic: str, key: bytes, serialized_key: bytes, value: bytes, serialized_value: bytes, cluster: Any
            ) -> int:
                partitions = sorted(cluster.partitions_for_topic(topic))
                chosen: int = partitions[(murmur2(serialized_key) & 0x7FFFFFFF) % len(partitions)]
                return chosen

        opened: list[Any] = []

        def client(**config: Any) -> Any:
            network_client = self._kafka.KafkaProducer.DEFAULT_CONFIG["kafka_client"](**config)
            network_client.send = self._only_under_lease(network_client)
            opened.append(network_client)
            self._network_client = network_client
            return network_client

        brokers = self._brokers
        sasl: dict[str, str] = {}
        if credentials := brokers.credentials():
            sasl = {
                "sasl_mechanism": brokers.sasl_mechanism,
                "sasl_plain_username": credentials.username,
                "sasl_plain_password": credentials.password,
            }
        try:
            return self._kafka.KafkaProducer(
                bootstrap_servers=brokers.bootstrap_servers,
                client_id=CLIENT_ID,
                kafka_client=client,
                partitioner=Partitioner(),
                enable_idempotence=True,
                acks="all",
                batch_size=min(_BATCH_BYTES, brokers.message_bytes),
                linger_ms=_LINGER_MS if brokers.linger_ms is None else brokers.linger_ms,
                compression_type=None if brokers.compression == "none" else brokers.compression,
                # kafka-python compares it with the record and its batch's header, as the broker does.
                max_request_size=brokers.message_bytes,
                max_block_ms=ms(CONNECT_S),
                bootstrap_timeout_ms=ms(connect_timeout_s()),
                request_timeout_ms=ms(REQUEST_S),
                # None: a record that is given up while others are confirmed is one that a throttling broker has not
                # come to yet. ``_settle`` gives up all of them.
                delivery_timeout_ms=_NEVER_MS,
                security_protocol=brokers.security_protocol,
                ssl_context=brokers.tls,
                **sasl,
            )
        except self._kafka.errors.KafkaError as error:
            for network_client in opened:  # a producer that fails in its constructor leaves it open
                network_client.close()
            raise brokers.refusal(self._target, error) from error

    def _only_under_lease(self, network_client: Any) -> Callable[..., Any]:
        """The producer's thread sends what it holds whenever it can: also after the process was stopped for longer than
        its lease lasts, or after the run has failed elsewhere. By then another run may be further already. So the lease
        is asked for when a request is made, and again when its bytes go to the socket, which can be much later when the
        broker does not read."""
        send = network_client.send

        def check() -> None:
            try:
                self._run.check_lease()
            except CheckpointConflictError:
                if self._producer is not None:
                    self._producer._sender.force_close()
                raise

        def guarded(node_id: Any, request: Any, *arguments: Any, **options: Any) -> Any:
            if request.API_KEY != _PRODUCE:
                return send(node_id, request, *arguments, **options)
            check()
            sent = send(node_id, request, *arguments, **options)
            transport = getattr(network_client._manager._conns.get(node_id), "transport", None)
            if transport is not None and "_sock_send" not in vars(transport):
                transport._sock_send = partial(write, transport._sock_send)
            return sent

        def write(to_socket: Callable[[], tuple[int, Exception | None]]) -> tuple[int, Exception | None]:
            try:
                check()
            except CheckpointConflictError as error:
                return 0, self._kafka.errors.KafkaConnectionError(str(error))
            return to_socket()

        return guarded

    def _failure(self, error: Exception, topic: str, hint: str = "") -> TargetError:
        """What an error of the client library means; lets the producer go, so that the next write has a new one.

        Raises:
            CheckpointConflictError: The lease is lost, which is why nothing was sent.
        """
        self.close()
        self._run.check_lease()
        errors = self._kafka.errors
        if isinstance(error, (errors.AuthorizationError, errors.SaslAuthenticationFailedError)):
            hint = hint_unauthorized(topic)
        elif isinstance(error, (errors.UnknownTopicOrPartitionError, errors.InvalidTopicError)):
            hint = hint_missing(topic)
        return TargetError(self._target, f"topic {topic}: {error}", hint=hint or HINT_NO_ANSWER)


def _see_that_it_compresses(compression: Compression) -> None:
    from kafka import codec

    package = _CODEC_PACKAGES.get(compression)
    if package is not None and not getattr(codec, f"has_{compression}")():
        raise ConfigError(
            f"KAFKA_COMPRESSION {compression} needs the package {package} with kafka-python",
            hint=f"pip install {package}; or choose gzip, or KAFKA_CLIENT=confluent, which has all of them",
        )


def murmur2(data: bytes) -> int:
    """The hash by which Kafka's clients choose a partition: org.apache.kafka.common.utils.Utils.murmur2."""
    size = len(data)
    value = _MURMUR2_SEED ^ size
    whole = size & ~3
    for block in unpack(f"<{whole // 4}I", data[:whole]):
        block = block * _MURMUR2_FACTOR & _UINT32
        value = value * _MURMUR2_FACTOR & _UINT32 ^ (block ^ block >> 24) * _MURMUR2_FACTOR & _UINT32
    if size > whole:
        value = (value ^ int.from_bytes(data[whole:], "little")) * _MURMUR2_FACTOR & _UINT32
    value = (value ^ value >> 13) * _MURMUR2_FACTOR & _UINT32
    return value ^ value >> 15
