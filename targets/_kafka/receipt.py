"""What the brokers have committed of a stream, by their own account: a run that comes again sends it only once.

Between the commit of a transaction and the checkpoint a run can die, or fail at another target; the events then come
again. So each transaction commits a receipt with its events, as the offset of a consumer group that nobody is in.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from docdb_stream.events import ChangeEvent
from docdb_stream.position import SnapshotProgress
from docdb_stream.targets._kafka.stretch import Stretch, ending_of, key_of

REFUSED_MOST = 50
"""Refused events that a receipt can name."""
TEXT_BYTES = 4000
"""Of a receipt at most: the brokers keep ``offset.metadata.max.bytes``, 4,096 unless it is set. Stretches that do not
fit are left out."""
_FORMAT = 1
_WITH_STRETCHES = 2


@dataclass(frozen=True, slots=True)
class Receipt:
    """Says that every event of the stream from a checkpoint to a cluster time is committed, but for those refused; and
    which documents of the snapshot beside it, whose events have a time of their own, and come in between.

    Attributes:
        checkpoints: Names the checkpoint after which they came (see ``RunContext``). There may be a second, between it
            and the last event: one that was made while events were left out that are committed.
        last: Cluster time of the stream's last one that is committed, as one number.
        last_mark: Says which it is: several events can have one cluster time. Empty: none is.
        refused: Marks of the events that the brokers did not take. They may not be in the dead letters yet.
        snapshot: The id of the snapshot.
        stretches: Which of its documents are committed.
        passed: Names a checkpoint after all that, but for some of the stretches.
    """

    checkpoints: tuple[str, ...]
    last: int
    last_mark: str
    refused: tuple[str, ...]
    snapshot: str = ""
    stretches: tuple[Stretch, ...] = ()
    passed: str = ""

    def text(self) -> str:
        """To be kept by the brokers."""
        names = self.checkpoints if len(self.checkpoints) > 1 else self.checkpoints[0]
        parts = [_FORMAT, names, self.last, self.last_mark, self.refused]
        if not self.stretches:
            return _dumped(parts)
        parts = [_WITH_STRETCHES, *parts[1:], self.passed, self.snapshot]
        left = TEXT_BYTES - len(_dumped(parts))
        texts = []
        for stretch in sorted(self.stretches, key=lambda each: len(each.last)):
            text = _dumped(stretch.parts())
            left -= len(text) + 1
            if left > 0:
                texts.append(text)
        return f"{_dumped(parts)[:-1]},{','.join(texts)}]" if texts else _dumped([_FORMAT, *parts[1:5]])

    def of(self, checkpoint: str) -> Receipt | None:
        """What it says of what came after a checkpoint; None: nothing."""
        if checkpoint in self.checkpoints:
            return self
        return replace(self, last=0, last_mark="") if checkpoint == self.passed else None


def receipt_after(checkpoint: str, texts: Iterable[str | None]) -> Receipt | None:
    """What a checkpoint's receipts say, among those that the brokers have kept, or None."""
    parsed = (_parsed(text) for text in texts)
    found = [mine for receipt in parsed if receipt and checkpoint and (mine := receipt.of(checkpoint))]
    if not found:
        return None
    newest = max(found, key=lambda receipt: receipt.last)
    kept = next((receipt for receipt in found if receipt.stretches), newest)
    others = [receipt for receipt in found if receipt.stretches and receipt.snapshot == kept.snapshot]
    if not others:
        return newest
    return replace(
        newest,
        refused=(*dict.fromkeys(mark for receipt in (newest, *others) for mark in receipt.refused),),
        snapshot=kept.snapshot,
        stretches=tuple(stretch for receipt in others for stretch in receipt.stretches),
    )


def _dumped(parts: object) -> str:
    return json.dumps(parts, separators=(",", ":"))


def _parsed(text: str | None) -> Receipt | None:
    try:
        number, names, last, last_mark, refused, *more = json.loads(text or "")
        checkpoints = (names,) if isinstance(names, str) else tuple(names)
        receipt = Receipt(checkpoints, last, last_mark, tuple(refused))
        if number == _WITH_STRETCHES:
            passed, snapshot, *stretches = more
            return replace(receipt, passed=passed, snapshot=snapshot, stretches=tuple(map(Stretch.of, stretches)))
        return receipt if number == _FORMAT and not more else None
    except (TypeError, ValueError):
        return None


class Replay:
    """Tells which of the coming events are committed, as long as they may be those of the receipt.

    They come again when a run goes on from the receipt's checkpoint. From any other one, as after a reset, nothing is
    left out: it is to be delivered, again or not.

    Attributes:
        receipt: What is committed; None: nothing.
        is_past: Whether nothing that comes of the stream is committed.
    """

    def __init__(self, receipt: Receipt | None) -> None:
        self.receipt = receipt
        self.is_past = receipt is None or not receipt.last_mark
        self._asked: tuple[ChangeEvent, bool] | None = None

    @property
    def is_over(self) -> bool:
        """Whether nothing that comes is committed."""
        return self.is_past and not self.stretches

    @property
    def stretches(self) -> Sequence[Stretch]:
        """What is committed of the snapshot and may come again."""
        return () if self.receipt is None else self.receipt.stretches

    @property
    def refused(self) -> Sequence[str]:
        """Of what may come again, marks of what is not committed."""
        return () if self.is_over or self.receipt is None else self.receipt.refused

    def left(self, progress: SnapshotProgress | None) -> list[Stretch]:
        """Which of the stretches may come again while the snapshot goes on from there."""
        if progress is None or self.receipt is None or progress.id != self.receipt.snapshot:
            return []
        return [each for each in self.stretches if any(map(each.concerns, progress.ranges))]

    def forget_all_but(self, stretches: Sequence[Stretch]) -> None:
        """Know that no others come again."""
        if self.receipt is not None and len(stretches) < len(self.stretches):
            self.receipt = replace(self.receipt, stretches=tuple(stretches))

    def has(self, event: ChangeEvent) -> bool:
        """Whether the event is committed. Asked for each record, in order: of one event, twice in a row."""
        if self._asked is None or self._asked[0] is not event:
            self._asked = event, self._has(event)
        return self._asked[1]

    def _has(self, event: ChangeEvent) -> bool:
        receipt = self.receipt
        if receipt is None or not (self._has_document(event) if event.snapshot_id else self._has_change(event)):
            return False
        return not receipt.refused or mark_of(event) not in receipt.refused

    def _has_change(self, event: ChangeEvent) -> bool:
        receipt = self.receipt
        if self.is_past or receipt is None:
            return False
        time = number_of(event)
        self.is_past = time > receipt.last or (time == receipt.last and mark_of(event) == receipt.last_mark)
        return time <= receipt.last

    def _has_document(self, event: ChangeEvent) -> bool:
        receipt = self.receipt
        if receipt is None or event.snapshot_id != receipt.snapshot or not receipt.stretches:
            return False
        key = key_of(event)
        if key is None:
            return False
        namespace, ending = event.namespace, ending_of(event)
        return any(each.namespace == namespace and each.has(key, ending) for each in receipt.stretches)


def number_of(event: ChangeEvent) -> int:
    """Its cluster time as one number, in the order of time."""
    seconds, increment = event.cluster_time_parts
    return seconds << 32 | increment


def mark_of(event: ChangeEvent) -> str:
    """A short form of its id."""
    return hashlib.sha256(event.event_id.encode()).hexdigest()[:32]
