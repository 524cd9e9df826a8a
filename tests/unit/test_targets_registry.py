from pathlib import Path

import pytest

from docdb_stream.registry import TARGETS, built_in_model, setting_of, switches
from docdb_stream.settings import Settings
from docdb_stream.settings.model import names

CONTRACTS = [Path(__file__).parents[1] / folder for folder in ("contract", "matrix")]


def test_every_target_has_a_switch_that_is_a_setting_of_its_own() -> None:
    assert list(TARGETS) == list(switches())
    assert all(switch in built_in_model(name).model_fields for name, switch in switches().items())


@pytest.mark.parametrize("name", TARGETS)
def test_every_setting_leads_to_its_target_and_is_off_by_default(name: str) -> None:
    model = built_in_model(name)
    for key, field in names(model).items():
        found = setting_of(key)
        assert found is not None
        assert (found.target, found.model, found.field) == (name, model, field)
        assert key not in names(Settings)
        assert model.model_fields[field].description
    assert not model().is_on


@pytest.mark.parametrize("name", TARGETS)
def test_every_target_passes_the_contract(name: str) -> None:
    [module] = [each for folder in CONTRACTS if (each := folder / f"test_{name}.py").exists()]
    text = module.read_text(encoding="utf-8")
    assert "(TargetContract)" in text or "TargetContract)" in text
    assert TARGETS[name].rpartition(":")[2] in text
