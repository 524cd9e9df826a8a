"""Many documents as few figures, and the waiting for the stream."""

from __future__ import annotations

import random
from collections import Counter

from bson import Timestamp
from clocks import Clock, limit
from hypothesis import given
from hypothesis import strategies as st

from docdb_stream.context import RunContext, running
from docdb_stream.held import Held
from docdb_stream.position import Namespace, Position
from docdb_stream.stores.memory import MemoryCheckpointStore
from docdb_stream.verify.fold import BITS_LEAST, BITS_MOST, Fold, bits_for
from docdb_stream.verify.stream import WAIT_S, StreamPosition

HELD = st.tuples(st.sampled_from(["a", "b"]), st.binary(max_size=2), st.sampled_from([b"", b"1", b"2"])).map(
    lambda parts: Held(*parts)
)


@given(st.lists(HELD), st.lists(HELD))
def test_figures_are_equal_where_documents_are(left: list[Held], right: list[Held]) -> None:
    """Whatever their order, and however often one is there."""
    folds = [Fold(BITS_LEAST, b"salt") for _ in range(2)]
    for fold, some in zip(folds, (left, right), strict=True):
        fold.add(random.sample(some, len(some)))
    differing = folds[0].differing(folds[1])
    assert (not differing) == (Counter(left) == Counter(right))
    for held in {*left} ^ {*right}:
        assert folds[0].bucket(held) in differing


def test_there_are_buckets_for_so_many_documents() -> None:
    assert [bits_for(0), bits_for(10**7), bits_for(10**12)] == [BITS_LEAST, 18, BITS_MOST]


def test_a_stream_is_waited_for_once_and_not_for_ever() -> None:
    clock = Clock()
    store = MemoryCheckpointStore()
    lease = store.acquire("s", Namespace("shop"), "me", 60)
    store.save(lease, Position(operation_time=Timestamp(10, 0)), 0)
    waits: list[float] = []

    def pause(delay_s: float) -> None:
        waits.append(delay_s)
        clock.now_s += delay_s

    position = StreamPosition(store, "s", pause=pause)
    with running(RunContext(limit(clock, 10_000))):
        assert position.is_past(Timestamp(9, 9))
        assert not position.is_past(Timestamp(10, 0))  # there may be more events of that time
        assert WAIT_S <= sum(waits) < WAIT_S + 3
        assert position.is_behind
        del waits[:]
        assert not position.is_past(Timestamp(10, 0))
        assert not waits
        store.save(lease, Position(operation_time=Timestamp(10, 1)), 0)
        assert position.is_past(Timestamp(10, 0))
        assert not position.is_behind
