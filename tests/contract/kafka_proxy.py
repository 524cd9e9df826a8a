"""A way to a Kafka broker on which a test says what the broker answers."""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple, Self

from kafka.protocol.metadata import FindCoordinatorRequest, FindCoordinatorResponse, MetadataResponse
from kafka.protocol.producer import ProduceRequest, ProduceResponse
from kafka.protocol.sasl import (
    SaslAuthenticateRequest,
    SaslAuthenticateResponse,
    SaslHandshakeRequest,
    SaslHandshakeResponse,
)
from kafka.record import MemoryRecords

NO_COORDINATOR, NO_TRANSACTIONS = 15, 53
NOT_ENOUGH_REPLICAS, UNKNOWN_TOPIC, TOO_LARGE, INVALID_RECORD, NOT_ALLOWED, NO_SUCH_USER = 19, 3, 10, 87, 29, 58


class Refusal(NamedTuple):
    """An answer to a produce request; the broker never sees it. ``records`` are to blame, where that is said."""

    error_code: int
    records: tuple[int, ...] = ()


BREAK = Refusal(-1)
"""No answer: the connection breaks."""

Answer = Callable[[list[str]], Refusal | None]


class KafkaProxy:
    """Clients that come this way see one broker, which is the proxy. A context manager.

    Requests go through one at a time for each connection, so that answers keep their order.

    Attributes:
        answer: Is asked for each produce request, with the event ids in it; None lets it through.
        missing: Whether no topic exists.
        quota_bytes_s: What it takes from all clients together, in bytes of produce requests a second. As a broker, it
            takes what it gets, says at once for how long it will take no more, and does not read for that long.
        codecs: How the batches were compressed: 0 none, 1 gzip, 2 snappy, 3 lz4, 4 zstd.
        coordinator_error: What it answers to those who ask for the coordinator of a transaction; 0: who it is.
        users: The passwords of those who may sign in, by SASL PLAIN.
        signed_in: Who did.
    """

    def __init__(self, upstream: int, tls: ssl.SSLContext | None = None) -> None:
        self.answer: Answer | None = None
        self.missing = False
        self.coordinator_error = 0
        self.quota_bytes_s = float("inf")
        self.codecs: set[int] = set()
        self._reads_again_s = 0.0
        self.users: dict[str, str] = {}
        self.signed_in: list[str] = []
        self._upstream = upstream
        self._tls = tls
        self._over = False
        self._open: set[socket.socket] = set()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.bootstrap_servers = f"127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        for each in (self._listener, *self._open):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self._upstream)) as server:
            self._open.add(client)
            for each in (client, server):
                each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self._tls.wrap_socket(client, server_side=True) if self._tls else client as way:
                while request := _frame(way):
                    answer = self._answer(request, server)
                    if answer is None:
                        break
                    way.sendall(answer)
                    time.sleep(max(0.0, self._reads_again_s - time.monotonic()))
            self._open.discard(client)

    def _answer(self, request: bytes, server: socket.socket) -> bytes | None:
        key, version, correlation_id = struct.unpack_from(">hhi", request)
        if key == ProduceRequest.API_KEY:
            self.codecs |= _codecs(ProduceRequest.decode(request, version=version, header=True))
        if key == ProduceRequest.API_KEY and self.answer is not None:
            decoded = ProduceRequest.decode(request, version=version, header=True)
            refusal = self.answer(_event_ids(decoded))
            if refusal is not None:
                return None if refusal is BREAK else _encoded(_refused(decoded, refusal, version), correlation_id)
        if key == FindCoordinatorRequest.API_KEY and self.coordinator_error:
            return _encoded(_no_coordinator(version, self.coordinator_error), correlation_id)
        if key == SaslHandshakeRequest.API_KEY:
            hello = SaslHandshakeResponse[version](error_code=0, mechanisms=["PLAIN"])
            return _encoded(hello, correlation_id)
        if key == SaslAuthenticateRequest.API_KEY:
            decoded = SaslAuthenticateRequest.decode(request, version=version, header=True)
            _, user, password = bytes(decoded.auth_bytes).decode().split("\0")
            self.signed_in.append(user)
            error_code = 0 if self.users.get(user) == password else NO_SUCH_USER
            done = SaslAuthenticateResponse[version](
                error_code=error_code, error_message=None, auth_bytes=b"", session_lifetime_ms=0
            )
            return _encoded(done, correlation_id)
        server.sendall(struct.pack(">i", len(request)) + request)
        answer = _frame(server)
        if key == ProduceResponse.API_KEY and answer:
            produced = ProduceResponse.decode(answer, version=version, header=True)
            # From version 10 on (KIP-951) who asks a broker that does not lead is told where to go, past the proxy.
            for leader in produced.node_endpoints or ():
                leader.port = self.port
            if self.quota_bytes_s < float("inf"):
                now_s = time.monotonic()
                self._reads_again_s = max(self._reads_again_s, now_s) + len(request) / self.quota_bytes_s
                produced.throttle_time_ms = int(1000 * (self._reads_again_s - now_s))
            return _encoded(produced, correlation_id)
        if key == FindCoordinatorResponse.API_KEY:
            found = FindCoordinatorResponse.decode(answer, version=version, header=True)
            for coordinator in found.coordinators or [found]:
                coordinator.port = self.port
            return _encoded(found, correlation_id)
        if key == MetadataResponse.API_KEY:
            metadata = MetadataResponse.decode(answer, version=version, header=True)
            for broker in metadata.brokers:
                broker.port = self.port
            for topic in metadata.topics if self.missing else ():
                topic.error_code, topic.partitions = UNKNOWN_TOPIC, []
            return _encoded(metadata, correlation_id)
        return struct.pack(">i", len(answer)) + answer


def _no_coordinator(version: int, error_code: int) -> Any:
    answer: dict[str, Any] = {"error_code": error_code, "node_id": -1, "host": "", "port": -1}
    if version < 4:
        return FindCoordinatorResponse[version](throttle_time_ms=0, error_message=None, **answer)
    coordinator = FindCoordinatorResponse.Coordinator(key="", error_message=None, **answer)
    return FindCoordinatorResponse[version](throttle_time_ms=0, coordinators=[coordinator])


def _event_ids(request: Any) -> list[str]:
    return [
        dict(record.headers)["event_id"].decode()
        for topic in request.topic_data
        for partition in topic.partition_data
        for record in MemoryRecords(bytes(partition.records)).next_batch()
    ]


def _codecs(request: Any) -> set[int]:
    """The last three bits of each batch's attributes, which begin at its 22nd byte (Kafka protocol guide)."""
    return {bytes(part.records)[22] & 7 for topic in request.topic_data for part in topic.partition_data}


def _refused(request: Any, refusal: Refusal, version: int) -> Any:
    topic_response = ProduceResponse.TopicProduceResponse
    response = topic_response.PartitionProduceResponse
    records = [response.BatchIndexAndErrorMessage(batch_index=index) for index in refusal.records]
    responses = [
        topic_response(
            name=topic.name,
            partition_responses=[
                response(index=partition.index, error_code=refusal.error_code, base_offset=-1, record_errors=records)
                for partition in topic.partition_data
            ],
        )
        for topic in request.topic_data
    ]
    return ProduceResponse[version](responses=responses, throttle_time_ms=0)


def _encoded(response: Any, correlation_id: int) -> bytes:
    response.with_header(correlation_id=correlation_id)
    return bytes(response.encode(header=True, framed=True))


def _frame(connection: socket.socket) -> bytes:
    """The next message; empty at the end."""
    head = _exactly(connection, 4)
    return _exactly(connection, struct.unpack(">i", head)[0]) if head else b""


def _exactly(connection: socket.socket, count: int) -> bytes:
    data = bytearray()
    while len(data) < count:
        more = connection.recv(count - len(data))
        if not more:
            return b""
        data += more
    return bytes(data)
