"""What the watched cluster itself tells: TLS, who may read, what the stream's user may do, how long the log is."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from typing import Any, Final

from pymongo import MongoClient
from pymongo.errors import OperationFailure, PyMongoError

from docdb_stream.admin.checklist.item import Item, seen
from docdb_stream.mongodb.connection import Connection
from docdb_stream.settings import Settings

_ASKED_MS: Final = 3_000
"""For a client that is to be refused."""
_BROAD: Final = frozenset(
    {
        *("root", "__system", "dbOwner", "readWriteAnyDatabase", "userAdminAnyDatabase", "dbAdminAnyDatabase"),
        *("userAdmin", "clusterAdmin", "clusterManager", "hostManager", "backup", "restore"),
    }
)
"""Built-in roles that allow more than a stream takes (MongoDB manual, "Built-In Roles")."""
_WRITES: Final = frozenset({"insert", "update", "remove", "dropCollection", "dropDatabase", "createUser", "grantRole"})
_ENOUGH_S: Final = 24 * 3600
"""Of change log: a weekend's failure would need three days; a night's is the least."""


def of_cluster(settings: Settings, connection: Connection) -> Iterator[Item]:
    """The rows that need an answer of the cluster."""
    client = connection.client
    yield _encrypted(client)
    plain = Item("security", "clients without TLS", "unknown", "not seen")
    yield from seen(partial(_without_tls, client), plain, (PyMongoError, OSError))
    anybody = Item("security", "authorization", "unknown", "not seen", "try to read without a user name")
    yield from seen(partial(_authorization, client), anybody, (PyMongoError, OSError))
    may = Item("security", "what the stream's user may do", "unknown", "the server does not say", "look at its roles")
    yield from seen(partial(_privileges, settings, client), may, (PyMongoError,))
    log = Item(
        "recovery",
        "change log",
        "unknown",
        "its length is not seen",
        "raise it to days; give CHANGE_LOG_RETENTION_SECONDS",
    )
    yield from seen(partial(_change_log, settings, client), log, (PyMongoError, LookupError, TypeError))


def _encrypted(client: MongoClient[Any]) -> Item:
    pool = client.options.pool_options
    if pool._ssl_context is None:
        todo = "set tls=true in DOCUMENTDB_URI, and DOCUMENTDB_TLS_CA"
        return Item("security", "TLS to the cluster", "fail", "the connection is not encrypted", todo)
    if pool.tls_allow_invalid_hostnames or client.options._options.get("tlsallowinvalidcertificates"):
        todo = "leave tlsAllowInvalidCertificates and tlsAllowInvalidHostnames out, and give DOCUMENTDB_TLS_CA"
        return Item("security", "TLS to the cluster", "warn", "encrypted, to whoever answers", todo)
    return Item("security", "TLS to the cluster", "ok", "encrypted, and the certificate is verified")


def _asked(client: MongoClient[Any], **options: Any) -> MongoClient[Any]:
    """A client without a user, to one of the servers."""
    host, port = next(iter(client.nodes))
    return MongoClient(
        host, port, directConnection=True, serverSelectionTimeoutMS=_ASKED_MS, connectTimeoutMS=_ASKED_MS, **options
    )


def _without_tls(client: MongoClient[Any]) -> Item:
    try:
        with _asked(client, tls=False) as stranger:
            stranger.admin.command("hello")
    except PyMongoError:
        return Item("security", "clients without TLS", "ok", "are not answered")
    return Item(
        "security", "clients without TLS", "warn", "are answered", "set net.tls.mode = requireTLS; tls on DocumentDB"
    )


def _authorization(client: MongoClient[Any]) -> Item:
    context = client.options.pool_options._ssl_context
    options: dict[str, Any] = {"tls": True, "tlsAllowInvalidCertificates": True} if context is not None else {}
    try:
        with _asked(client, **options) as stranger:
            stranger.list_database_names()
    except OperationFailure:
        return Item("security", "authorization", "ok", "a client without a user reads nothing")
    todo = "set security.authorization = enabled, and give each service a user of its own"
    return Item("security", "authorization", "fail", "a client without a user reads everything", todo)


def _privileges(settings: Settings, client: MongoClient[Any]) -> Item:
    what = "what the stream's user may do"
    found = client.admin.command("connectionStatus", showPrivileges=True)["authInfo"]
    if not found.get("authenticatedUsers"):
        return Item("security", what, "warn", "the stream signs in as nobody", "give it a user, by DOCUMENTDB_SECRET")
    broad = sorted({role["role"] for role in found.get("authenticatedUserRoles", ())} & _BROAD)
    privileges = found.get("authenticatedUserPrivileges")
    writes = sorted(_written(settings, privileges or ()))
    if broad or writes:
        told = f"more than reading: {', '.join([*(f'role {name}' for name in broad), *writes][:5])}"
        todo = "read on what is watched, and readWrite on STATE_DB, are enough (docs/deploy.md)"
        return Item("security", what, "warn", told, todo)
    if privileges is None:
        return Item("security", what, "unknown", "the server names no privileges", "look at its roles")
    return Item("security", what, "ok", "it reads, and writes its own state alone")


def _written(settings: Settings, privileges: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """What it may write beside the stream's state."""
    for each in privileges:
        resource, actions = each["resource"], _WRITES & {*each["actions"]}
        name = "every database" if resource.get("anyResource") else resource.get("db")
        if actions and name is not None and name != settings.state_db:
            yield f"{sorted(actions)[0]} in {name or 'every database'}"


def _change_log(settings: Settings, client: MongoClient[Any]) -> Item:
    log = client.local["oplog.rs"]
    ends = [log.find_one(sort=[("$natural", way)], projection={"ts": 1}) for way in (1, -1)]
    first, last = (end["ts"].time for end in ends if end is not None)
    return change_log_of(settings, last - first)


def change_log_of(settings: Settings, kept_s: float) -> Item:
    """How a change log of this length stands. Not full yet, it may become longer."""
    told = f"reaches back {kept_s / 3600:.1f} h"
    todo = "raise the oplog's size, or minRetentionHours; on DocumentDB change_stream_log_retention_duration"
    if kept_s < _ENOUGH_S:
        return Item("recovery", "change log", "warn", f"{told}: a stream that stands longer loses its place", todo)
    if settings.change_log_retention_seconds > kept_s:
        hint = f"set CHANGE_LOG_RETENTION_SECONDS = {kept_s:.0f}, or less"
        return Item("recovery", "change log", "warn", f"{told}, less than the settings say", hint)
    return Item("recovery", "change log", "ok", told)


def secrets_of(settings: Settings) -> Iterator[Item]:
    """Where passwords are."""
    if "@" in settings.documentdb_uri.partition("://")[2].partition("/")[0]:
        told = "a user, and perhaps a password, stands in DOCUMENTDB_URI"
        yield Item(
            "security", "passwords", "fail", told, "put it into Secrets Manager, and name it in DOCUMENTDB_SECRET"
        )
    elif settings.documentdb_secret is not None:
        yield Item("security", "passwords", "ok", "by reference")
