"""The state database: the collections that hold checkpoints, the ledger and dead letters.

Owns how each of them is opened, whatever the connection string says of reading and writing, and how their documents are
told from the users' own in a change stream. What is in them is the stores'.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import bson
from bson.codec_options import CodecOptions
from pymongo import ReadPreference, WriteConcern
from pymongo.collection import Collection
from pymongo.errors import OperationFailure
from pymongo.read_concern import ReadConcern
from pymongo.results import DeleteResult, InsertOneResult, UpdateResult

from docdb_stream.errors import UnrenderableError
from docdb_stream.events import ChangeEvent
from docdb_stream.formats import rawbson
from docdb_stream.mongodb.connection import Connection
from docdb_stream.mongodb.diagnosis import UNAUTHORIZED
from docdb_stream.position import Namespace
from docdb_stream.settings import Settings

T = TypeVar("T")
Document = dict[str, Any]

MARK = "docdb_stream_state"
"""The field that every document of the state has; its value is the namespace of its collection. A copy of such a
document elsewhere is a user's: its mark names another namespace."""

_MARK_BYTES = b"\x02" + MARK.encode() + b"\x00"
"""The mark's type and name as BSON has them: an event without these bytes holds no marked document."""

_WITHOUT_LEVEL = frozenset({9, 72, 115, 123, 148, 238, 303})
"""How a server says that it has not got a read concern: FailedToParse, InvalidOptions, CommandNotSupported,
NotAReplicaSet (a standalone mongod), ReadConcernMajorityNotEnabled, NotImplemented; 303 is DocumentDB's "feature not
supported"."""


class StateCollection:
    """One collection of the state, and the only way to reach it. The methods are PyMongo's, and raise its errors.

    The connection string has no say in it, not even in how dates are decoded. Everything is read from the primary and
    acknowledged by a majority, and reads show neither what can be rolled back nor what is out of date. A server without
    read concerns has nothing of the kind to show: DocumentDB's primary reads what is durable, a standalone mongod is
    alone.

    Constructing does no network traffic.

    Args:
        connection: To the cluster; its owner closes it.
        db: STATE_DB.
        name: The collection's name.
    """

    def __init__(self, connection: Connection, db: str, name: str) -> None:
        self._connection = connection
        self._namespace = Namespace(db, name)
        self._mark = {MARK: str(self._namespace)}

    def find_one(
        self, query: Mapping[str, Any], projection: Mapping[str, Any] | None = None, *, latest: bool = False
    ) -> Document | None:
        """One document.

        Args:
            query: Which one.
            projection: Which of its fields.
            latest: As every write that was acknowledged before has left it, also right after a failover. Costs the
                server a round to its majority.
        """
        levels = ("linearizable", "majority", None) if latest else ("majority", None)
        found = self._read(lambda collection: collection.find_one(query, projection), *levels)
        return None if found is None else _unmarked(found)

    def find(
        self,
        query: Mapping[str, Any],
        projection: Mapping[str, Any] | None = None,
        *,
        sort: Sequence[tuple[str, int]] | None = None,
    ) -> Iterator[Document]:
        """The documents, one after the other as they are asked for."""

        def ask(collection: Collection[Document]) -> tuple[Document | None, Iterator[Document]]:
            cursor = collection.find(query, projection, sort=sort)
            return next(cursor, None), cursor  # the first is what asks the server

        first, rest = self._read(ask, "majority", None)
        if first is not None:
            yield _unmarked(first)
            yield from map(_unmarked, rest)

    def insert_one(self, document: Mapping[str, Any]) -> InsertOneResult:
        """Insert a document."""
        return self._open().insert_one({**document, **self._mark})

    def replace_one(
        self, query: Mapping[str, Any], document: Mapping[str, Any], *, upsert: bool = False
    ) -> UpdateResult:
        """Replace a document by another."""
        return self._open().replace_one(query, {**document, **self._mark}, upsert=upsert)

    def update_one(self, query: Mapping[str, Any], update: Mapping[str, Any], *, upsert: bool = False) -> UpdateResult:
        """Change a document by update operators."""
        return self._open().update_one(
            query, {**update, "$set": {**update.get("$set", {}), **self._mark}}, upsert=upsert
        )

    def delete_many(self, query: Mapping[str, Any]) -> DeleteResult:
        """Delete documents."""
        return self._open().delete_many(query)

    def rehearse(self) -> None:
        """Write as a run does, in a transaction that is aborted: not even a collection stays that was not there."""
        collection = self._open()
        this = {"_id": f"docdb-stream doctor {uuid.uuid4().hex}"}
        change = {"$set": {"written": True}}
        try:
            with self._connection.client.start_session() as session:
                session.start_transaction(read_preference=ReadPreference.PRIMARY)
                collection.insert_one({**this, **self._mark}, session=session)
                collection.update_one(this, change, session=session)
                collection.delete_one(this, session=session)
                session.abort_transaction()
        except OperationFailure as error:
            if error.code == UNAUTHORIZED:
                raise
            # There are servers without transactions, or without new collections in one. That it may be written to
            # shows without a document, too.
            collection.update_one(this, change)
            collection.delete_one(this)

    def _read(self, ask: Callable[[Collection[Document]], T], *levels: str | None) -> T:
        """Ask at the first of the levels that the server has."""
        for level in levels[:-1]:
            try:
                return ask(self._open(level))
            except OperationFailure as error:
                if error.code not in _WITHOUT_LEVEL:
                    raise
        return ask(self._open(levels[-1]))

    def _open(self, level: str | None = None) -> Collection[Document]:
        return self._connection.client[self._namespace.db].get_collection(
            str(self._namespace.coll),
            codec_options=CodecOptions(),
            read_preference=ReadPreference.PRIMARY,
            read_concern=ReadConcern(level),
            write_concern=WriteConcern(w="majority"),
        )


def _unmarked(document: Document) -> Document:
    document.pop(MARK, None)
    return document


def is_state(document: bytes, namespace: Namespace) -> bool:
    """Whether a stored document is the state of a docdb-stream, of whichever deployment: its mark says so."""
    if _MARK_BYTES not in document:
        return False
    try:
        return rawbson.element(document, MARK) == rawbson.first(bson.encode({MARK: str(namespace)}))
    except UnrenderableError:
        return False


def state_of(settings: Settings) -> frozenset[Namespace]:
    """The collections in which a stream's deployment keeps its state."""
    names = (
        settings.state_collection,
        settings.dead_letters_collection,
        settings.ledger_collection,
        settings.schemas_collection,
        settings.shares_collection,
    )
    return frozenset(Namespace(settings.state_db, name) for name in names)


class StateEvents:
    """Knows the events of the state, of this deployment and of all others, in a stream that covers it.

    A stream would otherwise deliver every checkpoint, and each delivery makes one; two streams, each other's. The
    documents of other deployments are known by their marks. What shows no document (a delete) goes by its collection:
    it is the state's while it has shown marked documents and no other. From a collection that has shown none yet it is
    taken for a user's: such events come one by one, by an operator's hand, and none makes another.

    Args:
        settings: Where this deployment keeps its state, which is known from the start.
    """

    def __init__(self, settings: Settings) -> None:
        self._own = {*state_of(settings)}
        self._own.update(*(target.state for target in settings.targets.values()))
        self._traces = {_MARK_BYTES, *(f"{own.coll}\0".encode() for own in self._own)}
        self._others: set[Namespace] = set()
        self._mixed: set[Namespace] = set()

    def has(self, event: ChangeEvent) -> bool:
        """Whether the event is about the state. Events are shown in their order."""
        if not self._has_trace(event.raw):
            return False
        namespace = event.namespace
        if namespace in self._own:
            return True
        known = namespace in self._others
        if not known and (event.raw is None or _MARK_BYTES not in event.raw):
            return False
        document = event.full_document
        if document is None:
            if event.operation in ("drop", "rename"):  # its name may be anybody's from now on
                self._others.discard(namespace)
            return known
        marked = document.get(MARK) == str(namespace)
        if not marked:
            self._mixed.add(namespace)
            self._others.discard(namespace)
        elif namespace not in self._mixed:
            self._others.add(namespace)
            self._traces.add(f"{namespace.coll}\0".encode())
        return marked

    def may_have(self, raws: Iterable[bytes]) -> bool:
        """Whether one of these events may be about the state: a no costs next to nothing, and is the usual answer."""
        return self._has_trace(b"".join(raws))

    def _has_trace(self, raw: bytes | None) -> bool:
        """Whether the bytes hold a mark, or a name of the collections that are known."""
        return raw is None or any(trace in raw for trace in self._traces)
