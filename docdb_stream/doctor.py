"""Looks whether a stream would work, without delivering anything."""

from __future__ import annotations

from collections.abc import Iterator

from pymongo.errors import PyMongoError

from docdb_stream.connection import Connection
from docdb_stream.errors import DocdbStreamError, SourceUnavailableError
from docdb_stream.events import Namespace, scope_name
from docdb_stream.retry import Deadline, deadline
from docdb_stream.settings import Settings
from docdb_stream.source import MongoChangeSource
from docdb_stream.stores.mongodb import MongoCheckpointStore
from docdb_stream.target import Checkable
from docdb_stream.targets import build_targets

PATIENCE_S = 5.0
"""A person waits for the answer, so nothing is retried for longer."""


def checks(settings: Settings) -> Iterator[tuple[str, DocdbStreamError | None]]:
    """Try one thing after the other; yields what was tried and, if it does not work, why."""
    with deadline(Deadline(patience_s=PATIENCE_S)):
        try:
            connection = Connection(settings)
        except DocdbStreamError as error:
            yield "connection settings", error
            return
        with connection:
            source = MongoChangeSource(settings, connection)
            yield from _tried("cluster and change stream", lambda: source.open(source.start_position("now")))
            source.close()
            yield from _tried("change streams enabled", lambda: _check_enabled(connection, settings.scope))
            store = MongoCheckpointStore(settings, connection)
            yield from _tried("state database", lambda: store.load(settings.stream_name))
        try:
            targets = build_targets(settings)
        except DocdbStreamError as error:
            yield "targets", error
            return
        for target in targets:
            if isinstance(target, Checkable):
                yield from _tried(f"target {target.name}", target.check)
            target.close()


def _check_enabled(connection: Connection, scope: Namespace | None) -> None:
    """DocumentDB records changes only where ``modifyChangeStreams`` was called; elsewhere a stream just stays empty."""
    try:
        rules = list(connection.client.admin.aggregate([{"$listChangeStreams": 1}]))
    except PyMongoError:  # MongoDB has no such stage, and records everything
        return
    db, coll = ("", "") if scope is None else (scope.db, scope.coll or "")
    for rule in rules:
        # A stream over many collections may be meant for those of them that are enabled.
        rule_db, rule_coll = rule["database"], rule["collection"]
        if (not rule_db or db in ("", rule_db)) and (not rule_coll or coll in ("", rule_coll)):
            return
    raise SourceUnavailableError(
        f"change streams are not enabled for {scope_name(scope)}: no event would ever come",
        hint=f'db.adminCommand({{modifyChangeStreams: 1, database: "{db}", collection: "{coll}", enable: true}})',
    )


def _tried(what: str, attempt: object) -> Iterator[tuple[str, DocdbStreamError | None]]:
    try:
        attempt()  # type: ignore[operator]
    except DocdbStreamError as error:
        yield what, error
    else:
        yield what, None
