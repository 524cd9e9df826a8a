"""Where a stream stands, and over what: namespace, resume token, position."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Mapping
from dataclasses import dataclass
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
    """A resume token, opaque and stored as the server gave it."""

    document: Mapping[str, Any]

    @property
    def data(self) -> str:
        """The token's ``_data`` as text: MongoDB and DocumentDB send a hexadecimal string, 4.0.0 to 4.0.6 binary."""
        value = self.document.get("_data")
        if isinstance(value, str):
            return value
        if isinstance(value, bytes):
            return value.hex()
        return json.dumps(self.document, default=str, sort_keys=True)

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
class Position:
    """Where a stream stands: everything up to here has been delivered, nothing after it.

    Either a token, or, before the first token, an operation time (exclusive: events *after* it are still to come).

    Attributes:
        token: The last token, or None before the first.
        operation_time: The cluster time of the position, as far as it is known.
        after_invalidate: The token belongs to an ``invalidate`` event, which ``resumeAfter`` refuses (server error
            260); the stream is opened again with ``startAfter``, or by time where the server has none.
    """

    token: ResumeToken | None = None
    operation_time: Timestamp | None = None
    after_invalidate: bool = False

    @property
    def time(self) -> dt.datetime | None:
        """The position's cluster time as an aware datetime, or None when unknown."""
        return None if self.operation_time is None else self.operation_time.as_datetime()

    @classmethod
    def at_token(cls, token: ResumeToken, *, time: Timestamp | None = None, after_invalidate: bool = False) -> Position:
        """The position of ``token``; ``time`` is the event's cluster time when known, else the token is asked."""
        return cls(token, time or token.cluster_time, after_invalidate)
