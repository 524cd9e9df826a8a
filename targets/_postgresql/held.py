"""What tables hold of a stream, for comparing: see ``held.Holdings``."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from docdb_stream.event import ChangeEvent
from docdb_stream.held import Held
from docdb_stream.position import Namespace
from docdb_stream.settings import Settings
from docdb_stream.targets._postgresql.columns import digest_of
from docdb_stream.targets._postgresql.database import Database
from docdb_stream.targets._postgresql.tables import COLLECTIONS, Tables
from docdb_stream.targets._postgresql.writer import Write
from docdb_stream.targets._versioned import document_key, version_time

if TYPE_CHECKING:
    from psycopg import Cursor

_PAGE_ROWS: Final = 500
_ALL_ROWS: Final = 100_000
"""Of so many rows a sample looks at each."""


class PostgresHoldings:
    """See ``Holdings``.

    Args:
        settings: The stream.
        database: Where the tables are; its owner closes it.
        tables: The tables.
        write_of: What an event writes.
        table_of: The table of a collection.
        is_own: What is said of what the stream has written; None where it may be there on purpose, after a drop.
    """

    def __init__(
        self,
        settings: Settings,
        database: Database,
        tables: Tables,
        *,
        write_of: Callable[[ChangeEvent], Write | None],
        table_of: Callable[[Namespace], str],
        is_own: bool | None,
    ) -> None:
        self._settings = settings
        self._database = database
        self._tables = tables
        self._write_of = write_of
        self._table_of = table_of
        self._is_own = is_own
        shown = ", ".join(
            ["_id", "_version", "_source", "_deleted_at IS NULL", *(each.shown for each in tables.columns)]
        )
        self._select = f"SELECT {shown} FROM"

    def expected(self, event: ChangeEvent) -> Held | None:
        """See Holdings."""
        write = self._write_of(event)
        if write is None:
            return None
        digest = None if write.row is None else digest_of(self._tables.columns, write.row)
        return Held(write.table, write.id.encode(), digest, event.cluster_time)

    def place_of(self, namespace: Namespace) -> str | None:
        """See Holdings."""
        return self._table_of(namespace)

    def places(self) -> Mapping[str, Sequence[Namespace]]:
        """See Holdings: what was ever written, also of collections that are gone."""

        def body(cursor: Cursor[Any]) -> list[tuple[str, str]]:
            if not self._tables.exists(cursor, COLLECTIONS):
                return []
            cursor.execute(f"SELECT place, source FROM {self._tables.sql(COLLECTIONS)}", [])
            return cursor.fetchall()

        found: dict[str, list[Namespace]] = {}
        for table, source in self._database.transact(body, writes=False):
            namespace = Namespace(*source.split(".", 1))
            if self._settings.watches(namespace) and self._table_of(namespace) == table:
                found.setdefault(table, []).append(namespace)
        return found

    def held(self, place: str) -> Iterator[Held]:
        """See Holdings. By pages, each a transaction of its own: a failover is waited for as in a run."""
        after: str | None = None
        while True:
            condition = "_deleted_at IS NULL AND (%s::text IS NULL OR _id > %s) ORDER BY _id LIMIT %s"
            page = self._rows(place, condition, [after, after, _PAGE_ROWS])
            yield from page
            if len(page) < _PAGE_ROWS:
                return
            after = page[-1].key.decode()

    def sample(self, place: str, count: int) -> Sequence[Held]:
        """See Holdings. Of a large table by chance whole blocks, as looking at each row would take long."""

        def body(cursor: Cursor[Any]) -> list[Any]:
            if not self._tables.exists(cursor, place):
                return []
            cursor.execute(
                "SELECT reltuples FROM pg_class WHERE oid = %s::regclass", [self._tables.sql(place).replace("%%", "%")]
            )
            rows = max(row[0] for row in cursor.fetchall())
            part = f"TABLESAMPLE SYSTEM ({min(100.0, 1000.0 * count / rows):f})" if rows > _ALL_ROWS else ""
            cursor.execute(
                f"{self._select} {self._tables.sql(place)} {part} WHERE _deleted_at IS NULL ORDER BY random() LIMIT %s",
                [count],
            )
            return cursor.fetchall()

        return [self._held(place, row) for row in self._database.transact(body, writes=False)]

    def look(self, wanted: Sequence[Held]) -> Sequence[Held]:
        """See Holdings."""
        found: dict[tuple[str, bytes], Held] = {}
        for place in dict.fromkeys(each.place for each in wanted):
            keys = [each.key.decode() for each in wanted if each.place == place]
            for first in range(0, len(keys), _PAGE_ROWS):
                for each in self._rows(place, "_id = ANY(%s)", [keys[first : first + _PAGE_ROWS]]):
                    found[place, each.key] = each
        return [
            found.get((each.place, each.key)) or Held(each.place, each.key, None, None, is_own=False) for each in wanted
        ]

    def id_of(self, held: Held) -> bytes | None:
        """See Holdings."""
        return document_key(held.key.decode())

    def _rows(self, place: str, condition: str, values: Sequence[Any]) -> list[Held]:
        def body(cursor: Cursor[Any]) -> list[Any]:
            if not self._tables.exists(cursor, place):
                return []
            cursor.execute(f"{self._select} {self._tables.sql(place)} WHERE {condition}", [*values])
            return cursor.fetchall()

        return [self._held(place, row) for row in self._database.transact(body, writes=False)]

    def _held(self, place: str, row: Sequence[Any]) -> Held:
        key, version, source, is_there, *values = row
        digest = digest_of(self._tables.columns, values) if is_there else None
        is_own = self._is_own if is_there and self._settings.watches(Namespace(*source.split(".", 1))) else False
        return Held(place, key.encode(), digest, version_time(version), is_own)
