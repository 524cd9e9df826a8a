"""Checkpoints and leases: what is saved, and who may save it.

Owns the types and the store's contract. The stores themselves are in ``stores``.
"""

from __future__ import annotations

import datetime as dt
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from bson import Timestamp

from docdb_stream.errors import CheckpointConflictError
from docdb_stream.position import Namespace, Position

_LOST_HINT = (
    "nothing is lost: the next run goes on from the checkpoint. If this happens often, something stops this process "
    "for longer than its lease lasts (LEASE_SECONDS; 10 s at most when following)"
)


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to move one stream's checkpoint.

    Attributes:
        stream: The stream's name.
        owner: Names the run that holds it, unique per run.
        epoch: Grows by one with each holder; a save under an older epoch is refused.
        duration_s: Seconds from the last renewal or save until another run may take it.
    """

    stream: str
    owner: str
    epoch: int
    duration_s: float

    def lost(self, why: str = "is lost: it ran out or another run took it") -> CheckpointConflictError:
        """The error for who acts under the lease and holds it no more."""
        return CheckpointConflictError(f"the lease on stream {self.stream} {why}", hint=_LOST_HINT)


@dataclass(frozen=True, slots=True)
class Verified:
    """What comparing a target with the source has found last.

    Attributes:
        through: The cluster time up to which the target was proven to hold what the source held, the last time that it
            was; None as long as it never was.
        at: When it was compared last, by the clock of whoever did.
        differences: How many documents were not equal then, or could not be proven to be.
    """

    through: Timestamp | None
    at: dt.datetime
    differences: int = 0


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The saved position of a stream, and who works on it.

    Attributes:
        stream: The stream's name.
        scope: What the stream watches; None is the whole deployment.
        position: Where it stands; None as long as nothing was saved.
        epoch: The epoch of the last holder.
        updated_at: When the position was saved, by the store's clock.
        owner: The run that holds the lease, or None.
        expires_at: When its lease runs out.
        events: Events delivered since the checkpoint was made first.
        created_at: When that was, by the store's clock; None where it is not known.
        verified: What comparing its targets has found, by their names.
    """

    stream: str
    scope: Namespace | None = None
    position: Position | None = None
    epoch: int = 0
    updated_at: dt.datetime | None = None
    owner: str | None = None
    expires_at: dt.datetime | None = None
    events: int = 0
    created_at: dt.datetime | None = None
    verified: Mapping[str, Verified] = field(default_factory=dict)

    def holder(self, now: dt.datetime) -> str | None:
        """The run that holds the lease at a moment; None where it is free."""
        return self.owner if self.expires_at is not None and self.expires_at > now else None

    @property
    def name(self) -> str:
        """Tells what is saved from everything that ever was, or will be, as a short text. A stream that is reset can
        stand where it stood before, with more events behind it; one that is begun anew has another ``created_at``."""
        position = self.position or Position()
        token = "" if position.token is None else position.token.data
        created_at = "" if self.created_at is None else self.created_at.isoformat()
        saved: tuple[object, ...] = (self.stream, created_at, self.events, token, position.operation_time)
        saved += (position.after_invalidate,) if position.resumption is None else (position.resumption.until.time,)
        return hashlib.sha256(repr(saved).encode()).hexdigest()[:32]

    @property
    def order(self) -> str:
        """A text by which a stream's checkpoints are in their order: those of one that is begun anew come later."""
        began_s = 0 if self.created_at is None else int(self.created_at.timestamp())
        return f"{began_s:010}-{self.events:016}"


@dataclass(frozen=True, slots=True)
class LedgerEntry:
    """Something about a stream's history that an operator has to be able to find later.

    Attributes:
        stream: The stream's name.
        kind: ``history-lost`` (the position left the change log), ``reset`` (an operator moved the position) or
            ``stepped-past`` (one event could not be read).
        before: The position until then, or None where there was none.
        reason: What happened, in one line.
        after: Where the stream goes on; None as long as nobody decided.
        found_at: When it was found first.
    """

    stream: str
    kind: str
    before: Position | None
    reason: str
    after: Position | None = None
    found_at: dt.datetime | None = None


Action = Literal["start", "pause", "resume", "cancel"]
"""What can be asked of a stream's runs about a snapshot."""


@dataclass(frozen=True, slots=True)
class SnapshotRequest:
    """What an operator asks of a stream: the run that works on it does it, or the next one.

    Attributes:
        id: Names the request; the snapshot that is started has this id.
        action: What to do. ``pause``, ``resume`` and ``cancel`` are about the snapshot that is under way by then.
        namespaces: For ``start``: patterns of the collections, see ``NamespacePattern``; empty: all that the stream
            watches.
        match: For ``start``: a query, as JSON; see ``SnapshotProgress``.
        targets: For ``start``: see ``SnapshotProgress``.
    """

    id: str
    action: Action
    namespaces: tuple[str, ...] = ()
    match: str | None = field(default=None, repr=False)
    targets: tuple[str, ...] = ()


class CheckpointStore(Protocol):
    """Keeps checkpoints. Every method may be called from any thread.

    Each raises StateStoreError when the store cannot be reached or refuses.
    """

    def load(self, stream: str) -> Checkpoint | None:
        """The stream's checkpoint, or None when there is none."""
        ...

    def all(self) -> Sequence[Checkpoint]:
        """Every checkpoint of this store, by stream name."""
        ...

    def acquire(self, stream: str, scope: Namespace | None, owner: str, duration_s: float) -> Lease:
        """Take the stream's lease, creating the checkpoint (without a position) when there is none.

        Raises:
            LeaseHeldError: Another owner holds it and it has not run out. Nothing was changed.
        """
        ...

    def renew(self, lease: Lease) -> None:
        """Make the lease last ``duration_s`` from now.

        Raises:
            CheckpointConflictError: It ran out, or another owner took it.
        """
        ...

    def save(self, lease: Lease, position: Position, events: int = 0) -> None:
        """Save the position durably, all of it at once, add ``events`` to the count, and renew the lease.

        Raises:
            CheckpointConflictError: The lease ran out, or another owner took it. Nothing was saved.
        """
        ...

    def record(self, entry: LedgerEntry) -> None:
        """Write the entry into the ledger, durably, of its positions what concerns the change log and no snapshot. The
        same stream, kind and ``before`` again completes the entry that is there (``reason``, ``after``), so a run that
        fails every two minutes leaves one."""
        ...

    def ledger(self, stream: str | None = None) -> Sequence[LedgerEntry]:
        """The ledger's entries, of one stream or of all, oldest first."""
        ...

    def ask(self, stream: str, request: SnapshotRequest) -> bool:
        """Leave a request for the stream's runs, after those that are there; whether there is such a stream. The same
        id again changes nothing."""
        ...

    def asked(self, stream: str) -> Sequence[SnapshotRequest]:
        """The requests that were left and not answered yet, in order."""
        ...

    def answered(self, lease: Lease, ids: Sequence[str]) -> None:
        """Take these requests away: what they ask for is saved.

        Raises:
            CheckpointConflictError: The lease ran out, or another owner took it.
        """
        ...

    def note_verified(self, stream: str, target: str, found: Verified) -> None:
        """Keep what comparing a target has found, beside the stream's position, which is not touched. Without a
        ``through`` the one that is there stays. No error if there is no such stream."""
        ...

    def inherited_position(self, scope: Namespace | None) -> Position | None:
        """Where another system that kept its state here stopped on ``scope``, for a stream without a position."""
        ...

    def release(self, lease: Lease) -> None:
        """Give the lease back, so that the next run need not wait for it to run out. No error if it is lost."""
        ...
