"""One Lambda function: its code, role, log group, and what becomes of an invocation that failed."""

from __future__ import annotations

import re

from aws_cdk import Acknowledgment, Aws, Duration, RemovalPolicy, Validations
from aws_cdk import aws_iam as iam
from aws_cdk import aws_lambda as lambda_
from aws_cdk import aws_lambda_destinations as destinations
from aws_cdk import aws_logs as logs
from aws_cdk import aws_sns as sns
from aws_cdk import aws_sqs as sqs
from constructs import Construct

from docdb_stream.permissions import Permission
from infra.permissions import dynamodb_permission, esm_permissions, filled_in, network_permissions, permissions
from infra.plan import FunctionPlan
from infra.settings import DeploySettings, NetworkSettings

_HANDLERS = {
    ("schedule", "runs"): "docdb_stream.handlers.poller.handler",
    ("esm", "runs"): "docdb_stream.handlers.esm.handler",
    ("schedule", "snapshots"): "docdb_stream.handlers.snapshot.handler",
    ("schedule", "records"): "docdb_stream.handlers.dynamodb.handler",
    ("esm", "records"): "docdb_stream.handlers.dynamodb.handler",
}

_RETRIES = 1
"""Lambda repeats a failed run once, a minute later; after that the next run of the schedule is the retry. A run that
failed moved no checkpoint, so nothing depends on any one invocation."""

_PSEUDO_PARAMETER = re.compile(r"\$\{Token\[(AWS\.\w+)\.\d+\]\}")
"""How the CDK writes ``AWS::Region`` and the like in strings; cdk-nag writes ``<AWS::Region>``."""

_MIN_EVENT_AGE_S = 60
"""AWS Lambda API reference, PutFunctionEventInvokeConfig."""

_ALLOCATOR = {"MALLOC_ARENA_MAX": "2", "MALLOC_MMAP_THRESHOLD_": str(256 * 1024)}
"""glibc's malloc keeps a pool of freed memory for nearly every thread, and there is a thread for every target, reader
and lane; and it puts ever larger blocks into these pools once some have been freed. With two pools, and the bodies of
requests always outside of them, large documents take a quarter less memory at their peak (bench/NOTES.md). See
mallopt(3)."""


class StreamFunction(Construct):
    """The function of one stream.

    Args:
        scope: The stack.
        plan: What the function is.
        deploy: What holds for the whole deployment.
        network: Where it runs.
        code: The package.
        alerts: The topic that it tells its failures.
        failures: The queue of invocations that failed for good.
    """

    def __init__(
        self,
        scope: Construct,
        plan: FunctionPlan,
        *,
        deploy: DeploySettings,
        network: NetworkSettings,
        code: lambda_.Code,
        alerts: sns.ITopic,
        failures: sqs.IQueue,
    ) -> None:
        super().__init__(scope, plan.id)
        self.plan = plan
        self._network = network
        self._role = iam.Role(self, "Role", assumed_by=iam.ServicePrincipal("lambda.amazonaws.com"))
        log_group = logs.LogGroup(
            self,
            "Logs",
            log_group_name=f"/aws/lambda/{plan.name}",
            # Log lines hold no data. Kept, the group would be in the way of deploying the stack again.
            removal_policy=RemovalPolicy.DESTROY,
        )
        group = log_group.node.default_child
        assert isinstance(group, logs.CfnLogGroup)
        group.retention_in_days = plan.function.log_retention_days  # the construct takes names for numbers of days
        by_schedule = deploy.trigger == "schedule" and plan.work == "runs"
        self.function = lambda_.Function(
            self,
            "Function",
            function_name=plan.name,
            description=f"docdb-stream: {plan.stream} to {', '.join(plan.targets)}",
            code=code,
            handler=_HANDLERS[deploy.trigger, plan.work],
            runtime=lambda_.Runtime(f"python{deploy.python}", lambda_.RuntimeFamily.PYTHON),
            architecture=lambda_.Architecture.ARM_64 if deploy.architecture == "arm64" else lambda_.Architecture.X86_64,
            memory_size=plan.function.memory_mb,
            timeout=Duration.seconds(plan.function.timeout_seconds),
            environment={**_ALLOCATOR, "SNS_TOPIC_ARN_ALERT": alerts.topic_arn, **plan.environment()},
            role=self._role,
            log_group=log_group,
            reserved_concurrent_executions=plan.concurrency,
            # These three are about asynchronous invocations. An event source mapping invokes synchronously, and repeats
            # a batch until it succeeds: DocumentDB's has neither a limit of retries nor a failure destination. So do
            # the steps of a state machine, which repeat by themselves.
            retry_attempts=_RETRIES if by_schedule else None,
            # What waited for a whole period has been overtaken by the next run.
            max_event_age=Duration.seconds(max(_MIN_EVENT_AGE_S, deploy.every_minutes * 60)) if by_schedule else None,
            on_failure=destinations.SqsDestination(failures) if by_schedule else None,
        )
        Validations.of(self.function).acknowledge(
            Acknowledgment(
                id="AwsSolutions-L1",
                reason="[deploy] python chooses: the package is built for that one, and tested on it.",
            )
        )
        self._allow(Permission(("logs:CreateLogStream", "logs:PutLogEvents"), (log_group.log_group_arn,)))
        self._allow(Permission(("sns:Publish",), (plan.settings.sns_topic_arn_alert or alerts.topic_arn,)))
        for permission in permissions(plan):
            self._allow(permission)
        if network.subnets:
            self._join_network()
        if plan.function.dynamodb_stream_arn:
            self._allow(dynamodb_permission(plan.function.dynamodb_stream_arn))
            self._allow(Permission(("sqs:SendMessage",), (failures.queue_arn,)))
        elif deploy.trigger == "esm" and deploy.cluster_arn:
            for permission in esm_permissions(deploy.cluster_arn):
                self._allow(permission)
            if not network.subnets:  # Lambda reads the cluster from the cluster's own network
                self._allow_network()

    def _join_network(self) -> None:
        function = self.function.node.default_child
        assert isinstance(function, lambda_.CfnFunction)
        # By id, on the resource itself: the construct's own way asks for the VPC, and looks it up in the account.
        function.vpc_config = lambda_.CfnFunction.VpcConfigProperty(
            subnet_ids=list(self._network.subnets), security_group_ids=list(self._network.security_groups)
        )
        self._allow_network()

    def _allow_network(self) -> None:
        arn = f"arn:{Aws.PARTITION}:lambda:{Aws.REGION}:{Aws.ACCOUNT_ID}:function:{self.plan.name}"
        for permission in network_permissions(arn):
            self._allow(permission)

    def _allow(self, permission: Permission) -> None:
        permission = filled_in(permission, self.plan)
        self._role.add_to_policy(
            iam.PolicyStatement(
                effect=iam.Effect.DENY if permission.effect == "Deny" else iam.Effect.ALLOW,
                actions=list(permission.actions),
                resources=list(permission.resources),
                conditions=dict(permission.conditions) or None,
            )
        )
        if permission.why_pattern:
            for resource in permission.resources:
                name = _PSEUDO_PARAMETER.sub(lambda found: f"<{found[1].replace('.', '::')}>", resource)
                Validations.of(self._role).acknowledge(
                    Acknowledgment(id=f"AwsSolutions-IAM5[Resource::{name}]", reason=permission.why_pattern)
                )
