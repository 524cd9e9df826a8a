"""The one way to boto3: sessions, regions, time-outs, and what is worth asking again, within the run's deadline.

Knows no service. boto3, which takes a fifth of a second to import, is imported when a target of AWS is constructed or
AWS is asked: neither a stream without AWS nor what only reads settings has need of it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, TypeVar

from docdb_stream.context import check_lease, current_deadline
from docdb_stream.retry import Backoff

T = TypeVar("T")

_ThreeErrors = tuple[type[Exception], type[Exception], type[Exception]]
"""As a tuple of any length it could not be joined with others after ``except``, for type checkers."""

CONNECT_TIMEOUT_S = 3.0
READ_TIMEOUT_S = 20.0
"""A healthy service answers within a second; this covers 10 MiB over a slow link, and ends well before a run does."""

_SHORTER_S = (10.0, 5.0, 2.0, 1.0, 0.5)
"""Time-outs for what is asked when less is left of a run: a handful, so that a client of each is kept."""


@cache
def request_errors() -> _ThreeErrors:
    """What a request raises: botocore's exceptions have no common base."""
    from botocore.exceptions import BotoCoreError, ClientError
    from botocore.parsers import ResponseParserError

    return ClientError, BotoCoreError, ResponseParserError


@cache
def network_errors() -> _ThreeErrors:
    """Those by which the network is at fault."""
    from botocore.exceptions import ConnectionError as LostConnectionError
    from botocore.exceptions import HTTPClientError, ResponseStreamingError

    return LostConnectionError, HTTPClientError, ResponseStreamingError


def codes(*lines: str) -> frozenset[str]:
    """The words of the lines."""
    return frozenset(" ".join(lines).split())


# What the services and botocore call "later": botocore's own list (botocore/retries/standard.py, ThrottledRetryable-
# and TransientRetryableChecker), Kinesis' PutRecords, KMS behind SQS, S3's conflicts of concurrent writers, and
# what Redshift's Data API has too much of at a time.
RETRIABLE_CODES = codes(
    "Throttling ThrottlingException ThrottledException RequestThrottledException RequestThrottled SlowDown",
    "TooManyRequestsException ProvisionedThroughputExceededException TransactionInProgressException",
    "RequestLimitExceeded BandwidthLimitExceeded LimitExceededException PriorRequestNotComplete",
    "EC2ThrottledException RequestTimeout RequestTimeoutException InternalFailure InternalError",
    "InternalServerError ServiceUnavailable ServiceUnavailableException KMSThrottlingException",
    "KMS.ThrottlingException KmsThrottled KMSThrottling InternalException OperationAborted",
    "ConditionalRequestConflict ActiveStatementsExceededException ActiveSessionsExceededException",
)


def load() -> None:
    """Import boto3 now: when a target is constructed, and not in the middle of a run's time."""
    import boto3  # noqa: F401


def session() -> Any:
    """A boto3 session of its own: the default one is not safe to share while clients are made.

    Its region is that of AWS_DEFAULT_REGION, as boto3 has it; else of AWS_REGION, which Lambda and the other SDKs know
    and boto3 alone does not read; else of the AWS profile.
    """
    import boto3
    import botocore.session

    found = botocore.session.Session(
        session_vars={"region": ("region", ["AWS_DEFAULT_REGION", "AWS_REGION"], None, None)}
    )
    found.register_component("data_loader", _descriptions())
    return boto3.session.Session(botocore_session=found)


@cache
def _descriptions() -> Any:
    """What reads, and keeps, botocore's descriptions of services and endpoints: all clients read the same ones, which
    for three takes 9 MB and a quarter of a second of CPU when each has its own."""
    import botocore.session

    return botocore.session.get_session().get_component("data_loader")


def client(
    service: str,
    *,
    region: str | None = None,
    endpoint: str | None = None,
    read_timeout_s: float | None = None,
    **config: Any,
) -> Any:
    """A boto3 client that asks once and not for long: asking again is up to who knows the deadline (``patiently``).

    Looking for credentials can go to the network (instance metadata), so make it at the first use.

    Args:
        service: boto3's name of the service.
        region: Overrides the region of the environment, for what names its region itself.
        endpoint: The URL of a service that has none in common for all. Default: as boto3 has it.
        read_timeout_s: How long the service may be silent. Default: READ_TIMEOUT_S.
        config: Further fields of botocore's Config.

    Raises:
        BotoCoreError: There is no region, or the configuration is wrong.
        ValueError: AWS_ENDPOINT_URL is no URL.
    """
    from botocore.config import Config

    read_timeout_s = READ_TIMEOUT_S if read_timeout_s is None else read_timeout_s
    made = session().client(
        service,
        region_name=region,
        endpoint_url=endpoint,
        config=Config(
            connect_timeout=min(CONNECT_TIMEOUT_S, read_timeout_s),
            read_timeout=read_timeout_s,
            tcp_keepalive=True,
            retries={"total_max_attempts": 1},
            **config,
        ),
    )
    made.meta.events.register("before-send", _check_lease)
    return made


def _check_lease(**_: object) -> None:
    """The last thing before a request leaves: serializing and signing it takes milliseconds, in which a process can be
    stopped for longer than its lease lasts. What it sent then would arrive after its successor's newer events."""
    check_lease()


class Service:
    """A service that is asked now and then, never for longer than the run has left.

    A client's time-outs are fixed when it is made; so there is one for when there is time, and others for less. One
    thread at a time uses it. Constructing asks nothing.

    Args:
        name: boto3's name of the service.
        region: Overrides the region of the environment.
        endpoint: See ``client``.
    """

    def __init__(self, name: str, region: str | None = None, endpoint: str | None = None) -> None:
        self._name, self._region, self._endpoint = name, region, endpoint
        self._clients: dict[float, Any] = {}

    @property
    def client(self) -> Any:
        """The client to make one request with, now. Raises as ``client`` does."""
        # Connecting and waiting for the answer take half of the time each, at most.
        half_s = current_deadline().remaining_s / 2
        read_timeout_s = next((each for each in (READ_TIMEOUT_S, *_SHORTER_S) if each <= half_s), _SHORTER_S[-1])
        if read_timeout_s not in self._clients:
            self._clients[read_timeout_s] = client(
                self._name, region=self._region, endpoint=self._endpoint, read_timeout_s=read_timeout_s
            )
        return self._clients[read_timeout_s]

    def close(self) -> None:
        """Close the connections; the next request makes new ones."""
        clients, self._clients = self._clients, {}
        for each in clients.values():
            each.close()


def patiently(request: Callable[[], T]) -> T:
    """The answer to a request, made again while its trouble is of the kind that passes and the deadline allows.

    Raises:
        request_errors(): Trouble that does not pass, or did not in time.
    """
    backoff = Backoff()
    while True:
        try:
            return request()
        except request_errors() as error:
            if not is_retriable(error) or not backoff.wait():
                raise


def arn_region(name: str) -> str | None:
    """The region that an ARN (``arn:PARTITION:SERVICE:REGION:ACCOUNT:...``) names; None for what is no ARN."""
    return name.split(":")[3] if name.startswith("arn:") and name.count(":") > 3 else None


def error_code(cause: Exception | str) -> str:
    """The service's error code without the prefix of SQS' older protocol, or the name of botocore's exception."""
    if isinstance(cause, Exception):
        cause = _service_code(cause) or type(cause).__name__
    return cause.removeprefix("AWS.SimpleQueueService.")


def message(error: Exception) -> str:
    """What an operator is told of it: the service's code, which repeats nothing of the request, or botocore's words."""
    return str(error) if _service_code(error) is None else error_code(error)


def _service_code(error: Exception) -> str | None:
    """The code that a service answered with; None if that is not what went wrong."""
    from botocore.exceptions import ClientError

    return str(error.response.get("Error", {}).get("Code", "unknown")) if isinstance(error, ClientError) else None


def is_retriable(cause: Exception | str) -> bool:
    """Whether the same may succeed later: throttling, a server's fault, a lost connection or a timeout.

    Args:
        cause: What botocore raised, or a record's error code.
    """
    if isinstance(cause, str):
        return error_code(cause) in RETRIABLE_CODES
    from botocore.exceptions import ClientError, SSLError
    from botocore.parsers import ResponseParserError

    if isinstance(cause, ClientError):
        status = cause.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        return error_code(cause) in RETRIABLE_CODES or status == 429 or status >= 500
    if isinstance(cause, SSLError):
        return False
    # A load balancer's error page is not in the service's format: ResponseParserError.
    return isinstance(cause, (*network_errors(), ResponseParserError))
