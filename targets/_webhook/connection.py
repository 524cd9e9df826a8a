"""Connections to a receiver: httpx over sockets of ``network``'s. What is sent, and what an answer means, is
``receiver``'s. Importing this needs httpx.
"""

from __future__ import annotations

import contextlib
import ssl
import threading
from collections.abc import Iterable, Iterator, Mapping
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import NamedTuple

import httpcore
import httpx

from docdb_stream.errors import ConfigError
from docdb_stream.targets._webhook.addresses import Allowed
from docdb_stream.targets._webhook.network import Limit, Network, TooSlowError

_BODY_S = 1.0
_BODY_BYTES = 64 * 1024
"""How much of an answer is read, and for how long, so that its connection serves for the next request: nobody asks what
it says. More costs a new connection."""
_CLOSING_S = 1.0
"""How long ``close`` waits for requests under way: ten times as long as they need to notice."""


class UnansweredError(Exception):
    """There was no answer; another attempt may get one.

    Attributes:
        hint: What may be the matter.
    """

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.hint = hint


class UntrustedError(Exception):
    """The receiver's certificate is not trusted, and will not be at the next attempt."""


class Answer(NamedTuple):
    """What of an answer counts.

    Attributes:
        status: HTTP's.
        retry_after: The header, or None.
        location: The header, or None.
    """

    status: int
    retry_after: str | None = None
    location: str | None = None


class Connections:
    """Connections to one receiver, made when needed and kept. For several threads: each request has one to itself.

    Args:
        url: Where the receiver is.
        headers: What every request has.
        allowed: Which addresses may be called.
        tls: How the receiver is verified; None for http.
        timeout_s: How long one request may take, in all.

    Raises:
        ConfigError: The URL is none.
    """

    def __init__(
        self, url: str, headers: Mapping[str, str], allowed: Allowed, tls: ssl.SSLContext | None, timeout_s: float
    ) -> None:
        try:
            self._url = httpx.URL(url)
        except (httpx.InvalidURL, UnicodeError) as error:
            raise ConfigError(f"WEBHOOK_URL is no URL: {error}", hint="give https://host/path") from None
        self._headers = headers
        self._allowed = allowed
        self._tls = tls
        self._timeout_s = timeout_s
        self._idle: list[_Connection] = []
        self._busy: set[_Connection] = set()
        self._is_closed = False
        self._has_moved = threading.Condition()

    def post(self, headers: Mapping[str, str], body: bytes) -> Answer:
        """Send a request, once.

        Raises:
            UnansweredError: There was no answer, or not in time, or it was closed meanwhile.
            UntrustedError: The receiver's certificate is not trusted.
            ForbiddenAddressError: The receiver may not be called.
        """
        with self._connection() as connection:
            return connection.post(headers, body)

    def connect(self) -> None:
        """Connect and verify the certificate, and send nothing. Raises as ``post`` does."""
        with self._connection() as connection:
            connection.connect()

    def close(self) -> None:
        """End the requests that are under way, and close all connections. There are no others afterwards."""
        with self._has_moved:
            self._is_closed = True
            for connection in self._busy:
                connection.give_up()
            idle, self._idle = self._idle, []
            for connection in idle:
                connection.close()
            self._has_moved.wait_for(lambda: not self._busy, _CLOSING_S)

    @contextlib.contextmanager
    def _connection(self) -> Iterator[_Connection]:
        with self._has_moved:
            if self._is_closed:
                raise UnansweredError("closed while it was sending", "the next run sends again")
            if self._idle:
                connection = self._idle.pop()
            else:
                connection = _Connection(self._url, self._headers, self._allowed, self._tls, self._timeout_s)
            self._busy.add(connection)
        try:
            yield connection
        finally:
            with self._has_moved:
                self._busy.discard(connection)
                self._keep(connection)
                self._has_moved.notify_all()

    def _keep(self, connection: _Connection) -> None:
        if self._is_closed:
            connection.close()
        else:
            self._idle.append(connection)


class _Connection:
    """One connection, made when it is first used and kept. For one thread at a time, but for ``give_up``."""

    def __init__(
        self, url: httpx.URL, headers: Mapping[str, str], allowed: Allowed, tls: ssl.SSLContext | None, timeout_s: float
    ) -> None:
        self._url = url
        self._tls = tls
        self._timeout_s = timeout_s
        self._network = Network(allowed, encrypted=tls is not None)
        pool = httpcore.ConnectionPool(ssl_context=tls, network_backend=self._network, max_connections=1)
        self._client = httpx.Client(
            transport=_Transport(pool),
            headers=headers,
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),  # a receiver's would come back to it
            trust_env=False,
            follow_redirects=False,
        )

    def post(self, headers: Mapping[str, str], body: bytes) -> Answer:
        """See ``Connections.post``."""
        limit = self._network.limit = Limit(self._timeout_s)
        with self._errors(), self._client.stream("POST", self._url, headers=headers, content=body) as response:
            found = response.headers
            answer = Answer(response.status_code, found.get("retry-after"), found.get("location"))
            limit.shorten(_BODY_S)
            _skim(response.iter_raw())
        return answer

    def connect(self) -> None:
        """See ``Connections.connect``."""
        self._network.limit = Limit(self._timeout_s)
        host = self._url.raw_host.decode()
        port = self._url.port or (443 if self._tls else 80)
        with self._errors():
            stream = self._network.connect_tcp(host, port)
            try:
                if self._tls is not None:
                    stream = stream.start_tls(self._tls, host)
            finally:
                stream.close()

    def give_up(self) -> None:
        """Have the request that is under way end in a tenth of a second, and take no others. From any thread."""
        self._network.is_given_up = True

    def close(self) -> None:
        """Close it."""
        self._client.close()

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        check_network = "check WEBHOOK_URL, and that network and security groups let this machine out to it"
        check_http = "see that WEBHOOK_URL speaks HTTP/1.1, and TLS where it begins with https"
        try:
            yield
        except TooSlowError:
            took = f"no answer within {self._timeout_s:g} s, or by the run's end"
            raise UnansweredError(took, "see to the receiver, or raise WEBHOOK_TIMEOUT_SECONDS") from None
        except ssl.SSLCertVerificationError as error:
            raise UntrustedError(f"its certificate is not trusted: {error.verify_message}") from error
        except ssl.SSLError as error:
            raise UnansweredError(f"TLS failed: {error.reason or error}", check_http) from error
        except (httpcore.ProtocolError, httpx.ProtocolError) as error:
            raise UnansweredError(f"the answer is not whole, or no HTTP: {str(error)[:200]}", check_http) from error
        except (OSError, httpcore.NetworkError, httpx.TransportError) as error:
            what = getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise UnansweredError(f"cannot be reached: {what}", check_network) from error


class _Transport(httpx.BaseTransport):
    """httpx's way to httpcore, which alone lets a connection be made by one's own means."""

    def __init__(self, pool: httpcore.ConnectionPool) -> None:
        self._pool = pool

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        url = request.url
        answer = self._pool.handle_request(
            httpcore.Request(
                request.method,
                httpcore.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path),
                headers=request.headers.raw,
                content=request.stream,
            )
        )
        return httpx.Response(answer.status, headers=answer.headers, stream=_Body(answer))

    def close(self) -> None:
        self._pool.close()


class _Body(httpx.SyncByteStream):
    def __init__(self, answer: httpcore.Response) -> None:
        self._answer = answer

    def __iter__(self) -> Iterator[bytes]:
        return self._answer.iter_stream()

    def close(self) -> None:
        self._answer.close()


def _skim(pieces: Iterable[bytes]) -> None:
    """Read an answer as far as it is worth it. What goes wrong changes nothing: its status is there."""
    size_bytes = 0
    with contextlib.suppress(Exception):
        for piece in pieces:
            size_bytes += len(piece)
            if size_bytes > _BODY_BYTES:
                return
