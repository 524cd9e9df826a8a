"""What the producers of Kafka's client libraries have in common: what they are asked to do, and their measures.

How a library does it is its own file's: ``python``, ``confluent``. Where the brokers are is ``brokers``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from docdb_stream.events import ChangeEvent
from docdb_stream.target import Rejection
from docdb_stream.targets._kafka.receipt import Receipt

CLIENT_ID = "docdb-stream"

IN_FLIGHT_BYTES = 16 * 1024 * 1024
"""Unconfirmed bytes at most, half of what Kafka's Java producer holds (``buffer.memory``): 27,000 usual events. And as
much is in one transaction, about: what has to be sent again without it is held until it is committed."""
REQUEST_S = 10.0
"""How long one request may stay unanswered before it is sent again: several fit into the patience."""
CLOSE_S = 2.0
"""How long closing waits: for the brokers to abort a transaction, and for a producer's threads."""
FEW_RECORDS = 100
"""A ``send`` of fewer does not wait for its batches to be filled: had there been more, there would be more in it."""
SLICE_S = 0.1
"""How long is waited before it is looked for progress, and asked for the lease, again."""
TRANSACTION_S = (900, 300, 60, 10, 1)
"""How long a transaction may last, in seconds: the first of these that the brokers allow. 15 minutes is what Kafka
allows unless ``transaction.max.timeout.ms`` says otherwise, and the longest that a Lambda runs. What a killed run left
open is ended by the next one at once; only where none comes, this is how long readers of what is committed wait."""


class Record(NamedTuple):
    """What is sent to Kafka for an event: one record, and perhaps a tombstone, which has no value, right after it."""

    event: ChangeEvent
    topic: str
    key: bytes
    value: bytes | None
    headers: dict[str, bytes]

    @property
    def size_bytes(self) -> int:
        """Of key and value."""
        return len(self.key) + len(self.value or b"")


class NoTransactionsError(Exception):
    """The brokers have no transactions for this client: they are too old, or this user may not use this id."""


class NoReceiptsError(Exception):
    """The brokers keep no offsets for this client's transactions: this user may not."""


class ReceiptsAwayError(Exception):
    """The brokers cannot tell now what they keep, as while the group's coordinator starts or moves: it passes."""


class RefusedError(Exception):
    """The brokers will never take one of the records, which ended the transaction: nothing of it was delivered."""


class Producer(Protocol):
    """A client library, made to do what a target promises (see ``Target``).

    Idempotent, ``acks=all``, at most ``IN_FLIGHT_BYTES`` unconfirmed, a key always in the same partition. Constructing
    one does no network traffic. After an error nothing is in flight, and the next call starts anew.

    With a transactional id, what is sent between two commits is one transaction, which begins with its first record.
    The brokers end the transactions of every earlier producer with this id, and refuse what it sends from then on.
    """

    def connect(self) -> None:
        """Reach a broker and sign in, unless that is done.

        Raises:
            TargetError: No broker answers, or it refuses the credentials.
            NoTransactionsError: With a transactional id.
        """
        ...

    def send(self, records: Sequence[Record]) -> list[Rejection]:
        """Take records, in order, and send them while this goes on; waits when too much is unconfirmed.

        Raises:
            TargetError: No broker answers, a topic is missing, or an earlier record failed.
            CheckpointConflictError: The lease is lost.
            NoTransactionsError, RefusedError: With a transactional id.
        """
        ...

    def flush(self) -> list[Rejection]:
        """Wait until every record is confirmed, as long as records are confirmed or the brokers ask for patience.

        Raises as ``send`` does.
        """
        ...

    def commit(self, receipt: Receipt | None = None, topic: str = "") -> list[Rejection]:
        """``flush``, and commit the transaction, if there is one, with the receipt, kept beside one of its topics.

        With a receipt there is a transaction, if need be one of the receipt alone.

        Raises as ``send`` does. Whether the transaction is committed is then unknown; but not with

        Raises:
            NoReceiptsError: Nothing of it is committed.
        """
        ...

    def reveal(self) -> list[Rejection]:
        """Let readers of what is committed see what was sent, before the next ``commit``; nothing where they do anyway.

        Raises as ``send`` does.
        """
        ...

    def receipt(self, checkpoint: str) -> Receipt | None:
        """The last one of a checkpoint that was committed by any producer with this transactional id.

        Raises as ``send`` does.

        Raises:
            NoReceiptsError: It cannot be asked for.
            ReceiptsAwayError: It cannot be told now.
        """
        ...

    @property
    def transaction_s(self) -> float:
        """How long the brokers let a transaction last, in seconds, as far as is known."""
        ...

    @property
    def throttled_s(self) -> float:
        """For how long the brokers have said that they take nothing more, in seconds from now; 0 where they have not.

        A broker confirms what it took beyond a quota at once, says so, and does not read on for that long.
        """
        ...

    def close(self) -> None:
        """Drop what is not confirmed, abort the transaction, and end the library's threads."""
        ...


def ms(seconds: float) -> int:
    """Whole milliseconds: some of them go into requests as they are."""
    return int(1000 * seconds)
