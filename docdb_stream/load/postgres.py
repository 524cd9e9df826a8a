"""Tables in PostgreSQL: one for each collection, one row for each document.

Owns what is written in one transaction: the rows, what is deleted, and that the manifest is loaded.

Of each document the newest state wins, by ``_version``. A document that is deleted leaves its version in
``docdb_stream_deleted``, and a collection that is dropped leaves the time of that: a manifest that is loaded late, or
again after others, brings nothing back.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any, Final, cast

from docdb_stream.context import current_deadline
from docdb_stream.errors import TargetError
from docdb_stream.load.fields import NOT_LOADED, json_without_nul, quoted, text_without_nul, type_of
from docdb_stream.load.manifest import DataFile, Manifest
from docdb_stream.load.warehouse import Loaded
from docdb_stream.position import Namespace
from docdb_stream.schema.columns import OTHER_SUFFIX, ColumnType
from docdb_stream.secret import read_credentials
from docdb_stream.targets._client import import_client
from docdb_stream.targets._names import distinct_name

_NAME_BYTES: Final = 63
"""PostgreSQL's manual, "Identifiers and Key Words": a longer one is cut."""
_COPIED_ROWS: Final = 1024
_CONNECT_S: Final = 10

_SQL_TYPES: Final[dict[str, str]] = {
    "int32": "integer",
    "int64": "bigint",
    "double": "double precision",
    "decimal": "numeric",
    "bool": "boolean",
    "text": "text",
    "timestamp": "timestamp with time zone",
    "binary": "bytea",
    "json": "jsonb",
}
_WIDER: Final[dict[str, tuple[str, ...]]] = {
    "integer": ("bigint", "double precision", "numeric"),
    "bigint": ("double precision", "numeric"),
    "double precision": ("numeric",),
}
"""What a column becomes when a file has a wider one."""
_FIRST_DATE_MS: Final = -210_866_803_200_000
_LAST_DATE_MS: Final = 9_224_318_015_999_999
"""PostgreSQL's manual, "Date/Time Types": 4713 BC to 294276 AD. What is beyond is null."""

_TAKEN: Final = frozenset({"cmax", "cmin", "ctid", "tableoid", "xmax", "xmin", "_place"})
"""PostgreSQL's manual, "System Columns": no column may have these names, nor that of the place of a staged row."""

_SET_UP: Final = (
    """CREATE TABLE IF NOT EXISTS {schema}.docdb_stream_loads (
        stream text NOT NULL, manifest text NOT NULL, rows bigint NOT NULL,
        loaded_at timestamp with time zone NOT NULL DEFAULT now(), PRIMARY KEY (stream, manifest))""",
    """CREATE TABLE IF NOT EXISTS {schema}.docdb_stream_deleted (
        table_name text NOT NULL, _key text NOT NULL, _version bigint NOT NULL, PRIMARY KEY (table_name, _key))""",
    """CREATE TABLE IF NOT EXISTS {schema}.docdb_stream_dropped (
        table_name text PRIMARY KEY, _version bigint NOT NULL)""",
)


@dataclass(frozen=True, slots=True)
class _Field:
    """A column of a file.

    Attributes:
        source: Its name there.
        type: What it holds.
    """

    source: str
    type: ColumnType

    @property
    def name(self) -> str:
        """The column's name in a table."""
        return f"{self.source}__field" if self.source in _TAKEN else self.source

    @property
    def sql_type(self) -> str:
        return _SQL_TYPES[self.type]

    def fits(self, known: str) -> bool:
        """Whether a table's column of this type holds its values."""
        return known == self.sql_type or known in _WIDER.get(self.sql_type, ())


class Postgres:
    """See ``Warehouse``.

    Args:
        uri: ``postgresql://...``.
        secret: Where user name and password are, if not in the URI (see ``read_credentials``).
        schema: Where the tables are; made, if it is not there.

    Raises:
        ConfigError: psycopg is not installed.
    """

    name = "postgresql"

    def __init__(self, uri: str, *, secret: str | None = None, schema: str = "public") -> None:
        self._library: Any = import_client("psycopg", "postgresql", "psycopg")
        self._uri = uri
        self._secret = secret
        self._schema = schema
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
            for file in manifest.files:
                with open_file(file) as content:
                    found.add(self._load_file(file.namespace, content))
        return found

    def close(self) -> None:
        """See ``Warehouse``."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    # One file

    def _load_file(self, namespace: Namespace, content: IO[bytes]) -> Loaded:
        from pyarrow.parquet import ParquetFile

        with ParquetFile(content) as file:
            if not namespace.coll:  # the collections' own drops come before that of their database
                return Loaded(rows=file.metadata.num_rows)
            table = table_name(namespace)
            fields = [_Field(each.name, type_of(each)) for each in file.schema_arrow if each.name not in NOT_LOADED]
            columns = self._prepared(table, fields)
            self._stage(fields, file)
            rows = file.metadata.num_rows
        found = self._merge(table, fields, columns)
        found.rows = rows
        return found

    def _prepared(self, table: str, fields: Sequence[_Field]) -> dict[str, str]:
        """The table, with a column for each field; returns its columns with their types."""
        self._run(
            "CREATE TABLE IF NOT EXISTS {schema}.{table} "
            "(_key text PRIMARY KEY, _version bigint NOT NULL, _cluster_time timestamp with time zone, _event_id text)",
            table=table,
        )
        found = self._columns(table)
        for field in fields:
            known = found.get(field.name)
            if known is None:
                self._alter(table, f"ADD COLUMN {{column}} {field.sql_type}", field.name)
            elif field.sql_type in _WIDER.get(known, ()):
                self._alter(table, f"ALTER COLUMN {{column}} TYPE {field.sql_type}", field.name)
            elif not field.fits(known):  # as where the ledger was lost, and learned anew
                self._alter(table, "ADD COLUMN IF NOT EXISTS {column} text", field.name + OTHER_SUFFIX)
        return self._columns(table)

    def _alter(self, table: str, how: str, column: str) -> None:
        self._run("ALTER TABLE {schema}.{table} " + how, table=table, column=column)

    def _columns(self, table: str) -> dict[str, str]:
        found = self._run(
            "SELECT column_name, data_type FROM information_schema.columns WHERE table_schema = %s AND table_name = %s",
            self._schema,
            table,
        ).fetchall()
        return dict(found)

    def _stage(self, fields: Sequence[_Field], file: Any) -> None:
        """The file's rows in a temporary table, in their order."""
        self._run("DROP TABLE IF EXISTS pg_temp.staged")
        definitions = ", ".join(
            f"{quoted(field.name)} {'bigint' if field.type == 'timestamp' else field.sql_type}" for field in fields
        )
        self._run(
            "CREATE TEMPORARY TABLE staged "
            f"(_place bigint, _operation text, _has_document boolean, {_plain(definitions)}) ON COMMIT DROP"
        )
        names = ["_operation", "_has_document", *(field.source for field in fields)]
        listed = ", ".join(["_place", '"_operation"', '"_has_document"', *(quoted(field.name) for field in fields)])
        place = 0
        with self._cursor().copy(f"COPY staged ({listed}) FROM STDIN") as copy:
            for batch in file.iter_batches(_COPIED_ROWS, columns=names):
                values = [_values(batch.column(index), name, fields) for index, name in enumerate(names)]
                for row in zip(*values, strict=True):
                    copy.write_row((place, *row))
                    place += 1

    def _merge(self, table: str, fields: Sequence[_Field], columns: dict[str, str]) -> Loaded:
        """The newest state of each document from the staged rows into the table."""
        self._merge_drops(table)
        self._run(
            "DELETE FROM staged USING {schema}.docdb_stream_dropped d "
            "WHERE d.table_name = %s AND staged._version <= d._version",
            table,
        )
        # An update whose document was gone when it was looked up says nothing of it: a delete follows.
        self._run("DELETE FROM staged WHERE _key IS NULL OR (NOT _has_document AND _operation <> 'delete')")
        self._run(
            "DELETE FROM staged s USING staged o WHERE s._key = o._key "
            "AND (o._version, o._place) > (s._version, s._place)"
        )
        total = self._run("SELECT count(*) FROM staged").fetchone()[0]
        self._run(
            "DELETE FROM staged s USING {schema}.docdb_stream_deleted d "
            "WHERE d.table_name = %s AND d._key = s._key AND d._version > s._version",
            table,
        )
        self._run(
            "DELETE FROM staged s USING {schema}.{table} t WHERE t._key = s._key AND t._version > s._version",
            table=table,
        )
        deleted = self._run(
            "DELETE FROM {schema}.{table} t USING staged s WHERE t._key = s._key AND NOT s._has_document", table=table
        ).rowcount
        self._run(
            "INSERT INTO {schema}.docdb_stream_deleted (table_name, _key, _version) "
            "SELECT %s, _key, _version FROM staged WHERE NOT _has_document "
            "ON CONFLICT (table_name, _key) DO UPDATE SET _version = EXCLUDED._version",
            table,
        )
        self._run(
            "DELETE FROM {schema}.docdb_stream_deleted d USING staged s "
            "WHERE d.table_name = %s AND d._key = s._key AND s._has_document",
            table,
        )
        taken = self._run("SELECT count(*), count(*) FILTER (WHERE _has_document) FROM staged").fetchone()
        targets = self._assignments(fields, columns)
        names = ", ".join(quoted(name) for name in targets)
        values = ", ".join(targets.values())
        updates = ", ".join(f"{quoted(name)} = EXCLUDED.{quoted(name)}" for name in targets if name != "_key")
        others = [name for name in columns if name not in targets]
        updates += "".join(f", {quoted(name)} = NULL" for name in others)
        self._run(
            f"INSERT INTO {{schema}}.{{table}} AS t ({_plain(names)}) "
            f"SELECT {_plain(values)} FROM staged s WHERE s._has_document ON CONFLICT (_key) "
            f"DO UPDATE SET {_plain(updates)}",
            table=table,
        )
        return Loaded(written=taken[1], deleted=deleted, stale=total - taken[0])

    def _assignments(self, fields: Sequence[_Field], columns: dict[str, str]) -> dict[str, str]:
        """Each column that the staged rows have something for -> what that is."""
        found: dict[str, str] = {}
        misfits: dict[str, str] = {}
        for field in fields:
            value = f"s.{quoted(field.name)}"
            if field.type == "timestamp":
                value = (
                    f"CASE WHEN {value} BETWEEN {_FIRST_DATE_MS} AND {_LAST_DATE_MS} "
                    f"THEN timestamptz 'epoch' + {value} * interval '1 millisecond' END"
                )
            if field.fits(columns[field.name]):
                found[field.name] = value
            else:
                misfits[field.name + OTHER_SUFFIX] = f"({value})::text"
        for name, text in misfits.items():
            found[name] = f"coalesce({found[name]}, {text})" if name in found else text
        return found

    def _merge_drops(self, table: str) -> None:
        """A collection that is dropped, or renamed, takes along what it held."""
        dropped = self._run(
            "SELECT max(_version) FROM staged WHERE _operation IN ('drop', 'rename', 'dropDatabase')"
        ).fetchone()[0]
        if dropped is None:
            return
        self._run(
            "INSERT INTO {schema}.docdb_stream_dropped (table_name, _version) VALUES (%s, %s) ON CONFLICT (table_name) "
            "DO UPDATE SET _version = greatest(docdb_stream_dropped._version, EXCLUDED._version)",
            table,
            dropped,
        )
        self._run("DELETE FROM {schema}.{table} WHERE _version <= %s", dropped, table=table)
        self._run("DELETE FROM {schema}.docdb_stream_deleted WHERE table_name = %s AND _version <= %s", table, dropped)

    # The connection

    def _connected(self) -> Any:
        if self._connection is None:
            options: dict[str, Any] = {}
            if self._secret is not None:
                credentials = read_credentials(self._secret)
                options = {"user": credentials.username, "password": credentials.password}
            within_s = max(2, int(min(_CONNECT_S, current_deadline().remaining_s)))
            self._connection = self._library.connect(self._uri, connect_timeout=within_s, autocommit=True, **options)
            self._run("CREATE SCHEMA IF NOT EXISTS {schema}")
            for statement in _SET_UP:
                self._run(statement)
        remaining_s = current_deadline().remaining_s
        limit_ms = int(1000 * max(0.1, remaining_s)) if remaining_s < 1e6 else 0
        self._run(f"SET statement_timeout = {limit_ms}")
        return self._connection

    def _cursor(self) -> Any:
        return self._connection.cursor()

    def _run(self, statement: str, *values: object, **names: str) -> Any:
        """One statement; ``{schema}`` and the names given stand for identifiers."""
        from psycopg import sql

        quoted = {name: sql.Identifier(value) for name, value in {"schema": self._schema, **names}.items()}
        return self._connection.execute(sql.SQL(statement).format(**quoted), values or None)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """What psycopg raises as TargetError; the connection is let go of then."""
        try:
            yield
        except self._library.Error as error:
            self.close()
            raise TargetError(self.name, _told(error), hint=_hint(error)) from error


def table_name(namespace: Namespace) -> str:
    """The table of a collection: ``db_coll``; cut, with a hash, where that is too long."""
    name = "_".join(filter(None, namespace))
    return distinct_name(name, name, _NAME_BYTES)


def _plain(text: str) -> str:
    """Quoted names as a part of a statement in which braces stand for something."""
    return text.replace("{", "{{").replace("}", "}}")


def _values(column: Any, name: str, fields: Sequence[_Field]) -> list[Any]:
    """A column's values as COPY takes them."""
    kind = next((field.type for field in fields if field.source == name), None)
    if kind == "timestamp":
        return cast("list[Any]", column.cast("int64").to_pylist())
    values = cast("list[Any]", column.to_pylist())
    if kind in ("text", None):
        return [text_without_nul(value) if isinstance(value, str) else value for value in values]
    if kind == "json":
        return [value if value is None else json_without_nul(value) for value in values]
    return values


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
