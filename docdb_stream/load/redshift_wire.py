"""Redshift by its own protocol: ``redshift://``, with redshift-connector."""

from __future__ import annotations

import logging
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final, cast
from urllib.parse import parse_qsl, unquote, urlsplit

from docdb_stream.errors import ConfigError
from docdb_stream.load.redshift_answers import Answer, refused, unreachable
from docdb_stream.load.redshift_connection import statement_timeout
from docdb_stream.load.redshift_login import Login
from docdb_stream.permissions import Permission
from docdb_stream.secret import Credentials, read_credentials
from docdb_stream.targets._client import import_client

_PORT: Final = 5439
_TLS: Final = ("verify-full", "verify-ca", "disable")
_EXPECTED: Final = (
    "expected redshift://HOST:5439/DATABASE, with ?sslmode=verify-full, verify-ca or disable, and, where IAM says who "
    "loads, workgroup=NAME or cluster=NAME"
)

logger = logging.getLogger(__name__)


class Wire:
    """See ``Connection``.

    Args:
        uri: ``redshift://HOST:5439/DATABASE``, with ``?sslmode=`` verify-full (default), verify-ca or disable. With
            ``workgroup=`` or ``cluster=`` IAM gives the password, and, where the URI names no user, the user.
        secret: Where user name and password are, if not in the URI (see ``read_credentials``).

    Raises:
        ConfigError: redshift-connector is not installed, or the URI is none.
    """

    def __init__(self, uri: str, *, secret: str | None = None) -> None:
        self._library: Any = import_client("redshift_connector", "redshift", "redshift_connector")
        self._options, self._login = _parsed(uri)
        self._secret = secret
        if self._login is not None and (secret is not None or "password" in self._options):
            raise ConfigError(
                "both IAM and a password are to say who loads into the warehouse",
                hint="leave workgroup= and cluster= out of WAREHOUSE_URI, or the password and WAREHOUSE_SECRET",
            )
        self._connection: Any = None

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """See ``Connection``."""
        try:
            if self._connection is None:
                self._connection = self._library.connect(**{**self._options, **self._credentials()})
            self.run(statement_timeout())
            self._connection.commit()
            yield
            self._connection.commit()
        except self._failures as error:
            self.close()
            raise _answered(error) from error
        except BaseException:  # whatever it is, nothing of it may be in the next transaction
            self.close()
            raise

    def run(self, statement: str, *values: object) -> None:
        """See ``Connection``."""
        self._connection.cursor().execute(statement, values or None)

    def rows(self, statement: str, *values: object) -> Sequence[Sequence[Any]]:
        """See ``Connection``."""
        cursor = self._connection.cursor()
        cursor.execute(statement, values or None)
        return cast("Sequence[Sequence[Any]]", cursor.fetchall())

    def close(self) -> None:
        """See ``Connection``."""
        if self._connection is not None:
            connection, self._connection = self._connection, None
            try:
                connection.close()
            except self._failures:
                logger.debug("the connection is gone already")

    @property
    def _failures(self) -> tuple[type[Exception], ...]:
        # What redshift-connector lets through where a server goes away in the middle of an answer.
        return (self._library.Error, OSError, struct.error)

    def _credentials(self) -> dict[str, str]:
        found: Credentials | None = None
        if self._login is not None:
            found = self._login.credentials()
        elif self._secret is not None:
            found = read_credentials(self._secret)
        return {} if found is None else {"user": found.username, "password": found.password}


def permissions(uri: str) -> list[Permission]:
    """What a URI's connection takes in AWS: only its password, where that is asked of IAM.

    Raises:
        ConfigError: It is none.
    """
    login = _parsed(uri)[1]
    return [] if login is None else [login.permission()]


def _answered(error: Exception) -> Exception:
    told = error.args[0] if error.args else None
    if not isinstance(told, dict) or not told.get("C"):
        return unreachable()
    return refused(Answer(str(told["C"]), str(told.get("M", ""))))


def _parsed(uri: str) -> tuple[dict[str, Any], Login | None]:
    """What redshift-connector is given for a URI, and whom IAM is asked for.

    Raises:
        ConfigError: It is none.
    """
    try:
        parts = urlsplit(uri)
        port = parts.port or _PORT
        query = dict(parse_qsl(parts.query, strict_parsing=bool(parts.query)))
    except ValueError as error:
        raise ConfigError("WAREHOUSE_URI is no address", hint=_EXPECTED) from error
    mode = query.pop("sslmode", _TLS[0])
    workgroup, cluster = query.pop("workgroup", None), query.pop("cluster", None)
    database = unquote(parts.path.strip("/"))
    user = unquote(parts.username) if parts.username else None
    is_both = workgroup is not None and (cluster is not None or user is not None)
    if query or mode not in _TLS or not parts.hostname or not database or is_both:
        raise ConfigError("WAREHOUSE_URI is no address of a Redshift database", hint=_EXPECTED)
    found: dict[str, Any] = {"host": parts.hostname, "port": port, "database": database}
    found |= {"ssl": False} if mode == "disable" else {"sslmode": mode}
    found |= {"user": user} if user else {}
    found |= {"password": unquote(parts.password)} if parts.password else {}
    return found, Login(database, workgroup, cluster, user) if workgroup or cluster else None
