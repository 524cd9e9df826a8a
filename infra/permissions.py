"""What a function may do: exactly what its stream and targets need, on exactly those resources.

Owns what is not a target's: secrets, certificates, dead letters, keys, the network. What a target needs, its class
says; here it is filled in where the resources are. A resource outside this account is given by its ARN, or named by its
address.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from urllib.parse import urlsplit

from aws_cdk import Aws

from docdb_stream.errors import ConfigError
from docdb_stream.load import redshift_wire
from docdb_stream.load.redshift_data import DataApi
from docdb_stream.permissions import (
    ACCOUNT,
    PARTITION,
    REGION,
    Permission,
    arn,
    bucket_arn,
    queue_arn,
    to_write_objects,
)
from docdb_stream.registry import target_class
from docdb_stream.settings import Settings
from docdb_stream.settings.model import Reference
from docdb_stream.targets.s3 import S3Settings
from infra.plan import FunctionPlan
from infra.settings import FunctionSettings, marked_values

_HERE = {PARTITION: Aws.PARTITION, REGION: Aws.REGION, ACCOUNT: Aws.ACCOUNT_ID}
_OF_THE_DEPLOYMENT = re.compile(r"\$\{(\w+)\}")


def permissions(plan: FunctionPlan) -> list[Permission]:
    """Everything that the function's code does in AWS, besides its alerts and log lines; to be ``filled_in``.

    Raises:
        ConfigError: A setting does not tell which resource it is about.
    """
    settings = plan.settings
    if plan.work == "loads":
        return [*_of_load(settings), *_keys(plan)]
    found = [*_secrets(settings), *_certificate(settings), *_dead_letters(settings)]
    for target in plan.targets:
        found += _of_target(target, settings)
    return [*found, *_keys(plan)]


def filled_in(permission: Permission, plan: FunctionPlan) -> Permission:
    """The permission with what its resources leave open: where it is deployed, and the function's settings.

    Raises:
        ConfigError: One of these is not set.
    """
    return replace(permission, resources=tuple(_resource(each, plan) for each in permission.resources))


def _resource(text: str, plan: FunctionPlan) -> str:
    def setting(match: re.Match[str]) -> str:
        if match[1] not in FunctionSettings.model_fields:
            return match[0]
        value = getattr(plan.function, match[1])
        if not value:
            raise ConfigError(
                f"stream {plan.stream}: its settings do not tell {match[1]}, which its permissions are about",
                hint=f"name it: {match[1]} in [deploy]",
            )
        return str(value)

    for name, here in _HERE.items():
        text = text.replace(name, here)
    return _OF_THE_DEPLOYMENT.sub(setting, text)


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
        Permission(("rds:DescribeDBClusterParameters",), (arn("rds", "cluster-pg:*"),), why),
        Permission(("rds:DescribeDBSubnetGroups",), (arn("rds", "subgrp:*"),), why),
    ]


def dynamodb_permission(stream_arn: str) -> Permission:
    """What Lambda needs of the role to read a DynamoDB stream by itself.

    See the Lambda developer guide, "Using AWS Lambda with Amazon DynamoDB".
    """
    read = ("dynamodb:DescribeStream", "dynamodb:GetRecords", "dynamodb:GetShardIterator", "dynamodb:ListStreams")
    return Permission(read, (stream_arn,))


def secret_arns(reference: str) -> tuple[str, ...]:
    """The ARN, or its pattern: Secrets Manager ends each with a hyphen and six random characters that a name does not
    tell. Where they are left out of an ARN it can still end like that (``...:secret:shop-reader``), so then it is both.
    """
    if not reference.startswith("arn:"):
        return (arn("secretsmanager", f"secret:{reference}-??????"),)
    whole = (reference,) if re.search(r"-[A-Za-z0-9]{6}$", reference) else ()
    return (*whole, f"{reference}-??????")


def _of_target(name: str, settings: Settings) -> list[Permission]:
    """What its class says. That of another package may say nothing, not be installed here, or extend one of ours and
    find by itself where it writes to: then nothing."""
    try:
        found = target_class(name)
    except ConfigError:
        return []
    model = getattr(found, "settings_model", None)
    is_elsewhere = model is not None and model.switch and not settings.of(model).is_on
    return [] if is_elsewhere or not hasattr(found, "permissions") else list(found.permissions(settings))


def _of_load(settings: Settings) -> Iterator[Permission]:
    """What a load does: read manifests and files, and, for Redshift, put what it copies beside them for a moment."""
    own = settings.of(S3Settings)
    path = own.bucket_path
    why = "Names of objects hold times and checkpoints; those below the stream's own path are meant."
    yield Permission(("s3:ListBucket",), (bucket_arn(own.where),))
    yield Permission(("s3:GetObject",), (bucket_arn(f"{own.where}/{path}*"),), why)
    warehouse = settings.warehouse_uri or ""
    if warehouse.startswith("redshift"):
        copied = (bucket_arn(f"{own.where}/{path}_load/*"),)
        yield Permission(("s3:PutObject", "s3:DeleteObject"), copied, why)
    if warehouse.startswith("redshift://"):
        yield from redshift_wire.permissions(warehouse)
    if warehouse.startswith("redshift-data://"):
        yield from DataApi(warehouse, secret=settings.warehouse_secret).permissions()
    if settings.warehouse_secret:
        ends = "Secrets Manager ends an ARN with six random characters; ?????? stands for exactly these."
        yield Permission(("secretsmanager:GetSecretValue",), secret_arns(settings.warehouse_secret), ends)


def _keys(plan: FunctionPlan) -> Iterator[Permission]:
    if plan.function.kms_keys:
        yield Permission(("kms:Decrypt", "kms:GenerateDataKey"), plan.function.kms_keys)


def _secrets(settings: Settings) -> Iterator[Permission]:
    references = (reference for _, _, reference in marked_values(settings, Reference))
    arns = tuple(dict.fromkeys(each for reference in references for each in secret_arns(reference)))
    if arns:
        why = "Secrets Manager ends an ARN with six random characters; ?????? stands for exactly these."
        yield Permission(("secretsmanager:GetSecretValue",), arns, why)


def _certificate(settings: Settings) -> Iterator[Permission]:
    if settings.documentdb_tls_ca and settings.documentdb_tls_ca.startswith("s3://"):
        parts = urlsplit(settings.documentdb_tls_ca)
        yield Permission(("s3:GetObject",), (bucket_arn(f"{parts.netloc}/{parts.path.lstrip('/')}"),))


def _dead_letters(settings: Settings) -> Iterator[Permission]:
    letters = settings.dead_letters or ""
    if letters.startswith("s3://"):
        parts = urlsplit(letters)
        yield to_write_objects(parts.netloc, parts.path)
    elif letters:
        yield Permission(("sqs:SendMessage",), (queue_arn(letters),))
