"""What stands in for Amazon Redshift: PostgreSQL behind a proxy that puts into its words what only Redshift has.

Types, distribution, and COPY from S3, which reads the object and hands it on as a file. It is no Redshift: it
may take what Redshift refuses.
"""

from __future__ import annotations

import gzip
import re
import shutil
import socket
import struct
import tempfile
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

import psycopg

from docdb_stream.local import AwsServer, PostgresServer

_KNOWN = {b"user", b"database", b"client_encoding", b"options"}
_SSL_REQUEST = 80877103
_COPY = re.compile(
    r"COPY (\S+) FROM 's3://([^/]+)/([^']+)' IAM_ROLE (?:default|'[^']+') "
    r"FORMAT AS CSV NULL AS '(\w+)' TIMEFORMAT 'auto' GZIP"
)
_FUNCTIONS = (
    "CREATE OR REPLACE FUNCTION getdate() RETURNS timestamp LANGUAGE sql AS $$ SELECT now()::timestamp $$",
    "CREATE OR REPLACE FUNCTION to_varbyte(text, text) RETURNS bytea LANGUAGE sql AS $$ SELECT decode($1, $2) $$",
)


class RedshiftServer:
    """Serves until closed.

    Args:
        aws: Where S3 is.
        postgres: What the tables are in.
    """

    def __init__(self, aws: AwsServer, postgres: PostgresServer) -> None:
        self.postgres = postgres
        self.statements: list[str] = []
        """All that were asked for, as they came."""
        self._s3 = aws.client("s3")
        self._folder = Path(tempfile.mkdtemp(prefix="redshift-"))
        self._folder.chmod(0o755)
        self._files = 0
        self._lock = threading.Lock()
        with psycopg.connect(postgres.uri, autocommit=True) as connection:
            for function in _FUNCTIONS:
                connection.execute(function)  # type: ignore[call-overload]
        self._listening = socket.create_server(("127.0.0.1", 0))
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def uri(self) -> str:
        return f"redshift://postgres:x@127.0.0.1:{self._listening.getsockname()[1]}/postgres?sslmode=disable"

    def close(self) -> None:
        self._listening.close()
        self._s3.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listening.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        server: socket.socket | None = None
        try:
            version, parameters = self._greeted(client)
            host, _, port = self.postgres.address.rpartition(":")
            server = socket.create_connection((host, int(port)))
            for each in (client, server):
                each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            server.sendall(struct.pack("!II", len(parameters) + 8, version) + parameters)
            threading.Thread(target=_pump, args=(server, client), daemon=True).start()
            while True:
                kind, size = struct.unpack("!cI", _exactly(client, 5))
                body = _exactly(client, size - 4)
                if kind == b"P":
                    name, query, rest = body.split(b"\0", 2)
                    body = b"\0".join((name, self._translated(query.decode()).encode(), rest))
                server.sendall(kind + struct.pack("!I", len(body) + 4) + body)
        except (OSError, EOFError):
            return
        finally:
            for each in (client, server):
                if each is not None:
                    _hang_up(each)

    @staticmethod
    def _greeted(client: socket.socket) -> tuple[int, bytes]:
        while True:
            size, version = struct.unpack("!II", _exactly(client, 8))
            body = _exactly(client, size - 8)
            if version != _SSL_REQUEST:
                break
            client.sendall(b"N")
        words = body.split(b"\0")
        known = [(name, value) for name, value in zip(words[::2], words[1::2], strict=False) if name in _KNOWN]
        return version, b"".join(name + b"\0" + value + b"\0" for name, value in known) + b"\0"

    def _translated(self, statement: str) -> str:
        self.statements.append(statement)
        copied = _COPY.fullmatch(statement)
        if copied is not None:
            return self._copied(*copied.groups())
        statement = statement.replace(" DISTSTYLE KEY DISTKEY (_key)", "")
        return re.sub(r'" SUPER\b', '" jsonb', re.sub(r'" VARBYTE\(\d+\)', '" bytea', statement))

    def _copied(self, table: str, bucket: str, key: str, null: str) -> str:
        try:
            body: Any = self._s3.get_object(Bucket=bucket, Key=key)["Body"].read()
        except self._s3.exceptions.NoSuchKey:
            return "SELECT 1/0 AS the_specified_key_does_not_exist"
        with self._lock:
            self._files += 1
            path = self._folder / f"{self._files}.csv"
        path.write_bytes(gzip.decompress(body))
        path.chmod(0o644)
        return f"COPY {table} FROM '{path}' WITH (FORMAT csv, NULL '{null}')"


def _pump(source: socket.socket, sink: socket.socket) -> None:
    try:
        while data := source.recv(65536):
            sink.sendall(data)
    except OSError:
        return
    finally:
        _hang_up(source)
        _hang_up(sink)


def _hang_up(each: socket.socket) -> None:
    with suppress(OSError):
        each.shutdown(socket.SHUT_RDWR)
    each.close()


def _exactly(source: socket.socket, size: int) -> bytes:
    found = b""
    while len(found) < size:
        piece = source.recv(size - len(found))
        if not piece:
            raise EOFError
        found += piece
    return found
