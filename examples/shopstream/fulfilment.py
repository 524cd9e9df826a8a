"""Fulfilment: packs each order that the queue tells of, and knows how often it was told."""

from __future__ import annotations

import json
import threading
from collections import Counter
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError


class Fulfilment:
    """Args: sqs: A client of the service. queue: The queue's URL."""

    def __init__(self, sqs: Any, queue: str) -> None:
        self.closed = threading.Event()
        self._sqs, self._queue = sqs, queue
        self._orders: dict[str, str] = {}  # by message: one that is received again is the same one

    @property
    def told(self) -> Counter[str]:
        """How many messages there were, by order."""
        return Counter(self._orders.values())

    def pack(self) -> None:
        """Take messages until it is closed."""
        while not self.closed.is_set():
            self._take()

    def finish(self) -> None:
        """Take what is left, also what is on its way to somebody who did not hear of it."""
        while self._left():
            self._take()

    def _take(self) -> None:
        try:
            found = self._sqs.receive_message(QueueUrl=self._queue, MaxNumberOfMessages=10, WaitTimeSeconds=1)
            for message in found.get("Messages", ()):
                self._orders[message["MessageId"]] = json.loads(message["Body"])["orderId"]
                self._sqs.delete_message(QueueUrl=self._queue, ReceiptHandle=message["ReceiptHandle"])
        except (BotoCoreError, ClientError):  # it is away, or this was deleted by a request that was not answered
            self.closed.wait(0.2)

    def _left(self) -> int:
        names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
        found = self._sqs.get_queue_attributes(QueueUrl=self._queue, AttributeNames=names)["Attributes"]
        return sum(int(found[name]) for name in names)
