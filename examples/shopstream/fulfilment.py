"""Fulfilment: packs each order that the queue tells of, and counts how often it was told."""

from __future__ import annotations

import json
import threading
from collections import Counter
from typing import Any

from botocore.exceptions import BotoCoreError


class Fulfilment(threading.Thread):
    """Takes messages until it is stopped.

    Attributes:
        told: How many messages there were, by order.
    """

    def __init__(self, sqs: Any, queue: str) -> None:
        super().__init__(name="fulfilment", daemon=True)
        self.told: Counter[str] = Counter()
        self._sqs, self._queue = sqs, queue
        self._stopped = threading.Event()

    def run(self) -> None:
        while not self._stopped.is_set():
            self.take()

    def take(self) -> int:
        """Pack what there is to pack, ten orders at most. Returns how many."""
        try:
            found = self._sqs.receive_message(QueueUrl=self._queue, MaxNumberOfMessages=10, WaitTimeSeconds=1)
            messages = found.get("Messages", [])
            for message in messages:
                self._sqs.delete_message(QueueUrl=self._queue, ReceiptHandle=message["ReceiptHandle"])
                self.told[json.loads(message["Body"])["orderId"]] += 1
        except BotoCoreError:  # the queue is away; what was taken and not deleted comes again
            return 0
        return len(messages)

    def finish(self) -> None:
        """Stop, and pack what is left."""
        self._stopped.set()
        self.join()
        while self.take():
            pass
