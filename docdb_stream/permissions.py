"""What a target may ask of AWS, as plain data: actions on resources, for whoever gives a role its rights.

Owns how ARNs are written. Account, region and partition stand in them as CloudFormation's ``Fn::Sub`` writes them, and
a setting of the function's deployment as ``${name}``: infra fills them in.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from docdb_stream.errors import ConfigError

PARTITION = "${AWS::Partition}"
REGION = "${AWS::Region}"
ACCOUNT = "${AWS::AccountId}"

_QUEUE_PATH_PARTS = 2


@dataclass(frozen=True, slots=True)
class Permission:
    """Actions on resources; ``why_pattern`` justifies resources that are patterns (``*``, ``?``)."""

    actions: tuple[str, ...]
    resources: tuple[str, ...]
    why_pattern: str = ""
    effect: str = "Allow"
    conditions: tuple[tuple[str, dict[str, str]], ...] = ()


def arn(service: str, resource: str, region: str = REGION, account: str = ACCOUNT) -> str:
    """The ARN of a resource, here unless it is said where."""
    return f"arn:{PARTITION}:{service}:{region}:{account}:{resource}"


def named_arn(service: str, kind: str, value: str) -> str:
    """The ARN of something that is given by name or ARN: ``named_arn("kinesis", "stream/", "orders")``."""
    return value if value.startswith("arn:") else arn(service, f"{kind}{value}")


def bucket_arn(path: str) -> str:
    """The ARN of a bucket, or of ``bucket/key``."""
    return arn("s3", path, region="", account="")


def queue_arn(url: str) -> str:
    """The ARN of the queue at ``https://sqs.REGION.amazonaws.com/ACCOUNT/NAME``.

    Raises:
        ConfigError: It is no such URL.
    """
    parts = urlsplit(url)
    path = parts.path.strip("/").split("/")
    if len(path) != _QUEUE_PATH_PARTS:
        raise ConfigError(f"{url} is no queue URL", hint="expected https://sqs.REGION.amazonaws.com/ACCOUNT/NAME")
    named = re.match(r"^sqs\.([a-z0-9-]+)\.amazonaws\.com", parts.hostname or "")
    return arn("sqs", path[1], region=named[1] if named else REGION, account=path[0])


def to_write_objects(bucket: str, prefix: str) -> Permission:
    """What writing objects takes, whose keys begin with ``prefix`` and are not known before."""
    prefix = f"{prefix.strip('/')}/" if prefix.strip("/") else ""
    why = "Each object has a key of its own, after its first event or its letter."
    return Permission(("s3:PutObject", "s3:AbortMultipartUpload"), (bucket_arn(f"{bucket}/{prefix}*"),), why)
