"""Servers that only the matrix has: each is started when the first test asks for it, and stopped at the end."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from matrix.servers.cassandra import Cassandra
from matrix.servers.kafka import ApacheKafka
from matrix.servers.opensearch import OpenSearch


@pytest.fixture(scope="session")
def real_kafka() -> Iterator[ApacheKafka]:
    """An Apache Kafka of one node; topics are created when first used, with four partitions."""
    with ApacheKafka() as started:
        yield started


@pytest.fixture(scope="session")
def cassandra() -> Iterator[Cassandra]:
    """A Cassandra of one node."""
    with Cassandra() as started:
        yield started


@pytest.fixture(scope="session")
def real_opensearch() -> Iterator[OpenSearch]:
    """An OpenSearch of one node."""
    with OpenSearch() as started:
        yield started


@pytest.fixture
def entered() -> Iterator[Callable[[Any], Any]]:
    """Enters a context that lasts as long as the test."""
    with ExitStack() as stack:
        yield stack.enter_context
