"""Gets past a change event that is larger than the server can send (16 MiB, its reply included).

Owns the ladder: the event whole, else in parts, else what can be known of it. Never past an event that the server did
not look at. See docs/adr/0002.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Collection, Sequence
from typing import Any, Protocol

import bson
from bson import Timestamp
from pymongo.errors import AutoReconnect, OperationFailure

from docdb_stream.errors import HistoryLostError
from docdb_stream.events import Batch, ChangeEvent, Rejection
from docdb_stream.formats import rawbson
from docdb_stream.mongodb.cursor import Reply
from docdb_stream.mongodb.diagnosis import server_message
from docdb_stream.mongodb.errors import Verdict, classify, is_cut_off
from docdb_stream.position import Position, ResumeToken
from docdb_stream.source import SOURCE

logger = logging.getLogger(__name__)

READ_WAIT_S = 1.0
READS = 10
"""The event is known to be there, so one wait should do. A busy server gets some more, and one that is idle the ten
seconds after which it says how far it has looked (MongoDB's periodicNoopIntervalSecs); then all begins anew."""

CUTS = 3
"""Replies in a row that the server cut off at one position, after which they may be too large rather than unlucky."""

Stages = tuple[dict[str, Any], ...]

_PARTS = ("documentKey", "fullDocument", "updateDescription", "fullDocumentBeforeChange")
"""What can be large in an event; each comes alone where they do not fit together."""
_INDISPENSABLE = frozenset({"documentKey", "fullDocument"})
"""Without one of these an event would be taken for another: a document that is gone, or none at all."""
_IMAGES = frozenset({"fullDocument", "fullDocumentBeforeChange"})
"""What the server adds to an event where it is asked to, each by an option of this name."""
_WITHOUT_PARTS: Stages = ({"$project": dict.fromkeys(_PARTS, 0)},)
_SPLIT: Stages = ({"$changeStreamSplitLargeEvent": {}},)
"""MongoDB 6.0.9 and later. The last stage there may be."""
_THREE_TIMES: Stages = ({"$addFields": {"again": "$$ROOT", "more": "$$ROOT"}},)
"""More than 16 MiB, which the server says in words, if the event is more than a third of that. One whose reply does not
fit is at least half: its token comes twice, once in the event and once as the position after it."""

_HEAD_DIGITS = 100
"""Of a token, as hexadecimal digits: cluster time, number in the transaction, collection (about 70), and then the
document key, which makes it large."""
_NAMED_IN_THE_ERROR: Stages = (
    {
        "$replaceRoot": {
            "newRoot": {
                "event": {
                    "token": {"$substrBytes": ["$_id._data", 0, _HEAD_DIGITS]},
                    "operation": "$operationType",
                    "db": "$ns.db",
                    "coll": "$ns.coll",
                },
                "_id": "$_id",
                "again": "$$ROOT",
                "more": "$$ROOT",
            }
        }
    },
)
"""The server's error about a large object quotes its first element, and so names an event that can never be sent."""
_NAMED = re.compile(
    r'First element: event: \{ token: "(?P<token>[0-9A-F]+)", operation: "(?P<operation>\w+)"'
    r'(?:, db: "(?P<db>[^"]*)")?(?:, coll: "(?P<coll>.*)")? \}'
)
_FIND_LARGE_KEYS = "they are among find({$expr: {$gt: [{$bsonSize: {_id: '$_id'}}, 4000000]}})"


class OversizeEventError(Exception):
    """The next event is larger than the server can send. The message is the server's.

    Args:
        message: What went wrong.
        certain: The server said so, instead of cutting its replies off.
    """

    def __init__(self, message: str, *, certain: bool = True) -> None:
        super().__init__(message)
        self.certain = certain


class Opener(Protocol):
    """Opens the change stream after a position in a given way; returns what gives the next reply."""

    def __call__(
        self, position: Position, *, images: Collection[str], stages: Sequence[dict[str, Any]]
    ) -> Callable[[float], Reply]:
        """With no other images of the document than these, as far as the stream has any; further pipeline stages."""
        ...


def read_oversize(
    open_after: Opener,
    position: Position,
    message: str,
    *,
    certain: bool = True,
    required: Collection[str] = (),
) -> Batch:
    """The one event after ``position``, in the most complete form there is.

    An event that cannot be had with its key and its document comes in ``Batch.rejected``, for the dead letters. So do
    those of which the server can send nothing at all, not even the token: as far as its errors name them, and together
    with what follows them. The batch is empty, and the position unmoved, when nothing is there after all.

    Args:
        open_after: Opens the stream.
        position: Just before the event.
        message: The server's error.
        certain: It says that the event is too large; else it may be read whole after all.
        required: The images without which the stream wants no event.

    Raises:
        PyMongoError: Other trouble than size; the call can be repeated.
        HistoryLostError: Nothing leads past the event.
    """
    reading = _Reading(open_after, position, message.partition(" First element")[0], _INDISPENSABLE.union(required))
    try:
        base = reading.sendable()
        return reading.whole(base, certain) or reading.in_parts(base)
    except _NothingThereError:
        return reading.nothing()


class _TooLargeError(Exception):
    """In this way the event is too large, or the server does not know the way."""


class _NothingThereError(Exception):
    """The server had nothing to say for READS waits."""


class _Reading:
    """The reading of one event, whose parts are whole BSON elements by name."""

    def __init__(self, open_after: Opener, position: Position, message: str, indispensable: Collection[str]) -> None:
        self._indispensable = frozenset(indispensable)
        self._open_after = open_after
        self._position = position
        self._message = message
        self._left_out: list[ChangeEvent] = []
        self._looked_up_to: ResumeToken | None = None
        self._read_at: Timestamp | None = None

    def sendable(self) -> dict[str, bytes]:
        """The next event of which the server can send anything, without what can be large; any before it are left out
        from now on."""
        while True:
            try:
                return self._event(images=(), stages=_WITHOUT_PARTS)
            except _TooLargeError:
                self._leave_out()

    def whole(self, base: dict[str, bytes], too_large: bool) -> Batch | None:
        """The event with all that is in it; None when that is too large in every way."""
        ways: list[tuple[str, Stages]] = [("whole", ()), ("split by the server", _SPLIT)]
        for how, stages in ways[1:] if too_large and not self._left_out else ways:
            try:
                event = self._event(images=_IMAGES, stages=stages)
            except _TooLargeError:
                continue
            logger.info("a large event at %s was read %s", self._position.time, how)
            # The token of the unsplit event: one of a fragment can be resumed after only by a stream that splits.
            return self._batch({"_id": base["_id"]} | event | {"_id": base["_id"]}, ())
        return None

    def in_parts(self, base: dict[str, bytes]) -> Batch:
        """The event put together from what can be sent of it."""
        event, missing = dict(base), []
        for name in _PARTS:
            try:
                part = self._event(images=_IMAGES & {name}, stages=({"$project": {name: 1}},))
            except _TooLargeError:
                missing.append(name)
            else:
                event |= {key: element for key, element in part.items() if key == name}
        return self._batch(event, missing)

    def nothing(self) -> Batch:
        """Nothing after the events left out, if any: the server has to have looked further than they are."""
        reached = self._looked_up_to
        if not self._left_out or reached is None or reached.data <= _end_of(self._left_out[-1]):
            return Batch([], self._position)
        gap = self._gap(())
        return Batch([], Position.at_token(reached), rejected=_rejected(self._left_out, gap), gap=gap)

    def _batch(self, parts: dict[str, bytes], missing: Sequence[str]) -> Batch:
        event = ChangeEvent(rawbson.joined(parts.values()))
        invalidated = event.operation == "invalidate"
        after = Position.at_token(event.token, time=event.cluster_time, after_invalidate=invalidated)
        gap = self._gap(missing)
        if self._indispensable.intersection(missing):
            return Batch([], after, rejected=_rejected([*self._left_out, event], gap), gap=gap)
        rejected = _rejected(self._left_out, gap)
        return Batch([event], after, event.size_bytes, rejected=rejected, gap=gap, read_at=self._read_at)

    def _gap(self, missing: Sequence[str]) -> str | None:
        """What is not read, and why; None where all is."""
        problems = []
        if self._left_out:
            problems.append(f"passed over {len(self._left_out)} by a key too large to send; {_FIND_LARGE_KEYS}")
        if missing:
            problems.append(f"read without {', '.join(missing)}, too large to send: {self._message}")
        return "; ".join(problems) or None

    def _leave_out(self) -> None:
        """Have the server leave out the next event, which it cannot name but in an error."""
        try:
            self._read(images=(), stages=_NAMED_IN_THE_ERROR)
        except OperationFailure as error:
            if classify(error) is not Verdict.OVERSIZE:
                raise
            named = _NAMED.search(server_message(error))
            if named is not None:
                self._left_out.append(_known_of(named))
                return
        raise HistoryLostError(
            f"the event after {self._position.time} cannot be read in any way: {self._message}",
            hint="docdb-stream reset to a time after it; what happened between is lost to this stream",
        )

    def _event(self, *, images: Collection[str], stages: Stages) -> dict[str, bytes]:
        """The next event in this way.

        Raises:
            _TooLargeError: The server says so, or says it of three times the event and cut off CUTS replies.
        """
        large = False
        for _ in range(CUTS):
            try:
                return self._read(images=images, stages=stages)
            except OperationFailure as error:
                verdict = classify(error)
                # Servers do not know how to split, or know it and cannot (MongoDB 6.0.27 with most of its own tokens).
                if verdict is Verdict.OVERSIZE or (verdict is Verdict.FATAL and stages is _SPLIT):
                    raise _TooLargeError from error
                raise
            except AutoReconnect as error:
                large = is_cut_off(error) and (large or self._is_large(images, stages))
                if not large:
                    raise
        raise _TooLargeError

    def _is_large(self, images: Collection[str], stages: Stages) -> bool:
        try:
            self._read(images=images, stages=(*(stages if stages is not _SPLIT else ()), *_THREE_TIMES))
        except OperationFailure as error:
            return classify(error) is Verdict.OVERSIZE
        return False

    def _read(self, *, images: Collection[str], stages: Stages) -> dict[str, bytes]:
        """The next event, put together from its fragments where it is split: each holds some of its elements."""
        self._looked_up_to = None
        # These alone: the server has to meet the event of the position, too, or calls the token invalid. By $or, since
        # MongoDB 6.0 fails over $nor when it makes a filter of its log out of this one.
        without = [
            {"$match": {"$or": [{"_id._data": {"$lt": event.event_id}}, {"_id._data": {"$gt": _end_of(event)}}]}}
            for event in self._left_out
        ]
        read = self._open_after(self._position, images=images, stages=(*without, *stages))
        event: dict[str, bytes] = {}
        for _ in range(READS):
            reply = read(READ_WAIT_S)
            token = reply.post_batch_token
            self._looked_up_to = None if token is None else ResumeToken(token)
            self._read_at = reply.operation_time
            for raw in reply.events:
                event |= rawbson.parts(raw)
                split = event.pop("splitEvent", None)
                if split is None or _is_last(split):
                    return event
        raise _NothingThereError


def _rejected(events: Sequence[ChangeEvent], gap: str | None) -> list[Rejection]:
    """For the dead letters, in the name of the source."""
    return [Rejection(event, SOURCE, gap or "") for event in events]


def _is_last(split: bytes) -> bool:
    """Whether the fragment with this ``splitEvent`` completes its event."""
    found = bson.decode(rawbson.joined([split]))["splitEvent"]
    return bool(found["fragment"] == found["of"])


def _end_of(event: ChangeEvent) -> str:
    """What is more than every token with this head, and less than those after them."""
    return event.event_id + "~"


def _known_of(named: re.Match[str]) -> ChangeEvent:
    """What an error tells of an event, as an event; its id is the head of the token."""
    token = ResumeToken({"_data": named["token"]})
    namespace = {key: named[key] for key in ("db", "coll") if named[key] is not None}
    return ChangeEvent(
        bson.encode(
            {
                "_id": token.value,
                "operationType": named["operation"],
                "clusterTime": token.cluster_time,
                "ns": namespace,
            }
        )
    )
