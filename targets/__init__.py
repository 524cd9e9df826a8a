"""The targets that come with docdb-stream, and how others are found.

A target is imported when it is constructed, so that a Lambda pays for the client libraries it uses and no others.
"""

from __future__ import annotations

import importlib
import importlib.metadata
from functools import cache
from typing import Any

from docdb_stream.errors import ConfigError, DocdbStreamError
from docdb_stream.settings import Settings
from docdb_stream.target import Target, distinct

TARGETS: dict[str, str] = {
    "kinesis": "docdb_stream.targets.kinesis:KinesisTarget",
    "firehose": "docdb_stream.targets.firehose:FirehoseTarget",
    "sqs": "docdb_stream.targets.sqs:SqsTarget",
    "sns": "docdb_stream.targets.sns:SnsTarget",
    "eventbridge": "docdb_stream.targets.eventbridge:EventBridgeTarget",
    "kafka": "docdb_stream.targets.kafka:KafkaTarget",
    "opensearch": "docdb_stream.targets.opensearch:OpenSearchTarget",
    "s3": "docdb_stream.targets.s3:S3Target",
    "file": "docdb_stream.targets.file:FileTarget",
    "stdout": "docdb_stream.targets.stdout:StdoutTarget",
}
"""Target name -> where its class is. Each class has ``from_settings(settings) -> Target | None``."""

SWITCHES: dict[str, str] = {
    "kinesis": "kinesis_stream",
    "firehose": "firehose_stream",
    "sqs": "sqs_query_url",
    "sns": "sns_topic_arn_event",
    "eventbridge": "eventbridge_bus",
    "kafka": "msk_bootstrap_srv",
    "opensearch": "elasticsearch_uri",
    "s3": "bucket_name",
    "file": "file_path",
    "stdout": "stdout",
}
"""Target name -> the setting that switches it on."""

ENTRY_POINTS = "docdb_stream.targets"
"""The entry-point group by which other packages register targets: name -> class."""


def build_targets(settings: Settings) -> list[Target]:
    """Construct every target that ``settings`` switch on, in the order of TARGETS, then those of other packages.

    Raises:
        ConfigError: None is switched on, one is unknown, a package is missing, a target's settings are wrong, or two
            have the same name.
    """
    names = [name for name, switch in SWITCHES.items() if getattr(settings, switch)]
    if not names and not settings.extra_targets:
        raise ConfigError(
            f"stream {settings.stream_name} has no target",
            hint="switch one on with " + ", ".join(switch.upper() for switch in SWITCHES.values()),
        )
    classes = [(name, _load(TARGETS[name])) for name in names]
    classes += [(name, _registered(name)) for name in settings.extra_targets]
    return distinct(_construct(name, found, settings) for name, found in classes)


def _load(where: str) -> Any:
    module, _, attribute = where.partition(":")
    return getattr(importlib.import_module(module), attribute)


def _registered(name: str) -> Any:
    found = _entry_points()
    if name not in found.names:
        known = ", ".join(sorted(found.names)) or "none is installed"
        raise ConfigError(
            f"extra_targets: unknown target {name}",
            hint=f"registered by other packages: {known}; the built-in ones ({', '.join(TARGETS)}) are switched on by "
            "their own settings",
        )
    try:
        return found[name].load()
    except Exception as error:
        raise ConfigError(
            f"target {name} cannot be imported from {found[name].value}: {type(error).__name__}: {error}",
            hint="its package registers something that is not there; ask who made it",
        ) from error


@cache
def _entry_points() -> importlib.metadata.EntryPoints:
    """Those of all installed packages, which takes ten milliseconds to find out: one process may run many streams."""
    return importlib.metadata.entry_points(group=ENTRY_POINTS)


def _construct(name: str, found: Any, settings: Settings) -> Target:
    try:
        target = found.from_settings(settings) if hasattr(found, "from_settings") else found()
    except DocdbStreamError:
        raise
    except Exception as error:
        raise ConfigError(
            f"target {name} cannot be made: {type(error).__name__}: {error}", hint="check the settings of this target"
        ) from error
    if not isinstance(target, Target):
        raise ConfigError(
            f"target {name} is not a docdb_stream.Target: it needs name, write, flush and close",
            hint="ask who made it, or leave it out of extra_targets",
        )
    return target
