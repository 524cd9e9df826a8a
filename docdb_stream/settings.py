"""What can be set: one frozen object per stream, each field declared once.

A field's environment name is its name in upper case; in config.ini it stands as it is here. Owns names, types, defaults
and meaning. Reading files and the environment is ``config``'s.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Iterable
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    AliasChoices,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
    model_validator,
)

from docdb_stream.events import Namespace, PayloadFormat, scope_name

StartAt = Literal["now", "earliest"] | dt.datetime


def parse_start_at(value: object) -> object:
    """Where to start, as it is written: ``now`` and ``earliest`` in any case; a timestamp without a zone is UTC.

    Raises:
        ValueError: It is text, and neither of these.
    """
    if isinstance(value, str):
        word = value.strip().lower()
        if word in ("now", "earliest"):
            return word
        try:
            value = dt.datetime.fromisoformat(value.strip())
        except ValueError:
            raise ValueError("expected now, earliest or an ISO 8601 timestamp such as 2026-01-31T12:00:00Z") from None
    if isinstance(value, dt.datetime) and value.tzinfo is None:
        return value.replace(tzinfo=dt.UTC)
    return value


def _words(value: object) -> object:
    """A list written with commas."""
    return tuple(word.strip() for word in value.split(",") if word.strip()) if isinstance(value, str) else value


ADDRESSES = {
    "documentdb_uri": "documentdb_secret",
    "elasticsearch_uri": "opensearch_secret",
    "msk_bootstrap_srv": "kafka_secret",
    "sqs_query_url": "",
    "dead_letters": "",
}
"""The settings that are addresses, which can hold a password -> the setting that says where it should be instead."""

_USER = re.compile(r"^((?:[a-z][a-z0-9+.-]*://)?+[^:@/?#]*:).+@", re.IGNORECASE | re.DOTALL)
"""A user name and password before the last @: a password that should be percent-encoded can hold any character."""
_PARAMETER = re.compile(r"([?&][^=&#]*(?:password|token|secret|signature)=|AWS_SESSION_TOKEN:)[^&,#]+", re.IGNORECASE)


def without_secrets(address: str) -> str:
    """An address with ``***`` for its password, and for parameters that are named like one."""
    return _PARAMETER.sub(r"\1***", _USER.sub(r"\1***@", address))


def _shown(name: str | None, value: Any) -> Any:
    return without_secrets(value) if name in ADDRESSES and isinstance(value, str) else value


DATABASE_NAME_BYTES = 63
"""MongoDB limits, "Length of Database Names"; what a name must not hold is under "Restrictions on Database Names for
Unix and Linux Systems"."""

_NOT_IN_DATABASE_NAMES = frozenset('/\\. "$\0')
_INTERNAL_DATABASES = frozenset({"admin", "config", "local"})
"""Which change streams cannot watch (MongoDB manual, "Watch a Collection, Database, or Deployment")."""


def _database_name(name: str) -> str:
    """A name that a database can have; the others are mostly meant as something else."""
    if "." in name:
        db, _, coll = name.partition(".")
        raise ValueError(f"no database is called so; for the collection {coll} of {db}, give each its own setting")
    if name == "*":
        raise ValueError("no database is called so; leave it out to watch the whole deployment")
    if _NOT_IN_DATABASE_NAMES & set(name) or len(name.encode()) > DATABASE_NAME_BYTES:
        raise ValueError(
            f"no database is called so: at most {DATABASE_NAME_BYTES} bytes, without / \\ . $, quotes and blanks"
        )
    return name


def _watched_database(name: str) -> str:
    if name in _INTERNAL_DATABASES:
        raise ValueError("the server does not let its own databases be watched (admin, config, local)")
    return _database_name(name)


def _collection_name(name: str) -> str:
    if "\0" in name or name.startswith("."):
        raise ValueError("no collection is called so")
    return name


DatabaseName = Annotated[str, AfterValidator(_database_name)]
CollectionName = Annotated[str, AfterValidator(_collection_name)]


class Settings(BaseModel):
    """Everything about one stream. Frozen; made by keyword, ``Settings.from_env()`` or ``Settings.from_config()``.

    A password in an address shows in the attribute itself and nowhere else: not in a repr, an error or a dump. So to
    make other settings of some, take ``model_copy``.

    Raises:
        ConfigError: From the two constructors: every problem at once. By keyword, pydantic's ValidationError.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", populate_by_name=True, str_strip_whitespace=True, hide_input_in_errors=True
    )

    # The cluster
    documentdb_uri: str = Field(
        min_length=1,
        description="MongoDB connection string of the replica set or DocumentDB cluster. A host name alone is taken "
        "as an Amazon DocumentDB cluster endpoint.",
        examples=["mongodb://127.0.0.1:27017/?replicaSet=rs0"],
    )
    documentdb_secret: str | None = Field(
        default=None,
        description="Where username and password are: the name or ARN of a Secrets Manager secret, env:NAME or "
        "file:PATH, each holding JSON with username and password. Absent: those of the connection string, if any.",
    )
    documentdb_tls_ca: str | None = Field(
        default=None,
        description="CA bundle of the cluster's TLS certificate: a path or s3://bucket/key, fetched once per process. "
        "Setting it turns TLS on.",
    )

    # The stream
    watched_db_name: Annotated[str, AfterValidator(_watched_database)] | None = Field(
        default=None, description="The watched database. Absent: the whole deployment."
    )
    watched_collection_name: CollectionName | None = Field(
        default=None, description="The watched collection. Absent: every collection of the database."
    )
    stream_name: str = Field(
        default="",
        description="Names the stream and its checkpoint. Default: db.coll, db.* or *, after what is watched.",
    )
    start_at: Annotated[StartAt, BeforeValidator(parse_start_at)] = Field(
        default="now",
        description="Where a stream without a checkpoint starts: now, earliest, or an ISO 8601 timestamp.",
    )
    batch_size: int = Field(
        default=1000, ge=1, le=100_000, description="Events read and delivered in one loop, at most."
    )
    max_loop: int = Field(
        default=45,
        ge=0,
        validation_alias=AliasChoices("max_loop", "documents_per_run"),
        description="Loops of one run, at most; 0: as many as the deadline allows. Ignored when following. "
        "docdb-stream run takes 0 unless it is set.",
    )
    state_sync_count: int = Field(
        default=15,
        ge=1,
        validation_alias=AliasChoices("state_sync_count", "iterations_per_sync"),
        description="Loops from one checkpoint to the next.",
    )
    read_ahead_bytes: int = Field(
        default=4 * 1024 * 1024,
        ge=1024 * 1024,
        description="BSON bytes read ahead of delivery and waiting in memory, at most, beyond one reply of the server.",
    )
    payload_format: PayloadFormat = Field(
        default="extended",
        description="extended: the whole change event as relaxed Extended JSON. document: the AWS sample's payload.",
    )
    on_history_lost: Literal["fail", "now", "earliest"] = Field(
        default="fail", description="What to do when the position is no longer in the change log."
    )
    dead_letters: str | None = Field(
        default=None,
        description="Where rejected events go. Absent: the collection STATE_COLLECTION + '_dead_letters' in STATE_DB.",
    )
    change_log_retention_seconds: float = Field(
        default=3 * 60 * 60,
        gt=0,
        description="How long the cluster keeps its change log: DocumentDB's change_stream_log_retention_duration "
        "(3 hours unless changed, 7 days at most), or MongoDB's oplog window. Only for the headroom metric.",
    )
    lease_seconds: float = Field(
        default=60,
        gt=0,
        le=3600,
        description="Seconds after which the lease of a run that died is free again. When following, 10 at most; at "
        "once on the same machine (Linux), where the process is provably gone.",
    )

    # The state
    state_db: DatabaseName = Field(default="docdb_stream", min_length=1, description="Database of the checkpoints.")
    state_collection: CollectionName = Field(
        default="checkpoints", min_length=1, description="Collection of the checkpoints."
    )
    sns_topic_arn_alert: str | None = Field(default=None, description="SNS topic that is told when a run fails.")

    # Kinesis
    kinesis_stream: str | None = Field(
        default=None, description="Kinesis data stream, name or ARN: switches the target on."
    )
    kinesis_record_bytes: int = Field(
        default=1024 * 1024,
        ge=1024,
        le=10 * 1024 * 1024,
        description="Largest record the stream takes, key included: 1 MiB unless raised by UpdateMaxRecordSize.",
    )

    # Firehose
    firehose_stream: str | None = Field(
        default=None, description="Firehose stream with source Direct PUT, name or ARN: switches the target on."
    )

    # SQS
    sqs_query_url: str | None = Field(
        default=None, description="SQS queue URL, standard or FIFO: switches the target on."
    )
    sqs_message_group: Literal["document_key", "collection"] = Field(
        default="document_key", description="FIFO queues: what shares a message group, and with it the order."
    )

    # SNS
    sns_topic_arn_event: str | None = Field(
        default=None, description="ARN of the SNS topic for events, standard or FIFO: switches the target on."
    )

    # EventBridge
    eventbridge_bus: str | None = Field(
        default=None, description="EventBridge event bus, name or ARN: switches the target on."
    )
    eventbridge_event_bytes: int = Field(
        default=256 * 1024,
        ge=1024,
        le=1024 * 1024,
        description="What events, and the requests they share, stay below: 256 KiB, or up to 1 MiB where EventBridge "
        "takes it (since January 2026).",
    )

    # Kafka
    msk_bootstrap_srv: str | None = Field(
        default=None, description="Kafka bootstrap servers, host:port with commas: switches the target on."
    )
    kafka_client: Literal["kafka-python", "confluent"] = Field(
        default="kafka-python",
        description="Client library: confluent (librdkafka) carries about twice as much (57,000 events/s where "
        "kafka-python carries 30,000); kafka-python asks for the lease as each request leaves.",
    )
    kafka_topic_prefix: str = Field(default="", description="Put before the topic's name, which is db-coll.")
    kafka_security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = Field(
        default="PLAINTEXT", description="How to talk to the brokers."
    )
    kafka_sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = Field(
        default="SCRAM-SHA-512", description="SASL mechanism, for the SASL_ protocols. MSK uses SCRAM-SHA-512."
    )
    kafka_secret: str | None = Field(
        default=None, description="Username and password for SASL: a reference as for DOCUMENTDB_SECRET."
    )
    kafka_tls_ca: str | None = Field(
        default=None, description="CA bundle of the brokers: a path. Absent: the system's."
    )
    kafka_message_bytes: int = Field(
        default=1024 * 1024,
        ge=1024,
        description="Largest record the topics take (the brokers' message.max.bytes, about 1 MiB by default).",
    )
    kafka_linger_ms: int | None = Field(
        default=None,
        ge=0,
        le=5000,
        description="How long a batch waits to be filled, in milliseconds; fewer than 100 events at once never wait. "
        "Absent: 100 with kafka-python, 5 with confluent, the best measured.",
    )
    kafka_compression: Literal["none", "gzip", "snappy", "lz4", "zstd"] = Field(
        default="none",
        description="How batches are compressed. kafka-python needs a package of its own for snappy (python-snappy), "
        "lz4 (lz4) and zstd (zstandard); confluent has all of them.",
    )

    # OpenSearch
    elasticsearch_uri: str | None = Field(
        default=None,
        validation_alias=AliasChoices("elasticsearch_uri", "opensearch_uri"),
        description="URI of the OpenSearch or Elasticsearch domain: switches the target on. Also OPENSEARCH_URI.",
    )
    opensearch_auth: Literal["none", "basic", "sigv4"] | None = Field(
        default=None,
        description="How to sign in. Absent: basic with OPENSEARCH_SECRET, sigv4 for *.amazonaws.com, else none.",
    )
    opensearch_secret: str | None = Field(
        default=None, description="Username and password for basic: a reference as for DOCUMENTDB_SECRET."
    )
    opensearch_service: Literal["es", "aoss"] = Field(
        default="es", description="sigv4: es for a domain, aoss for OpenSearch Serverless."
    )
    opensearch_index_prefix: str = Field(default="", description="Put before the index's name, which is db-coll.")
    opensearch_request_bytes: int = Field(
        default=10 * 1024 * 1024,
        ge=1024,
        description="Largest bulk request: 10 MiB for small instances, 100 MiB for others (AWS service quotas).",
    )
    opensearch_lanes: int = Field(
        default=4,
        ge=1,
        le=64,
        description="Bulk requests side by side, at most; a document's changes keep their order.",
    )
    opensearch_on_drop: Literal["delete", "keep"] = Field(
        default="delete",
        description="When the collection is dropped or renamed: delete its documents from the index, or keep them.",
    )
    opensearch_tls_ca: str | None = Field(
        default=None, description="CA bundle of the domain: a path. Absent: the system's."
    )

    # S3
    bucket_name: str | None = Field(default=None, description="S3 bucket for micro-batches: switches the target on.")
    bucket_path: str = Field(default="", description="Key prefix of the micro-batches.")
    s3_object_bytes: int = Field(
        default=64 * 1024 * 1024,
        ge=1024,
        description="Uncompressed bytes held before an early checkpoint is made, so about the largest object.",
    )

    # Local targets, and those of others
    file_path: str | None = Field(
        default=None, description="File that events are appended to as JSON Lines: switches it on."
    )
    stdout: bool = Field(default=False, description="Write events to standard output as JSON Lines.")
    extra_targets: Annotated[tuple[str, ...], BeforeValidator(_words)] = Field(
        default=(), description="Targets of other packages (entry points of docdb_stream.targets), names with commas."
    )

    @model_validator(mode="before")
    @classmethod
    def _blank_is_absent(cls, values: Any) -> Any:
        """An empty variable is one that is not set: CloudFormation and shells cannot always leave one out."""
        if isinstance(values, dict):
            return {key: value for key, value in values.items() if not (isinstance(value, str) and not value.strip())}
        return values

    @field_validator("documentdb_secret", "kafka_secret", "opensearch_secret")
    @classmethod
    def _is_a_reference(cls, value: str | None) -> str | None:
        if value is not None and value.startswith("{"):
            raise ValueError("this is the secret itself; expected where it is: a name or ARN, env:NAME or file:PATH")
        return value

    @model_serializer(mode="wrap")
    def _dumped(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {name: _shown(name, value) for name, value in dump(self).items()}

    def __repr_args__(self) -> Iterable[tuple[str | None, Any]]:
        for name, value in super().__repr_args__():
            yield name, _shown(name, value)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.watched_collection_name and not self.watched_db_name:
            raise ValueError("watched_collection_name needs watched_db_name")
        if not self.stream_name:
            object.__setattr__(self, "stream_name", scope_name(self.scope))
        return self

    @property
    def scope(self) -> Namespace | None:
        """What is watched: a collection, a database (no collection), or the whole deployment (None)."""
        if self.watched_db_name is None:
            return None
        return Namespace(self.watched_db_name, self.watched_collection_name)

    @property
    def ledger_collection(self) -> str:
        """The collection beside the checkpoints that keeps what happened to positions."""
        return f"{self.state_collection}_ledger"

    @property
    def dead_letters_collection(self) -> str:
        """The collection beside the checkpoints that rejected events go to by default."""
        return f"{self.state_collection}_dead_letters"

    @classmethod
    def from_env(cls, environ: dict[str, str] | None = None) -> Settings:
        """One stream's settings from the environment alone, as a Lambda has them. Raises ConfigError."""
        from docdb_stream.config import settings_from_env

        return settings_from_env(environ)

    @classmethod
    def from_config(cls, path: str, environ: dict[str, str] | None = None) -> list[Settings]:
        """The settings of every stream of a config.ini, overlaid by the environment. Raises ConfigError."""
        from docdb_stream.config import settings_from_config

        return settings_from_config(path, environ)
