"""Schema ledgers in a MongoDB or DocumentDB collection, beside the checkpoints: one document for each collection.

Owns the stored format. Uses plain filters and ``$set`` / ``$unset`` only, as the checkpoints do.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypeVar

from bson import Timestamp
from pymongo.errors import DuplicateKeyError, PyMongoError

from docdb_stream.errors import CheckpointConflictError, StateStoreError
from docdb_stream.mongodb.connection import Connection
from docdb_stream.mongodb.diagnosis import unavailable
from docdb_stream.mongodb.state import StateCollection
from docdb_stream.position import Namespace
from docdb_stream.schema.ledger import Ledger, Moment, SchemaChange, TypeSeen
from docdb_stream.schema.store import KeptLedger, News
from docdb_stream.settings import Settings
from docdb_stream.stores.mongodb import passes

T = TypeVar("T")

FORMAT_VERSION: Final = 1
"""Of the stored documents; a later one is refused."""


class MongoSchemaStore:
    """A SchemaStore in ``STATE_DB.STATE_COLLECTION_schemas``. Constructing does no network traffic.

    Args:
        settings: The cluster and the state database.
        connection: To the cluster; its owner closes it.
    """

    def __init__(self, settings: Settings, connection: Connection) -> None:
        self._where = f"state {settings.state_db}.{settings.schemas_collection}: "
        self._connection = connection
        self._ledgers = StateCollection(connection, settings.state_db, settings.schemas_collection)

    def load(self, stream: str, namespace: Namespace) -> KeptLedger | None:
        """See SchemaStore."""
        found = self._patiently(lambda: self._ledgers.find_one({"_id": _id(stream, namespace)}, latest=True))
        return None if found is None else kept_from_document(found)

    def all(self, stream: str) -> Sequence[KeptLedger]:
        """See SchemaStore."""
        found = self._patiently(lambda: list(self._ledgers.find({"stream": stream}, sort=[("_id", 1)])))
        return [kept_from_document(document) for document in found]

    def save(self, stream: str, ledger: Ledger, news: News | None, epoch: int | None) -> None:
        """See SchemaStore."""
        values = ledger_fields(stream, ledger) | {"epoch": epoch or 0}
        key = _id(stream, ledger.namespace)
        update: dict[str, Any] = {"$set": values}
        if news is None:
            update["$unset"] = {"news": ""}
        elif news.accepted_at is None:
            values |= {f"news.{name}": value for name, value in _news_document(news).items()}  # keeps accepted_at

        def attempt() -> None:
            query = {"_id": key, "$or": [{"epoch": {"$lte": epoch or 0}}, {"epoch": {"$exists": False}}]}
            try:
                self._ledgers.update_one(query, update, upsert=True)
            except DuplicateKeyError:
                raise CheckpointConflictError(
                    f"the schema of {ledger.namespace} was saved by a later run of stream {stream}",
                    hint="nothing is lost: that run goes on from the checkpoint",
                ) from None

        self._patiently(attempt)

    def accept(self, stream: str, namespace: Namespace, at: dt.datetime) -> News | None:
        """See SchemaStore."""
        key = _id(stream, namespace)

        def attempt() -> News | None:
            found = self._ledgers.find_one({"_id": key}, latest=True)
            kept = None if found is None else kept_from_document(found)
            if kept is None or kept.news is None or kept.news.accepted_at is not None:
                return None
            query = {"_id": key, "news.event.event_id": kept.news.event.event_id}
            done = self._ledgers.update_one(query, {"$set": {"news.accepted_at": at.replace(tzinfo=None)}})
            return kept.news if done.matched_count else None

        return self._patiently(attempt)

    def _patiently(self, attempt: Callable[[], T]) -> T:
        try:
            return self._connection.patiently(attempt, passes=passes)
        except PyMongoError as error:
            trouble = unavailable(error, self._connection.uri)
            raise StateStoreError(f"{self._where}{trouble}", hint=trouble.hint, refused=trouble.refused) from error


def _id(stream: str, namespace: Namespace) -> str:
    return f"{stream}/{namespace}"


def ledger_fields(stream: str, ledger: Ledger) -> dict[str, Any]:
    """What is stored of a ledger. Paths and keys are values here, not names: they can be any text."""
    return {
        "format": FORMAT_VERSION,
        "stream": stream,
        "db": ledger.namespace.db,
        "coll": ledger.namespace.coll,
        "version": ledger.version,
        "documents": ledger.documents,
        "full": ledger.is_full,
        "paths": [
            {
                "path": path,
                "types": [
                    {"type": kind, "count": seen.count, "first": _moment(seen.first), "last": _moment(seen.last)}
                    for kind, seen in kinds.items()
                ],
            }
            for path, kinds in ledger.paths.items()
        ],
        "names": [{"field": field, "column": column} for field, column in ledger.names.items()],
        "history": [
            {
                "version": change.version,
                "added": [[*pair] for pair in change.added],
                "event": _moment(change.event),
                "how": change.how,
                "at": None if change.at is None else change.at.astimezone(dt.UTC).replace(tzinfo=None),
            }
            for change in ledger.history
        ],
    }


def kept_from_document(stored: Mapping[str, Any]) -> KeptLedger:
    """Read a stored ledger.

    Raises:
        StateStoreError: A later version of docdb-stream wrote it, or somebody has changed it so that it cannot be read.
    """
    if isinstance(stored.get("format"), int) and stored["format"] > FORMAT_VERSION:
        raise StateStoreError(
            f"the schema {stored['_id']} has format {stored['format']}, this docdb-stream knows up to {FORMAT_VERSION}",
            hint="upgrade docdb-stream here to the version that wrote it",
        )
    try:
        ledger = Ledger(
            Namespace(str(stored["db"]), stored["coll"]),
            version=int(stored["version"]),
            documents=int(stored["documents"]),
            paths={str(each["path"]): _types(each["types"]) for each in stored["paths"]},
            names={str(each["field"]): str(each["column"]) for each in stored["names"]},
            history=[
                SchemaChange(
                    int(each["version"]),
                    _pairs(each["added"]),
                    _read_moment(each["event"]),
                    str(each["how"]),
                    _aware(each["at"]),
                )
                for each in stored["history"]
            ],
            is_full=bool(stored["full"]),
        )
        news = stored.get("news")
        if news is None:
            return KeptLedger(ledger)
        return KeptLedger(
            ledger, News(_pairs(news["added"]), _read_moment(news["event"]), _aware(news.get("accepted_at")))
        )
    except (LookupError, TypeError, ValueError) as error:
        raise StateStoreError(
            f"the schema {stored['_id']} cannot be read: {type(error).__name__}",
            hint="no docdb-stream wrote it like that: put it right, or delete it, and it is learned anew",
        ) from error


def _types(stored: Any) -> dict[str, TypeSeen]:
    return {
        str(each["type"]): TypeSeen(int(each["count"]), _read_moment(each["first"]), _read_moment(each["last"]))
        for each in stored
    }


def _news_document(news: News) -> dict[str, Any]:
    return {"added": [[*pair] for pair in news.added], "event": _moment(news.event)}


def _pairs(stored: Any) -> tuple[tuple[str, str], ...]:
    return tuple((str(path), str(kind)) for path, kind in stored)


def _moment(moment: Moment) -> dict[str, Any]:
    return {"event_id": moment.event_id, "time": moment.time}


def _read_moment(stored: Any) -> Moment:
    if not isinstance(stored["time"], Timestamp):
        raise TypeError("time")
    return Moment(str(stored["event_id"]), stored["time"])


def _aware(value: dt.datetime | None) -> dt.datetime | None:
    return None if value is None else value.replace(tzinfo=dt.UTC)
