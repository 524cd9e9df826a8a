"""What becomes of the rows of a collection that was dropped, or renamed: by their source and versions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from docdb_stream.targets._postgresql.tables import quoted
from docdb_stream.targets._postgresql.writer import PAGE_ROWS, Writer

if TYPE_CHECKING:
    from psycopg import Cursor

_TEMPORARY = ".tmp.agg_out."
"""In the name of the collection that $out writes, and renames at its end: each time another one."""


def delete_older(writer: Writer, table: str, source: str, before: int) -> None:
    """Delete a collection's rows that are older, and let no older one come from now on. Safe to repeat.

    Raises:
        RefusedError: Something else has the table's name.
        TargetError: The server cannot be reached, refuses the user, or a later run has taken over.
    """
    _begin(writer, table, source, before)
    name = writer.tables.sql(table)
    statement = f"DELETE FROM {name} WHERE _id IN ({_page(name)}) RETURNING _id"
    _by_page(writer, statement, lambda after: [after, source, before, PAGE_ROWS])


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
    if old[0] == new[0]:
        _by_page(
            writer,
            f"UPDATE {to} SET _source = %s, _version = %s WHERE _id IN ({_page(to)}) RETURNING _id",
            lambda after: [new[1], at, after, old[1], at, PAGE_ROWS],
        )
        return
    _by_page(
        writer,
        f"WITH moved AS (DELETE FROM {source} WHERE _id IN ({_page(source)}) RETURNING *), "
        f"written AS (INSERT INTO {to} AS t (_id, _version, _source, {listed}) "
        f"SELECT _id, %s, %s, {listed} FROM moved WHERE _deleted_at IS NULL ON CONFLICT (_id) DO UPDATE SET "
        "_version = excluded._version, _deleted_at = NULL, _source = excluded._source, "
        f"{', '.join(f'{name} = excluded.{name}' for name in names)} WHERE t._version <= excluded._version) "
        "SELECT _id FROM moved",
        lambda after: [after, old[1], at, PAGE_ROWS, at, new[1]],
    )
    if _TEMPORARY in old[1]:
        writer.database.transact(lambda cursor: writer.tables.let_go(cursor, *old))


def _page(table: str) -> str:
    """A page of a collection's older rows, in the order of the key: what was there before is not gone through again."""
    return f"SELECT _id FROM {table} WHERE _id > %s AND _source = %s AND _version < %s ORDER BY _id LIMIT %s"


def _by_page(writer: Writer, statement: str, values: Callable[[str], Sequence[Any]]) -> None:
    """Do a page in a transaction, until one is not full."""
    after = ""  # no _id is an empty text, see ``document_id``

    def page(cursor: Cursor[Any]) -> list[str]:
        writer.pass_on(cursor)
        cursor.execute(statement, values(after))
        return [key for (key,) in cursor.fetchall()]

    while len(keys := writer.database.transact(page)) == PAGE_ROWS:
        after = max(keys)  # in the order of code points, as COLLATE "C" has it


def _begin(writer: Writer, table: str, source: str, since: int) -> None:
    def body(cursor: Cursor[Any]) -> None:
        writer.tables.make(cursor, [table])
        writer.pass_on(cursor, since)
        writer.know(cursor, [(table, source)], since)

    writer.database.transact(body)
