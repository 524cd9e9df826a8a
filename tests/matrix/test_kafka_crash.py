"""The crash harness with an Apache Kafka: what is committed has each event once, whatever happens to the pollers."""

from __future__ import annotations

from pathlib import Path

import pytest
from faults.harness import Harness
from faults.reckoning import table
from faults.scene import Scene

pytestmark = [
    pytest.mark.integration,
    pytest.mark.matrix,
    pytest.mark.filterwarnings("ignore:read_text is deprecated"),
]


@pytest.mark.timeout(400)
def test_each_event_is_committed_once(tmp_path: Path) -> None:
    with Scene(tmp_path, seed=3, per_s=40, share=0.06, real_kafka=True) as scene:
        outcome = Harness(scene, seed=3).run(minutes=0.4, kills=10)
    print(table(outcome))
    assert not outcome.problems, "\n".join(outcome.problems)
    assert outcome.rounds["pause"]
    [kafka] = [verdict for verdict in outcome.verdicts if verdict.target == "kafka"]
    assert (kafka.duplicates, kafka.missing) == (0, 0)
