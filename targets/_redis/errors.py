"""What Redis says, and what it means: to be done again, a document's fault, or the operator's matter.

The words before an error's text are its code (Redis, "RESP protocol specification", "Simple errors").
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from docdb_stream.errors import TargetError

NAME: Final = "redis"
NO_SCRIPT: Final = "NOSCRIPT"
_AGAIN: Final = "nothing is lost: the next run delivers again"
_PASSING: Final[Mapping[str, str]] = {
    "ASK": _AGAIN,
    "BUSY": "another client's script runs: SCRIPT KILL ends it",
    "CLUSTERDOWN": "the cluster has slots that no node serves, or no majority: see CLUSTER INFO",
    "CROSSSLOT": _AGAIN,
    "LOADING": "the server reads its data; nothing is lost, the next run delivers again",
    "MASTERDOWN": "the replica has lost its primary: see INFO replication",
    "MISCONF": "the server cannot save to its disk and takes no writes: make room there, see INFO persistence",
    "MOVED": "this is a node of a cluster, and did not say so: let the user run INFO (docs/targets.md)",
    "NOREPLICAS": "fewer replicas are there than REDIS_WAIT_REPLICAS or the server's min-replicas-to-write asks for: "
    "see INFO replication",
    "OOM": "the server is full: raise maxmemory, or have fewer documents there (OPERATIONS, MATCH, REDIS_TTL_SECONDS)",
    "READONLY": "this is a replica: let REDIS_URI name the primary, or a cluster's or service's own address",
    "TRYAGAIN": _AGAIN,
    "UNKILLABLE": _AGAIN,
}
_RIGHTS: Final = (
    "the user needs, on the keys of REDIS_KEY and on docdb-stream:*, the commands get, set, del, hset, hget, hgetall, "
    "hsetnx, pexpireat, evalsha, script|load and scan (docs/targets.md)"
)
_HINTS: Final[Mapping[str, str]] = {
    "DENIED": "the server takes local connections only: it has no password (protected-mode)",
    "NOAUTH": "set REDIS_SECRET",
    "NOPERM": _RIGHTS,
    "WRONGPASS": "check user and password in REDIS_SECRET, or REDIS_URI",
}
_IN_SCRIPT: Final = re.compile(r"Error running script .*?: -?([A-Z]{2,}) ")
"""Redis 6 tells a script's error so, and the code of the command in it is not the answer's; later ones give the code
itself (scripting.c, luaCallFunction of 6.2)."""
_NO_RIGHT: Final = ("The user executing the script can't", "ACL failure in script")
"""What Redis 6 says, and 7, where the user may not do what the script does."""
_REFUSED: Final = ("string exceeds maximum allowed size", "Protocol error: invalid bulk length")


class RefusedError(Exception):
    """A document that the server does not take, however often it is sent."""


def code_of(error: Any) -> str:
    """The code of an error that the server has sent; empty where it has sent none."""
    import redis

    is_of_connection = isinstance(error, redis.ConnectionError | redis.TimeoutError)
    if not isinstance(error, redis.RedisError) or (
        is_of_connection and not isinstance(error, redis.AuthenticationError | redis.BusyLoadingError)
    ):
        return ""
    for kind, code in (
        # The library takes the code off the text of errors that it knows.
        (redis.exceptions.NoScriptError, NO_SCRIPT),
        (redis.exceptions.ReadOnlyError, "READONLY"),
        (redis.exceptions.OutOfMemoryError, "OOM"),
        (redis.exceptions.NoPermissionError, "NOPERM"),
        (redis.exceptions.BusyLoadingError, "LOADING"),
        (redis.exceptions.ClusterDownError, "CLUSTERDOWN"),
        (redis.exceptions.MasterDownError, "MASTERDOWN"),
        (redis.exceptions.TryAgainError, "TRYAGAIN"),
        (redis.exceptions.AskError, "ASK"),
        (redis.exceptions.MovedError, "MOVED"),
        (redis.exceptions.AuthenticationWrongNumberOfArgsError, "NOAUTH"),
    ):
        if isinstance(error, kind):
            return code
    if any(text in str(error) for text in _NO_RIGHT):
        return "NOPERM"
    if found := _IN_SCRIPT.search(str(error)):
        return found[1]
    word = str(error).partition(" ")[0].rstrip(":")
    if isinstance(error, redis.AuthenticationError):
        return "NOAUTH" if "required" in str(error).lower() else "WRONGPASS"
    return word if word.isupper() and word.isalpha() else "ERR"


def passes(error: Any) -> bool:
    """Whether what met the error may go through when it is done again."""
    code = code_of(error)
    return code in ("", NO_SCRIPT) or code in _PASSING


def is_refusal(error: Any) -> bool:
    """Whether it is a document's fault."""
    return any(text in str(error) for text in _REFUSED)


def trouble(error: Any, place: str) -> TargetError:
    """The error for the operator: why the target cannot be written to."""
    code = code_of(error)
    if not code:
        return TargetError(NAME, f"{place}: {_said(error)}", hint=_AGAIN)
    hint = _PASSING.get(code) or _HINTS.get(code) or _AGAIN
    return TargetError(NAME, f"{place}: {_said(error) if code in _HINTS else code}", hint=hint)


def no_answer(place: str) -> TargetError:
    """The error for the operator where a server takes what is sent and says nothing."""
    return TargetError(NAME, f"{place} has not answered in time", hint=_AGAIN)


def _said(error: Any) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
