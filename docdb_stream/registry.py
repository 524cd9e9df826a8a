"""The targets there are, by name: ours, and how those of other packages are found. Whose setting a key is.

A target is imported when one of its settings is given or asked for: a Lambda pays for what it uses and no more. Making
those of a stream is ``targets``'.
"""

from __future__ import annotations

import importlib
import importlib.metadata
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from docdb_stream.errors import ConfigError
from docdb_stream.settings import Settings, TargetSettings
from docdb_stream.settings.model import names

TARGETS: dict[str, str] = {
    "kinesis": "docdb_stream.targets.kinesis:KinesisTarget",
    "firehose": "docdb_stream.targets.firehose:FirehoseTarget",
    "sqs": "docdb_stream.targets.sqs:SqsTarget",
    "sns": "docdb_stream.targets.sns:SnsTarget",
    "eventbridge": "docdb_stream.targets.eventbridge:EventBridgeTarget",
    "kafka": "docdb_stream.targets.kafka:KafkaTarget",
    "opensearch": "docdb_stream.targets.opensearch:OpenSearchTarget",
    "webhook": "docdb_stream.targets.webhook:WebhookTarget",
    "s3": "docdb_stream.targets.s3:S3Target",
    "iceberg": "docdb_stream.targets.iceberg:IcebergTarget",
    "mongodb": "docdb_stream.targets.mongodb:MongoTarget",
    "postgresql": "docdb_stream.targets.postgresql:PostgresTarget",
    "redis": "docdb_stream.targets.redis:RedisTarget",
    "neo4j": "docdb_stream.targets.neo4j:Neo4jTarget",
    "neptune": "docdb_stream.targets.neptune:NeptuneTarget",
    "cassandra": "docdb_stream.targets.cassandra:CassandraTarget",
    "dynamodb": "docdb_stream.targets.dynamodb:DynamoTarget",
    "file": "docdb_stream.targets.file:FileTarget",
    "stdout": "docdb_stream.targets.stdout:StdoutTarget",
}
"""Target name -> where its class is. Each class has ``settings_model``, and ``from_settings(settings) -> Target``."""

_OLDER_WORDS = {
    "msk": "kafka",
    "elasticsearch": "opensearch",
    "bucket": "s3",
    "parquet": "s3",
    "postgres": "postgresql",
}
"""A key begins with the name of its target, or, as the AWS sample has it, with one of these words for it."""

ENTRY_POINTS = "docdb_stream.targets"
"""The entry-point group by which other packages register targets: name -> class."""


@dataclass(frozen=True, slots=True)
class TargetSetting:
    """A setting of a target.

    Attributes:
        target: The target's name.
        model: Its settings.
        field: The one of them.
    """

    target: str
    model: type[TargetSettings]
    field: str


def setting_of(key: str, extra: tuple[str, ...] = ()) -> TargetSetting | None:
    """Whose setting a key is; None if no target has it. Imports the target that it may belong to, and those of extra.

    Args:
        key: As in config.ini.
        extra: The targets of other packages that have a say.

    Raises:
        ConfigError: Two targets want the same key.
    """
    for name, model in models_of_others(extra).items():
        if key in names(model):
            return TargetSetting(name, model, names(model)[key])
    owner = _built_in(key)
    if owner is not None and key in names(built_in_model(owner)):
        return TargetSetting(owner, built_in_model(owner), names(built_in_model(owner))[key])
    return None


def by_target(values: Mapping[str, Any], extra: tuple[str, ...]) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """The values that are the stream's own, or nobody's; and those of targets, by target. Raises as ``setting_of``."""
    own: dict[str, Any] = {}
    theirs: dict[str, dict[str, Any]] = {}
    for key, value in values.items():
        found = None if key in names(Settings) else setting_of(key, extra)
        (own if found is None else theirs.setdefault(found.target, {}))[key] = value
    return own, theirs


def settings_models(given: Iterable[str], extra: tuple[str, ...] = ()) -> dict[str, type[TargetSettings]]:
    """The models of the targets that are given, and of all of extra that have one. Raises as ``setting_of`` does."""
    built_in = {name: built_in_model(name) for name in given if name in TARGETS}
    return {**built_in, **models_of_others(extra)}


def built_in_model(name: str) -> type[TargetSettings]:
    """The settings of one of TARGETS."""
    model: type[TargetSettings] = load(TARGETS[name]).settings_model
    return model


@cache
def models_of_others(extra: tuple[str, ...]) -> dict[str, type[TargetSettings]]:
    """The settings of those of other packages' targets that have a model. What is not there, or broken, is told when it
    is to be constructed.

    Raises:
        ConfigError: One's model is none, or has a setting that is somebody else's.
    """
    found: dict[str, type[TargetSettings]] = {}
    for name in dict.fromkeys(extra):
        try:
            model = getattr(registered(name), "settings_model", None)
        except ConfigError:
            continue
        if model is None or model in found.values() or _is_built_in(model):
            continue  # it has none, or shares another's: whoever subclasses a target has that one's settings
        if not (isinstance(model, type) and issubclass(model, TargetSettings)):
            raise ConfigError(
                f"target {name}: its settings_model is no docdb_stream.TargetSettings", hint="ask who made it"
            )
        _refuse_taken(name, model, found)
        found[name] = model
    return found


def switches() -> dict[str, str]:
    """Name of each of TARGETS -> the setting that switches it on."""
    return {name: built_in_model(name).switch for name in TARGETS}


def all_keys(extra: tuple[str, ...] = ()) -> Iterator[str]:
    """Every key that can be given, of the stream and of targets; older names, too."""
    for model in (Settings, *settings_models(TARGETS, extra).values()):
        yield from names(model)


def target_class(name: str) -> Any:
    """The class of one of TARGETS, or else what another package registers. Raises ConfigError as ``registered``."""
    return load(TARGETS[name]) if name in TARGETS else registered(name)


def _built_in(key: str) -> str | None:
    word = key.partition("_")[0]
    name = _OLDER_WORDS.get(word, word)
    return name if name in TARGETS else None


def _is_built_in(model: Any) -> bool:
    return getattr(model, "__module__", None) in {where.partition(":")[0] for where in TARGETS.values()}


def load(where: str) -> Any:
    """What TARGETS names, imported."""
    module, _, attribute = where.partition(":")
    return getattr(importlib.import_module(module), attribute)


def registered_names() -> tuple[str, ...]:
    """The targets that other packages register, whether or not they are switched on."""
    return tuple(sorted(_entry_points().names))


def registered(name: str) -> Any:
    """What another package registers as a target.

    Raises:
        ConfigError: Nothing, or something that cannot be imported.
    """
    if name in TARGETS or name not in _entry_points().names:
        known = ", ".join(registered_names()) or "none is installed"
        raise ConfigError(
            f"extra_targets: unknown target {name}",
            hint=f"registered by other packages: {known}; the built-in ones ({', '.join(TARGETS)}) are switched on by "
            "their own settings",
        )
    entry_point = _entry_points()[name]
    try:
        return entry_point.load()
    except Exception as error:
        raise ConfigError(
            f"target {name} cannot be imported from {entry_point.value}: {type(error).__name__}: {error}",
            hint="its package registers something that is not there; ask who made it",
        ) from error


@cache
def _entry_points() -> importlib.metadata.EntryPoints:
    """Those of all installed packages, which takes ten milliseconds to find out: one process may run many streams."""
    return importlib.metadata.entry_points(group=ENTRY_POINTS)


def why_without_settings(extra: Iterable[str]) -> Iterator[str]:
    """Of these targets, why one has no settings that could be known: it is not installed, or cannot be imported."""
    for name in extra:
        try:
            registered(name)
        except ConfigError as error:
            yield str(error)


def _refuse_taken(name: str, model: type[TargetSettings], others: dict[str, type[TargetSettings]]) -> None:
    for key in names(model):
        built_in = _built_in(key)
        owners = ["the stream's own"] if key in names(Settings) or hasattr(Settings, key) else []
        owners += [f"target {built_in}'s"] if built_in and key in names(built_in_model(built_in)) else []
        owners += [f"target {other}'s" for other, theirs in others.items() if key in names(theirs)]
        if owners:
            raise ConfigError(
                f"target {name} has a setting {key}, but that is {owners[0]}",
                hint=f"leave it out of extra_targets, or ask who made it for settings that begin with {name}_",
            )
