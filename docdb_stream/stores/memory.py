"""Checkpoints in memory: gone with the process. For tests, examples and one-off programs."""

from __future__ import annotations

import datetime as dt
import threading
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import replace

from docdb_stream.checkpoint import Checkpoint, Lease, LedgerEntry, SnapshotRequest, Verified
from docdb_stream.errors import LeaseHeldError
from docdb_stream.lease import elapsed_s
from docdb_stream.position import Namespace, Position
from docdb_stream.schema.ledger import Ledger
from docdb_stream.schema.store import KeptLedger, News

_BEGAN = dt.datetime.now(dt.UTC) - dt.timedelta(seconds=elapsed_s())


def _now() -> dt.datetime:
    """The time, by a clock that nobody sets: a step of the machine's takes no live lease."""
    return _BEGAN + dt.timedelta(seconds=elapsed_s())


class MemoryCheckpointStore:
    """A CheckpointStore that keeps everything in a dictionary.

    Args:
        clock: Gives the current time, aware; tests pass their own.
    """

    def __init__(self, clock: Callable[[], dt.datetime] = _now) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._checkpoints: dict[str, Checkpoint] = {}
        self._ledger: list[LedgerEntry] = []
        self._requests: dict[str, list[SnapshotRequest]] = {}

    def load(self, stream: str) -> Checkpoint | None:
        """See CheckpointStore."""
        return self._checkpoints.get(stream)

    def all(self) -> Sequence[Checkpoint]:
        """See CheckpointStore."""
        return [self._checkpoints[name] for name in sorted(self._checkpoints)]

    def acquire(self, stream: str, scope: Namespace | None, owner: str, duration_s: float) -> Lease:
        """See CheckpointStore."""
        with self._lock:
            known = self._checkpoints.get(stream) or Checkpoint(stream, scope, created_at=self._clock())
            if known.owner is not None and known.expires_at is not None and known.expires_at > self._clock():
                raise LeaseHeldError(
                    f"stream {stream} is being worked on by {known.owner}",
                    hint="let that run end; a dead one's lease runs out by itself",
                )
            lease = Lease(stream, owner, known.epoch + 1, duration_s)
            self._checkpoints[stream] = replace(known, epoch=lease.epoch, owner=owner, expires_at=self._expiry(lease))
            return lease

    def renew(self, lease: Lease) -> None:
        """See CheckpointStore."""
        with self._lock:
            self._checkpoints[lease.stream] = replace(self._held(lease), expires_at=self._expiry(lease))

    def save(self, lease: Lease, position: Position, events: int = 0) -> None:
        """See CheckpointStore."""
        with self._lock:
            known = self._held(lease)
            self._checkpoints[lease.stream] = replace(
                known,
                position=position,
                events=known.events + events,
                updated_at=self._clock(),
                expires_at=self._expiry(lease),
            )

    def forget(self, streams: Sequence[str]) -> None:
        """See ShareStore."""
        with self._lock:
            for stream in streams:
                self._checkpoints.pop(stream, None)

    def release(self, lease: Lease) -> None:
        """See CheckpointStore."""
        with self._lock:
            known = self._checkpoints.get(lease.stream)
            if known is not None and (known.owner, known.epoch) == (lease.owner, lease.epoch):
                self._checkpoints[lease.stream] = replace(known, owner=None, expires_at=None)

    def record(self, entry: LedgerEntry) -> None:
        """See CheckpointStore."""
        with self._lock:
            entry = replace(entry, before=_in_log(entry.before), after=_in_log(entry.after))
            for index, known in enumerate(self._ledger):
                if (known.stream, known.kind, known.before) == (entry.stream, entry.kind, entry.before):
                    self._ledger[index] = replace(known, reason=entry.reason, after=entry.after or known.after)
                    return
            self._ledger.append(replace(entry, found_at=entry.found_at or self._clock()))

    def ledger(self, stream: str | None = None) -> Sequence[LedgerEntry]:
        """See CheckpointStore."""
        found = [entry for entry in self._ledger if stream in (None, entry.stream)]
        return sorted(found, key=lambda entry: (entry.found_at is not None, entry.found_at))

    def ask(self, stream: str, request: SnapshotRequest) -> bool:
        """See CheckpointStore."""
        with self._lock:
            if stream not in self._checkpoints:
                return False
            left = self._requests.setdefault(stream, [])
            if request.id not in [each.id for each in left]:
                left.append(request)
            return True

    def asked(self, stream: str) -> Sequence[SnapshotRequest]:
        """See CheckpointStore."""
        return [*self._requests.get(stream, ())]

    def answered(self, lease: Lease, ids: Sequence[str]) -> None:
        """See CheckpointStore."""
        with self._lock:
            self._held(lease)
            left = self._requests.get(lease.stream, [])
            left[:] = [each for each in left if each.id not in ids]

    def note_verified(self, stream: str, target: str, found: Verified) -> None:
        """See CheckpointStore."""
        with self._lock:
            known = self._checkpoints.get(stream)
            if known is not None:
                before = known.verified.get(target)
                through = found.through or (before.through if before else None)
                verified = {**known.verified, target: replace(found, through=through)}
                self._checkpoints[stream] = replace(known, verified=verified)

    def inherited_position(self, scope: Namespace | None) -> Position | None:
        """See CheckpointStore: there is no other system here."""
        return None

    def _expiry(self, lease: Lease) -> dt.datetime:
        return self._clock() + dt.timedelta(seconds=lease.duration_s)

    def _held(self, lease: Lease) -> Checkpoint:
        known = self._checkpoints.get(lease.stream)
        if (
            known is None
            or (known.owner, known.epoch) != (lease.owner, lease.epoch)
            or known.expires_at is None
            or known.expires_at <= self._clock()
        ):
            raise lease.lost()
        return known


def _in_log(position: Position | None) -> Position | None:
    return None if position is None else position.in_log()


class MemorySchemaStore:
    """A SchemaStore that keeps everything in a dictionary."""

    def __init__(self) -> None:
        self._kept: dict[tuple[str, Namespace], KeptLedger] = {}

    def load(self, stream: str, namespace: Namespace) -> KeptLedger | None:
        """See SchemaStore."""
        return deepcopy(self._kept.get((stream, namespace)))

    def all(self, stream: str) -> Sequence[KeptLedger]:
        """See SchemaStore."""
        return [deepcopy(kept) for (name, _), kept in sorted(self._kept.items()) if name == stream]

    def save(self, stream: str, ledger: Ledger, news: News | None, epoch: int | None) -> None:
        """See SchemaStore."""
        kept = self._kept.get((stream, ledger.namespace))
        if news is not None and kept is not None and kept.news is not None and kept.news.accepted_at is not None:
            news = kept.news
        self._kept[stream, ledger.namespace] = KeptLedger(deepcopy(ledger), news)

    def accept(self, stream: str, namespace: Namespace, at: dt.datetime) -> News | None:
        """See SchemaStore."""
        kept = self._kept.get((stream, namespace))
        if kept is None or kept.news is None or kept.news.accepted_at is not None:
            return None
        self._kept[stream, namespace] = replace(kept, news=replace(kept.news, accepted_at=at))
        return kept.news
