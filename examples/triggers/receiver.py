"""The marketing tool's end of the webhook: takes signed calls, and remembers them."""

from __future__ import annotations

import json
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

from standardwebhooks.webhooks import Webhook, WebhookVerificationError


class Receiver:
    """Answers calls on 127.0.0.1 while it is entered.

    Args:
        key: With which calls are signed.

    Attributes:
        carts: The cart of each webhook-id.
        calls: How often each webhook-id came.
        refused: Calls whose signature was wrong.
    """

    def __init__(self, key: str) -> None:
        self.carts: dict[str, dict[str, Any]] = {}
        self.calls: Counter[str] = Counter()
        self.refused = 0
        webhook = Webhook(key)
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                length_bytes = int(self.headers["content-length"])
                body = self.rfile.read(length_bytes)
                if len(body) < length_bytes:
                    return  # the caller died amid the call
                try:
                    webhook.verify(body, dict(self.headers.items()))
                except WebhookVerificationError:
                    receiver.refused += 1
                    self.send_error(401)
                    return
                receiver.calls[self.headers["webhook-id"]] += 1
                receiver.carts[self.headers["webhook-id"]] = json.loads(body)["fullDocument"]
                self.send_response(204)
                self.end_headers()

            def log_message(self, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/abandoned"

    def __enter__(self) -> Receiver:
        Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._server.shutdown()
        self._server.server_close()
