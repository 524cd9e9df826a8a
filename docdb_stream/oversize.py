"""Gets past a change event that is larger than the server can send (16 MiB with the looked-up document).

Owns the ladder: the event as whole as it can be had, else who it is, else past it. See docs/adr/0002.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import bson
from bson import Timestamp
from pymongo.errors import OperationFailure

from docdb_stream.cursor import Reply
from docdb_stream.events import Batch, ChangeEvent, Position
from docdb_stream.server_errors import Verdict, classify, is_unknown_option

logger = logging.getLogger(__name__)

READ_WAIT_S = 1.0
READS = 30
"""The event is known to be there, so one wait should do; a busy server gets some more before the read is given up."""

_CONTENT = ("fullDocument", "updateDescription", "fullDocumentBeforeChange")
_LARGEST_FIRST: tuple[tuple[str, bool, tuple[dict[str, Any], ...]], ...] = (
    ("split by the server", True, ({"$changeStreamSplitLargeEvent": {}},)),
    ("without updateDescription", True, ({"$project": {"updateDescription": 0}},)),
    ("without the looked-up document", False, ()),
    ("without the looked-up document and updateDescription", False, ({"$project": {"updateDescription": 0}},)),
)
"""How to ask for the event, the most complete first: name, look the document up?, pipeline stages. Splitting is there
from MongoDB 6.0.9 on."""
_ENVELOPE = ({"$project": dict.fromkeys(_CONTENT, 0)},)


class OversizeEventError(Exception):
    """The next event is larger than the server can send. The message is the server's."""


class Opener(Protocol):
    """Opens the change stream after a position in a given way; returns what gives the next reply."""

    def __call__(
        self, position: Position, *, lookup: bool, stages: Sequence[dict[str, Any]]
    ) -> Callable[[float], Reply]:
        """Look the document up or not; further pipeline stages."""
        ...


def read_oversize(open_after: Opener, position: Position, message: str) -> Batch:
    """The one event after ``position``, in the most complete form there is.

    An event whose content cannot be had at all comes as ``Batch.unreadable``: who it is, for the dead letters. One that
    cannot be had even so is stepped past by time.

    Args:
        open_after: Opens the stream.
        position: Just before the event.
        message: The server's error.

    Raises:
        PyMongoError: Other trouble than size; the call can be repeated.
    """
    envelope = _one(open_after, position, lookup=False, stages=_ENVELOPE)
    if envelope is None:
        return _past_by_time(open_after, position, message)
    # The token of the unsplit event: one of a fragment can be resumed after only by a stream that splits.
    after = Position.at_token(envelope.token, time=envelope.cluster_time)
    for how, lookup, stages in _LARGEST_FIRST:
        event = _one(open_after, position, lookup=lookup, stages=stages, token=envelope.document["_id"])
        if event is not None:
            logger.warning("event %s is too large to send whole; read %s", envelope.event_id, how)
            return Batch([event], after, event.size_bytes)
    return Batch([], after, unreadable=envelope, problem=f"larger than the server can send: {message}")


def _one(
    open_after: Opener,
    position: Position,
    *,
    lookup: bool,
    stages: Sequence[dict[str, Any]],
    token: Any = None,
) -> ChangeEvent | None:
    """The next event, put together from its fragments; None when it is too large this way, or the way unknown."""
    try:
        read = open_after(position, lookup=lookup, stages=stages)
        fragments: list[dict[str, Any]] = []
        for _ in range(READS):
            for raw in read(READ_WAIT_S).events:
                fragments.append(bson.decode(raw, _FRAGMENT_OPTIONS))
                split = fragments[-1].get("splitEvent")
                if split is None:
                    return ChangeEvent(raw)
                if split["fragment"] == split["of"]:
                    return _whole(fragments, token)
    except OperationFailure as error:
        if classify(error) is Verdict.OVERSIZE or is_unknown_option(error, next(iter(stages[0])) if stages else ""):
            return None
        raise
    return None


_FRAGMENT_OPTIONS: bson.CodecOptions[dict[str, Any]] = bson.CodecOptions(
    datetime_conversion=bson.DatetimeConversion.DATETIME_MS
)


def _whole(fragments: Sequence[dict[str, Any]], token: Any) -> ChangeEvent:
    """Each fragment holds some of the event's top-level fields; together they are the event."""
    whole: dict[str, Any] = {}
    for fragment in fragments:
        whole |= {name: value for name, value in fragment.items() if name not in ("_id", "splitEvent")}
    return ChangeEvent(bson.encode({"_id": token, **whole}, codec_options=_FRAGMENT_OPTIONS))


def _past_by_time(open_after: Opener, position: Position, message: str) -> Batch:
    """Start again a little later, in growing steps, until the next event can be read or there is none."""
    assert position.operation_time is not None, "a stream that has begun has a time"
    step_s = 1
    while True:
        later = Position(operation_time=Timestamp(position.operation_time.time + step_s, 0))
        try:
            open_after(later, lookup=False, stages=_ENVELOPE)(0.01)
        except OperationFailure as error:
            if classify(error) is not Verdict.OVERSIZE:
                raise
            step_s *= 2
        else:
            return Batch([], later, problem=f"stepped past {step_s} s that cannot be read: {message}")
