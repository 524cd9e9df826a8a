"""Rebuilds a target of what the stream has written to S3, beside the stream or without it.

Owns the order, and what is left out. Every event is delivered again with its own time: a target that keeps versions is
left with the newest state of each document, whatever the stream writes meanwhile, and however often this is run.
"""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from docdb_stream.admin.archive import Archive
from docdb_stream.admin.redrive import deliver
from docdb_stream.context import Deadline, RunContext, running
from docdb_stream.dead_letters import DeadLetters
from docdb_stream.errors import ConfigError
from docdb_stream.events import ChangeEvent
from docdb_stream.letters import dead_letters_for
from docdb_stream.mongodb.connection import Connection
from docdb_stream.registry import target_class
from docdb_stream.settings import Settings
from docdb_stream.target import Target, is_keyed
from docdb_stream.targets import build_targets, target_names


@dataclass(slots=True)
class RestoreResult:
    """What was delivered again.

    Attributes:
        stream: The stream's name.
        target: The target's.
        objects: How many objects of the archive were gone through.
        events: How many events of them the target was given.
        rejected: How many of these it refuses; they are in the dead letters.
        without_document: Updates in the archive that say no document: of these nothing can be made.
        alien: Lines that are no events.
        last: The cluster time of the newest event, as a time in UTC; None: there was none.
        is_cut: Whether the time was over before the end: run it again.
        duration_s: Seconds it took.
    """

    stream: str
    target: str
    objects: int = 0
    events: int = 0
    rejected: int = 0
    without_document: int = 0
    alien: int = 0
    last: dt.datetime | None = None
    is_cut: bool = False
    duration_s: float = 0.0

    def as_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return {**asdict(self), "last": self.last.isoformat() if self.last else None}


def restore(
    settings: Settings,
    target: str,
    *,
    through: dt.datetime | None = None,
    limit: Deadline | None = None,
    progress: Callable[[RestoreResult], None] = lambda result: None,
) -> RestoreResult:
    """Give a target all events of the stream's archive.

    Args:
        settings: The stream.
        target: The target's name; it keeps versions.
        through: The cluster time of the last events that are wanted; None: all. UTC.
        limit: When to be over, and the stop.
        progress: Called after each object with the result so far.

    Raises:
        ConfigError: The stream has no such target or no archive, or the target keeps no versions.
        TargetError: The archive cannot be read, or the target does not work. What was delivered stays.
        SourceUnavailableError, StateStoreError: The dead letters cannot be written.
    """
    if target not in target_names(settings):
        told = ", ".join(target_names(settings)) or "none"
        raise ConfigError(f"stream {settings.stream_name} has no target {target}", hint=f"it has: {told}")
    if not is_keyed(target_class(target)):
        raise ConfigError(
            f"{target} keeps no versions: what is delivered again is there twice, and in another order",
            hint="docdb-stream reset goes back in the change log; a new topic or queue is filled by a snapshot",
        )
    limit = limit or Deadline()
    archive = Archive(settings)
    # The stream may be running: a transaction of Kafka's here would end its own.
    built = {each.name: each for each in build_targets(settings.model_copy(update={"kafka_transactions": "off"}))}
    try:
        with running(RunContext(limit)), Connection(settings) as connection:
            letters = dead_letters_for(settings, connection)
            return _restored(settings, built[target], archive, letters, through, limit, progress)
    finally:
        archive.close()
        for each in built.values():
            each.close()


def _restored(
    settings: Settings,
    target: Target,
    archive: Archive,
    letters: DeadLetters,
    through: dt.datetime | None,
    limit: Deadline,
    progress: Callable[[RestoreResult], None],
) -> RestoreResult:
    began_s = time.monotonic()
    result = RestoreResult(settings.stream_name, target.name)
    for key in archive.objects():
        for events in archive.events(key):
            if limit.stop.is_set() or limit.remaining_s <= 0:
                result.is_cut = True
                break
            wanted = [each for each in events if _is_wanted(each, through, result)]
            rejections = deliver(target, wanted) if wanted else []
            result.events += len(wanted)
            if rejections:
                letters.write(settings.stream_name, rejections)
                result.rejected += len(rejections)
        if result.is_cut:
            break
        result.objects += 1
        result.alien, result.duration_s = archive.alien, time.monotonic() - began_s
        progress(result)
    result.alien, result.duration_s = archive.alien, time.monotonic() - began_s
    return result


def _is_wanted(event: ChangeEvent, through: dt.datetime | None, result: RestoreResult) -> bool:
    at = event.cluster_time.as_datetime()
    if through is not None and at > through:
        return False
    if event.operation == "update" and event.full_document is None and "fullDocument" not in event.document:
        result.without_document += 1
        return False
    result.last = at if result.last is None else max(result.last, at)
    return True
