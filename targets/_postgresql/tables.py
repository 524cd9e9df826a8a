"""The tables: those of documents, and the target's own two.

Owns their names and definitions, and that missing ones are made.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final

from docdb_stream.errors import UnrenderableError
from docdb_stream.events import ChangeEvent, Namespace
from docdb_stream.targets._names import distinct_name
from docdb_stream.targets._postgresql.columns import SQL_NAMES, Column
from docdb_stream.targets._postgresql.errors import KEPT, RefusedError, code_of
from docdb_stream.template import Template

if TYPE_CHECKING:
    from psycopg import Cursor

POSITIONS: Final = "docdb_stream_positions"
"""By stream: the epoch of its last run, and the newest change that it has written."""
COLLECTIONS: Final = "docdb_stream_collections"
"""By table and collection: when that was dropped or renamed last, 0 where never. What is older is not written."""
_RESERVED: Final = "docdb_stream_"
_NAME_BYTES: Final = 55
"""Of 63 (NAMEDATALEN - 1), without what view and index have after the table's name."""
CURRENT: Final = "_current"
DELETED: Final = "_deleted"
_LOCK: Final = 0x646F636462  # "docdb"
"""An advisory lock: two that make one table at the same time would both fail."""
logger = logging.getLogger(__name__)

_ANY_EVENT: Final = ChangeEvent(document={})


def table_name(template: Template, namespace: Namespace) -> str:
    """The table of a collection. A name that is too long, or that views or the target's own tables could have, gets a
    hash at its end.

    Raises:
        UnrenderableError: PostgreSQL can have no such name.
    """
    name = template.render(_ANY_EVENT, namespace)
    if "\0" in name or not name:
        raise UnrenderableError("a table cannot be called so: set POSTGRES_TABLE")
    is_taken = name.startswith(_RESERVED) or name.endswith((CURRENT, DELETED))
    return distinct_name(name, name + "_" if is_taken else name, _NAME_BYTES)


def quoted(*names: str) -> str:
    """An identifier, as SQL with parameters has it."""
    return ".".join('"' + name.replace('"', '""').replace("%", "%%") + '"' for name in names)


class Tables:
    """The tables of a schema.

    Args:
        schema: Its name.
        columns: What tables of documents have.
        creates: Whether missing ones are made.
    """

    def __init__(self, schema: str, columns: Sequence[Column], *, creates: bool) -> None:
        self.schema = schema
        self.columns = columns
        self.creates = creates

    def sql(self, name: str) -> str:
        """A table, as SQL has it."""
        return quoted(self.schema, name)

    def exists(self, cursor: Cursor[Any], name: str) -> bool:
        """Whether there is a table of this name. Raises RefusedError where it is something else, as a view."""
        return name in self._found(cursor, [name])

    def make(self, cursor: Cursor[Any], names: Iterable[str]) -> None:
        """Make what is missing of these tables and of the target's own, within the transaction.

        Raises:
            RefusedError: Something else has the name.
        """
        wanted = [POSITIONS, COLLECTIONS, *names]
        missing = set(wanted) - self._found(cursor, wanted)
        if not (missing and self.creates):
            return
        cursor.execute("SELECT pg_advisory_xact_lock(%s)", [_LOCK])
        cursor.execute("SELECT 1 FROM pg_namespace WHERE nspname = %s", [self.schema])
        if cursor.fetchone() is None:
            cursor.execute(f"CREATE SCHEMA {quoted(self.schema)}", [])
        for name in sorted(set(wanted) - self._found(cursor, wanted)):  # another may have made them meanwhile
            for statement in self.definition(name):
                cursor.execute(statement, [])

    def let_go(self, cursor: Cursor[Any], name: str, source: str) -> None:
        """Drop the table of a collection that there will not be again, if it was made here, is empty, and is no other
        collection's. One that others own, or that views of theirs hang on, stays."""
        if not self.creates or not self.exists(cursor, name):
            return
        try:
            with cursor.connection.transaction():
                self._drop_empty(cursor, name, source)
        except Exception as error:
            if code_of(error) not in KEPT:
                raise
            logger.info("the empty table %s stays (SQLSTATE %s)", name, code_of(error))

    def _drop_empty(self, cursor: Cursor[Any], name: str, source: str) -> None:
        table, collections = self.sql(name), self.sql(COLLECTIONS)
        cursor.execute(f"LOCK TABLE {table}", [])
        cursor.execute(f"SELECT 1 FROM {table} LIMIT 1", [])
        is_empty = cursor.fetchone() is None
        cursor.execute(f"SELECT 1 FROM {collections} WHERE place = %s AND source <> %s", [name, source])
        if is_empty and cursor.fetchone() is None:
            cursor.execute(f"DROP VIEW IF EXISTS {self.sql(name + CURRENT)}", [])
            cursor.execute(f"DROP TABLE {table}", [])
            cursor.execute(f"DELETE FROM {collections} WHERE place = %s AND source = %s", [name, source])

    def definition(self, name: str) -> list[str]:
        """The statements that make a table."""
        table = self.sql(name)
        if name == POSITIONS:
            return [
                f"CREATE TABLE {table} (stream text PRIMARY KEY, epoch bigint, position bigint NOT NULL, "
                "updated_at timestamptz NOT NULL)"
            ]
        if name == COLLECTIONS:
            return [
                f"CREATE TABLE {table} (place text, source text, since bigint NOT NULL, PRIMARY KEY (place, source))"
            ]
        own = ", ".join(f"{quoted(each.name)} {SQL_NAMES.get(each.type, each.type)}" for each in self.columns)
        shown = ", ".join(["_id", "_version", *(quoted(each.name) for each in self.columns)])
        return [
            f'CREATE TABLE {table} (_id text COLLATE "C" PRIMARY KEY, _version bigint NOT NULL, '
            f"_deleted_at timestamptz, _source text NOT NULL, {own})",
            f"CREATE INDEX {quoted(name + DELETED)} ON {table} (_deleted_at) WHERE _deleted_at IS NOT NULL",
            f"CREATE VIEW {self.sql(name + CURRENT)} AS SELECT {shown} FROM {table} WHERE _deleted_at IS NULL",
        ]

    def _found(self, cursor: Cursor[Any], names: Sequence[str]) -> set[str]:
        cursor.execute(
            "SELECT c.relname, c.relkind::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace "
            "WHERE n.nspname = %s AND c.relname = ANY(%s)",
            [self.schema, [*names]],
        )
        found = dict(cursor.fetchall())
        # Through a simple view rows could be written all the same: into the table of another collection.
        if others := [name for name, kind in found.items() if kind not in ("r", "p")]:
            raise RefusedError("", f"{others[0]} is no table")
        return {*found}
