"""The contract of a way to Redshift: transactions, one after the other, and statements within them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol, TypeVar

from docdb_stream.context import current_deadline
from docdb_stream.errors import TargetError
from docdb_stream.retry import Backoff

T = TypeVar("T")

NAME = "redshift"
"""Who is told of in errors, whatever the way."""


class MetAnotherError(TargetError):
    """A transaction met another one, and is gone: the same may succeed at once."""


class Connection(Protocol):
    """Used by one thread. Constructing connects to nothing."""

    def transaction(self) -> AbstractContextManager[None]:
        """What is done within is done wholly or not at all. A statement runs no longer than the load has time.

        Raises:
            MetAnotherError: It met another transaction.
            TargetError: Redshift cannot be reached, or refuses; nothing of it is done. Where it was lost while it was
                committed, it may be: what is loaded is asked for by the next load.
        """
        ...

    def run(self, statement: str, *values: object) -> None:
        """One statement within the transaction.

        Args:
            statement: With ``%s`` for each of the values.
            values: Texts and whole numbers.
        """
        ...

    def rows(self, statement: str, *values: object) -> Sequence[Sequence[Any]]:
        """The same, and all that it finds."""
        ...

    def close(self) -> None:
        """Let go of it."""
        ...


def statement_timeout() -> str:
    """The statement by which Redshift itself ends what takes longer than the load has time."""
    remaining_s = current_deadline().remaining_s
    limit_ms = int(1000 * max(0.1, remaining_s)) if remaining_s < 1e6 else 0
    return f"SET statement_timeout TO {limit_ms}"


def in_turn(work: Callable[[], T]) -> T:
    """Do what is a transaction, again where that met another one."""
    backoff = Backoff()
    while True:
        try:
            return work()
        except MetAnotherError:
            if not backoff.wait():
                raise
