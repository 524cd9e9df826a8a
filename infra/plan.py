"""What will be deployed: one plan per Lambda function, with its name, environment and targets.

Owns how streams become functions. Knows nothing of the CDK.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

from docdb_stream.errors import ConfigError
from docdb_stream.registry import switches
from docdb_stream.settings import Settings
from docdb_stream.targets import target_names
from infra.settings import Deployment, FunctionSettings

PREFIX = "docdb-stream"

_NAME_CHARACTERS = 64
"""AWS Lambda API reference, CreateFunction: a function's name."""

_HASH_CHARACTERS = 8


@dataclass(frozen=True, slots=True)
class FunctionPlan:
    """One function to be.

    Attributes:
        stream: Name of the stream, and of its checkpoint.
        settings: What the function reads and where it writes.
        function: Its size and limits.
        targets: Names of the targets that are switched on.
        work: What it does: the stream's runs, that of its snapshots' workers, or the records of a DynamoDB stream.
    """

    stream: str
    settings: Settings
    function: FunctionSettings
    targets: tuple[str, ...]
    work: Literal["runs", "snapshots", "records"] = "runs"

    @property
    def name(self) -> str:
        """The function's name."""
        return function_name(self.id)

    @property
    def id(self) -> str:
        """What it is called within the stack."""
        return f"{self.stream} {self.work}" if self.work == "snapshots" else self.stream

    @property
    def concurrency(self) -> int | None:
        """How many invocations there may be at a time: a stream has one run, its lease would turn a second one away. Of
        a DynamoDB stream there is one for each shard, however many those are."""
        return {"runs": 1, "snapshots": self.function.snapshot_parallel, "records": None}[self.work]

    def environment(self) -> dict[str, str]:
        """The settings that were set, as the environment variables that set them."""
        given = {name: getattr(self.settings, name) for name in sorted(self.settings.model_fields_set)}
        return {name.upper(): _text(value) for name, value in given.items() if value not in (None, "", ())}


def plans(deployment: Deployment) -> list[FunctionPlan]:
    """The functions of a deployment, in the order of the file's streams.

    Raises:
        ConfigError: A stream has no target.
    """
    found = [
        plan
        for settings, function in deployment.streams
        for plan in (_isolated if function.isolate else _whole)(settings, function)
    ]
    idle = [plan.stream for plan in found if not plan.targets]
    if idle or not found:
        raise ConfigError(
            f"no target: {', '.join(idle)}",
            hint="switch one on in config.ini with " + ", ".join(switches().values()),
        )
    return [each for plan in found for each in _with_workers(plan)]


def function_name(stream: str) -> str:
    """The name of a stream's function: ``docdb-stream-db-coll``.

    Two streams never share one: where putting hyphens for dots could make two names alike, or a name is too long or has
    characters that Lambda does not take, part of a hash of the stream's name goes at its end.
    """
    name = f"{PREFIX}-" + re.sub(r"[^A-Za-z0-9_]+", "-", stream).strip("-")
    if re.fullmatch(r"\w+(\.\w+)*", stream, re.ASCII) and len(name) <= _NAME_CHARACTERS:
        return name
    digest = hashlib.sha256(stream.encode()).hexdigest()[:_HASH_CHARACTERS]
    return f"{name[: _NAME_CHARACTERS - _HASH_CHARACTERS - 1].rstrip('-')}-{digest}"


def _whole(settings: Settings, function: FunctionSettings) -> Iterator[FunctionPlan]:
    stream = settings.stream_name
    yield FunctionPlan(stream, _with(settings, stream_name=stream), function, target_names(settings))


def _isolated(settings: Settings, function: FunctionSettings) -> Iterator[FunctionPlan]:
    """One plan per target: a stream ``db.coll@target`` with a checkpoint of its own and no other target."""
    switch = switches()
    on = target_names(settings)
    off: dict[str, Any] = {switch[name]: None for name in on if name in switch}
    for name in on:
        own = {switch[name]: getattr(settings, switch[name])} if name in switch else {}
        extra = () if name in switch else (name,)
        stream = f"{settings.stream_name}@{name}"
        alone = _with(settings, **{**off, **own, "extra_targets": extra, "stream_name": stream})
        yield FunctionPlan(stream, alone, function, (name,))


def _with_workers(plan: FunctionPlan) -> Iterator[FunctionPlan]:
    """The function, and that of its snapshots' workers, where it has some; or that of a DynamoDB stream."""
    count = plan.function.snapshot_parallel
    if plan.function.dynamodb_stream_arn:
        yield replace(plan, work="records")
        return
    if not count:
        yield plan
        return
    ranges = max(count, plan.settings.snapshot_ranges)
    shared = replace(plan, settings=_with(plan.settings, snapshot_shared=True, snapshot_ranges=ranges))
    yield shared
    yield replace(shared, work="snapshots")


def _with(settings: Settings, **changes: Any) -> Settings:
    return settings.model_copy(update=changes)


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (tuple, list, set, frozenset)):
        return ",".join(map(str, value))
    return value.isoformat() if isinstance(value, dt.datetime) else str(value)
