"""Requests of targets to AWS, and what an operator is told when a service refuses.

Knows no service: what a target writes to, it says with a ``Destination``.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from docdb_stream import aws
from docdb_stream.aws import codes, error_code, is_retriable, network_errors, request_errors
from docdb_stream.context import check_lease
from docdb_stream.errors import TargetError
from docdb_stream.retry import Backoff

_log = logging.getLogger(__name__)

T = TypeVar("T")


_MISSING_CODES = codes(
    "ResourceNotFoundException QueueDoesNotExist NonExistentQueue NoSuchBucket NotFound 404 InvalidAccountIdException",
)
_DENIED_CODES = codes(
    "AccessDenied AccessDeniedException UnauthorizedOperation NotAuthorized Forbidden 403 AuthorizationError",
    "NotAuthorizedForSourceException NotAuthorizedForDetailTypeException",
)
_CREDENTIAL_CODES = codes(
    "UnrecognizedClientException InvalidClientTokenId InvalidAccessKeyId SignatureDoesNotMatch ExpiredToken",
    "InvalidSignatureException ExpiredTokenException InvalidToken IncompleteSignature MissingAuthenticationToken",
    "AuthFailure CredentialRetrievalError",
)
_OTHER_REGION_CODES = codes("301 PermanentRedirect AuthorizationHeaderMalformed")


def client(service: str, connections: int, region: str | None = None) -> Any:
    """A client for the hot path: see ``aws.client``.

    Args:
        service: boto3's name of the service.
        connections: How many requests go side by side.
        region: Overrides the region of the environment.
    """
    # Requests are made by code, record by record; the service checks them too.
    return aws.client(service, region=region, max_pool_connections=connections, parameter_validation=False)


@dataclass(frozen=True, slots=True)
class Destination:
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
        from botocore.exceptions import NoCredentialsError, NoRegionError, PartialCredentialsError, SSLError

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
        elif isinstance(cause, network_errors()):
            hint = "check that the network reaches AWS (VPC endpoint, NAT gateway, security group) and AWS_ENDPOINT_URL"
        elif code in _MISSING_CODES:
            hint = f"create it in this account and region with `{self.create}`, or correct {self.variable}"
        elif code in _CREDENTIAL_CODES:
            hint = "the credentials are wrong or expired: check the IAM role, AWS_ACCESS_KEY_ID and AWS_SESSION_TOKEN"
        elif code in _OTHER_REGION_CODES:
            hint = "it is in another region: set AWS_REGION to that one"
        elif is_retriable(cause):
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
        except (*request_errors(), ValueError) as error:  # ValueError: AWS_ENDPOINT_URL is no URL
            raise self.error(error, action) from error

    def retry(self, action: str, request: Callable[[], T]) -> T:
        """Make one request, as often as it takes; TargetError when it cannot succeed, or not in time."""
        backoff = Backoff()
        while True:
            check_lease()
            try:
                return request()
            except (*request_errors(), ValueError) as error:  # ValueError: AWS_ENDPOINT_URL is no URL
                if not is_retriable(error) or not backoff.wait():
                    raise self.error(error, action) from error


def is_the_destination_at_fault(code: str) -> bool:
    """Whether this error code of one record tells of the resource, its key or the role, and not of the record."""
    code = error_code(code)
    return code in _DENIED_CODES or code in _MISSING_CODES or _is_of_kms(code)


def _is_of_kms(code: str) -> bool:
    return "kms" in code.lower()  # KMS.DisabledException, KMSAccessDenied, InvalidKMSResourceException
