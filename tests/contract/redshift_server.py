"""What stands in for Amazon Redshift: PostgreSQL behind a proxy that puts into its words what only Redshift has.

It is no Redshift: it may take what Redshift refuses. ``redshift_words`` says what is put into other words,
``redshift_data_server`` is the other door to it, the Data API.
"""

from __future__ import annotations

import socket
import struct
import threading
from contextlib import suppress

from contract.redshift_words import RedshiftWords, Session

from docdb_stream.local import AwsServer, PostgresServer

_KNOWN = {b"user", b"database", b"client_encoding", b"options"}
_SSL_REQUEST = 80877103


class RedshiftServer:
    """Serves until closed.

    Args:
        aws: Where S3 is.
        postgres: What the tables are in.
    """

    def __init__(self, aws: AwsServer, postgres: PostgresServer) -> None:
        self.postgres = postgres
        self.words = RedshiftWords(aws, postgres)
        self.is_down = False
        """Whether it hangs up on whoever comes."""
        self._listening = socket.create_server(("127.0.0.1", 0))
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def uri(self) -> str:
        return f"redshift://postgres:x@127.0.0.1:{self._listening.getsockname()[1]}/postgres?sslmode=disable"

    def close(self) -> None:
        self._listening.close()
        self.words.close()

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
            if self.is_down:
                return
            version, parameters = self._greeted(client)
            host, _, port = self.postgres.address.rpartition(":")
            server = socket.create_connection((host, int(port)))
            for each in (client, server):
                each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            server.sendall(struct.pack("!II", len(parameters) + 8, version) + parameters)
            threading.Thread(target=_pump, args=(server, client), daemon=True).start()
            session = Session(self.words)
            while True:
                kind, size = struct.unpack("!cI", _exactly(client, 5))
                body = _exactly(client, size - 4)
                if kind == b"P":
                    name, query, rest = body.split(b"\0", 2)
                    body = b"\0".join((name, session.translated(query.decode()).encode(), rest))
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
