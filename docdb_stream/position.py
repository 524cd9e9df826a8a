"""Where a stream stands, and over what: namespace, resume token, a snapshot's progress, position."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from bson import Timestamp

# First byte of a token's _data: how the server encoded it. MongoDB's KeyString tokens start with the type byte of a
# timestamp (0x82); DocumentDB's published samples start with 0x01. Both are followed by the cluster time, big-endian
# seconds and increment. The time is only read, never trusted for resuming.
_TOKEN_KINDS = (0x82, 0x01)


class Namespace(NamedTuple):
    """A database and, unless the event or the stream concerns the whole database, a collection."""

    db: str
    coll: str | None = None

    def __str__(self) -> str:
        return self.db if self.coll is None else f"{self.db}.{self.coll}"

    @property
    def label(self) -> str:
        """``db-coll``, the name the AWS sample gives to topics, indexes and groups; ``db`` without a collection."""
        return self.db if self.coll is None else f"{self.db}-{self.coll}"

    def scope_name(self) -> str:
        """How a stream over the namespace is named: ``db.coll``, or ``db.*`` over the whole database."""
        return f"{self.db}.{self.coll or '*'}"


def scope_name(scope: Namespace | None) -> str:
    """How what a stream watches is written: ``db.coll``, ``db.*``, or ``*`` for the whole deployment."""
    return "*" if scope is None else scope.scope_name()


@dataclass(frozen=True, slots=True)
class ResumeToken:
    """A resume token, opaque and stored as the server gave it.

    Attributes:
        value: The token, as PyMongo decoded it.
    """

    value: Mapping[str, Any]

    @property
    def data(self) -> str:
        """The token's ``_data`` as text: MongoDB and DocumentDB send a hexadecimal string, 4.0.0 to 4.0.6 binary."""
        data = self.value.get("_data")
        if isinstance(data, str):
            return data
        if isinstance(data, bytes):
            return data.hex()
        return json.dumps(self.value, default=str, sort_keys=True)

    @property
    def cluster_time(self) -> Timestamp | None:
        """The cluster time inside the token, or None when the token's encoding is not a known one."""
        try:
            head = bytes.fromhex(self.data[:18])
        except ValueError:
            return None
        if len(head) < 9 or head[0] not in _TOKEN_KINDS:
            # DocumentDB's post-batch token may be cut after the seconds.
            return Timestamp(int.from_bytes(head[1:5], "big"), 0) if len(head) >= 5 and head[0] == 0x01 else None
        return Timestamp(int.from_bytes(head[1:5], "big"), int.from_bytes(head[5:9], "big"))


@dataclass(frozen=True, slots=True)
class SnapshotRange:
    """A part of a collection, in the order of ``_id``, and how far it has been delivered.

    A key is the BSON of ``{_id: value}``, as the server sent it: an ``_id`` can be of any type, and decoding gives up
    what some of them hold (dates beyond Python's, deprecated types, keys that occur twice).

    Attributes:
        namespace: The collection.
        after: The key of the last document delivered; before the first, the key that the range begins after, or None
            where that is the collection's beginning.
        until: The key that it ends with, which belongs to it; None is the collection's end.
        done: All of it has been delivered.
        documents: How many have been delivered, or were left to the stream because they changed meanwhile.
        identity: What the collection is known by, whatever its name is; None where nobody else reads the range (see
            ``DocumentSource.identity``), or once it is gone.
        first: The key that the range began after, where it may have to be begun again.
        renamed_at: When the collection was given its name, where that was after the snapshot began: whoever takes the
            rename for the end of what had the name before takes nothing older.
    """

    namespace: Namespace
    after: bytes | None = field(default=None, repr=False)
    until: bytes | None = field(default=None, repr=False)
    done: bool = False
    documents: int = 0
    identity: bytes | None = field(default=None, repr=False)
    first: bytes | None = field(default=None, repr=False)
    renamed_at: Timestamp | None = None


@dataclass(frozen=True, slots=True)
class SnapshotProgress:
    """What a snapshot is of, how far it has come, and what is left.

    It is part of the position, so that one conditional save moves the token and the keys together.

    Attributes:
        id: Names the snapshot; its events carry it.
        ranges: Its parts.
        time: The cluster time at which the stream stood when the snapshot began, and its events' cluster time: what
            has changed since is an event of the stream, and later than that.
        match: A query, as JSON: of the documents that it does not match there are no events. None: all.
        targets: The names of those that get its events; empty: all.
        is_paused: Nothing is read of it until an operator says so.
        began_at: When it began.
        estimate: About how many documents the collections held then; None where it is not known.
        is_shared: Workers read and deliver the ranges (see ``snapshot.worker``), and the stream's run does not.
    """

    id: str
    ranges: tuple[SnapshotRange, ...] = ()
    time: Timestamp | None = None
    match: str | None = field(default=None, repr=False)
    targets: tuple[str, ...] = ()
    is_paused: bool = False
    began_at: dt.datetime | None = None
    estimate: int | None = None
    is_shared: bool = False

    def time_of(self, range: SnapshotRange) -> Timestamp | None:
        """The cluster time of a range's events."""
        return max(filter(None, (self.time, range.renamed_at)), default=None)

    @property
    def documents(self) -> int:
        """How many have been delivered so far, or were left to the stream."""
        return sum(each.documents for each in self.ranges)

    @property
    def share(self) -> float | None:
        """How much of it is delivered, from 0 to 1, by what the collections held at its beginning; None: not known."""
        return min(1.0, self.documents / self.estimate) if self.estimate else None

    def as_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON, without the keys that it has come to; times are ISO 8601."""
        return {
            "id": self.id,
            "documents": self.documents,
            "estimate": self.estimate,
            "paused": self.is_paused,
            "shared": self.is_shared,
            "began_at": None if self.began_at is None else self.began_at.isoformat(),
            "match": self.match,
            "targets": [*self.targets],
            "ranges": [
                {"namespace": str(each.namespace), "documents": each.documents, "done": each.done}
                for each in self.ranges
            ],
        }

    @property
    def is_done(self) -> bool:
        """Whether all of it has been delivered."""
        return all(each.done for each in self.ranges)


@dataclass(frozen=True, slots=True)
class SchemaStop:
    """A collection whose events are not delivered, since its documents had something new (SCHEMA_POLICY = stop).

    Attributes:
        namespace: The collection, in the source.
        position: Everything of it up to here has been delivered, nothing after it.
        schema: The collection whose ledger has what is new: the same, but where a TRANSFORM names another.
    """

    namespace: Namespace
    position: Position
    schema: Namespace


@dataclass(frozen=True, slots=True)
class Resumption:
    """What a stream delivers while it has gone back to where a collection had stopped.

    Attributes:
        namespace: The collection. Of all others everything up to ``until`` has been delivered before.
        until: Where the stream stood when it went back.
    """

    namespace: Namespace
    until: Position


@dataclass(frozen=True, slots=True)
class Position:
    """Where a stream stands: everything up to here has been delivered, nothing after it, but for what ``stops`` and
    ``resumption`` say.

    Either a token, or, before the first token, an operation time (exclusive: events *after* it are still to come).

    Attributes:
        token: The last token, or None before the first.
        operation_time: The cluster time of the position, as far as it is known.
        after_invalidate: The token belongs to an ``invalidate`` event, which ``resumeAfter`` refuses (server error
            260); the stream is opened again with ``startAfter``, or by time where the server has none.
        snapshot: How far the snapshot beside the stream has come, while one is under way. Who only moves the stream
            keeps it; who gives the stream another position drops it.
        stops: The collections that have stopped. As with the snapshot.
        resumption: What is delivered up to where the stream has gone back from; None where it has not.
    """

    token: ResumeToken | None = None
    operation_time: Timestamp | None = None
    after_invalidate: bool = False
    snapshot: SnapshotProgress | None = None
    stops: tuple[SchemaStop, ...] = ()
    resumption: Resumption | None = None

    @property
    def time(self) -> dt.datetime | None:
        """The position's cluster time as an aware datetime, or None when unknown."""
        return None if self.operation_time is None else self.operation_time.as_datetime()

    @classmethod
    def at_token(cls, token: ResumeToken, *, time: Timestamp | None = None, after_invalidate: bool = False) -> Position:
        """The position of ``token``; ``time`` is the event's cluster time when known, else the token is asked."""
        return cls(token, time or token.cluster_time, after_invalidate)

    def in_log(self) -> Position:
        """The position in the change log alone."""
        return Position(self.token, self.operation_time, self.after_invalidate)
