"""kafka-python's own producer: how it is made, what it is given, and the one thing that it has no public way for."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import replace
from struct import unpack
from typing import Any

from docdb_stream.context import NoAnswerError, answer_in_time, check_lease, current_deadline, deadline
from docdb_stream.errors import CheckpointConflictError, ConfigError
from docdb_stream.targets._kafka.brokers import (
    CONNECT_S,
    NO_ANSWER,
    Brokers,
    Compression,
    connect_timeout_s,
    no_coordinator,
)
from docdb_stream.targets._kafka.producer import CLIENT_ID, CLOSE_S, REQUEST_S, TRANSACTION_S, NoTransactionsError, ms
from docdb_stream.targets._kafka.receipt import Receipt, receipt_after

_BATCH_BYTES = 512 * 1024
"""Bytes of one partition sent together at most. kafka-python's default, 16 KiB, is no more than 20 usual events; beyond
this, nothing is gained (bench/NOTES.md)."""
_LINGER_MS = 100
"""How long a batch waits to be filled. Shorter, and the producer wakes up for every few records; longer gains nothing.
Nobody waits for it: see ``FEW_RECORDS``, and ``flush``."""
_NEVER_MS = 2**31 - 1
"""The largest time-out that Kafka's clients take (a Java int), 24 days."""
_CODEC_PACKAGES = {"snappy": "python-snappy", "lz4": "lz4", "zstd": "zstandard"}
"""What kafka-python compresses with, which it does not bring (its README, "Compression")."""
_MURMUR2_SEED = 0x9747B28C
_MURMUR2_FACTOR = 0x5BD1E995
_UINT32 = 0xFFFFFFFF
_PRODUCE = 0
"""Kafka protocol guide, "Api Keys"."""


class PythonClient:
    """Makes what kafka-python calls a producer, and one of them at a time.

    Args:
        target: The target's name, for errors.
        brokers: Where to send.
        transactional_id: Of its transactions; None: it has none.
        may_send: Raises CheckpointConflictError when nothing may be sent any more.

    Raises:
        ConfigError: What compresses is not installed.
    """

    def __init__(
        self, target: str, brokers: Brokers, transactional_id: str | None, may_send: Callable[[], None]
    ) -> None:
        _see_that_it_compresses(brokers.compression)
        self._target = target
        self._brokers = brokers
        self._transactional_id = transactional_id
        self._may_send = may_send
        self._requests = Requests(may_send)
        self.transaction_s = float(TRANSACTION_S[0])

    @property
    def throttled_s(self) -> float:
        """See ``Producer``."""
        return self._requests.throttled_s

    def producer(self) -> Any:
        """A new one, connected, and within its transactions the only one.

        Raises:
            TargetError: No broker answers, or refuses.
            NoTransactionsError: The brokers have none for this client.
        """
        self._brokers.reach_one(self._target)  # kafka-python's TLS handshake has no timeout
        return self._new_producer() if self._transactional_id is None else self._transactional_producer()

    def receipt(self, checkpoint: str) -> Receipt | None:
        """The newest one of a checkpoint; raises what kafka-python raises."""
        from kafka import KafkaAdminClient

        found: list[str] = []

        def ask() -> None:
            with contextlib.closing(KafkaAdminClient(**way_to(self._brokers))) as admin:
                offsets = admin.list_group_offsets(self._transactional_id)[self._transactional_id]
                found.extend(offset.metadata for offset in offsets.values())

        answered(ask)
        return receipt_after(checkpoint, found)

    def _transactional_producer(self) -> Any:
        """A producer whose id no other one has any more, and no transaction of theirs is open."""
        from kafka import errors

        unsupported = (
            errors.UnsupportedVersionError,
            errors.TransactionalIdAuthorizationFailedError,
            errors.ClusterAuthorizationFailedError,
            errors.KafkaConfigurationError,  # brokers before 0.11
        )
        reason: Exception | None = None
        for timeout_s in TRANSACTION_S:
            producer = None
            try:
                producer = self._new_producer(transaction_timeout_ms=ms(timeout_s))
                answered(producer.init_transactions)
                self.transaction_s = float(timeout_s)
                return producer
            except errors.KafkaError as error:
                reason = error
                if producer is not None:
                    end(producer)
                if isinstance(error, unsupported):
                    raise NoTransactionsError(str(error)) from error
                if errors.InvalidTransactionTimeoutError.__name__ not in str(error):
                    break
        check_lease()
        raise no_coordinator(self._target, reason) from reason

    def _new_producer(self, **transactional: Any) -> Any:
        from kafka import KafkaProducer
        from kafka.errors import KafkaError

        brokers = self._brokers
        self._requests = Requests(self._may_send)
        try:
            return KafkaProducer(
                **way_to(brokers),
                kafka_client=self._requests.client,
                partitioner=partitioner(),
                enable_idempotence=True,
                transactional_id=self._transactional_id,
                **transactional,
                acks="all",
                batch_size=min(_BATCH_BYTES, brokers.message_bytes),
                linger_ms=_LINGER_MS if brokers.linger_ms is None else brokers.linger_ms,
                compression_type=None if brokers.compression == "none" else brokers.compression,
                # kafka-python compares it with the record and its batch's header, as the broker does.
                max_request_size=brokers.message_bytes,
                max_block_ms=ms(CONNECT_S),
                # None: a record that is given up while others are confirmed is one that a throttling broker has not
                # come to yet. ``_settle`` gives up all of them.
                delivery_timeout_ms=_NEVER_MS,
            )
        except KafkaError as error:
            self._requests.close()
            raise brokers.refusal(self._target, error) from error


def way_to(brokers: Brokers) -> dict[str, Any]:
    """How any client of kafka-python gets to the brokers.

    Raises:
        ConfigError: The secret cannot be read.
    """
    way = {
        "bootstrap_servers": brokers.bootstrap_servers,
        "client_id": CLIENT_ID,
        "bootstrap_timeout_ms": ms(connect_timeout_s()),
        "request_timeout_ms": ms(REQUEST_S),
        "security_protocol": brokers.security_protocol,
        "ssl_context": brokers.tls,
    }
    if credentials := brokers.credentials():
        way["sasl_mechanism"] = brokers.sasl_mechanism
        way["sasl_plain_username"] = credentials.username
        way["sasl_plain_password"] = credentials.password
    return way


class Requests:
    """Sees each produce request as it is made, and what the brokers answer about their patience.

    Args:
        check: Raises CheckpointConflictError when nothing may be sent any more. kafka-python's thread sends what it
            holds whenever it can: also after the process was stopped for longer than its lease lasts, or after the run
            has failed elsewhere. By then another run may be further already.
    """

    def __init__(self, check: Callable[[], None]) -> None:
        self._check = check
        self._throttled_until_s: dict[Any, float] = {}
        self._opened: list[Any] = []

    @property
    def throttled_s(self) -> float:
        """How long the brokers take nothing more, in seconds. kafka-python itself sends nothing for so long."""
        return max(0.0, max([*self._throttled_until_s.values()], default=0.0) - time.monotonic())

    def client(self, **config: Any) -> Any:
        """What kafka-python's setting ``kafka_client`` asks for: its own client, with our view of requests."""
        from kafka import KafkaProducer
        from kafka.errors import KafkaConnectionError
        from kafka.future import Future

        requests = self
        base: Any = KafkaProducer.DEFAULT_CONFIG["kafka_client"]

        class Client(base):  # type: ignore[misc]
            def send(self, node_id: Any, request: Any, **options: Any) -> Any:
                if request.API_KEY != _PRODUCE:
                    return super().send(node_id, request, **options)
                try:
                    requests._check()
                except CheckpointConflictError as error:
                    return Future().failure(KafkaConnectionError(str(error)))
                sent = super().send(node_id, request, **options)
                return sent.add_callback(requests._answered, node_id)

        opened = Client(**config)
        self._opened.append(opened)
        return opened

    def close(self) -> None:
        """After a producer has failed in its constructor, which leaves its client open."""
        for client in self._opened:
            client.close()

    def _answered(self, node_id: Any, response: Any) -> None:
        if throttle_time_ms := getattr(response, "throttle_time_ms", 0):
            self._throttled_until_s[node_id] = time.monotonic() + throttle_time_ms / 1000


def answered(work: Callable[[], object]) -> None:
    """Run what has no time-out of its own, as long as the run has time; one that gets no answer is left behind.

    Raises:
        KafkaTimeoutError: No answer came.
    """
    from kafka.errors import KafkaTimeoutError

    limit = current_deadline()
    try:
        with deadline(replace(limit, at_s=min(limit.at_s, limit.clock() + limit.patience_s))):
            answer_in_time(work)
    except NoAnswerError:
        raise KafkaTimeoutError(NO_ANSWER) from None


def partitioner() -> Any:
    """kafka-python's for records with keys, at a quarter of its time, which was a seventh of all that sending takes."""
    from kafka.partitioner.default import DefaultPartitioner

    class Partitioner(DefaultPartitioner):  # type: ignore[misc]
        def partition(
            self, topic: str, key: bytes, serialized_key: bytes, value: bytes, serialized_value: bytes, cluster: Any
        ) -> int:
            partitions = sorted(cluster.partitions_for_topic(topic))
            chosen: int = partitions[(murmur2(serialized_key) & 0x7FFFFFFF) % len(partitions)]
            return chosen

    return Partitioner()


def end(producer: Any) -> None:
    """Close a KafkaProducer, and drop what it holds.

    Its own ``close`` flushes first and, when that takes too long, raises and leaves its thread running (kafka-python
    3.0). So the thread is told first to drop what is left; no public method says so.
    """
    from kafka.errors import KafkaError

    producer._sender.force_close()
    producer._sender.join(CLOSE_S)
    with contextlib.suppress(KafkaError):
        producer.close(timeout=0)


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


def _see_that_it_compresses(compression: Compression) -> None:
    from kafka import codec

    package = _CODEC_PACKAGES.get(compression)
    if package is not None and not getattr(codec, f"has_{compression}")():
        raise ConfigError(
            f"KAFKA_COMPRESSION {compression} needs the package {package} with kafka-python",
            hint=f"pip install {package}; or choose gzip, or KAFKA_CLIENT=confluent, which has all of them",
        )
