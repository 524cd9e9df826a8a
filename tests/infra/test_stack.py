"""The stack: what a config.ini becomes, resource by resource."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from docdb_stream.errors import ConfigError
from docdb_stream.metrics import run_metrics
from docdb_stream.registry import TARGETS, target_class
from docdb_stream.result import RunResult
from docdb_stream.settings import Settings
from infra.settings import Deployment

Template = dict[str, Any]
Synthesize = Callable[..., Template]

ACCOUNT = "123456789012"
NETWORK = (
    "[network]\nsubnets = subnet-0123456789abcdef0, subnet-0123456789abcdef1\nsecurity_groups = sg-0123456789abcdef0"
)
CLUSTER_ARN = f"arn:aws:rds:eu-central-1:{ACCOUNT}:cluster:shop"
SECRET_ARN = f"arn:aws:secretsmanager:eu-central-1:{ACCOUNT}:secret:reader-AbCdEf"
PIPELINE = """\
bucket_name = shop-changes
bucket_path = lake/
s3_format = parquet
warehouse_uri = redshift://cluster.example:5439/shop
warehouse_secret = warehouse/loader
documentdb_secret = docdb/reader
"""
DYNAMODB_ARN = f"arn:aws:dynamodb:eu-central-1:{ACCOUNT}:table/Orders/stream/2026-01-31T12:00:00.000"
OPENSEARCH = (
    "elasticsearch_uri = https://vpc-shop-search-abcdefghij0123456789klmnop.eu-central-1.es.amazonaws.com\n"
    "documentdb_secret = docdb/reader\n"
)
EVERYTHING = f"""\
kinesis_stream = changes
sqs_query_url = https://sqs.eu-west-1.amazonaws.com/{ACCOUNT}/shop.fifo
msk_bootstrap_srv = b-1:9096
kafka_secret = AmazonMSK_writer
elasticsearch_uri = https://vpc-shop-search-abcdefghij0123456789klmnop.eu-central-1.es.amazonaws.com
bucket_name = shop-changes
bucket_path = changes
documentdb_secret = docdb/reader
documentdb_tls_ca = s3://certificates/global-bundle.pem
dead_letters = s3://letters/refused/
stdout = true
"""


def only(template: Template, kind: str) -> Template:
    (found,) = every(template, kind)
    return found


def every(template: Template, kind: str) -> list[Template]:
    return [each["Properties"] for each in template["Resources"].values() if each["Type"] == kind]


def text(value: Any) -> str:
    """A value of the template with its references written out: ``arn:<AWS::Partition>:...``."""
    match value:
        case {"Ref": name}:
            return f"<{name}>"
        case {"Fn::GetAtt": [name, attribute]}:
            return f"<{name}.{attribute}>"
        case {"Fn::Join": [separator, parts]}:
            return str(separator).join(text(part) for part in parts)
    return str(value)


def allowed(template: Template, effect: str = "Allow", of: str = "") -> dict[str, set[str]]:
    """Action -> the resources it is allowed on, of all roles, or of those with ``of`` in their names."""
    found: dict[str, set[str]] = {}
    for policy in every(template, "AWS::IAM::Policy"):
        if of not in policy["PolicyName"]:
            continue
        for statement in policy["PolicyDocument"]["Statement"]:
            actions, resources = (
                each if isinstance(each, list) else [each] for each in (statement["Action"], statement["Resource"])
            )
            for action in actions:
                if statement["Effect"] == effect:
                    found.setdefault(action, set()).update(text(resource) for resource in resources)
    return found


def reference(template: Template, kind: str, attribute: str = "", part: str = "") -> str:
    (name,) = [name for name, each in template["Resources"].items() if each["Type"] == kind and part in name]
    return f"<{name}.{attribute}>" if attribute else f"<{name}>"


# The schedule


def test_the_clock_starts_the_functions_through_the_topic(template: Synthesize):
    made = template()
    rule = only(made, "AWS::Events::Rule")
    assert (rule["ScheduleExpression"], rule["State"]) == ("rate(2 minutes)", "DISABLED")
    topic = reference(made, "AWS::SNS::Topic", part="Schedule")
    assert [text(target["Arn"]) for target in rule["Targets"]] == [topic]
    subscription = only(made, "AWS::SNS::Subscription")
    assert (subscription["Protocol"], text(subscription["TopicArn"])) == ("lambda", topic)
    function = reference(made, "AWS::Lambda::Function", "Arn")
    assert text(subscription["Endpoint"]) == function
    permission = only(made, "AWS::Lambda::Permission")
    assert (permission["Principal"], text(permission["SourceArn"])) == ("sns.amazonaws.com", topic)


def test_no_other_account_can_start_the_functions(template: Synthesize):
    """EventBridge would publish for the rules of anybody, if the topic's policy let it."""
    made = template()
    allowed_by_topics = [
        statement
        for policy in every(made, "AWS::SNS::TopicPolicy")
        for statement in policy["PolicyDocument"]["Statement"]
        if statement["Effect"] == "Allow"
    ]
    assert [statement["Principal"] for statement in allowed_by_topics] == [{"Service": "cloudwatch.amazonaws.com"}]
    assert all("aws:SourceAccount" in str(statement["Condition"]) for statement in allowed_by_topics)
    role_of_the_clock = text(only(made, "AWS::Events::Rule")["Targets"][0]["RoleArn"])
    assert role_of_the_clock == reference(made, "AWS::IAM::Role", "Arn", part="ScheduleRole")
    [trust] = [
        statement
        for role in every(made, "AWS::IAM::Role")
        for statement in role["AssumeRolePolicyDocument"]["Statement"]
        if statement["Principal"] == {"Service": "events.amazonaws.com"}
    ]
    assert text(trust["Condition"]["StringEquals"]["aws:SourceAccount"]) == "<AWS::AccountId>"
    assert text(trust["Condition"]["ArnLike"]["aws:SourceArn"]) == (
        "arn:<AWS::Partition>:events:<AWS::Region>:<AWS::AccountId>:rule/docdb-stream-*"
    )
    assert reference(made, "AWS::SNS::Topic", part="Schedule") in allowed(made)["sns:Publish"]


def test_period_and_state_can_be_set(template: Synthesize):
    rule = only(template(deploy="every_minutes = 1\nenabled = true\ntimeout_seconds = 60"), "AWS::Events::Rule")
    assert (rule["ScheduleExpression"], rule["State"]) == ("rate(1 minute)", "ENABLED")


def test_existing_topics_are_taken_instead(template: Synthesize):
    trigger, alert = (f"arn:aws:sns:eu-central-1:{ACCOUNT}:{name}" for name in ("trigger", "alert"))
    made = template(deploy=f"trigger_topic_arn = {trigger}\nalert_topic_arn = {alert}")
    assert not every(made, "AWS::SNS::Topic")
    target = only(made, "AWS::Events::Rule")["Targets"][0]
    assert (target["Arn"], "RoleArn" in target) == (trigger, False), "its owner's policy lets EventBridge publish"
    assert only(made, "AWS::Lambda::Function")["Environment"]["Variables"]["SNS_TOPIC_ARN_ALERT"] == alert
    assert {action for alarm in every(made, "AWS::CloudWatch::Alarm") for action in alarm["AlarmActions"]} == {alert}
    assert allowed(made)["sns:Publish"] == {alert}


def test_a_stream_s_own_alert_topic_wins(template: Synthesize):
    own = f"arn:aws:sns:eu-central-1:{ACCOUNT}:orders"
    made = template(stream=f"stdout = true\nsns_topic_arn_alert = {own}")
    assert only(made, "AWS::Lambda::Function")["Environment"]["Variables"]["SNS_TOPIC_ARN_ALERT"] == own
    assert allowed(made, of="shoporders")["sns:Publish"] == {own}


# The functions


def test_one_function_per_stream(template: Synthesize):
    made = template(
        deploy="memory_mb = 1024\nlog_retention_days = 7",
        rest="[stream shop.carts]\nwatched_db_name = shop\nwatched_collection_name = carts\nbucket_name = b\n"
        "[deploy shop.carts]\nmemory_mb = 2048\ntimeout_seconds = 60",
    )
    functions = {function["FunctionName"]: function for function in every(made, "AWS::Lambda::Function")}
    assert set(functions) == {"docdb-stream-shop-orders", "docdb-stream-shop-carts"}
    orders, carts = functions["docdb-stream-shop-orders"], functions["docdb-stream-shop-carts"]
    assert orders["Handler"] == "docdb_stream.handlers.poller.handler"
    assert (orders["Runtime"], orders["Architectures"]) == ("python3.13", ["arm64"])
    assert (orders["MemorySize"], orders["Timeout"], carts["MemorySize"], carts["Timeout"]) == (1024, 120, 2048, 60)
    assert orders["ReservedConcurrentExecutions"] == carts["ReservedConcurrentExecutions"] == 1
    assert "VpcConfig" not in orders
    variables = carts["Environment"]["Variables"]
    assert text(variables.pop("SNS_TOPIC_ARN_ALERT")) == reference(made, "AWS::SNS::Topic", part="Alerts")
    assert variables == {
        "BUCKET_NAME": "b",
        "DOCUMENTDB_URI": "shop.cluster-abc.eu-central-1.docdb.amazonaws.com",
        "MALLOC_ARENA_MAX": "2",
        "MALLOC_MMAP_THRESHOLD_": "262144",
        "STREAM_NAME": "shop.carts",
        "WATCHED_COLLECTION_NAME": "carts",
        "WATCHED_DB_NAME": "shop",
    }
    groups = {group["LogGroupName"]: group["RetentionInDays"] for group in every(made, "AWS::Logs::LogGroup")}
    assert groups == {"/aws/lambda/docdb-stream-shop-orders": 7, "/aws/lambda/docdb-stream-shop-carts": 7}


def test_what_failed_for_good_goes_to_an_encrypted_queue(template: Synthesize):
    made = template()
    queue = only(made, "AWS::SQS::Queue")
    assert queue["SqsManagedSseEnabled"]
    assert queue["MessageRetentionPeriod"] == 14 * 24 * 60 * 60
    invoke = only(made, "AWS::Lambda::EventInvokeConfig")
    arn = reference(made, "AWS::SQS::Queue", "Arn")
    assert text(invoke["DestinationConfig"]["OnFailure"]["Destination"]) == arn
    assert (invoke["MaximumRetryAttempts"], invoke["MaximumEventAgeInSeconds"]) == (1, 120)
    assert allowed(made)["sqs:SendMessage"] == {arn}


def test_processor_and_python_can_be_set(template: Synthesize):
    function = only(template(deploy="architecture = x86_64\npython = 3.12"), "AWS::Lambda::Function")
    assert (function["Runtime"], function["Architectures"]) == ("python3.12", ["x86_64"])


def test_the_network_is_given_by_ids(template: Synthesize):
    made = template(rest=NETWORK)
    assert only(made, "AWS::Lambda::Function")["VpcConfig"] == {
        "SubnetIds": ["subnet-0123456789abcdef0", "subnet-0123456789abcdef1"],
        "SecurityGroupIds": ["sg-0123456789abcdef0"],
    }
    for action in ("ec2:CreateNetworkInterface", "ec2:DeleteNetworkInterface", "ec2:DescribeNetworkInterfaces"):
        assert allowed(made)[action] == allowed(made, "Deny")[action] == {"*"}
    (denied,) = [
        statement
        for policy in every(made, "AWS::IAM::Policy")
        for statement in policy["PolicyDocument"]["Statement"]
        if statement["Effect"] == "Deny"
    ]
    assert text(denied["Condition"]["ArnEquals"]["lambda:SourceFunctionArn"]).endswith(":docdb-stream-shop-orders")


def test_isolated_targets_get_functions_that_may_do_less(template: Synthesize):
    made = template(stream="kinesis_stream = changes\nbucket_name = b", deploy="isolate = true")
    variables = [function["Environment"]["Variables"] for function in every(made, "AWS::Lambda::Function")]
    assert [each["STREAM_NAME"] for each in variables] == ["shop.orders@kinesis", "shop.orders@s3"]
    of_functions = [policy for policy in every(made, "AWS::IAM::Policy") if "shoporders" in policy["PolicyName"]]
    policies = [json.dumps(policy) for policy in of_functions]
    assert [("kinesis:" in policy, "s3:" in policy) for policy in policies] == [(True, False), (False, True)]


# What they may do


def test_a_role_may_do_what_its_targets_need_on_exactly_those_resources(template: Synthesize):
    made = template(stream=EVERYTHING)
    here = "<AWS::Region>:<AWS::AccountId>"
    logs = reference(made, "AWS::Logs::LogGroup", "Arn")
    queue = f"arn:<AWS::Partition>:sqs:eu-west-1:{ACCOUNT}:shop.fifo"
    failures = reference(made, "AWS::SQS::Queue", "Arn")
    domain = f"arn:<AWS::Partition>:es:{here}:domain/shop-search"
    secrets = f"arn:<AWS::Partition>:secretsmanager:{here}:secret:"
    objects = {"arn:<AWS::Partition>:s3:::shop-changes/changes/*", "arn:<AWS::Partition>:s3:::letters/refused/*"}
    assert allowed(made, of="shoporders") == {
        "es:ESHttpDelete": {f"{domain}/_search/scroll"},
        "es:ESHttpPost": {f"{domain}/*"},
        "kinesis:DescribeStreamSummary": {f"arn:<AWS::Partition>:kinesis:{here}:stream/changes"},
        "kinesis:PutRecords": {f"arn:<AWS::Partition>:kinesis:{here}:stream/changes"},
        "logs:CreateLogStream": {logs},
        "logs:PutLogEvents": {logs},
        "s3:AbortMultipartUpload": objects,
        "s3:GetObject": {"arn:<AWS::Partition>:s3:::certificates/global-bundle.pem"},
        "s3:PutObject": objects,
        "secretsmanager:GetSecretValue": {f"{secrets}docdb/reader-??????", f"{secrets}AmazonMSK_writer-??????"},
        "sns:Publish": {reference(made, "AWS::SNS::Topic", part="Alerts")},
        "sqs:GetQueueAttributes": {queue, failures},
        "sqs:GetQueueUrl": {queue, failures},
        "sqs:SendMessage": {queue, failures},
    }
    assert not allowed(made, "Deny")


def test_a_role_without_targets_in_aws_may_only_log_alert_and_fail(template: Synthesize):
    assert set(allowed(template(stream="stdout = true"))) == {
        *("logs:CreateLogStream", "logs:PutLogEvents", "sns:Publish"),
        *("sqs:SendMessage", "sqs:GetQueueAttributes", "sqs:GetQueueUrl"),
    }


@pytest.mark.parametrize(
    ("stream", "action", "resource"),
    [
        (f"kinesis_stream = arn:aws:kinesis:eu-west-1:{ACCOUNT}:stream/x", "kinesis:PutRecords", "eu-west-1:"),
        (f"stdout = true\ndocumentdb_secret = {SECRET_ARN}", "secretsmanager:GetSecretValue", SECRET_ARN),
        (
            f"stdout = true\ndocumentdb_secret = {SECRET_ARN.removesuffix('-AbCdEf')}",
            *("secretsmanager:GetSecretValue", "secret:reader-??????"),
        ),
        (  # looks whole, and is not: the secret's name ends like that
            f"stdout = true\ndocumentdb_secret = {SECRET_ARN.removesuffix('reader-AbCdEf')}shop-reader",
            *("secretsmanager:GetSecretValue", "secret:shop-reader-??????"),
        ),
        (
            "stdout = true\ndocumentdb_secret = shop-reader",
            *("secretsmanager:GetSecretValue", "secret:shop-reader-??????"),
        ),
        ("bucket_name = b", "s3:PutObject", ":::b/*"),
        (
            "elasticsearch_uri = https://abc.eu-central-1.aoss.amazonaws.com\nopensearch_service = aoss",
            *("aoss:APIAccessAll", ":collection/abc"),
        ),
        (
            f"stdout = true\ndead_letters = https://sqs.eu-central-1.amazonaws.com/{ACCOUNT}/letters",
            *("sqs:SendMessage", f"{ACCOUNT}:letters"),
        ),
    ],
)
def test_resources_by_name_arn_or_address(template: Synthesize, stream: str, action: str, resource: str):
    assert any(resource in each for each in allowed(template(stream=stream))[action])


def test_a_domain_whose_address_hides_its_name_is_named(template: Synthesize):
    own_host = "elasticsearch_uri = https://search.shop.example\nopensearch_auth = sigv4"
    with pytest.raises(ConfigError, match=r"shop\.orders") as caught:
        template(stream=own_host)
    assert "opensearch_domain" in caught.value.hint
    assert "domain/shop/*" in str(allowed(template(stream=own_host, deploy="opensearch_domain = shop")))
    assert "es:ESHttpPost" not in allowed(template(stream="elasticsearch_uri = https://search.shop.example"))


def test_customer_managed_keys(template: Synthesize):
    key = f"arn:aws:kms:eu-central-1:{ACCOUNT}:key/1-2"
    made = allowed(template(deploy=f"kms_keys = {key}"))
    assert made["kms:Decrypt"] == made["kms:GenerateDataKey"] == {key}


def test_there_are_permissions_for_every_built_in_target_in_aws():
    without = {name for name in TARGETS if not hasattr(target_class(name), "permissions")}
    assert without == {"kafka", "webhook", "file", "stdout"}, "two have no more than their secrets"


# What is watched


def test_alarms_tell_the_alert_topic(template: Synthesize):
    made = template(deploy="enabled = true\nlag_alarm_seconds = 600")
    topic = reference(made, "AWS::SNS::Topic", part="Alerts")
    alarms = {alarm["AlarmName"]: alarm for alarm in every(made, "AWS::CloudWatch::Alarm")}
    assert all([text(action) for action in alarm["AlarmActions"]] == [topic] for alarm in alarms.values())
    prefix = "docdb-stream-shop-orders-"
    shown = {
        name.removeprefix(prefix): (
            *(alarm["Namespace"], alarm["MetricName"], alarm["ComparisonOperator"], alarm["Threshold"]),
            *(alarm["EvaluationPeriods"], alarm["Period"], alarm["TreatMissingData"]),
        )
        for name, alarm in alarms.items()
    }
    above, below = "GreaterThanThreshold", "LessThanThreshold"
    assert shown == {
        "Errors": ("AWS/Lambda", "Errors", above, 0, 2, 120, "notBreaching"),
        "Throttles": ("AWS/Lambda", "Throttles", above, 0, 3, 120, "notBreaching"),
        "Lag": ("docdb-stream", "Lag", above, 600, 3, 120, "notBreaching"),
        "RetentionHeadroom": ("docdb-stream", "RetentionHeadroom", below, 50, 1, 120, "notBreaching"),
        "NotRun": ("AWS/Lambda", "Invocations", below, 1, 3, 120, "breaching"),
        "docdb-stream-failures-Depth": (
            *("AWS/SQS", "ApproximateNumberOfMessagesVisible", above, 0, 1, 60, "notBreaching"),
        ),
    }
    assert alarms[f"{prefix}Lag"]["Dimensions"] == [{"Name": "stream", "Value": "shop.orders"}]
    assert "ActionsEnabled" not in alarms[f"{prefix}NotRun"]


def test_nobody_is_woken_because_a_disabled_schedule_does_not_run(template: Synthesize):
    alarms = {alarm["AlarmName"]: alarm for alarm in every(template(), "AWS::CloudWatch::Alarm")}
    assert {name for name, alarm in alarms.items() if alarm.get("ActionsEnabled") is False} == {
        "docdb-stream-shop-orders-NotRun"
    }


def test_alarms_and_dashboard_use_metrics_that_exist(template: Synthesize):
    import datetime as dt

    from bson import Timestamp

    from docdb_stream.events import Position
    from docdb_stream.result import TargetFigures

    now = dt.datetime.now(dt.UTC)
    result = RunResult("s", lag_s=0.0, position=Position(operation_time=Timestamp(int(now.timestamp()), 1)))
    result.targets["kinesis"] = TargetFigures(writes=1)
    emitted = {metric.name for metric in run_metrics(result, Settings(documentdb_uri="mongodb://h/"), now)}
    made = template()
    used = {
        alarm["MetricName"] for alarm in every(made, "AWS::CloudWatch::Alarm") if alarm["Namespace"] == "docdb-stream"
    }
    body = text(only(made, "AWS::CloudWatch::Dashboard")["DashboardBody"])
    used |= set(re.findall(r'"docdb-stream","(\w+)"', body)) | set(re.findall(r'MetricName=\\+"(\w+)', body))
    assert {"Lag", "CheckpointAge", "RetentionHeadroom", "Events", "Rejections", "Retries", "TargetLatency"} <= used
    assert used <= emitted


def test_one_dashboard_with_a_row_per_stream(template: Synthesize):
    made = template(rest="[stream shop.*]\nwatched_db_name = shop\nstdout = true")
    dashboard = only(made, "AWS::CloudWatch::Dashboard")
    body = json.loads(re.sub(r"<[^>]+>", "x", text(dashboard["DashboardBody"])))
    titles = [widget["properties"]["title"] for widget in body["widgets"]]
    assert dashboard["DashboardName"] == "docdb-stream"
    assert len([title for title in titles if title.startswith("shop.orders: ")]) == 4
    assert len([title for title in titles if title.startswith("shop.*: ")]) == 4


# The other trigger


def test_an_event_source_mapping_instead_of_the_schedule(template: Synthesize):
    made = template(
        stream=f"kinesis_stream = changes\nstart_at = earliest\ndocumentdb_secret = {SECRET_ARN}",
        deploy=f"trigger = esm\ncluster_arn = {CLUSTER_ARN}\nbatch_window_seconds = 1",
        rest=NETWORK,
    )
    assert not every(made, "AWS::Events::Rule")
    assert not every(made, "AWS::SNS::Subscription")
    assert not every(made, "AWS::Lambda::EventInvokeConfig")
    assert only(made, "AWS::Lambda::Function")["Handler"] == "docdb_stream.handlers.esm.handler"
    mapping = only(made, "AWS::Lambda::EventSourceMapping")
    assert text(mapping.pop("FunctionName")) == reference(made, "AWS::Lambda::Function")
    assert mapping == {
        "BatchSize": 1000,
        "DocumentDBEventSourceConfig": {
            "CollectionName": "orders",
            "DatabaseName": "shop",
            "FullDocument": "UpdateLookup",
        },
        "Enabled": False,
        "EventSourceArn": CLUSTER_ARN,
        "MaximumBatchingWindowInSeconds": 1,
        "SourceAccessConfigurations": [{"Type": "BASIC_AUTH", "URI": SECRET_ARN}],
        "StartingPosition": "TRIM_HORIZON",
    }
    assert allowed(made)["rds:DescribeDBClusters"] == {CLUSTER_ARN}
    assert allowed(made)["secretsmanager:GetSecretValue"] == {SECRET_ARN, f"{SECRET_ARN}-??????"}
    names = {alarm["AlarmName"].rpartition("-")[2] for alarm in every(made, "AWS::CloudWatch::Alarm")}
    assert names == {"Errors", "Throttles", "Lag", "RetentionHeadroom", "Depth"}


@pytest.mark.parametrize("setting", ["full_document = default", "operations = insert, delete"])
def test_a_mapping_looks_nothing_up_that_nobody_sees(template: Synthesize, setting: str):
    made = template(
        stream=f"kinesis_stream = changes\ndocumentdb_secret = {SECRET_ARN}\n{setting}",
        deploy=f"trigger = esm\ncluster_arn = {CLUSTER_ARN}",
        rest=NETWORK,
    )
    mapping = only(made, "AWS::Lambda::EventSourceMapping")
    assert mapping["DocumentDBEventSourceConfig"]["FullDocument"] == "Default"


# Snapshots in several functions


def test_workers_of_a_snapshot_are_started_side_by_side(template: Synthesize):
    made = template(stream=OPENSEARCH, deploy="snapshot_parallel = 4\nenabled = true")
    by_handler = {each["Handler"].split(".")[-2]: each for each in every(made, "AWS::Lambda::Function")}
    assert by_handler.keys() == {"poller", "snapshot"}
    run, worker = by_handler["poller"], by_handler["snapshot"]
    assert (run["ReservedConcurrentExecutions"], worker["ReservedConcurrentExecutions"]) == (1, 4)
    for each in (run, worker):
        assert each["Environment"]["Variables"]["SNAPSHOT_SHARED"] == "true"
        assert each["Environment"]["Variables"]["SNAPSHOT_RANGES"] == "4"
    states = json.loads(
        re.sub(r"<[^>]*>", "x", text(only(made, "AWS::StepFunctions::StateMachine")["DefinitionString"]))
    )
    side_by_side = states["States"]["Side by side"]
    assert side_by_side["ItemProcessor"]["ProcessorConfig"]["Mode"] == "DISTRIBUTED"
    assert side_by_side["MaxConcurrency"] == 4
    assert states["States"]["Workers"]["Result"] == {"workers": [0, 1, 2, 3]}
    rules = {each["Description"]: each for each in every(made, "AWS::Events::Rule")}
    assert {each["State"] for each in rules.values()} == {"ENABLED"}
    assert any("SnapshotFailed" in each["AlarmName"] for each in every(made, "AWS::CloudWatch::Alarm"))
    topic_subscriptions = every(made, "AWS::SNS::Subscription")
    assert len(topic_subscriptions) == 1  # the clock's topic starts the run alone


@pytest.mark.parametrize(
    ("stream", "deploy", "told"),
    [
        ("kinesis_stream = changes", "snapshot_parallel = 4", "kinesis of shop.orders keeps no versions"),
        (OPENSEARCH + "schema_policy = stop", "snapshot_parallel = 4", "keeps no schema ledger"),
    ],
)
def test_snapshots_that_several_functions_cannot_share(template: Synthesize, stream: str, deploy: str, told: str):
    with pytest.raises(ConfigError) as caught:
        template(stream=stream, deploy=deploy)
    assert any(told in problem for problem in caught.value.problems)


# The pipeline into a warehouse


def states_of(template: Template) -> dict[str, Any]:
    found = text(only(template, "AWS::StepFunctions::StateMachine")["DefinitionString"])
    states: dict[str, Any] = json.loads(re.sub(r"<[^>]*>", "x", found))["States"]
    return states


def test_a_pipeline_extracts_then_loads(template: Synthesize):
    made = template(stream=PIPELINE, deploy="pipeline = true\nenabled = true")
    handlers = {each["Handler"].split(".")[-2] for each in every(made, "AWS::Lambda::Function")}
    assert handlers == {"poller", "load"}
    assert {each["ReservedConcurrentExecutions"] for each in every(made, "AWS::Lambda::Function")} == {1}
    states = states_of(made)
    extract, load = states["Extract"], states["Load"]
    assert [each["Next"] for each in (*extract["Catch"], *load["Catch"])] == ["Tell", "Tell"]
    assert states["Tell"]["Next"] == "Failed"
    more = states[extract["Next"]]
    assert more["Default"] == "Load"
    assert [each["StringEquals"] for each in more["Choices"][0]["Or"]] == ["max-loop", "deadline"]
    assert more["Choices"][0]["Next"] == "Extract"
    assert states[load["Next"]]["Choices"][0] == {"Variable": "$.waiting", "NumericGreaterThan": 0, "Next": "Load"}
    [rule] = every(made, "AWS::Events::Rule")
    assert (rule["ScheduleExpression"], rule["State"]) == ("rate(2 minutes)", "ENABLED")
    assert every(made, "AWS::SNS::Subscription") == []  # no other clock starts the run
    assert any("PipelineFailed" in each["AlarmName"] for each in every(made, "AWS::CloudWatch::Alarm"))


def test_each_manifest_starts_the_load(template: Synthesize):
    made = template(stream=PIPELINE, deploy="pipeline = events")
    [rule] = [each for each in every(made, "AWS::Events::Rule") if "EventPattern" in each]
    assert rule["EventPattern"] == {
        "source": ["aws.s3"],
        "detail-type": ["Object Created"],
        "detail": {
            "bucket": {"name": ["shop-changes"]},
            "object": {"key": [{"prefix": "lake/_manifests/shop.orders/"}]},
        },
    }
    [target] = rule["Targets"]
    assert text(target["DeadLetterConfig"]["Arn"]) == reference(made, "AWS::SQS::Queue", "Arn")
    assert len(every(made, "AWS::SNS::Subscription")) == 1  # the run is started by the clock as ever


def test_a_load_may_read_what_is_extracted_and_no_more(template: Synthesize):
    made = template(stream=PIPELINE, deploy="pipeline = true")
    found = allowed(made, of="loads")
    bucket = "arn:<AWS::Partition>:s3:::shop-changes"
    assert found["s3:GetObject"] == {f"{bucket}/lake/*"}
    assert found["s3:ListBucket"] == {bucket}
    assert found["s3:PutObject"] == found["s3:DeleteObject"] == {f"{bucket}/lake/_load/*"}
    [secret] = found["secretsmanager:GetSecretValue"]
    assert secret.endswith(":secret:warehouse/loader-??????")


REDSHIFT = "arn:<AWS::Partition>:redshift:<AWS::Region>:<AWS::AccountId>"


@pytest.mark.parametrize(
    ("uri", "resources"),
    [
        (
            "redshift-data://loaders/shop",
            {
                "redshift-data:ExecuteStatement": {
                    f"{REDSHIFT.replace('redshift', 'redshift-serverless')}:workgroup/*"
                },
                "redshift-serverless:GetCredentials": {
                    f"{REDSHIFT.replace('redshift', 'redshift-serverless')}:workgroup/*"
                },
                "redshift-data:CancelStatement": {"*"},
                "redshift-data:DescribeStatement": {"*"},
                "redshift-data:GetStatementResult": {"*"},
            },
        ),
        (
            "redshift-data://loader@c/shop?cluster=true",
            {
                "redshift-data:ExecuteStatement": {f"{REDSHIFT}:cluster:c"},
                "redshift:GetClusterCredentials": {f"{REDSHIFT}:dbname:c/shop", f"{REDSHIFT}:dbuser:c/loader"},
                "redshift-data:CancelStatement": {"*"},
                "redshift-data:DescribeStatement": {"*"},
                "redshift-data:GetStatementResult": {"*"},
            },
        ),
        ("redshift://h/shop?cluster=c", {"redshift:GetClusterCredentialsWithIAM": {f"{REDSHIFT}:dbname:c/shop"}}),
        ("redshift://h/shop", {}),
    ],
)
def test_a_load_may_ask_redshift_for_its_own_and_no_more(template: Synthesize, uri: str, resources: dict[str, Any]):
    stream = re.sub(r"warehouse_uri = .*\nwarehouse_secret = .*", f"warehouse_uri = {uri}", PIPELINE)
    made = template(stream=stream, deploy="pipeline = true")
    found = allowed(made, of="loads")
    assert {action: found[action] for action in found if action.startswith("redshift")} == resources
    owners = re.findall(r'"redshift-data:statement-owner-iam-userid": "([^"]*)"', json.dumps(made))
    assert {*owners} == ({"${aws:userid}"} if "redshift-data:CancelStatement" in resources else set())


def test_a_load_by_the_data_api_may_read_the_secret_that_the_api_reads(template: Synthesize):
    stream = re.sub(r"warehouse_uri = .*", "warehouse_uri = redshift-data://loaders/shop", PIPELINE)
    found = allowed(template(stream=stream, deploy="pipeline = true"), of="loads")
    assert "redshift-serverless:GetCredentials" not in found
    assert [each.endswith(":secret:warehouse/loader-??????") for each in found["secretsmanager:GetSecretValue"]] == [
        True
    ]


def test_the_bucket_keeps_what_it_has_to_itself(template: Synthesize):
    made = template(stream=PIPELINE, deploy="pipeline = true\nbucket = shop-changes")
    [data] = [each for each in every(made, "AWS::S3::Bucket") if each.get("BucketName") == "shop-changes"]
    assert data["VersioningConfiguration"] == {"Status": "Enabled"}
    assert data["BucketEncryption"]["ServerSideEncryptionConfiguration"]
    assert set(data["PublicAccessBlockConfiguration"].values()) == {True}
    assert "DestinationBucketName" in data["LoggingConfiguration"]
    policies = [each["PolicyDocument"]["Statement"] for each in every(made, "AWS::S3::BucketPolicy")]
    assert all(
        any(
            each["Effect"] == "Deny" and each["Condition"] == {"Bool": {"aws:SecureTransport": "false"}}
            for each in part
        )
        for part in policies
    )
    kept = [each for each in made["Resources"].values() if each["Type"] == "AWS::S3::Bucket"]
    assert {each["DeletionPolicy"] for each in kept} == {"Retain"}


@pytest.mark.parametrize(
    ("stream", "deploy"),
    [
        ("kinesis_stream = changes", "pipeline = true"),
        ("bucket_name = b\ns3_format = parquet", "pipeline = events"),
        (f"{PIPELINE}", f"pipeline = true\ntrigger = esm\ncluster_arn = {CLUSTER_ARN}"),
    ],
)
def test_what_is_no_pipeline(template: Synthesize, stream: str, deploy: str):
    with pytest.raises(ConfigError) as caught:
        template(stream=stream, deploy=deploy)
    assert any("pipeline" in problem for problem in caught.value.problems)


# The stream of a table


def test_a_tables_stream_starts_its_function(template: Synthesize):
    made = template(
        stream=OPENSEARCH, deploy=f"dynamodb_stream_arn = {DYNAMODB_ARN}\ndynamodb_parallel = 4\nenabled = true"
    )
    function = only(made, "AWS::Lambda::Function")
    assert function["Handler"] == "docdb_stream.handlers.dynamodb.handler"
    assert "ReservedConcurrentExecutions" not in function
    mapping = only(made, "AWS::Lambda::EventSourceMapping")
    queue = reference(made, "AWS::SQS::Queue", "Arn")
    assert text(mapping.pop("FunctionName")) == reference(made, "AWS::Lambda::Function")
    assert text(mapping.pop("DestinationConfig")["OnFailure"]["Destination"]) == queue
    assert mapping == {
        "EventSourceArn": DYNAMODB_ARN,
        "Enabled": True,
        "BatchSize": 1000,
        "MaximumBatchingWindowInSeconds": 5,
        "ParallelizationFactor": 4,
        "StartingPosition": "LATEST",
        "BisectBatchOnFunctionError": True,
        "FunctionResponseTypes": ["ReportBatchItemFailures"],
    }
    assert allowed(made)["dynamodb:GetRecords"] == {DYNAMODB_ARN}
    assert queue in allowed(made)["sqs:SendMessage"]
    assert every(made, "AWS::Events::Rule") == []
    assert not any("NotRun" in each["AlarmName"] for each in every(made, "AWS::CloudWatch::Alarm"))


@pytest.mark.parametrize("start", ["snapshot", "2026-01-31T12:00:00Z"])
def test_a_tables_stream_begins_at_no_time(template: Synthesize, start: str):
    with pytest.raises(ConfigError) as caught:
        template(stream=f"{OPENSEARCH}start_at = {start}", deploy=f"dynamodb_stream_arn = {DYNAMODB_ARN}")
    assert any("now or earliest" in problem for problem in caught.value.problems)


# As others judge it

SHAPES: dict[str, dict[str, str]] = {
    "schedule": {"stream": EVERYTHING, "deploy": "enabled = true", "rest": NETWORK},
    "isolated": {"stream": EVERYTHING, "deploy": "isolate = true"},
    "esm": {
        "stream": f"kinesis_stream = changes\ndocumentdb_secret = {SECRET_ARN}\nstart_at = 2026-01-31T12:00:00Z",
        "deploy": f"trigger = esm\ncluster_arn = {CLUSTER_ARN}",
        "rest": NETWORK,
    },
    "pipeline": {"stream": PIPELINE, "deploy": "pipeline = true\nbucket = shop-changes", "rest": NETWORK},
    "events": {"stream": PIPELINE, "deploy": "pipeline = events\nbucket = shop-changes"},
    "records": {"stream": OPENSEARCH, "deploy": f"dynamodb_stream_arn = {DYNAMODB_ARN}"},
    "snapshots": {"stream": OPENSEARCH, "deploy": "snapshot_parallel = 4", "rest": NETWORK},
}


@pytest.mark.parametrize(
    "shape", ["schedule", *(pytest.param(other, marks=pytest.mark.long) for other in [*SHAPES][1:])]
)
def test_cfn_lint_finds_nothing(template: Synthesize, shape: str, tmp_path: Path):
    path = tmp_path / "template.json"
    path.write_text(json.dumps(template(**SHAPES[shape])), encoding="utf-8")
    linter = Path(sys.executable).with_name("cfn-lint")
    # W3005: the CDK makes a function depend on its role, which it names anyway.
    done = subprocess.run([linter, "--ignore-checks", "W3005", "--", path], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr


@pytest.mark.parametrize("shape", SHAPES)
def test_cdk_nag_finds_nothing_that_is_not_justified(
    deployment: Callable[..., Deployment], some_package: str, shape: str, tmp_path: Path
):
    from aws_cdk import App, Validations
    from cdk_nag import AwsSolutionsChecks

    from infra.stack import DocdbStreamStack

    app = App(outdir=str(tmp_path))
    Validations.of(app).add_plugins(AwsSolutionsChecks(app))
    DocdbStreamStack(app, "docdb-stream", deployment=deployment(**SHAPES[shape]), package=some_package)
    try:
        app.synth()
    except RuntimeError:
        report = (tmp_path / "validation-report.json").read_text(encoding="utf-8")
        pytest.fail(report)
