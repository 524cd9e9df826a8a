"""What the targets with a batch API of AWS have in common: all but what a record and a request look like."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cached_property
from typing import Any, ClassVar

from docdb_stream import aws
from docdb_stream.errors import UnrenderableError
from docdb_stream.events import ChangeEvent
from docdb_stream.format import Format
from docdb_stream.formats import format_of
from docdb_stream.formats.facts import FACTS
from docdb_stream.target import Rejection
from docdb_stream.targets._aws.client import Destination, client
from docdb_stream.targets._aws.sender import BatchSender, Limits, Record, Refusal
from docdb_stream.targets._payload import render_all


class BatchTarget(ABC):
    """Sends every event, of every operation, as one record; see ``BatchSender`` for how.

    Attributes:
        name: The target's name.
        service: boto3's name of the service.
        action: The IAM action of a request.

    Args:
        destination: Where the records go.
        payload_format: The format in which an event is written, or its name.
        lanes: Requests side by side.
        region: Where the destination is, when its name tells; else the environment does.
    """

    name: ClassVar[str]
    service: ClassVar[str]
    action: ClassVar[str]

    def __init__(
        self, destination: Destination, payload_format: Format | str, lanes: int, region: str | None = None
    ) -> None:
        aws.load()
        self._destination = destination
        self._format = format_of(payload_format)
        self.formats = (self._format, FACTS)
        self._lanes = lanes
        self._region = region
        self._sender = BatchSender(destination, self.action, self._send, lanes)

    def write(self, events: Sequence[ChangeEvent]) -> Sequence[Rejection]:
        """Send the events. Those that fill one request at most are durable or rejected on return; more are sent by
        other threads, while the next ones are made ready here. Rejections come as soon as they are known.

        Raises:
            TargetError: The service does not take them or those before them, or not in time.
        """
        rendered, rejections = render_all(events, self._format, self.name)
        if not rendered:
            return rejections
        with self._destination.errors(self.action):
            self._client  # noqa: B018 - made here, before there are several threads
        limits = self._limits()
        records: list[Record] = []
        for event, payload in rendered:
            try:
                records.append(self._record(event, payload, event.ordering_key))
            except UnrenderableError as error:  # the key is Extended JSON, whatever the payload is
                rejections.append(Rejection(event, self.name, f"document key: {error}"))
        return [*rejections, *self._sender.send(records, limits)]

    def flush(self) -> Sequence[Rejection]:
        """Wait until every event is durable or rejected. Raises as ``write`` does."""
        return self._sender.flush()

    def close(self) -> None:
        """End the threads and connections; what is not on its way stays here. Safe to call twice."""
        self._sender.close()
        if "_client" in self.__dict__:
            self._client.close()

    @cached_property
    def _client(self) -> Any:
        return client(self.service, self._lanes, self._region)

    @abstractmethod
    def _limits(self) -> Limits:
        """What a request takes now."""

    @abstractmethod
    def _record(self, event: ChangeEvent, payload: bytes, key: str) -> Record:
        """The record of an event, given its bytes and the text by which it is ordered."""

    @abstractmethod
    def _send(self, entries: list[dict[str, Any]]) -> list[Refusal]:
        """Send one request; see ``BatchSender``."""
