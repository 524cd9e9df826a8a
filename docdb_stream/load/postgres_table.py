"""One table of PostgreSQL: made as wide as what is loaded, and merged with that by version.

Of each document the newest state wins, by ``_version``. A document that is deleted leaves its version in
``docdb_stream_deleted``, and a collection that is dropped leaves the time of that: a manifest that is loaded late, or
again after others, brings nothing back.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, cast

from docdb_stream.load.fields import json_without_nul, quoted, text_without_nul
from docdb_stream.load.warehouse import Loaded
from docdb_stream.position import Namespace
from docdb_stream.schema.columns import OTHER_SUFFIX, ColumnType
from docdb_stream.targets._names import distinct_name

_NAME_BYTES: Final = 63
"""PostgreSQL's manual, "Identifiers and Key Words": a longer one is cut."""
_COPIED_ROWS: Final = 1024

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
_TYPES: Final[dict[str, ColumnType]] = {sql: cast("ColumnType", kind) for kind, sql in _SQL_TYPES.items()}
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


@dataclass(frozen=True, slots=True)
class Field:
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
        """The column's type there."""
        return _SQL_TYPES[self.type]

    def fits(self, known: str) -> bool:
        """Whether a table's column of this type holds its values."""
        return known == self.sql_type or known in _WIDER.get(self.sql_type, ())


class PostgresTable:
    """Within a transaction.

    Args:
        name: The table's.
        schema: Where it is.
        connection: By which it is asked.
    """

    def __init__(self, name: str, schema: str, connection: Any) -> None:
        self.name = name
        self._schema = schema
        self._connection = connection

    def _run(self, statement: str, *values: object, **names: str) -> Any:
        return run(self._connection, self._schema, statement, *values, **names)

    def prepared(self, fields: Sequence[Field]) -> dict[str, str]:
        """Makes the table, with a column for each field; returns its columns with their types."""
        self._run(
            "CREATE TABLE IF NOT EXISTS {schema}.{table} "
            "(_key text PRIMARY KEY, _version bigint NOT NULL, _cluster_time timestamp with time zone, _event_id text)",
            table=self.name,
        )
        found = self._columns()
        for field in fields:
            known = found.get(field.name)
            if known is None:
                self._alter(f"ADD COLUMN {{column}} {field.sql_type}", field.name)
            elif field.sql_type in _WIDER.get(known, ()):
                self._alter(f"ALTER COLUMN {{column}} TYPE {field.sql_type}", field.name)
            elif not field.fits(known):  # as where the ledger was lost, and learned anew
                self._alter("ADD COLUMN IF NOT EXISTS {column} text", field.name + OTHER_SUFFIX)
                found[field.name + OTHER_SUFFIX] = _SQL_TYPES["text"]
        return self._columns()

    def _alter(self, how: str, column: str) -> None:
        self._run("ALTER TABLE {schema}.{table} " + how, table=self.name, column=column)

    def _columns(self) -> dict[str, str]:
        found = self._run(
            "SELECT column_name, data_type FROM information_schema.columns WHERE table_schema = %s AND table_name = %s",
            self._schema,
            self.name,
        ).fetchall()
        return dict(found)

    def stage(self, fields: Sequence[Field], file: Any) -> None:
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
        with self._connection.cursor().copy(f"COPY staged ({listed}) FROM STDIN") as copy:
            for batch in file.iter_batches(_COPIED_ROWS, columns=names):
                values = [_values(batch.column(index), name, fields) for index, name in enumerate(names)]
                for row in zip(*values, strict=True):
                    copy.write_row((place, *row))
                    place += 1

    def leave_until(self, version: int) -> None:
        """Leave of the staged rows those before a rename."""
        self._run(
            "DELETE FROM staged WHERE _version > %s OR (_version = %s AND _operation = 'rename')", version, version
        )

    def take_over(self, other: PostgresTable, version: int) -> Loaded:
        """What another one held when its collection got this one's name, in the place of what was here before.

        A row that moves gets the rename's version: it is newer than all that either name had.
        """
        known = other._columns()
        fields = [Field(name, _TYPES[kind]) for name, kind in known.items() if kind in _TYPES]
        columns = self.prepared(fields)
        self._drop(version - 1)
        self._run("DROP TABLE IF EXISTS pg_temp.staged")
        self._run(
            "CREATE TEMPORARY TABLE staged ON COMMIT DROP AS SELECT 0::bigint AS _place, 'insert' AS _operation, "
            f"true AS _has_document, {_plain(', '.join(map(_as_staged, fields)))} FROM {{schema}}.{{table}} "
            "WHERE _version <= %s",
            version,
            table=other.name,
        )
        self._run("UPDATE staged SET _version = %s", version)
        return self.merge(fields, columns)

    def merge(self, fields: Sequence[Field], columns: dict[str, str]) -> Loaded:
        """The newest state of each document from the staged rows into the table."""
        self._merge_drops()
        self._run(
            "DELETE FROM staged USING {schema}.docdb_stream_dropped d "
            "WHERE d.table_name = %s AND staged._version <= d._version",
            self.name,
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
            self.name,
        )
        self._run(
            "DELETE FROM staged s USING {schema}.{table} t WHERE t._key = s._key AND t._version > s._version",
            table=self.name,
        )
        deleted = self._run(
            "DELETE FROM {schema}.{table} t USING staged s WHERE t._key = s._key AND NOT s._has_document",
            table=self.name,
        ).rowcount
        self._run(
            "INSERT INTO {schema}.docdb_stream_deleted (table_name, _key, _version) "
            "SELECT %s, _key, _version FROM staged WHERE NOT _has_document "
            "ON CONFLICT (table_name, _key) DO UPDATE SET _version = EXCLUDED._version",
            self.name,
        )
        self._run(
            "DELETE FROM {schema}.docdb_stream_deleted d USING staged s "
            "WHERE d.table_name = %s AND d._key = s._key AND s._has_document",
            self.name,
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
            table=self.name,
        )
        return Loaded(written=taken[1], deleted=deleted, stale=total - taken[0])

    def _assignments(self, fields: Sequence[Field], columns: dict[str, str]) -> dict[str, str]:
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

    def _merge_drops(self) -> None:
        """A collection that is dropped, or renamed, takes along what it held."""
        dropped = self._run(
            "SELECT max(_version) FROM staged WHERE _operation IN ('drop', 'rename', 'dropDatabase')"
        ).fetchone()[0]
        if dropped is not None:
            self._drop(dropped)

    def _drop(self, version: int) -> None:
        """Take away all up to a version."""
        self._run(
            "INSERT INTO {schema}.docdb_stream_dropped (table_name, _version) VALUES (%s, %s) ON CONFLICT (table_name) "
            "DO UPDATE SET _version = greatest(docdb_stream_dropped._version, EXCLUDED._version)",
            self.name,
            version,
        )
        self._run("DELETE FROM {schema}.{table} WHERE _version <= %s", version, table=self.name)
        self._run(
            "DELETE FROM {schema}.docdb_stream_deleted WHERE table_name = %s AND _version <= %s", self.name, version
        )


def run(connection: Any, schema: str, statement: str, *values: object, **names: str) -> Any:
    """One statement; ``{schema}`` and the names given stand for identifiers."""
    from psycopg import sql

    quoted = {name: sql.Identifier(value) for name, value in {"schema": schema, **names}.items()}
    return connection.execute(sql.SQL(statement).format(**quoted), values or None)


def table_name(namespace: Namespace) -> str:
    """The table of a collection: ``db_coll``; cut, with a hash, where that is too long."""
    name = "_".join(filter(None, namespace))
    return distinct_name(name, name, _NAME_BYTES)


def _plain(text: str) -> str:
    """Quoted names as a part of a statement in which braces stand for something."""
    return text.replace("{", "{{").replace("}", "}}")


def _as_staged(field: Field) -> str:
    """A table's column as ``stage`` would have it."""
    name = quoted(field.name)
    return f"(extract(epoch FROM {name}) * 1000)::bigint AS {name}" if field.type == "timestamp" else name


def _values(column: Any, name: str, fields: Sequence[Field]) -> list[Any]:
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
