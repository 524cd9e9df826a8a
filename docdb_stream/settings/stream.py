"""What can be set: one frozen object per stream, each setting declared once.

A field's environment name is its name in upper case; in config.ini it stands as it is here. Owns names, types, defaults
and meaning of the stream's own settings; a target's stand in its own file. Reading files and the environment is
``config``'s.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, TypeVar

from pydantic import (
    AliasChoices,
    Field,
    PrivateAttr,
    SerializationInfo,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
    model_validator,
)
from pydantic.functional_validators import ModelWrapValidatorHandler

from docdb_stream.errors import ConfigError, DocdbStreamError
from docdb_stream.position import Namespace, scope_name
from docdb_stream.settings.model import Heading, SettingsModel, line_errors
from docdb_stream.settings.target import TargetSettings
from docdb_stream.settings.types import (
    Address,
    CollectionName,
    DatabaseName,
    FormatName,
    SecretReference,
    StartTime,
    WatchedDatabase,
    Words,
    words,
)

T = TypeVar("T", bound=TargetSettings)


def _extra_targets(values: Mapping[str, Any]) -> tuple[str, ...]:
    """Those that the values name, before it is known whether they are right."""
    given = words(values.get("extra_targets"))
    return tuple(map(str, given)) if isinstance(given, (tuple, list)) else ()


class Settings(SettingsModel):
    """Everything about one stream. Frozen; made by keyword, ``Settings.from_env()`` or ``Settings.from_config()``.

    A target's settings are given by the same flat names, and read so (``settings.kinesis_stream``) or, with their
    types, by ``settings.of(KinesisSettings)``.

    A password in an address shows in the attribute itself and nowhere else: not in a repr, an error or a dump. So to
    make other settings of some, take ``model_copy``.

    Raises:
        ConfigError: From the two constructors: every problem at once. By keyword, pydantic's ValidationError, and
            ConfigError only for a target of another package that wants a setting which is somebody else's.
    """

    documentdb_uri: Annotated[str, Heading("The cluster"), Address("documentdb_secret")] = Field(
        min_length=1,
        description="MongoDB connection string of the replica set or DocumentDB cluster. A host name alone is taken as "
        "an Amazon DocumentDB cluster endpoint (TLS, replica set rs0, port 27017). No password here: see "
        "documentdb_secret. Its options maxPoolSize, timeoutMS and retryWrites are not used, and a socketTimeoutMS "
        "below 5000 counts as 5000.",
        examples=["mongodb://127.0.0.1:27017/?replicaSet=rs0"],
    )
    documentdb_secret: SecretReference = Field(
        default=None,
        description='Where user name and password are, as JSON {"username": "...", "password": "..."}: the name or ARN '
        "of a Secrets Manager secret, env:NAME or file:PATH. Absent: those of the connection string, if any.",
        examples=["docdb/stream-reader"],
    )
    documentdb_tls_ca: str | None = Field(
        default=None,
        description="CA bundle for TLS: a path or s3://bucket/key, fetched once per process. Setting it turns TLS on. "
        "Absent: TLS as the connection string says, with the system's CAs.",
        examples=["s3://my-bucket/global-bundle.pem"],
    )

    state_db: Annotated[
        DatabaseName, Heading("The state: one collection keeps the checkpoints of all streams of a cluster")
    ] = Field(default="docdb_stream", min_length=1, description="Database of the checkpoints.")
    state_collection: CollectionName = Field(
        default="checkpoints",
        min_length=1,
        description="Collection of the checkpoints; rejected events go to the collection of this name + "
        '"_dead_letters".',
    )

    watched_db_name: WatchedDatabase | None = Field(
        default=None, description="The watched database. Absent: the whole deployment.", examples=["shop"]
    )
    watched_collection_name: CollectionName | None = Field(
        default=None,
        description="The watched collection. Absent: every collection of the database.",
        examples=["orders"],
    )
    stream_name: str = Field(
        default="",
        description="Names the stream and its checkpoint. In a section [stream NAME] it is NAME. Absent: db.coll, db.* "
        "or *, after what is watched.",
        examples=["shop.orders"],
    )

    start_at: Annotated[StartTime, Heading("Reading")] = Field(
        default="now",
        description="Where a stream without a checkpoint starts: now, earliest (as far back as the change log "
        "reaches), or an ISO 8601 timestamp. One with a checkpoint goes on there: docdb-stream reset moves it.",
    )
    batch_size: int = Field(
        default=1000,
        ge=1,
        le=100_000,
        description="Events read and delivered in one loop, at most; 1 to 100000. Fewer where they are large: a batch "
        "has about 2 MiB.",
    )
    max_loop: int = Field(
        default=45,
        ge=0,
        validation_alias=AliasChoices("max_loop", "documents_per_run"),
        description="Loops of one run, at most; 0: as many as the deadline (--timeout, the Lambda's timeout) allows. "
        "Ignored with --follow. docdb-stream run takes 0 unless it is set. The AWS sample's later name "
        "documents_per_run is understood too.",
    )
    state_sync_count: int = Field(
        default=15,
        ge=1,
        validation_alias=AliasChoices("state_sync_count", "iterations_per_sync"),
        description="Loops from one checkpoint to the next. Fewer: less to deliver again after a crash. More: fewer "
        "writes to the cluster. The AWS sample's later name iterations_per_sync is understood too.",
    )
    read_ahead_bytes: int = Field(
        default=4 * 1024 * 1024,
        ge=1024 * 1024,
        description="BSON bytes read ahead of delivery and waiting in memory, at most, besides one reply of the server "
        "(about 2 MiB, 16 at most).",
    )
    lease_seconds: float = Field(
        default=60,
        gt=0,
        le=3600,
        description="Seconds after which the lease of a run that died is free again. When following, 10 at most; at "
        "once on the same machine (Linux), where the process is provably gone.",
    )
    change_log_retention_seconds: float = Field(
        default=3 * 60 * 60,
        gt=0,
        description="Seconds that the cluster keeps its change log: DocumentDB's change_stream_log_retention_duration "
        "(3 hours unless changed, 7 days at most), or MongoDB's oplog window. Only for the retention headroom metric.",
    )
    on_history_lost: Literal["fail", "now", "earliest"] = Field(
        default="fail",
        description="What to do when the position is no longer in the change log: fail (stop, exit code 5, an operator "
        "decides), now or earliest.",
    )

    payload_format: Annotated[FormatName, Heading("What is delivered")] = Field(
        default="extended",
        description="extended: the whole change event as relaxed MongoDB Extended JSON v2. document: the AWS sample's "
        "payload. Or the name of another format, see docs/formats.md. A target can have its own. OpenSearch always "
        "takes plain JSON documents.",
    )
    dead_letters: Annotated[str | None, Address()] = Field(
        default=None,
        description="Where events go that a target refuses for good: s3://bucket/prefix, an SQS queue URL or a file. "
        'Absent: the collection state_collection + "_dead_letters".',
        examples=["s3://my-bucket/dead-letters"],
    )
    sns_topic_arn_alert: str | None = Field(
        default=None,
        description="ARN of the SNS topic that is told when a run fails. Absent: nobody is told.",
        examples=["arn:aws:sns:eu-central-1:123456789012:docdb-stream-alert"],
    )
    extra_targets: Words = Field(
        default=(),
        description="Targets of other packages, registered as entry points of docdb_stream.targets: names with commas. "
        "Their own settings stand beside the others.",
        examples=["pigeon"],
    )

    _targets: dict[str, TargetSettings] = PrivateAttr(default_factory=dict)

    if TYPE_CHECKING:  # that targets' settings are taken, too

        def __init__(self, /, **values: Any) -> None: ...

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.watched_collection_name and not self.watched_db_name:
            raise ValueError("watched_collection_name needs watched_db_name")
        if not self.stream_name:
            object.__setattr__(self, "stream_name", scope_name(self.scope))
        return self

    @model_validator(mode="wrap")
    @classmethod
    def _with_targets(cls, values: Any, make: ModelWrapValidatorHandler[Self]) -> Self:
        """Give each target's model what is its own, and tell the problems of all at once."""
        if not isinstance(values, Mapping):
            return make(values)
        from docdb_stream.registry import by_target, settings_models

        extra = _extra_targets(values)
        own, theirs = by_target(values, extra)
        settings, targets, problems = None, {}, []
        try:
            settings = make(own)
        except ValidationError as error:
            problems += line_errors(error)
        for name, model in settings_models(theirs, extra).items():
            try:
                targets[name] = model.model_validate(theirs.get(name, {}))
            except ValidationError as error:
                problems += line_errors(error)
            except DocdbStreamError:
                raise
            except Exception as error:  # whose text may repeat a secret
                raise ConfigError(
                    f"target {name} cannot read its settings: {type(error).__name__}", hint="ask who made it"
                ) from error
        if settings is None or problems:
            raise ValidationError.from_exception_data(cls.__name__, problems)
        settings._targets = targets
        return settings

    @property
    def targets(self) -> Mapping[str, TargetSettings]:
        """The settings of each target that has any set, by the target's name; it need not be switched on."""
        return self._targets

    def of(self, model: type[T]) -> T:
        """The settings of one target: as they are set, or else its defaults."""
        return next((found for found in self._targets.values() if isinstance(found, model)), None) or model()

    if not TYPE_CHECKING:  # type checkers know no flat names of targets' settings; ``of`` has their types

        def __getattr__(self, name: str) -> Any:
            """A target's setting by its flat name; its default where none is set."""
            if not name.startswith("_") and name not in type(self).model_fields:
                from docdb_stream.registry import setting_of

                if (found := setting_of(name, self.extra_targets)) is not None and found.field == name:
                    return getattr(self._targets.get(found.target) or found.model(), name)
            return super().__getattr__(name)

    @property
    def model_fields_set(self) -> set[str]:
        """The names that were set, those of targets' settings, too."""
        return super().model_fields_set.union(*(target.model_fields_set for target in self._targets.values()))

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """The same settings but for ``update``, by flat names, which is not validated."""
        from docdb_stream.registry import by_target, settings_models

        own, theirs = by_target(update or {}, self.extra_targets)
        copied = super().model_copy(update=own, deep=deep)
        changed = {
            name: (copied._targets.get(name) or model()).model_copy(update=theirs[name])
            for name, model in settings_models(theirs, self.extra_targets).items()
            if name in theirs
        }
        copied._targets = {**copied._targets, **changed}
        return copied

    @model_serializer(mode="wrap")
    def _dumped(self, dump: SerializerFunctionWrapHandler, info: SerializationInfo) -> dict[str, Any]:
        found = super()._dumped(dump, info)
        chosen: Any = {
            name: getattr(info, name)
            for name in ("mode", "include", "exclude", "exclude_unset", "exclude_defaults", "exclude_none")
        }
        for target in self._targets.values():
            found |= target.model_dump(**chosen)
        return found

    def __repr_args__(self) -> Iterable[tuple[str | None, Any]]:
        yield from super().__repr_args__()
        for target in self._targets.values():
            yield from target.__repr_args__()

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
