"""The judge of order: it has to find what it is there to find."""

from __future__ import annotations

from typing import Any

import pytest
from faults.histories import defects_of
from faults.reckoning import Outcome, judge_order, table

from docdb_stream.local.demo.verify import Delivery

SOURCE = [("a", 1), ("b", 10), ("a", 2), ("a", 3), ("b", 11), ("a", 4)]


@pytest.mark.parametrize(
    ("delivered", "missing", "duplicates", "order", "stale"),
    [
        pytest.param([1, 10, 2, 3, 11, 4], 0, 0, 0, 0, id="as it was"),
        pytest.param([10, 11, 1, 2, 3, 4], 0, 0, 0, 0, id="keys have no order among each other"),
        pytest.param([1, 2, 1, 2, 3, 4, 10, 11], 0, 2, 0, 0, id="a replay"),
        pytest.param([1, 2, 3, 4, 3, 4, 10, 11], 0, 2, 0, 0, id="a replay of the end"),
        pytest.param([1, 3, 4, 10, 11], 1, 0, 1, 0, id="one missing"),
        pytest.param([2, 1, 3, 4, 10, 11], 0, 0, 2, 0, id="overtaken"),
        pytest.param([1, 2, 1, 3, 4, 10, 11], 0, 1, 1, 1, id="a replay that skips: 1 came late"),
        pytest.param([1, 2, 3, 4, 2, 10, 11], 0, 1, 1, 1, id="stale at the end"),
        pytest.param([1, 2, 3, 2, 4, 10, 11], 0, 1, 1, 1, id="stale in the middle"),
        pytest.param([1, 2, 1, 3, 2, 4, 10, 11], 0, 2, 2, 2, id="stale twice"),
        pytest.param([1, 10, 11], 3, 0, 0, 0, id="the end missing"),
    ],
)
def test_what_is_found(delivered: list[int], missing: int, duplicates: int, order: int, stale: int) -> None:
    found = defects_of(SOURCE, delivered)
    assert (found.missing, found.duplicates, found.order, found.stale) == (missing, duplicates, order, stale)
    assert bool(found.evidence) == bool(missing or order)


def test_before_the_end_what_has_not_come_yet_is_not_missing() -> None:
    found = defects_of(SOURCE, [1, 10, 2], ended=False)
    assert (found.missing, found.order) == (0, 0)


IN_ORDER, STALE, OVERTAKEN = "1234", "12324", "2134"


@pytest.mark.parametrize(
    ("target", "delivered", "pauses", "is_a_problem"),
    [
        pytest.param("kinesis", IN_ORDER, 1, False, id="in order"),
        pytest.param("kinesis", STALE, 1, False, id="stale, where nothing can be refused"),
        pytest.param("kinesis", STALE, 0, True, id="stale, and nobody was paused"),
        pytest.param("kinesis", OVERTAKEN, 1, True, id="overtaken"),
        pytest.param("kinesis", STALE.replace("4", ""), 1, True, id="one missing beside"),
        pytest.param("kafka", STALE, 1, True, id="stale, where it could be refused"),
        pytest.param("sqs", STALE, 1, True, id="stale in a queue"),
    ],
)
def test_what_is_a_problem(target: str, delivered: str, pauses: int, is_a_problem: bool) -> None:
    """As docs/reliability.md has it; and what is none is shown all the same."""
    outcome = Outcome(seed=1)
    outcome.rounds["pause"] = pauses
    judge_order(outcome, target, [event(number) for number in "1234"], [delivery(number) for number in delivered])
    assert bool(outcome.problems) == is_a_problem
    assert (target in outcome.stale) == (f"{target} can refuse nothing" in table(outcome))
    assert bool(outcome.stale) == (delivered != IN_ORDER and not is_a_problem)


def event(number: str) -> dict[str, Any]:
    return {"_id": {"_data": number}, "ns": {"db": "shop", "coll": "orders"}, "documentKey": {"_id": 1}}


def delivery(number: str) -> Delivery:
    return Delivery("", b'{"_id":{"_data":"%s"}}' % number.encode())
