"""Where streams stand: their checkpoints, beside the clock of the cluster.

Owns the reading and the figures. How they are shown is the command line's.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from bson import Timestamp

from docdb_stream.checkpoint import Checkpoint, LedgerEntry, Verified
from docdb_stream.errors import StateStoreError
from docdb_stream.events import Position, scope_name
from docdb_stream.mongodb.connection import Connection
from docdb_stream.mongodb.source import MongoChangeSource
from docdb_stream.settings import Settings
from docdb_stream.stores.mongodb import MongoCheckpointStore


@dataclass(frozen=True, slots=True)
class StreamStatus:
    """One stream's checkpoint, seen at one moment.

    Attributes:
        stream: The stream's name.
        checkpoint: What is saved; None for a stream that has not run yet, and for one whose checkpoint is unreadable.
        operation_time: The cluster's operation time at that moment.
        now: The moment.
        error: Why the checkpoint cannot be read.
    """

    stream: str
    checkpoint: Checkpoint | None
    operation_time: Timestamp
    now: dt.datetime
    error: StateStoreError | None = None

    @property
    def position_time(self) -> dt.datetime | None:
        """The cluster time of the position."""
        position = self.checkpoint.position if self.checkpoint else None
        return None if position is None else position.time

    @property
    def age_s(self) -> float | None:
        """Seconds since the position was saved."""
        saved = self.checkpoint.updated_at if self.checkpoint else None
        return None if saved is None else max(0.0, (self.now - saved).total_seconds())

    @property
    def lag_s(self) -> float | None:
        """Seconds of cluster time from the position to the cluster's latest operation, of whatever collection."""
        position = self.checkpoint.position if self.checkpoint else None
        if position is None or position.operation_time is None:
            return None
        return float(max(0, self.operation_time.time - position.operation_time.time))

    @property
    def lease(self) -> str:
        """Who works on the stream and for how long the lease lasts, or ``free``."""
        found = self.checkpoint
        holder = found.holder(self.now) if found else None
        if found is None or holder is None or found.expires_at is None:
            return "free"
        return f"{holder} for {(found.expires_at - self.now).total_seconds():.0f} s"

    def as_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON; times are ISO 8601."""
        found = self.checkpoint
        position = found.position if found else None
        holder = found.holder(self.now) if found else None
        return {
            "stream": self.stream,
            "scope": scope_name(found.scope) if found else None,
            "position_time": _iso(position),
            "token": position.token.data if position is not None and position.token is not None else None,
            "age_s": self.age_s,
            "lag_s": self.lag_s,
            "saved_at": found.updated_at.isoformat() if found and found.updated_at else None,
            "snapshot": None if position is None or position.snapshot is None else position.snapshot.as_dict(),
            "stopped": {str(stop.schema): _iso(stop.position) for stop in position.stops} if position else {},
            "verified": {name: _verified(each) for name, each in found.verified.items()} if found else {},
            "events": found.events if found else 0,
            "epoch": found.epoch if found else 0,
            "lease": {
                "held": holder is not None,
                "owner": holder,
                "expires_at": found.expires_at.isoformat() if found and found.expires_at and holder else None,
            },
            "error": None if self.error is None else str(self.error),
        }


def stream_statuses(streams: Sequence[Settings]) -> list[StreamStatus]:
    """The status of every stream that has a checkpoint where ``streams`` keep theirs, and of those that have none yet.

    Raises:
        ConfigError, SourceUnavailableError, StateStoreError: As for a run; but one checkpoint that cannot be read is
            no reason not to show the others.
    """
    statuses = []
    for settings in _one_per_state_collection(streams):
        with Connection(settings) as connection:
            operation_time = MongoChangeSource(settings, connection).operation_time()
            readable, unreadable = MongoCheckpointStore(settings, connection).readable()
        checkpoints = {each.stream: each for each in readable}
        # From the environment alone, a stream over everything is what no WATCHED_ variable at all looks like.
        configured = [
            each.stream_name
            for each in streams
            if _one_per_state_collection([settings, each]) == [each] and (each.scope is not None or len(streams) > 1)
        ]
        now = dt.datetime.now(dt.UTC)
        statuses += [
            StreamStatus(name, checkpoints.get(name), operation_time, now, unreadable.get(name))
            for name in dict.fromkeys([*configured, *sorted([*checkpoints, *unreadable])])
        ]
    return statuses


def ledger_entries(streams: Sequence[Settings], stream: str | None = None) -> list[dict[str, Any]]:
    """The ledger of every state database that ``streams`` use, oldest first, as plain values ready for JSON.

    Raises:
        ConfigError, StateStoreError: As for a run.
    """
    entries: list[LedgerEntry] = []
    for settings in _one_per_state_collection(streams):
        with Connection(settings) as connection:
            entries += MongoCheckpointStore(settings, connection).ledger(stream)
    return [
        {
            "stream": entry.stream,
            "kind": entry.kind,
            "found_at": entry.found_at.isoformat() if entry.found_at else None,
            "before_time": _iso(entry.before),
            "after_time": _iso(entry.after),
            "reason": entry.reason,
        }
        for entry in entries
    ]


def _one_per_state_collection(streams: Sequence[Settings]) -> list[Settings]:
    """One of the settings for each state collection among them."""
    return list({(each.documentdb_uri, each.state_db, each.state_collection): each for each in streams}.values())


def _verified(found: Verified) -> dict[str, Any]:
    through = None if found.through is None else found.through.as_datetime().isoformat()
    return {"through": through, "at": found.at.isoformat(), "differences": found.differences}


def _iso(position: Position | None) -> str | None:
    return None if position is None or position.time is None else position.time.isoformat()
