"""Reads what collections hold, a page at a time, for snapshots and comparisons.

Owns the queries: short, sorted by ``_id``, each complete in one reply, so that no cursor has to live on. Nothing is
written, and nothing is asked for that DocumentDB has not got. What comes after a key is ``brackets``'.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, TypeVar
from uuid import UUID

import bson
from bson import Timestamp
from bson.codec_options import CodecOptions
from bson.errors import BSONError
from bson.raw_bson import RawBSONDocument
from pymongo import ReadPreference
from pymongo.errors import OperationFailure, PyMongoError

from docdb_stream.errors import ConfigError, SourceUnavailableError
from docdb_stream.formats import rawbson
from docdb_stream.formats.key import element_key
from docdb_stream.formats.reader import to_bson
from docdb_stream.mongodb.brackets import segments
from docdb_stream.mongodb.connection import Connection
from docdb_stream.mongodb.diagnosis import AUTHENTICATION_FAILED, UNAUTHORIZED, server_message, unavailable
from docdb_stream.mongodb.errors import Verdict, classify
from docdb_stream.mongodb.state import is_state, state_of
from docdb_stream.namespaces import INTERNAL_DATABASES
from docdb_stream.position import Namespace, SnapshotRange
from docdb_stream.settings import Settings
from docdb_stream.snapshot_event import id_element
from docdb_stream.source import Page

logger = logging.getLogger(__name__)

T = TypeVar("T")

SCANNED_DOCUMENTS: Final = 10_000
"""How many documents a query with ``match`` looks at: one that matches few of many must not take longer than a server,
or what is before it, waits."""

SAMPLES_PER_RANGE: Final = 20
"""Documents of which every so many-th is a boundary: ranges then differ by about a quarter in size (the deviation of
such a quantile is a share of one by the square root of this)."""

RANGE_DOCUMENTS_LEAST: Final = 1_000
"""Below so many documents, ranges of their own bring nothing."""

_RAW: Final[CodecOptions[RawBSONDocument]] = CodecOptions(RawBSONDocument)
_NO_MAJORITY: Final = frozenset({148, 238})
"""ReadConcernMajorityNotEnabled, NotImplemented (the server's error_codes.yml)."""
_NO_COLLECTIONS: Final = frozenset({"view", "timeseries"})


class MongoDocuments:
    """The documents of MongoDB or Amazon DocumentDB that a stream watches. See ``LookupSource``.

    Where the server has causal consistency (it gives a ``$clusterTime``), pages are read as a majority has them, not
    before ``since``, from where the connection string's readPreference says. Any other is asked at its primary, which
    shows all that it has acknowledged.

    Constructing does no network traffic.

    Args:
        settings: The cluster, and what is watched.
        connection: To the cluster; its owner closes it.
        blocks: Whoever calls ``read`` can be left waiting for a server that has stopped answering: it is a thread that
            nobody waits for. Otherwise each call costs a thread of its own.
    """

    def __init__(self, settings: Settings, connection: Connection, *, blocks: bool = False) -> None:
        self._settings = settings
        self._connection = connection
        self._blocks = blocks
        self._is_causal: bool | None = None
        self._level = "majority"
        self._hint: Mapping[str, Any] = {"hint": {"_id": 1}}
        self._may_be_state = settings.scope is None or settings.scope.coll is None

    def collections(self) -> Sequence[Namespace]:
        """See DocumentSource.

        Raises:
            ConfigError: The one collection that the stream watches is none that can be read so.
        """
        scope = self._settings.scope
        if scope is not None and scope.coll is not None:
            self._check_kind(scope)
            return [scope]
        own = {*state_of(self._settings)}.union(*(target.state for target in self._settings.targets.values()))
        found = [namespace for db in self._databases() for namespace in self._collections_of(db)]
        return [each for each in found if each not in own and self._settings.watches(each)]

    def ranges(self, namespace: Namespace, count: int) -> Sequence[SnapshotRange]:
        """See DocumentSource. The boundaries come from a random sample, which every server has."""
        held = self.estimate(namespace) if count > 1 else None
        count = min(count, max(1, (held or 0) // RANGE_DOCUMENTS_LEAST))
        ends: list[bytes] = []
        if count > 1:
            keys = [rawbson.joined([id_element(key)]) for key in self._sample(namespace, count * SAMPLES_PER_RANGE)]
            ends = [*dict.fromkeys(keys[len(keys) * part // count] for part in range(1, count) if keys)]
        return [
            SnapshotRange(namespace, after, until) for after, until in zip([None, *ends], [*ends, None], strict=True)
        ]

    def estimate(self, namespace: Namespace) -> int | None:
        """See DocumentSource."""
        try:
            return int(self._asked(lambda: self._command(namespace.db, {"count": namespace.coll}))["n"])
        except _RefusedError:
            return None

    def identity(self, namespace: Namespace) -> bytes | None:
        """See DocumentSource: the collection's UUID, which DocumentDB has none of."""
        query = {"name": namespace.coll}
        try:
            listed = self._asked(lambda: [*self._connection.client[namespace.db].list_collections(filter=query)])
        except (_RefusedError, SourceUnavailableError) as error:
            if isinstance(error, SourceUnavailableError) and not error.refused:
                raise
            listed = self._listed(namespace.db, query)  # names are told to whoever may read
        if not listed:
            return None
        found = listed[0].get("info", {}).get("uuid")
        return found.bytes if isinstance(found, UUID) else bytes(found or b"")

    def read(self, range: SnapshotRange, *, since: Timestamp | None, match: str | None, limit: int) -> Page:
        """See DocumentSource."""
        query = None if match is None else query_of(match)
        read_at = since or Timestamp(1, 0)
        for condition in segments(range):
            documents, rest, read_at = self._next(range, condition, query, since, limit)
            if rest is not None:
                return Page(self._without_state(documents, range.namespace), rest, read_at)
        return Page((), replace(range, done=True), read_at)

    def find(self, namespace: Namespace, keys: Sequence[bytes], *, since: Timestamp | None) -> Iterator[Page]:
        """See LookupSource."""
        left = {element_key(key): key for key in keys}
        while left:
            array = rawbson.joined(_renamed(str(place), key) for place, key in enumerate(left.values()))
            one_of = rawbson.joined([b"\x04$in\0" + array])
            condition = RawBSONDocument(rawbson.joined([b"\x03_id\0" + one_of]))
            found, read_at = self._find(namespace, condition, since, len(left))
            yield Page(self._without_state(found, namespace), SnapshotRange(namespace, done=True), read_at)
            if not found:
                return
            for each in found:  # a reply ends early where the next document is too large for it
                left.pop(element_key(id_element(each)), None)

    def sample(self, namespace: Namespace, count: int) -> Sequence[bytes]:
        """See LookupSource."""
        return [*dict.fromkeys(id_element(key) for key in self._sample(namespace, count))]

    def _next(
        self,
        range: SnapshotRange,
        condition: RawBSONDocument,
        match: RawBSONDocument | None,
        since: Timestamp | None,
        limit: int,
    ) -> tuple[Sequence[bytes], SnapshotRange | None, Timestamp]:
        """The next documents of a segment, what is left of the range after them, and when that was; nothing is left to
        say (None) where the segment holds no more."""
        if match is None:
            found, read_at = self._find(range.namespace, condition, since, limit)
            return found, _after(range, found), read_at
        # One query is not to look at more than so many documents.
        scanned: Any = {"skip": SCANNED_DOCUMENTS - 1, "projection": {"_id": 1}}
        ends, read_at = self._find(range.namespace, condition, since, 1, scanned)
        window = _after(range, ends)
        for each in [condition] if window is None else segments(replace(range, until=window.after)):
            both = RawBSONDocument(bson.encode({"$and": [each, match]}))
            found, read_at = self._find(range.namespace, both, since, limit, is_users=True)
            if found:
                return found, _after(range, found), read_at
        return (), window, read_at

    def _find(
        self,
        namespace: Namespace,
        condition: RawBSONDocument,
        since: Timestamp | None,
        limit: int,
        others: Mapping[str, Any] | None = None,
        *,
        is_users: bool = False,
    ) -> tuple[Sequence[bytes], Timestamp]:
        """The first documents that meet a condition, as many as a reply holds, and the operation time of the reply."""
        if self._is_causal is None:
            self._is_causal = "$clusterTime" in self._asked(
                lambda: self._connection.client.admin.command("ping", read_preference=ReadPreference.PRIMARY)
            )

        def ask() -> RawBSONDocument:
            command = {
                "find": namespace.coll,
                "filter": condition,
                "sort": {"_id": 1},
                "limit": limit,
                "batchSize": limit,
                "singleBatch": True,
                **self._hint,
                **(others or {}),
            }
            if self._is_causal:
                concern = {"level": self._level, "afterClusterTime": since}
                command["readConcern"] = {name: value for name, value in concern.items() if value is not None}
            return self._command(namespace.db, command, anywhere=bool(self._is_causal))

        while True:
            try:
                reply = self._asked(ask, blocks=self._blocks)
            except _RefusedError as refused:
                if self._asks_for_less(refused.error):
                    continue
                if is_users:
                    raise ConfigError(
                        f"the server refuses the snapshot's match: {server_message(refused.error)}",
                        hint="docdb-stream snapshot cancel, and start it with a query that find() takes",
                    ) from refused.error
                raise unavailable(refused.error, self._connection.uri) from refused.error
            return _documents_of(reply), reply.get("operationTime") or since or Timestamp(1, 0)

    def _asks_for_less(self, error: OperationFailure) -> bool:
        """Whether what was refused can be done without, from now on."""
        if error.code in _NO_MAJORITY and self._level == "majority":
            logger.warning("documents are read without the majority read concern: %s", server_message(error))
            self._level = "local"
            return True
        if "hint" in server_message(error).lower() and self._hint:
            self._hint = {}
            return True
        return False

    def _without_state(self, documents: Sequence[bytes], namespace: Namespace) -> Sequence[bytes]:
        """Those that are no state of another docdb-stream, which no stream delivers."""
        if not self._may_be_state:
            return documents
        return [document for document in documents if not is_state(document, namespace)]

    def _sample(self, namespace: Namespace, count: int) -> Sequence[bytes]:
        """The keys of some documents, in order; none where the server gives none."""
        pipeline = [{"$sample": {"size": count}}, {"$project": {"_id": 1}}, {"$sort": {"_id": 1}}]
        command = {"aggregate": namespace.coll, "pipeline": pipeline, "cursor": {"batchSize": count}}
        try:
            reply = self._asked(lambda: self._command(namespace.db, command))
        except _RefusedError as refused:
            logger.info("%s is read as one range: %s", namespace, server_message(refused.error))
            return ()
        return _documents_of(reply)

    def _databases(self) -> Sequence[str]:
        if self._settings.scope is not None:
            return [self._settings.scope.db]
        names = self._asked_or_refused(lambda: self._connection.client.list_database_names())
        return sorted({*names} - INTERNAL_DATABASES)

    def _collections_of(self, db: str) -> Iterator[Namespace]:
        for found in self._listed(db, {}):
            if found.get("type") not in _NO_COLLECTIONS and not found["name"].startswith("system."):
                yield Namespace(db, found["name"])

    def _check_kind(self, namespace: Namespace) -> None:
        try:
            listed = self._listed(namespace.db, {"name": namespace.coll})
        except SourceUnavailableError as error:
            if error.refused:  # who may read one collection need not be allowed to list them
                return
            raise
        for found in listed:
            if found.get("type") in _NO_COLLECTIONS:
                raise ConfigError(
                    f"{namespace} is a {found['type']}, and has no changes to deliver, nor a snapshot",
                    hint="watch the collection that it is made of",
                )

    def _listed(self, db: str, query: Mapping[str, Any]) -> list[Mapping[str, Any]]:
        def ask() -> list[Mapping[str, Any]]:
            database = self._connection.client[db]
            return [*database.list_collections(filter=query, nameOnly=True, authorizedCollections=True)]

        try:
            return self._asked(ask)
        except _RefusedError:  # a server without these options
            return self._asked_or_refused(lambda: [*self._connection.client[db].list_collections(filter=query)])

    def _command(self, db: str, command: dict[str, Any], *, anywhere: bool = False) -> RawBSONDocument:
        client = self._connection.client
        where = client.read_preference if anywhere else ReadPreference.PRIMARY
        return client[db].command(command, codec_options=_RAW, read_preference=where)

    def _asked_or_refused(self, ask: Callable[[], T]) -> T:
        try:
            return self._asked(ask)
        except _RefusedError as refused:
            raise unavailable(refused.error, self._connection.uri) from refused.error

    def _asked(self, ask: Callable[[], T], *, blocks: bool = False) -> T:
        """The answer, once there is one.

        Raises:
            _RefusedError: The server refuses what is asked for, not who asks.
            SourceUnavailableError: It cannot be reached, or refuses who asks.
        """
        try:
            return self._connection.patiently(
                ask, passes=lambda error: classify(error) is Verdict.RESUME, blocks=blocks
            )
        except OperationFailure as error:
            if error.code in (AUTHENTICATION_FAILED, UNAUTHORIZED):
                raise unavailable(error, self._connection.uri) from error
            raise _RefusedError(error) from error
        except PyMongoError as error:
            raise unavailable(error, self._connection.uri) from error


class _RefusedError(Exception):
    """The server refuses a command for what it is."""

    def __init__(self, error: OperationFailure) -> None:
        super().__init__(server_message(error))
        self.error = error


def _documents_of(reply: RawBSONDocument) -> list[bytes]:
    """Those of a reply that is complete in itself, looked at as bytes."""
    cursor = bytes(reply["cursor"].raw)
    return rawbson.documents(cursor[slice(*rawbson.elements(cursor)["firstBatch"])])


def _after(range: SnapshotRange, documents: Sequence[bytes]) -> SnapshotRange | None:
    """What is left of a range after these documents; None where there are none."""
    return replace(range, after=rawbson.joined([id_element(documents[-1])])) if documents else None


def _renamed(name: str, element: bytes) -> bytes:
    """The element with the value of an ``_id`` and this name."""
    return element[:1] + name.encode() + element[4:]


def query_of(match: str) -> RawBSONDocument:
    """The query over documents that is written so, as JSON.

    Raises:
        ConfigError: It is none.
    """
    try:
        return RawBSONDocument(to_bson({**json.loads(match)}))
    except (ValueError, TypeError, ArithmeticError, BSONError) as error:
        raise ConfigError(
            "the snapshot's match is no query",
            hint='expected a JSON object over documents, such as {"total": {"$gte": 100}}',
        ) from error
