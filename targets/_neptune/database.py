"""Requests to Neptune's openCypher, made again while what is in their way may pass; and what its errors mean.

Codes are those of the API reference, ExecuteOpenCypherQuery, "Errors". What Neptune writes beside them can quote the
statement's values: none of it is told.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit

import orjson

from docdb_stream import aws
from docdb_stream.errors import ConfigError, TargetError
from docdb_stream.retry import Backoff
from docdb_stream.targets._graph.graph import Run
from docdb_stream.targets._graph.refusal import RefusedError

T = TypeVar("T")

NAME: Final = "neptune"
PORT: Final = 8182
_READER: Final = re.compile(r"\.cluster-ro-[a-z0-9]+\.")
_REGION: Final = re.compile(r"\.([a-z]{2}(?:-[a-z0-9]+)+-[0-9]+)\.neptune\.amazonaws\.com(?:\.cn)?$")

_REFUSED: Final = frozenset({"InvalidNumericDataException", "QueryTooLargeException"})
_PASSING: Final = aws.codes(
    "ConcurrentModificationException ConstraintViolationException ClientTimeoutException ReadOnlyViolationException"
)
"""Beside what is so everywhere (5xx and throttling): two statements that make one node; and a failover, in which the
writer has become a reader, and the name of the cluster's endpoint leads to the new one soon."""
_READ_ONLY: Final = re.compile("read-only|ReadOnly", re.IGNORECASE)
_AGAIN: Final = "nothing is lost: the next run delivers again"
_HINTS: Final[Mapping[str, str]] = {
    "AccessDeniedException": "the role needs neptune-db:ReadDataViaQuery, WriteDataViaQuery and DeleteDataViaQuery on "
    "the cluster (docs/targets.md)",
    "NoCredentialsError": "requests are signed: give the process AWS credentials, also where the cluster has IAM "
    "authentication off",
    "NoRegionError": "set AWS_REGION: requests are signed for a region, and NEPTUNE_ENDPOINT names none",
    "EndpointConnectionError": "check NEPTUNE_ENDPOINT, and that the process runs in the cluster's VPC, whose security "
    "group lets it in",
    "ConnectTimeoutError": "check NEPTUNE_ENDPOINT, and that the process runs in the cluster's VPC, whose security "
    "group lets it in",
    "ReadOnlyViolationException": "let NEPTUNE_ENDPOINT be the cluster's endpoint, which leads to who takes writes",
    "TimeLimitExceededException": "raise the cluster's neptune_query_timeout; " + _AGAIN,
    "MemoryLimitExceededException": "give the cluster's writer more memory; " + _AGAIN,
    "MalformedQueryException": "the engine does not know the statement: upgrade it to 1.2.1 or later",
}


class NeptuneDatabase:
    """A cluster; one thread at a time uses it. Constructing asks nothing.

    Args:
        endpoint: ``https://host:port``, or ``host`` with or without a port.

    Raises:
        ConfigError: It is no endpoint, or one of readers.
    """

    def __init__(self, endpoint: str) -> None:
        self.place, url, region = _address(endpoint)
        aws.load()
        self._service = aws.Service("neptunedata", region, url)

    def transact(self, body: Callable[[Run], T], *, writes: bool = True) -> T:
        """Do ``body``, each statement of which is a transaction: durable on return, and made again alone.

        Raises:
            RefusedError: Neptune does not take one of the documents.
            TargetError: It cannot be done, or not in time.
            CheckpointConflictError: The run has lost its lease.
        """
        return body(self._run)

    def change_schema(self, statement: str) -> None:
        """Nothing: Neptune has neither constraints nor indexes to make."""

    def close(self) -> None:
        """Close the connections. Safe to call twice."""
        self._service.close()

    def _run(self, statement: str, parameters: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
        try:
            given = orjson.dumps(parameters).decode()
        except TypeError:  # text that is not UTF-8: its words quote it
            raise RefusedError("") from None
        backoff = Backoff()
        while True:
            try:
                client = self._service.client
                answer = client.execute_open_cypher_query(openCypherQuery=statement, parameters=given)
                return list(answer["results"])
            except aws.request_errors() as error:
                code = _code(error)
                if code in _REFUSED:
                    raise RefusedError(code) from None
                if code == "ReadOnlyViolationException":
                    self.close()  # the name has to be looked up anew
                is_passing = code in _PASSING or aws.is_retriable(error)
                if not is_passing or not backoff.wait():
                    self.close()
                    raise TargetError(NAME, f"{self.place}: {code}", hint=_HINTS.get(code, _AGAIN)) from None


def _code(error: Exception) -> str:
    """Its code; also where Neptune says only in words that it takes no writes ("openCypher exceptions")."""
    answer = getattr(error, "response", None) or {}  # None where there was no answer
    words = str(answer.get("detailedMessage", ""))
    return "ReadOnlyViolationException" if _READ_ONLY.search(words) else aws.error_code(error)


def _address(endpoint: str) -> tuple[str, str, str | None]:
    """How it is called, its URL, and its region if it says that."""
    try:
        parts = urlsplit(endpoint if "://" in endpoint else f"https://{endpoint}")
        host, port = parts.hostname or "", parts.port or PORT
    except ValueError:
        host, port = "", 0
    if not host or parts.scheme not in ("http", "https") or parts.username is not None or parts.path.strip("/"):
        raise ConfigError(
            "NEPTUNE_ENDPOINT is no endpoint of a Neptune cluster",
            hint="expected NAME.cluster-ID.REGION.neptune.amazonaws.com:8182",
        )
    if _READER.search(host):
        raise ConfigError(
            "NEPTUNE_ENDPOINT is the endpoint of the cluster's readers", hint="take the cluster's own, without -ro"
        )
    region = _REGION.search(host)
    shown = f"[{host}]" if ":" in host else host
    return f"{host}:{port}", f"{parts.scheme}://{shown}:{port}", region[1] if region else None
