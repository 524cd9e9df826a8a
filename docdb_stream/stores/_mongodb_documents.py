"""How a checkpoint and an entry of the ledger are stored as documents.

Owns the stored format, its versions, and what is said of a document that cannot be read. Asks no server.
"""

from __future__ import annotations

import datetime as dt
import logging
from collections.abc import Mapping
from typing import Any, TypeVar, get_args
from urllib.parse import quote, unquote

from bson import Timestamp

from docdb_stream.checkpoint import Action, Checkpoint, LedgerEntry, SnapshotRequest, Verified
from docdb_stream.errors import StateStoreError
from docdb_stream.position import (
    Namespace,
    Position,
    ResumeToken,
    Resumption,
    SchemaStop,
    SnapshotProgress,
    SnapshotRange,
)

logger = logging.getLogger(__name__)

T = TypeVar("T")

FORMAT_VERSION = 5
"""The latest version of a stored checkpoint; later ones are refused. Each checkpoint is written as the earliest version
that can hold it, so that a docdb-stream from before reads on all that it would not read wrongly:

1. Scope, epoch, events, lease, and a position: token, operation time, whether it is after an invalidate.
2. The position has a snapshot's progress as well. Code that knows version 1 alone would go on without it, and what the
   snapshot had still to deliver would never come. Nothing ever made one.
3. The snapshot's cluster time, its query, its targets, whether it is paused, and how many documents it has come past.
4. Which collections have stopped, and where; and for which one the stream has gone back. Without it their changes since
   would be passed over, and the others' come twice.

A field in ``position``, at any depth, needs a new version: a save replaces all of it. Other fields survive a save.
"""

LEDGER_TOKEN_DIGITS = 1 << 20
"""A token holds the document key, so it can be of 8 MB (its reply has it twice in 16 MiB), and an entry has two."""


def new_document(stream: str, scope: Namespace | None, now: dt.datetime) -> dict[str, Any]:
    """The checkpoint of a stream that nobody has worked on yet."""
    scope_document = _scope_document(scope)
    return {"_id": stream, "version": 1, "scope": scope_document, "epoch": 0, "events": 0, "created_at": now}


def position_fields(position: Position) -> dict[str, Any]:
    """The fields of a checkpoint that a save of ``position`` sets."""
    snapshot = position.snapshot
    version = 1 if snapshot is None else 2 if snapshot.time is None else 3
    if position.stops or position.resumption is not None:
        version = 4
    if snapshot is not None and (snapshot.is_shared or any(each.renamed_at for each in snapshot.ranges)):
        version = 5
    return {"version": version, "position": position_document(position)}


def position_document(position: Position) -> dict[str, Any]:
    """A position as it is stored; the token exactly as the server gave it."""
    document: dict[str, Any] = {}
    if position.token is not None:
        document["token"] = position.token.value
    if position.operation_time is not None:
        document["operation_time"] = position.operation_time
    if position.after_invalidate:
        document["after_invalidate"] = True
    if position.snapshot is not None:
        document["snapshot"] = _snapshot_document(position.snapshot)
    if position.stops:
        document["stops"] = [_stop_document(stop) for stop in position.stops]
    if position.resumption is not None:
        of = position.resumption
        document["resumption"] = {**_scope_document(of.namespace), "until": position_document(of.until.in_log())}
    return document


def _stop_document(stop: SchemaStop) -> dict[str, Any]:
    document = {**_scope_document(stop.namespace), "position": position_document(stop.position.in_log())}
    return document if stop.schema == stop.namespace else {**document, "schema": _scope_document(stop.schema)}


def ledger_position(position: Position) -> dict[str, Any]:
    """A position for the ledger, where an operator reads it: without a snapshot, and without a token that would fill
    the entry."""
    document = position_document(position.in_log())
    if position.token is not None and len(position.token.data) > LEDGER_TOKEN_DIGITS:
        del document["token"]
    return document


def checkpoint_from_document(document: Mapping[str, Any]) -> Checkpoint:
    """Read a stored checkpoint of any version so far.

    Raises:
        StateStoreError: A later version of docdb-stream wrote it, or somebody has changed it so that it cannot be read.
    """
    _refuse_later_version(document)
    try:
        scope, lease, stored = (_field(document, name, dict) for name in ("scope", "lease", "position"))
        return Checkpoint(
            stream=str(document["_id"]),
            scope=_namespace(scope) if scope else None,
            position=None if stored is None else _position(stored),
            epoch=int(document.get("epoch", 0)),
            updated_at=_aware(_field(document, "updated_at", dt.datetime)),
            owner=_field(lease or {}, "owner", str),
            expires_at=_aware(_field(lease or {}, "expires_at", dt.datetime)),
            events=int(document.get("events", 0)),
            created_at=_aware(_field(document, "created_at", dt.datetime)),
            verified=_verified(document),
        )
    except (LookupError, TypeError, ValueError, OverflowError) as error:
        raise _unreadable(document, str(error)) from error


def entry_from_document(document: Mapping[str, Any]) -> LedgerEntry:
    """Read a stored entry of the ledger.

    Raises:
        StateStoreError: Somebody has changed it so that it cannot be read.
    """
    try:
        before, after = (_field(document, name, dict) for name in ("before", "after"))
        return LedgerEntry(
            stream=_needed(document, "stream", str),
            kind=_needed(document, "kind", str),
            before=_position(before) if before else None,
            reason=_field(document, "reason", str) or "",
            after=_position(after) if after else None,
            found_at=_aware(_field(document, "found_at", dt.datetime)),
        )
    except ValueError as error:
        raise StateStoreError(
            f"the ledger's entry {document['_id']} cannot be read: {error}",
            hint="no docdb-stream wrote it like that: put it right or delete it, in STATE_DB beside the checkpoints",
        ) from error


def request_document(request: SnapshotRequest) -> dict[str, Any]:
    """A request as it is stored."""
    document: dict[str, Any] = {"id": request.id, "action": request.action}
    optional = {"namespaces": [*request.namespaces], "match": request.match, "targets": [*request.targets]}
    return document | {name: value for name, value in optional.items() if value}


def requests_from(document: Mapping[str, Any]) -> list[SnapshotRequest]:
    """The requests that are stored in a checkpoint's document. One that nobody can read, because somebody wrote it by
    hand, is left alone: it must not hold the stream up."""
    found, left = [], document.get("requests")
    for stored in left if isinstance(left, list) else ():
        try:
            found.append(_request(stored))
        except (LookupError, TypeError, ValueError) as error:
            logger.warning("stream %s: a request cannot be read, and is left alone: %s", document.get("_id"), error)
    return found


def verified_fields(target: str, found: Verified) -> dict[str, Any]:
    """The fields of a checkpoint that say what comparing a target has found."""
    at = found.at.astimezone(dt.UTC).replace(tzinfo=None)
    values = {"through": found.through, "at": at, "differences": found.differences}
    name = f"verified.{quote(target, safe='').replace('.', '%2E')}"
    return {f"{name}.{field}": value for field, value in values.items() if value is not None}


def _verified(stored: Mapping[str, Any]) -> dict[str, Verified]:
    """What is known of targets. What somebody has changed so that it cannot be read is passed over: no run needs it."""
    found = {}
    targets = stored.get("verified")
    for name, each in targets.items() if isinstance(targets, dict) else ():
        try:
            at = _aware(_needed(each, "at", dt.datetime))
            assert at is not None
            found[unquote(name)] = Verified(_field(each, "through", Timestamp), at, int(each.get("differences", 0)))
        except (AttributeError, LookupError, TypeError, ValueError, OverflowError) as error:
            logger.warning("stream %s: what is verified of %.40s cannot be read: %s", stored.get("_id"), name, error)
    return found


def _request(stored: Mapping[str, Any]) -> SnapshotRequest:
    if stored["action"] not in get_args(Action):
        raise ValueError(f"there is no action {stored['action']!r:.40}")
    return SnapshotRequest(
        str(stored["id"]),
        stored["action"],
        namespaces=tuple(stored.get("namespaces", ())),
        match=stored.get("match"),
        targets=tuple(stored.get("targets", ())),
    )


def _refuse_later_version(document: Mapping[str, Any]) -> None:
    version = document.get("version", 1)
    if version in range(1, FORMAT_VERSION + 1):  # a number of any type: a shell writes doubles
        return
    if not isinstance(version, int | float) or not version > FORMAT_VERSION:
        raise _unreadable(document, f"version is {version!r:.40}")
    raise StateStoreError(
        f"the checkpoint {document['_id']} has format {version}, this docdb-stream knows up to {FORMAT_VERSION}",
        hint="upgrade docdb-stream here to the version that wrote it",
    )


def _unreadable(document: Mapping[str, Any], why: str) -> StateStoreError:
    return StateStoreError(
        f"the checkpoint {document['_id']} cannot be read: {why}",
        hint="no docdb-stream wrote it like that. Put the document of this _id in STATE_DB.STATE_COLLECTION right, or "
        f"delete it and say where to go on: docdb-stream reset '{document['_id']}' --to now|earliest|TIMESTAMP",
    )


def _position(stored: Mapping[str, Any]) -> Position:
    token, snapshot = _field(stored, "token", dict), _field(stored, "snapshot", dict)
    resumption = _field(stored, "resumption", dict)
    operation_time = _field(stored, "operation_time", Timestamp)
    if token is None and operation_time is None:
        raise ValueError("position has neither token nor operation_time")
    return Position(
        token=None if token is None else ResumeToken(token),
        operation_time=operation_time,
        after_invalidate=bool(stored.get("after_invalidate")),
        snapshot=None if snapshot is None else _snapshot(snapshot),
        stops=tuple(map(_stop, _field(stored, "stops", list) or ())),
        resumption=None if resumption is None else Resumption(_namespace(resumption), _at(resumption, "until")),
    )


def _stop(stored: Any) -> SchemaStop:
    if not isinstance(stored, dict):
        raise ValueError(f"a stop is of type {type(stored).__name__}")
    namespace, schema = _namespace(stored), _field(stored, "schema", dict)
    return SchemaStop(namespace, _at(stored, "position"), namespace if schema is None else _namespace(schema))


def _at(stored: Mapping[str, Any], name: str) -> Position:
    return _position(_needed(stored, name, dict)).in_log()


def _snapshot_document(snapshot: SnapshotProgress) -> dict[str, Any]:
    document = {
        "id": snapshot.id,
        "time": snapshot.time,
        "match": snapshot.match,
        "targets": [*snapshot.targets],
        "paused": snapshot.is_paused,
        "shared": snapshot.is_shared,
        "began_at": None if snapshot.began_at is None else snapshot.began_at.astimezone(dt.UTC).replace(tzinfo=None),
        "estimate": snapshot.estimate,
        "ranges": [_range_document(each) for each in snapshot.ranges],
    }
    absent = {"paused": False, "shared": False, "targets": []}
    return {name: value for name, value in document.items() if value is not None and value != absent.get(name)}


def _snapshot(stored: Mapping[str, Any]) -> SnapshotProgress:
    estimate = _field(stored, "estimate", int)
    return SnapshotProgress(
        _needed(stored, "id", str),
        tuple(map(_range, _needed(stored, "ranges", list))),
        time=_field(stored, "time", Timestamp),
        match=_field(stored, "match", str),
        targets=tuple(map(str, _field(stored, "targets", list) or ())),
        is_paused=bool(stored.get("paused")),
        began_at=_aware(_field(stored, "began_at", dt.datetime)),
        estimate=estimate,
        is_shared=bool(stored.get("shared")),
    )


def _range_document(each: SnapshotRange) -> dict[str, Any]:
    document: dict[str, Any] = _scope_document(each.namespace)
    if each.after is not None:
        document["after"] = each.after
    if each.until is not None:
        document["until"] = each.until
    if each.done:
        document["done"] = True
    if each.documents:
        document["documents"] = each.documents
    if each.identity is not None:
        document["identity"] = each.identity
    if each.first is not None:
        document["first"] = each.first
    if each.renamed_at is not None:
        document["renamed_at"] = each.renamed_at
    return document


def _range(stored: Any) -> SnapshotRange:
    if not isinstance(stored, dict):
        raise ValueError(f"a range is of type {type(stored).__name__}")
    return SnapshotRange(
        _namespace(stored),
        _key(stored, "after"),
        _key(stored, "until"),
        bool(stored.get("done")),
        int(stored.get("documents", 0)),
        _field(stored, "identity", bytes),
        _key(stored, "first"),
        _field(stored, "renamed_at", Timestamp),
    )


def _key(stored: Mapping[str, Any], name: str) -> bytes | None:
    """The bytes of ``{_id: value}``; what the value is, whoever uses it finds out."""
    raw = _field(stored, name, bytes)
    if raw is not None and (len(raw) < 10 or len(raw) != int.from_bytes(raw[:4], "little") or raw[5:9] != b"_id\0"):
        raise ValueError(f"{name} is no document with an _id")
    return raw


def _scope_document(scope: Namespace | None) -> dict[str, str]:
    return {} if scope is None else {"db": scope.db} if scope.coll is None else {"db": scope.db, "coll": scope.coll}


def _namespace(stored: Mapping[str, Any]) -> Namespace:
    return Namespace(_needed(stored, "db", str), _field(stored, "coll", str))


def _field(stored: Mapping[str, Any], name: str, kind: type[T]) -> T | None:
    """A field's value, or None where it is absent.

    Raises:
        ValueError: It is of another type. The message says no value: a key can be anything.
    """
    value = stored.get(name)
    if value is not None and not isinstance(value, kind):
        raise ValueError(f"{name} is of type {type(value).__name__}")
    return value


def _needed(stored: Mapping[str, Any], name: str, kind: type[T]) -> T:
    value = _field(stored, name, kind)
    if value is None:
        raise ValueError(f"{name} is missing")
    return value


def _aware(value: dt.datetime | None) -> dt.datetime | None:
    return None if value is None else value.replace(tzinfo=dt.UTC)
