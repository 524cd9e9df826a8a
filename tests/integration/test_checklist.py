"""``doctor --checklist`` on servers that are open, and on one that is closed; and what it makes of AWS's answers."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pytest
from typer.testing import CliRunner

from docdb_stream.admin.checklist import account
from docdb_stream.admin.checklist.checklist import checklist
from docdb_stream.admin.checklist.item import Item
from docdb_stream.cli.commands import app
from docdb_stream.local import AwsServer, ReplicaSet, Tls
from docdb_stream.settings import Settings

pytestmark = pytest.mark.integration


def found(settings: Settings) -> dict[str, Item]:
    return {each.what: each for each in checklist(settings)}


def test_an_open_server_fails(replica_set: ReplicaSet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_DEFAULT_REGION", raising=False)
    settings = Settings(documentdb_uri=replica_set.uri, watched_db_name="shop", stdout=True)
    items = found(settings)
    assert items["TLS to the cluster"].verdict == "fail"
    assert items["authorization"].verdict == "fail"
    assert items["clients without TLS"].verdict == "warn"
    assert items["what the stream's user may do"].verdict == "warn"
    assert items["change log"].verdict == "warn"
    assert items["alarms"].verdict == "unknown"
    assert items["stdout: what comes again"].verdict == "warn"
    assert all(each.todo for each in items.values() if each.verdict in ("warn", "fail"))
    environment = {"DOCUMENTDB_URI": replica_set.uri, "WATCHED_DB_NAME": "shop", "STDOUT": "true"}
    done = CliRunner().invoke(app, ["doctor", "--checklist"], env=environment)
    assert done.exit_code == 1
    assert "3 fail" not in done.output.splitlines()[0]
    assert "fail: authorization: set security.authorization" in done.output
    done = CliRunner().invoke(app, ["doctor", "--checklist", "--json"], env=environment)
    [line] = done.stdout.splitlines()
    assert {each["what"] for each in json.loads(line)["checklist"]} == set(items)


@pytest.fixture(scope="module")
def closed(certificates: Tls) -> Iterator[ReplicaSet]:
    with ReplicaSet(username="root", password="r00t", tls=certificates) as started:
        with started.client() as client:
            reads = [{"role": "read", "db": "shop"}, {"role": "readWrite", "db": "docdb_stream"}]
            client.admin.command("createUser", "reader", pwd="p@ss", roles=[*reads, {"role": "read", "db": "local"}])
            client.admin.command("createUser", "writer", pwd="p@ss", roles=[{"role": "readWrite", "db": "shop"}])
        yield started


def as_user(closed: ReplicaSet, name: str) -> str:
    return closed.uri.replace(f"{quote('root')}:{quote('r00t')}@", f"{name}:{quote('p@ss')}@")


@pytest.mark.parametrize(
    ("name", "verdict", "told"), [("reader", "ok", "its own state"), ("writer", "warn", "in shop")]
)
def test_a_closed_server(closed: ReplicaSet, name: str, verdict: str, told: str) -> None:
    items = found(Settings(documentdb_uri=as_user(closed, name), watched_db_name="shop", stdout=True))
    assert items["TLS to the cluster"].verdict == "ok"
    assert items["authorization"].verdict == "ok"
    assert items["clients without TLS"].verdict == "ok"
    assert items["passwords"].verdict == "fail"
    assert items["what the stream's user may do"].verdict == verdict
    assert told in items["what the stream's user may do"].told
    assert "p@ss" not in str(items)
    assert quote("p@ss") not in str(items)


def test_root_may_too_much(closed: ReplicaSet) -> None:
    items = found(Settings(documentdb_uri=closed.uri, watched_db_name="shop", stdout=True))
    assert "role root" in items["what the stream's user may do"].told


def test_a_cluster_that_is_not_there() -> None:
    uri = "mongodb://127.0.0.1:1/?replicaSet=rs0&serverSelectionTimeoutMS=300"
    items = found(Settings(documentdb_uri=uri, watched_db_name="shop", stdout=True))
    assert items["the cluster"].verdict == "unknown"
    assert "events that are refused" in items


class Account:
    """Answers of the services that the local account has not got, or not so."""

    def __init__(self, **answers: Any) -> None:
        self.answers = answers

    def __call__(self, name: str, region: str | None = None) -> Account:
        return self

    @property
    def client(self) -> Account:
        return self

    def __getattr__(self, name: str) -> Any:
        def answer(**given: Any) -> Any:
            found = self.answers[name]
            if isinstance(found, Exception):
                raise found
            return found

        return answer

    def get_paginator(self, name: str) -> Any:
        return type("Pages", (), {"paginate": lambda self_, **given: [self.answers[name]]})()

    def close(self) -> None:
        pass


DOCUMENTDB = "shop.cluster-abc123.eu-central-1.docdb.amazonaws.com"


def of_documentdb(monkeypatch: pytest.MonkeyPatch, log_s: str = "259200", **cluster: Any) -> dict[str, Item]:
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-central-1")
    now = dt.datetime.now(dt.UTC)
    given = {
        "BackupRetentionPeriod": 7,
        "LatestRestorableTime": now - dt.timedelta(minutes=4),
        "DeletionProtection": True,
        "StorageEncrypted": True,
        "DBClusterParameterGroup": "shop",
    }
    heard = {"ActionsEnabled": True, "AlarmActions": ["arn"]}
    answers = Account(
        describe_db_clusters={"DBClusters": [{**given, **cluster}]},
        describe_db_cluster_parameters={
            "Parameters": [{"ParameterName": "change_stream_log_retention_duration", "ParameterValue": log_s}]
        },
        describe_alarms_for_metric={"MetricAlarms": [heard]},
        describe_secret={"RotationEnabled": False},
    )
    monkeypatch.setattr(account, "Service", answers)
    settings = Settings(
        documentdb_uri=DOCUMENTDB, documentdb_secret="docdb/reader", watched_db_name="shop", stdout=True
    )
    return {each.what: each for each in account.of_account(settings)}


def test_what_documentdb_says_of_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    items = of_documentdb(monkeypatch)
    verdicts = {name: each.verdict for name, each in items.items()}
    assert verdicts == {
        "backups of the source": "ok",
        "deletion protection of the source": "ok",
        "encryption of the source's storage": "ok",
        "change log": "ok",
        "rotation of the secret": "warn",
        "alerts": "fail",
        "alarm on Lag": "ok",
        "alarm on RetentionHeadroom": "ok",
    }
    old = dt.datetime.now(dt.UTC) - dt.timedelta(hours=5)
    bad = of_documentdb(
        monkeypatch, "10800", LatestRestorableTime=old, DeletionProtection=False, StorageEncrypted=False
    )
    verdicts = {name: each.verdict for name, each in bad.items()}
    assert verdicts["backups of the source"] == "fail"
    assert verdicts["deletion protection of the source"] == "fail"
    assert verdicts["encryption of the source's storage"] == "fail"
    assert verdicts["change log"] == "warn"
    assert of_documentdb(monkeypatch, BackupRetentionPeriod=1)["backups of the source"].verdict == "warn"


def test_a_bucket_and_a_table(aws: AwsServer, aws_environment: dict[str, str], replica_set: ReplicaSet) -> None:
    s3, dynamodb = aws.client("s3"), aws.client("dynamodb")
    s3.create_bucket(Bucket="checklist-open")
    s3.create_bucket(Bucket="checklist-closed")
    s3.put_bucket_versioning(Bucket="checklist-closed", VersioningConfiguration={"Status": "Enabled"})
    names = ("BlockPublicAcls", "IgnorePublicAcls", "BlockPublicPolicy", "RestrictPublicBuckets")
    closed = dict.fromkeys(names, True)
    s3.put_public_access_block(Bucket="checklist-closed", PublicAccessBlockConfiguration=closed)
    key = {"AttributeName": "_id", "KeyType": "HASH"}
    attribute = {"AttributeName": "_id", "AttributeType": "S"}
    dynamodb.create_table(
        TableName="checklist", KeySchema=[key], AttributeDefinitions=[attribute], BillingMode="PAY_PER_REQUEST"
    )
    given = {"documentdb_uri": replica_set.uri, "watched_db_name": "shop", "dynamodb_table": "checklist"}
    for name, verdict in (("checklist-open", "warn"), ("checklist-closed", "ok")):
        items = {each.what: each for each in account.of_account(Settings(**given, bucket_name=name))}
        assert items[f"versions in bucket {name}"].verdict == verdict
        assert items[f"bucket {name} is closed to the public"].verdict == ("ok" if verdict == "ok" else "fail")
        assert items["recovery of table checklist"].verdict == "warn"
