"""Servers shared by the whole suite: each is started when the first test asks for it, and stopped at the end."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from typing import Any

import pytest
from pymongo import MongoClient

from docdb_stream.local import AwsServer, ReplicaSet
from docdb_stream.settings import Settings

_numbers = itertools.count(1)


@pytest.fixture(scope="session", autouse=True)
def _no_settings_from_outside() -> None:
    """The environment of whoever runs the tests names no cluster and no account that a test could meet by accident."""
    for name in list(os.environ):
        if name.lower() in Settings.model_fields or name.startswith("AWS_"):
            del os.environ[name]


@pytest.fixture(scope="session")
def replica_set() -> Iterator[ReplicaSet]:
    """A MongoDB replica set of one member."""
    with ReplicaSet(set_parameters={"periodicNoopIntervalSecs": 1}) as started:
        yield started


@pytest.fixture(scope="session")
def mongo(replica_set: ReplicaSet) -> Iterator[MongoClient[dict[str, Any]]]:
    """A client of the replica set."""
    with replica_set.client() as client:
        yield client


@pytest.fixture
def db_name() -> str:
    """The name of a database that no other test uses."""
    return f"db{next(_numbers)}"


@pytest.fixture(scope="session")
def aws() -> Iterator[AwsServer]:
    """A local AWS account."""
    with AwsServer() as started:
        yield started


@pytest.fixture
def aws_environment(aws: AwsServer, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The variables with which boto3 finds the account, set for this test."""
    environment = aws.environment()
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    return environment
