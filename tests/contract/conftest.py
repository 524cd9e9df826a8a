from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from docdb_stream.local import AwsServer, KafkaBroker
from docdb_stream.testing.events import ChangeLog

if TYPE_CHECKING:
    from contract.kafka_proxy import KafkaProxy
    from contract.s3_bucket import Bucket


@pytest.fixture
def log() -> ChangeLog:
    """Makes the changes of a collection."""
    return ChangeLog()


@pytest.fixture
def proxy(kafka_broker: KafkaBroker) -> Iterator[KafkaProxy]:
    """The way to the broker, where it can be disturbed."""
    from contract.kafka_proxy import KafkaProxy  # which imports kafka-python: only its tests have that ready

    with KafkaProxy(kafka_broker.port) as started:
        yield started


@pytest.fixture
def bucket(aws: AwsServer) -> Iterator[Bucket]:
    """A new one."""
    from contract.s3_bucket import Bucket

    bucket = Bucket(aws)
    yield bucket
    bucket.client.close()
