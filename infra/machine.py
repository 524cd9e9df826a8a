"""State machines: how one is made, that it runs alone, and how it has a function work.

Owns what all of them share. Which steps one has is ``snapshots``' and ``pipeline``'s.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from aws_cdk import Acknowledgment, Aws, CfnElement, Duration, RemovalPolicy, Stack, Validations
from aws_cdk import aws_events as events
from aws_cdk import aws_events_targets as targets
from aws_cdk import aws_logs as logs
from aws_cdk import aws_stepfunctions as sfn
from aws_cdk import aws_stepfunctions_tasks as tasks
from constructs import Construct

from infra.function import StreamFunction
from infra.settings import DeploySettings

AGAIN = Duration.seconds(10)
ATTEMPTS = 3
"""What a function has saved before it failed stays, so that trying again goes on from there."""


def clocked_machine(
    scope: Construct,
    name: str,
    states: sfn.IChainable,
    *,
    functions: Sequence[StreamFunction],
    deploy: DeploySettings,
    what: str,
    patterns: Mapping[str, str] = {},
) -> sfn.StateMachine:
    """A machine that the clock starts; logged and traced.

    Args:
        scope: Where it is made.
        name: Its name.
        states: Its steps.
        functions: Those that its steps have work.
        deploy: What holds for the whole deployment.
        what: What the clock's rule says of it.
        patterns: Further resources of its role that are patterns, and why; ``{runs}`` in them are its executions.
    """
    log_group = logs.LogGroup(
        scope, "Logs", log_group_name=f"/aws/vendedlogs/states/{name}", removal_policy=RemovalPolicy.DESTROY
    )
    group = log_group.node.default_child
    assert isinstance(group, logs.CfnLogGroup)
    group.retention_in_days = functions[0].plan.function.log_retention_days
    machine = sfn.StateMachine(
        scope,
        "StateMachine",
        state_machine_name=name,
        definition_body=sfn.DefinitionBody.from_chainable(states),
        tracing_enabled=True,
        logs=sfn.LogOptions(destination=log_group, level=sfn.LogLevel.ALL),
    )
    _acknowledge(machine, functions, patterns)
    events.Rule(
        scope,
        "Rule",
        description=what,
        schedule=events.Schedule.rate(Duration.minutes(deploy.every_minutes)),
        enabled=deploy.enabled,
        targets=[targets.SfnStateMachine(machine)],
    )
    return machine


def alone(scope: Construct, name: str, then: sfn.IChainable) -> sfn.Chain:
    """The steps ``then``, unless another execution of this machine is under way: the clock starts one whether or not
    the last is over."""
    here = f"{Aws.PARTITION}:states:{Aws.REGION}:{Aws.ACCOUNT_ID}"
    look = tasks.CallAwsService(
        scope,
        "Executions",
        service="sfn",
        action="listExecutions",
        iam_action="states:ListExecutions",
        iam_resources=[f"arn:{here}:stateMachine:{name}"],
        parameters={
            "StateMachineArn": sfn.JsonPath.string_at("$$.StateMachine.Id"),
            "StatusFilter": "RUNNING",
            "MaxResults": 2,
        },
    )
    another = sfn.Condition.is_present("$.Executions[1]")
    over = sfn.Succeed(scope, "Another one is")
    return look.next(sfn.Choice(scope, "Is another one at it?").when(another, over).otherwise(then))


def worked_by(
    scope: Construct, name: str, function: StreamFunction, payload: Mapping[str, object] | None = None
) -> tasks.LambdaInvoke:
    """The step in which a function works; what it returns is the step's output."""
    task = tasks.LambdaInvoke(
        scope,
        name,
        lambda_function=function.function,
        payload=sfn.TaskInput.from_object({**(payload or {})}),
        payload_response_only=True,
    )
    task.add_retry(errors=["States.ALL"], max_attempts=ATTEMPTS, interval=AGAIN, backoff_rate=2)
    return task


def _acknowledge(machine: sfn.StateMachine, functions: Sequence[StreamFunction], patterns: Mapping[str, str]) -> None:
    """Say why some permissions of the machine's role are patterns: the CDK grants them so."""
    stack = Stack.of(machine)

    def id_of(construct: Construct) -> str:
        element = construct.node.default_child
        assert isinstance(element, CfnElement)
        return stack.get_logical_id(element)

    name = f'{{"Fn::Select":[6,{{"Fn::Split":[":",{{"Ref":"{id_of(machine)}"}}]}}]}}'
    runs = f"arn:<AWS::Partition>:states:<AWS::Region>:<AWS::AccountId>:execution:{name}"
    reasons = {"*": "Deliveries of logs and X-Ray's actions take no resource."}
    reasons |= {f"<{id_of(each.function)}.Arn>:*": "Every version of the one function." for each in functions}
    reasons |= {resource.replace("{runs}", runs): reason for resource, reason in patterns.items()}
    for resource, reason in reasons.items():
        Validations.of(machine).acknowledge(
            Acknowledgment(id=f"AwsSolutions-IAM5[Resource::{resource}]", reason=reason)
        )
