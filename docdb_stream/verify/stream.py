"""How far the stream has come while it is waited for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from bson import Timestamp

from docdb_stream.checkpoint import CheckpointStore
from docdb_stream.context import current_deadline

LOOK_EVERY_S: Final = 0.25
LOOK_LEAST_OFTEN_S: Final = 2.0
WAIT_S: Final = 300.0
"""How long a stream is waited for that does not come on: a Lambda is started every one or two minutes."""

MARGIN_S: Final = 5.0
"""Of the time that there is, what is left for telling what was found."""


class StreamPosition:
    """The saved position of a stream.

    Args:
        store: Where it is saved.
        stream: The stream's name.
        wait_s: How long it is waited for; WAIT_S by default.
        pause: Waits so many seconds.

    Attributes:
        is_behind: Whether it was waited for in vain.
    """

    def __init__(
        self,
        store: CheckpointStore,
        stream: str,
        *,
        wait_s: float | None = None,
        pause: Callable[[float], None] | None = None,
    ) -> None:
        self.is_behind = False
        self._store = store
        self._stream = stream
        self._wait_s = WAIT_S if wait_s is None else wait_s
        self._pause = pause

    def saved(self) -> Timestamp | None:
        """A time up to which all is durable in the targets; None: not known.

        Raises:
            StateStoreError: As a run.
        """
        found = self._store.load(self._stream)
        reached = found.position.operation_time if found is not None and found.position is not None else None
        # Several events can have one time: of its own not all need be there.
        return None if reached is None else _before(reached)

    def is_past(self, time: Timestamp) -> bool:
        """Wait until everything up to ``time`` is durable in the targets; False: it is not, and time is over.

        Raises:
            StateStoreError: As a run.
        """
        limit = current_deadline()
        left_s = limit.remaining_s - min(MARGIN_S, 0.2 * limit.remaining_s)
        until_s = limit.clock() + min(0.0 if self.is_behind else self._wait_s, left_s)
        every_s = LOOK_EVERY_S
        while True:
            saved = self.saved()
            if saved is not None and saved >= time:
                self.is_behind = False
                return True
            if limit.clock() >= until_s or limit.stopping:
                self.is_behind = True  # whoever waits next need not wait as long once more
                return False
            (self._pause or limit.pause)(min(every_s, max(0.0, until_s - limit.clock())))
            every_s = min(LOOK_LEAST_OFTEN_S, every_s * 1.5)


def _before(time: Timestamp) -> Timestamp:
    return Timestamp(time.time, time.inc - 1) if time.inc else Timestamp(max(0, time.time - 1), 2**32 - 1)
