"""A receiver of webhooks on this machine, which verifies each with the reference library."""

from __future__ import annotations

import base64
import json
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

from standardwebhooks.webhooks import Webhook

from docdb_stream.local import Tls
from docdb_stream.testing.contract import Faults


def key(number: int) -> str:
    """A key, as it is written."""
    return "whsec_" + base64.b64encode(bytes([number]) * 32).decode()


class Request(NamedTuple):
    headers: dict[str, str]
    body: bytes

    @property
    def events(self) -> list[dict[str, Any]]:
        """The events in it, in the format ``extended``."""
        found = json.loads(self.body)
        return found if isinstance(found, list) else [found]

    @property
    def event_ids(self) -> list[str]:
        return [event["_id"]["_data"] for event in self.events]


class Answer(NamedTuple):
    status: int = 204
    headers: dict[str, str] = {}  # noqa: RUF012 - read only
    body: bytes = b""


class Receiver:
    """Answers as it is told; what it takes (2xx) is kept, in the order of arrival.

    Attributes:
        answer: Says what to answer to a request.
        key: What it verifies with; None: it does not.
        taken: What was answered with 2xx.
        seen: All requests.
    """

    def __init__(self, tls: Tls | None = None) -> None:
        self.answer: Callable[[Request], Answer] = lambda _: Answer()
        self.key: str | None = None
        self.taken: list[Request] = []
        self.seen: list[Request] = []
        self.connections = 0
        self._lock = threading.Lock()
        self._server = _Server(("127.0.0.1", 0), _handler(self))
        self.port = self._server.server_port
        self.url = f"{'https' if tls else 'http'}://127.0.0.1:{self.port}/shop"
        if tls is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(tls.certificate_key_file)
            self._server.tls = context
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def take(self, request: Request) -> Answer:
        if self.key is not None:
            Webhook(self.key).verify(request.body, request.headers)
        with self._lock:
            self.seen.append(request)
        answer = self.answer(request)
        if 200 <= answer.status < 300:
            with self._lock:
                self.taken.append(request)
        return answer

    @contextmanager
    def faults(self, faults: Faults) -> Iterator[None]:
        def answer(request: Request) -> Answer:
            verdicts = faults.answer(request.event_ids)
            if verdicts is None:
                return Answer(429)
            return Answer(422 if "reject" in verdicts else 503 if "retry" in verdicts else 204)

        self.answer = answer
        yield
        self.answer = lambda _: Answer()

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64
    tls: ssl.SSLContext | None = None

    def get_request(self) -> Any:
        connection, address = super().get_request()
        if self.tls is not None:
            connection = self.tls.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
        return connection, address

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Whoever does not trust it hangs up."""


def _handler(receiver: Receiver) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1  # an answer is one packet, and so comes at once

        def setup(self) -> None:
            super().setup()
            receiver.connections += 1

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            answer = receiver.take(Request({name.lower(): value for name, value in self.headers.items()}, body))
            self.send_response(answer.status)
            for name, value in answer.headers.items():
                self.send_header(name, value)
            if answer.status != 204:
                self.send_header("content-length", str(len(answer.body)))
            self.end_headers()
            self.wfile.write(answer.body)

        def log_message(self, *_: Any) -> None:
            pass

    return Handler
