"""librdkafka's own producer: how it is made, and what it says besides."""

from __future__ import annotations

import contextlib
import logging
import ssl
from typing import Any

from docdb_stream.context import check_lease, current_deadline
from docdb_stream.errors import ConfigError
from docdb_stream.targets._client import import_client
from docdb_stream.targets._kafka.brokers import CONNECT_S, Brokers, connect_timeout_s, no_coordinator
from docdb_stream.targets._kafka.producer import (
    CLIENT_ID,
    IN_FLIGHT_BYTES,
    REQUEST_S,
    TRANSACTION_S,
    NoReceiptsError,
    NoTransactionsError,
    ReceiptsAwayError,
    ms,
)
from docdb_stream.targets._kafka.receipt import Receipt, receipt_after

_LOGGER = "confluent_kafka"
_BATCH_BYTES = 1_000_000
"""Bytes of one partition sent together at most, librdkafka's default; smaller batches cost both sides more."""
_LINGER_MS = 5
"""How long a batch waits to be filled, librdkafka's default; longer ones gain nothing. Nobody waits for it: see
``_send_now``."""
_RECONNECT_S = 1.0
"""Pause between attempts to connect at most; librdkafka's 10 s are a third of the patience."""

_PASSING = (14, 15, 16)
"""COORDINATOR_LOAD_IN_PROGRESS, COORDINATOR_NOT_AVAILABLE, NOT_COORDINATOR (Kafka protocol guide, "Error Codes")."""


class Codes:
    """librdkafka's and Kafka's error codes, by what they mean here.

    Args:
        codes: ``confluent_kafka.KafkaError``.
    """

    def __init__(self, codes: Any) -> None:
        self.purged = {codes._PURGE_QUEUE, codes._PURGE_INFLIGHT}
        self.too_large = {codes.MSG_SIZE_TOO_LARGE, codes.RECORD_LIST_TOO_LARGE}
        self.rejecting = {*self.too_large, codes.INVALID_RECORD}
        self.refusing = {codes._AUTHENTICATION, codes.SASL_AUTHENTICATION_FAILED}
        self.unauthorized = {codes.TOPIC_AUTHORIZATION_FAILED, codes.CLUSTER_AUTHORIZATION_FAILED}
        self.fencing = {codes._FENCED, codes.PRODUCER_FENCED, codes.INVALID_PRODUCER_EPOCH}
        self.unsupported = {
            codes.UNSUPPORTED_VERSION,
            codes._UNSUPPORTED_FEATURE,
            codes.TRANSACTIONAL_ID_AUTHORIZATION_FAILED,
            codes.CLUSTER_AUTHORIZATION_FAILED,
        }
        self.missing = {codes._UNKNOWN_TOPIC, codes.UNKNOWN_TOPIC_OR_PART, codes.TOPIC_EXCEPTION}


class ConfluentClient:
    """Makes what librdkafka calls a producer, and one of them at a time.

    confluent-kafka ends a client, its threads too, with the last reference. So no frame that raises may have one: the
    error keeps the frame, and whoever keeps the error would keep the threads.

    Args:
        target: The target's name, for errors.
        brokers: Where to send.
        transactional_id: Of its transactions; None: it has none.

    Attributes:
        library: The module.
        codes: Its error codes.
        trouble: What librdkafka said last about its connections or itself.
        group: What commits receipts, once there was one asked for.
        transaction_s: See ``Producer``.

    Raises:
        ConfigError: confluent-kafka is not installed.
    """

    def __init__(self, target: str, brokers: Brokers, transactional_id: str | None) -> None:
        self.library: Any = import_client("confluent_kafka", "kafka-confluent", _LOGGER)
        self.codes = Codes(self.library.KafkaError)
        self.trouble: Any = None
        self.group: Any = None
        self.transaction_s = float(TRANSACTION_S[0])
        self._target = target
        self._brokers = brokers
        self._transactional_id = transactional_id
        self._throttled_until_s: dict[int, float] = {}  # per broker, by the deadline's clock

    @property
    def throttled_s(self) -> float:
        """See ``Producer``."""
        now_s = current_deadline().clock()
        return max(0.0, max(self._throttled_until_s.values(), default=now_s) - now_s)

    @property
    def is_refused(self) -> bool:
        """Whether waiting is of no use."""
        return self.trouble is not None and (self.trouble.fatal() or self.trouble.code() in self.codes.refusing)

    def start_again(self) -> None:
        """Forget what was said: the producer is gone."""
        self.trouble = None
        self._throttled_until_s = {}

    def producer(self, *, one_by_one: bool) -> Any:
        """A new one, and within its transactions the only one.

        Args:
            one_by_one: Whether each record has a batch of its own.

        Raises:
            TargetError: No broker answers, or refuses.
            NoTransactionsError: The brokers have none for this client.
        """
        self._brokers.reach_one(self._target)
        configuration = self.configuration()
        if one_by_one:
            configuration["batch.num.messages"] = 1
        return self._producer(configuration) if self._transactional_id is None else self._only_one(configuration)

    def receipt(self, checkpoint: str) -> Receipt | None:
        """The newest one of a checkpoint.

        Raises:
            NoReceiptsError: It cannot be asked for.
            ReceiptsAwayError: It cannot be told now.
        """
        from confluent_kafka.admin import AdminClient

        way = self._way()
        with contextlib.closing(self.library.Consumer(way | {"group.id": self._transactional_id})) as consumer:
            self.group = consumer.consumer_group_metadata()
        asked = self.library.ConsumerGroupTopicPartitions(self._transactional_id)
        limit_s = connect_timeout_s()
        admin = AdminClient(way)
        [answer] = admin.list_consumer_group_offsets([asked], request_timeout=limit_s).values()
        try:
            found = answer.result(limit_s).topic_partitions
        except TimeoutError as error:
            raise ReceiptsAwayError("they do not answer") from error
        except self.library.KafkaException as error:
            passes = error.args[0].code() in _PASSING or error.args[0].retriable()
            raise (ReceiptsAwayError if passes else NoReceiptsError)(str(error)) from error
        finally:
            del admin
        return receipt_after(checkpoint, (offset.metadata for offset in found))

    def _only_one(self, configuration: dict[str, Any]) -> Any:
        """A producer whose id no other one has any more, and no transaction of theirs is open."""
        reason: Any = None
        for timeout_s in TRANSACTION_S:
            self.trouble = None
            producer, reason = self._initialized(
                {
                    **configuration,
                    "transactional.id": self._transactional_id,
                    "transaction.timeout.ms": ms(timeout_s),
                    "socket.timeout.ms": ms(min(REQUEST_S, timeout_s)),
                }
            )
            if reason is None:
                self.transaction_s = float(timeout_s)
                return producer
            if reason.code() in self.codes.unsupported:
                raise NoTransactionsError(reason.str())
            if reason.code() != self.library.KafkaError.INVALID_TRANSACTION_TIMEOUT:
                break
        trouble, self.trouble = self.trouble, None
        check_lease()
        if trouble is not None and trouble.code() in self.codes.refusing:
            raise self._brokers.refusal(self._target, trouble.str())
        raise no_coordinator(self._target, reason.str())

    def _initialized(self, configuration: dict[str, Any]) -> tuple[Any, Any]:
        """A producer whose transactions can begin, or why they cannot."""
        producer = self._producer(configuration)
        try:
            producer.init_transactions(connect_timeout_s())
        except self.library.KafkaException as error:
            return None, error.args[0]
        return producer, None

    def _producer(self, configuration: dict[str, Any]) -> Any:
        try:
            return self.library.Producer(configuration)
        except self.library.KafkaException as error:
            raise ConfigError(f"librdkafka does not take the Kafka settings: {error.args[0].str()}") from error

    def _way(self) -> dict[str, Any]:
        """How any client gets to the brokers."""
        brokers = self._brokers
        way: dict[str, Any] = {
            "bootstrap.servers": brokers.bootstrap_servers,
            "client.id": CLIENT_ID,
            "security.protocol": brokers.security_protocol,
            "socket.timeout.ms": ms(REQUEST_S),
            "socket.connection.setup.timeout.ms": ms(CONNECT_S),
            "reconnect.backoff.max.ms": ms(_RECONNECT_S),
            "error_cb": self._troubled,
            "logger": logging.getLogger(_LOGGER),
        }
        if brokers.tls is not None:
            # librdkafka has its own idea of where the system keeps its CAs.
            system = ssl.get_default_verify_paths()
            way["ssl.ca.location"] = brokers.tls_ca or system.cafile or system.capath or "probe"
        if credentials := brokers.credentials():
            way["sasl.mechanism"] = brokers.sasl_mechanism
            way["sasl.username"] = credentials.username
            way["sasl.password"] = credentials.password
        return way

    def configuration(self) -> dict[str, Any]:
        """What librdkafka is told."""
        brokers = self._brokers
        return {
            **self._way(),
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
            "topic.metadata.propagation.max.ms": ms(CONNECT_S),
            "throttle_cb": self._throttled,
        }

    def _troubled(self, error: Any) -> None:
        self.trouble = error

    def _throttled(self, event: Any) -> None:
        self._throttled_until_s[event.broker_id] = current_deadline().clock() + event.throttle_time
