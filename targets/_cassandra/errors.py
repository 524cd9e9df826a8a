"""What the driver and Cassandra say, and what it means: to be done again, a document's fault, or the operator's matter.

What a server writes can quote values, so of what it says about a statement nothing is told but its kind.
"""

from __future__ import annotations

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
_REFUSED: Final = frozenset({"InvalidRequest", "InvalidRequestException"})


class RefusedError(Exception):
    """A statement that the server does not take, however often it is sent: a value of it is too large."""


def is_passing(error: BaseException) -> bool:
    """Whether what met the error may go through when it is done again."""
    cause = cause_of(error)
    is_network = isinstance(cause, OSError) and not isinstance(cause, ssl.SSLError)
    return is_network or any(kind.__name__ in _PASSING for kind in type(cause).__mro__)


def is_refusal(error: BaseException) -> bool:
    """Whether it is the fault of one statement's values. The tables fit, as was seen before."""
    return any(kind.__name__ in _REFUSED for kind in type(error).__mro__)


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
    if _NO_KEYSPACE in str(error):
        return TargetError(NAME, f"{place}: it is not there", hint="make the keyspace, or correct CASSANDRA_KEYSPACE")
    return TargetError(NAME, f"{place}: {type(cause).__name__}", hint=_AGAIN)


def no_answer(place: str) -> TargetError:
    """The error for the operator where a server takes what is sent and says nothing."""
    return TargetError(NAME, f"{place} has not answered in time", hint=_AGAIN)
