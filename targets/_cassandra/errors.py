"""What the driver and Cassandra say, and what it means: to be done again, a document's fault, or the operator's matter.

What a server writes can quote values, so of what it says about a statement nothing is told but its kind.
"""

from __future__ import annotations

import re
import ssl
from typing import Any, Final

from docdb_stream.errors import TargetError

NAME: Final = "cassandra"
_AGAIN: Final = "nothing is lost: the next run delivers again"
_PASSING: Final = frozenset(
    {
        *("OperationTimedOut", "ReadTimeout", "WriteTimeout", "Unavailable", "ReadFailure", "WriteFailure"),
        *("CoordinationFailure", "NoHostAvailable", "ConnectionException", "ConnectionShutdown", "ConnectionBusy"),
        *("OverloadedErrorMessage", "IsBootstrappingErrorMessage", "ServerError", "TruncateError", "RateLimitReached"),
        *("PreparedQueryNotFound", "NoConnectionsAvailable", "CQLEngineException"),
    }
)
"""Names of the driver's exceptions (its reference, "Exceptions"), and those of its ``protocol`` module."""
_NO_KEYSPACE: Final = "using keyspace"
"""In what the driver says when no server lets a session use it, and each has let it in (cluster.py, Session)."""
_INVALID: Final = frozenset({"InvalidRequest", "InvalidRequestException"})
_OF_VALUES: Final = re.compile(
    r"(?:size|length|bytes)\b.*(?:exceed|too large|longer)|too large|too long|longer than|not be empty",
    re.IGNORECASE | re.DOTALL,
)
"""What a server says of values that it does not take (Cassandra 5's Validation.java, ModificationStatement, Mutation;
Keyspaces developer guide, "Quotas")."""
_OF_END: Final = "expiration date"
"""In what a server says where a row would end later than it can tell (Cassandra's ExpirationDateOverflowHandling)."""


class RefusedError(Exception):
    """A statement that the server does not take, however often it is sent: a value of it is too large."""


def is_passing(error: BaseException) -> bool:
    """Whether what met the error may go through when it is done again."""
    cause = cause_of(error)
    is_network = isinstance(cause, OSError) and not isinstance(cause, ssl.SSLError)
    return is_network or any(kind.__name__ in _PASSING for kind in type(cause).__mro__)


def is_refusal(error: BaseException) -> bool:
    """Whether it is the fault of one statement's values, and not that of all: a table may have been changed since it
    was seen to fit."""
    return _is_invalid(error) and _OF_END not in str(error) and _OF_VALUES.search(str(error)) is not None


def _is_invalid(error: BaseException) -> bool:
    return any(kind.__name__ in _INVALID for kind in type(error).__mro__)


def cause_of(error: Any) -> Any:
    """What is behind the driver's word that no host could be had."""
    causes = getattr(error, "errors", None)
    return next(iter(causes.values())) if isinstance(causes, dict) and causes else error


def trouble(error: Any, place: str) -> TargetError:
    """The error for the operator: why the target cannot be written to."""
    cause = cause_of(error)
    kinds = {kind.__name__ for kind in type(cause).__mro__}
    text = str(cause)
    if "AuthenticationFailed" in kinds or "Bad credentials" in text:
        return TargetError(NAME, f"{place} refuses the user", hint="check CASSANDRA_SECRET, or the role's permissions")
    if "Unauthorized" in kinds:
        hint = "the user needs SELECT and MODIFY on the keyspace's tables; with CASSANDRA_CREATE = true also CREATE"
        return TargetError(NAME, f"{place} lets the user not do that", hint=hint)
    if "SSL" in type(cause).__name__ or "certificate" in text.lower():
        hint = "set CASSANDRA_TLS as the server has it, and CASSANDRA_TLS_CA to who signed its certificate"
        return TargetError(NAME, f"{place}: {type(cause).__name__} ({text[:200]})", hint=hint)
    if "Unavailable" in kinds:
        hint = f"too few replicas are up for LOCAL_QUORUM: look at the cluster; {_AGAIN}"
        return TargetError(NAME, f"{place}: not enough replicas", hint=hint)
    if _is_invalid(cause) and _OF_END in text:
        hint = (
            "the TTL of a table in CASSANDRA_TABLES reaches further than the server can tell (2038, up to Cassandra 5 "
            "as it ships): lower it, or see storage_compatibility_mode of cassandra.yaml"
        )
        return TargetError(NAME, f"{place}: a row would end too late", hint=hint)
    if _is_invalid(cause):
        hint = f"a table was changed since it was seen to fit: docdb-stream doctor says what it lacks; {_AGAIN}"
        return TargetError(NAME, f"{place} does not take the statements for its tables", hint=hint)
    if _NO_KEYSPACE in str(error):
        return TargetError(NAME, f"{place}: it is not there", hint="make the keyspace, or correct CASSANDRA_KEYSPACE")
    return TargetError(NAME, f"{place}: {type(cause).__name__}", hint=_AGAIN)


def no_answer(place: str) -> TargetError:
    """The error for the operator where a server takes what is sent and says nothing."""
    return TargetError(NAME, f"{place} has not answered in time", hint=_AGAIN)
