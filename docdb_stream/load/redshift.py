"""Tables in Amazon Redshift: one for each collection, one row for each document.

Owns what is written in one transaction: the rows, what is deleted, and that the manifest is loaded. It means the same
as in PostgreSQL (``load.postgres``); Redshift has no keys that are unique and no ON CONFLICT, so a lock that is taken
first makes the loads take turns, and what is newest is found before anything is written.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from tempfile import SpooledTemporaryFile
from typing import IO, Any, Final, cast

from docdb_stream.context import current_deadline
from docdb_stream.load.manifest import DataFile, Manifest
from docdb_stream.load.redshift_connection import NAME, Connection, in_turn
from docdb_stream.load.redshift_sql import (
    NEWEST,
    STAGED,
    Statements,
    column_name,
    exactly,
    is_wider,
    other_name,
    staged_type,
    table_name,
)
from docdb_stream.load.renames import Rename, merge_in_order, renames
from docdb_stream.load.row_file import NOT_HELD, RowField, Rows, write_rows
from docdb_stream.load.staging import Staging
from docdb_stream.load.warehouse import Loaded
from docdb_stream.position import Namespace
from docdb_stream.schema.columns import ColumnType
from docdb_stream.targets._temporary import temporary_files

_IN_MEMORY_BYTES: Final = 16 * 1024 * 1024
"""Of a file of rows that is made; a larger one waits in a temporary file."""
_NOTED_TOGETHER: Final = 250
"""Columns that one statement notes: Redshift takes long for each, and the Data API no more than 100 KB of one."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Staged:
    """A file of rows in the bucket."""

    table: str
    key: str
    rows: Rows
    renames: Sequence[Rename]


class Redshift:
    """See ``Warehouse``. Constructing connects to nothing.

    Args:
        connection: The way to it.
        staging: Where rows wait to be copied.
        role: ARN of the IAM role by which Redshift reads them; None: the cluster's default one.
        schema: Where the tables are; made, if it is not there.
        watches: Whether the stream reads a collection: only to one that it does, a renamed one's rows are moved.
    """

    name = NAME

    def __init__(
        self,
        connection: Connection,
        staging: Staging,
        *,
        role: str | None = None,
        schema: str = "public",
        watches: Callable[[Namespace], bool] = lambda namespace: True,
    ) -> None:
        self._connection = connection
        self._staging = staging
        self._role = role
        self._schema = schema
        self._watches = watches
        self._is_set_up = False

    def loaded(self, stream: str) -> Collection[str]:
        """See ``Warehouse``."""
        own = Statements(self._schema).own("loads")
        with self._transaction():
            return {row[0] for row in self._rows(f"SELECT manifest FROM {own} WHERE stream = %s", stream)}

    def load(self, stream: str, manifest: Manifest, open_file: Callable[[DataFile], IO[bytes]]) -> Loaded | None:
        """See ``Warehouse``."""
        staged: list[_Staged] = []
        try:
            for number, file in enumerate(manifest.files):
                if file.namespace.coll:  # the collections' own drops come before that of their database
                    with open_file(file) as content:
                        staged.append(self._staged(manifest, number, file, content))
            return in_turn(lambda: self._load(stream, manifest, staged))
        finally:
            if not current_deadline().stopping and current_deadline().remaining_s > 0:
                self._staging.remove([each.key for each in staged])

    def close(self) -> None:
        """See ``Warehouse``."""
        self._connection.close()
        self._staging.close()

    # One manifest

    @temporary_files(NAME)
    def _staged(self, manifest: Manifest, number: int, file: DataFile, content: IO[bytes]) -> _Staged:
        from pyarrow.parquet import ParquetFile

        with ExitStack() as stack:
            packed = stack.enter_context(SpooledTemporaryFile(_IN_MEMORY_BYTES))
            parquet = stack.enter_context(ParquetFile(content))
            rows = write_rows(parquet, cast("IO[bytes]", packed))
            renamed = [rename for rename in renames(parquet) if self._watches(rename.to)]
            # Two loads of one manifest have other nulls: each reads what it wrote itself.
            name = f"{hashlib.sha256(manifest.key.encode()).hexdigest()[:32]}/{number}-{rows.null}.csv.gz"
            key = self._staging.put(name, cast("IO[bytes]", packed))
        if rows.not_held:
            logger.warning(
                "values too long for Redshift are left out, see the column _not_held: file=%s columns=%s",
                file.key,
                ",".join(rows.not_held),
            )
        return _Staged(table_name(file.namespace), key, rows, renamed)

    def _load(self, stream: str, manifest: Manifest, staged: Sequence[_Staged]) -> Loaded | None:
        own = Statements(self._schema).own("loads")
        found = Loaded(rows=sum(file.rows for file in manifest.files))
        with self._transaction():
            # First of all: what the transaction sees is settled by the first statement that reads.
            self._run(f"LOCK TABLE {own}")
            if self._rows(f"SELECT 1 FROM {own} WHERE stream = %s AND manifest = %s", stream, manifest.key):
                return None
            noted = f"INSERT INTO {own} (stream, manifest, rows) VALUES (%s, %s, %s)"
            self._run(noted, stream, manifest.key, found.rows)
            later = {each.table for each in staged if each.renames}
            for each in staged:
                if each.table not in later:
                    found.add(self._merge(each))
            waiting = [(each, each.table, each.renames) for each in staged if each.table in later]
            found.add(merge_in_order(waiting, self._merge, self._move))
        return found

    def _merge(self, staged: _Staged, until: int | None = None) -> Loaded:
        """The newest state of each document in a file into its table; with a version, of what is before that."""
        sql = Statements(self._schema, staged.table)
        known = self._prepared(sql, staged.table, staged.rows.fields)
        types = _staged_types(staged.rows.fields, known)
        self._run(sql.stage(types))
        self._run(sql.copy(self._staging.uri(staged.key), self._role, staged.rows.null))
        if until is not None:
            self._run(sql.leave_until(until))
        return self._merge_staged(sql, staged.table, types, known)

    def _move(self, held: str, rename: Rename) -> Loaded:
        """What a table holds into that of its collection's new name, in the place of what was there before.

        A row that moves gets the rename's version: it is newer than all that either name had.
        """
        old = Statements(self._schema, held)
        columns = self._prepared(old, held, ())
        fields = [RowField(name, kind) for name, kind in columns.items() if name != NOT_HELD]
        table = table_name(rename.to)
        new = Statements(self._schema, table)
        known = self._prepared(new, table, fields)
        types = _staged_types(fields, known)
        self._drop(new, table, rename.version - 1)
        self._run(old.stage_own(fields, types, rename.version))
        return self._merge_staged(new, table, types, known)

    def _merge_staged(
        self, sql: Statements, table: str, types: Mapping[str, ColumnType], known: Mapping[str, ColumnType]
    ) -> Loaded:
        self._run(sql.fold(self._dropped(sql, table)))
        total = self._number(f"SELECT COUNT(*) FROM {NEWEST}")
        self._run(sql.leave_deleted(), table)
        self._run(sql.leave_stale())
        taken = self._number(f"SELECT COUNT(*) FROM {NEWEST}")
        written = self._number(f"SELECT COUNT(*) FROM {NEWEST} WHERE _has_document")
        deleted = self._number(sql.count_deleted())
        for statement in sql.merge([*types.items()], known):
            self._run(statement)
        self._run(sql.forget_deleted(), table)
        self._run(sql.note_deleted(), table)
        for temporary in (STAGED, NEWEST):
            self._run(f"DROP TABLE {temporary}")
        return Loaded(written=written, deleted=deleted, stale=total - taken)

    def _prepared(self, sql: Statements, table: str, fields: Sequence[RowField]) -> dict[str, ColumnType]:
        """The table, with a column for each field; returns its columns with their types.

        What they are is noted beside the tables: Redshift's own catalogue has other words for some.
        """
        own = sql.own("columns")
        found = self._rows(f"SELECT column_name, type FROM {own} WHERE table_name = %s", table)
        known: dict[str, ColumnType] = {name: cast("ColumnType", kind) for name, kind in found}

        noted = dict(known)

        def add(name: str, kind: ColumnType) -> None:
            if name not in known:
                self._run(sql.add(name, kind))
                known[name] = kind

        if not known:
            # With all at once: each statement takes long, and a document can have a thousand fields.
            statement, columns = sql.create({column_name(field.name): field.type for field in fields})
            self._run(statement)
            known.update(columns)
        for field in fields:
            name = column_name(field.name)
            add(name, field.type)
            before = known[name]
            if is_wider(field.type, before):
                if exactly(name, before, field.type) is not None:
                    add(other_name(name), "text")
                for statement in sql.widen(name, before, field.type):
                    self._run(statement)
                known[name] = field.type
            elif field.type != before and (
                not is_wider(before, field.type) or exactly(name, field.type, before) is not None
            ):
                add(other_name(name), "text")
        self._note_columns(own, table, known, noted)
        return known

    def _note_columns(self, own: str, table: str, known: dict[str, ColumnType], before: dict[str, ColumnType]) -> None:
        if known == before:
            return
        self._run(f"DELETE FROM {own} WHERE table_name = %s", table)
        waiting = [*known.items()]
        while waiting:
            noted, waiting = waiting[:_NOTED_TOGETHER], waiting[_NOTED_TOGETHER:]
            rows = ", ".join(["(%s, %s, %s)"] * len(noted))
            self._run(f"INSERT INTO {own} VALUES {rows}", *[value for each in noted for value in (table, *each)])

    def _dropped(self, sql: Statements, table: str) -> int:
        """Up to which version all is gone: a collection that is dropped, or renamed, takes along what it held."""
        now = self._number(
            f"SELECT COALESCE(MAX(_version), -1) FROM {STAGED} WHERE _operation IN ('drop', 'rename', 'dropDatabase')"
        )
        return self._drop(sql, table, now)

    def _drop(self, sql: Statements, table: str, version: int) -> int:
        """Take away all up to a version; returns up to which one all is gone."""
        own = sql.own("dropped")
        before = self._number(f"SELECT COALESCE(MAX(_version), -1) FROM {own} WHERE table_name = %s", table)
        if version > before:
            self._run(f"DELETE FROM {own} WHERE table_name = %s", table)
            self._run(f"INSERT INTO {own} VALUES (%s, %s)", table, version)
            self._run(f"DELETE FROM {sql.table} WHERE _version <= {version}")
            self._run(f"DELETE FROM {sql.own('deleted')} WHERE table_name = %s AND _version <= {version}", table)
        return max(before, version)

    # Transactions

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        if not self._is_set_up:
            in_turn(self._set_up)
        with self._connection.transaction():
            yield

    def _set_up(self) -> None:
        with self._connection.transaction():
            for statement in Statements(self._schema).set_up():
                self._run(statement)
        self._is_set_up = True

    def _run(self, statement: str, *values: object) -> None:
        self._connection.run(statement, *values)

    def _rows(self, statement: str, *values: object) -> Sequence[Sequence[Any]]:
        return self._connection.rows(statement, *values)

    def _number(self, statement: str, *values: object) -> int:
        return int(self._rows(statement, *values)[0][0])


def _staged_types(fields: Sequence[RowField], known: Mapping[str, ColumnType]) -> dict[str, ColumnType]:
    """The staged columns' types, for a table that has these columns."""
    return {column_name(field.name): staged_type(field, known[column_name(field.name)]) for field in fields}
