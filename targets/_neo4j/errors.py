"""What Neo4j says, and what it means: to be done again, a document's fault, or the operator's matter.

Codes are those of Neo4j's "Status codes" manual. What the server writes beside them can quote values: none of it is
told but of what fails before there is a statement.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from docdb_stream.errors import TargetError
from docdb_stream.targets._graph.refusal import RefusedError

NAME: Final = "neo4j"
CONSTRAINT: Final = "Neo.ClientError.Schema.ConstraintValidationFailed"
_REFUSED: Final = frozenset(
    {
        CONSTRAINT,
        "Neo.ClientError.Statement.ArgumentError",
        "Neo.ClientError.Statement.TypeError",
    }
)
_TOO_LARGE: Final = "too large to index"
"""Of a property with an index of the operator's own (Cypher manual, "Limitations" of indexes: 8 kB or so)."""
_AGAIN: Final = "nothing is lost: the next run delivers again"
_HINTS: Final[Mapping[str, str]] = {
    "Neo.ClientError.Security.Unauthorized": "check NEO4J_SECRET",
    "Neo.ClientError.Security.AuthenticationRateLimit": "check NEO4J_SECRET: the server has refused it too often",
    "Neo.ClientError.Security.CredentialsExpired": "change the user's password, and NEO4J_SECRET",
    "Neo.ClientError.Security.TokenExpired": "renew what NEO4J_SECRET holds",
    "Neo.ClientError.Security.Forbidden": "the user needs to read and write the graph (docs/targets.md); with "
    "NEO4J_CREATE = true also to make constraints and indexes, and new labels, types and property names",
    "Neo.ClientError.Database.DatabaseNotFound": "make the database, or correct NEO4J_DATABASE",
    "Neo.ClientError.General.ForbiddenOnReadOnlyDatabase": "let NEO4J_URI be neo4j://, which finds who takes writes",
    "Neo.ClientError.Cluster.NotALeader": "let NEO4J_URI be neo4j://, which finds who takes writes",
    "Neo.DatabaseError.Schema.ConstraintCreationFailed": "there are several nodes of a label with one identity: remove "
    "them, or let another property be the identity in NEO4J_NODES and NEO4J_EDGES",
    "Neo.ClientError.Schema.IndexAlreadyExists": "an index of your own is in the way of a constraint: drop it, or make "
    "the constraints as docs/targets.md has them and set NEO4J_CREATE = false",
    "Neo.TransientError.General.MemoryPoolOutOfMemoryError": "give the server more memory for transactions "
    "(dbms.memory.transaction.total.max)",
    "Neo.TransientError.General.OutOfMemoryError": "give the server more memory",
    "Neo.TransientError.General.DatabaseUnavailable": "look at the server: the database is not online",
}


def refusal(error: BaseException) -> RefusedError:
    """What a document's rejection says: never the error itself, which quotes values."""
    code = code_of(error)
    return RefusedError(code, "a constraint refuses it") if code == CONSTRAINT else RefusedError(code)


def code_of(error: BaseException) -> str:
    """Its status code; empty where the server has said none."""
    return getattr(error, "code", None) or ""


def is_refusal(error: BaseException) -> bool:
    """Whether it is a document's fault: the server's word, or a text that cannot be sent."""
    return isinstance(error, UnicodeEncodeError) or code_of(error) in _REFUSED or _TOO_LARGE in str(error)


def trouble(error: Any, place: str) -> TargetError:
    """The error for the operator: why the target cannot be written to."""
    code = code_of(error)
    if code:
        return TargetError(NAME, f"{place}: {code}", hint=_HINTS.get(code, _AGAIN))
    text = f"{error} {error.__cause__ or ''}"
    if "certificate" in text or "encrypted" in text or "SSL" in text:
        hint = "let NEO4J_URI say what the server does: +s with a certificate that is trusted, or neither"
    elif "routing" in text:
        hint = "look at the server; if it is alone, say bolt:// in NEO4J_URI"
    else:
        hint = _AGAIN
    return TargetError(
        NAME, f"{place}: {str(error).splitlines()[0] if str(error) else type(error).__name__}", hint=hint
    )


def no_answer(place: str) -> TargetError:
    """The error for the operator where a server takes what is sent and says nothing."""
    return TargetError(NAME, f"{place} has not answered in time", hint=_AGAIN)
