"""What an operator is told when an AWS target cannot work."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import closing

import pytest
from botocore.stub import Stubber

from docdb_stream.context import Deadline, deadline
from docdb_stream.errors import TargetError
from docdb_stream.local import AwsServer
from docdb_stream.targets.eventbridge import EventBridgeTarget
from docdb_stream.targets.firehose import FirehoseTarget
from docdb_stream.targets.kinesis import KinesisTarget
from docdb_stream.targets.s3 import S3Target
from docdb_stream.targets.sns import SnsTarget
from docdb_stream.targets.sqs import SqsTarget
from docdb_stream.testing.events import ChangeLog

AwsTarget = KinesisTarget | FirehoseTarget | SqsTarget | SnsTarget | EventBridgeTarget | S3Target
VARIABLES = (
    "KINESIS_STREAM",
    "FIREHOSE_STREAM",
    "SQS_QUERY_URL",
    "SNS_TOPIC_ARN_EVENT",
    "EVENTBRIDGE_BUS",
    "BUCKET_NAME",
)

# Target -> how it is made, the operation it writes with, the operation it checks with, and the two IAM actions.
TARGETS: dict[str, tuple[Callable[[], AwsTarget], str, str, str, str]] = {
    "kinesis": (
        lambda: KinesisTarget("absent"),
        "put_records",
        "describe_stream_summary",
        "kinesis:PutRecords",
        "kinesis:DescribeStreamSummary",
    ),
    "firehose": (
        lambda: FirehoseTarget("absent"),
        "put_record_batch",
        "describe_delivery_stream",
        "firehose:PutRecordBatch",
        "firehose:DescribeDeliveryStream",
    ),
    "sqs": (
        lambda: SqsTarget("https://sqs.us-east-1.amazonaws.com/000000000000/absent.fifo"),
        "get_queue_attributes",
        "get_queue_attributes",
        "sqs:GetQueueAttributes",
        "sqs:GetQueueAttributes",
    ),
    "sns": (
        lambda: SnsTarget("arn:aws:sns:us-east-1:000000000000:absent.fifo"),
        "get_topic_attributes",
        "get_topic_attributes",
        "sns:GetTopicAttributes",
        "sns:GetTopicAttributes",
    ),
    "eventbridge": (
        lambda: EventBridgeTarget("absent"),
        "put_events",
        "describe_event_bus",
        "events:PutEvents",
        "events:DescribeEventBus",
    ),
    "s3": (lambda: S3Target("absent"), "put_object", "head_bucket", "s3:PutObject", "s3:ListBucket"),
}


def deliver(target: AwsTarget) -> None:
    target.write(ChangeLog().inserts(1))
    target.flush()


@pytest.fixture(params=TARGETS)
def made(request: pytest.FixtureRequest) -> Iterator[tuple[AwsTarget, str, str, str, str]]:
    make, *operations = TARGETS[request.param]
    with closing(make()) as target:
        yield target, *operations  # type: ignore[misc]


@pytest.fixture
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")


@pytest.fixture
def no_patience() -> Iterator[None]:
    with deadline(Deadline.after(None, patience_s=0)):
        yield


@pytest.mark.integration
@pytest.mark.usefixtures("aws_environment")
def test_nothing_there(made: tuple[AwsTarget, str, str, str, str]) -> None:
    target = made[0]
    for attempt in (target.check, lambda: deliver(target)):
        with pytest.raises(TargetError, match="absent") as caught:
            attempt()
        assert "create it in this account and region with `aws " in caught.value.hint
        assert any(name in caught.value.hint for name in VARIABLES)


@pytest.mark.usefixtures("credentials")
@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("AccessDeniedException", "allow {action} on it for this IAM role"),
        ("403", "allow {action} on it for this IAM role"),
        ("InvalidClientTokenId", "credentials are wrong or expired"),
        ("ExpiredToken", "credentials are wrong or expired"),
        ("PermanentRedirect", "another region: set AWS_REGION"),
        ("AuthorizationError", "allow {action} on it for this IAM role"),
        ("KMS.DisabledException", "KMS key refuses"),
        ("InvalidKMSResourceException", "KMS key refuses"),
        ("KMSThrottling", "nothing is lost"),
        ("ProvisionedThroughputExceededException", "nothing is lost"),
        ("SomethingNew", "see the message of {action} in the log at level DEBUG"),
    ],
)
@pytest.mark.usefixtures("no_patience")
def test_refused(made: tuple[AwsTarget, str, str, str, str], code: str, said: str) -> None:
    target, write, check, write_action, check_action = made
    for operation, action, attempt in (
        (check, check_action, target.check),
        (write, write_action, lambda: deliver(target)),
    ):
        with Stubber(target._client) as stub:
            stub.add_client_error(operation, code, "the service's own text, which may hold a document")
            with pytest.raises(TargetError) as caught:
                attempt()
        assert str(caught.value).endswith(f": {code}")
        assert said.format(action=action) in caught.value.hint
        assert "\n" not in str(caught.value) + caught.value.hint


@pytest.mark.usefixtures("credentials", "no_patience")
def test_endpoint_out_of_reach(made: tuple[AwsTarget, str, str, str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
    target = made[0]
    for attempt in (target.check, lambda: deliver(target)):
        with pytest.raises(TargetError, match="EndpointConnectionError") as caught:
            attempt()
        assert "network reaches AWS" in caught.value.hint


@pytest.mark.usefixtures("credentials", "no_patience")
def test_endpoint_that_is_none(made: tuple[AwsTarget, str, str, str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "not a url")
    for attempt in (made[0].check, lambda: deliver(made[0])):
        with pytest.raises(TargetError, match="ValueError"):
            attempt()


@pytest.mark.usefixtures("credentials")
def test_no_credentials(made: tuple[AwsTarget, str, str, str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nonexistent")
    for attempt in (made[0].check, lambda: deliver(made[0])):
        with pytest.raises(TargetError, match="NoCredentialsError") as caught:
            attempt()
        assert "IAM role" in caught.value.hint


@pytest.mark.usefixtures("credentials")
def test_no_region(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_DEFAULT_REGION")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nonexistent")
    for target in (KinesisTarget("orders"), SqsTarget("http://127.0.0.1:1/0/orders")):
        for attempt in (target.check, lambda target=target: deliver(target)):
            with pytest.raises(TargetError, match="NoRegionError") as caught:
                attempt()
            assert "AWS_REGION" in caught.value.hint
        target.close()


@pytest.mark.usefixtures("credentials")
def test_a_url_or_arn_names_the_region(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    for target in (
        SqsTarget("https://sqs.eu-central-1.amazonaws.com/000000000000/orders"),
        KinesisTarget("arn:aws:kinesis:eu-central-1:000000000000:stream/orders"),
        FirehoseTarget("arn:aws:firehose:eu-central-1:000000000000:deliverystream/orders"),
        SnsTarget("arn:aws:sns:eu-central-1:000000000000:orders"),
        EventBridgeTarget("arn:aws:events:eu-central-1:000000000000:event-bus/orders"),
    ):
        assert target._client.meta.region_name == "eu-central-1"
        target.close()


@pytest.mark.integration
@pytest.mark.usefixtures("aws_environment")
def test_check_finds_what_is_there(aws: AwsServer) -> None:
    kinesis, sqs, s3 = aws.client("kinesis"), aws.client("sqs"), aws.client("s3")
    firehose, sns, events = aws.client("firehose"), aws.client("sns"), aws.client("events")
    kinesis.create_stream(StreamName="checked", ShardCount=1)
    kinesis.get_waiter("stream_exists").wait(StreamName="checked", WaiterConfig={"Delay": 1})
    queue_url = sqs.create_queue(QueueName="checked")["QueueUrl"]
    s3.create_bucket(Bucket="checked")
    firehose.create_delivery_stream(DeliveryStreamName="checked")
    topic_arn = sns.create_topic(Name="checked")["TopicArn"]
    events.create_event_bus(Name="checked")
    for target in (
        KinesisTarget("checked"),
        FirehoseTarget("checked"),
        SqsTarget(queue_url),
        SnsTarget(topic_arn),
        EventBridgeTarget("checked"),
        S3Target("checked"),
    ):
        target.check()
        target.close()
    for client in (kinesis, sqs, s3, firehose, sns, events):
        client.close()
