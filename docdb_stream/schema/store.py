"""Where schema ledgers are kept: the contract."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from docdb_stream.position import Namespace
from docdb_stream.schema.ledger import Ledger, Moment


@dataclass(frozen=True, slots=True)
class News:
    """What a collection's documents had that its ledger did not know, and for which the collection has stopped.

    Attributes:
        added: Pairs of a path and a type.
        event: The event that had them.
        accepted_at: When an operator accepted them; None as long as nobody has.
    """

    added: tuple[tuple[str, str], ...]
    event: Moment
    accepted_at: dt.datetime | None = None


@dataclass(frozen=True, slots=True)
class KeptLedger:
    """A ledger as it is kept.

    Attributes:
        ledger: What is known.
        news: What is not, where the collection has stopped for it.
    """

    ledger: Ledger
    news: News | None = None


class SchemaStore(Protocol):
    """Keeps the ledgers of streams. Each method raises StateStoreError when the store cannot be reached or refuses."""

    def load(self, stream: str, namespace: Namespace) -> KeptLedger | None:
        """A collection's ledger; None where there is none."""
        ...

    def all(self, stream: str) -> Sequence[KeptLedger]:
        """The ledgers of a stream, by their collections' names."""
        ...

    def save(self, stream: str, ledger: Ledger, news: News | None, epoch: int | None) -> None:
        """Keep a ledger and its news, all of it at once. What is accepted meanwhile stays so.

        Raises:
            CheckpointConflictError: A run with a higher epoch has saved it.
        """
        ...

    def accept(self, stream: str, namespace: Namespace, at: dt.datetime) -> News | None:
        """Note that the collection's news are accepted; the next run knows them. Returns them; None where there are
        none that are not accepted."""
        ...
