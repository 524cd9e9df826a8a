"""A stand-in for Neptune: its openCypher over HTTP, in front of ArcadeDB, with Neptune's errors.

It is Neptune in that every query is a transaction of its own, that arrays and maps are no values of properties, and in
how it answers. ``~id`` is a property like any other, which a constraint keeps unique; that and ``_doc`` are looked up
by indexes, as everything is there.
"""

from __future__ import annotations

import json
import re
import threading
from collections import deque
from collections.abc import Callable, Iterable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

import neo4j

_MERGED = re.compile(r"MERGE \(\w+:(`[^`]+`|\w+) \{`~id`")

Fault = tuple[int, str, str]
"""Status, code, and message of an error."""


class NeptuneServer:
    """Serves ``POST /openCypher``.

    Attributes:
        faults: What the next queries are answered with, in the place of being done.
        lost: How many of the next queries are done and answered with an error all the same.
        queries: The statements that were done.
        before: Called with each statement before it is done.
    """

    def __init__(self, driver: neo4j.Driver, database: str) -> None:
        self._driver = driver
        self._database = database
        self._one = threading.Lock()
        self._indexed: set[str] = set()
        self.faults: deque[Fault] = deque()
        self.lost = 0
        self.queries: list[str] = []
        self.before: Callable[[str], object] = lambda statement: None
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                status, answer = server.answer(self.path, body, self.headers.get("Authorization", ""))
                text = json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.05,), daemon=True)
        self.url = f"http://127.0.0.1:{self._http.server_port}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

    def answer(self, path: str, body: dict[str, Any], authorization: str) -> tuple[int, dict[str, Any]]:
        """Status and body of the answer to a request."""
        if path.lower() != "/opencypher" or "/neptune-db/aws4_request" not in authorization:
            return _error(403, "AccessDeniedException", "the request is not signed for neptune-db")
        with self._one:
            if self.faults:
                return _error(*self.faults.popleft())
            statement = body["query"]
            self.before(statement)
            parameters = json.loads(body.get("parameters") or "{}")
            if any(isinstance(value, (list, dict)) for value in _values(parameters)):
                return _error(400, "UnsupportedOperationException", "a list or a map as the value of a property")
            self._index(_MERGED.findall(statement))
            try:
                rows = self._driver.execute_query(statement, parameters, database_=self._database).records
            except neo4j.exceptions.Neo4jError as error:
                code = "MalformedQueryException" if "Syntax" in str(error.code) else "InternalFailureException"
                return _error(400 if code.startswith("Malformed") else 500, code, str(error))
            self.queries.append(statement)
            if self.lost:
                self.lost -= 1
                return _error(500, "InternalFailureException", "the answer is lost")
            return 200, {"results": [row.data() for row in rows]}

    def _index(self, labels: Iterable[str]) -> None:
        for label in {*labels} - self._indexed:
            unique = f"CREATE CONSTRAINT IF NOT EXISTS FOR (n:{label}) REQUIRE n.`~id` IS UNIQUE"
            found = f"CREATE INDEX IF NOT EXISTS FOR (n:{label}) ON (n._doc)"
            for statement in (unique, found):
                self._driver.execute_query(statement, database_=self._database)
            self._indexed.add(label)


def _values(parameters: dict[str, Any]) -> list[Any]:
    return [value for row in parameters.get("rows", ()) for value in row.get("properties", {}).values()]


def _error(status: int, code: str, message: str) -> tuple[int, dict[str, Any]]:
    return status, {"code": code, "detailedMessage": message, "requestId": "1"}
