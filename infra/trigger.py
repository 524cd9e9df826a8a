"""What starts the functions: a schedule through a topic, or an event source mapping of each."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence

from aws_cdk import Aws, Duration, Stack
from aws_cdk import aws_events as events
from aws_cdk import aws_events_targets as targets
from aws_cdk import aws_iam as iam
from aws_cdk import aws_lambda as lambda_
from aws_cdk import aws_sns as sns
from aws_cdk import aws_sns_subscriptions as subscriptions
from aws_cdk import aws_sqs as sqs
from constructs import Construct

from docdb_stream.mongodb.pipeline import images
from infra.function import StreamFunction
from infra.settings import DeploySettings

_ESM_BATCH_EVENTS = 10_000
"""AWS Lambda developer guide, DocumentDB: the most a batch may hold; the 6 MB of an invocation usually end it first."""


class Schedule(Construct):
    """EventBridge's clock -> the trigger topic -> every function, as in the AWS sample. Off until it is enabled."""

    def __init__(self, scope: Construct, deploy: DeploySettings, functions: Sequence[StreamFunction]) -> None:
        super().__init__(scope, "Schedule")
        self.topic = trigger_topic(self, deploy)
        for function in functions:
            self.topic.add_subscription(subscriptions.LambdaSubscription(function.function))
        # Who owns a topic has its policy let EventBridge publish. Ours is published to by a role that this rule alone
        # can take: EventBridge's user guide ("Amazon SNS permissions") knows no Condition in a topic's policy, and
        # without one it would let the rules of every account publish.
        role = None if deploy.trigger_topic_arn else self._role()
        self.rule = events.Rule(
            self,
            "Rule",
            description="Starts the functions of docdb-stream, through the trigger topic",
            schedule=events.Schedule.rate(Duration.minutes(deploy.every_minutes)),
            enabled=deploy.enabled,
            targets=[targets.SnsTopic(self.topic, role=role)],
        )

    def _role(self) -> iam.Role:
        # By the pattern of the rule's name, which CloudFormation begins with the stack's: the rule names the role, so
        # the role cannot name the rule.
        rules = f"arn:{Aws.PARTITION}:events:{Aws.REGION}:{Aws.ACCOUNT_ID}:rule/{Stack.of(self).stack_name}-*"
        service = iam.ServicePrincipal(
            "events.amazonaws.com",
            conditions={
                "ArnLike": {"aws:SourceArn": rules},
                "StringEquals": {"aws:SourceAccount": Aws.ACCOUNT_ID},
            },
        )
        return iam.Role(self, "Role", assumed_by=service, description="Publishes the clock's ticks")


def trigger_topic(scope: Construct, deploy: DeploySettings) -> sns.ITopic:
    """The topic that starts the functions: the given one, whose policy must let EventBridge publish, or a new one."""
    if deploy.trigger_topic_arn:
        return sns.Topic.from_topic_arn(scope, "Topic", deploy.trigger_topic_arn)
    # Not encrypted at rest: it carries the clock's ticks, and EventBridge could not publish with SNS's own key.
    return sns.Topic(scope, "Topic", enforce_ssl=True)


def dynamodb_mapping(
    function: StreamFunction, deploy: DeploySettings, failures: sqs.IQueue
) -> lambda_.CfnEventSourceMapping:
    """The mapping by which Lambda reads a table's stream and hands the function batches. What fails is tried again as
    long as the stream keeps it (24 hours); then the failures' queue is told which records those were."""
    settings, own = function.plan.settings, function.plan.function
    mapping = lambda_.CfnEventSourceMapping
    return mapping(
        function,
        "Source",
        function_name=function.function.function_name,
        event_source_arn=own.dynamodb_stream_arn,
        enabled=deploy.enabled,
        batch_size=min(settings.batch_size, _ESM_BATCH_EVENTS),
        maximum_batching_window_in_seconds=own.batch_window_seconds,
        parallelization_factor=own.dynamodb_parallel,
        starting_position="TRIM_HORIZON" if settings.start_at == "earliest" else "LATEST",
        bisect_batch_on_function_error=True,
        function_response_types=["ReportBatchItemFailures"],
        destination_config=mapping.DestinationConfigProperty(
            on_failure=mapping.OnFailureProperty(destination=failures.queue_arn)
        ),
    )


def event_source_mapping(function: StreamFunction, deploy: DeploySettings) -> lambda_.CfnEventSourceMapping:
    """The mapping by which Lambda itself reads the stream and hands the function batches."""
    settings = function.plan.settings
    starts_at = settings.start_at
    return lambda_.CfnEventSourceMapping(
        function,
        "Source",
        function_name=function.function.function_name,
        event_source_arn=deploy.cluster_arn,
        enabled=deploy.enabled,
        batch_size=min(settings.batch_size, _ESM_BATCH_EVENTS),
        maximum_batching_window_in_seconds=function.plan.function.batch_window_seconds,
        starting_position={"now": "LATEST", "earliest": "TRIM_HORIZON"}.get(str(starts_at), "AT_TIMESTAMP"),
        starting_position_timestamp=starts_at.timestamp() if isinstance(starts_at, dt.datetime) else None,
        document_db_event_source_config=lambda_.CfnEventSourceMapping.DocumentDBEventSourceConfigProperty(
            database_name=settings.watched_db_name,
            collection_name=settings.watched_collection_name,
            full_document="UpdateLookup" if "fullDocument" in images(settings) else "Default",
        ),
        source_access_configurations=[
            lambda_.CfnEventSourceMapping.SourceAccessConfigurationProperty(
                type="BASIC_AUTH", uri=settings.documentdb_secret
            )
        ],
    )
