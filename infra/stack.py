"""The stack: a function per stream, what starts them, and who hears of it when one fails."""

from __future__ import annotations

from aws_cdk import Acknowledgment, Aws, CfnOutput, Duration, Stack, Validations
from aws_cdk import aws_iam as iam
from aws_cdk import aws_lambda as lambda_
from aws_cdk import aws_sns as sns
from aws_cdk import aws_sqs as sqs
from constructs import Construct

from infra.alarms import Alarms
from infra.bucket import data_bucket
from infra.dashboard import StreamDashboard
from infra.function import StreamFunction
from infra.pipeline import PipelineMachine, load_by_event
from infra.plan import plans
from infra.settings import Deployment, DeploySettings
from infra.snapshots import SnapshotMachine
from infra.trigger import Schedule, dynamodb_mapping, event_source_mapping

_FAILURES_KEPT = Duration.days(14)
"""The longest that SQS keeps a message. They are records for the operator, not data: no event is in them."""


class DocdbStreamStack(Stack):
    """Everything that a config.ini describes. Knows no account and no region: one template fits all.

    Args:
        scope: The app.
        name: The stack's name.
        deployment: What config.ini says.
        package: Path of the package that ``make lambda`` builds.
    """

    def __init__(self, scope: Construct, name: str, *, deployment: Deployment, package: str) -> None:
        super().__init__(scope, name, description="docdb-stream: change streams to targets")
        # Without it, the CDK lets S3 write its logs of access by an access control list, which AWS advises against.
        self.node.set_context("@aws-cdk/aws-s3:serverAccessLogsUseBucketPolicy", True)
        deploy = deployment.deploy
        alerts = _alert_topic(self, deploy)
        failures = _failure_queue(self)
        code = lambda_.Code.from_asset(package)
        made = [
            StreamFunction(
                self,
                plan,
                deploy=deploy,
                network=deployment.network,
                code=code,
                alerts=alerts,
                failures=failures,
            )
            for plan in plans(deployment)
        ]
        if deploy.bucket:
            data_bucket(self, deploy.bucket)
        loads = {each.plan.stream: each for each in made if each.plan.work == "loads"}
        self.functions = [each for each in made if each.plan.work in ("runs", "records")]
        by_stream = [each for each in self.functions if each.plan.work == "runs" and not each.plan.is_extracted]
        if deploy.trigger == "schedule" and by_stream:
            schedule = Schedule(self, deploy, by_stream)
            CfnOutput(self, "TriggerTopicArn", value=schedule.topic.topic_arn, description="Starts every function")
            CfnOutput(self, "RuleName", value=schedule.rule.rule_name, description="The schedule")
        for function in self.functions:
            if function.plan.work == "records":
                dynamodb_mapping(function, deploy, failures)
            elif deploy.trigger == "esm":
                event_source_mapping(function, deploy)
        machines = [SnapshotMachine(each, deploy) for each in made if each.plan.work == "snapshots"]
        pipelines = []
        for function in self.functions:
            if function.plan.is_extracted:
                pipelines.append(PipelineMachine(function, loads[function.plan.stream], deploy, alerts))
            elif function.plan.stream in loads:
                load_by_event(loads[function.plan.stream], failures)
        alarms = Alarms(deploy, alerts)
        for function in self.functions:
            alarms.watch_function(function)
        for machine in machines:
            alarms.watch_machine(machine.workers, machine.machine, "Snapshot")
        for pipeline in pipelines:
            alarms.watch_machine(pipeline.loads, pipeline.machine, "Pipeline")
        alarms.watch_failures(failures)
        StreamDashboard(self, name, self.functions, failures, Duration.minutes(deploy.every_minutes))
        CfnOutput(self, "AlertTopicArn", value=alerts.topic_arn, description="Hears of every failure: subscribe to it")
        CfnOutput(self, "FailureQueueUrl", value=failures.queue_url, description="Invocations that were given up")


def _alert_topic(scope: Construct, deploy: DeploySettings) -> sns.ITopic:
    if deploy.alert_topic_arn:
        return sns.Topic.from_topic_arn(scope, "Alerts", deploy.alert_topic_arn)
    # Not encrypted at rest: alerts hold names, positions and errors, never a document or a credential, and CloudWatch
    # could not publish with SNS's own key. Who wants a key of their own gives an encrypted topic.
    topic = sns.Topic(scope, "Alerts", enforce_ssl=True)
    # A topic with a policy of its own has lost the default one, which lets the account's alarms publish.
    topic.add_to_resource_policy(
        iam.PolicyStatement(
            actions=["sns:Publish"],
            principals=[iam.ServicePrincipal("cloudwatch.amazonaws.com")],
            resources=[topic.topic_arn],
            conditions={"StringEquals": {"aws:SourceAccount": Aws.ACCOUNT_ID}},
        )
    )
    return topic


def _failure_queue(scope: Construct) -> sqs.Queue:
    queue = sqs.Queue(
        scope,
        "Failures",
        encryption=sqs.QueueEncryption.SQS_MANAGED,
        enforce_ssl=True,
        retention_period=_FAILURES_KEPT,
    )
    Validations.of(queue).acknowledge(
        Acknowledgment(id="AwsSolutions-SQS3", reason="It is itself where failures end: people read it.")
    )
    return queue
