"""What a function may do: exactly what its stream and targets need, on exactly those resources.

Owns the actions and the resources' names. A resource outside this account is given by its ARN, or named by its address.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from aws_cdk import Aws

from docdb_stream.errors import ConfigError
from docdb_stream.settings import Settings
from docdb_stream.targets import SWITCHES
from infra.plan import FunctionPlan

_QUEUE_PATH_PARTS = 2
_ES_DOMAIN = re.compile(r"^(?:search|vpc)-(.+)-[a-z0-9]{26}\.")
"""The endpoint that OpenSearch Service gives a domain: ``search-NAME-26 characters.region.es.amazonaws.com``."""


@dataclass(frozen=True, slots=True)
class Permission:
    """Actions on resources; ``why_pattern`` justifies resources that are patterns (``*``, ``?``)."""

    actions: tuple[str, ...]
    resources: tuple[str, ...]
    why_pattern: str = ""
    effect: str = "Allow"
    conditions: tuple[tuple[str, dict[str, str]], ...] = ()


def permissions(plan: FunctionPlan) -> list[Permission]:
    """Everything that the function's code does in AWS, besides its alerts and log lines.

    Raises:
        ConfigError: A setting does not tell which resource it is about.
    """
    settings = plan.settings
    found = [*_secrets(settings), *_certificate(settings), *_dead_letters(settings)]
    for target in plan.targets:
        if target in SWITCHES:  # what the target of another package needs is in its own documentation
            found += TARGETS[target](settings, plan)
    if plan.function.kms_keys:
        found.append(Permission(("kms:Decrypt", "kms:GenerateDataKey"), plan.function.kms_keys))
    return found


def network_permissions(function_arn: str) -> list[Permission]:
    """What Lambda needs of the role to put a function into a VPC; its code may not use it.

    See the Lambda developer guide, "Giving Lambda functions access to resources in an Amazon VPC".
    """
    manage = ("ec2:CreateNetworkInterface", "ec2:DeleteNetworkInterface", "ec2:DescribeNetworkInterfaces")
    addresses = ("ec2:AssignPrivateIpAddresses", "ec2:UnassignPrivateIpAddresses")
    look = ("ec2:DescribeSubnets", "ec2:DescribeSecurityGroups", "ec2:DescribeVpcs")
    why = (
        "Describe actions take no resource, and Lambda checks the others before the network interface has a name; the "
        "Deny beside it keeps them from the function's own code."
    )
    by_its_code = (("ArnEquals", {"lambda:SourceFunctionArn": function_arn}),)
    return [
        Permission((*manage, *addresses, *look), ("*",), why),
        Permission((*manage, *addresses), ("*",), why, effect="Deny", conditions=by_its_code),
    ]


def esm_permissions(cluster_arn: str) -> list[Permission]:
    """What Lambda needs of the role to read a cluster's change stream by itself.

    See the Lambda developer guide, "Creating a DocumentDB event source mapping".
    """
    why = "DescribeDBClusterParameters and DescribeDBSubnetGroups are asked about names that only the cluster knows."
    return [
        Permission(("rds:DescribeDBClusters",), (cluster_arn,)),
        Permission(("rds:DescribeDBClusterParameters",), (_arn("rds", "cluster-pg:*"),), why),
        Permission(("rds:DescribeDBSubnetGroups",), (_arn("rds", "subgrp:*"),), why),
    ]


def secret_arns(reference: str) -> tuple[str, ...]:
    """The ARN, or its pattern: Secrets Manager ends each with a hyphen and six random characters that a name does not
    tell. Where they are left out of an ARN it can still end like that (``...:secret:shop-reader``), so then it is both.
    """
    if not reference.startswith("arn:"):
        return (_arn("secretsmanager", f"secret:{reference}-??????"),)
    whole = (reference,) if re.search(r"-[A-Za-z0-9]{6}$", reference) else ()
    return (*whole, f"{reference}-??????")


def _secrets(settings: Settings) -> Iterator[Permission]:
    named = (settings.documentdb_secret, settings.kafka_secret, settings.opensearch_secret)
    arns = tuple(dict.fromkeys(arn for reference in named if reference for arn in secret_arns(reference)))
    if arns:
        why = "Secrets Manager ends an ARN with six random characters; ?????? stands for exactly these."
        yield Permission(("secretsmanager:GetSecretValue",), arns, why)


def _certificate(settings: Settings) -> Iterator[Permission]:
    if settings.documentdb_tls_ca and settings.documentdb_tls_ca.startswith("s3://"):
        parts = urlsplit(settings.documentdb_tls_ca)
        yield Permission(("s3:GetObject",), (_bucket_arn(f"{parts.netloc}/{parts.path.lstrip('/')}"),))


def _dead_letters(settings: Settings) -> Iterator[Permission]:
    place = settings.dead_letters or ""
    if place.startswith("s3://"):
        parts = urlsplit(place)
        yield _objects(parts.netloc, parts.path)
    elif place:
        yield Permission(("sqs:SendMessage",), (_queue_arn(place),))


def _kinesis(settings: Settings, plan: FunctionPlan) -> list[Permission]:
    arn = _named("kinesis", "stream/", settings.kinesis_stream)
    return [Permission(("kinesis:PutRecords", "kinesis:DescribeStreamSummary"), (arn,))]


def _firehose(settings: Settings, plan: FunctionPlan) -> list[Permission]:
    arn = _named("firehose", "deliverystream/", _switch(settings, "firehose"))
    return [Permission(("firehose:PutRecordBatch", "firehose:DescribeDeliveryStream"), (arn,))]


def _sqs(settings: Settings, plan: FunctionPlan) -> list[Permission]:
    arn = _queue_arn(str(settings.sqs_query_url))
    return [Permission(("sqs:SendMessage", "sqs:GetQueueAttributes", "sqs:GetQueueUrl"), (arn,))]


def _sns(settings: Settings, plan: FunctionPlan) -> list[Permission]:
    return [Permission(("sns:Publish", "sns:GetTopicAttributes"), (_switch(settings, "sns"),))]


def _eventbridge(settings: Settings, plan: FunctionPlan) -> list[Permission]:
    arn = _named("events", "event-bus/", _switch(settings, "eventbridge"))
    return [Permission(("events:PutEvents", "events:DescribeEventBus"), (arn,))]


def _s3(settings: Settings, plan: FunctionPlan) -> list[Permission]:
    return [_objects(str(settings.bucket_name), settings.bucket_path)]


def _opensearch(settings: Settings, plan: FunctionPlan) -> list[Permission]:
    host = urlsplit(str(settings.elasticsearch_uri)).hostname or ""
    signed = settings.opensearch_auth == "sigv4" or (
        settings.opensearch_auth is None and not settings.opensearch_secret and host.endswith(".amazonaws.com")
    )
    if not signed:
        return []
    if settings.opensearch_service == "aoss":
        return [Permission(("aoss:APIAccessAll",), (_arn("aoss", f"collection/{host.partition('.')[0]}"),))]
    in_host = _ES_DOMAIN.match(host)
    domain = plan.function.opensearch_domain or (in_host and in_host[1])
    if not domain:
        raise ConfigError(
            f"stream {plan.stream}: elasticsearch_uri does not tell the domain's name",
            hint="name it: opensearch_domain in [deploy]",
        )
    arn = _arn("es", f"domain/{domain}")
    found = [Permission(("es:ESHttpPost",), (f"{arn}/*",), "Each collection has an index, made when first needed.")]
    if settings.opensearch_on_drop == "delete":  # closes the scroll by which a dropped collection's documents are found
        found.append(Permission(("es:ESHttpDelete",), (f"{arn}/_search/scroll",)))
    return found


def _nothing(settings: Settings, plan: FunctionPlan) -> list[Permission]:
    return []


TARGETS: dict[str, Callable[[Settings, FunctionPlan], list[Permission]]] = {
    "kinesis": _kinesis,
    "firehose": _firehose,
    "sqs": _sqs,
    "sns": _sns,
    "eventbridge": _eventbridge,
    "s3": _s3,
    "opensearch": _opensearch,
    "kafka": _nothing,  # signs in by its secret
    "stdout": _nothing,
    "file": _nothing,
}
"""Target name -> what it needs; one entry for each built-in target."""


def _switch(settings: Settings, target: str) -> str:
    return str(getattr(settings, SWITCHES[target]))


def _arn(service: str, resource: str, region: str = Aws.REGION, account: str = Aws.ACCOUNT_ID) -> str:
    return f"arn:{Aws.PARTITION}:{service}:{region}:{account}:{resource}"


def _named(service: str, kind: str, value: Any) -> str:
    """The ARN of something that is given by name or ARN."""
    return str(value) if str(value).startswith("arn:") else _arn(service, f"{kind}{value}")


def _bucket_arn(path: str) -> str:
    return _arn("s3", path, region="", account="")


def _objects(bucket: str, prefix: str) -> Permission:
    prefix = f"{prefix.strip('/')}/" if prefix.strip("/") else ""
    why = "Each object has a key of its own, after its first event or its letter."
    return Permission(("s3:PutObject", "s3:AbortMultipartUpload"), (_bucket_arn(f"{bucket}/{prefix}*"),), why)


def _queue_arn(url: str) -> str:
    """The ARN of the queue at ``https://sqs.REGION.amazonaws.com/ACCOUNT/NAME``."""
    parts = urlsplit(url)
    path = parts.path.strip("/").split("/")
    if len(path) != _QUEUE_PATH_PARTS:
        raise ConfigError(f"{url} is no queue URL", hint="expected https://sqs.REGION.amazonaws.com/ACCOUNT/NAME")
    named = re.match(r"^sqs\.([a-z0-9-]+)\.amazonaws\.com", parts.hostname or "")
    return _arn("sqs", path[1], region=named[1] if named else Aws.REGION, account=path[0])
