"""Asks a stream for a snapshot, or about the one that is under way; the run that works on the stream does it.

Owns what may be asked for, and the figures. How they are shown is the command line's.
"""

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from docdb_stream.checkpoint import Action, Checkpoint, SnapshotRequest
from docdb_stream.errors import ConfigError
from docdb_stream.mongodb.connection import Connection
from docdb_stream.mongodb.documents import query_of
from docdb_stream.namespaces import NamespacePattern
from docdb_stream.position import SnapshotProgress
from docdb_stream.settings import Settings
from docdb_stream.snapshot.shares import Shares
from docdb_stream.stores.mongodb import MongoCheckpointStore, share_store


@dataclass(frozen=True, slots=True)
class SnapshotStatus:
    """How a stream's snapshot fares, seen at one moment.

    Attributes:
        stream: The stream's name.
        progress: As it is saved; None where none is under way.
        pending: What was asked for and is not done yet, in order.
        owner: The run that works on the stream, or None.
        now: The moment.
        stopped: The collections that have stopped for their schema.
    """

    stream: str
    progress: SnapshotProgress | None
    pending: Sequence[SnapshotRequest]
    owner: str | None
    now: dt.datetime
    stopped: Sequence[str] = ()

    @property
    def documents_per_s(self) -> float | None:
        """On the average since it began, pauses and the time between runs included; None: not known."""
        found = self.progress
        if found is None or found.began_at is None or not found.documents:
            return None
        return found.documents / max(1.0, (self.now - found.began_at).total_seconds())

    @property
    def left_s(self) -> float | None:
        """About how long it takes on, at that rate; None: not known, or it is paused."""
        found, rate = self.progress, self.documents_per_s
        if found is None or found.estimate is None or rate is None or found.is_paused:
            return None
        return max(0, found.estimate - found.documents) / rate

    def as_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON; times are ISO 8601."""
        return {
            "stream": self.stream,
            "snapshot": None if self.progress is None else self.progress.as_dict(),
            "share": None if self.progress is None else self.progress.share,
            "documents_per_s": self.documents_per_s,
            "left_s": self.left_s,
            "pending": [{"id": each.id, "action": each.action} for each in self.pending],
            "owner": self.owner,
        }


def snapshot_status(settings: Settings) -> SnapshotStatus:
    """How the stream's snapshot fares.

    Raises:
        ConfigError: The stream has not run yet.
        StateStoreError: As for a run.
    """
    with Connection(settings) as connection:
        return _status(settings, MongoCheckpointStore(settings, connection), share_store(settings, connection))


def ask(
    settings: Settings,
    action: Action,
    *,
    namespaces: Sequence[str] = (),
    match: str | None = None,
    targets: Sequence[str] = (),
) -> SnapshotStatus:
    """Leave a request for the stream's runs; returns how the snapshot fares, the request among what is pending.

    Args:
        settings: The stream.
        action: What to do.
        namespaces: For ``start``: patterns of collections, empty for all; see ``SnapshotRequest``.
        match: For ``start``: a query over the documents, as JSON.
        targets: For ``start``: names of targets, empty for all.

    Raises:
        ConfigError: It makes no sense: the stream has not run yet, a snapshot is under way already, or there is none.
        StateStoreError: As for a run.
    """
    request = SnapshotRequest(uuid.uuid4().hex[:12], action, tuple(namespaces), match, tuple(targets))
    if action == "start":
        _check(settings, request)
    with Connection(settings) as connection:
        store = MongoCheckpointStore(settings, connection)
        status = _status(settings, store, share_store(settings, connection))
        _check_in_time(status, action)
        if action == "start" and status.stopped:
            raise ConfigError(
                f"{', '.join(status.stopped)} of stream {settings.stream_name} stopped for its schema; no snapshot can "
                "begin before it goes on",
                hint=f"docdb-stream schema accept '{settings.stream_name}', and ask again once the stream has gone on",
            )
        if not store.ask(settings.stream_name, request):
            raise _never_run(settings)
        return replace(status, pending=[*status.pending, request])


def _status(settings: Settings, store: MongoCheckpointStore, shares: MongoCheckpointStore) -> SnapshotStatus:
    found: Checkpoint | None = store.load(settings.stream_name)
    if found is None or found.position is None:
        raise _never_run(settings)
    now = dt.datetime.now(dt.UTC)
    pending = store.asked(settings.stream_name)
    stopped = [str(stop.schema) for stop in found.position.stops]
    progress = found.position.snapshot
    if progress is not None and progress.is_shared:
        progress = replace(progress, ranges=tuple(Shares(shares, settings.stream_name).ranges(progress)))
    return SnapshotStatus(settings.stream_name, progress, pending, found.holder(now), now, stopped)


def _never_run(settings: Settings) -> ConfigError:
    return ConfigError(
        f"stream {settings.stream_name} has not run yet",
        hint="with START_AT=snapshot its first run begins with one; else run it once, and ask again",
    )


def _check_in_time(status: SnapshotStatus, action: Action) -> None:
    """See that the request makes sense after what was asked for before."""
    coming = status.progress is not None
    for each in status.pending:
        coming = each.action == "start" or (coming and each.action != "cancel")
    name = status.stream
    if action == "start" and coming:
        raise ConfigError(
            f"a snapshot of stream {name} is under way, or asked for",
            hint=f"docdb-stream snapshot status '{name}' shows it; docdb-stream snapshot cancel '{name}' ends it",
        )
    if action != "start" and not coming:
        raise ConfigError(f"stream {name} has no snapshot to {action}", hint=f"docdb-stream snapshot start '{name}'")


def _check(settings: Settings, request: SnapshotRequest) -> None:
    """See that a snapshot can be started like that."""
    if settings.no_snapshot:
        raise ConfigError(settings.no_snapshot)
    for text in request.namespaces:
        if not _may_be_watched(settings, text):
            raise ConfigError(
                f"--namespaces {text}: stream {settings.stream_name} does not watch that",
                hint="expected db.coll, or a pattern such as shop.*, of what the stream watches",
            )
    if request.match is not None:
        query_of(request.match)
    on = [name for name, target in settings.targets.items() if target.is_on] + [*settings.extra_targets]
    if unknown := [name for name in request.targets if name not in on]:
        raise ConfigError(
            f"--targets {', '.join(unknown)}: stream {settings.stream_name} has no such target",
            hint=f"it has {', '.join(on)}",
        )


def _may_be_watched(settings: Settings, text: str) -> bool:
    pattern, scope = NamespacePattern.of(text), settings.scope
    if not pattern.db or not pattern.coll:
        return False
    if scope is None:
        return True
    return pattern.matches_database(scope.db) if scope.coll is None else pattern.matches(scope)
