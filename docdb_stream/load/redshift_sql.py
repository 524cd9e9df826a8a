"""The statements by which Redshift loads a manifest, and the names and types in its tables.

Owns the words. ``%s`` in them stands for values, which the connection sends apart from them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from docdb_stream.load.fields import quoted
from docdb_stream.load.row_file import NOT_HELD, RowField
from docdb_stream.position import Namespace
from docdb_stream.schema.columns import DECIMAL_DIGITS, DECIMAL_SCALE, DOUBLE_EXACT, OTHER_SUFFIX, ColumnType
from docdb_stream.targets._names import distinct_name

NAME_BYTES: Final = 127
"""Redshift's developer guide, "Names and identifiers"."""
_SYSTEM_NAMES: Final = frozenset(
    (
        *("cmax", "cmin", "ctid", "deletexid", "insertxid", "oid", "padb_internal_txn_seq_col", "tableoid"),
        *("xmax", "xmin", NOT_HELD, "_place", "_rank"),
    )
)
"""PostgreSQL's manual, "System Columns", and what Redshift has of its own: no column of a table may have these
names. The statements below have the rest."""

SQL_TYPES: Final[Mapping[ColumnType, str]] = {
    "int32": "INTEGER",
    "int64": "BIGINT",
    "double": "DOUBLE PRECISION",
    "decimal": f"DECIMAL({DECIMAL_DIGITS}, {DECIMAL_SCALE})",
    "bool": "BOOLEAN",
    "text": "VARCHAR(65535)",
    "timestamp": "TIMESTAMP",
    "binary": "VARBYTE(32767)",
    "json": "SUPER",
}
_NUMBERS: Final[Sequence[ColumnType]] = ("int32", "int64", "double", "decimal")
_OWN: Final[Mapping[str, ColumnType]] = {
    "_key": "text",
    "_version": "int64",
    "_cluster_time": "timestamp",
    "_event_id": "text",
    NOT_HELD: "text",
}
STAGED: Final = "docdb_stream_staged"
NEWEST: Final = "docdb_stream_newest"


def table_name(namespace: Namespace) -> str:
    """The table of a collection: ``db_coll``, in lower case, as Redshift has names; with a hash where another one could
    have the same, or it is too long."""
    name = "_".join(filter(None, namespace))
    return distinct_name(name, name.lower(), NAME_BYTES)


def column_name(name: str) -> str:
    """The column of a table for one of a file, whose names differ in more than upper and lower case."""
    lower = name.lower()
    return f"{lower}__field" if lower in _SYSTEM_NAMES else lower


def is_wider(new: ColumnType, known: ColumnType) -> bool:
    """Whether a column of type ``known`` has to become one of type ``new`` to hold both."""
    return new in _NUMBERS and known in _NUMBERS and _NUMBERS.index(new) > _NUMBERS.index(known)


def other_name(column: str) -> str:
    """The column beside ``column`` for what that cannot hold, as text."""
    return column + OTHER_SUFFIX


def exactly(value: str, kind: ColumnType, known: ColumnType) -> str | None:
    """When a number ``value`` of type ``kind`` is held by a column of type ``known``, as a condition; None: always."""
    if kind == "int64" and known == "double":
        return f"{value} BETWEEN -{DOUBLE_EXACT} AND {DOUBLE_EXACT}"
    if kind == "double" and known == "decimal":
        return f"ABS({value}) < 1e{DECIMAL_DIGITS - DECIMAL_SCALE}"
    return None


class Statements:
    """Those for one schema and table.

    Args:
        schema: Where the tables are.
        table: The table; those that are about no table need none.
    """

    def __init__(self, schema: str, table: str = "") -> None:
        self._schema = quoted(schema)
        self._table = quoted(table)
        self.table = f"{self._schema}.{self._table}"

    def own(self, name: str) -> str:
        """A table of the loader itself."""
        return f"{self._schema}.docdb_stream_{name}"

    def set_up(self) -> list[str]:
        """What is there before anything is loaded."""
        return [
            f"CREATE SCHEMA IF NOT EXISTS {self._schema}",
            f"CREATE TABLE IF NOT EXISTS {self.own('loads')} (stream VARCHAR(1024) NOT NULL, "
            "manifest VARCHAR(1024) NOT NULL, rows BIGINT NOT NULL, loaded_at TIMESTAMP NOT NULL DEFAULT GETDATE())",
            f"CREATE TABLE IF NOT EXISTS {self.own('columns')} (table_name VARCHAR(127) NOT NULL, "
            "column_name VARCHAR(127) NOT NULL, type VARCHAR(16) NOT NULL)",
            f"CREATE TABLE IF NOT EXISTS {self.own('deleted')} (table_name VARCHAR(127) NOT NULL, "
            "_key VARCHAR(65535) NOT NULL, _version BIGINT NOT NULL) DISTSTYLE KEY DISTKEY (_key)",
            f"CREATE TABLE IF NOT EXISTS {self.own('dropped')} (table_name VARCHAR(127) NOT NULL, "
            "_version BIGINT NOT NULL)",
        ]

    def create(self, fields: Mapping[str, ColumnType]) -> tuple[str, Mapping[str, ColumnType]]:
        """Makes the table with the columns that each has, and those of ``fields``; and which all are."""
        found = {**_OWN, **{name: kind for name, kind in fields.items() if name not in _OWN}}
        columns = ", ".join(f"{quoted(name)} {SQL_TYPES[kind]}" for name, kind in found.items())
        return f"CREATE TABLE {self.table} ({columns}) DISTSTYLE KEY DISTKEY (_key)", found

    def add(self, column: str, kind: ColumnType) -> str:
        """Adds a column."""
        return f"ALTER TABLE {self.table} ADD COLUMN {quoted(column)} {SQL_TYPES[kind]}"

    def widen(self, column: str, known: ColumnType, new: ColumnType) -> list[str]:
        """Gives a column another type. Redshift alters that of a VARCHAR only, so another column takes its place."""
        wide, narrow, other = quoted(column + "__wide"), quoted(column), quoted(other_name(column))
        fits = exactly(narrow, known, new)
        value = f"CAST({narrow} AS {SQL_TYPES[new]})"
        changes = f"{wide} = {value}"
        if fits is not None:
            text = f"CAST({narrow} AS VARCHAR(65535))"
            changes = (
                f"{wide} = CASE WHEN {fits} THEN {value} END, "
                f"{other} = CASE WHEN {fits} OR {narrow} IS NULL THEN {other} ELSE {text} END"
            )
        return [
            f"ALTER TABLE {self.table} ADD COLUMN {wide} {SQL_TYPES[new]}",
            f"UPDATE {self.table} SET {changes}",
            f"ALTER TABLE {self.table} DROP COLUMN {narrow}",
            f"ALTER TABLE {self.table} RENAME COLUMN {wide} TO {narrow}",
        ]

    def stage(self, types: Mapping[str, ColumnType]) -> str:
        """Makes the temporary table for a file's rows."""
        kinds = {name: "VARCHAR(65535)" if kind == "binary" else SQL_TYPES[kind] for name, kind in types.items()}
        columns = ", ".join(f"{quoted(name)} {kind}" for name, kind in kinds.items())
        return (
            f"CREATE TEMPORARY TABLE {STAGED} (_place BIGINT, _operation VARCHAR(64), _has_document BOOLEAN, "
            f"{columns}, {NOT_HELD} VARCHAR(65535)) DISTSTYLE KEY DISTKEY (_key)"
        )

    def stage_own(self, fields: Sequence[RowField], types: Mapping[str, ColumnType], version: int) -> str:
        """The same of this table's own rows up to a version, which they have then.

        Args:
            fields: Its columns.
            types: What the staged ones hold.
            version: The version.
        """
        columns = ", ".join(_as_staged(field, types[field.name], version) for field in fields)
        return (
            f"CREATE TEMPORARY TABLE {STAGED} DISTSTYLE KEY DISTKEY (_key) AS SELECT CAST(0 AS BIGINT) AS _place, "
            f"CAST('insert' AS VARCHAR(64)) AS _operation, TRUE AS _has_document, {columns}, {NOT_HELD} "
            f"FROM {self.table} WHERE _version <= {version}"
        )

    @staticmethod
    def leave_until(version: int) -> str:
        """Leaves of the staged rows those before a rename."""
        return f"DELETE FROM {STAGED} WHERE _version > {version} OR (_version = {version} AND _operation = 'rename')"

    @staticmethod
    def copy(uri: str, role: str | None, null: str) -> str:
        """Copies a file of rows into the temporary table."""
        by = "default" if role is None else literal(role)
        return (
            f"COPY {STAGED} FROM {literal(uri)} IAM_ROLE {by} FORMAT AS CSV NULL AS {literal(null)} "
            "TIMEFORMAT 'auto' GZIP"
        )

    @staticmethod
    def fold(after: int) -> str:
        """Makes a second temporary table, with the newest state of each document that comes after a version."""
        # An update whose document was gone when it was looked up says nothing of it: a delete follows.
        return (
            f"CREATE TEMPORARY TABLE {NEWEST} DISTSTYLE KEY DISTKEY (_key) AS SELECT ranked.* FROM (SELECT s.*, "
            "ROW_NUMBER() OVER (PARTITION BY s._key ORDER BY s._version DESC, s._place DESC) AS _rank "
            f"FROM {STAGED} AS s WHERE s._key IS NOT NULL AND (s._has_document OR s._operation = 'delete') "
            f"AND s._version > {after}) AS ranked WHERE ranked._rank = 1"
        )

    def leave_stale(self) -> str:
        """Takes what the table has a newer state of out of the second one."""
        return (
            f"DELETE FROM {NEWEST} USING {self.table} AS t "
            f"WHERE t._key = {NEWEST}._key AND t._version > {NEWEST}._version"
        )

    def leave_deleted(self) -> str:
        """Takes what was deleted since out of it. Values: the table's name."""
        return (
            f"DELETE FROM {NEWEST} USING {self.own('deleted')} AS d WHERE d.table_name = %s "
            f"AND d._key = {NEWEST}._key AND d._version > {NEWEST}._version"
        )

    def count_deleted(self) -> str:
        """How many rows of the table a delete takes away."""
        return f"SELECT COUNT(*) FROM {self.table} AS t JOIN {NEWEST} AS n ON t._key = n._key WHERE NOT n._has_document"

    def merge(self, fields: Sequence[tuple[str, ColumnType]], known: Mapping[str, ColumnType]) -> list[str]:
        """Puts the newest states in the place of what the table has.

        Args:
            fields: The staged columns, with their types.
            known: The table's.
        """
        values: dict[str, str] = {NOT_HELD: f"n.{NOT_HELD}"}
        others: dict[str, str] = {}
        for name, kind in fields:
            value = f"n.{quoted(name)}"
            if kind == "binary" and known[name] == "binary":
                values[name] = f"TO_VARBYTE({value}, 'hex')"
            elif kind == known[name]:
                values[name] = value
            elif is_wider(known[name], kind):
                fits = exactly(value, kind, known[name])
                wide = f"CAST({value} AS {SQL_TYPES[known[name]]})"
                values[name] = wide if fits is None else f"CASE WHEN {fits} THEN {wide} END"
                if fits is not None:
                    others[other_name(name)] = f"CASE WHEN NOT ({fits}) THEN CAST({value} AS VARCHAR(65535)) END"
            else:
                others[other_name(name)] = value
        for name, text in others.items():
            values[name] = f"COALESCE({values[name]}, {text})" if name in values else text
        names = ", ".join(map(quoted, values))
        return [
            f"DELETE FROM {self.table} USING {NEWEST} AS n WHERE {self._table}._key = n._key",
            f"INSERT INTO {self.table} ({names}) SELECT {', '.join(values.values())} FROM {NEWEST} AS n "
            "WHERE n._has_document",
        ]

    def forget_deleted(self) -> str:
        """Takes out what is known of the deletes of these documents. Values: the table's name."""
        own = self.own("deleted")
        return f"DELETE FROM {own} USING {NEWEST} AS n WHERE table_name = %s AND docdb_stream_deleted._key = n._key"

    def note_deleted(self) -> str:
        """Notes the deletes. Values: the table's name."""
        return (
            f"INSERT INTO {self.own('deleted')} (table_name, _key, _version) "
            f"SELECT CAST(%s AS VARCHAR(127)), n._key, n._version FROM {NEWEST} AS n WHERE NOT n._has_document"
        )


def staged_type(field: RowField, known: ColumnType) -> ColumnType:
    """The type of a staged column: text, where the table's column is of another kind."""
    return field.type if field.type == known or is_wider(known, field.type) else "text"


def _as_staged(field: RowField, kind: ColumnType, version: int) -> str:
    name = quoted(field.name)
    if field.name == "_version":
        return f"CAST({version} AS BIGINT) AS {name}"
    if field.type == "binary":
        return f"FROM_VARBYTE({name}, 'hex') AS {name}"
    if field.type == kind:
        return name
    text = f"JSON_SERIALIZE({name})" if field.type == "json" else f"CAST({name} AS VARCHAR(65535))"
    return f"{text} AS {name}"


def literal(value: object) -> str:
    """A text or a whole number as a literal of SQL. In Redshift, a backslash in a text escapes what follows."""
    return str(value) if isinstance(value, int) else "'" + str(value).replace("\\", "\\\\").replace("'", "''") + "'"
