"""What starts the workers of a stream's snapshots: a state machine that has as many of them side by side as may be."""

from __future__ import annotations

from aws_cdk import Acknowledgment, Aws, CfnElement, Duration, RemovalPolicy, Stack, Validations
from aws_cdk import aws_events as events
from aws_cdk import aws_events_targets as targets
from aws_cdk import aws_logs as logs
from aws_cdk import aws_stepfunctions as sfn
from aws_cdk import aws_stepfunctions_tasks as tasks
from constructs import Construct

from infra.function import StreamFunction
from infra.settings import DeploySettings

_AGAIN = Duration.seconds(10)
_ATTEMPTS = 3
"""A worker that failed has kept what it saved, and its range is free again."""


class SnapshotMachine(Construct):
    """Looks whether the stream has a shared snapshot; if so, has the workers deliver it until no range is left.

    The clock starts it. While one execution is under way, the others end at once.

    Args:
        workers: The function of the workers; the machine is made beside it.
        deploy: What holds for the whole deployment.
    """

    def __init__(self, workers: StreamFunction, deploy: DeploySettings) -> None:
        super().__init__(workers, "Machine")
        self.workers = workers
        plan = workers.plan
        name = plan.name
        log_group = logs.LogGroup(
            self, "Logs", log_group_name=f"/aws/vendedlogs/states/{name}", removal_policy=RemovalPolicy.DESTROY
        )
        group = log_group.node.default_child
        assert isinstance(group, logs.CfnLogGroup)
        group.retention_in_days = plan.function.log_retention_days
        self.machine = sfn.StateMachine(
            self,
            "StateMachine",
            state_machine_name=name,
            definition_body=sfn.DefinitionBody.from_chainable(self._states(workers)),
            tracing_enabled=True,
            logs=sfn.LogOptions(destination=log_group, level=sfn.LogLevel.ALL),
        )
        self._acknowledge_patterns(workers)
        self.rule = events.Rule(
            self,
            "Rule",
            description=f"Looks for snapshots of {plan.stream}",
            schedule=events.Schedule.rate(Duration.minutes(deploy.every_minutes)),
            enabled=deploy.enabled,
            targets=[targets.SfnStateMachine(self.machine)],
        )

    def _acknowledge_patterns(self, workers: StreamFunction) -> None:
        """Say why some permissions of the machine's role are patterns: the CDK grants them so."""
        function, machine = workers.function.node.default_child, self.machine.node.default_child
        assert isinstance(function, CfnElement)
        assert isinstance(machine, CfnElement)
        name = f'{{"Fn::Select":[6,{{"Fn::Split":[":",{{"Ref":"{Stack.of(self).get_logical_id(machine)}"}}]}}]}}'
        runs = f"arn:<AWS::Partition>:states:<AWS::Region>:<AWS::AccountId>:execution:{name}"
        reasons = {
            "*": "Deliveries of logs and X-Ray's actions take no resource.",
            f"<{Stack.of(self).get_logical_id(function)}.Arn>:*": "Every version of the one function.",
            f"{runs}:*": "The machine's own executions, which get their names when they start.",
            f"{runs}/*:*": "The runs of the map within these executions.",
        }
        for resource, reason in reasons.items():
            Validations.of(self.machine).acknowledge(
                Acknowledgment(id=f"AwsSolutions-IAM5[Resource::{resource}]", reason=reason)
            )

    def _states(self, workers: StreamFunction) -> sfn.IChainable:
        here = f"{Aws.PARTITION}:states:{Aws.REGION}:{Aws.ACCOUNT_ID}"
        alone = tasks.CallAwsService(
            self,
            "Executions",
            service="sfn",
            action="listExecutions",
            iam_action="states:ListExecutions",
            iam_resources=[f"arn:{here}:stateMachine:{workers.plan.name}"],
            parameters={
                "StateMachineArn": sfn.JsonPath.string_at("$$.StateMachine.Id"),
                "StatusFilter": "RUNNING",
                "MaxResults": 2,
            },
        )
        over = sfn.Succeed(self, "Nothing left")
        look = self._task(workers, "Look", sfn.TaskInput.from_object({"look": True}))
        items = [*range(workers.plan.function.snapshot_parallel)]
        begin = sfn.Pass(self, "Workers", result=sfn.Result.from_object({"workers": items}))
        each = sfn.DistributedMap(
            self,
            "Side by side",
            items_path="$.workers",
            max_concurrency=len(items),
            result_path=sfn.JsonPath.DISCARD,
        )
        each.item_processor(self._task(workers, "Work", sfn.TaskInput.from_object({})))
        wait = sfn.Wait(self, "A moment", time=sfn.WaitTime.duration(_AGAIN))
        is_left = sfn.Condition.number_greater_than("$.left", 0)
        begin.next(each).next(wait).next(look)
        look.next(sfn.Choice(self, "Is there a snapshot?").when(is_left, begin).otherwise(over))
        another = sfn.Condition.is_present("$.Executions[1]")
        return alone.next(sfn.Choice(self, "Is another one at it?").when(another, over).otherwise(look))

    def _task(self, workers: StreamFunction, name: str, payload: sfn.TaskInput) -> tasks.LambdaInvoke:
        task = tasks.LambdaInvoke(
            self, name, lambda_function=workers.function, payload=payload, payload_response_only=True
        )
        task.add_retry(errors=["States.ALL"], max_attempts=_ATTEMPTS, interval=_AGAIN, backoff_rate=2)
        return task
