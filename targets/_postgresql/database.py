"""The connection to PostgreSQL, and transactions that are done again while what is in their way may pass.

Owns how long an answer is waited for. What is written is ``writer``'s.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, TypeVar

from docdb_stream.context import NoAnswerError, answer_in_time, check_lease, current_deadline
from docdb_stream.errors import ConfigError
from docdb_stream.retry import Backoff
from docdb_stream.secret import read_credentials
from docdb_stream.targets._client import import_client
from docdb_stream.targets._postgresql.errors import (
    NO_TABLE,
    RefusedError,
    code_of,
    is_refusal,
    keeps_connection,
    no_answer,
    passes,
    trouble,
)

if TYPE_CHECKING:
    from psycopg import Connection, Cursor

T = TypeVar("T")

_FORM: Final = "expected postgresql://host:5432/database"

CONNECT_S: Final = 10
"""For one attempt to connect: a failover's next address gets its turn."""
_CONNECT_LEAST_S: Final = 2
"""libpq takes no less (PostgreSQL manual, "Database Connection Control Functions", connect_timeout)."""
IDLE_S: Final = 30
"""After which the server ends a transaction whose run was stopped in it: it would keep the next run from the rows."""
_SESSION: Final = """SELECT set_config('statement_timeout', %s, true),
    set_config('idle_in_transaction_session_timeout', %s, true), set_config('synchronous_commit', 'on', true)"""
"""For each transaction, so that it holds behind a pooler, too. What is committed is on disk, whatever the user's own
settings are."""


class Database:
    """A database, one connection to it at a time; one thread at a time uses it.

    Args:
        uri: ``postgresql://...``.
        secret: Where user name and password are; None: in the URI, or libpq finds them.
        creates: Whether missing tables are made.

    Raises:
        ConfigError: psycopg is not installed, or the URI cannot be read.
    """

    def __init__(self, uri: str, secret: str | None, *, creates: bool) -> None:
        self._psycopg = import_client("psycopg", "postgresql", "psycopg")
        if not uri.startswith(("postgresql://", "postgres://")):
            raise ConfigError("POSTGRES_URI is no connection string", hint=_FORM)
        try:
            self._parameters: dict[str, Any] = self._psycopg.conninfo.conninfo_to_dict(uri)
        except self._psycopg.Error:  # the error itself quotes the URI
            raise ConfigError("POSTGRES_URI cannot be read", hint=_FORM) from None
        self._secret = secret
        self._creates = creates
        self._connection: Connection[Any] | None = None
        self._turn = 0
        self.place = f"{self._parameters.get('host', 'localhost')}/{self._parameters.get('dbname', '')}"

    def transact(self, body: Callable[[Cursor[Any]], T], *, writes: bool = True) -> T:
        """Do ``body`` within a transaction that is durable on return; again and again while that fails for reasons
        that pass. It must be safe to repeat: a commit whose answer was lost was done all the same.

        Raises:
            RefusedError: The server does not take one of the documents.
            TargetError: It cannot be done, or not in time.
            CheckpointConflictError: The run has lost its lease.
        """
        backoff = Backoff()
        while True:
            if writes:
                check_lease()
            try:
                return self._once(body)
            except NoAnswerError:
                self.close()
                raise no_answer(self.place) from None
            except self._psycopg.Error as error:
                if not keeps_connection(error):
                    self.close()
                if is_refusal(error) or isinstance(error, self._psycopg.DataError):
                    raise RefusedError(code_of(error)) from None  # the error itself quotes values
                is_passing = passes(error) or (self._creates and code_of(error) in NO_TABLE)
                if not is_passing or not backoff.wait():
                    raise trouble(error, self.place, creates=self._creates) from None

    def close(self) -> None:
        """Close the connection, also where a thread still waits for its answer: that one gets an error then."""
        connection, self._connection = self._connection, None
        self._turn += 1
        if connection is None:
            return
        with contextlib.suppress(OSError, self._psycopg.Error):
            # Not the connection's own close: libpq's memory would be freed under a thread that is in it.
            copy = socket.socket(fileno=os.dup(connection.fileno()))
            with copy:
                if connection.info.transaction_status == self._psycopg.pq.TransactionStatus.IDLE:
                    connection.close()
                else:
                    copy.shutdown(socket.SHUT_RDWR)

    def _once(self, body: Callable[[Cursor[Any]], T]) -> T:
        turn, limit = self._turn, current_deadline()
        left_s = max(0.1, min(limit.patience_s, limit.remaining_s))

        def attempt() -> T:
            connection = self._connection
            if connection is None or connection.closed:
                connection = self._connected(left_s)
                if turn != self._turn:  # nobody waits for it any more
                    connection.close()
                    raise NoAnswerError
                self._connection = connection
            with connection.transaction(), connection.cursor() as cursor:
                cursor.execute(_SESSION, [f"{int(left_s * 1000)}ms", f"{IDLE_S}s"])
                return body(cursor)

        return answer_in_time(attempt, within_s=left_s)

    def _connected(self, left_s: float) -> Connection[Any]:
        parameters = dict(self._parameters)
        if self._secret is not None:
            credentials = read_credentials(self._secret)
            parameters |= {"user": credentials.username, "password": credentials.password}
        parameters["connect_timeout"] = max(_CONNECT_LEAST_S, int(min(left_s, CONNECT_S)))
        parameters["application_name"] = parameters.get("application_name") or "docdb-stream"
        connection: Connection[Any] = self._psycopg.connect(
            **parameters,
            autocommit=True,  # each transaction is begun as such
            prepare_threshold=None,  # a pooler may give the next transaction another session
        )
        return connection
