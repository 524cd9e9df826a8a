"""What starts the workers of a stream's snapshots: a state machine that has as many of them side by side as may be."""

from __future__ import annotations

from aws_cdk import aws_stepfunctions as sfn
from constructs import Construct

from infra.function import StreamFunction
from infra.machine import alone, clocked_machine, worked_by
from infra.settings import DeploySettings

_PATTERNS = {
    "{runs}:*": "The machine's own executions, which get their names when they start.",
    "{runs}/*:*": "The runs of the map within these executions.",
}


class SnapshotMachine(Construct):
    """Looks whether the stream has a shared snapshot; if so, has the workers deliver ranges until their time is over.
    The clock starts it again as long as some are left.

    Args:
        workers: The function of the workers; the machine is made beside it.
        deploy: What holds for the whole deployment.
    """

    def __init__(self, workers: StreamFunction, deploy: DeploySettings) -> None:
        super().__init__(workers, "Machine")
        self.workers = workers
        plan = workers.plan
        self.machine = clocked_machine(
            self,
            plan.name,
            alone(self, plan.name, self._states()),
            functions=[workers],
            deploy=deploy,
            what=f"Looks for snapshots of {plan.stream}",
            patterns=_PATTERNS,
        )

    def _states(self) -> sfn.IChainable:
        over = sfn.Succeed(self, "Nothing left")
        look = worked_by(self, "Look", self.workers, {"look": True})
        items = [*range(self.workers.plan.function.snapshot_parallel)]
        begin = sfn.Pass(self, "Workers", result=sfn.Result.from_object({"workers": items}))
        each = sfn.DistributedMap(
            self,
            "Side by side",
            items_path="$.workers",
            max_concurrency=len(items),
            result_path=sfn.JsonPath.DISCARD,
        )
        each.item_processor(worked_by(self, "Work", self.workers))
        is_left = sfn.Condition.number_greater_than("$.left", 0)
        begin.next(each).next(sfn.Succeed(self, "The clock goes on"))
        look.next(sfn.Choice(self, "Is there a snapshot?").when(is_left, begin).otherwise(over))
        return look
