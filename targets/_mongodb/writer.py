"""Writes changes within transactions: with each goes what keeps it from being done twice, late, or by two runs.

Owns the transaction: what is read first, who wins, in which order it is written. What is to be written is ``change``'s,
what is kept for it ``state``'s.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import bson
from bson import Timestamp
from bson.errors import BSONError
from bson.raw_bson import RawBSONDocument
from pymongo import DeleteOne, ReadPreference, ReplaceOne, UpdateOne, WriteConcern
from pymongo.client_session import ClientSession
from pymongo.collection import Collection
from pymongo.database import Database
from pymongo.errors import OperationFailure, PyMongoError
from pymongo.read_concern import ReadConcern

from docdb_stream.context import check_lease, current_run
from docdb_stream.errors import UnrenderableError
from docdb_stream.mongodb.connection import Connection
from docdb_stream.mongodb.diagnosis import server_message
from docdb_stream.mongodb.state import MARK
from docdb_stream.position import Namespace
from docdb_stream.targets._mongodb.change import RAW, Change, Update, Value, Write
from docdb_stream.targets._mongodb.errors import (
    INVALID_NAMESPACE,
    NAMESPACE_EXISTS,
    RefusedError,
    passes,
    raise_refused,
    trouble,
)
from docdb_stream.targets._mongodb.state import (
    Progress,
    since_id,
    since_touched,
    version_id,
    version_update,
    versions_of,
)

TRANSACTION_CHANGES = 500
TRANSACTION_BYTES = 8 * 1024 * 1024
"""At most so much in one transaction, one change at least: DocumentDB's take a minute, and 32 MB of its log (developer
guide, "Transactions", "Limitations"), in which there are the versions, too, and an update both before and after."""

logger = logging.getLogger(__name__)

Operation = UpdateOne | ReplaceOne[Any] | DeleteOne
Raws = Collection[RawBSONDocument]


class Writer:
    """Writes to the target's server.

    Args:
        connection: To it; its owner closes it.
        state: The collection of the target's state.
        stream: The stream's name.
    """

    def __init__(self, connection: Connection, state: Namespace, stream: str) -> None:
        self._connection = connection
        self._state = state
        self._mark = str(state)
        self._stream = stream
        self._made: set[str] = set()
        self._session: ClientSession | None = None

    def prepare(self) -> None:
        """Make the state's collection. Raises TargetError."""
        self.patiently(self._session_now)  # first: a transaction that was left open can keep indexes from being made
        self.patiently(lambda: self._collection(str(self._state)).create_index("until", expireAfterSeconds=0))

    def write(self, changes: Sequence[Change]) -> None:
        """Write changes, all of them or none: of each document the last, unless what is there is newer; derived
        updates that were not there yet.

        Raises:
            RefusedError: The server does not take one of them.
            TargetError: The server cannot be reached, refuses the user, or a later run has taken over.
        """
        for target in dict.fromkeys(each.target for each in changes):
            self.make(target)
        self.transact(lambda session: self._write(session, changes))

    def refuse(self, update: Update) -> None:
        """Note that a derived update is refused. Raises TargetError."""

        def note(session: ClientSession) -> None:
            progress = self.progress(self.known(session, []))
            progress.check_epoch()
            progress.refuse(update)
            self.keep(session, [progress.update])

        self.transact(note)

    def transact(self, body: Callable[[ClientSession], None]) -> None:
        """Do ``body`` within a transaction that is durable on return; again and again while that fails for reasons
        that pass. It is safe to repeat: what was committed all the same is known by its versions and the position.

        Raises:
            RefusedError: ``body`` did.
            TargetError: It cannot be done, or not in time.
        """

        def attempt() -> None:
            check_lease()
            session = self._session_now()
            with session.start_transaction(
                read_concern=ReadConcern("snapshot"),
                write_concern=WriteConcern("majority"),
                read_preference=ReadPreference.PRIMARY,
            ):
                body(session)

        self.patiently(attempt)

    def patiently(self, attempt: Callable[[], object]) -> None:
        """Do what is safe to repeat, as long as what is in its way may pass. Raises TargetError."""
        try:
            self._connection.patiently(attempt, passes=passes)
        except PyMongoError as error:
            self._made.clear()
            self._session = None
            raise trouble(error, self._connection.uri) from error

    def known(self, session: ClientSession, ids: Sequence[RawBSONDocument]) -> dict[bytes, RawBSONDocument]:
        """What the state has of these, and of the stream, by the ``_id``'s BSON."""
        wanted = [Progress.id_of(self._stream), *ids]
        state = self._collection(str(self._state))
        found = {
            bytes(each["_id"].raw): each
            for each in state.find({"_id": {"$in": wanted}}, session=session, batch_size=len(wanted) + 1)
        }
        asked = {bytes(each.raw) for each in wanted}
        if not asked.issuperset(found):  # a number of another type is the same _id, and has other bytes
            for each in wanted:
                if bytes(each.raw) not in found and (other := state.find_one({"_id": each}, session=session)):
                    found[bytes(each.raw)] = other
        return found

    def progress(self, known: Mapping[bytes, RawBSONDocument]) -> Progress:
        """The stream's progress, by what the state has."""
        raw = known.get(bytes(Progress.id_of(self._stream).raw))
        return Progress(self._stream, self._mark, {} if raw is None else bson.decode(raw.raw))

    def keep(self, session: ClientSession, updates: Sequence[Operation]) -> None:
        """Write to the state. Raises RefusedError."""
        self._bulk(session, self._collection(str(self._state)), updates)

    def apply(self, session: ClientSession, target: str, operations: Sequence[Operation]) -> None:
        """Write to a collection, in this order. Raises RefusedError."""
        self._bulk(session, self._collection(target), operations)

    def find(self, session: ClientSession, target: str, query: Mapping[str, Any], limit: int = 0) -> Any:
        """A cursor over documents, as BSON."""
        return self._collection(target).find(query, session=session, limit=limit)

    def versions(self, session: ClientSession, target: str, source: str, before: Timestamp) -> list[RawBSONDocument]:
        """Versions of a collection's documents that are older: some, as long as there are any."""
        query = versions_of(target, source, before)
        return list(self.find(session, str(self._state), query, TRANSACTION_CHANGES))

    @property
    def mark(self) -> str:
        """The mark of the state's documents."""
        return self._mark

    def _write(self, session: ClientSession, changes: Sequence[Change]) -> None:
        writes = _last([each for each in changes if isinstance(each, Write)])
        ids = [version_id(each.target, each.key) for each in writes]
        sinces = {(each.target, each.source): since_id(each.target, each.source) for each in writes}
        known = self.known(session, [*ids, *sinces.values()])
        progress = self.progress(known)
        progress.check_epoch()
        newest = [
            write
            for write, version in zip(writes, ids, strict=True)
            if _wins(write, known, version, sinces[write.target, write.source])
        ]
        updates = [each for each in changes if isinstance(each, Update) and progress.takes(each)]
        if not newest and not updates:
            return
        guards: list[Operation] = [progress.update]
        if current_run().lease_epoch() is None and not any(each.is_ordered for each in updates):
            # It is beside a run, with which it would take turns at the stream's progress: what is left to see to is
            # that no collection is dropped between the look and the write.
            collections = sorted({(each.target, each.source) for each in newest if not current_run().is_sharded})
            guards = [since_touched(sinces[each], self._mark) for each in collections]
        self.keep(session, [*guards, *(version_update(each, self._mark) for each in newest)])
        for target, operations in _by_target(newest, updates).items():
            self.apply(session, target, operations)

    def _bulk(self, session: ClientSession, collection: Raws, operations: Sequence[Operation]) -> None:
        if not operations:
            return
        try:
            collection.bulk_write(operations, session=session)
        except (PyMongoError, BSONError) as error:
            raise_refused(error)

    def _session_now(self) -> ClientSession:
        """One session for all transactions: a new one in it ends what is left of the one before, on the server, too."""
        client = self._connection.client
        if self._session is None or self._session.client is not client:
            self._session = client.start_session()
            if not current_run().is_sharded:  # the last one's could be that of another part, which lives
                self._end_last(self._session)
        return self._session

    def _end_last(self, session: ClientSession) -> None:
        """End the last run's session. If that run died within a transaction, the server would hold what it wrote for
        another minute (transactionLifetimeLimitSeconds), and all who write the same would have to wait. A run that
        lives does its transaction again."""
        beside = current_run().lease_epoch() is None  # what has no lease comes beside a run, and not after it
        id_of = {"_id": {"session": self._stream, "beside": beside}}
        known = {"lsid": session.session_id["id"], MARK: self._mark}
        last = self._collection(str(self._state)).find_one_and_update(id_of, {"$set": known}, upsert=True)
        if last is not None:
            try:
                session.client.admin.command("killSessions", [{"id": last["lsid"]}])
            except OperationFailure as error:
                logger.info("the last run's session is not ended, but will end by itself: %s", server_message(error))

    def make(self, target: str) -> None:
        """Make a collection that may be there: MongoDB 4.2 and DocumentDB make none within transactions.

        Raises:
            RefusedError: There can be none of this name.
            TargetError: It cannot be made.
        """
        if target in self._made:
            return
        namespace = Namespace(*target.split(".", 1))

        def attempt() -> None:
            try:
                self._connection.client[namespace.db].create_collection(str(namespace.coll), check_exists=False)
            except OperationFailure as error:
                if error.code == INVALID_NAMESPACE:
                    raise RefusedError(INVALID_NAMESPACE, "refused: no collection can have the name") from error
                if error.code != NAMESPACE_EXISTS:
                    raise

        self.patiently(attempt)
        self._made.add(target)

    def _collection(self, target: str) -> Raws:
        db, _, coll = target.partition(".")
        database: Database[RawBSONDocument] = self._connection.client.get_database(db, codec_options=RAW)  # type: ignore[assignment]
        return database.get_collection(
            coll,
            read_preference=ReadPreference.PRIMARY,
            write_concern=WriteConcern("majority"),
            read_concern=ReadConcern(),
        )


def _last(writes: Iterable[Write]) -> list[Write]:
    """Of each document the last, in the order of these. A snapshot's is older than a change before it."""
    found: dict[tuple[str, Value | str], Write] = {}
    for each in writes:
        place = each.target, _identity(each)
        before = found.get(place)
        if before is None or each.version >= before.version:
            found.pop(place, None)
            found[place] = each
    return [*found.values()]


_NUMBERS_INSIDE = frozenset({b"\x01", b"\x03", b"\x10", b"\x12", b"\x13"})
"""Of BSON: a double, a document, int32, int64, decimal128."""


def _identity(write: Write) -> Value | str:
    """The same for what the server takes for one ``_id``, as 1 and 1.0: a replacement may turn one into the other."""
    if write.key.type in _NUMBERS_INSIDE:
        with contextlib.suppress(UnrenderableError):  # such a key has one form only that could be meant
            return write.event.key or write.key
    return write.key


def _wins(
    write: Write, known: Mapping[bytes, RawBSONDocument], version: RawBSONDocument, since: RawBSONDocument
) -> bool:
    """Whether nothing newer is there: equal versions are of one transaction, or of the same event again."""
    rivals = (known.get(bytes(each.raw)) for each in (version, since))
    known_since = (None if rival is None else rival.get("v") for rival in rivals)
    return all(since is None or write.version >= since for since in known_since)


def _by_target(writes: Iterable[Write], updates: Iterable[Update]) -> dict[str, list[Operation]]:
    """What to write to each collection, in order. What is deleted goes first, as it may hold what others are to have
    in a unique index."""
    found: dict[str, list[Operation]] = {}
    for write in sorted(writes, key=lambda each: each.document is not None):
        operation: Operation = (
            DeleteOne(write.key.query)
            if write.document is None
            else ReplaceOne(write.key.query, write.document, upsert=True)
        )
        found.setdefault(write.target, []).append(operation)
    for update in updates:
        found.setdefault(update.target, []).append(UpdateOne(update.query, update.operators, upsert=True))
    return found
