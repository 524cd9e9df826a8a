"""Connections to a receiver: to an address that was checked, by httpx, and never for longer than a request may take.

Owns the sockets. What is sent, and what an answer means, is ``receiver``'s. Importing this needs httpx.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import socket
import ssl
from collections.abc import Callable, Iterable, Iterator, Mapping
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any, NamedTuple, TypeVar

import httpcore
import httpx

from docdb_stream.context import STOP_NOTICED_S, NoAnswerError, answer_in_time, current_deadline
from docdb_stream.targets._webhook.addresses import Allowed, look_up

T = TypeVar("T")

LOOK_UP_S = 5.0
"""How long a name is looked up: as long as glibc waits for one answer (resolv.conf(5), ``timeout``)."""

_BODY_S = 1.0
_BODY_BYTES = 64 * 1024
"""How much of an answer is read, and for how long, so that its connection serves for the next request: nobody asks what
it says. More costs a new connection."""


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


class Line:
    """One connection to a receiver, made when it is first used and kept. For one thread at a time, but for ``close``.

    Args:
        url: Where the receiver is.
        headers: What every request has.
        allowed: Which addresses may be called.
        tls: How the receiver is verified.
        timeout_s: How long one request may take, in all.
    """

    def __init__(
        self, url: str, headers: Mapping[str, str], allowed: Allowed, tls: ssl.SSLContext | None, timeout_s: float
    ) -> None:
        self._url = httpx.URL(url)
        self._backend = _Backend(allowed, encrypted=tls is not None)
        self._timeout_s = timeout_s
        pool = httpcore.ConnectionPool(ssl_context=tls, network_backend=self._backend, max_connections=1)
        self._client = httpx.Client(
            transport=_Transport(pool),
            headers=headers,
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),  # a receiver's would come back to it
            trust_env=False,
            follow_redirects=False,
        )

    def post(self, headers: Mapping[str, str], body: bytes) -> Answer:
        """Send a request, once.

        Raises:
            UnansweredError: There was no answer, or not in time.
            UntrustedError: The receiver's certificate is not trusted.
            ForbiddenAddressError: The receiver may not be called.
        """
        with self._within(self._timeout_s) as limit, self._errors():
            with self._client.stream("POST", self._url, headers=headers, content=body) as response:
                found = response.headers
                answer = Answer(response.status_code, found.get("retry-after"), found.get("location"))
                limit.shorten(_BODY_S)
                _skim(response.iter_raw())
            return answer

    def connect(self) -> None:
        """Connect and verify the certificate, and send nothing. Raises as ``post`` does."""
        port = self._url.port or (443 if self._url.scheme == "https" else 80)
        with self._within(self._timeout_s), self._errors():
            stream = self._backend.connect_tcp(self._url.raw_host.decode(), port)
            try:
                if self._url.scheme == "https":
                    tls = self._client._transport._pool._ssl_context  # type: ignore[attr-defined]
                    stream = stream.start_tls(tls, self._url.raw_host.decode())
            finally:
                stream.close()

    def give_up(self) -> None:
        """Have the request that is under way end in a tenth of a second, and take no others. From any thread."""
        self._backend.is_given_up = True

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    @contextlib.contextmanager
    def _within(self, timeout_s: float) -> Iterator[_Limit]:
        self._backend.limit = _Limit(timeout_s)
        yield self._backend.limit

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        check_network = "check WEBHOOK_URL, and that network and security groups let this machine out to it"
        check_https = "see that WEBHOOK_URL speaks HTTP/1.1, and TLS where it begins with https"
        try:
            yield
        except _TooSlowError:
            took = f"no answer within {self._timeout_s:g} s, or by the run's end"
            raise UnansweredError(took, "see to the receiver, or raise WEBHOOK_TIMEOUT_SECONDS") from None
        except ssl.SSLCertVerificationError as error:
            raise UntrustedError(f"its certificate is not trusted: {error.verify_message}") from error
        except ssl.SSLError as error:
            raise UnansweredError(f"TLS failed: {error.reason or error}", check_https) from error
        except (httpcore.ProtocolError, httpx.ProtocolError) as error:
            raise UnansweredError(f"the answer is no HTTP: {type(error).__name__}", check_https) from error
        except (OSError, httpcore.NetworkError, httpx.TransportError) as error:
            what = getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise UnansweredError(f"cannot be reached: {what}", check_network) from error


class _TooSlowError(Exception):
    """The time for a request is over."""


class _Limit:
    """How long one request may take: not longer than its time-out, the run, or a stop's patience."""

    def __init__(self, timeout_s: float) -> None:
        self._run = current_deadline()
        self._began_s = self._run.clock()
        self._until_s = self._began_s + timeout_s

    def shorten(self, to_s: float) -> None:
        self._until_s = min(self._until_s, self._run.clock() + to_s)

    def left_s(self) -> float:
        """What is left; raises _TooSlowError when nothing is."""
        left_s = min(self._until_s, self._run.give_up_at_s(self._began_s)) - self._run.clock()
        if left_s <= 0:
            raise _TooSlowError
        return left_s


class _Backend(httpcore.NetworkBackend):
    """Connects to the addresses that it has looked up and checked, and to no others."""

    def __init__(self, allowed: Allowed, *, encrypted: bool) -> None:
        self.limit = _Limit(0.0)
        self.is_given_up = False
        self._allowed = allowed
        self._encrypted = encrypted

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        try:
            found = answer_in_time(
                lambda: list(look_up(host, port)), at_most_s=min(LOOK_UP_S, self.limit.left_s())
            )
        except NoAnswerError:
            raise OSError(f"{host} is not found in time: DNS does not answer") from None
        except UnicodeError:
            raise OSError(f"{host} is no host name") from None
        self._allowed.check(host, [str(address[0]) for _, address in found], encrypted=self._encrypted)
        trouble = OSError(f"{host} has no address")
        for number, (family, address) in enumerate(found):
            try:
                return self._connect(family, address, self.limit.left_s() / (len(found) - number))
            except OSError as error:
                trouble = error
        raise trouble

    def _connect(self, family: int, address: tuple[str | int, ...], at_most_s: float) -> httpcore.NetworkStream:
        made = socket.socket(family, socket.SOCK_STREAM)
        try:
            made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            made.setblocking(False)
            made.connect_ex(address)
            with selectors.DefaultSelector() as selector:
                selector.register(made, selectors.EVENT_WRITE)
                while not selector.select(min(at_most_s, self.slice_s())):
                    at_most_s -= STOP_NOTICED_S
                    if at_most_s <= 0:
                        raise TimeoutError("timed out")
            if error := made.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                raise OSError(error, os.strerror(error))
        except BaseException:
            made.close()
            raise
        return _Stream(made, self)

    def slice_s(self) -> float:
        """How long to wait before asking again; raises _TooSlowError when there is no more waiting."""
        if self.is_given_up:
            raise _TooSlowError
        return min(STOP_NOTICED_S, self.limit.left_s())


class _Stream(httpcore.NetworkStream):
    """A socket whose every wait is one for the request, however little comes at a time."""

    def __init__(self, made: socket.socket, backend: _Backend) -> None:
        self._socket = made
        self._backend = backend

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._in_time(lambda: self._socket.recv(max_bytes))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        left = memoryview(buffer)
        try:
            while left:
                left = left[self._in_time(lambda: self._socket.send(left)) :]  # noqa: B023 - called at once
        except OSError as error:  # its answer may be there all the same: 413, as soon as it has seen the length
            raise httpcore.WriteError(str(error)) from error

    def close(self) -> None:
        self._socket.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        try:
            wrapped = ssl_context.wrap_socket(
                self._socket, server_hostname=server_hostname, do_handshake_on_connect=False
            )
            self._socket = wrapped
            self._in_time(wrapped.do_handshake)
        except BaseException:
            self.close()
            raise
        return self

    def get_extra_info(self, info: str) -> Any:
        if info != "is_readable":
            return None
        with selectors.DefaultSelector() as selector:  # an idle connection that is readable was closed by its peer
            selector.register(self._socket, selectors.EVENT_READ)
            return bool(selector.select(0))

    def _in_time(self, act: Callable[[], T]) -> T:
        while True:
            self._socket.settimeout(self._backend.slice_s())
            try:
                return act()
            except TimeoutError:
                continue


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
