"""Events to Kafka topics, one topic per namespace, keyed by document.

Owns topics, keys, headers and what becomes of a failed record. Batching, retries and idempotence are kafka-python's.
"""

from __future__ import annotations

import contextlib
import re
import socket
import ssl
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Self
from urllib.parse import urlsplit

from docdb_stream.encoding import UnrenderableError
from docdb_stream.errors import CheckpointConflictError, ConfigError, TargetError
from docdb_stream.events import ChangeEvent, Namespace, PayloadFormat
from docdb_stream.retry import DEFAULT_PATIENCE_S, current_deadline
from docdb_stream.secret import read_credentials
from docdb_stream.settings import Settings
from docdb_stream.target import Rejection
from docdb_stream.targets._client import import_client, tls_context
from docdb_stream.targets._names import distinct_name
from docdb_stream.targets._payload import render_all

_IN_FLIGHT_BYTES = 32 * 1024 * 1024
"""Unconfirmed bytes at most, as the ``buffer.memory`` of Kafka's Java producer; kafka-python 3 has no such limit."""
_BATCH_BYTES = 128 * 1024
"""Bytes of one partition sent together at most; kafka-python's default, 16 KiB, is no more than 20 usual events."""
_LINGER_MS = 20
"""How long a batch waits to be filled. Shorter, and the producer wakes up for every few records; longer, and ``flush``
waits longer for the last ones."""
_CONNECT_S = 10.0
"""How long connecting may take, and waiting for a topic's metadata: an operator waits for the answer of ``doctor``."""
_REQUEST_S = 10.0
"""How long one request may stay unanswered before it is sent again: several fit into the patience."""
_CLOSE_S = 2.0
"""How long closing waits for the producer's thread, which has nothing to send any more."""
_DEFAULT_PORT = 9092
_PRODUCE = 0
"""Kafka protocol guide, "Api Keys"."""

# The broker's rule for topics, org.apache.kafka.common.internals.Topic: these characters, at most 249 of them.
_FORBIDDEN = re.compile(r"[^a-zA-Z0-9._-]")
_TOPIC_BYTES = 249


def topic_name(prefix: str, namespace: Namespace) -> str:
    """The topic of a namespace: ``prefix`` and ``db-coll``, or ``db`` for events about a whole database.

    Characters that Kafka does not allow become ``_``; a name changed so, or cut to 249 characters, gets a hash at its
    end (see ``distinct_name``).
    """
    original = prefix + namespace.label
    accepted = _FORBIDDEN.sub("_", original)
    return distinct_name(original, "_" if accepted in ("", ".", "..") else accepted, _TOPIC_BYTES)


class _Record(NamedTuple):
    """What is sent to Kafka for an event."""

    event: ChangeEvent
    topic: str
    key: bytes
    value: bytes
    headers: list[tuple[str, bytes]]


class KafkaTarget:
    """Sends each event as one record.

    - Topic: see ``topic_name``. An ``invalidate``, which has no namespace, goes to the topic of the stream's scope.
    - Key: the document key as text, so that all events of a document are in one partition, in order. Events about no
      single document (drop, rename, dropDatabase, invalidate, unknown ones) are keyed by their namespace: they keep
      their order among themselves, but Kafka has none between them and the documents of other partitions.
    - Value: the event as ``payload_format`` says; deletes too, so compaction keeps a document's last event for ever.
    - Headers: ``event_id``, ``operation``, ``cluster_time`` (``seconds.increment``), ``namespace``.

    The idempotent producer writes each record once and in order as long as it lives. After a failure it is thrown
    away, and what was not confirmed comes again: consumers may see an event twice (same ``event_id``), and after the
    newest event of a document never an older one without the newest again.

    Args:
        bootstrap_servers: ``host:port`` with commas.
        topic_prefix: Put before each topic's name.
        security_protocol: PLAINTEXT, SSL, SASL_PLAINTEXT or SASL_SSL.
        sasl_mechanism: PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512, for the SASL protocols.
        secret: Where username and password are (see ``read_credentials``); read whenever a producer is made.
        tls_ca: Path of the brokers' CA bundle; the system's by default.
        message_bytes: Largest record batch the topics take (``max.message.bytes``), so largest event with its overhead.
        payload_format: How an event is written.
        scope: What the stream watches.

    Raises:
        ConfigError: kafka-python is not installed, or the arguments make no sense.
    """

    name = "kafka"

    def __init__(
        self,
        bootstrap_servers: str,
        *,
        topic_prefix: str = "",
        security_protocol: str = "PLAINTEXT",
        sasl_mechanism: str = "SCRAM-SHA-512",
        secret: str | None = None,
        tls_ca: str | None = None,
        message_bytes: int = 1024 * 1024,
        payload_format: PayloadFormat = "extended",
        scope: Namespace | None = None,
    ) -> None:
        self._kafka: Any = import_client("kafka", "kafka", "kafka")
        self._bootstrap_servers = bootstrap_servers
        self._servers = _servers(bootstrap_servers)
        if security_protocol.startswith("SASL") and secret is None:
            raise ConfigError(f"KAFKA_SECURITY_PROTOCOL {security_protocol} needs credentials", hint="set KAFKA_SECRET")
        self._tls = tls_context(tls_ca) if security_protocol.endswith("SSL") else None
        self._security_protocol = security_protocol
        self._sasl_mechanism = sasl_mechanism
        self._secret = secret
        self._topic_prefix = topic_prefix
        self._message_bytes = message_bytes
        self._payload_format = payload_format
        self._scope = scope or Namespace("deployment")
        self._places: dict[Namespace, tuple[str, bytes]] = {}  # namespace -> topic, and what the header says
        self._producer: Any = None
        self._in_flight: deque[tuple[_Record, Any]] = deque()
        self._in_flight_bytes = 0
        self._limit = current_deadline()  # of the run that wrote last; the producer's thread does not inherit it

    @classmethod
    def from_settings(cls, settings: Settings) -> Self | None:
        """The target, or None when ``msk_bootstrap_srv`` is not set."""
        if settings.msk_bootstrap_srv is None:
            return None
        return cls(
            settings.msk_bootstrap_srv,
            topic_prefix=settings.kafka_topic_prefix,
            security_protocol=settings.kafka_security_protocol,
            sasl_mechanism=settings.kafka_sasl_mechanism,
            secret=settings.kafka_secret,
            tls_ca=settings.kafka_tls_ca,
            message_bytes=settings.kafka_message_bytes,
            payload_format=settings.payload_format,
            scope=settings.scope,
        )

    def write(self, events: Sequence[ChangeEvent]) -> Sequence[Rejection]:
        """Hand the events to the producer, which sends them while this goes on; waits when too much is unconfirmed.

        Raises:
            TargetError: No broker answers, a topic is missing, or an earlier record failed.
        """
        self._limit = current_deadline()
        rendered, rejections = render_all(events, self._payload_format, self.name)
        for event, payload in rendered:
            try:
                record = self._record(event, payload)
            except UnrenderableError as error:  # the key is Extended JSON, whatever the payload is
                rejections.append(Rejection(event, self.name, str(error)))
                continue
            rejections += self._send(record)
            if self._in_flight_bytes > _IN_FLIGHT_BYTES:
                rejections += self._settle(_IN_FLIGHT_BYTES // 2)
        return [*rejections, *self._settle(_IN_FLIGHT_BYTES)]

    def flush(self) -> Sequence[Rejection]:
        """Wait until the brokers have confirmed every record (``acks=all``).

        Raises:
            TargetError: They did not, or did not in time; nothing is in flight any more.
        """
        return self._settle(0)

    def close(self) -> None:
        """Let the producer go, without waiting for records that are not confirmed."""
        producer, self._producer = self._producer, None
        self._in_flight.clear()
        self._in_flight_bytes = 0
        if producer is None:
            return
        # KafkaProducer.close() flushes first and, when that takes too long, raises and leaves its thread running
        # (kafka-python 3.0). So the thread is told first to drop what is left.
        producer._sender.force_close()
        producer._sender.join(_CLOSE_S)
        with contextlib.suppress(self._kafka.errors.KafkaError):
            producer.close(timeout=0)

    def check(self) -> None:
        """Connect and sign in. Whether a topic exists or may be written to shows at its first event.

        Raises:
            TargetError: No broker answers, or it refuses the credentials.
        """
        self._connected_producer()

    def _record(self, event: ChangeEvent, payload: bytes) -> _Record:
        namespace = event.namespace
        topic, path = self._places.get(namespace) or self._place(namespace)
        key = event.key
        time = event.cluster_time
        headers = [
            ("event_id", event.event_id.encode()),
            ("operation", event.operation.encode()),
            ("cluster_time", b"%d.%d" % (time.time, time.inc)),
            ("namespace", path),
        ]
        return _Record(event, topic, path if key is None else key.encode(), payload, headers)

    def _place(self, namespace: Namespace) -> tuple[str, bytes]:
        known = namespace if namespace.db else self._scope
        place = self._places[namespace] = topic_name(self._topic_prefix, known), str(known).encode()
        return place

    def _send(self, record: _Record) -> list[Rejection]:
        producer = self._connected_producer()
        try:
            future = producer.send(record.topic, record.value, record.key, record.headers)
        except self._kafka.errors.MessageSizeTooLargeError:
            return [self._too_large(record)]
        except self._kafka.errors.KafkaTimeoutError as error:  # no metadata of the topic
            raise self._failure(error, record.topic, _missing_topic(record.topic)) from error
        except self._kafka.errors.KafkaError as error:
            raise self._failure(error, record.topic) from error
        self._in_flight.append((record, future))
        self._in_flight_bytes += len(record.value)
        return []

    def _settle(self, until_bytes: int) -> list[Rejection]:
        """Wait for the oldest records until at most ``until_bytes`` are unconfirmed; 0 waits for all."""
        limit = current_deadline()
        rejections: list[Rejection] = []
        while self._in_flight:
            record, future = self._in_flight[0]
            # What is confirmed goes at once, not at the flush: it holds the events, decoded and rendered.
            if self._in_flight_bytes < until_bytes and not future.succeeded():
                break
            try:
                if not future.succeeded():
                    future.get(timeout=max(0.0, min(limit.patience_s, limit.remaining_s)))
            except self._kafka.errors.KafkaError as error:
                rejected = self._rejected_by_broker()
                if not rejected:
                    raise self._failure(error, record.topic) from error
                rejections += rejected
            else:
                self._in_flight.popleft()
                self._in_flight_bytes -= len(record.value)
        return rejections

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
                rejections.append(self._too_large(record))
            elif isinstance(error, errors.InvalidRecordError):
                rejections.append(Rejection(record.event, self.name, "InvalidRecordError: the topic's rules refuse it"))
            else:
                rest.append(record)
        if rejections:
            self.close()
            current_deadline().check()
            for record in rest:
                rejections += self._send(record)
        return rejections

    def _too_large(self, record: _Record) -> Rejection:
        size = len(record.key) + len(record.value)
        reason = f"{size} bytes are too large for topic {record.topic}; KAFKA_MESSAGE_BYTES is {self._message_bytes}"
        return Rejection(record.event, self.name, reason)

    def _connected_producer(self) -> Any:
        if self._producer is None:
            self._reach_a_broker()
            self._producer = self._new_producer()
        return self._producer

    def _new_producer(self) -> Any:
        opened: list[Any] = []

        def client(**config: Any) -> Any:
            network_client = self._kafka.KafkaProducer.DEFAULT_CONFIG["kafka_client"](**config)
            network_client.send = self._only_under_lease(network_client.send)
            opened.append(network_client)
            return network_client

        sasl: dict[str, str] = {}
        if self._secret is not None and self._security_protocol.startswith("SASL"):
            credentials = read_credentials(self._secret)
            sasl = {
                "sasl_mechanism": self._sasl_mechanism,
                "sasl_plain_username": credentials.username,
                "sasl_plain_password": credentials.password,
            }
        try:
            return self._kafka.KafkaProducer(
                bootstrap_servers=self._bootstrap_servers,
                client_id="docdb-stream",
                kafka_client=client,
                enable_idempotence=True,
                acks="all",
                batch_size=min(_BATCH_BYTES, self._message_bytes),
                linger_ms=_LINGER_MS,
                # kafka-python compares it with the record and its batch's header, as the broker does.
                max_request_size=self._message_bytes,
                max_block_ms=_ms(_CONNECT_S),
                bootstrap_timeout_ms=_ms(_connect_timeout_s()),
                request_timeout_ms=_ms(_REQUEST_S),
                delivery_timeout_ms=_ms(DEFAULT_PATIENCE_S),
                security_protocol=self._security_protocol,
                ssl_context=self._tls,
                **sasl,
            )
        except self._kafka.errors.KafkaError as error:
            for network_client in opened:  # a producer that fails in its constructor leaves it open
                network_client.close()
            raise TargetError(
                self.name,
                f"the brokers do not accept the connection: {error}",
                hint="check KAFKA_SECURITY_PROTOCOL (this is "
                f"{self._security_protocol}), KAFKA_SASL_MECHANISM, KAFKA_SECRET, and that these are Kafka's ports",
            ) from error

    def _only_under_lease(self, send: Callable[..., Any]) -> Callable[..., Any]:
        """The producer's thread sends what it holds whenever it can: also after the process was stopped for longer than
        its lease lasts, or after the run has failed elsewhere. By then another run may be further already."""

        def guarded(node_id: Any, request: Any, *arguments: Any, **options: Any) -> Any:
            if request.API_KEY == _PRODUCE:
                try:
                    self._limit.check()
                except CheckpointConflictError:
                    if self._producer is not None:
                        self._producer._sender.force_close()
                    raise
            return send(node_id, request, *arguments, **options)

        return guarded

    def _reach_a_broker(self) -> None:
        """Connect to a server and hang up, TLS included.

        kafka-python would try for all of its timeout and tell only that it expired, and its TLS handshake has none.
        """
        problems = []
        for host, port in self._servers:
            try:
                with socket.create_connection((host, port), _connect_timeout_s()) as connection:
                    if self._tls is not None:
                        self._tls.wrap_socket(connection, server_hostname=host).close()
                return
            except ssl.SSLError as error:
                hint = "check KAFKA_TLS_CA and that this is the brokers' TLS port"
                raise TargetError(self.name, f"{host}:{port}: TLS failed: {error}", hint=hint) from error
            except OSError as error:
                problems.append(f"{host}:{port}: {error}")
        raise TargetError(
            self.name,
            "no broker can be reached: " + "; ".join(problems),
            hint="check MSK_BOOTSTRAP_SRV, and that network and security groups let this machine in",
        )

    def _failure(self, error: Exception, topic: str, hint: str = "") -> TargetError:
        """What an error of the client library means; lets the producer go, so that the next write has a new one.

        Raises:
            CheckpointConflictError: The lease is lost, which is why nothing was sent.
        """
        self.close()
        self._limit.check()
        errors = self._kafka.errors
        if isinstance(error, (errors.AuthorizationError, errors.SaslAuthenticationFailedError)):
            hint = f"allow this user to write to {topic} (and IDEMPOTENT_WRITE on the cluster, before Kafka 2.8)"
        elif isinstance(error, (errors.UnknownTopicOrPartitionError, errors.InvalidTopicError)):
            hint = _missing_topic(topic)
        return TargetError(self.name, f"topic {topic}: {error}", hint=hint or "see that the brokers are up and in sync")


def _missing_topic(topic: str) -> str:
    return f"create the topic {topic}, or let the brokers create topics (auto.create.topics.enable)"


def _connect_timeout_s() -> float:
    return max(0.1, min(_CONNECT_S, current_deadline().remaining_s))


def _ms(seconds: float) -> int:
    return int(1000 * seconds)  # whole ones: kafka-python puts some of them into requests as they are


def _servers(text: str) -> list[tuple[str, int]]:
    try:
        urls = [urlsplit(f"//{server.strip()}") for server in text.split(",")]
        servers = [(url.hostname or "", url.port or _DEFAULT_PORT) for url in urls]
    except ValueError:
        servers = [("", 0)]
    if not all(host for host, _ in servers):
        raise ConfigError(f"MSK_BOOTSTRAP_SRV {text!r} does not name brokers", hint="give host:port with commas")
    return servers
