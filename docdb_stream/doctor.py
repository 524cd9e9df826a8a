"""Looks whether a stream would work, without delivering anything."""

from __future__ import annotations

from collections.abc import Iterator

from docdb_stream.connection import Connection
from docdb_stream.enable import check_enabled
from docdb_stream.errors import DocdbStreamError
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
            yield from _tried("cluster and change stream", lambda: source.open(source.start_position("now")).close())
            yield from _tried("change streams enabled", lambda: check_enabled(connection, settings.scope))
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


def _tried(what: str, attempt: object) -> Iterator[tuple[str, DocdbStreamError | None]]:
    try:
        attempt()  # type: ignore[operator]
    except DocdbStreamError as error:
        yield what, error
    else:
        yield what, None
