"""Writes changes within transactions: with each goes the stream's epoch, by which a run that was taken over is refused.

Owns the transaction: who wins, and in which order it is written.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from docdb_stream.context import current_run
from docdb_stream.errors import TargetError
from docdb_stream.events import ChangeEvent
from docdb_stream.targets._postgresql.columns import SQL_NAMES, Row
from docdb_stream.targets._postgresql.database import Database
from docdb_stream.targets._postgresql.errors import NAME, RefusedError
from docdb_stream.targets._postgresql.tables import COLLECTIONS, POSITIONS, Tables, quoted

if TYPE_CHECKING:
    from psycopg import Cursor

PAGE_ROWS: Final = 10_000
"""Rows deleted or moved in one transaction: a second or so."""
PURGE_S: Final = 3600.0
"""How often old tombstones are looked for."""


logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Write:
    """A document as a change has left it.

    Attributes:
        event: The event that says so.
        table: The table.
        source: The collection, as ``db.coll``.
        id: The document's ``_id`` as text.
        version: When it changed, see ``document_version``.
        row: What it is since, by column; None where it was deleted.
    """

    event: ChangeEvent
    table: str
    source: str
    id: str
    version: int
    row: Row | None


class Writer:
    """Writes to tables.

    Args:
        database: Where; its owner closes it.
        tables: The tables there.
        stream: The stream's name.
        tombstone_days: How long deleted documents are remembered.
    """

    def __init__(self, database: Database, tables: Tables, stream: str, tombstone_days: int) -> None:
        self.database = database
        self.tables = tables
        self._stream = stream
        self._tombstone_days = tombstone_days
        self._made: set[str] = set()
        self._purged_s: dict[str, float] = {}

    def write(self, writes: Sequence[Write]) -> None:
        """Write changes, all of them or none: of each document the last, unless what is there is newer.

        Raises:
            RefusedError: The server does not take one of them.
            TargetError: The server cannot be reached, refuses the user, or a later run has taken over.
        """
        newest = _last(writes)
        by_table: dict[str, list[Write]] = {}
        for each in newest:
            by_table.setdefault(each.table, []).append(each)
        is_first = True

        def body(cursor: Cursor[Any]) -> None:
            nonlocal is_first
            # What was made may be gone: what is done again looks again.
            if not is_first or not by_table.keys() <= self._made:
                self.tables.make(cursor, by_table)
            is_first = False
            self.pass_on(cursor, max(each.version for each in newest))
            self.know(cursor, sorted({(each.table, each.source) for each in newest}))
            for table in sorted(by_table):  # always in one order, or two would wait for each other
                self._upsert(cursor, table, by_table[table])

        self.database.transact(body)
        self._made |= by_table.keys()

    def pass_on(self, cursor: Cursor[Any], position: int = 0) -> None:
        """Note how far the stream is. Its row is locked until the end of the transaction: runs go one by one.

        Raises:
            TargetError: A later holder of the stream's lease has written here.
        """
        table, epoch = self.tables.sql(POSITIONS), current_run().lease_epoch()
        cursor.execute(
            f"INSERT INTO {table} AS p (stream, epoch, position, updated_at) VALUES (%s, %s, %s, now()) "
            "ON CONFLICT (stream) DO UPDATE SET epoch = coalesce(excluded.epoch, p.epoch), "
            "position = greatest(p.position, excluded.position), updated_at = excluded.updated_at "
            "WHERE p.epoch IS NULL OR excluded.epoch IS NULL OR p.epoch <= excluded.epoch",
            [self._stream, epoch, position],
        )
        if cursor.rowcount:
            return
        current_run().check_lease()  # it mostly knows by now
        raise TargetError(
            NAME,
            f"a later run of stream {self._stream} has written here (this one has epoch {epoch})",
            hint="if one is running, all is well. If not, the stream's checkpoint was removed, or another deployment "
            f"has a stream of this name: give this one another STREAM_NAME, or delete its row from {POSITIONS}",
        )

    def know(self, cursor: Cursor[Any], places: Sequence[tuple[str, str]], since: int = 0) -> None:
        """Note which collections tables hold, and since when these are what they are."""
        table = self.tables.sql(COLLECTIONS)
        cursor.execute(
            f"INSERT INTO {table} AS c (place, source, since) "
            "SELECT place, source, %s FROM unnest(%s::text[], %s::text[]) AS s (place, source) "
            "ON CONFLICT (place, source) DO UPDATE SET since = excluded.since WHERE c.since < excluded.since",
            [since, [place for place, _ in places], [source for _, source in places]],
        )

    def purge(self, tables: Iterable[str]) -> None:
        """Delete old tombstones of these tables, where that was not done lately. Raises as ``write``."""
        now_s = time.monotonic()
        for table in tables:
            if now_s < self._purged_s.get(table, 0.0):
                continue

            def body(cursor: Cursor[Any], table: str = table) -> int:
                self.pass_on(cursor)
                name = self.tables.sql(table)
                cursor.execute(
                    f"DELETE FROM {name} WHERE _id IN (SELECT _id FROM {name} "
                    "WHERE _deleted_at < now() - make_interval(days => %s) LIMIT %s)",
                    [self._tombstone_days, PAGE_ROWS],
                )
                return cursor.rowcount

            try:
                if self.database.transact(body) == PAGE_ROWS:
                    continue  # the next batch goes on
            except RefusedError as error:  # what others have set up for the table is no reason to stop the stream
                logger.warning("old tombstones of the table %s stay: %s", table, error)
            self._purged_s[table] = now_s + PURGE_S

    def _upsert(self, cursor: Cursor[Any], table: str, writes: Sequence[Write]) -> None:
        columns = self.tables.columns
        nothing: Row = (None,) * len(columns)
        rows = [nothing if each.row is None else each.row for each in writes]
        names = [quoted(each.name) for each in columns]
        values = [f"s.c{place}::{SQL_NAMES.get(each.type, each.type)}" for place, each in enumerate(columns)]
        # What is deleted goes first, as it may hold what others are to have in a unique index.
        cursor.execute(
            f"INSERT INTO {self.tables.sql(table)} AS t "
            f"(_id, _version, _deleted_at, _source, {', '.join(names)}) "
            f"SELECT s.id, s.version, CASE WHEN s.gone THEN now() END, s.source, {', '.join(values)} "
            f"FROM unnest(%s::text[], %s::bigint[], %s::boolean[], %s::text[]{', %s::text[]' * len(columns)}) "
            f"AS s (id, version, gone, source{''.join(f', c{place}' for place in range(len(columns)))}) "
            f"JOIN {self.tables.sql(COLLECTIONS)} c ON c.place = %s AND c.source = s.source "
            "WHERE s.version >= c.since ORDER BY s.gone DESC, s.id "
            "ON CONFLICT (_id) DO UPDATE SET _version = excluded._version, _deleted_at = excluded._deleted_at, "
            f"_source = excluded._source, {', '.join(f'{name} = excluded.{name}' for name in names)} "
            "WHERE t._version <= excluded._version",
            [
                [each.id for each in writes],
                [each.version for each in writes],
                [each.row is None for each in writes],
                [each.source for each in writes],
                *([row[place] for row in rows] for place in range(len(columns))),
                table,
            ],
        )


def _last(writes: Iterable[Write]) -> list[Write]:
    """Of each document the last, in the order of these. A snapshot's is older than a change before it."""
    found: dict[tuple[str, str], Write] = {}
    for each in writes:
        place = each.table, each.id
        before = found.get(place)
        if before is None or each.version >= before.version:
            found.pop(place, None)
            found[place] = each
    return [*found.values()]
