"""Tables in Amazon Redshift: one for each collection, one row for each document.

Owns what is written in one transaction: the rows, what is deleted, and that the manifest is loaded. It means the same
as in PostgreSQL (``load.postgres``); Redshift has no keys that are unique and no ON CONFLICT, so a lock that is taken
first makes the loads take turns, and what is newest is found before anything is written.
"""

from __future__ import annotations

import hashlib
import logging
import struct
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from tempfile import SpooledTemporaryFile
from typing import IO, Any, Final, cast
from urllib.parse import parse_qsl, unquote, urlsplit

from docdb_stream.context import current_deadline
from docdb_stream.errors import ConfigError, TargetError
from docdb_stream.load.manifest import DataFile, Manifest
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
from docdb_stream.load.row_file import Rows, write_rows
from docdb_stream.load.staging import Staging
from docdb_stream.load.warehouse import Loaded
from docdb_stream.retry import Backoff
from docdb_stream.schema.columns import ColumnType
from docdb_stream.secret import read_credentials
from docdb_stream.targets._client import import_client

_PORT: Final = 5439
_IN_MEMORY_BYTES: Final = 16 * 1024 * 1024
"""Of a file of rows that is made; a larger one waits in a temporary file."""
_TLS: Final = ("verify-full", "verify-ca", "disable")

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Staged:
    """A file of rows in the bucket."""

    table: str
    key: str
    rows: Rows


class Redshift:
    """See ``Warehouse``. Constructing connects to nothing.

    Args:
        uri: ``redshift://HOST:5439/DATABASE``, with ``?sslmode=`` verify-full (default), verify-ca or disable.
        staging: Where rows wait to be copied.
        role: ARN of the IAM role by which Redshift reads them; None: the cluster's default one.
        secret: Where user name and password are, if not in the URI (see ``read_credentials``).
        schema: Where the tables are; made, if it is not there.

    Raises:
        ConfigError: redshift-connector is not installed, or the URI is none.
    """

    name = "redshift"

    def __init__(
        self, uri: str, staging: Staging, *, role: str | None = None, secret: str | None = None, schema: str = "public"
    ) -> None:
        self._library: Any = import_client("redshift_connector", "redshift", "redshift_connector")
        self._options = _options(uri)
        self._staging = staging
        self._role = role
        self._secret = secret
        self._schema = schema
        self._connection: Any = None

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
            return self._in_turn(stream, manifest, staged)
        finally:
            if not current_deadline().stopping and current_deadline().remaining_s > 0:
                self._staging.remove([each.key for each in staged])

    def close(self) -> None:
        """See ``Warehouse``."""
        self._disconnect()
        self._staging.close()

    # One manifest

    def _staged(self, manifest: Manifest, number: int, file: DataFile, content: IO[bytes]) -> _Staged:
        from pyarrow.parquet import ParquetFile

        with ExitStack() as stack:
            packed = stack.enter_context(SpooledTemporaryFile(_IN_MEMORY_BYTES))
            rows = write_rows(stack.enter_context(ParquetFile(content)), cast("IO[bytes]", packed))
            # Two loads of one manifest have other nulls: each reads what it wrote itself.
            name = f"{hashlib.sha256(manifest.key.encode()).hexdigest()[:32]}/{number}-{rows.null}.csv.gz"
            key = self._staging.put(name, cast("IO[bytes]", packed))
        if rows.not_held:
            logger.warning(
                "values too long for Redshift are left out, see the column _not_held: file=%s columns=%s",
                file.key,
                ",".join(rows.not_held),
            )
        return _Staged(table_name(file.namespace), key, rows)

    def _in_turn(self, stream: str, manifest: Manifest, staged: Sequence[_Staged]) -> Loaded | None:
        """The manifest in one transaction, again where that met another one."""
        backoff = Backoff()
        while True:
            try:
                with self._transaction():
                    return self._load(stream, manifest, staged)
            except TargetError as error:
                if error.__cause__ is None or not _is_conflict(error.__cause__) or not backoff.wait():
                    raise

    def _load(self, stream: str, manifest: Manifest, staged: Sequence[_Staged]) -> Loaded | None:
        own = Statements(self._schema).own("loads")
        # First of all: what the transaction sees is settled by the first statement that reads.
        self._run(f"LOCK TABLE {own}")
        if self._rows(f"SELECT 1 FROM {own} WHERE stream = %s AND manifest = %s", stream, manifest.key):
            return None
        rows = sum(file.rows for file in manifest.files)
        self._run(f"INSERT INTO {own} (stream, manifest, rows) VALUES (%s, %s, %s)", stream, manifest.key, rows)
        found = Loaded()
        for each in staged:
            found.add(self._merge(each))
        found.rows = rows
        return found

    def _merge(self, staged: _Staged) -> Loaded:
        """The newest state of each document in a file into its table."""
        sql = Statements(self._schema, staged.table)
        known = self._prepared(sql, staged)
        types = {
            column_name(field.name): staged_type(field, known[column_name(field.name)]) for field in staged.rows.fields
        }
        self._run(sql.stage(types))
        self._run(sql.copy(self._staging.uri(staged.key), self._role, staged.rows.null))
        self._run(sql.fold(self._dropped(sql, staged.table)))
        total = self._number(f"SELECT COUNT(*) FROM {NEWEST}")
        self._run(sql.leave_deleted(), staged.table)
        self._run(sql.leave_stale())
        taken = self._number(f"SELECT COUNT(*) FROM {NEWEST}")
        written = self._number(f"SELECT COUNT(*) FROM {NEWEST} WHERE _has_document")
        deleted = self._number(sql.count_deleted())
        for statement in sql.merge([*types.items()], known):
            self._run(statement)
        self._run(sql.forget_deleted(), staged.table)
        self._run(sql.note_deleted(), staged.table)
        for temporary in (STAGED, NEWEST):
            self._run(f"DROP TABLE {temporary}")
        return Loaded(written=written, deleted=deleted, stale=total - taken)

    def _prepared(self, sql: Statements, staged: _Staged) -> dict[str, ColumnType]:
        """The table, with a column for each of the file; returns its columns with their types.

        What they are is noted beside the tables: Redshift's own catalogue has other words for some.
        """
        own = sql.own("columns")
        found = self._rows(f"SELECT column_name, type FROM {own} WHERE table_name = %s", staged.table)
        known: dict[str, ColumnType] = {name: cast("ColumnType", kind) for name, kind in found}

        noted = dict(known)

        def add(name: str, kind: ColumnType) -> None:
            if name not in known:
                self._run(sql.add(name, kind))
                known[name] = kind

        if not known:
            statement, columns = sql.create()
            self._run(statement)
            known.update(columns)
        for field in staged.rows.fields:
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
        self._note_columns(own, staged.table, known, noted)
        return known

    def _note_columns(self, own: str, table: str, known: dict[str, ColumnType], before: dict[str, ColumnType]) -> None:
        if known == before:
            return
        # All of a table in one statement: Redshift takes long for each, and little for more rows.
        self._run(f"DELETE FROM {own} WHERE table_name = %s", table)
        rows = ", ".join(["(%s, %s, %s)"] * len(known))
        values = [value for name, kind in known.items() for value in (table, name, kind)]
        self._run(f"INSERT INTO {own} VALUES {rows}", *values)

    def _dropped(self, sql: Statements, table: str) -> int:
        """Up to which version all is gone: a collection that is dropped, or renamed, takes along what it held."""
        own = sql.own("dropped")
        before = self._number(f"SELECT COALESCE(MAX(_version), -1) FROM {own} WHERE table_name = %s", table)
        now = self._number(
            f"SELECT COALESCE(MAX(_version), -1) FROM {STAGED} WHERE _operation IN ('drop', 'rename', 'dropDatabase')"
        )
        if now > before:
            self._run(f"DELETE FROM {own} WHERE table_name = %s", table)
            self._run(f"INSERT INTO {own} VALUES (%s, %s)", table, now)
            self._run(f"DELETE FROM {sql.table} WHERE _version <= {now}")
            self._run(f"DELETE FROM {sql.own('deleted')} WHERE table_name = %s AND _version <= {now}", table)
        return max(before, now)

    # The connection

    @property
    def _failures(self) -> tuple[type[Exception], ...]:
        # What redshift-connector lets through where a server goes away in the middle of an answer.
        return (self._library.Error, OSError, struct.error)

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        """What is done within is done wholly or not at all; what redshift-connector raises becomes TargetError."""
        try:
            if self._connection is None:
                self._connection = self._library.connect(**self._options, **self._credentials())
                for statement in Statements(self._schema).set_up():
                    self._run(statement)
                self._connection.commit()
            remaining_s = current_deadline().remaining_s
            limit_ms = int(1000 * max(0.1, remaining_s)) if remaining_s < 1e6 else 0
            self._run(f"SET statement_timeout TO {limit_ms}")
            self._connection.commit()
            yield
            self._connection.commit()
        except self._failures as error:
            self._disconnect()
            raise TargetError(self.name, _told(error), hint=_hint(error)) from error
        except BaseException:  # whatever it is, nothing of it may be in the next transaction
            self._disconnect()
            raise

    def _disconnect(self) -> None:
        if self._connection is not None:
            connection, self._connection = self._connection, None
            try:
                connection.close()
            except self._failures:
                logger.debug("the connection is gone already")

    def _credentials(self) -> dict[str, str]:
        if self._secret is None:
            return {}
        found = read_credentials(self._secret)
        return {"user": found.username, "password": found.password}

    def _run(self, statement: str, *values: object) -> Any:
        cursor = self._connection.cursor()
        cursor.execute(statement, values or None)
        return cursor

    def _rows(self, statement: str, *values: object) -> Sequence[Any]:
        return cast("Sequence[Any]", self._run(statement, *values).fetchall())

    def _number(self, statement: str, *values: object) -> int:
        return int(self._rows(statement, *values)[0][0])


def _options(uri: str) -> dict[str, Any]:
    """What redshift-connector is given for a URI.

    Raises:
        ConfigError: It is none.
    """
    hint = "expected redshift://HOST:5439/DATABASE, with ?sslmode=verify-full, verify-ca or disable"
    try:
        parts = urlsplit(uri)
        port = parts.port or _PORT
        query = dict(parse_qsl(parts.query, strict_parsing=bool(parts.query)))
    except ValueError as error:
        raise ConfigError("WAREHOUSE_URI is no address", hint=hint) from error
    mode = query.pop("sslmode", _TLS[0])
    database = unquote(parts.path.strip("/"))
    if query or mode not in _TLS or not parts.hostname or not database:
        raise ConfigError("WAREHOUSE_URI is no address of a Redshift database", hint=hint)
    found: dict[str, Any] = {"host": parts.hostname, "port": port, "database": database}
    found |= {"ssl": False} if mode == "disable" else {"sslmode": mode}
    found |= {"user": unquote(parts.username)} if parts.username else {}
    return found | ({"password": unquote(parts.password)} if parts.password else {})


def _fields(error: BaseException) -> tuple[str, str]:
    """SQLSTATE and message of what Redshift answered; empty where it did not."""
    told = error.args[0] if error.args else None
    if not isinstance(told, dict):
        return "", ""
    return str(told.get("C", "")), str(told.get("M", ""))


def _told(error: BaseException) -> str:
    """What is wrong, without values: the message up to its first colon names tables and columns."""
    state, message = _fields(error)
    return f"{state} {message.split(':')[0]}" if state else "cannot be reached, or the connection is lost"


def _is_conflict(error: BaseException) -> bool:
    """Whether two transactions met: Redshift's developer guide, "Serializable isolation", ERROR 1023, and deadlocks."""
    state, message = _fields(error)
    return state in ("40001", "40P01") or message.startswith("1023")


def _hint(error: BaseException) -> str:
    state, message = _fields(error)
    if state.startswith("28"):
        return "correct the user and password: WAREHOUSE_URI, WAREHOUSE_SECRET"
    if state == "42501":
        return "let this user CREATE in the schema, own its tables, and assume WAREHOUSE_COPY_ROLE"
    if state == "57014":
        return "nothing is lost: give the load more time"
    if state == "42P07":
        return "a table of that name is not docdb-stream's: rename it, or set WAREHOUSE_SCHEMA"
    if state == "2BP01":
        return "a view depends on a column that has to be widened: drop the view, load, and make it again"
    if "load_error" in message:
        return "SELECT * FROM sys_load_error_detail ORDER BY start_time DESC LIMIT 1 says which column and why"
    if "S3" in message or "iam" in message.lower() or "role" in message.lower():
        return "let WAREHOUSE_COPY_ROLE s3:GetObject and s3:ListBucket in the bucket, and attach it to the cluster"
    return "nothing is lost: the next load begins with this manifest"
