from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from docdb_stream.local import KafkaBroker
from docdb_stream.testing.events import ChangeLog

if TYPE_CHECKING:
    from contract.kafka_proxy import KafkaProxy


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
