"""The page's server: one HTML file, and what it shows as server-sent events. Nothing to build, nothing to install."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

HOST = "127.0.0.1"
EVERY_S = 0.5
HTML = Path(__file__).with_name("page.html")


class Page:
    """Args: port: 0 is a free one. Raises OSError: It is taken."""

    def __init__(self, port: int = 0) -> None:
        self._closed = threading.Event()
        self._figures: Callable[[], dict[str, Any]] = dict
        self._server = ThreadingHTTPServer((HOST, port), _handler(lambda: self._figures(), self._closed))
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, name="page", daemon=True)

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self._server.server_address[1]}/"

    def show(self, figures: Callable[[], dict[str, Any]]) -> None:
        """Show from now on what this returns, ready for JSON."""
        self._figures = figures

    def __enter__(self) -> Page:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._closed.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def _handler(figures: Callable[[], dict[str, Any]], closed: threading.Event) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            match self.path:
                case "/":
                    self._begin("text/html; charset=utf-8")
                    self.wfile.write(HTML.read_bytes())
                case "/figures":
                    self._begin("text/event-stream")
                    self._tell()
                case _:
                    self.send_error(HTTPStatus.NOT_FOUND)

        def _begin(self, kind: str) -> None:
            self.send_response(HTTPStatus.OK)
            self.send_header("Content-Type", kind)
            self.send_header("Cache-Control", "no-store")
            self.end_headers()

        def _tell(self) -> None:
            try:
                while True:
                    if found := figures():
                        self.wfile.write(f"data: {json.dumps(found)}\n\n".encode())
                        self.wfile.flush()
                    if closed.wait(EVERY_S):
                        return
            except ConnectionError:  # nobody looks any more
                return

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    return Handler
