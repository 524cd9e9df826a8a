"""The batch APIs of AWS: one mechanism for limits, partial failures, order and errors.

Owns how records become requests (``BatchSender``), what is worth retrying, and what an operator is told when a service
refuses (``Place``). Knows no service: what a record and a request look like is each target's matter.
"""

from __future__ import annotations

import contextvars
import hashlib
import logging
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

import boto3
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

from docdb_stream.encoding import UnrenderableError
from docdb_stream.errors import TargetError
from docdb_stream.events import ChangeEvent, PayloadFormat
from docdb_stream.retry import Backoff, current_deadline
from docdb_stream.target import Rejection
from docdb_stream.targets._payload import render_all

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
    "ServiceUnavailableException KMSThrottlingException KMS.ThrottlingException KmsThrottled OperationAborted",
    "ConditionalRequestConflict",
)
_MISSING_CODES = _codes("ResourceNotFoundException QueueDoesNotExist NonExistentQueue NoSuchBucket NotFound 404")
_DENIED_CODES = _codes("AccessDenied AccessDeniedException UnauthorizedOperation NotAuthorized Forbidden 403")
_CREDENTIAL_CODES = _codes(
    "UnrecognizedClientException InvalidClientTokenId InvalidAccessKeyId SignatureDoesNotMatch ExpiredToken",
    "InvalidSignatureException ExpiredTokenException InvalidToken IncompleteSignature MissingAuthenticationToken",
    "AuthFailure CredentialRetrievalError",
)
_OTHER_REGION_CODES = _codes("301 PermanentRedirect AuthorizationHeaderMalformed")
# botocore's exceptions have no common base.
_REQUEST_ERRORS = (ClientError, BotoCoreError, ResponseParserError)
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
    return boto3.session.Session().client(service, region_name=region, config=config)


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
        elif code.lower().startswith("kms"):
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
        except (*_REQUEST_ERRORS, ValueError) as error:  # ValueError: AWS_ENDPOINT_URL is no URL
            raise self.error(error, action) from error

    def retry(self, action: str, request: Callable[[], T]) -> T:
        """Make one request, as often as it takes; TargetError when it cannot succeed, or not in time."""
        backoff = Backoff()
        while True:
            current_deadline().check()
            try:
                return request()
            except (*_REQUEST_ERRORS, ValueError) as error:  # ValueError: AWS_ENDPOINT_URL is no URL
                if not is_retriable(error) or not backoff.wait():
                    raise self.error(error, action) from error


def within(text: str, characters: int) -> str:
    """``text`` where it is short enough for a service, else the hexadecimal SHA-256 of it."""
    return text if len(text) <= characters else hashlib.sha256(text.encode()).hexdigest()


def error_code(cause: Exception | str) -> str:
    """The service's error code without the prefix of SQS' older protocol, or the name of botocore's exception."""
    if isinstance(cause, ClientError):
        cause = str(cause.response.get("Error", {}).get("Code", "unknown"))
    return cause.removeprefix("AWS.SimpleQueueService.") if isinstance(cause, str) else type(cause).__name__


def is_retriable(error: Exception) -> bool:
    """Whether the same request may succeed later: throttling, a server's fault, a lost connection or a timeout."""
    if isinstance(error, ClientError):
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        return error_code(error) in _RETRIABLE_CODES or status == 429 or status >= 500
    if isinstance(error, SSLError):
        return False
    # A load balancer's error page is not in the service's format: ResponseParserError.
    return isinstance(error, (*_NETWORK_ERRORS, ResponseParserError))


@dataclass(frozen=True, slots=True)
class Limits:
    """What one request takes.

    Attributes:
        count: Records.
        record_bytes: Bytes of one record, as the service counts them; at most ``request_bytes``.
        request_bytes: Bytes of all records.
    """

    count: int
    record_bytes: int
    request_bytes: int


class Record(NamedTuple):
    """One event on its way.

    Attributes:
        event: The event.
        key: Records of one key arrive in their order. Where order does not matter, each has a key of its own.
        size_bytes: Its size, as the service counts it.
        entry: What the request holds for it.
    """

    event: ChangeEvent
    key: str
    size_bytes: int
    entry: dict[str, Any]


class Refusal(NamedTuple):
    """The service did not take one record of a request.

    Attributes:
        number: Which one, counted from 0.
        code: The service's error code.
        permanent: The service says that the record itself is at fault.
    """

    number: int
    code: str
    permanent: bool = False


def rendered_with_keys(
    events: Sequence[ChangeEvent], payload_format: PayloadFormat, target: str
) -> tuple[list[tuple[ChangeEvent, bytes, str]], list[Rejection]]:
    """Each event with its bytes and the text by which it is ordered, in order; what cannot be said is rejected.

    The text is the namespace and the document key; for an event about no single document the namespace alone, and for
    one without a namespace (invalidate) an underscore.
    """
    rendered, rejections = render_all(events, payload_format, target)
    keyed: list[tuple[ChangeEvent, bytes, str]] = []
    for event, payload in rendered:
        try:
            key = event.key
        except UnrenderableError as error:  # the key is Extended JSON, whatever the payload is
            rejections.append(Rejection(event, target, f"document key: {error}"))
            continue
        namespace = str(event.namespace) or "_"
        keyed.append((event, payload, namespace if key is None else f"{namespace}/{key}"))
    return keyed, rejections


class BatchSender:
    """Sends records in requests as full as the limits allow, several side by side.

    Order per key is strict: a record is sent only when every earlier one of its key has been taken or rejected. Two
    records of one key are therefore never in the same request (a service may take the second and refuse the first),
    refused records go again before later ones of their key, and meanwhile other keys go on. The price: a key is
    delivered at one record per round trip.

    Args:
        place: Where the records go.
        action: The IAM action of a request.
        request: Sends the entries of one request and returns the refusals; called from several threads. Raises what
            botocore raises.
        lanes: Requests side by side, at most.
    """

    def __init__(
        self, place: Place, action: str, request: Callable[[list[dict[str, Any]]], list[Refusal]], lanes: int
    ) -> None:
        self.place = place
        self.action = action
        self.request = request
        self._lanes = lanes
        self._threads: ThreadPoolExecutor | None = None

    def send(self, records: Sequence[Record], limits: Limits) -> list[Rejection]:
        """Send the records; returns when each is durable or rejected, with the rejections.

        Raises:
            TargetError: The service does not work, or not in time. Any of the records may have arrived.
        """
        sending = _Sending(self, limits)
        sending.add(records)
        lanes = min(self._lanes, sending.lanes_worthwhile())
        if lanes > 1 and self._threads is None:
            # The caller's thread is a lane too.
            self._threads = ThreadPoolExecutor(self._lanes - 1, thread_name_prefix=self.place.target)
        others: list[Future[None]] = []
        if self._threads is not None:
            others = [self._threads.submit(contextvars.copy_context().run, sending.lane) for _ in range(lanes - 1)]
        sending.lane()
        for other in others:
            other.result()
        if sending.error is not None:
            raise sending.error
        return sending.rejections

    def close(self) -> None:
        """End the threads. Safe to call twice; a later ``send`` starts them again."""
        threads, self._threads = self._threads, None
        if threads is not None:
            # Not waiting: after a deadline, a request may still hang until its timeout.
            threads.shutdown(wait=False, cancel_futures=True)


@dataclass(slots=True)
class _Sending:
    """The records of one ``send``, and how far each is."""

    sender: BatchSender
    limits: Limits
    rejections: list[Rejection] = field(default_factory=list)
    error: BaseException | None = None
    # Per key, its records that are not yet taken. A key is in `ready` when it has some and none of them is in a lane.
    _queues: dict[str, deque[Record]] = field(default_factory=dict)
    _ready: deque[str] = field(default_factory=deque)
    _unsettled: int = 0
    _unsettled_bytes: int = 0
    _changed: threading.Condition = field(default_factory=threading.Condition)

    def add(self, records: Sequence[Record]) -> None:
        """Queue the records; those above the limit are rejected."""
        limit_bytes = min(self.limits.record_bytes, self.limits.request_bytes)
        for record in records:
            if record.size_bytes > limit_bytes:
                self._reject(record, f"{record.size_bytes} bytes, {self.sender.place.what} takes {limit_bytes}")
                continue
            queue = self._queues.get(record.key)
            if queue is None:
                self._queues[record.key] = deque((record,))
                self._ready.append(record.key)
            else:
                queue.append(record)
            self._unsettled += 1
            self._unsettled_bytes += record.size_bytes

    def lanes_worthwhile(self) -> int:
        """How many requests there are to send side by side."""
        by_count = -(-self._unsettled // self.limits.count)
        by_bytes = -(-self._unsettled_bytes // self.limits.request_bytes)
        # The requests of one key follow each other: they are no work for a second lane.
        return min(max(by_count, by_bytes), len(self._queues))

    def lane(self) -> None:
        """Send requests until nothing is left or a lane has failed; errors are left in ``error``."""
        try:
            backoff = Backoff()
            refused: list[Record] = []
            limit = current_deadline()
            while request := self._next(refused):
                limit.check()
                if limit.remaining_s <= 0:
                    raise self.sender.place.out_of_time()
                retried = len(refused)
                cause: Exception | str = ""
                try:
                    refusals = self.sender.request([record.entry for record in request])
                except _REQUEST_ERRORS as error:
                    if not is_retriable(error):
                        raise self.sender.place.error(error, self.sender.action) from error
                    refused, cause = request, error
                else:
                    refused, cause = self._settle(request, refusals)
                    # New records that get through beside old ones that do not are no progress.
                    if not refused or sum(refusal.number < retried for refusal in refusals) < retried:
                        backoff.progress()
                if refused and not backoff.wait():
                    raise self.sender.place.error(cause, self.sender.action)
        except BaseException as error:
            with self._changed:
                self.error = self.error or error
                self._changed.notify_all()
            if not isinstance(error, Exception):
                raise

    def _next(self, refused: list[Record]) -> list[Record]:
        """The next request: this lane's refused records, filled up with what is ready. Empty: this lane is done."""
        request = list(refused)
        free_bytes = self.limits.request_bytes - sum(record.size_bytes for record in refused)
        with self._changed:
            while self.error is None and self._unsettled:
                while self._ready and len(request) < self.limits.count:
                    record = self._queues[self._ready[0]][0]
                    if record.size_bytes > free_bytes:
                        break
                    self._ready.popleft()
                    request.append(record)
                    free_bytes -= record.size_bytes
                if request:
                    return request
                self._changed.wait()
        return []

    def _settle(self, request: list[Record], refusals: Sequence[Refusal]) -> tuple[list[Record], str]:
        """Note what became of a request; returns the records to send again, and the code they were refused with."""
        verdicts = {refusal.number: refusal for refusal in refusals}
        again: list[Record] = []
        code = ""
        # Keys with more to send go to the front, so that a hot key has a place in every request.
        more: list[str] = []
        with self._changed:
            for index, record in enumerate(request):
                if verdicts and (refusal := verdicts.get(index)) is not None:
                    if self._is_worth_retrying(refusal):
                        again.append(record)
                        code = refusal.code
                        continue
                    self._reject(record, f"{self.sender.place.what}: {error_code(refusal.code)}")
                queue = self._queues[record.key]
                queue.popleft()
                if queue:
                    more.append(record.key)
            self._ready.extendleft(reversed(more))
            self._unsettled -= len(request) - len(again)
            self._changed.notify_all()
        return again, code

    def _is_worth_retrying(self, refusal: Refusal) -> bool:
        """False: the record is at fault. Raises TargetError when the place is, whatever the record."""
        code = error_code(refusal.code)
        if code in _RETRIABLE_CODES:
            return True
        if code in _DENIED_CODES or code in _MISSING_CODES or code.lower().startswith("kms"):
            raise self.sender.place.error(code, self.sender.action)
        return not refusal.permanent

    def _reject(self, record: Record, reason: str) -> None:
        self.rejections.append(Rejection(record.event, self.sender.place.target, reason))
