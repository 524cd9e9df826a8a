"""A thread that does not keep the process, and does not fail in silence."""

from __future__ import annotations

import threading
from collections.abc import Callable


class Worker(threading.Thread):
    """Args: work: What it does, to the end.

    Attributes:
        error: What ended it before.
    """

    def __init__(self, name: str, work: Callable[[], object]) -> None:
        super().__init__(name=name, daemon=True)
        self.error: Exception | None = None
        self._work = work

    def run(self) -> None:
        try:
            self._work()
        except Exception as error:  # noqa: BLE001 - whatever it is, it is told when all is counted
            self.error = error
