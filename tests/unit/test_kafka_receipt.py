from __future__ import annotations

import pytest

from docdb_stream.targets._kafka.receipt import REFUSED_MOST, Receipt, Replay, mark_of, newest, number_of
from docdb_stream.testing.events import ChangeLog

LOG = ChangeLog()
EVENTS = LOG.inserts(10)
with LOG.transaction():
    TOGETHER = LOG.inserts(4, first_id=10)  # of one cluster time
AFTER = LOG.inserts(3, first_id=14)
ALL = [*EVENTS, *TOGETHER, *AFTER]


def receipt(first: int, last: int, refused: tuple[int, ...] = ()) -> Receipt:
    marks = tuple(mark_of(ALL[number]) for number in refused)
    return Receipt(number_of(ALL[first]), number_of(ALL[last]), mark_of(ALL[last]), marks)


def sent(found: Receipt | None, start: int = 0) -> list[int]:
    """The events that are sent when a run comes again at ``start``."""
    replay = Replay(found)
    return [number for number, event in enumerate(ALL) if number >= start and not replay.has(event)]


@pytest.mark.parametrize(
    ("first", "last", "start", "next_sent"),
    [
        (0, 4, 0, 5),
        (0, 4, 2, 5),  # a checkpoint in the middle
        (2, 4, 2, 5),
        (2, 4, 5, 5),  # after it
        (2, 4, 1, 1),  # set back
        (0, 11, 0, 12),  # up to the second of those that have one cluster time
        (0, 13, 12, 14),
        (0, 16, 0, 17),
    ],
)
def test_what_is_committed_is_not_sent_again(first: int, last: int, start: int, next_sent: int) -> None:
    assert sent(receipt(first, last), start) == list(range(next_sent, len(ALL)))


def test_what_was_refused_comes_again() -> None:
    assert sent(receipt(0, 6, refused=(0, 3, 6))) == [0, 3, 6, *range(7, len(ALL))]


def test_without_a_receipt_everything_is_sent() -> None:
    assert sent(None) == list(range(len(ALL)))


def test_the_last_event_may_be_left_out_now() -> None:
    """As by a filter that changed: what is later is sent all the same."""
    gone = Receipt(number_of(ALL[0]), number_of(ALL[5]), "another", ())
    assert sent(gone) == list(range(6, len(ALL)))


def test_it_is_kept_as_a_short_text() -> None:
    long = Receipt(number_of(ALL[0]), number_of(ALL[9]), mark_of(ALL[9]), tuple(map(mark_of, ALL * 4))[:REFUSED_MOST])
    assert len(long.text()) < 4096
    other = receipt(0, 4)
    assert newest([None, "", "x", "[2]", "[]", other.text(), long.text()]) == long
    assert newest(["", None]) is None
