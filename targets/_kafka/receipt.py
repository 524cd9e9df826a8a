"""What the brokers have committed of a stream, by their own account: a run that comes again sends it only once.

Between the commit of a transaction and the checkpoint a run can die, or fail at another target; the events then come
again. So each transaction commits a receipt with its events, as the offset of a consumer group that nobody is in.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import astuple, dataclass, replace

from docdb_stream.events import ChangeEvent

REFUSED_MOST = 50
"""Refused events that a receipt can name: with them it is well below ``offset.metadata.max.bytes`` (4,096)."""
_FORMAT = 1


@dataclass(frozen=True, slots=True)
class Receipt:
    """Says that every event of the stream from a checkpoint to a cluster time is committed, but for those refused.

    Attributes:
        checkpoints: Names the checkpoint after which they came (see ``RunContext``). There may be a second, between it
            and the last event: one that was made while events were left out that are committed.
        last: Cluster time of the last one that is committed, as one number.
        last_mark: Says which it is: several events can have one cluster time.
        refused: Marks of the events that the brokers did not take. They may not be in the dead letters yet.
    """

    checkpoints: tuple[str, ...]
    last: int
    last_mark: str
    refused: tuple[str, ...]

    def text(self) -> str:
        """To be kept by the brokers."""
        names, *others = astuple(self)
        return json.dumps([_FORMAT, names if len(names) > 1 else names[0], *others], separators=(",", ":"))


def receipt_after(checkpoint: str, texts: Iterable[str | None]) -> Receipt | None:
    """The last of a checkpoint's receipts among what the brokers have kept, or None."""
    receipts = (receipt for receipt in map(_parsed, texts) if receipt and checkpoint in receipt.checkpoints)
    return max(receipts, key=lambda receipt: receipt.last, default=None) if checkpoint else None


def _parsed(text: str | None) -> Receipt | None:
    try:
        number, names, last, last_mark, refused = json.loads(text or "")
        checkpoints = (names,) if isinstance(names, str) else tuple(names)
        return Receipt(checkpoints, last, last_mark, tuple(refused)) if number == _FORMAT else None
    except (TypeError, ValueError):
        return None


class Replay:
    """Tells which of the coming events are committed, as long as they are those of the receipt.

    They come again when a run goes on from the receipt's checkpoint. From any other one, as after a reset, nothing is
    left out: it is to be delivered, again or not.
    """

    def __init__(self, receipt: Receipt | None) -> None:
        self._receipt = receipt
        self._asked: tuple[ChangeEvent, bool] | None = None

    def rest(self, *checkpoints: str) -> Receipt | None:
        """What says, after each of these checkpoints, which of the events still to come are committed; None: none."""
        return None if self._receipt is None else replace(self._receipt, checkpoints=checkpoints)

    @property
    def is_over(self) -> bool:
        """Whether nothing that comes is committed."""
        return self._receipt is None

    def has(self, event: ChangeEvent) -> bool:
        """Whether the event is committed. Asked for each record, in order: of one event, twice in a row."""
        if self._asked is None or self._asked[0] is not event:
            self._asked = event, self._has(event)
        return self._asked[1]

    def _has(self, event: ChangeEvent) -> bool:
        receipt = self._receipt
        if receipt is None:
            return False
        time = number_of(event)
        if time > receipt.last:
            self._receipt = None
            return False
        if time == receipt.last and mark_of(event) == receipt.last_mark:
            self._receipt = None
        return not receipt.refused or mark_of(event) not in receipt.refused


def number_of(event: ChangeEvent) -> int:
    """Its cluster time as one number, in the order of time."""
    seconds, increment = event.cluster_time_parts
    return seconds << 32 | increment


def mark_of(event: ChangeEvent) -> str:
    """A short form of its id."""
    return hashlib.sha256(event.event_id.encode()).hexdigest()[:32]
