"""The short version of the crash harness; ``make soak`` is the long one."""

from __future__ import annotations

from pathlib import Path

import pytest
from faults.harness import KINDS, Harness
from faults.reckoning import table
from faults.scene import Scene
from faults.truth import STILL_DOCUMENTS

pytestmark = [pytest.mark.integration, pytest.mark.filterwarnings("ignore:read_text is deprecated")]

ONE_REQUEST = 8
"""Records of documents that are written often enough to be out of order: the hot ones, and a few others."""


@pytest.mark.timeout(240)
@pytest.mark.parametrize(
    "scene",
    [
        {},
        pytest.param({"steps": True}, marks=pytest.mark.long),
        pytest.param({"snapshot": True}, marks=pytest.mark.long),
    ],
    ids=["", "steps", "snapshot"],
)
def test_nothing_is_lost_skipped_or_overtaken(tmp_path: Path, scene: dict[str, bool]) -> None:
    """Every kind of round at least once, at least ten kills, faults at every target; then the reckoning."""
    per_s = 10 if "snapshot" in scene else 40  # pages come past a stream that keeps up alone
    with Scene(tmp_path, seed=1, per_s=per_s, share=0.06, **scene) as setup:
        outcome = Harness(setup, seed=1).run(minutes=0.4, kills=10)
    print(table(outcome))
    assert not outcome.problems, "\n".join(outcome.problems)
    # Between the check of the lease and the network a process can still be stopped with one request, which holds at
    # most one record of a document.
    assert sum(found.stale for found in outcome.stale.values()) <= ONE_REQUEST, outcome.stale
    assert outcome.kills.total() >= 10
    assert set(outcome.rounds) >= set(KINDS)
    assert {name.partition(":")[0] for name in outcome.faults} == {"kinesis", "sqs", "kafka", "s3", "opensearch"}
    assert [verdict.delivered > 0 for verdict in outcome.verdicts] == [True] * 5
    if "snapshot" in scene:
        assert all(count > STILL_DOCUMENTS for count, _ in outcome.snapshots.values())
