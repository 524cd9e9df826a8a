"""Looks whether a stream would work, without delivering anything and without leaving anything behind."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import pymongo
from pymongo import ReadPreference
from pymongo.errors import PyMongoError

from docdb_stream.context import Deadline, deadline
from docdb_stream.errors import Caution, ConfigError, DocdbStreamError, StateStoreError
from docdb_stream.events import Namespace
from docdb_stream.mongodb.connection import Connection
from docdb_stream.mongodb.diagnosis import HELLO, unavailable
from docdb_stream.mongodb.documents import MongoDocuments
from docdb_stream.mongodb.enable import check_enabled
from docdb_stream.mongodb.images import check_images
from docdb_stream.mongodb.pipeline import kept_images, server_filter
from docdb_stream.mongodb.source import MongoChangeSource
from docdb_stream.mongodb.state import StateCollection
from docdb_stream.position import SnapshotRange
from docdb_stream.registry import target_class
from docdb_stream.settings import Settings
from docdb_stream.step import name_of, told_apart
from docdb_stream.steps import steps_for
from docdb_stream.stores.mongodb import MongoCheckpointStore
from docdb_stream.target import Checkable, Target, is_keyed
from docdb_stream.targets import build_targets

PATIENCE_S = 5.0
"""A person waits for the answer, so nothing is retried for longer."""

_NAMES_SHOWN = 10


class Finding(NamedTuple):
    """One thing that was tried.

    Attributes:
        what: It.
        error: Why it does not work; a ``Caution`` where it does, and yet should be looked at; None where all is well.
    """

    what: str
    error: DocdbStreamError | None = None


def checks(settings: Settings) -> Iterator[Finding]:
    """Try one thing after the other, each as it is asked for: the settings, the cluster, the state, every target.

    Nothing is delivered and nothing raised. After what all else needs has failed, nothing more is tried.
    """
    with deadline(Deadline(patience_s=PATIENCE_S)):
        try:
            connection = Connection(settings)
        except DocdbStreamError as error:
            yield Finding("connection settings", error)
            return
        with connection:
            yield from _cluster(settings, connection)
        try:
            targets = build_targets(settings)
        except DocdbStreamError as error:
            yield Finding("targets", error)
            return
        yield from _steps(settings, targets)
        for target in targets:
            if isinstance(target, Checkable):
                yield _tried(f"target {target.name}", target.check)
            target.close()
        yield from _cautions(settings)


def _cautions(settings: Settings) -> Iterator[Finding]:
    for name, own in settings.targets.items():
        if own.is_on:
            yield from (Finding(f"names and keys of {name}", Caution(each)) for each in own.cautions(settings.scope))
            if is_keyed(target_class(name)) and (left_out := _left_out(settings)):
                told = f"OPERATIONS leaves out {' and '.join(left_out)}, so {name} parts from the source"
                yield Finding(f"what {name} holds", Caution(told))


def _left_out(settings: Settings) -> list[str]:
    return [name for name in ("update", "replace", "delete") if settings.operations and name not in settings.operations]


def _cluster(settings: Settings, connection: Connection) -> Iterator[Finding]:
    found = _tried(f"cluster, by PyMongo {pymongo.version}", lambda: _reach(connection))
    yield found
    if found.error is not None:
        return  # the rest would say the same, each after waiting for it
    source = MongoChangeSource(settings, connection)
    store = MongoCheckpointStore(settings, connection)
    yield _tried("cluster and change stream", lambda: source.open(source.start_position("now")).close())
    yield _tried("change streams enabled", lambda: check_enabled(connection, settings.scope))
    if kept_images(settings):
        yield _tried("pre- and post-images", lambda: check_images(connection, settings))
    if server_filter(settings).rules:
        yield _tried("who leaves events out", lambda: _see_who_filters(settings, source))
    if connection.client.read_preference != ReadPreference.PRIMARY:
        yield _tried("where the stream is read", lambda: _see_where_it_is_read(source))
    if "snapshot" in (settings.start_at, settings.on_history_lost):
        yield _tried("documents of a snapshot", lambda: _see_that_documents_can_be_read(settings, connection))
    yield _tried("what is watched", lambda: _see_what_is_watched(connection, settings.scope))
    yield _tried("state database", lambda: _see_that_state_can_be_kept(settings, connection, store))
    yield _tried("saved position", lambda: _see_that_it_can_go_on(settings, source, store))


def _steps(settings: Settings, targets: Sequence[Target]) -> Iterator[Finding]:
    """What the settings say of what is delivered, where they say something."""
    try:
        steps = told_apart(steps_for(settings, targets), targets)
    except DocdbStreamError as error:
        yield Finding("what is delivered", error)
        return
    if steps:
        yield Finding(f"what is delivered: {', '.join(map(name_of, steps))}")
    for each in steps:
        step: object = each  # no Callable can be checked, as type checkers see it
        if isinstance(step, Checkable):
            yield _tried(f"step {name_of(each)}", step.check)


def _tried(what: str, attempt: Callable[[], object]) -> Finding:
    try:
        attempt()
    except DocdbStreamError as error:
        return Finding(what, error)
    return Finding(what)


def _reach(connection: Connection) -> None:
    """PyMongo itself compares the versions of the wire protocol, before the first command."""
    try:
        connection.client.admin.command(HELLO)
    except PyMongoError as error:
        raise unavailable(error, connection.uri) from error


def _see_that_state_can_be_kept(settings: Settings, connection: Connection, store: MongoCheckpointStore) -> None:
    store.load(settings.stream_name)
    names = [settings.state_collection, settings.ledger_collection]
    if settings.dead_letters is None:
        names.append(settings.dead_letters_collection)
    if settings.keeps_schemas:
        names.append(settings.schemas_collection)
    for name in names:
        try:
            StateCollection(connection, settings.state_db, name).rehearse()
        except PyMongoError as error:
            trouble = unavailable(error, connection.uri)
            raise StateStoreError(f"state {settings.state_db}.{name}: {trouble}", hint=trouble.hint) from error


def _see_that_it_can_go_on(settings: Settings, source: MongoChangeSource, store: MongoCheckpointStore) -> None:
    checkpoint = store.load(settings.stream_name)
    if checkpoint is not None and checkpoint.scope != settings.scope:
        raise ConfigError(
            f"the checkpoint {settings.stream_name} belongs to another namespace than this stream watches",
            hint="give the stream another STREAM_NAME; a checkpoint never moves between namespaces",
        )
    if checkpoint is not None and checkpoint.position is not None:
        source.open(checkpoint.position).close()


def _see_who_filters(settings: Settings, source: MongoChangeSource) -> None:
    """Raises Caution where it is not the server, though the settings say so."""
    if settings.filter_at == "server" and not source.says_how_far_it_looked():
        raise Caution(
            "FILTER_AT=server: the server does not say how far it has looked, so docdb-stream leaves events out by "
            "itself, and counts them",
            hint="FILTER_AT=auto is the same here. DocumentDB 5.0 patch 3.0.11800 and later says it",
        )


def _see_where_it_is_read(source: MongoChangeSource) -> None:
    """Raises Caution where it is the primary, though the connection string says otherwise."""
    if not source.is_read_anywhere:
        raise Caution(
            "the connection string's readPreference does not count: the change streams of this server are read from "
            "the primary",
            hint="DocumentDB 3.6 and 4.0 have them there alone; leave readPreference out, or upgrade",
        )


def _see_that_documents_can_be_read(settings: Settings, connection: Connection) -> None:
    """Read one of each collection; a stream alone does without the privilege."""
    documents = MongoDocuments(settings, connection)
    for namespace in documents.collections():
        documents.read(SnapshotRange(namespace), since=None, match=None, limit=1)


def _see_what_is_watched(connection: Connection, scope: Namespace | None) -> None:
    """A collection may be made later, so that there is none is no failure.

    Raises:
        Caution: There is no such database or collection. Not where the user may not list them.
    """
    if scope is None:
        return
    try:
        databases = connection.client.list_database_names()
        if scope.db not in databases:
            raise _absent(f"database {scope.db}", "WATCHED_DB_NAME", scope.db, databases, "everything")
        if scope.coll is None:
            return
        collections = connection.client[scope.db].list_collection_names()
    except PyMongoError:
        return
    if scope.coll not in collections:
        shown = [name for name in collections if not name.startswith("system.")]
        raise _absent(f"collection {scope}", "WATCHED_COLLECTION_NAME", scope.coll, shown, "the whole database")


def _absent(what: str, variable: str, name: str, there: Sequence[str], whole: str) -> Caution:
    by_lower_case = {each.lower(): each for each in there}
    near = difflib.get_close_matches(name.lower(), by_lower_case, n=1)
    names = sorted(there)
    more = f" and {len(names) - _NAMES_SHOWN} more" if len(names) > _NAMES_SHOWN else ""
    known = f"There are: {', '.join(names[:_NAMES_SHOWN])}{more}" if names else "There is none at all yet"
    if "*" in name or "," in name:
        hint = f"{variable} is one name; leave it out for {whole}, or make a stream for each. {known}"
    elif near:
        hint = f"did you mean {by_lower_case[near[0]]}? {known}"
    else:
        hint = f"if it is to be made later, all is well; otherwise correct {variable}. {known}"
    return Caution(f"there is no {what} now, so nothing arrives until there is", hint=hint)
