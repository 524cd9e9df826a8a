"""What PostgreSQL says, and what it means: to be done again, a document's fault, or the operator's matter.

Codes are those of the PostgreSQL manual, "PostgreSQL Error Codes". What the server writes beside them can quote values:
none of it is told but of what failed before there was a statement.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from docdb_stream.errors import TargetError

NAME: Final = "postgresql"
UNIQUE_VIOLATION: Final = "23505"
NO_TABLE: Final = frozenset({"42P01", "3F000"})
"""undefined_table, invalid_schema_name."""
KEPT: Final = frozenset({"2BP01", "42501"})
"""dependent_objects_still_exist, insufficient_privilege: a table that cannot be dropped."""
_PASSING: Final = frozenset({"25006", "25P03", "25P04", "42P07", "55006", "55P03", "57014"})
"""read_only_sql_transaction (a standby, or a primary that was one), idle and transaction time-outs, duplicate_table,
object_in_use, lock_not_available, query_canceled (a statement's time-out)."""
_PASSING_CLASSES: Final = ("08", "40", "53", "57P")
"""Connection exceptions, transaction rollback (40001, 40P01), insufficient resources (53100: disk full), and
a server that shuts down or starts."""
_REFUSED_CLASSES: Final = ("22", "23", "44", "54", "P0")
"""Data exceptions, constraints, check options of views, program limits (54000: too large for an index), triggers."""
_CONFLICTS: Final = frozenset({"40001", "40P01"})

_AGAIN: Final = "nothing is lost: the next run delivers again"
_HINTS: Final[Mapping[str, str]] = {
    "25006": "this is a standby: let POSTGRES_URI name the primary, or all hosts with target_session_attrs=read-write",
    "3D000": "make the database, or correct POSTGRES_URI",
    "42501": "the user needs INSERT, SELECT, UPDATE and DELETE on the tables, USAGE on POSTGRES_SCHEMA, and CREATE on "
    "it with POSTGRES_CREATE = true",
    "42703": "the table was made for other columns: add those of POSTGRES_COLUMNS, or name another POSTGRES_TABLE",
    "42804": "the table was made for columns of other types: alter them, or name another POSTGRES_TABLE",
    "42P07": "an index TABLE_deleted or a view TABLE_current is there of another table, as of one that was renamed: "
    "drop or rename it",
    "42P10": "the table has no primary key _id: make it as docs/targets.md has it",
    "42809": "a view has the name that a table should have: name another POSTGRES_TABLE",
    "53100": "the server's disk is full: make room; the next run delivers again",
    "53300": "the server has no connection left: raise max_connections, or let others end",
    "57014": "statements took too long: look for locks (pg_locks), and at statement_timeout",
}
_MEANING: Final[Mapping[str, str]] = {
    "22P05": "the database's encoding has not all of its characters",
    "22003": "a number is out of range",
    "23502": "a column that must not be empty would be",
    "23503": "a foreign key refers to nothing",
    "23505": "a unique index has its value already",
    "23514": "a check constraint refuses it",
    "54000": "a value is too large for an index, or for its column",
    "54001": "it is nested too deep",
    "P0001": "a trigger refuses it",
}
_WORDS: Final[Mapping[str, str]] = {
    "password authentication failed": "check POSTGRES_SECRET, or user and password in POSTGRES_URI",
    "no password supplied": "set POSTGRES_SECRET",
    "no pg_hba.conf entry": "the server does not let this user in from here, or not without TLS (sslmode=require)",
    'role "': "check the user's name in POSTGRES_SECRET or POSTGRES_URI",
    'database "': "make the database, or correct POSTGRES_URI",
    "certificate": "check sslmode and sslrootcert in POSTGRES_URI",
    "server does not support SSL": "set up TLS at the server, or correct sslmode in POSTGRES_URI",
}
"""What libpq says of a connection that the server, or it, refuses; no code comes with that."""


class RefusedError(Exception):
    """A document that the server does not take, however often it is sent.

    Attributes:
        code: SQLSTATE.
    """

    def __init__(self, code: str, reason: str = "") -> None:
        what = reason or _MEANING.get(code, "the server does not take it")
        super().__init__(f"refused: {what}" + (f" (SQLSTATE {code})" if code else ""))
        self.code = code


def code_of(error: Any) -> str:
    """SQLSTATE; empty where the server has said none."""
    return getattr(error, "sqlstate", None) or ""


def is_refusal(error: Any) -> bool:
    """Whether it is a document's fault."""
    return code_of(error).startswith(_REFUSED_CLASSES)


def keeps_connection(error: Any) -> bool:
    """Whether the connection that met the error can be used further."""
    return code_of(error) in _CONFLICTS or is_refusal(error)


def passes(error: Any) -> bool:
    """Whether a transaction that met the error may go through when it is done again."""
    code = code_of(error)
    if not code:
        return _word(error) is None
    return code in _PASSING or code.startswith(_PASSING_CLASSES)


def trouble(error: Any, place: str, *, creates: bool) -> TargetError:
    """The error for the operator: why the target cannot be written to."""
    code = code_of(error)
    if code in NO_TABLE:
        hint = (
            "the schema is missing, or others drop tables while this writes"
            if creates
            else "make the tables as docs/targets.md has them, or set POSTGRES_CREATE = true"
        )
        return TargetError(NAME, f"{place}: a table, or the schema, is missing (SQLSTATE {code})", hint=hint)
    if code:
        diagnostics = getattr(error, "diag", None)
        what = getattr(diagnostics, "message_primary", None) if code.startswith(("25", "42", "53", "57")) else None
        return TargetError(NAME, f"{place}: {what or 'failed'} (SQLSTATE {code})", hint=_HINTS.get(code, _AGAIN))
    word = _word(error)
    lines = str(error).strip().splitlines() or [type(error).__name__]
    said = next((line for line in lines if "FATAL:" in line), lines[-1])
    return TargetError(NAME, f"{place}: {said}", hint=_AGAIN if word is None else _WORDS[word])


def no_answer(place: str) -> TargetError:
    """The error for the operator where a server takes what is sent and says nothing."""
    return TargetError(NAME, f"{place} has not answered in time", hint=_AGAIN)


def _word(error: Any) -> str | None:
    text = str(error)
    refused = "FATAL:" in text or "certificate" in text or "SSL" in text
    return next((word for word in _WORDS if word in text), None) if refused else None
