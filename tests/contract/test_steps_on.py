"""The targets' contract with steps before them: what events have become on the way makes no difference."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pytest
from contract import test_file, test_kinesis, test_opensearch
from contract.test_file import path  # noqa: F401 - a fixture
from contract.test_kinesis import stream  # noqa: F401 - a fixture
from contract.test_opensearch import domain  # noqa: F401 - a fixture

from docdb_stream import step
from docdb_stream.events import ChangeEvent
from docdb_stream.settings import Settings
from docdb_stream.steps import steps_for
from docdb_stream.target import Rejection, Target

if TYPE_CHECKING:
    from docdb_stream.testing.contract import TargetContract
else:
    TargetContract = object


def same(event: ChangeEvent) -> ChangeEvent:
    """The function of the steps."""
    return event


# No OPERATIONS: it leaves out operations that do not exist yet, which the contract wants delivered.
RULES: dict[str, Any] = {
    "namespaces": "shop.*",
    "match": '{"ns.db": "shop"}',
    "on_exit": "ignore",
    "fields_mask": "nowhere.at_all",
    "transform": "contract.test_steps_on:same",
}


class StepsOn(TargetContract):
    """Before a contract class in the bases of one that has steps on."""

    def make_target(self) -> Target:
        target = super().make_target()
        steps = steps_for(Settings(documentdb_uri="mongodb://x", **RULES), [target])
        assert [step.name_of(each) for each in steps] == ["namespaces", "match", "fields", "transform"]
        write = target.write

        def through_steps(events: Sequence[ChangeEvent]) -> Sequence[Rejection]:
            made = step.apply(steps, events)
            # Whoever cannot read an event refuses it: a step here, where the target would.
            refused = [Rejection(each.event, target.name, each.reason) for each in made.rejected]
            return [*refused, *write(made.events)]

        target.write = through_steps  # type: ignore[method-assign]
        return target


class TestFile(StepsOn, test_file.TestFileTarget):
    pass


@pytest.mark.integration
@pytest.mark.usefixtures("aws_environment")
class TestKinesis(StepsOn, test_kinesis.TestKinesisTarget):
    pass


@pytest.mark.integration
class TestOpenSearch(StepsOn, test_opensearch.TestOpenSearchTarget):
    pass
