"""Live streams: what viewers do, as fast as this machine takes it."""

from __future__ import annotations

import datetime as dt
import json
import random
import time
import uuid
from collections.abc import Callable
from typing import Any

from bson import Binary
from pymongo.collection import Collection
from pymongo.errors import BulkWriteError, ConnectionFailure
from shop import Shop

SESSIONS = 5
KINDS = ("join", "chat", "product_view", "product_view", "leave")
BATCH = 500
KEPT_S = 24 * 3600
_DUPLICATE_KEY = 11000


class Viewers:
    """They do something, each thing once, though the server may go away on the way. So many events are on their way at
    most: what comes out at the other end says how many come in.

    Args:
        events: The collection.
        shop: Whose users they are, and what they look at.
        delivered: Says how many of them have come to where they are kept.
        ahead: So many more there may be.

    Attributes:
        written: How many there are.
    """

    def __init__(
        self, events: Collection[dict[str, Any]], shop: Shop, delivered: Callable[[], int], ahead: int, seed: int
    ) -> None:
        self.written = 0
        self._events = events
        self._users, self._products = [*shop.users], [*shop.products]
        self._touched, self._closed = shop.touched, shop.closed
        self._delivered, self._ahead = delivered, ahead
        self._chance = random.Random(seed)

    def create(self) -> None:
        """Make what lets the collection forget: events are kept where they are read."""
        self._events.create_index("at", expireAfterSeconds=KEPT_S)

    def watch(self) -> None:
        """Write until the shop is closed."""
        while not self._closed.is_set():
            if self.written - self._delivered() > self._ahead:
                self._closed.wait(0.05)
                continue
            batch = [self._event() for _ in range(BATCH)]
            self._write(batch)
            self.written += len(batch)
            self._touched["events"] = time.time()

    def _write(self, batch: list[dict[str, Any]]) -> None:
        """Write until it is certain; an event that was written already says so by its id."""
        while True:
            try:
                self._events.insert_many(batch, ordered=False)
                return
            except BulkWriteError as error:
                others = [each for each in error.details["writeErrors"] if each["code"] != _DUPLICATE_KEY]
                if not others and not error.details["writeConcernErrors"]:
                    return
            except ConnectionFailure:
                pass
            time.sleep(0.2)

    def _event(self) -> dict[str, Any]:
        kind = self._chance.choice(KINDS)
        payload = {"productId": self._chance.choice(self._products), "dwellMs": self._chance.randrange(9000)}
        return {
            "_id": Binary.from_uuid(uuid.UUID(int=self._chance.getrandbits(128), version=4)),
            "sessionId": f"live_{self._chance.randrange(SESSIONS)}",
            "userId": self._chance.choice(self._users),
            "at": dt.datetime.now(dt.UTC),
            "type": kind,
            "payload": json.dumps(payload if kind == "product_view" else {}),
        }
