"""Bulk requests to OpenSearch, several side by side, and what becomes of each of their operations.

Owns the lanes. What an operation says is ``opensearch``'s, the connection is ``client``'s.
"""

from __future__ import annotations

import re
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import orjson

from docdb_stream.context import in_background
from docdb_stream.errors import TargetError
from docdb_stream.events import ChangeEvent
from docdb_stream.retry import Backoff
from docdb_stream.source import BATCH_BYTES
from docdb_stream.target import Rejection
from docdb_stream.targets._opensearch.client import OpenSearchClient, ResponseError

_PATH = "/_bulk?filter_path=errors,items.*.status,items.*.error"
_REQUEST_BYTES = 1024 * 1024
"""What a request is filled up to when much waits: two thousand small documents, and something left for other lanes."""
_WAITING_BYTES = 4 * BATCH_BYTES
"""Bytes of requests that may be under way or wait for a lane while the next ones are made ready."""

_INDEX_PROBLEMS = frozenset(
    {"cluster_block_exception", "index_closed_exception", "invalid_index_name_exception", "validation_exception"}
)
"""Errors with status 400 that say nothing about the document; validation_exception: no more shards may be opened."""


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation of a bulk request.

    Attributes:
        event: What it is made of.
        index: Where its document is.
        document_id: Which one.
        body: Its lines.
    """

    event: ChangeEvent
    index: str
    document_id: str
    body: bytes


def operation_of(event: ChangeEvent, index: str, id_text: str, version: int, source: bytes | None = None) -> Operation:
    """Index ``source``, or delete the document without one."""
    # external_gte, not external: the events of one transaction have one cluster time.
    line = b'{"%b":{"_index":%b,"_id":%b,"version":%d,"version_type":"external_gte"}}\n' % (
        b"delete" if source is None else b"index",
        orjson.dumps(index),
        orjson.dumps(id_text),
        version,
    )
    return Operation(event, index, id_text, line if source is None else b"%b%b\n" % (line, source))


class BulkSender:
    """Sends operations in bulk requests, several side by side.

    The operations of one document keep their order: while a lane has some under way, later ones wait for that lane.

    Args:
        client: Where to.
        target: The target's name, for errors and rejections.
        lanes: Requests side by side, at most.
        request_bytes: Largest request.
    """

    def __init__(self, client: OpenSearchClient, target: str, lanes: int, request_bytes: int) -> None:
        self._client = client
        self._target = target
        self._request_bytes = request_bytes
        self._free_lanes = lanes
        # What is in no lane; and of what is, each document's lane.
        self._waiting: deque[Operation] = deque()
        self._lane_of: dict[str, _Lane] = {}
        self._left = 0
        self._left_bytes = 0
        self._rejections: list[Rejection] = []
        self._error: BaseException | None = None
        self._changed = threading.Condition()

    def send(self, operations: Sequence[Operation]) -> list[Rejection]:
        """Queue operations; returns once little enough is left to do to make the next ones ready.

        Returns:
            What was rejected since the last call.

        Raises:
            TargetError: A lane has failed. Of all that was given since the last ``settle``, any may have arrived.
        """
        fitting = [operation for operation in operations if len(operation.body) <= self._request_bytes]
        size_bytes = _size_bytes(fitting)
        with self._changed:
            if len(fitting) < len(operations):
                self._rejections += [self._too_large(one) for one in operations if len(one.body) > self._request_bytes]
            self._waiting += fitting
            self._left += len(fitting)
            self._left_bytes += size_bytes
            for _ in range(min(self._free_lanes, -(-size_bytes // _REQUEST_BYTES)) if self._error is None else 0):
                self._free_lanes -= 1
                in_background(partial(self._run, _Lane()), self._target)
            self._changed.wait_for(lambda: self._error or self._left_bytes <= _WAITING_BYTES)
            return self._result()

    def settle(self) -> list[Rejection]:
        """Return when everything given is durable or rejected, with the rejections. Raises as ``send`` does."""
        with self._changed:
            self._changed.wait_for(lambda: self._error or not self._left)
            return self._result()

    def close(self) -> None:
        """End the lanes: they send nothing more, and who waits for them gets a TargetError. It is of no further use."""
        with self._changed:
            self._error = self._error or TargetError(self._target, "closed while it was sending")
            self._changed.notify_all()

    def _result(self) -> list[Rejection]:
        if self._error is not None:
            raise self._error
        rejections, self._rejections = self._rejections, []
        return rejections

    def _run(self, lane: _Lane) -> None:
        """Send until nothing waits."""
        try:
            sent: Sequence[Operation] = ()
            rejections: list[Rejection] = []
            while sent := self._next(lane, sent, rejections):
                rejections = self._bulk(sent)
        except BaseException as error:
            with self._changed:
                self._error = self._error or error
                self._changed.notify_all()
            if not isinstance(error, Exception):
                raise

    def _next(self, lane: _Lane, sent: Sequence[Operation], rejections: Sequence[Rejection]) -> list[Operation]:
        """Note what became of the lane's last request, and take its next one; empty when the lane has ended."""
        with self._changed:
            self._rejections += rejections
            self._left -= len(sent)
            self._left_bytes -= _size_bytes(sent)
            for operation in sent:
                self._lane_of.pop(operation.document_id, None)
            request: list[Operation] = []
            if self._error is None:
                free_bytes = min(self._request_bytes, _REQUEST_BYTES)
                free_bytes = self._take(lane.waiting, lane, request, free_bytes)
                if lane.waiting:
                    self._lane_of.update((operation.document_id, lane) for operation in lane.waiting)
                else:
                    self._take(self._waiting, lane, request, free_bytes)
            if not request:
                self._free_lanes += 1
            self._changed.notify_all()
            return request

    def _take(self, queue: deque[Operation], lane: _Lane, request: list[Operation], free_bytes: int) -> int:
        """Move operations into the lane's request, or behind those of their document in another; returns what is free.

        A request has one operation at least, whatever its size.
        """
        lane_of = self._lane_of
        while queue and (not request or len(queue[0].body) <= free_bytes):
            operation = queue.popleft()
            owner = lane_of.setdefault(operation.document_id, lane)
            if owner is lane:
                request.append(operation)
                free_bytes -= len(operation.body)
            else:
                owner.waiting.append(operation)
        return free_bytes

    def _bulk(self, operations: Sequence[Operation]) -> list[Rejection]:
        """Send one request, and again what OpenSearch is too busy for, until every operation has its verdict."""
        rejections: list[Rejection] = []
        backoff = Backoff(is_over=lambda: self._error is not None)
        while operations:
            body = b"".join([operation.body for operation in operations])
            try:
                answer = self._client.request("POST", _PATH, body, backoff)
            except ResponseError as error:
                if error.status != 413:
                    raise self._client.refused(error.status, error.type) from error
                if len(operations) == 1:
                    return [*rejections, self._too_large(operations[0])]
                half = len(operations) // 2
                return [*rejections, *self._bulk(operations[:half]), *self._bulk(operations[half:])]
            if not answer["errors"]:
                break
            rejected, again = self._judge(operations, answer["items"])
            rejections += rejected
            if len(again) < len(operations):
                backoff.progress()
            if again and not backoff.wait():
                raise self._client.too_busy()
            operations = again
        return rejections

    def _judge(
        self, operations: Sequence[Operation], results: Sequence[Mapping[str, Any]]
    ) -> tuple[list[Rejection], list[Operation]]:
        """What is rejected, and what is to be sent again: all that OpenSearch was too busy for, and what follows it."""
        rejections: list[Rejection] = []
        again: list[Operation] = []
        waiting: set[tuple[str, str]] = set()
        for operation, result in zip(operations, results, strict=True):
            [(kind, verdict)] = result.items()
            status, error = verdict["status"], verdict.get("error")
            document = (operation.index, operation.document_id)
            if document in waiting or status == 429 or status >= 500:
                waiting.add(document)
                again.append(operation)
            elif error is None or status == 409 or (status == 404 and kind == "delete"):
                continue
            elif status == 400 and error.get("type") not in _INDEX_PROBLEMS:
                rejections.append(Rejection(operation.event, self._target, _reason(error)))
            else:
                raise self._client.refused(status, str(error.get("type")), operation.index)
        return rejections, again

    def _too_large(self, operation: Operation) -> Rejection:
        size = len(operation.body)
        reason = f"{size} bytes, a request takes less; OPENSEARCH_REQUEST_BYTES is {self._request_bytes}"
        return Rejection(operation.event, self._target, reason)


class _Lane:
    """One request after the other.

    Attributes:
        waiting: Operations on documents of the request that is under way.
    """

    __slots__ = ("waiting",)

    def __init__(self) -> None:
        self.waiting: deque[Operation] = deque()


def _reason(error: Mapping[str, Any]) -> str:
    """OpenSearch's verdict on a document, without the values of the document that it quotes."""
    text = str(error.get("reason", "")).partition(" Preview of field's value")[0]
    # To the last quote, not to the next: a quoted value can have quotes of its own.
    text = re.sub(r"""(['"]).*\1""", "'...'", text, flags=re.DOTALL)
    causes = []
    cause = error.get("caused_by")
    while cause:
        causes.append(str(cause.get("type")))
        cause = cause.get("caused_by")
    return " ".join(f"{error.get('type')}: {text} {'; '.join(causes)}".split())


def _size_bytes(operations: Sequence[Operation]) -> int:
    return sum([len(operation.body) for operation in operations])
