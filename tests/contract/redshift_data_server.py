"""The other door to what stands in for Amazon Redshift: its Data API, with the limits of the service.

And what gives temporary passwords: GetCredentials of redshift-serverless, GetClusterCredentials of redshift.
"""

from __future__ import annotations

import json
import threading
import uuid
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl

import psycopg
from contract.redshift_words import RedshiftWords, Session

STATEMENT_BYTES = 100_000
Fields = dict[str, Any]


class RefusedError(Exception):
    """An answer with an error code."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass
class OpenSession:
    """A connection to the database that the service keeps."""

    connection: Any
    words: Session
    keep_alive_s: float
    is_busy: bool = False
    end: threading.Timer | None = None


@dataclass
class Statement:
    """One that was begun."""

    sql: str
    session: OpenSession
    status: str = "STARTED"
    error: str = ""
    rows: list[list[Fields]] = field(default_factory=list)
    has_rows: bool = False


class RedshiftDataServer:
    """Serves until closed.

    Args:
        words: The stand-in's; its owner closes them.
    """

    page_rows = 2
    """How many rows GetStatementResult gives at a time."""
    sessions_at_most = 500
    statements_at_most = 500
    is_down = False
    """Whether it is not available."""
    shortest_s: float | None = None
    """Sessions are kept for so long, whatever is asked for."""

    def __init__(self, words: RedshiftWords) -> None:
        self.words = words
        self.requests: list[tuple[str, Fields]] = []
        """Action and body of all, as they came."""
        self.sessions: dict[str, OpenSession] = {}
        self.statements: dict[str, Statement] = {}
        self._tokens: dict[str, Fields] = {}
        self._lock = threading.RLock()
        owner = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            wbufsize = -1  # head and body in one packet: of two, the second waits for the first one's receipt

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"])).decode()
                target = self.headers.get("X-Amz-Target", "")
                status, kind, content = owner._answer(target.rpartition(".")[2], body)
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, format: str, *args: Any) -> None:
                """Say nothing."""

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    uri = "redshift-data://shop/postgres"

    @property
    def environment(self) -> dict[str, str]:
        """With which boto3 finds it, and only it, here."""
        url = f"http://127.0.0.1:{self._http.server_port}"
        services = ("REDSHIFT_DATA", "REDSHIFT_SERVERLESS", "REDSHIFT")
        return {f"AWS_ENDPOINT_URL_{service}": url for service in services}

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()
        for name in [*self.sessions]:
            self._end(name)

    def asked(self, action: str) -> list[Fields]:
        return [body for name, body in self.requests if name == action]

    # The protocol

    def _answer(self, action: str, body: str) -> tuple[int, str, bytes]:
        if not action:
            return self._temporary(dict(parse_qsl(body)))
        if self.is_down:
            return 503, "text/html", b"<html>Service Unavailable</html>"
        fields = json.loads(body)
        self.requests.append((action, fields))
        try:
            found = getattr(self, f"_{action}")(fields)
        except RefusedError as error:
            told = {"__type": error.code, "Message": str(error), "message": str(error)}
            return 400, "application/x-amz-json-1.1", json.dumps(told).encode()
        return 200, "application/x-amz-json-1.1", json.dumps(found).encode()

    def _temporary(self, form: dict[str, str]) -> tuple[int, str, bytes]:
        action = form["Action"]
        self.requests.append((action, form))
        text = (
            f'<{action}Response xmlns="http://redshift.amazonaws.com/doc/2012-12-01/"><{action}Result>'
            f"<DbUser>postgres</DbUser><DbPassword>x</DbPassword></{action}Result></{action}Response>"
        )
        return 200, "text/xml", text.encode()

    def _GetCredentials(self, _: Fields) -> Fields:
        return {"dbUser": "postgres", "dbPassword": "x"}

    # Statements

    def _ExecuteStatement(self, asked: Fields) -> Fields:
        with self._lock:
            if asked["ClientToken"] in self._tokens:
                return self._tokens[asked["ClientToken"]]
            if len(asked["Sql"].encode()) > STATEMENT_BYTES:
                raise RefusedError("ValidationException", "Sql must have length less than or equal to 100000")
            if sum(each.status == "STARTED" for each in self.statements.values()) >= self.statements_at_most:
                raise RefusedError("ActiveStatementsExceededException", "too many")
            name = asked.get("SessionId")
            if name is None:
                name = self._begin(asked)
            elif {"Database", "WorkgroupName", "ClusterIdentifier"} & asked.keys():
                raise RefusedError("ValidationException", "a session has its database")
            session = self.sessions.get(name)
            if session is None:
                raise RefusedError("ValidationException", "Session is not available")
            if session.is_busy:
                raise RefusedError("ValidationException", "Session is busy")
            session.is_busy = True
            if session.end:
                session.end.cancel()
            number = str(uuid.uuid4())
            statement = self.statements[number] = Statement(asked["Sql"], session)
            found = self._tokens[asked["ClientToken"]] = {"Id": number, "SessionId": name}
        threading.Thread(target=self._run, args=(name, statement), daemon=True).start()
        return found

    def _begin(self, asked: Fields) -> str:
        if not {"WorkgroupName", "ClusterIdentifier"} & asked.keys() or "Database" not in asked:
            raise RefusedError("ValidationException", "whose database?")
        if len(self.sessions) >= self.sessions_at_most:
            raise RefusedError("ActiveSessionsExceededException", "too many")
        connection = psycopg.connect(self.words.postgres.uri, autocommit=True)
        connection.execute("SET standard_conforming_strings TO off")  # as it is in Redshift
        connection.execute("SET escape_string_warning TO off")
        kept_s = self.shortest_s or asked["SessionKeepAliveSeconds"]
        name = str(uuid.uuid4())
        self.sessions[name] = OpenSession(connection, Session(self.words), kept_s)
        return name

    def _run(self, name: str, statement: Statement) -> None:
        session = statement.session
        try:
            sql = session.words.translated(statement.sql)
            if sql in ("BEGIN", "COMMIT", "ROLLBACK") and not self.words.keeps_transactions:
                sql = "SELECT 1"
            cursor = session.connection.execute(sql)
            statement.has_rows = cursor.description is not None
            statement.rows = [[_field(value) for value in row] for row in cursor] if statement.has_rows else []
            status = "FINISHED"
        except psycopg.errors.QueryCanceled:
            status = "ABORTED"
        except psycopg.Error as error:
            statement.error = f"ERROR: {error.diag.message_primary or error}"
            status = "FAILED"
        with self._lock:
            session.is_busy = False
            session.end = threading.Timer(session.keep_alive_s, self._end, (name,))
            session.end.daemon = True
            session.end.start()
            statement.status = status

    def _end(self, name: str) -> None:
        session = self.sessions.pop(name, None)
        if session is not None:
            if session.end:
                session.end.cancel()
            session.connection.close()

    def _DescribeStatement(self, asked: Fields) -> Fields:
        found = self._known(asked)
        told: Fields = {"Id": asked["Id"], "Status": found.status, "HasResultSet": found.has_rows}
        return {**told, "Error": found.error} if found.error else told

    def _GetStatementResult(self, asked: Fields) -> Fields:
        found = self._known(asked)
        first = int(asked.get("NextToken", 0))
        last = first + self.page_rows
        answer: Fields = {"Records": found.rows[first:last], "ColumnMetadata": [], "TotalNumRows": len(found.rows)}
        return {**answer, "NextToken": str(last)} if last < len(found.rows) else answer

    def _CancelStatement(self, asked: Fields) -> Fields:
        found = self._known(asked)
        if found.status != "STARTED":
            raise RefusedError("ValidationException", "Could not cancel a query that is already in FINISHED state")
        found.session.connection.cancel()
        return {"Status": True}

    def _known(self, asked: Fields) -> Statement:
        if asked["Id"] not in self.statements:
            raise RefusedError("ResourceNotFoundException", "Query does not exist.")
        return self.statements[asked["Id"]]


def _field(value: Any) -> Fields:
    if value is None:
        return {"isNull": True}
    if isinstance(value, bool):
        return {"booleanValue": value}
    return {"longValue": value} if isinstance(value, int) else {"stringValue": str(value)}
