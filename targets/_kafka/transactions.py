"""Events within transactions: the brokers let no one else write, and show all between two commits or nothing of it.

Owns what is done without a transaction: everything where the brokers have none for this client, and what a transaction
cannot carry, because the brokers refuse a record of it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Protocol

from docdb_stream.context import check_lease, current_deadline, current_run
from docdb_stream.errors import Caution, DocdbStreamError, TargetError
from docdb_stream.retry import Backoff
from docdb_stream.target import Rejection
from docdb_stream.targets._kafka.producer import (
    IN_FLIGHT_BYTES,
    NoReceiptsError,
    NoTransactionsError,
    Producer,
    ReceiptsAwayError,
    Record,
    RefusedError,
)
from docdb_stream.targets._kafka.receipt import REFUSED_MOST, Receipt, Replay, mark_of, number_of
from docdb_stream.targets._kafka.stretch import Reached, joined

logger = logging.getLogger(__name__)

_HINT = (
    "let this user WRITE and DESCRIBE the TransactionalId {name} (or all that begin with docdb-stream-); "
    "brokers before Kafka 0.11 have no transactions"
)


class MakeProducer(Protocol):
    """Makes a producer, with transactions or without."""

    def __call__(self, *, transactional_id: str | None) -> Producer: ...


class Transactions:
    """See ``Producer``: one with transactions, and one without for what cannot be in them.

    A record that the brokers refuse for good ends its transaction, with all that could be delivered. So what a
    transaction carries is held until it is committed; then it is sent again without one, and only the refused is left
    out. A record beyond KAFKA_MESSAGE_BYTES never gets so far.

    Args:
        target: The target's name, for errors.
        make: Makes the two producers.
        name: The transactional id.
        required: Whether it is an error that the brokers have no transactions for this client.
    """

    def __init__(self, target: str, make: MakeProducer, name: str, *, required: bool) -> None:
        self._target = target
        self._make = make
        self._name = name
        self._required = required
        self._within, self._without = make(transactional_id=name), make(transactional_id=None)
        self._told: set[str] = set()
        self._replay: Replay | None
        self._committed_after: str | None  # the checkpoint after which came what was committed last
        self._start_again()

    def connect(self) -> None:
        """See ``Producer``. Whether there are transactions is tried by another id: this one's stream may be delivered
        now, by a run that would be refused from then on.

        Raises:
            Caution: There are none, and so it will go without.
        """
        self._without.connect()
        probe = self._make(transactional_id=f"{self._name}-check")
        try:
            probe.connect()
        except NoTransactionsError as error:
            if self._required:
                raise self._missing(error) from error
            raise Caution(
                f"events are sent without transactions: {error}",
                hint=_HINT.format(name=self._name) + "; or set KAFKA_TRANSACTIONS = off",
            ) from error
        finally:
            probe.close()

    def send(self, records: Sequence[Record]) -> list[Rejection]:
        """See ``Producer``. A transaction that holds much, or has been open for long, is committed here already."""
        if not records:
            return []
        rejections: list[Rejection] = []
        if self._checkpoint is None and current_run().checkpoint == self._committed_after:
            self._replay = None  # it was not saved: what was committed since comes again
        if self._producer is self._within and self._replay is None:
            rejections += self._done(self._find_receipt)
        if self._producer is self._within:
            records = self._held_of(records)
        rejections += self._done(lambda producer: producer.send(records))
        if self._held and (self._held_bytes > IN_FLIGHT_BYTES or self._age_s > self.transaction_s / 2):
            rejections += self._commit()
        return rejections

    def flush(self) -> list[Rejection]:
        """See ``Producer``."""
        return self._done(lambda producer: producer.flush())

    def commit(self, receipt: Receipt | None = None, topic: str = "") -> list[Rejection]:
        """See ``Producer``. A checkpoint that comes before all that is committed has come again gets a receipt, too."""
        rejections = self._commit(current_run().next_checkpoint)
        self._committed_after = self._checkpoint or self._committed_after
        self._begin_span()
        return rejections

    def reveal(self) -> list[Rejection]:
        """See ``Producer``. Only with a receipt: else what is committed before the checkpoint may come twice."""
        return self._commit() if self._held and self._keeps_receipts and self._checkpoint else []

    def receipt(self, checkpoint: str) -> Receipt | None:
        """See ``Producer``."""
        return self._within.receipt(checkpoint)

    @property
    def transaction_s(self) -> float:
        """See ``Producer``."""
        return self._within.transaction_s

    @property
    def throttled_s(self) -> float:
        """See ``Producer``."""
        return max(self._within.throttled_s, self._without.throttled_s)

    def close(self) -> None:
        """See ``Producer``."""
        self._within.close()
        self._without.close()
        self._start_again()

    def _start_again(self) -> None:
        self._producer = self._within
        self._has_transactions = self._keeps_receipts = True
        self._replay = None
        self._committed_after = None
        self._topic = ""  # of a record that was committed before
        self._begin_span()
        self._forget()

    def _begin_span(self) -> None:
        """From here to the next checkpoint."""
        self._checkpoint: str | None = None
        self._refused: list[str] = []
        self._reached = Reached(None)
        if self._replay is None or self._replay.is_past:
            self._last = 0, ""

    def _forget(self) -> None:
        self._held: list[Record] = []
        self._held_bytes = 0
        self._began_s = 0.0

    def _find_receipt(self, producer: Producer) -> list[Rejection]:
        """Ask what is committed already."""
        backoff = Backoff()
        while self._replay is None:
            try:
                receipt = producer.receipt(current_run().checkpoint)
                self._replay = Replay(receipt)
                self._last = (receipt.last, receipt.last_mark) if receipt else (0, "")
            except NoReceiptsError as error:
                self._do_without_receipts(error)
                self._replay = Replay(None)
            except ReceiptsAwayError as error:
                check_lease()
                if not backoff.wait():
                    why = f"the brokers do not tell what is committed already: {error}"
                    raise TargetError(self._target, why, hint="the next run goes on, once they do") from error
        return []

    def _held_of(self, records: Sequence[Record]) -> Sequence[Record]:
        """Those that are not committed already, which are now in this transaction."""
        assert self._replay is not None
        if self._checkpoint is None:
            self._checkpoint = current_run().checkpoint
            self._reached = Reached(current_run().snapshot)
        if not self._replay.is_over:
            records = [record for record in records if not self._is_committed(record)]
        if not self._held:
            self._began_s = current_deadline().clock()
        self._held += records
        self._held_bytes += sum(record.size_bytes for record in records)
        return records

    def _is_committed(self, record: Record) -> bool:
        assert self._replay is not None
        if not self._replay.has(record.event):
            return False
        self._topic = record.topic
        return True

    def _commit(self, next_checkpoint: str = "") -> list[Rejection]:
        self._note_held()
        receipt = self._receipt(next_checkpoint)
        topic = self._held[-1].topic if self._held else self._topic
        try:
            rejections = self._done(lambda producer: producer.commit(receipt, topic))
        except NoReceiptsError as error:
            self._do_without_receipts(error)
            rejections = self._done(lambda producer: [*producer.send(self._held), *producer.commit()])
        self._forget()
        if self._has_transactions:
            self._producer = self._within
        if next_checkpoint and self._replay is not None:
            self._replay.forget_all_but(self._replay.left(current_run().next_snapshot))
        return rejections

    def _note_held(self) -> None:
        """Know how far stream and snapshot have come with what is committed next."""
        if not self._keeps_receipts:
            return
        changes = (record.event for record in reversed(self._held) if record.event.snapshot_id is None)
        if self._replay is not None and self._replay.is_past and (event := next(changes, None)) is not None:
            last = number_of(event), mark_of(event)
            self._last = last if last[0] >= self._last[0] else self._last
        if self._reached.snapshot:
            self._reached.add([record.event for record in self._held])

    def _receipt(self, next_checkpoint: str) -> Receipt | None:
        """Of what is held, and was before since the checkpoint; and of what was committed before that, part of which is
        to come after the next checkpoint."""
        checkpoint, replay = self._checkpoint or current_run().checkpoint, self._replay
        if not (self._keeps_receipts and checkpoint) or replay is None:
            return None
        is_carried_on = bool(next_checkpoint and self._topic) and not replay.is_over
        if not (self._held or is_carried_on):
            return None
        refused = [*dict.fromkeys([*replay.refused, *self._refused])]
        if len(refused) > REFUSED_MOST:
            return None
        snapshot = self._reached.snapshot or (replay.receipt.snapshot if replay.receipt else "")
        older = replay.stretches if replay.receipt and replay.receipt.snapshot == snapshot else ()
        is_amid = bool(next_checkpoint) and not replay.is_past
        passed = next_checkpoint if replay.is_past and replay.left(current_run().next_snapshot) else ""
        return Receipt(
            (checkpoint, next_checkpoint) if is_amid else (checkpoint,),
            *self._last,
            tuple(refused),
            snapshot,
            tuple(joined(older, self._reached.stretches)),
            passed,
        )

    @property
    def _age_s(self) -> float:
        return current_deadline().clock() - self._began_s

    def _done(self, act: Callable[[Producer], list[Rejection]]) -> list[Rejection]:
        """Act within the transaction; or else do without one for all that it carried."""
        try:
            rejections = act(self._producer)
        except NoTransactionsError as error:
            self._do_without(error)
        except RefusedError:
            self._tell("a record is refused by the brokers; what shared its transaction is sent without one")
        except DocdbStreamError:
            self._start_again()
            raise
        else:
            return self._noted(rejections)
        self._producer = self._without
        check_lease()
        rejections = self._noted([*self._without.send(self._held), *self._without.flush()])
        self._forget()
        return rejections

    def _noted(self, rejections: list[Rejection]) -> list[Rejection]:
        if rejections:
            self._refused += [mark_of(rejection.event) for rejection in rejections]
            refused = {id(rejection.event) for rejection in rejections}
            self._held = [record for record in self._held if id(record.event) not in refused]
        return rejections

    def _do_without(self, error: NoTransactionsError) -> None:
        """From now on, until it is closed."""
        if self._required:
            raise self._missing(error) from error
        self._has_transactions = False
        self._tell("events are sent without transactions", error)

    def _do_without_receipts(self, error: NoReceiptsError) -> None:
        self._keeps_receipts = False
        hint = f"let this user READ the group {self._name} and the topics"
        self._tell("after a failure events may come twice, because the brokers keep no receipts", f"{error}; {hint}")

    def _tell(self, what: str, why: object = "see KAFKA_MESSAGE_BYTES") -> None:
        """Once, however often it is so."""
        if what not in self._told:
            self._told.add(what)
            logger.warning("kafka: %s: %s", what, why)

    def _missing(self, error: NoTransactionsError) -> TargetError:
        return TargetError(
            self._target,
            f"KAFKA_TRANSACTIONS is on, and the brokers have none for this client: {error}",
            hint=_HINT.format(name=self._name) + "; or set KAFKA_TRANSACTIONS = auto",
        )
