"""The statements: of a declared table, and of the target's own.

A version is a row's timestamp, so that of two states the newer stays, whichever is written last.
"""

from __future__ import annotations

from typing import Final

from bson import Timestamp

from docdb_stream.targets._cassandra.declaration import STATE, TableRule

_SECOND_US: Final = 1_000_000
_SPACE_US: Final = 32
_SPACED: Final = 16_000
LAST_SEQUENCE: Final = _SPACE_US - 1
"""The most states of one document that one version is told apart for, see ``timestamp_us``."""

READ_STATE: Final = f"SELECT id, keys, version, sequence FROM {STATE} WHERE source = ? AND bucket = ?"
READ_STATE_OF: Final = f"{READ_STATE} AND id = ?"
READ_SOURCES: Final = f"SELECT DISTINCT source, bucket FROM {STATE}"
WRITE_STATE: Final = (
    f"INSERT INTO {STATE} (source, bucket, id, keys, version, sequence) VALUES (?, ?, ?, ?, ?, ?) "
    "USING TIMESTAMP ? AND TTL ?"
)
DELETE_STATE: Final = f"DELETE FROM {STATE} USING TIMESTAMP ? WHERE source = ? AND bucket = ? AND id = ? AND keys = ?"
STATE_COLUMNS: Final = {
    "source": "text",
    "bucket": "int",
    "id": "text",
    "keys": "text",
    "version": "bigint",
    "sequence": "int",
}
STATE_KEY: Final = ("source", "bucket", "id", "keys")


def timestamp_us(time: Timestamp, sequence: int) -> int:
    """The timestamp of a version, in microseconds as Cassandra has them: later versions have later ones.

    States of one version, those within a transaction, are told apart by their sequence, since of two cells of one
    timestamp Cassandra keeps the one whose value is larger. There is room for 32 of them at each of the first 16,000
    changes that a cluster makes in a second, and for one at those after that, up to 500,000.

    Args:
        time: The cluster time.
        sequence: Which of the states of that version it is.
    """
    if time.inc < _SPACED:
        within_us = time.inc * _SPACE_US + min(sequence, LAST_SEQUENCE)
    else:
        within_us = _SPACED * _SPACE_US + time.inc - _SPACED
    return time.time * _SECOND_US + min(within_us, _SECOND_US - 1)


def insert(rule: TableRule) -> str:
    """Writes a row: all columns in their order, then timestamp and seconds to live."""
    names = ", ".join(column.name for column in rule.columns)
    marks = ", ".join("?" for _ in rule.columns)
    return f"INSERT INTO {rule.table} ({names}) VALUES ({marks}) USING TIMESTAMP ? AND TTL ?"


def delete(rule: TableRule) -> str:
    """Deletes a row: the timestamp, then the key."""
    return f"DELETE FROM {rule.table} USING TIMESTAMP ? WHERE {_is_key(rule)}"


def select(rule: TableRule) -> str:
    """Reads a row by its key: all columns in their order, timestamps as milliseconds, which Python has no years for."""
    columns = (
        f"toUnixTimestamp({column.name})" if column.type == "timestamp" else column.name for column in rule.columns
    )
    return f"SELECT {', '.join(columns)} FROM {rule.table} WHERE {_is_key(rule)}"


KEYSPACES_OPTIONS: Final = (
    "CUSTOM_PROPERTIES = {'client_side_timestamps': {'status': 'enabled'}, 'ttl': {'status': 'enabled'}}"
)
"""Of a table that takes USING TIMESTAMP and TTL at Amazon Keyspaces (developer guide, "CREATE TABLE")."""


def create(rule: TableRule, options: str) -> str:
    """Makes the table."""
    columns = ", ".join(f"{column.name} {column.type}" for column in rule.columns)
    partition = ", ".join(column.name for column in rule.partition)
    key = ", ".join([f"({partition})", *(column.name for column in rule.clustering)])
    order = ", ".join(
        f"{column.name} {'DESC' if column.name in rule.descending else 'ASC'}" for column in rule.clustering
    )
    ordered = f"CLUSTERING ORDER BY ({order}) AND " if rule.descending else ""
    return f"CREATE TABLE IF NOT EXISTS {rule.table} ({columns}, PRIMARY KEY ({key})) WITH {ordered}{options}"


STATE_OPTIONS: Final = "gc_grace_seconds = 3600"
"""States that are forgotten leave tombstones, one for each move of a document's rows; a read that meets 100,000 of them
fails (cassandra.yaml, tombstone_failure_threshold). One that comes back is older than what is there, and is forgotten
once more, so they need not stay for long."""


def create_state(options: str) -> str:
    """Makes the target's own table."""
    columns = ", ".join(f"{name} {kind}" for name, kind in STATE_COLUMNS.items())
    first, second, *rest = STATE_KEY
    key = f"(({first}, {second}), {', '.join(rest)})"
    return f"CREATE TABLE IF NOT EXISTS {STATE} ({columns}, PRIMARY KEY {key}) WITH {options}"


def _is_key(rule: TableRule) -> str:
    return " AND ".join(f"{column.name} = ?" for column in rule.key)
