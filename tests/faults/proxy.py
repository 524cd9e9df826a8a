"""Faults on the way to the targets: a reverse proxy for HTTP (AWS, OpenSearch) and one for TCP (Kafka).

Owns when a fault happens, by a seed, and what it looks like to a client. What each service's errors look like is
``services``'. Nothing is ever delivered late: a request reaches the server at once or never, because an answer that
overtakes its own retry is beyond what any client can put right.
"""

from __future__ import annotations

import contextlib
import http.client
import random
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

from faults.services import Request, Service, service_of

FAULTS = ("error", "throttled", "partial", "hang before", "hang after", "reset before", "reset after")
"""``before`` means that the server never got the request, ``after`` that it did and that the answer is lost."""

_HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "expect", "content-length", "host"}


class HttpFaults:
    """A reverse proxy before one server that fails a share of its requests. A context manager.

    Args:
        upstream: The server's ``host:port``.
        seed: Of the plan.
        share: Of the requests that meet a fault.
        hang_s: How long a request hangs.

    Attributes:
        active: Whether faults happen at all.
        happened: How often each fault happened.
    """

    def __init__(self, upstream: str, *, seed: int, share: float, hang_s: float) -> None:
        self.upstream = upstream
        self.hang_s = hang_s
        self.active = False
        self.share = share
        self.happened: Counter[str] = Counter()
        self._chance = random.Random(seed)
        self._met: set[str] = set()  # services that had a fault; each has one soon, however short the run is
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
        self._server.daemon_threads = True
        self._server.faults = self  # type: ignore[attr-defined]
        self.address = f"127.0.0.1:{self._server.server_port}"

    @property
    def url(self) -> str:
        return f"http://{self.address}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(0.1,), daemon=True).start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._over.set()
        self._server.shutdown()
        self._server.server_close()

    def next_fault(self, service: Service, request: Request) -> str | None:
        """The fault that this request meets, if any."""
        with self._lock:
            if not self.active or not service.is_delivery(request):
                return None
            if service.name in self._met and self._chance.random() >= self.share:
                return None
            self._met.add(service.name)
            fault = self._chance.choice(FAULTS)
            if fault == "partial" and not service.has_parts(request):
                fault = "error"
            self.happened[f"{service.name}: {fault}"] += 1
            return fault

    def hang(self) -> None:
        self._over.wait(self.hang_s)

    def refused_parts(self, count: int) -> set[int]:
        """Which of so many records are refused: at least one."""
        with self._lock:
            return {number for number in range(count) if self._chance.random() < 0.3} or {0}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def handle(self) -> None:
        self._upstream: http.client.HTTPConnection | None = None
        try:
            with contextlib.suppress(OSError, http.client.HTTPException):
                super().handle()
        finally:
            if self._upstream is not None:
                self._upstream.close()

    def _serve(self) -> None:
        faults: HttpFaults = self.server.faults  # type: ignore[attr-defined]
        request = Request(self.command, self.path, dict(self.headers.items()), self._body())
        service = service_of(request)
        match faults.next_fault(service, request):
            case "error":
                self._send(*service.error(request))
            case "throttled":
                self._send(*service.throttled(request))
            case "partial":
                taken, merge = service.split(request, faults.refused_parts)
                answer = self._forward(taken) if taken is not None else None
                self._send(*merge(answer))
            case "hang before":
                faults.hang()
                self._reset()
            case "hang after":
                self._forward(request)
                faults.hang()
                self._reset()
            case "reset before":
                self._reset()
            case "reset after":
                self._forward(request)
                self._reset()
            case _:
                self._send(*self._forward(request))

    do_GET = do_POST = do_PUT = do_HEAD = do_DELETE = _serve

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            parts = []
            while size := self._chunk_size():
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _chunk_size(self) -> int:
        if not (line := self.rfile.readline()):
            raise ConnectionResetError("the client was killed in the middle of its request")
        return int(line.split(b";")[0], 16)

    def _forward(self, request: Request) -> tuple[int, dict[str, str], bytes]:
        faults: HttpFaults = self.server.faults  # type: ignore[attr-defined]
        if self._upstream is None:
            self._upstream = http.client.HTTPConnection(faults.upstream, timeout=60)
        headers = {name: value for name, value in request.headers.items() if name.lower() not in _HOP_BY_HOP}
        headers |= {"Host": faults.upstream, "Content-Length": str(len(request.body))}
        try:
            self._upstream.request(request.method, request.path, request.body, headers)
            answer = self._upstream.getresponse()
        except http.client.RemoteDisconnected:  # idle for too long: it has not seen this request
            self._upstream.close()
            self._upstream.request(request.method, request.path, request.body, headers)
            answer = self._upstream.getresponse()
        kept = {name: value for name, value in answer.getheaders() if name.lower() not in _HOP_BY_HOP}
        if request.method == "HEAD":
            kept["Content-Length"] = answer.getheader("Content-Length") or "0"
        return answer.status, kept, answer.read()

    def _send(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        self.send_response_only(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if "Content-Length" not in headers:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _reset(self) -> None:
        self.close_connection = True
        reset(self.connection)

    def log_message(self, format: str, *args: Any) -> None:
        pass


def reset(connection: socket.socket) -> None:
    """End a connection as a crash does: the peer gets "connection reset"."""
    with contextlib.suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.shutdown(socket.SHUT_RDWR)


class TcpFaults:
    """A TCP proxy whose connections can be broken and held up. A context manager.

    It listens from the beginning, so that a server can be told to advertise it.

    Attributes:
        upstream: The port behind it; set it before anybody connects.
    """

    def __init__(self) -> None:
        self.upstream = 0
        self._pairs: set[tuple[socket.socket, socket.socket]] = set()
        self._flowing = threading.Event()
        self._flowing.set()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.reset_all()

    def reset_all(self) -> None:
        """Break every connection."""
        self._flowing.set()
        for client, server in list(self._pairs):
            reset(client)
            reset(server)

    def pause(self, seconds: float) -> None:
        """Let nothing through for a while, then go on."""
        self._flowing.clear()
        time.sleep(seconds)
        self._flowing.set()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.upstream)) as server:
            pair = (client, server)
            self._pairs.add(pair)
            back = threading.Thread(target=self._pump, args=(server, client), daemon=True)
            back.start()
            try:
                self._pump(client, server)
            finally:
                self._pairs.discard(pair)
                back.join(5)

    def _pump(self, source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                self._flowing.wait()
                target.sendall(data)
        for each in (source, target):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
