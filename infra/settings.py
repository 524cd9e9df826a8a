"""What can be set about the deployment: the sections [deploy], [deploy NAME] and [network] of config.ini.

Owns names, types, defaults and meaning of their keys, and what of a stream cannot be deployed. Reading is
``docdb_stream.settings.ini``'s.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import BeforeValidator, Field, model_validator

from docdb_stream.config import DEPLOYMENT_SECTIONS, STREAM_PREFIX, read_streams
from docdb_stream.registry import target_class
from docdb_stream.settings import Settings
from docdb_stream.settings.cluster import NO_CLUSTER
from docdb_stream.settings.ini import ConfigFile, Keys, config_error, validated
from docdb_stream.settings.model import (
    Address,
    Heading,
    Hidden,
    Mark,
    Reference,
    SettingsModel,
    marked,
    without_secrets,
)
from docdb_stream.settings.reference import explained
from docdb_stream.settings.types import Words, words
from docdb_stream.target import is_keyed
from docdb_stream.targets import target_names
from docdb_stream.targets.s3 import S3Settings

DEPLOY_SECTION = "deploy"
NETWORK_SECTION = "network"

M = TypeVar("M", bound=Mark)

LogRetentionDays = Literal[1, 3, 5, 7, 14, 30, 60, 90, 120, 150, 180, 365, 400, 545, 731, 1096, 1827, 3653]
"""What CloudWatch Logs allows (API reference, PutRetentionPolicy), up to ten years."""


def _number(value: object) -> object:
    """A Literal of numbers takes no text by itself."""
    return int(value) if isinstance(value, str) and value.strip().isdigit() else value


def _word(value: object) -> object:
    """True and false are words here, beside others."""
    return str(value).lower() if isinstance(value, bool | str) else value


def _words_of(pattern: str) -> Any:
    return Annotated[tuple[Annotated[str, Field(pattern=pattern)], ...], BeforeValidator(words)]


class FunctionSettings(SettingsModel):
    """What may differ from stream to stream: [deploy] has it for all, [deploy NAME] for the stream NAME."""

    memory_mb: Annotated[
        int, Heading("Each function; each key may also stand in a section [deploy NAME], for the stream NAME alone")
    ] = Field(
        default=512,
        ge=128,
        le=10_240,
        description="Memory of a function in MB, 128 to 10240; a share of the CPU comes with it.",
    )
    timeout_seconds: int = Field(
        default=120,
        ge=10,
        le=900,
        description="Seconds that one run may take, 10 to 900, and not longer than every_minutes.",
    )
    log_retention_days: Annotated[LogRetentionDays, BeforeValidator(_number)] = Field(
        default=30,
        description="Days that log lines are kept: 1, 3, 5, 7, 14, 30, 60, 90, 120, 150, 180, 365, 400, 545, 731, "
        "1096, 1827 or 3653.",
    )
    lag_alarm_seconds: int = Field(default=900, ge=1, description="Seconds of lag above which the alarm goes off.")
    isolate: bool = Field(
        default=False,
        description="One function per target, so that none waits for another: true or false. Each is a stream of its "
        "own, named db.coll@target, with a checkpoint of its own that begins at start_at.",
    )
    opensearch_domain: str | None = Field(
        default=None,
        pattern=r"^[a-z][a-z0-9-]{2,27}$",
        description="Name of the OpenSearch Service domain, where elasticsearch_uri does not show it (a custom "
        "endpoint).",
        examples=["shop"],
    )
    kms_keys: _words_of(r"^arn:[\w-]+:kms:.*:key/.+$") = Field(  # type: ignore[valid-type]
        default=(),
        description="Customer-managed KMS keys that targets, secrets or buckets are encrypted with: ARNs with commas.",
        examples=["arn:aws:kms:eu-central-1:123456789012:key/11111111-2222-3333-4444-555555555555"],
    )
    pipeline: Annotated[Literal["false", "true", "events"], BeforeValidator(_word)] = Field(
        default="false",
        description="What loads what the stream extracts to S3 as Parquet into its warehouse. true: a state machine, "
        "which extracts until the stream has caught up and then loads, every every_minutes; events: the stream runs by "
        "the schedule, and S3's event of each manifest starts the load; false: nothing (docs/tables.md).",
    )
    dynamodb_stream_arn: str | None = Field(
        default=None,
        pattern=r"^arn:[\w-]+:dynamodb:[^:]+:\d+:table/[^/]+/stream/.+$",
        description="ARN of a DynamoDB table's stream, instead of a change stream of the cluster: an event source "
        "mapping starts the function (docs/dynamodb-streams.md). The table's stream has to be of NEW_AND_OLD_IMAGES.",
        examples=["arn:aws:dynamodb:eu-central-1:123456789012:table/Orders/stream/2026-01-31T12:00:00.000"],
    )
    dynamodb_parallel: int = Field(
        default=1,
        ge=1,
        le=10,
        description="Batches of one shard of it that are delivered side by side, 1 to 10; each item keeps its order.",
    )
    snapshot_parallel: int = Field(
        default=0,
        ge=0,
        le=1000,
        description="How many invocations deliver the documents of a snapshot side by side, 0 to 1000 "
        "(docs/snapshot.md); 0: the stream's own does, beside the changes. Only for targets that keep documents by "
        "version.",
    )
    batch_window_seconds: int = Field(
        default=5,
        ge=0,
        le=300,
        description="trigger = esm: seconds that Lambda may wait for a batch to fill, 0 to 300.",
    )


class DeploySettings(FunctionSettings):
    """The section [deploy]: what holds for the whole deployment, and the defaults of its functions."""

    trigger: Literal["schedule", "esm"] = Field(
        default="schedule",
        description="What starts the functions. schedule: EventBridge -> SNS topic -> functions, which poll. esm: a "
        "DocumentDB event source mapping per function; Lambda reads the change stream by itself and keeps the "
        "position.",
    )
    every_minutes: int = Field(
        default=2, ge=1, le=60, description="Minutes between two runs, 1 to 60; also the period of the alarms."
    )
    enabled: bool = Field(
        default=False,
        description="Whether the schedule (or the event source mapping) is on: true or false. It is off for a first "
        "look.",
    )
    trigger_topic_arn: str | None = Field(
        default=None,
        pattern=r"^arn:[\w-]+:sns:",
        description="An existing SNS topic that starts the functions; its policy must let events.amazonaws.com "
        "publish. Absent: a new one, which this deployment's rule alone publishes to.",
        examples=["arn:aws:sns:eu-central-1:123456789012:docdb-stream-trigger"],
    )
    alert_topic_arn: str | None = Field(
        default=None,
        pattern=r"^arn:[\w-]+:sns:",
        description="An existing SNS topic for alarms, and for the alerts of streams without sns_topic_arn_alert. Its "
        "policy must let cloudwatch.amazonaws.com publish. Absent: a new one.",
        examples=["arn:aws:sns:eu-central-1:123456789012:docdb-stream-alert"],
    )
    cluster_arn: str | None = Field(
        default=None,
        pattern=r"^arn:[\w-]+:rds:.*:cluster:.+$",
        description="trigger = esm: ARN of the DocumentDB cluster; documentdb_secret must be an ARN then, too.",
        examples=["arn:aws:rds:eu-central-1:123456789012:cluster:shop"],
    )
    architecture: Literal["arm64", "x86_64"] = Field(
        default="arm64", description="The functions' processor: arm64 or x86_64."
    )
    bucket: str | None = Field(
        default=None,
        pattern=r"^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$",
        description="A bucket to be made for what is extracted: with versions, encryption, logs of access, TLS alone, "
        "and EventBridge told of new objects. bucket_name of a stream names it. Absent: none is made.",
        examples=["shop-changes"],
    )
    python: Literal["3.11", "3.12", "3.13", "3.14"] = Field(
        default="3.13", description="The functions' Python: 3.11, 3.12, 3.13 or 3.14."
    )
    packages: Words = Field(
        default=(),
        description="Your own code to pack beside docdb-stream, for transform: wheels, folders with a pyproject.toml, "
        "packages (folders with an __init__.py) and modules (.py), with commas, relative to config.ini; * stands for "
        "any text. What wheels and projects depend on is packed, too. Absent: none.",
        examples=["dist/shop_stream-*.whl", "rules.py"],
    )
    pymongo: str | None = Field(
        default=None,
        pattern=r"^[<>=!~]=?\s*[\d.*]+(\s*,\s*[<>=!~]=?\s*[\d.*]+)*$",
        description="Which versions of PyMongo to pack, as pip writes it. DocumentDB 4.0 needs <4.14. Absent: those "
        "that this project takes.",
        examples=["<4.14"],
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.trigger == "esm" and not self.cluster_arn:
            raise ValueError("trigger = esm needs cluster_arn")
        return self


class NetworkSettings(SettingsModel):
    """The section [network]: where in the VPC the functions run. Without it they run outside of any."""

    subnets: _words_of(r"^subnet-[0-9a-f]+$") = Field(  # type: ignore[valid-type]
        default=(),
        description="Where the functions run: subnets from which the cluster and the targets can be reached, ids with "
        "commas. Absent: outside of any VPC.",
        examples=["subnet-0123456789abcdef0,subnet-0123456789abcdef1", "subnet-0123456789abcdef0"],
    )
    security_groups: _words_of(r"^sg-[0-9a-f]+$") = Field(  # type: ignore[valid-type]
        default=(),
        description="Security groups of the functions, ids with commas; the cluster's must let them in.",
        examples=["sg-0123456789abcdef0"],
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if bool(self.subnets) != bool(self.security_groups):
            raise ValueError("subnets and security_groups go together")
        return self


@dataclass(frozen=True, slots=True)
class Deployment:
    """All of config.ini that a deployment needs.

    Attributes:
        deploy: What holds for all of it.
        network: Where the functions run.
        streams: The streams, each with its function's settings.
    """

    deploy: DeploySettings
    network: NetworkSettings
    streams: tuple[tuple[Settings, FunctionSettings], ...]


def read_deployment(path: str, environ: Mapping[str, str] | None = None) -> Deployment:
    """The deployment that ``path`` describes.

    The file alone decides; the environment only stands in for ``${NAME}``: what is deployed must not depend on what
    happens to be set where it is deployed from. AWS_ENDPOINT_URL says that the cloud is on this machine, where
    addresses of this machine make sense.

    Raises:
        ConfigError: With every problem found, those of the streams included.
    """
    file = ConfigFile(path, os.environ if environ is None else environ)
    local_cloud = bool(_LOOPBACK.search(file.environ.get("AWS_ENDPOINT_URL", "")))
    streams = read_streams(file, overlaid=False, tables=True)
    functions = _functions(file, streams)
    deploy = file.read(DeploySettings, DEPLOY_SECTION)
    network = file.read(NetworkSettings, NETWORK_SECTION)
    for settings in streams:
        file.problems += _misfits(settings, local_cloud)
        if deploy is not None:
            file.problems += _conflicts(settings, functions.get(settings.stream_name), deploy)
    if file.problems or deploy is None or network is None:
        raise config_error(path, file.problems)
    return Deployment(deploy, network, tuple((each, functions[each.stream_name]) for each in streams))


def _functions(file: ConfigFile, streams: list[Settings]) -> dict[str, FunctionSettings]:
    """The settings of the streams' functions, by the streams' names; without those that are wrong."""
    are_all_known = not file.problems
    shared = file.entries(DEPLOY_SECTION, Keys.of(DeploySettings))
    inherited = {key: value for key, value in shared.items() if key in FunctionSettings.model_fields}
    default = validated(FunctionSettings, inherited, f"[{DEPLOY_SECTION}]", file.problems)
    functions = {settings.stream_name: default for settings in streams}
    for section in file.sections:
        kind, _, name = (part.strip() for part in section.partition(" "))
        if not name or kind not in DEPLOYMENT_SECTIONS:
            continue
        if kind == NETWORK_SECTION:
            file.problems.append(f"[{section}]: all functions are in the same network; put its keys under [{kind}]")
            continue
        if are_all_known and name not in functions:
            file.problems.append(f"[{section}]: there is no [{STREAM_PREFIX}{name}] to go with it")
        functions[name] = file.read(FunctionSettings, section, inherited)
    return {name: function for name, function in functions.items() if function is not None}


def marked_values(settings: Settings, kind: type[M]) -> Iterator[tuple[str, M, str]]:
    """Of a stream and its targets, the settings with a mark of this kind that are set: name, mark, value."""
    for model in (settings, *settings.targets.values()):
        for name, mark in marked(type(model), kind).items():
            if value := getattr(model, name):
                yield name, mark, str(value)


_LOOPBACK = re.compile(r"(?:^|[/@,])(localhost|127(?:\.\d+){3}|0\.0\.0\.0|\[?::1\]?)(?=[:/?,]|$)", re.IGNORECASE)
_EXAMPLES = {"documentdb_uri": ", such as shop.cluster-abc.eu-central-1.docdb.amazonaws.com"}


def _misfits(settings: Settings, local_cloud: bool) -> list[str]:
    """What is right elsewhere and cannot work in a Lambda; one of a cloud on this machine reaches it."""
    where = f"[{STREAM_PREFIX}{settings.stream_name}]"
    problems = [
        f"{where} {name}: a function reads its secrets from Secrets Manager; give a name or ARN"
        for name, _, reference in marked_values(settings, Reference)
        if reference.startswith(("env:", "file:"))
    ]
    problems += [
        f"{where} {name}: a password would be readable in the template; use {address.secret or 'an IAM role'}"
        for name, address, value in marked_values(settings, Address)
        if without_secrets(value) != value
    ]
    problems += [
        f"{where} {name}: a secret would be readable in the template; a function cannot be given it"
        for name, _, _ in marked_values(settings, Hidden)
    ]
    if not local_cloud:
        problems += [
            f"{where} {name}: {host} is the function's own machine; set what it is to reach{_EXAMPLES.get(name, '')}"
            for name, _, value in marked_values(settings, Address)
            for host in _LOOPBACK.findall(value)[:1]
        ]
    if "file" in target_names(settings):
        problems.append(f"{where} file_path: a function has no file that lasts; use bucket_name")
    if settings.dead_letters and not settings.dead_letters.startswith(("s3://", "https://", "http://")):
        problems.append(f"{where} dead_letters: a function has no file that lasts; use s3://bucket/key or a queue")
    return problems


def _conflicts(settings: Settings, function: FunctionSettings | None, deploy: DeploySettings) -> list[str]:
    """What of a stream does not go with the trigger."""
    where = f"[{STREAM_PREFIX}{settings.stream_name}]"
    problems = []
    is_pushed = function is not None and function.dynamodb_stream_arn is not None
    if (
        deploy.trigger == "schedule"
        and function
        and not is_pushed
        and (function.timeout_seconds > deploy.every_minutes * 60)
    ):
        # Each function has a concurrency of 1: runs longer than the period would queue up behind each other, expire,
        # and look like failures.
        problems.append(
            f"[{DEPLOY_SECTION}] timeout_seconds: {function.timeout_seconds} is more than every_minutes = "
            f"{deploy.every_minutes} leaves for {settings.stream_name}"
        )
    if function and function.dynamodb_stream_arn:
        if settings.start_at not in ("now", "earliest"):
            problems.append(f"{where} start_at: a DynamoDB stream is read from now or earliest")
        if settings.schema_policy is not None:
            problems.append(f"{where} schema_policy: of a DynamoDB stream no schema ledger is kept")
        if settings.documentdb_uri == NO_CLUSTER and settings.dead_letters is None:
            problems.append(
                f"{where} dead_letters: set it to s3://bucket/prefix or an SQS queue URL, or documentdb_uri to keep "
                "them in that cluster; one event that a target refuses would stop the stream"
            )
        if settings.documentdb_uri == NO_CLUSTER and "mongodb" in target_names(settings):
            problems.append(
                f"{where} documentdb_uri: the target mongodb needs it, to see that it does not write into a collection "
                "that a stream watches"
            )
        return problems
    if function and function.pipeline != "false":
        s3 = settings.of(S3Settings)
        if not (s3.is_on and s3.s3_format == "parquet" and settings.warehouse_uri):
            problems.append(
                f"[{DEPLOY_SECTION}] pipeline: {settings.stream_name} needs bucket_name, s3_format = parquet and "
                "warehouse_uri"
            )
        if s3.parquet_nested != "json":
            problems.append(
                f"[{DEPLOY_SECTION}] pipeline: {settings.stream_name} is not loaded with parquet_nested = struct"
            )
        if deploy.trigger == "esm":
            problems.append(f"[{DEPLOY_SECTION}] pipeline: an event source mapping leaves no manifests")
    if function and function.snapshot_parallel:
        logs = [name for name in target_names(settings) if not is_keyed(target_class(name))]
        if logs:
            problems.append(
                f"[{DEPLOY_SECTION}] snapshot_parallel: {', '.join(logs)} of {settings.stream_name} keeps no versions, "
                "and the order of what several invocations deliver would be lost there"
            )
        if deploy.trigger == "esm":
            problems.append(f"[{DEPLOY_SECTION}] snapshot_parallel: an event source mapping has no snapshot")
        if settings.schema_policy is not None:
            problems.append(f"{where} schema_policy: a snapshot of several functions keeps no schema ledger")
    if deploy.trigger == "esm":
        if not settings.watched_db_name:
            problems.append(f"{where} watched_db_name: missing; an event source mapping watches one database")
        if not (settings.documentdb_secret or "").startswith("arn:"):
            problems.append(f"{where} documentdb_secret: an event source mapping takes the secret's ARN")
        if settings.full_document not in ("update_lookup", "default"):
            problems.append(
                f"{where} full_document: an event source mapping knows update_lookup and default alone; for others "
                "set trigger = schedule"
            )
        if settings.full_document_before_change != "off":
            problems.append(
                f"{where} full_document_before_change: an event source mapping asks for none; set off, or trigger = "
                "schedule"
            )
        if settings.schema_policy is not None:
            problems.append(
                f"{where} schema_policy: an event source mapping keeps no schema ledger; set trigger = schedule"
            )
        if settings.filter_at == "server":
            problems.append(
                f"{where} filter_at: what an event source mapping reads is filtered by the function; set auto or client"
            )
    return problems


def deployment_text() -> str:
    """The part of config.ini about the deployment: every key, explained."""
    function = FunctionSettings.model_fields
    parts = [
        "# --- The deployment to AWS Lambda: for make lambda, make synth and cdk deploy alone; see docs/deploy.md ---",
        "# (documentdb_uri above is one of this machine, which no function reaches: make synth refuses it.)",
        f"[{DEPLOY_SECTION}]",
        *explained(DeploySettings, leave_out=function),
        *explained(FunctionSettings),
        f"[{NETWORK_SECTION}]",
        *explained(NetworkSettings),
    ]
    return "\n\n".join(parts)
