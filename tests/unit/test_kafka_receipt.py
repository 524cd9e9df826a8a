from __future__ import annotations

from dataclasses import replace

import pytest

from docdb_stream.targets._kafka.receipt import REFUSED_MOST, Receipt, Replay, mark_of, number_of, receipt_after
from docdb_stream.testing.events import ChangeLog

LOG = ChangeLog()
EVENTS = LOG.inserts(10)
with LOG.transaction():
    TOGETHER = LOG.inserts(4, first_id=10)  # of one cluster time
AFTER = LOG.inserts(3, first_id=14)
ALL = [*EVENTS, *TOGETHER, *AFTER]


def receipt(last: int, refused: tuple[int, ...] = (), checkpoint: str = "first") -> Receipt:
    marks = tuple(mark_of(ALL[number]) for number in refused)
    return Receipt((checkpoint,), number_of(ALL[last]), mark_of(ALL[last]), marks)


def sent(found: Receipt | None, start: int = 0) -> list[int]:
    """The events that are sent when a run comes again at ``start``."""
    replay = Replay(found)
    return [number for number, event in enumerate(ALL) if number >= start and not replay.has(event)]


@pytest.mark.parametrize("names", [("the first",), ("the first", "the second")])
def test_any_name_of_a_checkpoint_is_kept(names: tuple[str, ...]) -> None:
    kept = replace(receipt(4), checkpoints=names)
    for name in names:
        assert receipt_after(name, [kept.text()]) == kept
    assert receipt_after("the", [kept.text()]) is None


@pytest.mark.parametrize(
    ("last", "start", "next_sent"),
    [
        (4, 0, 5),
        (4, 2, 5),
        (4, 5, 5),
        (11, 0, 12),  # up to the second of those that have one cluster time
        (13, 12, 14),
        (16, 0, 17),
    ],
)
def test_what_is_committed_is_not_sent_again(last: int, start: int, next_sent: int) -> None:
    assert sent(receipt(last), start) == list(range(next_sent, len(ALL)))


def test_a_tombstone_shares_the_lot_of_its_delete() -> None:
    for found in (receipt(4), receipt(6, refused=(3,))):
        replay = Replay(found)
        for event in ALL:
            assert replay.has(event) == replay.has(event)


def test_what_was_refused_comes_again() -> None:
    assert sent(receipt(6, refused=(0, 3, 6))) == [0, 3, 6, *range(7, len(ALL))]


def test_without_a_receipt_everything_is_sent() -> None:
    assert sent(None) == list(range(len(ALL)))


def test_the_last_event_may_be_left_out_now() -> None:
    """As by a filter that changed: what is later is sent all the same."""
    gone = Receipt(("first",), number_of(ALL[5]), "another", ())
    assert sent(gone) == list(range(6, len(ALL)))


def test_it_is_kept_as_a_short_text() -> None:
    long = Receipt(
        ("0" * 32, "1" * 32), number_of(ALL[9]), mark_of(ALL[9]), tuple(map(mark_of, ALL * 4))[:REFUSED_MOST]
    )
    assert len(long.text()) < 4096
    assert receipt_after("0" * 32, [long.text()]) == receipt_after("1" * 32, [long.text()]) == long


def test_only_those_of_the_checkpoint_count() -> None:
    """One of a topic that is used no more may be of any time, before a reset or after."""
    kept = [receipt(4), receipt(11), receipt(6), receipt(16, checkpoint="second")]
    texts = [None, "", "x", "[2]", "[]", "[1, 2, 3, 4, 5]", *(each.text() for each in kept)]
    assert receipt_after("first", texts) == receipt(11)
    assert receipt_after("second", texts) == receipt(16, checkpoint="second")
    assert receipt_after("third", texts) is None
    assert receipt_after("", [receipt(4, checkpoint="").text()]) is None
