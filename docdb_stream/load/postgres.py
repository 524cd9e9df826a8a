"""Tables in PostgreSQL: one for each collection, one row for each document.

Owns what is written in one transaction: the rows, what is deleted, and that the manifest is loaded.

Of each document the newest state wins, by ``_version``. A document that is deleted leaves its version in
``docdb_stream_deleted``, and a collection that is dropped leaves the time of that: a manifest that is loaded late, or
again after others, brings nothing back.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import IO, Any, Final

from docdb_stream.context import current_deadline
from docdb_stream.errors import TargetError
from docdb_stream.load.fields import NOT_LOADED, type_of
from docdb_stream.load.manifest import DataFile, Manifest
from docdb_stream.load.postgres_table import Field, PostgresTable, run, table_name
from docdb_stream.load.renames import Rename, merge_in_order, renames
from docdb_stream.load.warehouse import Loaded
from docdb_stream.position import Namespace
from docdb_stream.secret import read_credentials
from docdb_stream.targets._client import import_client

_CONNECT_S: Final = 10

_SET_UP: Final = (
    """CREATE TABLE IF NOT EXISTS {schema}.docdb_stream_loads (
        stream text NOT NULL, manifest text NOT NULL, rows bigint NOT NULL,
        loaded_at timestamp with time zone NOT NULL DEFAULT now(), PRIMARY KEY (stream, manifest))""",
    """CREATE TABLE IF NOT EXISTS {schema}.docdb_stream_deleted (
        table_name text NOT NULL, _key text NOT NULL, _version bigint NOT NULL, PRIMARY KEY (table_name, _key))""",
    """CREATE TABLE IF NOT EXISTS {schema}.docdb_stream_dropped (
        table_name text PRIMARY KEY, _version bigint NOT NULL)""",
)


class Postgres:
    """See ``Warehouse``.

    Args:
        uri: ``postgresql://...``.
        secret: Where user name and password are, if not in the URI (see ``read_credentials``).
        schema: Where the tables are; made, if it is not there.
        watches: Whether the stream reads a collection: only to one that it does, a renamed one's rows are moved.

    Raises:
        ConfigError: psycopg is not installed.
    """

    name = "postgresql"

    def __init__(
        self,
        uri: str,
        *,
        secret: str | None = None,
        schema: str = "public",
        watches: Callable[[Namespace], bool] = lambda namespace: True,
    ) -> None:
        self._library: Any = import_client("psycopg", "postgresql", "psycopg")
        self._uri = uri
        self._secret = secret
        self._schema = schema
        self._watches = watches
        self._connection: Any = None

    def loaded(self, stream: str) -> Collection[str]:
        """See ``Warehouse``."""
        with self._errors(), self._connected().transaction():
            found = self._run("SELECT manifest FROM {schema}.docdb_stream_loads WHERE stream = %s", stream).fetchall()
        return {manifest for (manifest,) in found}

    def load(self, stream: str, manifest: Manifest, open_file: Callable[[DataFile], IO[bytes]]) -> Loaded | None:
        """See ``Warehouse``."""
        found = Loaded()
        with self._errors(), self._connected().transaction():
            # Two loads at a time would wait for each other's rows in two orders.
            self._run("LOCK TABLE {schema}.docdb_stream_loads IN SHARE ROW EXCLUSIVE MODE")
            noted = self._run(
                "INSERT INTO {schema}.docdb_stream_loads (stream, manifest, rows) VALUES (%s, %s, %s) "
                "ON CONFLICT DO NOTHING",
                stream,
                manifest.key,
                sum(file.rows for file in manifest.files),
            )
            if not noted.rowcount:
                return None
            waiting: list[tuple[DataFile, str, Sequence[Rename]]] = []
            for file in manifest.files:
                if not file.namespace.coll:  # the collections' own drops come before that of their database
                    continue
                table = table_name(file.namespace)
                with self._opened(file, open_file) as parquet:
                    renamed = [rename for rename in renames(parquet) if self._watches(rename.to)]
                    if renamed or any(table == other for _, other, _ in waiting):
                        waiting.append((file, table, renamed))
                    else:
                        found.add(self._merge(self._table(table), parquet))

            def merge(file: DataFile, until: int | None) -> Loaded:
                with self._opened(file, open_file) as parquet:
                    return self._merge(self._table(table_name(file.namespace)), parquet, until)

            found.add(merge_in_order(waiting, merge, self._move))
        found.rows = sum(file.rows for file in manifest.files)
        return found

    def close(self) -> None:
        """See ``Warehouse``."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    # One file

    @contextmanager
    def _opened(self, file: DataFile, open_file: Callable[[DataFile], IO[bytes]]) -> Iterator[Any]:
        from pyarrow.parquet import ParquetFile

        with open_file(file) as content, ParquetFile(content) as parquet:
            yield parquet

    def _merge(self, table: PostgresTable, parquet: Any, until: int | None = None) -> Loaded:
        """A file into its table; what is before a version alone, if one is given."""
        fields = [Field(each.name, type_of(each)) for each in parquet.schema_arrow if each.name not in NOT_LOADED]
        columns = table.prepared(fields)
        table.stage(fields, parquet)
        if until is not None:
            table.leave_until(until)
        return table.merge(fields, columns)

    def _move(self, table: str, rename: Rename) -> Loaded:
        return self._table(table_name(rename.to)).take_over(self._table(table), rename.version)

    def _table(self, name: str) -> PostgresTable:
        return PostgresTable(name, self._schema, self._connection)

    # The connection

    def _connected(self) -> Any:
        if self._connection is None:
            options: dict[str, Any] = {}
            if self._secret is not None:
                credentials = read_credentials(self._secret)
                options = {"user": credentials.username, "password": credentials.password}
            within_s = max(2, int(min(_CONNECT_S, current_deadline().remaining_s)))
            self._connection = self._library.connect(self._uri, connect_timeout=within_s, autocommit=True, **options)
            with self._connection.transaction():
                # Of two that make the same at a time, one would fail, whether or not it is to be there already.
                self._run("SELECT pg_advisory_xact_lock(hashtext(%s))", f"docdb_stream {self._schema}")
                for statement in ("CREATE SCHEMA IF NOT EXISTS {schema}", *_SET_UP):
                    self._run(statement)
        remaining_s = current_deadline().remaining_s
        limit_ms = int(1000 * max(0.1, remaining_s)) if remaining_s < 1e6 else 0
        self._run(f"SET statement_timeout = {limit_ms}")
        return self._connection

    def _run(self, statement: str, *values: object) -> Any:
        return run(self._connection, self._schema, statement, *values)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """What psycopg raises as TargetError; the connection is let go of then."""
        try:
            yield
        except self._library.Error as error:
            self.close()
            raise TargetError(self.name, _told(error), hint=_hint(error)) from error


def _told(error: Exception) -> str:
    """What is wrong, without values: PostgreSQL's primary message names columns and types."""
    state = getattr(error, "sqlstate", None)
    if state is None:
        return "cannot be reached, or the connection is lost"
    primary = getattr(getattr(error, "diag", None), "message_primary", "") or ""
    return f"{state} {primary.split(':')[0]}"


def _hint(error: Exception) -> str:
    state = getattr(error, "sqlstate", None) or ""
    if state.startswith("28"):
        return "correct the user and password: WAREHOUSE_URI, WAREHOUSE_SECRET"
    if state == "42501":
        return "let this user CREATE in the schema, and own its tables"
    if state == "57014":
        return "nothing is lost: give the load more time"
    if state.startswith("53"):
        return "the server is out of disk, memory or connections; nothing is lost, the next load goes on"
    return "nothing is lost: the next load begins with this manifest"
