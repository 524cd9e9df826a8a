"""What the AWS account tells: the cluster's backups, alarms, and the buckets, tables and queues that are written to."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Iterator
from functools import partial
from typing import Any, Final

from docdb_stream.admin.checklist.cluster import change_log_of
from docdb_stream.admin.checklist.item import Item, seen
from docdb_stream.aws import Service, error_code, request_errors, session
from docdb_stream.metrics import NAMESPACE
from docdb_stream.settings import Settings
from docdb_stream.targets.dynamodb import DynamoSettings
from docdb_stream.targets.s3 import S3Settings
from docdb_stream.targets.sqs import SqsSettings

_DOCUMENTDB: Final = re.compile(r"([a-z0-9-]+)\.cluster(?:-ro)?-[a-z0-9]+\.([a-z0-9-]+)\.docdb\.amazonaws\.com")
"""An endpoint of a cluster (DocumentDB developer guide, "Understanding Amazon DocumentDB endpoints")."""
_RETENTION: Final = "change_stream_log_retention_duration"
_BACKUP_DAYS: Final = 7
_BACKUP_AGE_S: Final = 3600
"""DocumentDB restores to any time up to five minutes ago (developer guide, "Backing up and restoring")."""
_MESSAGES_KEPT_S: Final = 4 * 86_400
"""What SQS keeps by default, which is the least that outlasts a weekend."""
_WATCHED: Final = ("Lag", "RetentionHeadroom")


def of_account(settings: Settings) -> Iterator[Item]:
    """The rows that AWS can answer, as far as the settings name something of it."""
    if found := _DOCUMENTDB.search(settings.documentdb_uri):
        yield from _documentdb(settings, *found.groups())
    else:
        todo = "mongodump --oplog or snapshots, to another account, each day; read them back each month"
        yield Item(
            "recovery", "backups of the source", "unknown", "no cluster of DocumentDB, which could be asked", todo
        )
    yield from _rotation(settings)
    yield from _alarms(settings)
    for name, items in (("s3", _bucket), ("dynamodb", _tables), ("sqs", _queue)):
        if name in settings.targets and settings.targets[name].is_on:
            yield from items(settings)


def _documentdb(settings: Settings, name: str, region: str) -> Iterator[Item]:
    service = Service("docdb", region)
    unseen = Item("recovery", "backups of the source", "unknown", "", "let the caller rds:DescribeDBClusters")
    cluster: dict[str, Any] = {}

    def backups() -> Item:
        cluster.update(service.client.describe_db_clusters(DBClusterIdentifier=name)["DBClusters"][0])
        return _backups(cluster)

    yield from seen(backups, unseen, (*request_errors(), LookupError))
    if cluster:
        protected, encrypted = cluster.get("DeletionProtection"), cluster.get("StorageEncrypted")
        yield _either("recovery", "deletion protection of the source", bool(protected), "switch it on")
        todo = "restore a snapshot into a cluster with encryption: it cannot be switched on"
        yield _either("security", "encryption of the source's storage", bool(encrypted), todo)
        group = cluster.get("DBClusterParameterGroup", "")
        length = Item("recovery", "change log", "unknown", "", "let the caller rds:DescribeDBClusterParameters")
        yield from seen(
            partial(_retention, settings, service, group), length, (*request_errors(), LookupError, ValueError)
        )
    service.close()


def _backups(cluster: dict[str, Any]) -> Item:
    days, latest = cluster.get("BackupRetentionPeriod", 0), cluster.get("LatestRestorableTime")
    what = "backups of the source"
    if latest is None:
        return Item("recovery", what, "fail", "there is none to restore", "set BackupRetentionPeriod")
    age_s = (dt.datetime.now(dt.UTC) - latest).total_seconds()
    told = f"kept for {days} days, the latest {age_s / 60:.0f} min old"
    if age_s > _BACKUP_AGE_S:
        return Item("recovery", what, "fail", told, "look at the cluster's events: backups do not succeed")
    if days < _BACKUP_DAYS:
        return Item("recovery", what, "warn", told, f"keep them {_BACKUP_DAYS} days or more, and one copy elsewhere")
    return Item("recovery", what, "ok", told)


def _retention(settings: Settings, service: Service, group: str) -> Item:
    pages = service.client.get_paginator("describe_db_cluster_parameters").paginate(DBClusterParameterGroupName=group)
    values = {each["ParameterName"]: each.get("ParameterValue") for page in pages for each in page["Parameters"]}
    return change_log_of(settings, float(values[_RETENTION]))


def _rotation(settings: Settings) -> Iterator[Item]:
    secret = settings.documentdb_secret
    if secret is None or secret.partition(":")[0] in ("env", "file"):
        return

    def look() -> Item:
        found = service.client.describe_secret(SecretId=secret)
        return _either("security", "rotation of the secret", bool(found.get("RotationEnabled")), "switch it on", "warn")

    service = Service("secretsmanager", secret.split(":")[3] if secret.startswith("arn:") else None)
    unseen = Item("security", "rotation of the secret", "unknown", "", "let the caller secretsmanager:DescribeSecret")
    yield from seen(look, unseen, request_errors())
    service.close()


def _alarms(settings: Settings) -> Iterator[Item]:
    topic = settings.sns_topic_arn_alert
    yield _either("monitoring", "alerts", topic is not None, "set SNS_TOPIC_ARN_ALERT, and subscribe to it")
    if session().region_name is None:
        todo = "outside of AWS: docdb-stream status --json has lag and position; watch them"
        yield Item("monitoring", "alarms", "unknown", "no region of AWS is configured", todo)
        return
    service = Service("cloudwatch")
    for metric in _WATCHED:
        unseen = Item("monitoring", f"alarm on {metric}", "unknown", "", "let the caller cloudwatch:DescribeAlarms*")
        yield from seen(partial(_alarm, settings, service, metric), unseen, request_errors())
    service.close()


def _alarm(settings: Settings, service: Service, metric: str) -> Item:
    found = service.client.describe_alarms_for_metric(
        Namespace=NAMESPACE,
        MetricName=metric,
        Dimensions=[{"Name": "stream", "Value": settings.stream_name}],
    )["MetricAlarms"]
    heard = [each for each in found if each.get("ActionsEnabled", True) and each.get("AlarmActions")]
    todo = "infra/ makes it; or make one that tells somebody"
    if found and not heard:
        return Item("monitoring", f"alarm on {metric}", "warn", "it tells nobody", todo)
    return _either("monitoring", f"alarm on {metric}", bool(heard), todo)


def _bucket(settings: Settings) -> Iterator[Item]:
    name = settings.of(S3Settings).where
    service = Service("s3")

    def versioned() -> Item:
        on = service.client.get_bucket_versioning(Bucket=name).get("Status") == "Enabled"
        return _either("recovery", f"versions in bucket {name}", on, "switch versioning on", "warn")

    def closed() -> Item:
        try:
            blocks = service.client.get_public_access_block(Bucket=name)["PublicAccessBlockConfiguration"]
        except request_errors() as error:
            if error_code(error) != "NoSuchPublicAccessBlockConfiguration":
                raise
            blocks = {"none": False}
        return _either(
            "security", f"bucket {name} is closed to the public", all(blocks.values()), "block public access"
        )

    for look, what in ((versioned, f"versions in bucket {name}"), (closed, f"bucket {name} is closed to the public")):
        unseen = Item("security", what, "unknown", "", "let the caller s3:GetBucket*, or look in the console")
        yield from seen(look, unseen, (*request_errors(), LookupError))
    service.close()


def _tables(settings: Settings) -> Iterator[Item]:
    name = settings.of(DynamoSettings).where
    if "{" in name:
        todo = "switch point-in-time recovery on for each table"
        yield Item("recovery", "recovery of DynamoDB", "unknown", f"the tables are many: {name}", todo)
        return
    service = Service("dynamodb")

    def look() -> Item:
        found = service.client.describe_continuous_backups(TableName=name)["ContinuousBackupsDescription"]
        on = found["PointInTimeRecoveryDescription"]["PointInTimeRecoveryStatus"] == "ENABLED"
        todo = "switch point-in-time recovery on; or rebuild the table by a snapshot"
        return _either("recovery", f"recovery of table {name}", on, todo, "warn")

    unseen = Item(
        "recovery", f"recovery of table {name}", "unknown", "", "let the caller dynamodb:DescribeContinuousBackups"
    )
    yield from seen(look, unseen, (*request_errors(), LookupError))
    service.close()


def _queue(settings: Settings) -> Iterator[Item]:
    url = settings.of(SqsSettings).where
    service = Service("sqs")

    def look() -> Item:
        names = ["MessageRetentionPeriod"]
        kept_s = int(service.client.get_queue_attributes(QueueUrl=url, AttributeNames=names)["Attributes"][names[0]])
        is_long = kept_s >= _MESSAGES_KEPT_S
        told = f"{kept_s / 86_400:.1f} days"
        item = _either("recovery", "messages in the queue are kept", is_long, "keep them four days or more", "warn")
        return Item(item.area, item.what, item.verdict, told, item.todo)

    unseen = Item("recovery", "messages in the queue are kept", "unknown", "", "let the caller sqs:GetQueueAttributes")
    yield from seen(look, unseen, (*request_errors(), LookupError, ValueError))
    service.close()


def _either(area: Any, what: str, is_so: bool, todo: str, otherwise: Any = "fail") -> Item:
    return Item(area, what, "ok", "yes") if is_so else Item(area, what, otherwise, "no", todo)
