"""Amazon DocumentDB's own switch for change streams: ``modifyChangeStreams``, and the list of what is on.

MongoDB has no such switch; its change streams are always on.
"""

from __future__ import annotations

from pymongo.errors import OperationFailure, PyMongoError

from docdb_stream.errors import ConfigError, SourceUnavailableError
from docdb_stream.mongodb.connection import Connection
from docdb_stream.mongodb.diagnosis import server_message, unavailable
from docdb_stream.mongodb.errors import is_unknown_option
from docdb_stream.position import Namespace, scope_name
from docdb_stream.settings import Settings

_COMMAND_NOT_FOUND = 59  # error_codes.yml of the MongoDB server


def modify_change_streams(settings: Settings, namespace: str, *, enable: bool) -> str:
    """Switch change streams on or off for ``db.coll``, ``db.*`` or ``*``; returns what was done, in one line.

    Raises:
        ConfigError: The namespace is none.
        SourceUnavailableError: The cluster cannot be reached or refuses.
    """
    db, dot, coll = namespace.partition(".")
    if not db or (dot and not coll) or (db == "*" and coll not in ("", "*")):
        raise ConfigError(f"{namespace} is no namespace", hint="expected db.coll, db.* or *")
    # DocumentDB's wildcard is the empty name.
    database, collection = ("" if part in ("*", "") else part for part in (db, coll))
    with Connection(settings) as connection:
        try:
            connection.client.admin.command(
                "modifyChangeStreams", 1, database=database, collection=collection, enable=enable
            )
        except OperationFailure as error:
            if error.code == _COMMAND_NOT_FOUND:
                return f"{namespace}: nothing to do, change streams are always on in MongoDB"
            if error.code == 13:
                raise unavailable(error, connection.uri) from error
            raise SourceUnavailableError(f"modifyChangeStreams {namespace}: {server_message(error)}") from error
        except PyMongoError as error:
            raise unavailable(error, connection.uri) from error
    return f"{namespace}: change streams are {'on' if enable else 'off'}"


def check_enabled(connection: Connection, scope: Namespace | None) -> None:
    """See that a DocumentDB cluster has change streams on for what is watched: a stream that is not enabled looks
    healthy and delivers nothing. Passes on MongoDB, and where the list may not be read.

    Raises:
        SourceUnavailableError: They are off.
    """
    try:
        found = connection.client.admin.command("aggregate", 1, pipeline=[{"$listChangeStreams": 1}], cursor={})
    except OperationFailure as error:
        if is_unknown_option(error, "$listChangeStreams") or error.code == 13:
            return
        raise unavailable(error, connection.uri) from error
    except PyMongoError as error:
        raise unavailable(error, connection.uri) from error
    db, coll = (scope.db, scope.coll or "") if scope else ("", "")
    for rule in found["cursor"]["firstBatch"]:
        # An empty name is a wildcard; a stream over many collections may be meant for those of them that are on.
        rule_db, rule_coll = rule.get("database", ""), rule.get("collection", "")
        if (not rule_db or db in ("", rule_db)) and (not rule_coll or coll in ("", rule_coll)):
            return
    raise SourceUnavailableError(
        f"change streams are not enabled for {scope_name(scope)}: no event would ever come",
        hint=f"docdb-stream enable '{scope_name(scope)}' (modifyChangeStreams)",
    )
