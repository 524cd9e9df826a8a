"""The session service: token, cart and place in the live stream of who is here. Written once, read from Redis."""

from __future__ import annotations

import datetime as dt
import json
from typing import Any

from pymongo.collection import Collection

KEY = "session:{id}"
"""As redis_key of config.ini."""


class Sessions:
    """Args: sessions: The collection. cache: A client of Redis; what is in it comes by the stream alone."""

    def __init__(self, sessions: Collection[dict[str, Any]], cache: Any) -> None:
        self._sessions = sessions
        self._cache = cache

    def create(self) -> None:
        """Make what lets the collection forget, too: the cache does by itself."""
        self._sessions.create_index("expiresAt", expireAfterSeconds=0)

    def put(self, token: str, user_id: str, cart: list[str], position_s: int, lives_s: float) -> None:
        """The session as it is now. It ends ``lives_s`` seconds from now."""
        expires = dt.datetime.now(dt.UTC) + dt.timedelta(seconds=lives_s)
        found = {"user": user_id, "cart": cart, "position_s": position_s, "expiresAt": expires}
        self._sessions.replace_one({"_id": token}, found, upsert=True)

    def get(self, token: str) -> dict[str, Any] | None:
        """What the cache has; None once it has ended."""
        found = self._cache.get(KEY.format(id=token))
        return None if found is None else dict(json.loads(found))

    def left_s(self, token: str) -> float:
        """How long the cache keeps it."""
        return float(self._cache.pttl(KEY.format(id=token))) / 1000
