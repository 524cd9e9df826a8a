"""AWS clients, what is worth retrying, and what an operator is told when a service refuses.

Knows no service: what a target writes to, it says with a ``Place``.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeVar

import boto3
import botocore.session
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    HTTPClientError,
    NoCredentialsError,
    NoRegionError,
    PartialCredentialsError,
    ResponseStreamingError,
    SSLError,
)
from botocore.exceptions import (
    ConnectionError as LostConnectionError,
)
from botocore.parsers import ResponseParserError

from docdb_stream.errors import TargetError
from docdb_stream.retry import Backoff, current_deadline

_log = logging.getLogger(__name__)

T = TypeVar("T")

CONNECT_TIMEOUT_S = 3.0
READ_TIMEOUT_S = 20.0
"""A healthy service answers within a second; this covers 10 MiB over a slow link, and ends well before a run does."""


def _codes(*lines: str) -> frozenset[str]:
    return frozenset(" ".join(lines).split())


# What the services and botocore call "later": botocore's own list (botocore/retries/standard.py, ThrottledRetryable-
# and TransientRetryableChecker), Kinesis' PutRecords, KMS behind SQS, and S3's conflicts of concurrent writers.
_RETRIABLE_CODES = _codes(
    "Throttling ThrottlingException ThrottledException RequestThrottledException RequestThrottled SlowDown",
    "TooManyRequestsException ProvisionedThroughputExceededException TransactionInProgressException",
    "RequestLimitExceeded BandwidthLimitExceeded LimitExceededException PriorRequestNotComplete EC2ThrottledException",
    "RequestTimeout RequestTimeoutException InternalFailure InternalError InternalServerError ServiceUnavailable",
    "ServiceUnavailableException KMSThrottlingException KMS.ThrottlingException KmsThrottled KMSThrottling",
    "InternalException OperationAborted ConditionalRequestConflict",
)
_MISSING_CODES = _codes(
    "ResourceNotFoundException QueueDoesNotExist NonExistentQueue NoSuchBucket NotFound 404 InvalidAccountIdException",
)
_DENIED_CODES = _codes(
    "AccessDenied AccessDeniedException UnauthorizedOperation NotAuthorized Forbidden 403 AuthorizationError",
    "NotAuthorizedForSourceException NotAuthorizedForDetailTypeException",
)
_CREDENTIAL_CODES = _codes(
    "UnrecognizedClientException InvalidClientTokenId InvalidAccessKeyId SignatureDoesNotMatch ExpiredToken",
    "InvalidSignatureException ExpiredTokenException InvalidToken IncompleteSignature MissingAuthenticationToken",
    "AuthFailure CredentialRetrievalError",
)
_OTHER_REGION_CODES = _codes("301 PermanentRedirect AuthorizationHeaderMalformed")
REQUEST_ERRORS = (ClientError, BotoCoreError, ResponseParserError)
"""What a request raises: botocore's exceptions have no common base."""
_NETWORK_ERRORS = (LostConnectionError, HTTPClientError, ResponseStreamingError)


def client(service: str, connections: int, region: str | None = None) -> Any:
    """A boto3 client with a session of its own (the default one is not safe to share while clients are made).

    Looking for credentials can go to the network (instance metadata), so make it at the first use.

    Args:
        service: boto3's name of the service.
        connections: How many requests go side by side.
        region: Overrides the region of the environment, for what names its region itself.

    Raises:
        BotoCoreError: There is no region, or the configuration is wrong.
    """
    config = Config(
        max_pool_connections=connections,
        connect_timeout=CONNECT_TIMEOUT_S,
        read_timeout=READ_TIMEOUT_S,
        tcp_keepalive=True,
        # Retrying is ours: it knows the deadline, the order, and which records are left.
        retries={"total_max_attempts": 1},
        # Requests are made by code, record by record in the hot path; the service checks them too.
        parameter_validation=False,
    )
    session = botocore.session.get_session()
    session.register_component("data_loader", _descriptions())
    made = boto3.session.Session(botocore_session=session).client(service, region_name=region, config=config)
    made.meta.events.register("before-send", _check_lease)
    return made


@cache
def _descriptions() -> Any:
    """What reads, and keeps, botocore's descriptions of services and endpoints: all clients read the same ones, which
    for three takes 9 MB and a quarter of a second of CPU when each has its own."""
    return botocore.session.get_session().get_component("data_loader")


def _check_lease(**_: object) -> None:
    """The last thing before a request leaves: serializing and signing it takes milliseconds, in which a process can be
    stopped for longer than its lease lasts. What it sent then would arrive after its successor's newer events."""
    current_deadline().check()


def arn_region(name: str) -> str | None:
    """The region that an ARN (``arn:PARTITION:SERVICE:REGION:ACCOUNT:...``) names; None for what is no ARN."""
    return name.split(":")[3] if name.startswith("arn:") else None


@dataclass(frozen=True, slots=True)
class Place:
    """What a target writes to, in the words its errors need.

    Attributes:
        target: The target's name.
        what: The resource, as in "Kinesis stream orders".
        variable: The setting that names it.
        create: The command that creates it.
        capacity: What to do when it has too little capacity.
    """

    target: str
    what: str
    variable: str
    create: str
    capacity: str

    def error(self, cause: Exception | str, action: str) -> TargetError:
        """The TargetError that says what happened and what to do.

        The service's own text stays out of it (it may repeat a record) and goes to the log at DEBUG.

        Args:
            cause: What botocore raised, or a record's error code.
            action: The IAM action that was tried.
        """
        code = error_code(cause)
        if code not in _CREDENTIAL_CODES:  # whose text can hold what was signed
            _log.debug("refused by AWS", extra={"target": self.target, "action": action, "error": str(cause)})
        hint = f"see the message of {action} in the log at level DEBUG"
        if isinstance(cause, NoRegionError):
            hint = "set AWS_REGION or AWS_DEFAULT_REGION, or a region in the AWS profile"
        elif isinstance(cause, (NoCredentialsError, PartialCredentialsError)):
            hint = "give the function or instance an IAM role, or set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        elif isinstance(cause, SSLError):
            hint = "the endpoint's certificate is not trusted: check AWS_ENDPOINT_URL and AWS_CA_BUNDLE"
        elif isinstance(cause, _NETWORK_ERRORS):
            hint = "check that the network reaches AWS (VPC endpoint, NAT gateway, security group) and AWS_ENDPOINT_URL"
        elif code in _MISSING_CODES:
            hint = f"create it in this account and region with `{self.create}`, or correct {self.variable}"
        elif code in _CREDENTIAL_CODES:
            hint = "the credentials are wrong or expired: check the IAM role, AWS_ACCESS_KEY_ID and AWS_SESSION_TOKEN"
        elif code in _OTHER_REGION_CODES:
            hint = "it is in another region: set AWS_REGION to that one"
        elif code in _RETRIABLE_CODES:
            hint = f"nothing is lost, the next run goes on: {self.capacity}"
        elif _is_of_kms(code):
            hint = "its KMS key refuses: allow kms:GenerateDataKey and kms:Decrypt on it, and see that it is enabled"
        elif code in _DENIED_CODES:
            hint = f"allow {action} on it for this IAM role"
        return TargetError(self.target, f"{self.what}: {code}", hint=hint)

    def out_of_time(self) -> TargetError:
        """The TargetError for a deadline that came while all went well."""
        hint = "nothing is lost, the next run delivers again: raise the timeout or lower BATCH_SIZE"
        return TargetError(self.target, f"{self.what}: not done by the run's deadline", hint=hint)

    @contextmanager
    def errors(self, action: str) -> Iterator[None]:
        """Turn what botocore raises within the block into TargetError, at once."""
        try:
            yield
        except (*REQUEST_ERRORS, ValueError) as error:  # ValueError: AWS_ENDPOINT_URL is no URL
            raise self.error(error, action) from error

    def retry(self, action: str, request: Callable[[], T]) -> T:
        """Make one request, as often as it takes; TargetError when it cannot succeed, or not in time."""
        backoff = Backoff()
        while True:
            current_deadline().check()
            try:
                return request()
            except (*REQUEST_ERRORS, ValueError) as error:  # ValueError: AWS_ENDPOINT_URL is no URL
                if not is_retriable(error) or not backoff.wait():
                    raise self.error(error, action) from error


def error_code(cause: Exception | str) -> str:
    """The service's error code without the prefix of SQS' older protocol, or the name of botocore's exception."""
    if isinstance(cause, ClientError):
        cause = str(cause.response.get("Error", {}).get("Code", "unknown"))
    return cause.removeprefix("AWS.SimpleQueueService.") if isinstance(cause, str) else type(cause).__name__


def is_retriable(cause: Exception | str) -> bool:
    """Whether the same may succeed later: throttling, a server's fault, a lost connection or a timeout.

    Args:
        cause: What botocore raised, or a record's error code.
    """
    if isinstance(cause, str):
        return error_code(cause) in _RETRIABLE_CODES
    if isinstance(cause, ClientError):
        status = cause.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        return error_code(cause) in _RETRIABLE_CODES or status == 429 or status >= 500
    if isinstance(cause, SSLError):
        return False
    # A load balancer's error page is not in the service's format: ResponseParserError.
    return isinstance(cause, (*_NETWORK_ERRORS, ResponseParserError))


def is_the_place_at_fault(code: str) -> bool:
    """Whether this error code of one record tells of the resource, its key or the role, and not of the record."""
    code = error_code(code)
    return code in _DENIED_CODES or code in _MISSING_CODES or _is_of_kms(code)


def _is_of_kms(code: str) -> bool:
    return "kms" in code.lower()  # KMS.DisabledException, KMSAccessDenied, InvalidKMSResourceException
