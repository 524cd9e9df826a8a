from pathlib import Path

import pytest

from docdb_stream.settings import Settings
from docdb_stream.targets import SWITCHES, TARGETS

CONTRACTS = Path(__file__).parents[1] / "contract"


def test_every_target_has_a_switch_that_is_a_setting() -> None:
    assert list(TARGETS) == list(SWITCHES)
    assert set(SWITCHES.values()) <= set(Settings.model_fields)


@pytest.mark.parametrize("name", TARGETS)
def test_every_target_passes_the_contract(name: str) -> None:
    text = (CONTRACTS / f"test_{name}.py").read_text(encoding="utf-8")
    assert "(TargetContract)" in text or "TargetContract)" in text
    assert TARGETS[name].rpartition(":")[2] in text
