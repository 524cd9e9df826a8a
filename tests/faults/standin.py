"""A stand-in for Amazon DocumentDB: a proxy before a real mongod that has DocumentDB's manners.

It takes away what DocumentDB does not have and answers as it does, as far as its documentation and the issue threads of
its users tell. What it owns is those manners and faults on demand; the protocol is ``wire``'s.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections import deque
from collections.abc import Sequence
from typing import Any, Literal, Self

from bson import Timestamp
from faults import wire
from faults.wire import Document, Message

from docdb_stream.local import Mongod

CAPPED_POSITION_LOST = 136
NOT_ENABLED = "modifyChangeStreams has not been run for this collection or database, or for any in the cluster"
"""DocumentDB says this with code 136 too, which otherwise means a lost position."""

_OPTIONS = {"fullDocument", "resumeAfter", "startAtOperationTime", "allChangesForCluster"}
_STAGES = {"$match", "$project", "$redact", "$addFields", "$replaceRoot"}
_NOT_STAGES = {"$bucketAuto", "$sampleRate"}
_NOT_OPTIONS = {"noCursorTimeout", "min", "max", "returnKey"}
_NOT_COMMANDS = {"splitVector", "autoSplitVector"}
_NOT_READ_CONCERNS = {"afterClusterTime", "atClusterTime"}
_WIRE_VERSION = 13  # MongoDB 5.0's, which DocumentDB 5.0 speaks


class Refused(Exception):
    """A request that DocumentDB refuses; its answer."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


class DocumentDB:
    """One cluster endpoint. A context manager; its threads are daemons.

    Args:
        mongod: What keeps the data: the one member of a replica set.
        post_batch_tokens: Replies have a ``postBatchResumeToken``, as from 5.0 patch 3.0.11800 on.
        enabled: Change streams are enabled for the whole cluster from the start.
        not_enabled: How a stream looks where they are not enabled: an error, or nothing ever comes.
        empty_batches: After each reply with events the next getMore is answered at once with nothing, whatever is
            pending.
        first_batch: Events in the reply to ``aggregate``, at most.
        elastic: An elastic cluster, which has no change streams.

    Attributes:
        lost_before: Positions before this time are no longer in the change log.
        commands: The commands of clients so far, in order.
        slow_s: How long the answer to a command takes to arrive, by its name.
    """

    def __init__(
        self,
        mongod: Mongod,
        *,
        post_batch_tokens: bool = False,
        enabled: bool = True,
        not_enabled: Literal["silent", "error"] = "silent",
        empty_batches: bool = False,
        first_batch: int = 101,
        elastic: bool = False,
    ) -> None:
        self._mongod = mongod
        self._post_batch_tokens = post_batch_tokens
        self._enabled = {("", "")} if enabled else set()
        self._not_enabled = not_enabled
        self._empty_batches = empty_batches
        self._first_batch = first_batch
        self._elastic = elastic
        self.lost_before: Timestamp | None = None
        self.commands: deque[str] = deque(maxlen=10_000)
        self.slow_s: dict[str, float] = {}
        self._streams: dict[int, tuple[str, str]] = {}  # cursor id -> what it watches
        self._had_events: set[int] = set()  # cursors whose next reply is to be empty
        self._failures: deque[tuple[str, int, str]] = deque()
        self._operation_time: Timestamp | None = None
        self._connections: set[socket.socket] = set()
        self._running = threading.Event()
        self._running.set()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"

    @property
    def uri(self) -> str:
        """The connection string, as the console of DocumentDB gives it, without TLS."""
        return f"mongodb://{self.address}/?replicaSet=rs0&readPreference=secondaryPreferred&retryWrites=false"

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._running.set()
        with contextlib.suppress(OSError):  # wakes the thread that accepts
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.drop_connections()

    # Faults on demand

    def drop_connections(self) -> None:
        """Break every connection there is, as a failover does."""
        for connection in list(self._connections):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def hang(self) -> None:
        """Answer nothing any more."""
        self._running.clear()

    def go_on(self) -> None:
        """Answer again, also what was asked meanwhile."""
        self._running.set()

    def fail_next(self, command: str, code: int, message: str = "injected", times: int = 1) -> None:
        """Answer the next so many of a command with an error. Without labels, as DocumentDB does."""
        self._failures.extend([(command, code, message)] * times)

    @property
    def has_failures_left(self) -> bool:
        """Whether something that ``fail_next`` asked for has not happened yet."""
        return bool(self._failures)

    # Connections

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with contextlib.suppress(OSError), client, socket.create_connection(("127.0.0.1", self._mongod.port)) as server:
            pair = {client, server}
            self._connections |= pair
            try:
                while request := wire.read(client):
                    self._running.wait()
                    if (reply := self._answer(request, server)) is not None:
                        time.sleep(self.slow_s.get(request.command, 0.0))
                        wire.write(client, reply)
            finally:
                self._connections -= pair

    def _answer(self, request: Message, server: socket.socket) -> Message | None:
        self.commands.append(request.command)
        try:
            self._inject(request)
            own = self._own_answer(request)
            if own is not None:
                return request.reply({**own, "ok": 1.0})
            watched = self._prepare(request)
        except Refused as refused:
            return request.reply({"ok": 0.0, "errmsg": str(refused), "code": refused.code})
        wire.write(server, request)
        if not request.wants_reply:
            return None
        reply = wire.read(server)
        if reply is None:
            raise OSError("the server hung up")
        self._dress(reply.body, watched)
        return reply

    # Requests

    def _inject(self, request: Message) -> None:
        if self._failures and self._failures[0][0] == request.command:
            _, code, message = self._failures.popleft()
            raise Refused(code, message)

    def _own_answer(self, request: Message) -> Document | None:
        """The answer to what mongod knows nothing of."""
        body = request.body
        if request.command == "modifyChangeStreams":
            rule = (body["database"], body["collection"])
            (self._enabled.add if body["enable"] else self._enabled.discard)(rule)
            return {}
        pipeline = body.get("pipeline") or [{}]
        if request.command == "aggregate" and "$listChangeStreams" in pipeline[0]:
            found = [{"database": db, "collection": coll} for db, coll in sorted(self._enabled)]
            return {"cursor": {"id": 0, "ns": "admin.$cmd", "firstBatch": found}}
        if request.command == "getMore" and body["getMore"] in self._had_events:
            self._had_events.discard(body["getMore"])
            cursor = {"id": body["getMore"], "ns": f"{body['$db']}.{body['collection']}", "nextBatch": []}
            return {"cursor": cursor, "operationTime": self._operation_time}
        return None

    def _prepare(self, request: Message) -> tuple[str, str] | None:
        """Check a request and put it into mongod's terms; returns what a change stream watches."""
        body = request.body
        if "txnNumber" in body and body.get("autocommit") is not False:
            raise Refused(301, "Retryable writes are not supported")
        updates = [body, *request.documents("updates")] if request.command in ("update", "findAndModify") else []
        if any(isinstance(update.get(name), list) for update in updates for name in ("u", "update")):
            raise Refused(303, "Feature not supported: update with an aggregation pipeline")
        if request.command == "getMore":
            return self._streams.get(body["getMore"])
        pipeline = body.get("pipeline")
        self._refuse_what_is_not_there(request.command, body, pipeline or ())
        if request.command != "aggregate" or not pipeline or "$changeStream" not in pipeline[0]:
            return None
        watched = (body["$db"] if body["$db"] != "admin" else "", body["aggregate"] if body["aggregate"] != 1 else "")
        self._prepare_stream(pipeline, watched)
        body["cursor"]["batchSize"] = min(self._first_batch, body["cursor"].get("batchSize", self._first_batch))
        return watched

    def _refuse_what_is_not_there(self, command: str, body: Document, pipeline: Sequence[Document]) -> None:
        """DocumentDB has no reads at a cluster time, no cursors without end, and not every stage."""
        if command in _NOT_COMMANDS:
            raise Refused(303, f"Feature not supported: {command}")
        concern = body.get("readConcern") or {}
        if _NOT_READ_CONCERNS & {*concern} or concern.get("level") == "snapshot":
            raise Refused(303, "Feature not supported: read concern with a cluster time")
        if command == "find" and (refused := _NOT_OPTIONS & {name for name, value in body.items() if value}):
            raise Refused(303, f"Feature not supported: {', '.join(sorted(refused))}")
        for stage in pipeline:
            if refused := _NOT_STAGES & {*stage}:
                raise Refused(304, f"Aggregation stage not supported: '{refused.pop()}'")

    def _prepare_stream(self, pipeline: list[Document], watched: tuple[str, str]) -> None:
        if self._elastic:
            raise Refused(304, "Aggregation stage not supported: '$changeStream'")
        for stage in pipeline[1:]:
            if not _STAGES.issuperset(stage):
                raise Refused(304, f"Aggregation stage not supported: '{next(iter(stage))}'")
        options = pipeline[0]["$changeStream"]
        for name, value in options.items():
            if name not in _OPTIONS:
                raise Refused(40415, f"BSON field '$changeStream.{name}' is an unknown field.")
            if value is None:
                raise Refused(14, f"BSON field '$changeStream.{name}' is the wrong type 'null'")
        if options.get("fullDocument", "default") not in ("default", "updateLookup"):
            raise Refused(9, f"Unrecognized value for the 'fullDocument' option: {options['fullDocument']}")
        if self._not_enabled == "error" and not self._is_enabled(watched):
            raise Refused(CAPPED_POSITION_LOST, NOT_ENABLED)
        time = options.get("startAtOperationTime")
        if "resumeAfter" in options:
            if time is not None:
                raise Refused(72, "Only one type of resume option is allowed")
            options["resumeAfter"] = {"_data": mongodb_token(options["resumeAfter"])}
            time = _time(options["resumeAfter"])
        if time is not None and self.lost_before is not None and time < self.lost_before:
            raise Refused(
                CAPPED_POSITION_LOST, "CappedPositionLost: the position is no longer in the change stream log"
            )

    def _is_enabled(self, namespace: tuple[str, str]) -> bool:
        return any(rule in self._enabled for rule in (("", ""), (namespace[0], ""), namespace))

    # Replies

    def _dress(self, body: Document, watched: tuple[str, str] | None) -> None:
        """Make a reply of mongod look like one of DocumentDB."""
        body.pop("errorLabels", None)
        body.pop("$clusterTime", None)
        body.pop("topologyVersion", None)  # without it, clients do not ask for hellos to be pushed
        if "setName" in body:
            body |= {"hosts": [self.address], "me": self.address, "maxWireVersion": _WIRE_VERSION}
            if "primary" in body:
                body["primary"] = self.address
        if "operationTime" in body:
            self._operation_time = body["operationTime"]
        cursor = body.get("cursor")
        if watched is None or cursor is None:
            return
        self._streams[cursor["id"]] = watched
        token = cursor.pop("postBatchResumeToken", None)
        if self._post_batch_tokens and token is not None:
            cursor["postBatchResumeToken"] = documentdb_token(token)
        batch = "firstBatch" if "firstBatch" in cursor else "nextBatch"
        if self._empty_batches and cursor[batch]:
            self._had_events.add(cursor["id"])
        cursor[batch] = [
            {**event, "_id": documentdb_token(event["_id"])} for event in cursor[batch] if self._has_event(event)
        ]

    def _has_event(self, event: Document) -> bool:
        namespace = event.get("ns") or {}
        return "db" not in namespace or self._is_enabled((namespace["db"], namespace.get("coll", "")))


def documentdb_token(token: Document) -> Document:
    """MongoDB's token the way DocumentDB's look: they begin with 01, and the cluster time."""
    return {"_data": "01" + token["_data"][2:]}


def mongodb_token(token: Any) -> str:
    """The way back. Refuses what does not look like one of DocumentDB's."""
    data = token.get("_data", "") if isinstance(token, dict) else ""
    if not isinstance(data, str) or not data.startswith("01"):
        raise Refused(9, "Invalid resume token")
    return "82" + data[2:]


def _time(token: Document) -> Timestamp:
    return Timestamp(int(token["_data"][2:10], 16), int(token["_data"][10:18], 16))
