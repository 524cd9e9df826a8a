"""Sockets to a receiver: to an address that was checked, and never for longer than a request may take.

Importing this needs httpcore, which httpx is made of.
"""

from __future__ import annotations

import errno
import os
import selectors
import socket
import ssl
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from typing import Any, TypeVar

import httpcore

from docdb_stream.context import STOP_NOTICED_S, current_deadline, in_background
from docdb_stream.targets._webhook.addresses import Allowed, look_up

T = TypeVar("T")

_Found = list[tuple[int, Any]]


class TooSlowError(Exception):
    """The time for a request is over."""


class Limit:
    """How long one request may take: not longer than its time-out, the run, or a stop's patience."""

    def __init__(self, timeout_s: float) -> None:
        self._run = current_deadline()
        self._began_s = self._run.clock()
        self._until_s = self._began_s + timeout_s

    def shorten(self, to_s: float) -> None:
        """From now on, at most so many seconds are left."""
        self._until_s = min(self._until_s, self._run.clock() + to_s)

    def left_s(self) -> float:
        """What is left; raises TooSlowError when nothing is."""
        left_s = min(self._until_s, self._run.give_up_at_s(self._began_s)) - self._run.clock()
        if left_s <= 0:
            raise TooSlowError
        return left_s


class Network(httpcore.NetworkBackend):
    """Connects to the addresses that it has looked up and checked, and to no others.

    TLS and HTTP have the receiver's name all the same. For one request at a time.

    Attributes:
        limit: Of the request that is under way.
        is_given_up: Set to have it end soon.

    Args:
        allowed: Which addresses may be called.
        encrypted: Whether TLS follows.
    """

    def __init__(self, allowed: Allowed, *, encrypted: bool) -> None:
        self.limit = Limit(0.0)
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
        """See httpcore. Raises OSError, ForbiddenAddressError or TooSlowError."""
        found = self._look_up(host, port)
        self._allowed.check(host, [str(address[0]) for _, address in found], encrypted=self._encrypted)
        trouble = OSError(f"{host} has no address")
        for number, (family, address) in enumerate(found):
            try:
                return self._connect(family, address, self.limit.left_s() / (len(found) - number))
            except OSError as error:
                trouble = error
        raise trouble

    def _look_up(self, host: str, port: int) -> _Found:
        """The addresses; looked up in a thread of its own, as nothing can interrupt that. One that is left behind ends
        as soon as the resolver gives up."""
        answer: Future[_Found] = Future()

        def ask() -> None:
            try:
                answer.set_result(look_up(host, port))
            except BaseException as error:  # noqa: BLE001 - whatever it is, it is the caller's
                answer.set_exception(error)

        in_background(ask, "webhook-lookup")
        while not answer.done():
            try:
                answer.exception(self.slice_s())
            except TimeoutError:
                continue
        try:
            return answer.result()
        except UnicodeError:
            raise OSError(f"{host} is no host name") from None

    def _connect(self, family: int, address: Any, at_most_s: float) -> httpcore.NetworkStream:
        made = socket.socket(family, socket.SOCK_STREAM)
        try:
            made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            made.setblocking(False)
            error = made.connect_ex(address)
            if error == errno.EINPROGRESS:
                self._wait_for_connection(made, at_most_s)
                error = made.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if error:
                raise OSError(error, os.strerror(error))
        except BaseException:
            made.close()
            raise
        return _Stream(made, self)

    def _wait_for_connection(self, made: socket.socket, at_most_s: float) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(made, selectors.EVENT_WRITE)
            while not selector.select(min(at_most_s, self.slice_s())):
                at_most_s -= STOP_NOTICED_S
                if at_most_s <= 0:
                    raise TimeoutError("timed out")

    def slice_s(self) -> float:
        """How long to wait before asking again; raises TooSlowError when there is no more waiting."""
        if self.is_given_up:
            raise TooSlowError
        return min(STOP_NOTICED_S, self.limit.left_s())


class _Stream(httpcore.NetworkStream):
    """A socket whose every wait is one for the request, however little comes at a time."""

    def __init__(self, made: socket.socket, network: Network) -> None:
        self._socket = made
        self._network = network

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
            self._socket.settimeout(self._network.slice_s())
            try:
                return act()
            except TimeoutError:
                continue
