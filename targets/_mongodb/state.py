"""What the target keeps of its own, in one collection beside what it writes.

Owns what the documents are called and what is in them: how far a stream has come, which version a document has, and
since when a collection is another one.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass, field
from typing import Any, Final

import bson
from bson import MaxKey, MinKey, Timestamp
from bson.raw_bson import RawBSONDocument
from pymongo import UpdateOne

from docdb_stream.context import current_run
from docdb_stream.errors import TargetError
from docdb_stream.formats import rawbson
from docdb_stream.mongodb.state import MARK
from docdb_stream.targets._mongodb.change import Update, Value, Write, document
from docdb_stream.targets._mongodb.errors import NAME

TOMBSTONE_DAYS: Final = 30
"""How long the version of a deleted document is kept. It has to outlive every change log that could bring the document
back: DocumentDB keeps seven days at most, and an oplog of more than some days is rare."""

REFUSED_MOST: Final = 10_000
"""Derived updates that are refused and remembered as such. More are no data, but a function that is wrong."""

Document = dict[str, Any]


def version_id(target: str, key: Value) -> RawBSONDocument:
    """The ``_id`` of what is known of a document of a collection."""
    return document(_text("n", target), key.named("i"))


def since_id(target: str, source: str) -> RawBSONDocument:
    """The ``_id`` of what is known of a collection that another one is mirrored to."""
    return document(_text("n", target), _text("s", source))


def since_touched(id: RawBSONDocument, mark: str) -> UpdateOne:
    """What changes nothing that is known of a collection, and yet lets one alone commit: this or a drop of it."""
    return UpdateOne({"_id": id}, {"$inc": {"touched": 1}, "$set": {MARK: mark}}, upsert=True)


def versions_of(target: str, source: str, before: Timestamp) -> Document:
    """The query for the versions of a collection's documents that are older."""
    low, high = ({"n": target, "i": end} for end in (MinKey(), MaxKey()))
    return {"_id": {"$gte": low, "$lte": high}, "s": source, "v": {"$lt": before}}


def key_of(version: RawBSONDocument) -> Value:
    """Which document a version is of."""
    return Value.of(rawbson.parts(bytes(version["_id"].raw))["i"])


def version_update(write: Write, mark: str) -> UpdateOne:
    """What notes that a document is written, or deleted."""
    known: Document = {"v": write.version, "s": write.source, MARK: mark}
    query = {"_id": version_id(write.target, write.key)}
    if write.document is not None:
        return UpdateOne(query, {"$set": known, "$unset": {"until": ""}}, upsert=True)
    until = dt.datetime.now(dt.UTC) + dt.timedelta(days=TOMBSTONE_DAYS)
    return UpdateOne(query, {"$set": {**known, "until": until}}, upsert=True)


@dataclass(slots=True)
class Progress:
    """How far a stream has come on the target: what is known of it, and what one transaction adds.

    Attributes:
        stream: The stream's name.
        mark: The mark of the state's documents.
        known: Its document, as the transaction sees it.
    """

    stream: str
    mark: str
    known: Document
    _new: list[bytes] = field(default_factory=list)
    _taken: list[bytes] = field(default_factory=list)
    _refused: list[bytes] = field(default_factory=list)
    _time: Timestamp | None = None
    _marks: frozenset[bytes] = frozenset()
    _were_refused: frozenset[bytes] = frozenset()

    def __post_init__(self) -> None:
        self._time = self.known.get("position")
        self._marks = frozenset(self.known.get("marks", ()))
        self._were_refused = frozenset(self.known.get("refused", ()))

    @staticmethod
    def id_of(stream: str) -> RawBSONDocument:
        """The ``_id`` of its document."""
        return document(_text("stream", stream))

    def check_epoch(self) -> None:
        """See that no later holder of the stream's lease has written here.

        Raises:
            TargetError: One has.
        """
        epoch, later = current_run().lease_epoch(), self.known.get("epoch")
        if epoch is None or later is None or later <= epoch:
            return
        current_run().check_lease()  # it mostly knows by now
        raise TargetError(
            NAME,
            f"a later run of stream {self.stream} has written here (epoch {later}, this one has {epoch})",
            hint="if one is running, all is well. If not, the stream's checkpoint was removed, or another deployment "
            f"has a stream of this name: give this one another STREAM_NAME, or remove the document {{_id: {{stream: "
            f'"{self.stream}"}}}} from MONGODB_TARGET_STATE, after which derived updates are applied once more',
        )

    def takes(self, update: Update) -> bool:
        """Whether a derived update is to be applied; asked in order. One that was is left out when it comes again."""
        if not update.is_ordered:
            return True
        if update.mark in self._were_refused:
            self._taken.append(update.mark)
            return True
        return self._passes(update)

    def refuse(self, update: Update) -> None:
        """Go past a derived update that the server does not take, and remember it: it can come again, redriven.

        Raises:
            TargetError: There are too many.
        """
        if not update.is_ordered:
            return
        if update.mark not in self._were_refused and len(self._were_refused) >= REFUSED_MOST:
            raise TargetError(
                NAME,
                f"{REFUSED_MOST:,} derived updates are refused",
                hint="correct the function, and redrive the dead letters; the checkpoint stands before the next one",
            )
        self._passes(update)
        self._refused.append(update.mark)

    @property
    def update(self) -> UpdateOne:
        """What notes all of it. It always changes the document, so that of two runs' transactions one is refused."""
        values: Document = {MARK: self.mark}
        changes: Document = {"$set": values, "$inc": {"transactions": 1}}
        if (epoch := current_run().lease_epoch()) is not None:
            values["epoch"] = epoch
        if self._time != self.known.get("position"):
            values |= {"position": self._time, "marks": self._new}
        elif self._new:
            changes["$push"] = {"marks": {"$each": self._new}}
        if self._taken:
            changes["$pull"] = {"refused": {"$in": self._taken}}
        if self._refused:
            changes["$addToSet"] = {"refused": {"$each": self._refused}}
        return UpdateOne({"_id": self.id_of(self.stream)}, changes, upsert=True)

    def _passes(self, update: Update) -> bool:
        """Whether it comes after all that passed before; then it is the last from now on.

        By cluster times, which grow along the stream. The events of one transaction share theirs; those that were
        there are remembered one by one, so that nothing hangs on how tokens are ordered.
        """
        if self._time is None or update.time > self._time:
            self._time, self._new = update.time, [update.mark]
            return True
        has_passed = update.time < self._time or update.mark in self._new
        if not has_passed and update.time == self.known.get("position"):
            has_passed = update.mark in self._marks
        if not has_passed:
            self._new.append(update.mark)
        return not has_passed


def _text(name: str, value: str) -> bytes:
    return next(iter(rawbson.parts(bson.encode({name: value})).values()))
