"""Checkpoints in a MongoDB or DocumentDB collection: one document per stream, ``_id`` = the stream's name.

Owns the stored format and the conditions that fence old holders. Uses plain filters and ``$set`` / ``$inc`` only, which
every version of DocumentDB has.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import bson
from bson import Timestamp
from pymongo import WriteConcern
from pymongo.collection import Collection
from pymongo.errors import AutoReconnect, DuplicateKeyError, OperationFailure, PyMongoError, ServerSelectionTimeoutError

from docdb_stream.checkpoint import FORMAT_VERSION, Checkpoint, Lease, LedgerEntry
from docdb_stream.connection import Connection, is_sign_in_refused
from docdb_stream.diagnosis import unavailable
from docdb_stream.errors import CheckpointConflictError, ConfigError, LeaseHeldError, StateStoreError
from docdb_stream.events import Namespace, Position, ResumeToken
from docdb_stream.settings import Settings

T = TypeVar("T")

list_ = list  # the store's own method of that name hides the built-in one within the class

_CLOCK_TRUSTED_S = 300.0
"""How long the measured difference to the server's clock is used before it is measured again."""


class MongoCheckpointStore:
    """A CheckpointStore in ``STATE_DB.STATE_COLLECTION``.

    Leases run by the server's clock, so that the clocks of those who compete for one need not agree. Every write is
    acknowledged by a majority: a failover does not undo it.

    Constructing does no network traffic.

    Args:
        settings: The cluster and the state database.
        connection: To the cluster; its owner closes it.
    """

    def __init__(self, settings: Settings, connection: Connection) -> None:
        self._settings = settings
        self._connection = connection
        self._clock_offset_s = 0.0
        self._clock_read_at_s = float("-inf")

    @property
    def _collection(self) -> Collection[dict[str, Any]]:
        return self._connection.client[self._settings.state_db].get_collection(
            self._settings.state_collection, write_concern=WriteConcern(w="majority")
        )

    def load(self, stream: str) -> Checkpoint | None:
        """See CheckpointStore."""
        found = self._patiently(lambda: self._collection.find_one({"_id": stream}))
        return None if found is None else checkpoint_from_document(found)

    def list(self) -> Sequence[Checkpoint]:
        """See CheckpointStore."""
        found = self._patiently(lambda: list_(self._collection.find({"version": {"$exists": True}}).sort("_id", 1)))
        return [checkpoint_from_document(document) for document in found]

    def record(self, entry: LedgerEntry) -> None:
        """See CheckpointStore."""
        before = {} if entry.before is None else position_document(entry.before)
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
            update["$set"] |= {"after": position_document(entry.after), "after_time": entry.after.time}

        def attempt() -> None:
            now = entry.found_at or self._server_now()
            update["$setOnInsert"]["found_at"] = now
            self._ledger_collection.update_one({"_id": key}, update, upsert=True)

        self._patiently(attempt)

    def ledger(self, stream: str | None = None) -> Sequence[LedgerEntry]:
        """See CheckpointStore."""
        query = {} if stream is None else {"stream": stream}
        found = self._patiently(lambda: list_(self._ledger_collection.find(query).sort("found_at", 1)))
        return [
            LedgerEntry(
                stream=document["stream"],
                kind=document["kind"],
                before=_position(document["before"]) if document.get("before") else None,
                reason=document.get("reason", ""),
                after=_position(document["after"]) if document.get("after") else None,
                found_at=_aware(document.get("found_at")),
            )
            for document in found
        ]

    @property
    def _ledger_collection(self) -> Collection[dict[str, Any]]:
        return self._connection.client[self._settings.state_db].get_collection(
            self._settings.ledger_collection, write_concern=WriteConcern(w="majority")
        )

    def alert_is_due(self, stream: str, kind: str, interval_s: float) -> bool:
        """Whether no alert of this kind was sent for the stream in the last ``interval_s`` seconds; if so, notes one.

        Of several that ask at once, one is told yes.
        """

        def attempt() -> bool:
            now = self._server_now()
            field = f"alerts.{kind}"
            result = self._collection.update_one(
                {
                    "_id": stream,
                    "$or": [{field: {"$exists": False}}, {field: {"$lte": now - dt.timedelta(seconds=interval_s)}}],
                },
                {"$set": {field: now}},
            )
            return result.matched_count == 1 or self._collection.count_documents({"_id": stream}, limit=1) == 0

        return self._patiently(attempt)

    def inherited_position(self, scope: Namespace | None) -> Position | None:
        """Where the AWS sample's function for ``scope`` stopped, from its state document in the same collection.

        None where it left none, or one without a token. The sample's document is only read.
        """
        if scope is None:
            return None
        query: dict[str, Any] = {"dbWatched": scope.db, "currentState": True}
        query |= {"db_level": True} if scope.coll is None else {"collectionWatched": scope.coll}
        found = self._patiently(lambda: self._collection.find_one(query))
        token = (found or {}).get("lastProcessed")
        return Position.at_token(ResumeToken(token)) if isinstance(token, Mapping) and token.get("_data") else None

    def acquire(self, stream: str, scope: Namespace | None, owner: str, duration_s: float) -> Lease:
        """See CheckpointStore. Raises ConfigError when the stream's name belongs to another namespace."""
        return self._patiently(lambda: self._acquire(stream, scope, owner, duration_s))

    def _acquire(self, stream: str, scope: Namespace | None, owner: str, duration_s: float) -> Lease:
        found = self._collection.find_one({"_id": stream})
        if found is None:
            # Another run may make it in the meantime: a competitor for the lease like any other.
            with contextlib.suppress(DuplicateKeyError):
                self._collection.insert_one(
                    {"_id": stream, "version": FORMAT_VERSION, "scope": _scope_document(scope), "epoch": 0, "events": 0}
                )
            found = self._collection.find_one({"_id": stream}) or {"epoch": 0}
        known = checkpoint_from_document({"_id": stream, **found})
        if known.scope != scope and "scope" in found:
            raise ConfigError(
                f"the checkpoint {stream} belongs to another namespace than this stream watches",
                hint="give the stream another STREAM_NAME; a checkpoint never moves between namespaces",
            )
        now = self._server_now()
        if known.owner == owner:  # the reply to an earlier attempt was lost
            return Lease(stream, owner, known.epoch, duration_s)
        if known.owner is not None and known.expires_at is not None and known.expires_at > now:
            raise self._held(known, now)
        lease = Lease(stream, owner, known.epoch + 1, duration_s)
        taken = self._collection.update_one(
            {"_id": stream, "epoch": found.get("epoch")},
            {"$set": {"epoch": lease.epoch, "lease": self._lease_document(lease, now)}},
        )
        if taken.matched_count == 0:
            winner = self._collection.find_one({"_id": stream}) or {}
            if (winner.get("lease") or {}).get("owner") == owner:
                return lease
            raise self._held(checkpoint_from_document({"_id": stream, **winner}), now)
        return lease

    def renew(self, lease: Lease) -> None:
        """See CheckpointStore."""
        self._patiently(lambda: self._update_held(lease, {}, {}))

    def save(self, lease: Lease, position: Position, events: int = 0) -> None:
        """See CheckpointStore."""
        values = {"position": position_document(position)}

        def attempt() -> None:
            now = self._server_now()
            self._update_held(lease, {**values, "updated_at": now}, {"events": events})

        self._patiently(attempt)

    def release(self, lease: Lease) -> None:
        """See CheckpointStore."""
        self._patiently(
            lambda: self._collection.update_one(
                {"_id": lease.stream, "epoch": lease.epoch, "lease.owner": lease.owner}, {"$unset": {"lease": ""}}
            )
        )

    def _update_held(self, lease: Lease, values: Mapping[str, Any], increments: Mapping[str, Any]) -> None:
        """Write only while the lease is held: same epoch, same owner, not run out."""
        now = self._server_now()
        update: dict[str, Any] = {"$set": {**values, "lease": self._lease_document(lease, now)}}
        if increments:
            update["$inc"] = dict(increments)
        result = self._collection.update_one(
            {
                "_id": lease.stream,
                "epoch": lease.epoch,
                "lease.owner": lease.owner,
                "lease.expires_at": {"$gt": now},
            },
            update,
        )
        if result.matched_count == 0:
            raise CheckpointConflictError(
                f"the lease on stream {lease.stream} is lost: it ran out or another run took it",
                hint="nothing is lost: the next run goes on from the checkpoint. If this happens often, raise "
                "LEASE_SECONDS",
            )

    def _lease_document(self, lease: Lease, now: dt.datetime) -> dict[str, Any]:
        return {"owner": lease.owner, "expires_at": now + dt.timedelta(seconds=lease.duration_s)}

    def _held(self, known: Checkpoint, now: dt.datetime) -> LeaseHeldError:
        left_s = (known.expires_at - now).total_seconds() if known.expires_at else 0.0
        return LeaseHeldError(
            f"stream {known.stream} is being worked on by {known.owner}",
            hint=f"let that run end; if it died, its lease runs out in {max(0.0, left_s):.0f} s",
        )

    def _server_now(self) -> dt.datetime:
        """The server's time, from this machine's clock and the difference measured a while ago."""
        if time.monotonic() - self._clock_read_at_s > _CLOCK_TRUSTED_S:
            before = time.time()
            local = self._connection.client.admin.command("hello").get("localTime")
            if isinstance(local, dt.datetime):
                server_s = local.replace(tzinfo=dt.UTC).timestamp()
                self._clock_offset_s = server_s - (before + time.time()) / 2
            self._clock_read_at_s = time.monotonic()
        # Milliseconds, as BSON keeps them, so that a time compares equal to itself after it was stored.
        now_ms = int((time.time() + self._clock_offset_s) * 1000)
        return dt.datetime.fromtimestamp(now_ms / 1000, dt.UTC)

    def _patiently(self, attempt: Callable[[], T]) -> T:
        """Run ``attempt`` again while the connection is in trouble: each is safe to repeat."""
        try:
            return self._connection.patiently(attempt, passes=_passes)
        except PyMongoError as error:
            trouble = unavailable(error, self._connection.uri)
            # What concerns the whole cluster is said without naming the one collection it was noticed on.
            own = not isinstance(error, ServerSelectionTimeoutError) and not is_sign_in_refused(error)
            where = f"state {self._settings.state_db}.{self._settings.state_collection}: " if own else ""
            raise StateStoreError(f"{where}{trouble}", hint=trouble.hint, refused=trouble.refused) from error


# An election or a shutdown under way, by the codes that the retryable writes specification calls retryable.
_PASSING_CODES = frozenset({6, 7, 89, 91, 189, 262, 9001, 10107, 11600, 11602, 13435, 13436})


def _passes(error: PyMongoError) -> bool:
    return isinstance(error, AutoReconnect) or (isinstance(error, OperationFailure) and error.code in _PASSING_CODES)


def _scope_document(scope: Namespace | None) -> dict[str, str]:
    return {} if scope is None else {"db": scope.db} if scope.coll is None else {"db": scope.db, "coll": scope.coll}


def position_document(position: Position) -> dict[str, Any]:
    """A position as it is stored; the token exactly as the server gave it."""
    document: dict[str, Any] = {}
    if position.token is not None:
        document["token"] = position.token.document
    if position.operation_time is not None:
        document["operation_time"] = position.operation_time
    if position.after_invalidate:
        document["after_invalidate"] = True
    return document


def checkpoint_from_document(document: Mapping[str, Any]) -> Checkpoint:
    """Read a stored checkpoint of any version so far.

    Raises:
        StateStoreError: A later version of docdb-stream wrote it.
    """
    version = document.get("version", FORMAT_VERSION)
    if version > FORMAT_VERSION:
        raise StateStoreError(
            f"the checkpoint {document['_id']} has format {version}, this docdb-stream knows up to {FORMAT_VERSION}",
            hint="upgrade docdb-stream here to the version that wrote it",
        )
    scope = document.get("scope") or {}
    lease = document.get("lease") or {}
    stored = document.get("position")
    return Checkpoint(
        stream=str(document["_id"]),
        scope=Namespace(scope["db"], scope.get("coll")) if scope else None,
        position=None if stored is None else _position(stored),
        epoch=int(document.get("epoch", 0)),
        updated_at=_aware(document.get("updated_at")),
        owner=lease.get("owner"),
        expires_at=_aware(lease.get("expires_at")),
        events=int(document.get("events", 0)),
    )


def _position(stored: Mapping[str, Any]) -> Position:
    token, time_ = stored.get("token"), stored.get("operation_time")
    return Position(
        token=None if token is None else ResumeToken(token),
        operation_time=time_ if isinstance(time_, Timestamp) else None,
        after_invalidate=bool(stored.get("after_invalidate")),
    )


def _aware(value: Any) -> dt.datetime | None:
    return value.replace(tzinfo=dt.UTC) if isinstance(value, dt.datetime) else None
