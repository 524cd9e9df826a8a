"""What becomes of the rows of a collection that was dropped, or renamed: by their source and versions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from docdb_stream.targets._postgresql.tables import DROPPED, quoted
from docdb_stream.targets._postgresql.writer import PAGE_ROWS, Writer

if TYPE_CHECKING:
    from psycopg import Cursor


def delete_older(writer: Writer, table: str, source: str, before: int) -> None:
    """Delete a collection's rows that are older, and let no older one come from now on. Safe to repeat.

    Raises:
        RefusedError: Something else has the table's name.
        TargetError: The server cannot be reached, refuses the user, or a later run has taken over.
    """
    _begin(writer, table, source, before)
    name = writer.tables.sql(table)

    def page(cursor: Cursor[Any]) -> int:
        writer.pass_on(cursor)
        cursor.execute(
            f"DELETE FROM {name} WHERE _id IN (SELECT _id FROM {name} WHERE _source = %s AND _version < %s LIMIT %s)",
            [source, before, PAGE_ROWS],
        )
        return cursor.rowcount

    while writer.database.transact(page) == PAGE_ROWS:
        pass


def move_older(writer: Writer, old: tuple[str, str], new: tuple[str, str], at: int) -> None:
    """Move a collection's rows that are older to the table of the collection that it was renamed to, in place of those
    that are there. Safe to repeat.

    Args:
        writer: To the target.
        old: The table, and the collection.
        new: The same after.
        at: When it was renamed.

    Raises:
        RefusedError, TargetError: As ``delete_older``.
    """
    delete_older(writer, *new, at)
    _begin(writer, *old, at)
    source, to = writer.tables.sql(old[0]), writer.tables.sql(new[0])
    names = [quoted(each.name) for each in writer.tables.columns]
    listed = ", ".join(names)
    page = f"SELECT _id FROM {source} WHERE _source = %s AND _version < %s LIMIT %s"
    if old[0] == new[0]:
        statement = f"UPDATE {to} SET _source = %s, _version = %s WHERE _id IN ({page})"
        values = [new[1], at, old[1], at, PAGE_ROWS]
    else:
        statement = (
            f"WITH moved AS (DELETE FROM {source} WHERE _id IN ({page}) RETURNING *), "
            f"written AS (INSERT INTO {to} AS t (_id, _version, _source, {listed}) "
            f"SELECT _id, %s, %s, {listed} FROM moved WHERE _deleted_at IS NULL ON CONFLICT (_id) DO UPDATE SET "
            f"_version = excluded._version, _deleted_at = NULL, _source = excluded._source, "
            f"{', '.join(f'{name} = excluded.{name}' for name in names)} WHERE t._version <= excluded._version) "
            "SELECT count(*) FROM moved"
        )
        values = [old[1], at, PAGE_ROWS, at, new[1]]

    def body(cursor: Cursor[Any]) -> int:
        writer.pass_on(cursor)
        cursor.execute(statement, values)
        if old[0] == new[0]:
            return cursor.rowcount
        found = cursor.fetchone()
        return found[0] if found else 0

    while writer.database.transact(body) == PAGE_ROWS:
        pass


def _begin(writer: Writer, table: str, source: str, since: int) -> None:
    def body(cursor: Cursor[Any]) -> None:
        writer.tables.make(cursor, [table])
        writer.pass_on(cursor, since)
        cursor.execute(
            f"INSERT INTO {writer.tables.sql(DROPPED)} AS d (place, source, version) VALUES (%s, %s, %s) "
            "ON CONFLICT (place, source) DO UPDATE SET version = greatest(d.version, excluded.version)",
            [table, source, since],
        )

    writer.database.transact(body)
