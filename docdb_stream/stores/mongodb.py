"""Checkpoints in a MongoDB or DocumentDB collection: one document per stream, ``_id`` = the stream's name.

Owns the stored format and the conditions that fence old holders. Uses plain filters and ``$set`` / ``$inc`` only, which
every version of DocumentDB has.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import bson
from bson.errors import BSONError
from pymongo.errors import (
    AutoReconnect,
    DocumentTooLarge,
    DuplicateKeyError,
    OperationFailure,
    PyMongoError,
    ServerSelectionTimeoutError,
)

from docdb_stream.checkpoint import Checkpoint, Lease, LedgerEntry, SnapshotRequest, Verified
from docdb_stream.errors import ConfigError, LeaseHeldError, StateStoreError
from docdb_stream.mongodb.connection import Connection, is_sign_in_refused
from docdb_stream.mongodb.diagnosis import unavailable
from docdb_stream.mongodb.server_clock import ServerClock
from docdb_stream.mongodb.state import StateCollection
from docdb_stream.owner import is_gone, this_process
from docdb_stream.position import Namespace, Position, ResumeToken
from docdb_stream.settings import Settings
from docdb_stream.stores._mongodb_documents import (
    checkpoint_from_document,
    entry_from_document,
    ledger_position,
    new_document,
    position_fields,
    request_document,
    requests_from,
    verified_fields,
)

T = TypeVar("T")


class MongoCheckpointStore:
    """A CheckpointStore in ``STATE_DB.STATE_COLLECTION``.

    Leases run by the server's clock, so that the clocks of those who compete for one need not agree. A lease is taken
    on condition that it is still as it was seen, so that what was seen may be old.

    Constructing does no network traffic.

    Args:
        settings: The cluster and the state database.
        connection: To the cluster; its owner closes it.
        clock: The server's; tests pass one with a clock of their own.
        collection: Instead of ``STATE_COLLECTION``.
    """

    def __init__(
        self,
        settings: Settings,
        connection: Connection,
        clock: ServerClock | None = None,
        collection: str | None = None,
    ) -> None:
        self._settings = settings
        self._connection = connection
        self._collection = collection or settings.state_collection
        self._checkpoints = StateCollection(connection, settings.state_db, self._collection)
        self._ledger = StateCollection(connection, settings.state_db, settings.ledger_collection)
        self._clock = clock or ServerClock(connection)

    def load(self, stream: str) -> Checkpoint | None:
        """See CheckpointStore."""
        found = self._patiently(lambda: self._checkpoints.find_one({"_id": stream}, latest=True))
        return None if found is None else checkpoint_from_document(found)

    def all(self) -> Sequence[Checkpoint]:
        """See CheckpointStore."""
        checkpoints, unreadable = self.readable()
        for error in unreadable.values():
            raise error
        return checkpoints

    def readable(self) -> tuple[Sequence[Checkpoint], Mapping[str, StateStoreError]]:
        """Every checkpoint that can be read, and by stream name what is the matter with each other one.

        Raises:
            StateStoreError: The state database refuses or cannot be reached.
        """
        found = self._patiently(lambda: list(self._checkpoints.find({"version": {"$exists": True}}, sort=[("_id", 1)])))
        checkpoints: list[Checkpoint] = []
        unreadable: dict[str, StateStoreError] = {}
        for document in found:
            try:
                checkpoints.append(checkpoint_from_document(document))
            except StateStoreError as error:
                unreadable[str(document["_id"])] = error
        return checkpoints, unreadable

    def record(self, entry: LedgerEntry) -> None:
        """See CheckpointStore."""
        before = {} if entry.before is None else ledger_position(entry.before)
        key = f"{entry.stream}/{entry.kind}/" + hashlib.sha256(bson.encode(before)).hexdigest()[:16]
        update: dict[str, Any] = {
            "$setOnInsert": {
                "stream": entry.stream,
                "kind": entry.kind,
                "before": before or None,
                "before_time": None if entry.before is None else entry.before.time,
            },
            "$set": {"reason": entry.reason},
        }
        if entry.after is not None:
            update["$set"] |= {"after": ledger_position(entry.after), "after_time": entry.after.time}

        def attempt() -> None:
            update["$setOnInsert"]["found_at"] = entry.found_at or self._server_now()
            self._ledger.update_one({"_id": key}, update, upsert=True)

        self._patiently(attempt)

    def ledger(self, stream: str | None = None) -> Sequence[LedgerEntry]:
        """See CheckpointStore."""
        query = {} if stream is None else {"stream": stream}
        found = self._patiently(lambda: list(self._ledger.find(query, sort=[("found_at", 1)])))
        return [entry_from_document(document) for document in found]

    def alert_is_due(self, stream: str, kind: str, interval_s: float) -> bool:
        """Whether no alert of this kind was sent for the stream in the last ``interval_s`` seconds; if so, notes one.

        Of several that ask at once, one is told yes.
        """

        def attempt() -> bool:
            now = self._server_now()
            field = f"alerts.{kind}"
            result = self._checkpoints.update_one(
                {
                    "_id": stream,
                    "$or": [{field: {"$exists": False}}, {field: {"$lte": now - dt.timedelta(seconds=interval_s)}}],
                },
                {"$set": {field: now}},
            )
            return result.matched_count == 1 or self._checkpoints.find_one({"_id": stream}) is None

        return self._patiently(attempt)

    def ask(self, stream: str, request: SnapshotRequest) -> bool:
        """See CheckpointStore."""
        document = request_document(request)
        query = {"_id": stream, "version": {"$exists": True}}

        def attempt() -> bool:
            new = {**query, "requests.id": {"$ne": request.id}}
            if self._checkpoints.update_one(new, {"$push": {"requests": document}}).matched_count:
                return True
            return self._checkpoints.find_one(query, latest=True) is not None

        return self._patiently(attempt)

    def asked(self, stream: str) -> Sequence[SnapshotRequest]:
        """See CheckpointStore."""
        found = self._patiently(lambda: self._checkpoints.find_one({"_id": stream}, {"requests": 1}))
        return requests_from(found or {})

    def answered(self, lease: Lease, ids: Sequence[str]) -> None:
        """See CheckpointStore."""
        self._patiently(lambda: self._update_held(lease, {}, {}, {"$pull": {"requests": {"id": {"$in": [*ids]}}}}))

    def note_verified(self, stream: str, target: str, found: Verified) -> None:
        """See CheckpointStore."""
        query = {"_id": stream, "version": {"$exists": True}}
        self._patiently(lambda: self._checkpoints.update_one(query, {"$set": verified_fields(target, found)}))

    def inherited_position(self, scope: Namespace | None) -> Position | None:
        """Where the AWS sample's function for ``scope`` stopped, from its state document in the same collection.

        None where it left none, or one without a token. The sample's document is only read.
        """
        if scope is None:
            return None
        query: dict[str, Any] = {"dbWatched": scope.db, "currentState": True}
        query |= {"db_level": True} if scope.coll is None else {"collectionWatched": scope.coll}
        found = self._patiently(lambda: self._checkpoints.find_one(query))
        token = (found or {}).get("lastProcessed")
        return Position.at_token(ResumeToken(token)) if isinstance(token, Mapping) and token.get("_data") else None

    def acquire(self, stream: str, scope: Namespace | None, owner: str, duration_s: float) -> Lease:
        """See CheckpointStore. Raises ConfigError when the stream's name belongs to another namespace."""
        return self._patiently(lambda: self._acquire(stream, scope, owner, duration_s))

    def _acquire(self, stream: str, scope: Namespace | None, owner: str, duration_s: float) -> Lease:
        self._clock.ask()
        found = self._found_or_made(stream, scope)
        known = checkpoint_from_document(found)
        if known.scope != scope and "scope" in found:
            raise ConfigError(
                f"the checkpoint {stream} belongs to another namespace than this stream watches",
                hint="give the stream another STREAM_NAME; a checkpoint never moves between namespaces",
            )
        seen = found.get("lease") or {}
        runs = known.expires_at is not None and known.expires_at > self._clock.earliest()
        if runs and known.owner == owner:  # the reply to an earlier attempt was lost
            return Lease(stream, owner, known.epoch, duration_s)
        if runs and not is_gone(seen.get("process")):
            raise self._held(known)
        lease = Lease(stream, owner, known.epoch + 1, duration_s)
        taken = self._checkpoints.update_one(
            # The time, too: a renewal changes nothing else.
            {
                "_id": stream,
                "epoch": _as_seen(found.get("epoch")),
                "lease.owner": _as_seen(seen.get("owner")),
                "lease.expires_at": _as_seen(seen.get("expires_at")),
            },
            {"$set": {"epoch": lease.epoch, "lease": self._lease_document(lease)}},
        )
        if taken.matched_count == 1:
            return lease
        winner = checkpoint_from_document(self._checkpoints.find_one({"_id": stream}, latest=True) or {"_id": stream})
        if winner.owner == owner:  # an earlier attempt was not seen yet
            return Lease(stream, owner, winner.epoch, duration_s)
        if winner.owner is None:  # its holder came back to release it in this very moment
            return self._acquire(stream, scope, owner, duration_s)
        raise self._held(winner)

    def _found_or_made(self, stream: str, scope: Namespace | None) -> dict[str, Any]:
        """The stream's document."""
        found = self._checkpoints.find_one({"_id": stream})
        if found is None:
            new = new_document(stream, scope, self._server_now())
            # Another run may make it in the meantime: a competitor for the lease like any other.
            with contextlib.suppress(DuplicateKeyError):
                self._checkpoints.insert_one(new)
            found = self._checkpoints.find_one({"_id": stream}, latest=True) or new
        return found

    def renew(self, lease: Lease) -> None:
        """See CheckpointStore."""

        def attempt() -> None:
            self._clock.ask()
            self._update_held(lease, {}, {})

        self._patiently(attempt)

    def save(self, lease: Lease, position: Position, events: int = 0) -> None:
        """See CheckpointStore."""
        values = position_fields(position)

        def attempt() -> None:
            self._update_held(lease, {**values, "updated_at": self._server_now()}, {"events": events})

        self._patiently(attempt)

    def release(self, lease: Lease) -> None:
        """See CheckpointStore."""
        self._patiently(
            lambda: self._checkpoints.update_one(
                {"_id": lease.stream, "epoch": lease.epoch, "lease.owner": lease.owner}, {"$unset": {"lease": ""}}
            )
        )

    def forget(self, streams: Sequence[str]) -> None:
        """See ShareStore."""
        if streams:
            self._patiently(lambda: self._checkpoints.delete_many({"_id": {"$in": [*streams]}}))

    def _update_held(
        self,
        lease: Lease,
        values: Mapping[str, Any],
        increments: Mapping[str, Any],
        others: Mapping[str, Any] | None = None,
    ) -> None:
        """Write only while the lease is held: same epoch, same owner, not run out."""
        now = self._server_now()
        # The later of two times, so that a renewal under way beside a save does not shorten the lease.
        update: dict[str, Any] = {"$set": dict(values), "$max": {"lease.expires_at": _expiry(lease, now)}}
        if increments:
            update["$inc"] = dict(increments)
        update |= others or {}
        result = self._checkpoints.update_one(
            {
                "_id": lease.stream,
                "epoch": lease.epoch,
                "lease.owner": lease.owner,
                "lease.expires_at": {"$gt": now},
            },
            update,
        )
        if result.matched_count == 0:
            raise lease.lost()

    def _lease_document(self, lease: Lease) -> dict[str, Any]:
        process = this_process()
        return {
            "owner": lease.owner,
            "expires_at": _expiry(lease, self._server_now()),
            **({} if process is None else {"process": process}),
        }

    def _held(self, known: Checkpoint) -> LeaseHeldError:
        left_s = (known.expires_at - self._clock.earliest()).total_seconds() if known.expires_at else 0.0
        return LeaseHeldError(
            f"stream {known.stream} is being worked on by {known.owner}",
            hint=f"let that run end; if it died, its lease runs out in {max(0.0, left_s):.0f} s",
        )

    def _server_now(self) -> dt.datetime:
        """The server's time: the latest that it can be, where that is not certain."""
        return self._clock.latest()

    def _patiently(self, attempt: Callable[[], T]) -> T:
        """Run ``attempt`` again while the connection is in trouble: each is safe to repeat."""
        try:
            return self._connection.patiently(attempt, passes=passes)
        except BSONError as error:
            raise StateStoreError(
                f"{self._where}{error}", hint=_TOO_LARGE_HINT if isinstance(error, DocumentTooLarge) else _CHANGED_HINT
            ) from error
        except PyMongoError as error:
            trouble = unavailable(error, self._connection.uri)
            # What concerns the whole cluster is said without naming the one collection it was noticed on.
            own = not isinstance(error, ServerSelectionTimeoutError) and not is_sign_in_refused(error)
            hint = _TOO_LARGE_HINT if getattr(error, "code", None) in _TOO_LARGE_CODES else trouble.hint
            raise StateStoreError(
                f"{self._where if own else ''}{trouble}", hint=hint, refused=trouble.refused
            ) from error

    @property
    def _where(self) -> str:
        return f"state {self._settings.state_db}.{self._collection}: "


def share_store(settings: Settings, connection: Connection) -> MongoCheckpointStore:
    """Where workers keep how far they have come with the ranges of a shared snapshot."""
    return MongoCheckpointStore(settings, connection, collection=settings.shares_collection)


_TOO_LARGE_CODES = frozenset({10334, 17419, 17420})
"""BSONObjectTooLarge, and an update that would make a document of more than 16 MiB (the server's update code)."""
_TOO_LARGE_HINT = (
    "a checkpoint holds the _id of the document last delivered, and this one is too large for it: docdb-stream reset "
    "STREAM --to TIMESTAMP goes on behind it; keep so large a value out of _id"
)
_CHANGED_HINT = (
    "no docdb-stream wrote it like that: put right what is in STATE_DB, or delete it and say where to go on: "
    "docdb-stream reset STREAM --to now|earliest|TIMESTAMP"
)


# An election or a shutdown under way, by the codes that the retryable writes specification calls retryable, and
# ReadConcernMajorityNotAvailableYet (134), which a member says that has just started.
_PASSING_CODES = frozenset({6, 7, 89, 91, 134, 189, 262, 9001, 10107, 11600, 11602, 13435, 13436})


def passes(error: PyMongoError) -> bool:
    """Whether an error may pass by itself, as an election does."""
    return isinstance(error, AutoReconnect) or (isinstance(error, OperationFailure) and error.code in _PASSING_CODES)


def _expiry(lease: Lease, now: dt.datetime) -> dt.datetime:
    return now + dt.timedelta(seconds=lease.duration_s)


def _as_seen(value: Any) -> Any:
    return {"$exists": False} if value is None else value
