"""Events to Kafka topics, one topic per namespace, keyed by document.

Owns the settings, and what is sent when. What an event becomes is ``_kafka.records``'; sending is a client library's,
behind ``_kafka.producer``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from docdb_stream.errors import ConfigError, DocdbStreamError, UnrenderableError
from docdb_stream.events import ChangeEvent, Namespace
from docdb_stream.format import Format
from docdb_stream.formats import KAFKAS_OWN, format_of, known_format
from docdb_stream.formats.facts import FACTS
from docdb_stream.settings import Settings, TargetSettings
from docdb_stream.settings.types import Address, SecretReference, TemplateText, Words
from docdb_stream.source import BATCH_BYTES
from docdb_stream.target import Rejection
from docdb_stream.targets._kafka.brokers import Brokers, Compression
from docdb_stream.targets._kafka.pace import Pace
from docdb_stream.targets._kafka.producer import FEW_RECORDS, Producer, Record
from docdb_stream.targets._kafka.records import Records, transactional_id
from docdb_stream.targets._kafka.transactions import Transactions
from docdb_stream.targets._names import TargetName, order_cautions, require_allow_list
from docdb_stream.targets._payload import render_all
from docdb_stream.template import Template

if TYPE_CHECKING:
    from docdb_stream.targets._kafka.record import KafkaRecord
    from docdb_stream.targets._kafka.registry import SchemaRegistry

Client = Literal["kafka-python", "confluent"]
"""The client library that sends."""

Choice = Literal["auto", "on", "off"]
"""Whether to send within transactions; auto: where the brokers let this client."""


def _kafka_format(name: str) -> str:
    return name if name == KAFKAS_OWN else known_format(name)


class KafkaSettings(TargetSettings):
    """What can be set about the target kafka."""

    switch = "msk_bootstrap_srv"

    msk_bootstrap_srv: Annotated[str | None, Address("kafka_secret")] = Field(
        default=None,
        description="Kafka bootstrap servers, host:port with commas between: switches the target on. One topic per "
        "collection: db-coll. Absent: off.",
        examples=["b-1.msk.example:9096,b-2.msk.example:9096"],
    )
    kafka_client: Client = Field(
        default="kafka-python",
        description="Client library: kafka-python (about 30,000 events/s), or confluent (librdkafka; pip install "
        "'docdb-stream[kafka-confluent]'), which carries about 57,000 on the same machine, at a fraction of the CPU, "
        "but may, without transactions and after its process was stopped for longer than lease_seconds, send what it "
        "held then: see docs/reliability.md. A document has the same partition with either.",
        examples=["confluent"],
    )
    kafka_topic_prefix: str = Field(
        default="", description="Put before the topic's name, which is db-coll.", examples=["shop-"]
    )
    kafka_topic: TemplateText | None = Field(
        default=None,
        description="The topic's name after the prefix, as a template: {db} {coll} {operation} {key} {document.PATH} "
        "(docs/targets.md). Absent: db-coll.",
        examples=["shop.{coll}"],
    )
    kafka_topic_allow: Words = Field(
        default=(),
        description="The topics that kafka_topic may make of data, without the prefix, with commas; * stands for any "
        "text. An event for another one goes to the dead letters. Needed where {key} or {document.PATH} stands in "
        "kafka_topic.",
        examples=["orders-eu, orders-us"],
    )
    kafka_key: TemplateText | None = Field(
        default=None,
        description="The record's key, as a template. An event that has no such value has the key it would have "
        "without. Absent: the document key.",
        examples=["{document.customer.id}"],
    )
    kafka_security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = Field(
        default="PLAINTEXT", description="How to talk to the brokers: PLAINTEXT, SSL, SASL_PLAINTEXT or SASL_SSL."
    )
    kafka_sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = Field(
        default="SCRAM-SHA-512",
        description="For the SASL_ protocols: PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512, which MSK uses.",
    )
    kafka_secret: SecretReference = Field(
        default=None,
        description="User name and password for SASL, by reference as documentdb_secret.",
        examples=["AmazonMSK_docdb_stream"],
    )
    kafka_tls_ca: str | None = Field(
        default=None,
        description="CA bundle of the brokers: a path. Absent: the system's CAs.",
        examples=["/etc/ssl/brokers.pem"],
    )
    kafka_message_bytes: int = Field(
        default=1024 * 1024,
        ge=1024,
        description="Largest record the topics take, in bytes (the brokers' message.max.bytes).",
    )
    kafka_linger_ms: int | None = Field(
        default=None,
        ge=0,
        le=5000,
        description="How long a batch waits to be filled, in milliseconds, 0 to 5000. Fewer than 100 events at once "
        "never wait for it, nor does a checkpoint. Absent: 100 with kafka-python, 5 with confluent, the best measured.",
        examples=["20"],
    )
    kafka_compression: Compression = Field(
        default="none",
        description="How batches are compressed: none, gzip, snappy, lz4 or zstd. Fewer bytes count against a quota of "
        "the brokers; it costs CPU here. kafka-python needs the package python-snappy, lz4 or zstandard for the last "
        "three.",
        examples=["zstd"],
    )
    kafka_transactions: Choice = Field(
        default="auto",
        description="Whether to send within transactions: the brokers then refuse a run that another one has taken "
        "over from, and consumers with isolation.level=read_committed see each event once. auto: where the brokers let "
        "this client. on: it is an error where they do not. off: never. See docs/targets.md.",
        examples=["on"],
    )
    kafka_payload_format: Annotated[str, AfterValidator(_kafka_format)] | None = Field(
        default=None,
        description="As payload_format, for this target alone; or avro, whose schema is in kafka_schema_registry "
        "(docs/formats.md). Absent: payload_format.",
        examples=["debezium"],
    )
    kafka_schema_registry: Annotated[str | None, Address("kafka_schema_registry_secret")] = Field(
        default=None,
        description="URL of a schema registry with Confluent's API, for avro. The schema is registered under the "
        "topic's name and -value. Absent: none.",
        examples=["https://registry.example:8081"],
    )
    kafka_schema_registry_secret: SecretReference = Field(
        default=None,
        description="User name and password for the schema registry, by reference as documentdb_secret.",
        examples=["schema-registry"],
    )
    kafka_tombstones: bool | None = Field(
        default=None,
        description="Whether a delete is followed by a tombstone, a record with its key and without a value, by which "
        "a compacted topic forgets the document: true or false. Absent: true with debezium, else false.",
        examples=["true"],
    )

    @model_validator(mode="after")
    def _named(self) -> Self:
        require_allow_list("kafka_topic", self.kafka_topic, self.kafka_topic_allow)
        if self.kafka_payload_format == KAFKAS_OWN and self.kafka_schema_registry is None:
            raise ValueError("kafka_payload_format = avro needs kafka_schema_registry")
        return self

    def cautions(self, scope: Namespace | None) -> Iterable[str]:
        """See ``TargetSettings``."""
        yield from order_cautions(kafka_topic=self.kafka_topic, kafka_key=self.kafka_key)
        if self._has_tombstones and self.kafka_key is not None and not Template(self.kafka_key).is_of_one_document:
            yield (
                "KAFKA_KEY: several documents can share a key, and the tombstone of one then has a compacted topic "
                "forget the others, too; with {key} in it, or KAFKA_TOMBSTONES = false, it does not"
            )

    @property
    def _has_tombstones(self) -> bool:
        return self.kafka_payload_format == "debezium" if self.kafka_tombstones is None else self.kafka_tombstones


class KafkaTarget:
    """Sends each event as one record.

    - Topic: see ``records.topic_name``, or as the template says. An ``invalidate``, which has no namespace, goes to the
      topic of the stream's scope.
    - Key: the document key as text, or as the template or the format says, so that all events of a document are in one
      partition, in order. Events about no single document (drop, rename, dropDatabase, invalidate, unknown ones) are
      keyed by their namespace: they keep their order among themselves, but Kafka has none between them and the
      documents of other partitions.
    - Value: the event as ``payload_format`` says; deletes too, so compaction keeps a document's last event for ever,
      unless tombstones follow them.
    - Headers: ``event_id``, ``operation``, ``cluster_time`` (``seconds.increment``), ``namespace``; and of formats that
      have them ``content-type`` and attributes, as ``ce_NAME``.

    The idempotent producer writes each record once and in order as long as it lives. After a failure it is thrown
    away, and what was not confirmed comes again: consumers may see an event twice (same ``event_id``), and after the
    newest event of a document never an older one without the newest again. Within transactions, ``flush`` commits:
    consumers that read what is committed see nothing before, and nothing of a run that failed or was taken over.

    Args:
        bootstrap_servers: ``host:port`` with commas.
        client: The client library. With either, a key has the same partition.
        topic_prefix: Put before each topic's name.
        topic: The template of the topic's name; None: ``db-coll``.
        topic_allow: The topics that may be made of data; see ``AllowList``.
        key: The template of the record's key; None: the document key.
        security_protocol: PLAINTEXT, SSL, SASL_PLAINTEXT or SASL_SSL.
        sasl_mechanism: PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512, for the SASL protocols.
        secret: Where username and password are (see ``read_credentials``); read whenever a producer is made.
        tls_ca: Path of the brokers' CA bundle; the system's by default.
        message_bytes: Largest record batch the topics take (``max.message.bytes``), so largest event with its overhead.
        linger_ms: How long a batch waits to be filled where there is much to send; None: 100 with kafka-python, 5 with
            confluent, the best measured.
        compression: How batches are compressed: none, gzip, snappy, lz4 or zstd.
        transactions: Whether to send within transactions.
        stream: The stream's name, by which the brokers know who else delivers it; without one, no transactions.
        payload_format: The format in which an event is written, or its name.
        schema_registry: URL of the registry, for a format with a schema (see ``SchemaRegistry``).
        schema_registry_secret: Where username and password for it are.
        tombstones: Whether a tombstone follows a delete; None: as the format has it.
        scope: What the stream watches.

    Raises:
        ConfigError: The client library is not installed, or the arguments make no sense.
    """

    name = "kafka"
    settings_model = KafkaSettings

    def __init__(
        self,
        bootstrap_servers: str,
        *,
        client: Client = "kafka-python",
        topic_prefix: str = "",
        topic: str | None = None,
        topic_allow: Sequence[str] = (),
        key: str | None = None,
        security_protocol: str = "PLAINTEXT",
        sasl_mechanism: str = "SCRAM-SHA-512",
        secret: str | None = None,
        tls_ca: str | None = None,
        message_bytes: int = 1024 * 1024,
        linger_ms: int | None = None,
        compression: Compression = "none",
        transactions: Choice = "auto",
        stream: str | None = None,
        payload_format: Format | str = "extended",
        schema_registry: str | None = None,
        schema_registry_secret: str | None = None,
        tombstones: bool | None = None,
        scope: Namespace | None = None,
    ) -> None:
        brokers = Brokers(
            bootstrap_servers,
            security_protocol=security_protocol,
            sasl_mechanism=sasl_mechanism,
            secret=secret,
            tls_ca=tls_ca,
            message_bytes=message_bytes,
            linger_ms=linger_ms,
            compression=compression,
        )
        if transactions == "on" and stream is None:
            raise ConfigError("Kafka's transactions need the stream's name", hint="give KafkaTarget its stream")
        self._brokers = brokers
        producer = _producer_class(client)
        self._producer: Producer
        if transactions == "off" or stream is None:
            self._producer = producer(self.name, brokers)
        else:
            name = transactional_id(topic_prefix, stream)
            make = partial(producer, self.name, brokers)
            self._producer = Transactions(self.name, make, name, required=transactions == "on")
        self._pace = Pace()
        self._format = _format_of(payload_format)
        self.formats = (self._format, FACTS)
        self._registry = _registry(self.name, schema_registry, schema_registry_secret)
        self._records = Records(
            self._format,
            self._registry,
            topic_prefix=topic_prefix,
            topic=None if topic is None else TargetName(topic, "KAFKA_TOPIC_ALLOW", topic_allow),
            key=None if key is None else Template(key),
            tombstones=tombstones,
            scope=scope or Namespace("deployment"),
        )

    @classmethod
    def from_settings(cls, settings: Settings) -> Self:
        """The target of a stream that has it switched on."""
        own = settings.of(KafkaSettings)
        has_schema = own.kafka_payload_format == KAFKAS_OWN
        return cls(
            own.where,
            client=own.kafka_client,
            topic_prefix=own.kafka_topic_prefix,
            topic=own.kafka_topic,
            topic_allow=own.kafka_topic_allow,
            key=own.kafka_key,
            security_protocol=own.kafka_security_protocol,
            sasl_mechanism=own.kafka_sasl_mechanism,
            secret=own.kafka_secret,
            tls_ca=own.kafka_tls_ca,
            message_bytes=own.kafka_message_bytes,
            linger_ms=own.kafka_linger_ms,
            compression=own.kafka_compression,
            transactions=own.kafka_transactions,
            stream=settings.stream_name,
            payload_format=KAFKAS_OWN if has_schema else settings.format_for(own.kafka_payload_format),
            schema_registry=own.kafka_schema_registry,
            schema_registry_secret=own.kafka_schema_registry_secret,
            tombstones=own.kafka_tombstones,
            scope=settings.scope,
        )

    def write(self, events: Sequence[ChangeEvent]) -> Sequence[Rejection]:
        """Hand the events to the producer, which sends them while this goes on; waits when too much is unconfirmed.

        Raises:
            TargetError: No broker answers, a topic is missing, or an earlier record failed.
        """
        rendered, rejections = render_all(events, self._format, self.name)
        records: list[Record] = []
        for event, payload in rendered:
            try:
                records += self._records.of(event, payload)
            except UnrenderableError as error:  # the key is Extended JSON, whatever the payload is
                rejections.append(Rejection(event, self.name, str(error)))
            except DocdbStreamError:  # the schema registry's
                self.close()
                raise
        for part in self._pace.parts(records):
            rejections += self._send(part)
        if len(records) < FEW_RECORDS:
            with self._paced():
                rejections += self._producer.reveal()
        return _one_each(rejections)

    def flush(self) -> Sequence[Rejection]:
        """Wait until the brokers have confirmed every record (``acks=all``), and commit the transaction.

        Raises:
            TargetError: They did not, or did not in time; nothing is in flight any more.
        """
        return _one_each(self._settled(self._producer.commit))

    @property
    def takes_bytes(self) -> int | None:
        """See ``Paced``: little at first, and where the brokers are slow or throttle this client."""
        limit_bytes = self._pace.limit_bytes
        return None if limit_bytes >= BATCH_BYTES else limit_bytes

    @property
    def wants_flush(self) -> bool:
        """See ``Buffering``: what slow brokers have confirmed gets a checkpoint at once."""
        return self._pace.is_slow and self.takes_bytes is not None

    def close(self) -> None:
        """Let the producer go, without waiting for records that are not confirmed; abort the transaction."""
        self._producer.close()
        self._pace.start_again()
        if self._registry is not None:
            self._registry.forget()

    def check(self) -> None:
        """Connect, sign in, and see whether there are transactions. Whether a topic exists or may be written to shows
        at its first event.

        Raises:
            TargetError: No broker answers, or the schema registry, or one refuses the credentials.
            Caution: Events will be sent without transactions, because the brokers do not let this client have any.
        """
        if self._registry is not None:
            self._registry.check()
        self._producer.connect()

    def record(self) -> KafkaRecord:
        """See ``Recorded``. Reading takes the operations READ and DESCRIBE on the topics."""
        from docdb_stream.targets._kafka.python_client import way_to
        from docdb_stream.targets._kafka.record import KafkaRecord

        def topic_of(event: ChangeEvent, payload: bytes) -> str | None:
            record = self._records.unframed(event, payload)
            return record.topic if record.size_bytes <= self._brokers.message_bytes else None

        return KafkaRecord(self.name, lambda: way_to(self._brokers), self._format, topic_of)

    def _send(self, records: Sequence[Record]) -> list[Rejection]:
        with self._paced():
            rejections = self._producer.send(records)
        return [*rejections, *self._settled(self._producer.flush)] if self._pace.is_due else rejections

    def _settled(self, wait: Callable[[], list[Rejection]]) -> list[Rejection]:
        with self._paced():
            rejections = wait()
        self._pace.settled(self._producer.throttled_s)
        return rejections

    @contextmanager
    def _paced(self) -> Iterator[None]:
        try:
            with self._pace.timed():
                yield
        except DocdbStreamError:
            self._pace.start_again()
            raise


def _one_each(rejections: list[Rejection]) -> list[Rejection]:
    """One for an event, of which both record and tombstone may have been refused."""
    return [*{id(rejection.event): rejection for rejection in reversed(rejections)}.values()][::-1]


def _format_of(given: Format | str) -> Format:
    if given == KAFKAS_OWN:  # imported only now
        from docdb_stream.formats.avro import AVRO

        return AVRO
    return format_of(given)


def _registry(target: str, url: str | None, secret: str | None) -> SchemaRegistry | None:
    """The schema registry, whose file is imported only now."""
    if url is None:
        return None
    from docdb_stream.targets._kafka.registry import SchemaRegistry

    return SchemaRegistry(target, url, secret)


def _producer_class(client: Client) -> Callable[..., Producer]:
    """The producer of the client library, whose file is imported only now."""
    if client == "confluent":
        from docdb_stream.targets._kafka.confluent import ConfluentProducer

        return ConfluentProducer
    from docdb_stream.targets._kafka.python import KafkaPythonProducer

    return KafkaPythonProducer
