"""What can be set: one frozen object per stream, each setting declared once.

A field's environment name is its name in upper case; in config.ini it stands as it is here. Owns how the stream's own
settings and those of its targets are one: ``cluster``, ``reading`` and ``shaping`` declare the former, each target's
file its own. Reading files and the environment is ``config``'s.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Annotated, Any, Self, TypeVar

from pydantic import (
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
from docdb_stream.formats import format_named
from docdb_stream.namespaces import NamespacePattern
from docdb_stream.position import Namespace, scope_name
from docdb_stream.settings.model import Heading, line_errors
from docdb_stream.settings.shaping import ShapingSettings
from docdb_stream.settings.target import TargetSettings
from docdb_stream.settings.types import Address, SecretReference, Words, words

if TYPE_CHECKING:
    from docdb_stream.format import Format

T = TypeVar("T", bound=TargetSettings)


def _extra_targets(values: Mapping[str, Any]) -> tuple[str, ...]:
    """Those that the values name, before it is known whether they are right."""
    given = words(values.get("extra_targets"))
    return tuple(map(str, given)) if isinstance(given, (tuple, list)) else ()


class Settings(ShapingSettings):
    """Everything about one stream. Frozen; made by keyword, ``Settings.from_env()`` or ``Settings.from_config()``.

    A target's settings are given by the same flat names, and read so (``settings.kinesis_stream``) or, with their
    types, by ``settings.of(KinesisSettings)``.

    A password in an address shows in the attribute itself and nowhere else: not in a repr, an error or a dump. So to
    make other settings of some, take ``model_copy``.

    Raises:
        ConfigError: From the two constructors: every problem at once. By keyword, pydantic's ValidationError, and
            ConfigError only for a target of another package that wants a setting which is somebody else's.
    """

    dead_letters: Annotated[str | None, Heading("Beside the targets"), Address()] = Field(
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
    warehouse_uri: Annotated[str | None, Address("warehouse_secret")] = Field(
        default=None,
        description="Database that docdb-stream load loads the stream's Parquet files into: "
        "postgresql://HOST/DATABASE, redshift://HOST:5439/DATABASE or redshift-data://WORKGROUP/DATABASE "
        "(docs/tables.md; pip install 'docdb-stream[parquet,postgresql]', 'docdb-stream[parquet,redshift]' or, for the "
        "last, 'docdb-stream[parquet]'). Absent: none.",
        examples=["postgresql://warehouse.example/analytics"],
    )
    warehouse_secret: SecretReference = Field(
        default=None,
        description="User name and password for it, by reference as documentdb_secret.",
        examples=["warehouse/loader"],
    )
    warehouse_schema: str = Field(
        default="public", min_length=1, description="Schema of the tables, which are db_coll; it is made where need be."
    )
    warehouse_copy_role: str | None = Field(
        default=None,
        pattern=r"^arn:[^'\\]+$",
        description="ARN of the IAM role by which Redshift reads the bucket. Absent: the cluster's default role.",
        examples=["arn:aws:iam::123456789012:role/redshift-copy"],
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
        if self.namespaces and self.watched_collection_name:
            raise ValueError(
                "namespaces is needless where one collection is watched; leave watched_collection_name out to have "
                "several of its database"
            )
        for pattern in self.namespaces if self.watched_db_name else ():
            if not NamespacePattern.of(pattern).matches_database(self.watched_db_name or ""):
                raise ValueError(
                    f"namespaces: {pattern} is not in the watched database {self.watched_db_name}; leave "
                    "watched_db_name out to have several databases"
                )
        if "snapshot" in (self.start_at, self.on_history_lost) and (problem := self.no_snapshot):
            raise ValueError(problem)
        if self.snapshot_shared and self.schema_policy is not None:
            raise ValueError(
                "snapshot_shared: workers keep no schema ledger; leave schema_policy out, or have the stream's run "
                "deliver the snapshot"
            )
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

    def format_for(self, own: str | None) -> Format:
        """The format of one target: the one of the name that is set for it alone, or else the stream's. The stream's
        name is in it, where it has a place for it.

        Raises:
            ConfigError: It cannot be imported.
        """
        return format_named(own or self.payload_format, self.stream_name)

    @property
    def no_snapshot(self) -> str:
        """Why the stream can have no snapshot; empty where it can."""
        if self.full_document == "default":
            return (
                "a snapshot needs updates with their documents: with full_document = default, the change of a document "
                "that is not delivered yet would be all that is ever delivered of it"
            )
        if self.operations and "insert" not in self.operations:
            return "the documents of a snapshot come as inserts, which operations leaves out"
        return ""

    def watches(self, namespace: Namespace) -> bool:
        """Whether the stream reads what is written to a collection."""
        scope = self.scope
        if scope is not None and (scope.db != namespace.db or scope.coll not in (None, namespace.coll)):
            return False
        return not self.namespaces or any(NamespacePattern.of(each).matches(namespace) for each in self.namespaces)

    @property
    def ledger_collection(self) -> str:
        """The collection beside the checkpoints that keeps what happened to positions."""
        return f"{self.state_collection}_ledger"

    @property
    def schemas_collection(self) -> str:
        """The collection beside the checkpoints that keeps the schema ledgers."""
        return f"{self.state_collection}_schemas"

    @property
    def shares_collection(self) -> str:
        """The collection beside the checkpoints that keeps how far workers have come with the ranges of snapshots."""
        return f"{self.state_collection}_snapshots"

    @property
    def keeps_schemas(self) -> bool:
        """Whether a schema ledger is kept of what is delivered: it is asked for, or a target makes tables."""
        return self.schema_policy is not None or any(
            target.is_on and target.makes_tables for target in self.targets.values()
        )

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
