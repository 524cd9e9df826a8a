"""The bucket that a deployment makes for what it extracts."""

from __future__ import annotations

from aws_cdk import Acknowledgment, Duration, RemovalPolicy, Validations
from aws_cdk import aws_s3 as s3
from constructs import Construct

_OLD_VERSIONS_KEPT = Duration.days(30)
_LOGS_KEPT = Duration.days(90)


def data_bucket(scope: Construct, name: str) -> s3.Bucket:
    """A bucket with versions, encryption and logs of access, reached by TLS alone and by nobody from outside. It stays
    when the stack goes."""
    logs = s3.Bucket(
        scope,
        "AccessLogs",
        encryption=s3.BucketEncryption.S3_MANAGED,
        block_public_access=s3.BlockPublicAccess.BLOCK_ALL,
        enforce_ssl=True,
        lifecycle_rules=[s3.LifecycleRule(expiration=_LOGS_KEPT)],
        removal_policy=RemovalPolicy.RETAIN,
    )
    Validations.of(logs).acknowledge(
        Acknowledgment(id="AwsSolutions-S1", reason="It is where logs of access go; its own would go to itself.")
    )
    bucket = s3.Bucket(
        scope,
        "Data",
        bucket_name=name,
        versioned=True,
        encryption=s3.BucketEncryption.S3_MANAGED,
        block_public_access=s3.BlockPublicAccess.BLOCK_ALL,
        enforce_ssl=True,
        server_access_logs_bucket=logs,
        lifecycle_rules=[
            s3.LifecycleRule(
                noncurrent_version_expiration=_OLD_VERSIONS_KEPT,
                abort_incomplete_multipart_upload_after=Duration.days(1),
            )
        ],
        removal_policy=RemovalPolicy.RETAIN,
    )
    made = bucket.node.default_child
    assert isinstance(made, s3.CfnBucket)
    # On the resource itself: the construct's own way deploys a function of the CDK's that does it.
    made.notification_configuration = s3.CfnBucket.NotificationConfigurationProperty(
        event_bridge_configuration=s3.CfnBucket.EventBridgeConfigurationProperty(event_bridge_enabled=True)
    )
    return bucket
