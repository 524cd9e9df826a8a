"""What can be set about the deployment: the sections [deploy], [deploy NAME] and [network] of config.ini.

Owns names, types, defaults and meaning of their keys, and the reading of the whole file for a deployment. The streams'
own keys are ``docdb_stream.settings``'s.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from docdb_stream.config import STREAM_PREFIX, deployment_sections, settings_from_config
from docdb_stream.errors import ConfigError
from docdb_stream.settings import ADDRESSES, Settings, without_secrets

DEPLOY_SECTION = "deploy"
NETWORK_SECTION = "network"

_HINT = "see config.ini in the repository for every key with its unit, default and effect"

LogRetentionDays = Literal[1, 3, 5, 7, 14, 30, 60, 90, 120, 150, 180, 365, 400, 545, 731, 1096, 1827, 3653]
"""What CloudWatch Logs allows (API reference, PutRetentionPolicy), up to ten years."""


def _words(value: object) -> object:
    """A list written with commas."""
    return tuple(word.strip() for word in value.split(",") if word.strip()) if isinstance(value, str) else value


def _number(value: object) -> object:
    """A Literal of numbers takes no text by itself."""
    return int(value) if isinstance(value, str) and value.strip().isdigit() else value


def _words_of(pattern: str) -> Any:
    return Annotated[tuple[Annotated[str, Field(pattern=pattern)], ...], BeforeValidator(_words)]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", str_strip_whitespace=True)


class FunctionSettings(_Section):
    """What may differ from stream to stream: [deploy] has it for all, [deploy NAME] for the stream NAME."""

    memory_mb: int = Field(default=512, ge=128, le=10_240, description="Memory; a share of the CPU comes with it.")
    timeout_seconds: int = Field(default=120, ge=10, le=900, description="One run, at most.")
    log_retention_days: Annotated[LogRetentionDays, BeforeValidator(_number)] = Field(
        default=30, description="How long log lines are kept."
    )
    lag_alarm_seconds: int = Field(default=900, ge=1, description="Lag from which on the alarm goes off.")
    isolate: bool = Field(default=False, description="One function, stream and checkpoint per target.")
    opensearch_domain: str | None = Field(
        default=None,
        pattern=r"^[a-z][a-z0-9-]{2,27}$",
        description="The OpenSearch domain's name, if its URI hides it.",
    )
    kms_keys: _words_of(r"^arn:[\w-]+:kms:.*:key/.+$") = Field(  # type: ignore[valid-type]
        default=(),
        description="ARNs of the customer-managed keys of targets, secrets and buckets.",
        examples=["arn:aws:kms:eu-central-1:123456789012:key/11111111-2222-3333-4444-555555555555"],
    )
    batch_window_seconds: int = Field(default=5, ge=0, le=300, description="trigger = esm: how long a batch may fill.")


class DeploySettings(FunctionSettings):
    """The section [deploy]: what holds for the whole deployment, and the defaults of its functions."""

    trigger: Literal["schedule", "esm"] = Field(default="schedule", description="What starts the functions.")
    every_minutes: int = Field(default=2, ge=1, le=60, description="The schedule's period.")
    enabled: bool = Field(default=False, description="Whether the schedule (or event source mapping) is on.")
    trigger_topic_arn: str | None = Field(
        default=None,
        pattern=r"^arn:[\w-]+:sns:",
        description="An existing topic instead of a new one.",
        examples=["arn:aws:sns:eu-central-1:123456789012:name"],
    )
    alert_topic_arn: str | None = Field(
        default=None,
        pattern=r"^arn:[\w-]+:sns:",
        description="An existing topic instead of a new one.",
        examples=["arn:aws:sns:eu-central-1:123456789012:name"],
    )
    cluster_arn: str | None = Field(
        default=None,
        pattern=r"^arn:[\w-]+:rds:.*:cluster:.+$",
        description="trigger = esm: the DocumentDB cluster.",
        examples=["arn:aws:rds:eu-central-1:123456789012:cluster:name"],
    )
    architecture: Literal["arm64", "x86_64"] = Field(default="arm64", description="The functions' processor.")
    python: Literal["3.11", "3.12", "3.13", "3.14"] = Field(default="3.13", description="The functions' Python.")
    pymongo: str | None = Field(
        default=None,
        pattern=r"^[<>=!~]=?\s*[\d.*]+(\s*,\s*[<>=!~]=?\s*[\d.*]+)*$",
        description="pymongo's versions.",
        examples=["<4.14"],
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.trigger == "esm" and not self.cluster_arn:
            raise ValueError("trigger = esm needs cluster_arn")
        return self


class NetworkSettings(_Section):
    """The section [network]: where in the VPC the functions run. Without it they run outside of any."""

    subnets: _words_of(r"^subnet-[0-9a-f]+$") = Field(  # type: ignore[valid-type]
        default=(), description="Ids of the subnets.", examples=["subnet-0123456789abcdef0"]
    )
    security_groups: _words_of(r"^sg-[0-9a-f]+$") = Field(  # type: ignore[valid-type]
        default=(), description="Ids of the security groups.", examples=["sg-0123456789abcdef0"]
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
    environ = os.environ if environ is None else environ
    local_cloud = bool(_LOOPBACK.search(environ.get("AWS_ENDPOINT_URL", "")))
    problems: list[str] = []
    sections = deployment_sections(path)
    streams: list[Settings] = []
    try:
        streams = settings_from_config(path, environ, overlaid=False)
    except ConfigError as error:
        problems += error.problems
    shared = sections.pop(DEPLOY_SECTION, {})
    deploy = _validated(DeploySettings, shared, DEPLOY_SECTION, problems)
    network = _validated(NetworkSettings, sections.pop(NETWORK_SECTION, {}), NETWORK_SECTION, problems)
    inherited = {key: value for key, value in shared.items() if key in FunctionSettings.model_fields}
    defaults = _validated(FunctionSettings, inherited, DEPLOY_SECTION, [])
    functions: dict[str, FunctionSettings | None] = {settings.stream_name: defaults for settings in streams}
    for section, values in sections.items():
        name = section.removeprefix(DEPLOY_SECTION).strip()
        if not section.startswith(DEPLOY_SECTION) or (streams and name not in functions):
            problems.append(f"[{section}]: there is no [{STREAM_PREFIX}{name}] to go with it")
        else:
            functions[name] = _validated(FunctionSettings, {**inherited, **values}, section, problems)
    for settings in streams:
        problems += _misfits(settings, local_cloud)
        if deploy is not None:
            problems += _conflicts(settings, functions[settings.stream_name], deploy)
    if problems or deploy is None or network is None:
        raise ConfigError(_count(path, problems), hint=_HINT, problems=tuple(dict.fromkeys(problems)))
    found = [(settings, functions[settings.stream_name]) for settings in streams]
    return Deployment(deploy, network, tuple((settings, function) for settings, function in found if function))


S = TypeVar("S", bound=_Section)


def _validated(model: type[S], values: Mapping[str, str], section: str, problems: list[str]) -> S | None:
    given = {key: value for key, value in values.items() if value.strip()}
    try:
        return model.model_validate(given)
    except ValidationError as error:
        for detail in error.errors(include_url=False):
            key = str(detail["loc"][0]) if detail["loc"] else ""
            if detail["type"] == "extra_forbidden":
                near = difflib.get_close_matches(key, model.model_fields, n=1)
                problems.append(f"[{section}] {key}: unknown key" + (f"; did you mean {near[0]}?" if near else ""))
            elif detail["type"] == "string_pattern_mismatch":
                examples = model.model_fields[key].examples or [model.model_fields[key].description]
                problems.append(f"[{section}] {key}: expected something like {examples[0]}, found {detail['input']!r}")
            else:
                message = detail["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
                found = f"expected {message}, found {given[key]!r}" if key else message
                problems.append(f"[{section}] {key}: {found}" if key else f"[{section}]: {found}")
        return None


_LOOPBACK = re.compile(r"(?:^|[/@,])(localhost|127(?:\.\d+){3}|0\.0\.0\.0|\[?::1\]?)(?=[:/?,]|$)", re.IGNORECASE)
_EXAMPLES = {"documentdb_uri": ", such as shop.cluster-abc.eu-central-1.docdb.amazonaws.com"}


def _misfits(settings: Settings, local_cloud: bool) -> list[str]:
    """What is right elsewhere and cannot work in a Lambda; one of a cloud on this machine reaches it."""
    where = f"[{STREAM_PREFIX}{settings.stream_name}]"
    problems = [
        f"{where} {key}: a function reads its secrets from Secrets Manager; give a name or ARN"
        for key in ("documentdb_secret", "kafka_secret", "opensearch_secret")
        if (getattr(settings, key) or "").startswith(("env:", "file:"))
    ]
    addresses = {name: getattr(settings, name) or "" for name in ADDRESSES}
    problems += [
        f"{where} {name}: a password would be readable in the template; use {ADDRESSES[name] or 'an IAM role'}"
        for name, address in addresses.items()
        if without_secrets(address) != address
    ]
    if not local_cloud:
        problems += [
            f"{where} {name}: {host} is the function's own machine; set what it is to reach{_EXAMPLES.get(name, '')}"
            for name, address in addresses.items()
            for host in _LOOPBACK.findall(address)[:1]
        ]
    if settings.file_path:
        problems.append(f"{where} file_path: a function has no file that lasts; use bucket_name")
    if settings.dead_letters and not settings.dead_letters.startswith(("s3://", "https://", "http://")):
        problems.append(f"{where} dead_letters: a function has no file that lasts; use s3://bucket/key or a queue")
    return problems


def _conflicts(settings: Settings, function: FunctionSettings | None, deploy: DeploySettings) -> list[str]:
    """What of a stream does not go with the trigger."""
    where = f"[{STREAM_PREFIX}{settings.stream_name}]"
    problems = []
    if deploy.trigger == "schedule" and function and function.timeout_seconds > deploy.every_minutes * 60:
        # Each function has a concurrency of 1: runs longer than the period would queue up behind each other, expire,
        # and look like failures.
        problems.append(
            f"[{DEPLOY_SECTION}] timeout_seconds: {function.timeout_seconds} is more than every_minutes = "
            f"{deploy.every_minutes} leaves for {settings.stream_name}"
        )
    if deploy.trigger == "esm":
        if not settings.watched_db_name:
            problems.append(f"{where} watched_db_name: missing; an event source mapping watches one database")
        if not (settings.documentdb_secret or "").startswith("arn:"):
            problems.append(f"{where} documentdb_secret: an event source mapping takes the secret's ARN")
    return problems


def _count(path: str, problems: list[str]) -> str:
    count = len(set(problems))
    return f"{path}: {count} problem{'' if count == 1 else 's'} with the settings"
