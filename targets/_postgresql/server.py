"""Whether a server, and what the user may do there, are what the target needs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from docdb_stream.errors import TargetError
from docdb_stream.targets._postgresql.database import Database
from docdb_stream.targets._postgresql.errors import NAME
from docdb_stream.targets._postgresql.tables import Tables

if TYPE_CHECKING:
    from psycopg import Cursor

_OLDEST: Final = 120_000
"""PostgreSQL 12: since then a double's text is its shortest exact one (its release notes)."""
_QUESTION: Final = """SELECT current_setting('server_version_num')::int, current_setting('server_encoding'),
    current_setting('transaction_read_only') = 'on',
    (SELECT has_schema_privilege(oid, 'CREATE') FROM pg_namespace WHERE nspname = %s),
    has_database_privilege(current_database(), 'CREATE')"""


def check_server(database: Database, tables: Tables) -> None:
    """See that tables can be made and written there. Writes nothing.

    Raises:
        TargetError: They cannot, or the server cannot be reached.
    """
    schema = tables.schema

    def body(cursor: Cursor[Any]) -> Any:
        cursor.execute(_QUESTION, [schema])
        return cursor.fetchone()

    version, encoding, is_read_only, may_create, may_create_schema = database.transact(body, writes=False)
    if version < _OLDEST:
        raise TargetError(NAME, "the server is older than PostgreSQL 12", hint="use a newer one")
    if encoding != "UTF8":
        raise TargetError(NAME, f"the database's encoding is {encoding}", hint="make one with ENCODING 'UTF8'")
    if is_read_only:
        raise TargetError(
            NAME,
            "the server only lets itself be read",
            hint="let POSTGRES_URI name the primary, or all hosts with target_session_attrs=read-write",
        )
    if tables.creates and not (may_create_schema if may_create is None else may_create):
        raise TargetError(
            NAME,
            f"the user may not make tables in the schema {schema}",
            hint="GRANT CREATE ON SCHEMA, or make them as docs/targets.md has them and set POSTGRES_CREATE = false",
        )
    if not tables.creates and may_create is None:
        raise TargetError(
            NAME,
            f"there is no schema {schema}",
            hint="make it and the tables as docs/targets.md has them, or set POSTGRES_CREATE = true",
        )
