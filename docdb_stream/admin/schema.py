"""Shows the schema ledgers of a stream, and accepts what a collection has stopped for.

Owns what an operator is told of a ledger. How it is shown is the command line's.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from typing import Any

from docdb_stream.errors import ConfigError
from docdb_stream.mongodb.connection import Connection
from docdb_stream.namespaces import NamespacePattern
from docdb_stream.schema.columns import type_of
from docdb_stream.schema.ledger import Moment
from docdb_stream.schema.shape import key_of
from docdb_stream.schema.store import KeptLedger, News
from docdb_stream.settings import Settings
from docdb_stream.stores.schemas import MongoSchemaStore


def ledgers(settings: Settings, namespace: str | None = None) -> Sequence[KeptLedger]:
    """The ledgers of a stream, of one collection (``db.coll``, or a pattern) or of all.

    Raises:
        ConfigError: There are none.
        StateStoreError: As for a run.
    """
    with Connection(settings) as connection:
        found = MongoSchemaStore(settings, connection).all(settings.stream_name)
    chosen = [kept for kept in found if namespace is None or _names(namespace, kept)]
    if chosen:
        return chosen
    if not found:
        hint = (
            "it has not delivered any documents since it keeps one"
            if settings.keeps_schemas
            else "SCHEMA_POLICY = evolve or stop keeps one; S3_FORMAT = parquet does, too"
        )
        raise ConfigError(f"stream {settings.stream_name} has no schema ledger", hint=hint)
    names = ", ".join(str(kept.ledger.namespace) for kept in found)
    raise ConfigError(f"stream {settings.stream_name} has no schema of {namespace}", hint=f"it has {names}")


def accept(settings: Settings, namespace: str | None = None) -> Sequence[tuple[str, News]]:
    """Accept what collections have stopped for: the run that works on the stream goes on with them within some ten
    seconds, or else the next one. Returns the collections' names, with what was accepted.

    Raises:
        ConfigError: None has stopped.
        StateStoreError: As for a run.
    """
    accepted = []
    stopped = [kept.ledger.namespace for kept in ledgers(settings, namespace) if _waits(kept)]
    with Connection(settings) as connection:
        store = MongoSchemaStore(settings, connection)
        for each in stopped:
            news = store.accept(settings.stream_name, each, dt.datetime.now(dt.UTC))
            if news is not None:
                accepted.append((str(each), news))
    if not accepted:
        what = "no collection" if namespace is None else f"{namespace} has not, or no collection like that,"
        raise ConfigError(
            f"{what} stopped for its schema in stream {settings.stream_name}",
            hint=f"docdb-stream schema show '{settings.stream_name}' shows what is known",
        )
    return accepted


def ledger_values(kept: KeptLedger) -> dict[str, Any]:
    """A ledger as plain values, ready for JSON; times are ISO 8601."""
    ledger = kept.ledger
    columns = {column.field: column for column in ledger.columns()}
    return {
        "namespace": str(ledger.namespace),
        "version": ledger.version,
        "documents": ledger.documents,
        "is_full": ledger.is_full,
        "stopped_for": None if not _waits(kept) or kept.news is None else _news(kept.news),
        "paths": [
            {
                "path": path,
                "types": {
                    kind: {"count": seen.count, "first": _moment(seen.first), "last": _moment(seen.last)}
                    for kind, seen in kinds.items()
                },
                "column": column.name if (column := columns.get(key_of(path) or "")) is not None else None,
                "column_type": found[0] if (found := type_of(kinds)) and column is not None else None,
            }
            for path, kinds in ledger.paths.items()
        ],
    }


def history_values(kept: KeptLedger) -> list[dict[str, Any]]:
    """The changes of a ledger as plain values, ready for JSON, oldest first."""
    return [
        {
            "namespace": str(kept.ledger.namespace),
            "version": change.version,
            "how": change.how,
            "at": (change.at or change.event.time.as_datetime()).isoformat(),
            "event": _moment(change.event),
            "added": [{"path": path, "type": kind} for path, kind in change.added],
        }
        for change in kept.ledger.history
    ]


def _waits(kept: KeptLedger) -> bool:
    return kept.news is not None and kept.news.accepted_at is None


def _names(text: str, kept: KeptLedger) -> bool:
    return text == str(kept.ledger.namespace) or NamespacePattern.of(text).matches(kept.ledger.namespace)


def _news(news: News) -> dict[str, Any]:
    return {"added": [{"path": path, "type": kind} for path, kind in news.added], "event": _moment(news.event)}


def _moment(moment: Moment) -> dict[str, str]:
    return {"event_id": moment.event_id, "time": moment.time.as_datetime().isoformat()}
