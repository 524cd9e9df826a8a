"""A document that a graph does not take, however often it is sent."""

from __future__ import annotations


class RefusedError(Exception):
    """The server refuses a document. The message is the reason that dead letters have.

    Args:
        code: The server's code for it; empty where it said none.
        what: What it refuses, without values.
    """

    def __init__(self, code: str, what: str = "the server does not take a value of it") -> None:
        super().__init__(f"refused: {what}" + (f" ({code})" if code else ""))
